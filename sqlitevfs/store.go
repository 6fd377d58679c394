package sqlitevfs

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"sync"
	"syscall"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/adapter"
)

// store is a file that is read and written through mappings, of all connections of this process that have it open.
//
// Invariant: physical is the file's size, and at least size, which is the one that SQLite knows; between the two are zeros.
// Every byte that was stored since the last sync is in dirty.
type store struct {
	owner    *fileSystem
	name     string
	file     *pmemfs.File
	readOnly bool
	lock     io.Closer
	users    int // protected by owner.mu

	mapping  sync.RWMutex      // held shared while bytes are copied
	pieces   []*pmemfs.Mapping // protected by mapping; nil: not mapped yet
	physical int64             // protected by mapping

	state   sync.Mutex
	size    int64  // protected by state
	dirty   []span // protected by state
	pending bool   // protected by state: something was done by a call since the last sync

	locks lockState
}

// span is a range of bytes of a file.
type span struct{ off, end int64 }

const (
	firstPiece = 64 << 10
	largePiece = 4 << 20
)

// piece returns which part of the file is mapped for a byte. The first one is small, because many databases are; the next
// ones double the file, as long as that is less than 4 MiB.
func piece(off int64) (i int, start, end int64) {
	if off >= largePiece {
		start = off / largePiece * largePiece
		return bits.Len(largePiece/firstPiece) - 1 + int(off/largePiece), start, start + largePiece
	}
	i = bits.Len64(uint64(off / firstPiece))
	end = firstPiece << i
	if i > 0 {
		start = end / 2
	}
	return i, start, end
}

func openStore(s *fileSystem, name string, flags vfs.OpenFlag) (*store, error) {
	st := &store{owner: s, name: name, pending: true}
	var err error
	if flags&vfs.OPEN_MAIN_DB != 0 && s.fsys.Info().Socket != "" && !s.fsys.Info().ReadOnly {
		if st.lock, err = adapter.Lock(s.fsys, name+"-lock"); err != nil {
			return nil, vfs.SystemError(fmt.Errorf("open %s: %w: one process at a time has a database", name, err), sqlite3.BUSY)
		}
	}
	st.file, err = s.fsys.OpenFile(name, openFlags(flags|vfs.OPEN_READWRITE), 0o666)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		st.readOnly = true
		st.file, err = s.fsys.OpenFile(name, os.O_RDONLY, 0)
	}
	if err == nil {
		var fi fs.FileInfo
		if fi, err = st.file.Stat(); err == nil {
			st.size, st.physical = fi.Size(), fi.Size()
			return st, nil
		}
	}
	return nil, errors.Join(err, st.close())
}

// suffix tells databases of one name in several directories apart.
func (s *store) suffix() string {
	h := fnv.New64a()
	io.WriteString(h, s.name)
	return fmt.Sprintf("-%016x-shm", h.Sum64())
}

// close cuts off what was allocated ahead.
func (s *store) close() error {
	var errs []error
	for _, m := range s.pieces {
		if m != nil {
			errs = append(errs, m.Unmap())
		}
	}
	if s.file != nil {
		if s.size < s.physical {
			errs = append(errs, s.file.Truncate(s.size))
		}
		errs = append(errs, s.file.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// mapPiece maps a part of the file and, to write to it, makes the file as long as the part.
func (s *store) mapPiece(off int64, write bool) error {
	i, start, end := piece(off)
	s.mapping.Lock()
	defer s.mapping.Unlock()
	grown := write && s.physical < end
	if grown {
		if err := s.file.Truncate(end); err != nil {
			return err
		}
		s.physical = end
	}
	for len(s.pieces) <= i {
		s.pieces = append(s.pieces, nil)
	}
	if m := s.pieces[i]; m != nil {
		if grown {
			return m.Populate(0, len(m.Bytes()))
		}
		return nil
	}
	m, err := s.mapRange(start, end-start)
	if err == nil {
		s.pieces[i] = m
	}
	return err
}

func (s *store) mapRange(off, n int64) (*pmemfs.Mapping, error) {
	if s.readOnly {
		return s.file.Map(off, int(n), pmemfs.Shared|pmemfs.ReadOnly)
	}
	return s.owner.mappings.Map(s.file, off, n)
}

// access calls f with the mapped bytes from off on, n of them or fewer, and returns their number. An error says that they
// are not mapped, and cannot be.
func (s *store) access(off int64, n int, write bool, f func([]byte)) (int, error) {
	i, start, end := piece(off)
	n = int(min(int64(n), end-off))
	for range 2 {
		s.mapping.RLock()
		if i < len(s.pieces) && s.pieces[i] != nil && off+int64(n) <= s.physical {
			m := s.pieces[i]
			err := pmemfs.Catch(func() { f(m.Bytes()[off-start:][:n]) })
			s.mapping.RUnlock()
			return n, err
		}
		s.mapping.RUnlock()
		if err := s.mapPiece(off, write); err != nil {
			return 0, err
		}
	}
	return 0, io.ErrUnexpectedEOF // it was truncated meanwhile
}

func (s *store) readAt(p []byte, off int64) (int, error) {
	size, _ := s.fileSize()
	want := int(max(min(int64(len(p)), size-off), 0))
	done := 0
	for done < want {
		n, err := s.access(off+int64(done), want-done, false, func(b []byte) { copy(p[done:], b) })
		if err != nil {
			n, err = s.file.ReadAt(p[done:want], off+int64(done))
		}
		done += n
		if err != nil {
			return done, err
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

func (s *store) writeAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		n, err := s.access(at, len(p)-done, true, func(b []byte) { copy(b, p[done:]) })
		if err == nil {
			s.note(span{at, at + int64(n)}, false)
		} else if n, err = s.file.WriteAt(p[done:], at); n > 0 {
			s.note(span{at, at + int64(n)}, true)
		}
		done += n
		if err != nil {
			return done, writeError(err)
		}
	}
	return done, nil
}

// note keeps in mind what was written.
func (s *store) note(w span, byCall bool) {
	s.state.Lock()
	defer s.state.Unlock()
	s.size = max(s.size, w.end)
	if byCall {
		s.pending = true
		return
	}
	if n := len(s.dirty); n > 0 && s.dirty[n-1].end == w.off {
		s.dirty[n-1].end = w.end
		return
	}
	s.dirty = append(s.dirty, w)
}

// persist makes everything durable that was written before. That is, for each run of bytes, the flush of
// its lines and a fence where the medium allows that.
func (s *store) persist() error {
	s.state.Lock()
	dirty, pending := s.dirty, s.pending
	s.dirty, s.pending = nil, false
	s.state.Unlock()
	err := s.persistAll(dirty)
	if err == nil && pending {
		err = s.file.Sync()
	}
	if err != nil {
		s.state.Lock()
		s.dirty, s.pending = append(dirty, s.dirty...), true
		s.state.Unlock()
	}
	return err
}

func (s *store) persistAll(dirty []span) error {
	s.mapping.RLock()
	defer s.mapping.RUnlock()
	for _, w := range dirty {
		for w.off < min(w.end, s.physical) {
			i, start, end := piece(w.off)
			end = min(end, w.end, s.physical)
			if err := s.owner.mappings.Persist(s.pieces[i], int(w.off-start), int(end-w.off)); err != nil {
				return err
			}
			w.off = end
		}
	}
	return nil
}

// truncate sets the size. What is beyond it is gone, so that it reads as zeros if the file grows again.
func (s *store) truncate(size int64) error {
	s.mapping.Lock()
	defer s.mapping.Unlock()
	if err := s.file.Truncate(size); err != nil {
		return writeError(err)
	}
	s.physical = size
	s.state.Lock()
	defer s.state.Unlock()
	s.size, s.pending = size, true
	return nil
}

func (s *store) fileSize() (int64, error) {
	s.state.Lock()
	defer s.state.Unlock()
	return s.size, nil
}

// writeError tells SQLite that the pool is full, if it is.
func writeError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return vfs.SystemError(err, sqlite3.FULL)
	}
	return err
}
