// Package tree copies files and whole trees between the host's file system and a pool, in either direction. Modes, times,
// symbolic links, hard links and holes are kept; a file appears under its name complete or not at all.
package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

// Side is one end of a copy: a file system with names in its own style. Safe for concurrent use.
type Side interface {
	Lstat(name string) (fs.FileInfo, error)
	Stat(name string) (fs.FileInfo, error)
	ReadDir(name string) ([]fs.DirEntry, error)
	ReadLink(name string) (string, error)
	Open(name string) (Source, error)
	Create(name string) (Target, error) // a new file that only its owner may use
	Mkdir(name string) error            // a new directory that only its owner may use
	Symlink(target, name string) error
	Link(oldName, newName string) error
	Rename(oldName, newName string) error
	Remove(name string) error
	Chmod(name string, mode fs.FileMode) error // follows links
	Lchown(name string, uid, gid int) error
	Lchtimes(name string, atime, mtime time.Time) error

	// Attr returns what fs.FileInfo does not, of a FileInfo that this side has given.
	Attr(fi fs.FileInfo) Attr
}

// Source is a file that is read. SeekData is SEEK_DATA of lseek(2): ENXIO when only a hole is left. So SeekHole.
type Source interface {
	io.ReaderAt
	io.Closer
	SeekData(off int64) (int64, error)
	SeekHole(off int64) (int64, error)
}

// Target is a file that is written.
type Target interface {
	io.WriterAt
	io.Closer
	Truncate(size int64) error
}

// Attr is what a copy keeps besides the mode.
type Attr struct {
	Device, Ino uint64 // together tell files apart
	Links       uint64
	UID, GID    int
	Atime       time.Time
}

// Host is the host's file system, as package os sees it.
type Host struct{}

func (Host) Lstat(name string) (fs.FileInfo, error)     { return os.Lstat(name) }
func (Host) Stat(name string) (fs.FileInfo, error)      { return os.Stat(name) }
func (Host) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }
func (Host) ReadLink(name string) (string, error)       { return os.Readlink(name) }
func (Host) Mkdir(name string) error                    { return os.Mkdir(name, 0o700) }
func (Host) Symlink(target, name string) error          { return os.Symlink(target, name) }
func (Host) Link(oldName, newName string) error         { return os.Link(oldName, newName) }
func (Host) Rename(oldName, newName string) error       { return os.Rename(oldName, newName) }
func (Host) Remove(name string) error                   { return os.Remove(name) }
func (Host) Chmod(name string, mode fs.FileMode) error  { return os.Chmod(name, mode) }
func (Host) Lchown(name string, uid, gid int) error     { return os.Lchown(name, uid, gid) }

// Open opens a regular file; the flags keep it from waiting for, or following, what has replaced it meanwhile.
func (Host) Open(name string) (Source, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return hostFile{f}, nil
}

func (Host) Create(name string) (Target, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// Lchtimes sets the times of a link itself, which package os cannot.
func (Host) Lchtimes(name string, atime, mtime time.Time) error {
	ts := []unix.Timespec{unix.NsecToTimespec(atime.UnixNano()), unix.NsecToTimespec(mtime.UnixNano())}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "lchtimes", Path: name, Err: err}
	}
	return nil
}

func (Host) Attr(fi fs.FileInfo) Attr {
	st := fi.Sys().(*syscall.Stat_t) // what package os always gives on Linux
	return Attr{
		Device: uint64(st.Dev), Ino: st.Ino, Links: uint64(st.Nlink), UID: int(st.Uid), GID: int(st.Gid),
		Atime: time.Unix(st.Atim.Unix()),
	}
}

type hostFile struct{ *os.File }

func (f hostFile) SeekData(off int64) (int64, error) { return f.Seek(off, unix.SEEK_DATA) }
func (f hostFile) SeekHole(off int64) (int64, error) { return f.Seek(off, unix.SEEK_HOLE) }

// Pool is a pool. Its names are absolute or relative to its root, which is the same.
type Pool struct {
	FS     *pmemfs.FS
	Follow bool // a symbolic link stands for what it leads to, for Lstat and Open
}

// PoolName turns a name as people write it ("/a/b", "a//b/", "/", "") into one that package pmemfs takes.
func PoolName(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	return name
}

func (p Pool) Lstat(name string) (fs.FileInfo, error) {
	if p.Follow {
		return p.FS.Stat(PoolName(name))
	}
	return p.FS.Lstat(PoolName(name))
}

func (p Pool) Stat(name string) (fs.FileInfo, error)      { return p.FS.Stat(PoolName(name)) }
func (p Pool) ReadDir(name string) ([]fs.DirEntry, error) { return p.FS.ReadDir(PoolName(name)) }
func (p Pool) ReadLink(name string) (string, error)       { return p.FS.ReadLink(PoolName(name)) }
func (p Pool) Mkdir(name string) error                    { return p.FS.Mkdir(PoolName(name), 0o700) }
func (p Pool) Symlink(target, name string) error          { return p.FS.Symlink(target, PoolName(name)) }
func (p Pool) Link(oldName, newName string) error {
	return p.FS.Link(PoolName(oldName), PoolName(newName))
}

// Rename does not replace static files: whoever has frozen one relies on its blocks.
func (p Pool) Rename(oldName, newName string) error {
	oldName, newName = PoolName(oldName), PoolName(newName)
	err := p.FS.RenameNoReplace(oldName, newName)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if info, err := p.FS.Lstat(newName); err == nil && info.Sys().(*pmemfs.Stat).Static {
		return &os.LinkError{Op: "rename", Old: oldName, New: newName, Err: pmemfs.ErrStatic}
	}
	return p.FS.Rename(oldName, newName)
}

func (p Pool) Remove(name string) error                  { return p.FS.Remove(PoolName(name)) }
func (p Pool) Chmod(name string, mode fs.FileMode) error { return p.FS.Chmod(PoolName(name), mode) }
func (p Pool) Lchown(name string, uid, gid int) error    { return p.FS.Lchown(PoolName(name), uid, gid) }
func (p Pool) Lchtimes(name string, atime, mtime time.Time) error {
	return p.FS.Lchtimes(PoolName(name), atime, mtime)
}

func (p Pool) Open(name string) (Source, error) {
	flag := os.O_RDONLY
	if !p.Follow {
		flag |= unix.O_NOFOLLOW
	}
	f, err := p.FS.OpenFile(PoolName(name), flag, 0)
	if err != nil {
		return nil, err // not f: a nil *File in a Source is not nil
	}
	return f, nil
}

func (p Pool) Create(name string) (Target, error) {
	f, err := p.FS.OpenFile(PoolName(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (p Pool) Attr(fi fs.FileInfo) Attr {
	st := fi.Sys().(*pmemfs.Stat) // what package pmemfs always gives
	return Attr{Ino: st.Ino, Links: uint64(st.Nlink), UID: int(st.UID), GID: int(st.GID), Atime: time.Unix(0, st.Atime)}
}

// Error is a failure on one file of a copy.
type Error struct {
	Op     string
	Name   string // in the style of the side it is about
	Offset int64  // bytes; -1: of no particular place
	Err    error
}

func (e *Error) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("%s %s: %v", e.Op, e.Name, e.Err)
	}
	return fmt.Sprintf("%s %s at offset %d: %v", e.Op, e.Name, e.Offset, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// at makes an Error of what went wrong at an offset of a file.
func at(op, name string, off int64, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return &Error{Op: op, Name: name, Offset: off, Err: err}
}
