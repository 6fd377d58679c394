// Package pebblevfs lets Pebble keep its database in a pmemfs pool: [New] makes a vfs.FS of a *pmemfs.FS.
//
//	opts := &pebble.Options{FS: pebblevfs.New(fsys)}
//	db, err := pebble.Open("orders", opts)
//
// # Durability
//
// What Sync or SyncData of a file has returned for is durable, on every medium; so is a directory entry, once Sync of its
// directory has returned. On byte-addressable media with commit policy op the latter is so when the operation returns.
//
// The write-ahead log is written through a mapping, in blocks that were allocated, filled and made part of the file before:
// a commit is a copy, the flush of the lines, and a fence: no system call, no request, no transaction of pmemfs's journal.
// (Behind a page cache, or without a server under another commit policy than op, it is a Mapping.Sync.) Each window of the
// log, 64 KiB at first and up to 4 MiB, costs a truncate, a Map and an Unmap. A log that Pebble reuses has its blocks already.
//
// So a log that is being written, and one that a crash has left, is longer than what was written to it: zeros follow, which
// Pebble takes for the end of the log, as it takes what an earlier use has left there. Close cuts them off; Stat of the
// open file does not count them. A log is reused when it has been closed, as Pebble does: two open files of one log do not
// know of each other.
//
// All other files that are created are written in steps of 256 KiB, or what there is when they are synced, read or closed:
// only then others see it.
//
// # Reading
//
// Files that were opened by Open are read through a mapping: a read is a copy. Where a file cannot be mapped, or a part of it
// is gone, it is read by calls.
//
// # Locks
//
// Lock excludes others in this process, by the name; and every other client of the same server, in whatever process or
// container it is. The lock is a pin on the block of the lock's file, which ends with the process that holds it, however
// that ends; and who of several is first is decided by a publish of a token to it. An embedded pool has one owner, who is
// alone. Names are compared as they are: two names of one file are two locks, if no server is between.
package pebblevfs
