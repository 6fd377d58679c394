// Package sqlitevfs lets SQLite keep databases in a pmemfs pool, as a VFS of github.com/ncruces/go-sqlite3, which is SQLite
// without cgo.
//
//	sqlitevfs.Register("pmemfs", fsys)
//	db, err := sql.Open("sqlite3", "file:/orders.db?vfs=pmemfs&_pragma=journal_mode(wal)")
//
// # Durability
//
// What SQLite has synced is durable, on every medium. With synchronous=FULL, the default, that is every transaction.
//
// Databases and write-ahead logs are read and written through mappings, in blocks that were allocated and filled before: in WAL
// mode, which is recommended, a commit is a copy of its pages to the log, the flush of their lines, and a fence: no system call, no
// request. Rollback journals are written by calls. So while a database or a log is open, and after a
// crash, its file is longer than what was written to it: zeros follow, as behind a database with a chunk size. The last
// Close cuts them off.
//
// # Locks and the WAL-index
//
// Any number of connections of one process use a database at the same time, in every journal mode, by one registered VFS. A
// second process that opens it through the same server gets SQLITE_BUSY, with the first one's process ID where that is
// known, until the first has closed it or has ended: the lock is a pin on the block of a file beside the database, NAME-lock.
// The WAL-index is in the host's memory, in a directory of the user's own: /dev/shm/pmemfs-sqlite-UID.
//
// # Limits
//
// Databases are not memory-mapped by SQLite itself (PRAGMA mmap_size is 0). A database that is open must not be renamed,
// removed or changed by other means. Temporary files are the default VFS's.
package sqlitevfs
