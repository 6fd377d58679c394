package sqlitevfs

import (
	"errors"

	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/pmemfs/pmemfs"
)

// file is one connection's use of a database or its write-ahead log.
type file struct {
	*store
	readOnly bool
	level    vfs.LockLevel
	index    vfs.SharedMemory // nil: it has none
	keepWAL  bool
	closed   bool
}

var (
	_ vfs.FileLockState    = (*file)(nil)
	_ vfs.FilePersistWAL   = (*file)(nil)
	_ vfs.FileSharedMemory = (*file)(nil)
)

func (f *file) Close() error {
	if f.closed {
		return nil
	}
	f.closed = true
	var err error
	if f.index != nil {
		err = f.index.Close()
	}
	err = errors.Join(err, f.Unlock(vfs.LOCK_NONE))
	f.owner.mu.Lock()
	defer f.owner.mu.Unlock()
	f.users--
	return errors.Join(err, f.owner.release(f.store))
}

func (f *file) ReadAt(p []byte, off int64) (int, error)  { return f.readAt(p, off) }
func (f *file) WriteAt(p []byte, off int64) (int, error) { return f.writeAt(p, off) }
func (f *file) Truncate(size int64) error                { return f.truncate(size) }
func (f *file) Sync(vfs.SyncFlag) error                  { return f.persist() }
func (f *file) Size() (int64, error)                     { return f.fileSize() }

func (f *file) SectorSize() int                                 { return sectorSize }
func (f *file) DeviceCharacteristics() vfs.DeviceCharacteristic { return characteristics }

func (f *file) SharedMemory() vfs.SharedMemory { return f.index }
func (f *file) PersistWAL() bool               { return f.keepWAL }
func (f *file) SetPersistWAL(keep bool)        { f.keepWAL = keep }

const (
	// sectorSize is the least that SQLite reckons with. Lines are smaller.
	sectorSize = 512

	// characteristics are those that are true on every medium. A store changes no byte beside it, whatever is lost; a file
	// that grows by a call has what was written there when it is longer, and one that grows ahead has zeros; parts of pages
	// can be read. There is no more atomicity than that of aligned 8 bytes, and no order among stores that were not synced.
	characteristics = vfs.IOCAP_POWERSAFE_OVERWRITE | vfs.IOCAP_SAFE_APPEND | vfs.IOCAP_SUBPAGE_READ
)

// journal is a rollback journal or super-journal, of one connection.
type journal struct{ *pmemfs.File }

func (j *journal) WriteAt(p []byte, off int64) (int, error) {
	n, err := j.File.WriteAt(p, off)
	return n, writeError(err)
}

func (j *journal) Sync(vfs.SyncFlag) error { return j.File.Sync() }

func (j *journal) Size() (int64, error) {
	fi, err := j.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

func (j *journal) SectorSize() int                                 { return sectorSize }
func (j *journal) DeviceCharacteristics() vfs.DeviceCharacteristic { return characteristics }

// Nobody locks a journal: the database's lock is its lock.
func (j *journal) Lock(vfs.LockLevel) error         { return nil }
func (j *journal) Unlock(vfs.LockLevel) error       { return nil }
func (j *journal) CheckReservedLock() (bool, error) { return false, nil }
