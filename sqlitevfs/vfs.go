package sqlitevfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/adapter"
)

// Register makes fsys a VFS of SQLite, by a name that databases are opened with: "file:/orders.db?vfs=NAME". It does not own
// fsys: close all databases first, then vfs.Unregister the name and close fsys.
func Register(name string, fsys *pmemfs.FS) { vfs.Register(name, New(fsys)) }

// New makes a VFS of fsys. All connections of this process to one database must be by the same one.
func New(fsys *pmemfs.FS) vfs.VFS {
	return &fileSystem{fsys: fsys, mappings: adapter.NewMappings(fsys), stores: map[string]*store{}}
}

type fileSystem struct {
	fsys     *pmemfs.FS
	mappings adapter.Mappings

	mu     sync.Mutex
	stores map[string]*store // protected by mu; of the files that are open, by name
}

// temporary are files that nobody needs after a crash, and that have no name: they are the default VFS's.
const temporary = vfs.OPEN_TEMP_DB | vfs.OPEN_TRANSIENT_DB | vfs.OPEN_TEMP_JOURNAL | vfs.OPEN_SUBJOURNAL

// FullPathname returns a name that begins with "/".
func (s *fileSystem) FullPathname(name string) (string, error) { return path.Clean("/" + name), nil }

func (s *fileSystem) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	if name == "" || flags&temporary != 0 {
		return vfs.Find("").Open("", flags)
	}
	if flags&(vfs.OPEN_MAIN_DB|vfs.OPEN_WAL) == 0 {
		return s.openJournal(adapter.Name(name), flags)
	}
	st, err := s.open(adapter.Name(name), flags)
	if err != nil {
		return nil, flags, err
	}
	f := &file{store: st, readOnly: flags&vfs.OPEN_READWRITE == 0}
	if flags&vfs.OPEN_MAIN_DB != 0 {
		index, err := s.indexPath(st)
		if err != nil {
			return nil, flags, errors.Join(err, f.Close())
		}
		f.index = vfs.NewSharedMemory(index, flags)
	}
	return f, flags, nil
}

// open opens the store of a file, or the one that is open already.
func (s *fileSystem) open(name string, flags vfs.OpenFlag) (*store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stores[name]
	if st == nil {
		var err error
		if st, err = openStore(s, name, flags); err != nil {
			return nil, err
		}
		s.stores[name] = st
	}
	if st.readOnly && flags&vfs.OPEN_READWRITE != 0 {
		return nil, errors.Join(&fs.PathError{Op: "open", Path: name, Err: syscall.EACCES}, s.release(st))
	}
	st.users++
	return st, nil
}

// release closes a store that has no users. The caller holds s.mu.
func (s *fileSystem) release(st *store) error {
	if st.users > 0 {
		return nil
	}
	if s.stores[st.name] == st {
		delete(s.stores, st.name)
	}
	return st.close()
}

func openFlags(flags vfs.OpenFlag) int {
	how := os.O_RDONLY
	if flags&vfs.OPEN_READWRITE != 0 {
		how = os.O_RDWR
	}
	if flags&vfs.OPEN_CREATE != 0 {
		how |= os.O_CREATE
	}
	if flags&vfs.OPEN_EXCLUSIVE != 0 {
		how |= os.O_EXCL
	}
	return how
}

// openJournal opens a rollback or super-journal, which is short and lives briefly: it is written by calls.
func (s *fileSystem) openJournal(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	f, err := s.fsys.OpenFile(name, openFlags(flags), 0o666)
	if err != nil {
		return nil, flags, err
	}
	return &journal{f}, flags, nil
}

// Delete removes a file. When that is durable the pool's commit policy says, unless syncDir asks for it.
func (s *fileSystem) Delete(name string, syncDir bool) error {
	name = adapter.Name(name)
	s.mu.Lock()
	delete(s.stores, name) // who has it open keeps it
	s.mu.Unlock()
	err := s.fsys.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return vfs.SystemError(err, sqlite3.IOERR_DELETE_NOENT)
	}
	if err != nil || !syncDir {
		return err
	}
	d, err := s.fsys.OpenFile(path.Dir(name), os.O_RDONLY, 0)
	if err != nil {
		return vfs.SystemError(err, sqlite3.IOERR_DIR_FSYNC)
	}
	return vfs.SystemError(errors.Join(d.Sync(), d.Close()), sqlite3.IOERR_DIR_FSYNC)
}

func (s *fileSystem) Access(name string, flags vfs.AccessFlag) (bool, error) {
	how := os.O_RDONLY
	switch flags {
	case vfs.ACCESS_EXISTS:
		_, err := s.fsys.Stat(adapter.Name(name))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	case vfs.ACCESS_READWRITE:
		how = os.O_RDWR
	}
	f, err := s.fsys.OpenFile(adapter.Name(name), how, 0)
	if err != nil {
		return false, nil
	}
	return true, f.Close()
}

// indexPath is where the WAL-index of a database is: in memory, because it is of no use after its last user, and out of the
// pool, because SQLite maps it into its own memory. The directory is the user's own.
func (s *fileSystem) indexPath(st *store) (string, error) {
	dir := "/dev/shm"
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		dir = os.TempDir()
	}
	dir = filepath.Join(dir, fmt.Sprintf("pmemfs-sqlite-%d", os.Geteuid()))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if owner, ok := fi.Sys().(*syscall.Stat_t); !fi.IsDir() || fi.Mode().Perm() != 0o700 || !ok || int(owner.Uid) != os.Geteuid() {
		return "", &fs.PathError{Op: "use", Path: dir, Err: fmt.Errorf("it is not a directory of this user alone: remove it")}
	}
	return filepath.Join(dir, fmt.Sprintf("%s-%s", s.fsys.Info().UUID, filepath.Base(st.name))+st.suffix()), nil
}
