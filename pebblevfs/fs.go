package pebblevfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/adapter"
)

// ErrLocked is what Lock fails with when somebody has the lock.
var ErrLocked = adapter.ErrLocked

// New returns fsys as a file system for Pebble: pebble.Options.FS. Names are those of the pool; "/" before them, and what
// path.Clean removes, makes no difference. It does not own fsys: close the database first, then fsys.
func New(fsys *pmemfs.FS) vfs.FS { return &fileSystem{fsys, adapter.NewMappings(fsys)} }

type fileSystem struct {
	fsys     *pmemfs.FS
	mappings adapter.Mappings
}

// walCategory is what Pebble calls the writes to its write-ahead log.
const walCategory vfs.DiskWriteCategory = "pebble-wal"

// Create gives the name to a new file, as vfs.Default does: a file that had it lives on under its other names.
func (s *fileSystem) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	for {
		f, err := s.fsys.OpenFile(adapter.Name(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil {
			return s.forWriting(f, category)
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if err := s.fsys.Remove(adapter.Name(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

func (s *fileSystem) forWriting(f *pmemfs.File, category vfs.DiskWriteCategory) (vfs.File, error) {
	if category != walCategory || s.fsys.MapMask() == 0 {
		return &tableFile{file: file{f}}, nil
	}
	return newLogFile(f, s.mappings)
}

func (s *fileSystem) Link(oldname, newname string) error {
	return s.fsys.Link(adapter.Name(oldname), adapter.Name(newname))
}

func (s *fileSystem) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := s.fsys.OpenFile(adapter.Name(name), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return apply(&readFile{file: file{f}}, opts), nil
}

func (s *fileSystem) OpenReadWrite(name string, _ vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := s.fsys.OpenFile(adapter.Name(name), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	return apply(&file{f}, opts), nil
}

func apply(f vfs.File, opts []vfs.OpenOption) vfs.File {
	for _, o := range opts {
		o.Apply(f)
	}
	return f
}

func (s *fileSystem) OpenDir(name string) (vfs.File, error) {
	f, err := s.fsys.OpenFile(adapter.Name(name), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return &directory{file{f}}, nil
}

func (s *fileSystem) Remove(name string) error { return s.fsys.Remove(adapter.Name(name)) }

func (s *fileSystem) RemoveAll(name string) error { return s.fsys.RemoveAll(adapter.Name(name)) }

func (s *fileSystem) Rename(oldname, newname string) error {
	return s.fsys.Rename(adapter.Name(oldname), adapter.Name(newname))
}

// ReuseForWrite keeps the file with its blocks: what was written there is overwritten in place.
func (s *fileSystem) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := s.Rename(oldname, newname); err != nil {
		return nil, err
	}
	f, err := s.fsys.OpenFile(adapter.Name(newname), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	return s.forWriting(f, category)
}

func (s *fileSystem) MkdirAll(dir string, perm os.FileMode) error {
	return s.fsys.MkdirAll(adapter.Name(dir), perm)
}

func (s *fileSystem) Lock(name string) (io.Closer, error) {
	return adapter.Lock(s.fsys, adapter.Name(name))
}

func (s *fileSystem) List(dir string) ([]string, error) {
	list, err := s.fsys.ReadDir(adapter.Name(dir))
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = e.Name()
	}
	return names, err
}

func (s *fileSystem) Stat(name string) (vfs.FileInfo, error) {
	return newInfo(s.fsys.Stat(adapter.Name(name)))
}

func (s *fileSystem) PathBase(name string) string { return path.Base(name) }

func (s *fileSystem) PathJoin(elem ...string) string { return path.Join(elem...) }

func (s *fileSystem) PathDir(name string) string { return path.Dir(name) }

func (s *fileSystem) GetDiskUsage(string) (vfs.DiskUsage, error) {
	st, err := s.fsys.Statfs()
	if err != nil {
		return vfs.DiskUsage{}, err
	}
	size, free := uint64(st.Blocks)*uint64(st.BlockSize), uint64(st.FreeBlocks)*uint64(st.BlockSize)
	return vfs.DiskUsage{AvailBytes: free, TotalBytes: size, UsedBytes: size - free}, nil
}

// Unwrap says that there is no vfs.FS below.
func (s *fileSystem) Unwrap() vfs.FS { return nil }
