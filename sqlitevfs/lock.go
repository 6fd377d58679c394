package sqlitevfs

import (
	"sync"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
)

// lockState is who of this process's connections has a database locked: https://sqlite.org/lockingv3.html.
//
// Invariant: readers counts all connections with a lock of SHARED or more; at most one of them has reserved, and pending is
// set only while it has.
type lockState struct {
	sync.Mutex
	readers  int  // protected by Mutex
	reserved bool // protected by Mutex
	pending  bool // protected by Mutex
}

// Lock raises the connection's lock, or returns BUSY at once.
func (f *file) Lock(level vfs.LockLevel) error {
	if f.level >= level {
		return nil
	}
	if f.readOnly && level >= vfs.LOCK_RESERVED {
		return sqlite3.IOERR_LOCK
	}
	s := &f.locks
	s.Lock()
	defer s.Unlock()
	switch level {
	case vfs.LOCK_SHARED:
		if s.pending {
			return sqlite3.BUSY
		}
		s.readers++
	case vfs.LOCK_RESERVED:
		if s.reserved {
			return sqlite3.BUSY
		}
		s.reserved = true
	case vfs.LOCK_EXCLUSIVE:
		if f.level < vfs.LOCK_RESERVED && s.reserved {
			return sqlite3.BUSY
		}
		s.reserved, s.pending = true, true
		f.level = vfs.LOCK_PENDING
		if s.readers > 1 {
			return sqlite3.BUSY
		}
	}
	f.level = level
	return nil
}

// Unlock lowers the connection's lock to SHARED or NONE.
func (f *file) Unlock(level vfs.LockLevel) error {
	if f.level <= level {
		return nil
	}
	s := &f.locks
	s.Lock()
	defer s.Unlock()
	if f.level >= vfs.LOCK_RESERVED {
		s.reserved, s.pending = false, false
	}
	if level == vfs.LOCK_NONE {
		s.readers--
	}
	f.level = level
	return nil
}

func (f *file) CheckReservedLock() (bool, error) {
	f.locks.Lock()
	defer f.locks.Unlock()
	return f.locks.reserved, nil
}

func (f *file) LockState() vfs.LockLevel { return f.level }
