package pmemfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// FS is an open pool: [Dial] a server's or [Open] one's own. It implements fs.FS, fs.ReadDirFS, fs.StatFS,
// fs.ReadFileFS and fs.ReadLinkFS, and the writing half in the manner of package os. All methods may be called
// from several goroutines at once.
type FS struct {
	t     transport
	info  Info        // immutable
	hello *wire.Hello // immutable
	space *addressSpace
	lease *lease // of an imported file; nil: the FS is open until Close

	closed atomic.Bool
}

var (
	_ fs.ReadDirFS  = (*FS)(nil)
	_ fs.StatFS     = (*FS)(nil)
	_ fs.ReadFileFS = (*FS)(nil)
	_ fs.ReadLinkFS = (*FS)(nil)
)

// requests are those that are under way, and were: callers of call so have theirs on the stack.
var requests = sync.Pool{New: func() any { return new(wire.Request) }}

// call does one request and turns its outcome into an error.
func (fsys *FS) call(q *wire.Request) (*wire.Reply, error) {
	if fsys.closed.Load() {
		return nil, fs.ErrClosed
	}
	sent := requests.Get().(*wire.Request)
	*sent = *q
	r, err := fsys.t.Do(sent)
	*sent = wire.Request{} // which keeps nothing alive
	requests.Put(sent)
	if err != nil {
		return nil, err
	}
	return r, replyError(r)
}

// checkName refuses what io/fs does not allow as a name.
func checkName(name string) error {
	if len(name) > wire.MaxPath {
		return unix.ENAMETOOLONG
	}
	if !fs.ValidPath(name) {
		return invalidName{}
	}
	return nil
}

// onPath does a request whose subject is q.Path.
func (fsys *FS) onPath(op string, q *wire.Request) (*wire.Reply, error) {
	if err := checkName(q.Path); err != nil {
		return nil, pathError(op, q.Path, err)
	}
	r, err := fsys.call(q)
	return r, pathError(op, q.Path, err)
}

// Open opens a file or directory for reading.
func (fsys *FS) Open(name string) (fs.File, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err // not f: a nil *File in an fs.File is not nil
	}
	return f, nil
}

// Create creates a file with permission 0666, or truncates it when it is there, and opens it for reading and
// writing. There is no umask.
func (fsys *FS) Create(name string) (*File, error) {
	return fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

// openFlags are those that OpenFile understands; O_CLOEXEC has no meaning.
const openFlags = unix.O_ACCMODE | os.O_CREATE | os.O_EXCL | os.O_TRUNC | os.O_APPEND |
	unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_SYNC | unix.O_DSYNC | unix.O_CLOEXEC

// OpenFile opens a file with the flags O_RDONLY, O_WRONLY or O_RDWR, and O_CREATE, O_EXCL, O_TRUNC, O_APPEND,
// O_DIRECTORY, O_NOFOLLOW, O_SYNC, O_DSYNC of open(2); others are refused with EINVAL. A file that is created has
// exactly the permission bits of perm. The server enforces O_APPEND: appends of several processes never overlap. What
// is done by a file that was opened with O_SYNC or O_DSYNC, the opening included, is durable when it returns,
// whatever the pool's [CommitPolicy].
func (fsys *FS) OpenFile(name string, flag int, perm fs.FileMode) (*File, error) {
	if flag&^openFlags != 0 {
		return nil, pathError("open", name, &detailed{"unknown open flags", unix.EINVAL})
	}
	r, err := fsys.onPath("open", &wire.Request{
		Op: wire.OpOpen, Path: name, Flags: uint32(flag &^ unix.O_CLOEXEC), Mode: unixPerm(perm),
	})
	if err != nil {
		return nil, err
	}
	if r.Attr == nil {
		return nil, pathError("open", name, errProtocol)
	}
	return &File{
		fsys: fsys, name: name, handle: r.Handle, ino: r.Attr.Ino, flag: flag, dir: r.Attr.Mode&unix.S_IFMT == unix.S_IFDIR,
	}, nil
}

// ReadFile reads a whole file.
func (fsys *FS) ReadFile(name string) ([]byte, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// One byte more than the size, so that the end is seen without growing.
	buf := make([]byte, 0, min(fi.Size(), 64<<20)+1)
	for {
		n, err := f.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
		buf = slices.Grow(buf, 1)
	}
}

// WriteFile writes data to a file, which is created with permission perm or truncated first. It is not atomic:
// a crash may leave a part of data. Write to another name and [FS.Rename] it for that.
func (fsys *FS) WriteFile(name string, data []byte, perm fs.FileMode) error {
	f, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// ReadDir returns the entries of a directory, sorted by name.
func (fsys *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := f.ReadDir(-1)
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, err
}

// Stat describes a file, following symbolic links.
func (fsys *FS) Stat(name string) (fs.FileInfo, error) { return fsys.stat("stat", name, 0) }

// Lstat describes a file; a symbolic link is not followed.
func (fsys *FS) Lstat(name string) (fs.FileInfo, error) {
	return fsys.stat("lstat", name, unix.AT_SYMLINK_NOFOLLOW)
}

func (fsys *FS) stat(op, name string, flags uint32) (fs.FileInfo, error) {
	r, err := fsys.onPath(op, &wire.Request{Op: wire.OpLookup, Path: name, Flags: flags})
	if err != nil {
		return nil, err
	}
	return newFileInfo(op, name, r)
}

// Mkdir creates a directory with exactly the permission bits of perm. When it is durable the [CommitPolicy] says.
func (fsys *FS) Mkdir(name string, perm fs.FileMode) error {
	_, err := fsys.onPath("mkdir", &wire.Request{Op: wire.OpMkdir, Path: name, Mode: unixPerm(perm)})
	return err
}

// MkdirAll creates a directory and those above it that are missing.
func (fsys *FS) MkdirAll(name string, perm fs.FileMode) error {
	if err := checkName(name); err != nil {
		return pathError("mkdir", name, err)
	}
	if name == "." {
		return nil
	}
	err := fsys.Mkdir(name, perm)
	if errors.Is(err, fs.ErrNotExist) && path.Dir(name) != "." {
		if err := fsys.MkdirAll(path.Dir(name), perm); err != nil {
			return err
		}
		err = fsys.Mkdir(name, perm)
	}
	if errors.Is(err, fs.ErrExist) {
		fi, statErr := fsys.Stat(name)
		switch {
		case statErr != nil:
			return statErr
		case fi.IsDir():
			return nil
		}
		return pathError("mkdir", name, unix.ENOTDIR)
	}
	return err
}

// Remove removes a file or an empty directory. A file that is open or mapped lives on without a name until it is
// closed and unmapped. When it is durable the [CommitPolicy] says.
func (fsys *FS) Remove(name string) error {
	_, err := fsys.onPath("remove", &wire.Request{Op: wire.OpRemove, Path: name})
	if errors.Is(err, unix.EISDIR) {
		_, err = fsys.onPath("remove", &wire.Request{Op: wire.OpRemove, Path: name, Flags: unix.AT_REMOVEDIR})
	}
	return err
}

// RemoveAll removes a file, or a directory and everything in it. A name that is not there is no error. It goes
// on after errors and returns the first.
func (fsys *FS) RemoveAll(name string) error {
	if name == "." {
		return pathError("removeall", name, unix.EINVAL)
	}
	err := fsys.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	list, err := fsys.ReadDir(name)
	if err != nil {
		return err
	}
	var first error
	for _, e := range list {
		if err := fsys.RemoveAll(path.Join(name, e.Name())); err != nil && first == nil {
			first = err
		}
	}
	if first != nil {
		return first
	}
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// onPaths does a request on q.Path and q.Path2, which are both names.
func (fsys *FS) onPaths(op string, q *wire.Request) error {
	for _, name := range []string{q.Path, q.Path2} {
		if err := checkName(name); err != nil {
			return linkError(op, q.Path, q.Path2, err)
		}
	}
	_, err := fsys.call(q)
	return linkError(op, q.Path, q.Path2, err)
}

// Rename gives a file another name, atomically replacing what has that name. Programs that have the replaced
// file open or mapped keep it. When it is durable the [CommitPolicy] says.
func (fsys *FS) Rename(oldName, newName string) error {
	return fsys.onPaths("rename", &wire.Request{Op: wire.OpRename, Path: oldName, Path2: newName})
}

// RenameNoReplace is Rename, but fails with EEXIST when newName is there.
func (fsys *FS) RenameNoReplace(oldName, newName string) error {
	return fsys.onPaths("rename", &wire.Request{Op: wire.OpRename, Path: oldName, Path2: newName, Flags: unix.RENAME_NOREPLACE})
}

// Exchange swaps two names atomically. Both must be there.
func (fsys *FS) Exchange(oldName, newName string) error {
	return fsys.onPaths("exchange", &wire.Request{Op: wire.OpRename, Path: oldName, Path2: newName, Flags: unix.RENAME_EXCHANGE})
}

// Link makes newName another name of the file oldName. A symbolic link oldName is not followed.
func (fsys *FS) Link(oldName, newName string) error {
	return fsys.onPaths("link", &wire.Request{Op: wire.OpLink, Path: oldName, Path2: newName})
}

// Symlink makes newName a symbolic link to target, which may be any text of 1 to 4095 bytes.
func (fsys *FS) Symlink(target, newName string) error {
	if err := checkName(newName); err != nil {
		return linkError("symlink", target, newName, err)
	}
	_, err := fsys.call(&wire.Request{Op: wire.OpSymlink, Path: newName, Path2: target})
	return linkError("symlink", target, newName, err)
}

// ReadLink returns the target of a symbolic link.
func (fsys *FS) ReadLink(name string) (string, error) {
	r, err := fsys.onPath("readlink", &wire.Request{Op: wire.OpReadlink, Path: name})
	if err != nil {
		return "", err
	}
	return r.Name, nil
}

// Readlink is ReadLink, spelt as in package os.
func (fsys *FS) Readlink(name string) (string, error) { return fsys.ReadLink(name) }

// Chmod sets the permission bits, setuid, setgid and sticky of a file, following symbolic links.
func (fsys *FS) Chmod(name string, mode fs.FileMode) error {
	_, err := fsys.onPath("chmod", &wire.Request{Op: wire.OpSetAttr, Path: name, Valid: wire.SetMode, Mode: unixPerm(mode)})
	return err
}

// Chown sets the owner of a file, following symbolic links. -1 leaves a number as it is.
func (fsys *FS) Chown(name string, uid, gid int) error { return fsys.chown("chown", name, uid, gid, 0) }

// Lchown sets the owner of a file; a symbolic link is not followed.
func (fsys *FS) Lchown(name string, uid, gid int) error {
	return fsys.chown("lchown", name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}

func (fsys *FS) chown(op, name string, uid, gid int, flags uint32) error {
	q := &wire.Request{Op: wire.OpSetAttr, Path: name, Flags: flags, UID: uint32(uid), GID: uint32(gid)}
	if uid != -1 {
		q.Valid |= wire.SetUID
	}
	if gid != -1 {
		q.Valid |= wire.SetGID
	}
	_, err := fsys.onPath(op, q)
	return err
}

// Chtimes sets the times of a file, following symbolic links. A zero time leaves that time as it is.
func (fsys *FS) Chtimes(name string, atime, mtime time.Time) error {
	return fsys.chtimes("chtimes", name, atime, mtime, 0)
}

// Lchtimes sets the times of a file; a symbolic link is not followed.
func (fsys *FS) Lchtimes(name string, atime, mtime time.Time) error {
	return fsys.chtimes("lchtimes", name, atime, mtime, unix.AT_SYMLINK_NOFOLLOW)
}

func (fsys *FS) chtimes(op, name string, atime, mtime time.Time, flags uint32) error {
	q := &wire.Request{Op: wire.OpSetAttr, Path: name, Flags: flags}
	if !atime.IsZero() {
		q.Valid, q.Atime = q.Valid|wire.SetAtime, atime.UnixNano()
	}
	if !mtime.IsZero() {
		q.Valid, q.Mtime = q.Valid|wire.SetMtime, mtime.UnixNano()
	}
	_, err := fsys.onPath(op, q)
	return err
}

// Truncate sets the size of a file in bytes, following symbolic links. Mappings lose their access to what is cut
// off before Truncate returns. When it is durable the [CommitPolicy] says.
func (fsys *FS) Truncate(name string, size int64) error {
	_, err := fsys.onPath("truncate", &wire.Request{Op: wire.OpSetAttr, Path: name, Valid: wire.SetSize, Length: size})
	return err
}

// Getxattr returns an extended attribute. Names begin with "user." or another namespace of xattr(7). Symbolic links are
// not followed. ENODATA: the file has no such attribute.
func (fsys *FS) Getxattr(name, attr string) ([]byte, error) {
	r, err := fsys.onPath("getxattr", &wire.Request{Op: wire.OpGetXattr, Path: name, Path2: attr, Flags: unix.AT_SYMLINK_NOFOLLOW})
	if err != nil {
		return nil, err
	}
	return r.Data, nil
}

// Setxattr sets an extended attribute. flags may hold unix.XATTR_CREATE or unix.XATTR_REPLACE. Symbolic links are not
// followed.
func (fsys *FS) Setxattr(name, attr string, value []byte, flags int) error {
	if flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0 {
		return pathError("setxattr", name, unix.EINVAL)
	}
	_, err := fsys.onPath("setxattr", &wire.Request{
		Op: wire.OpSetXattr, Path: name, Path2: attr, Data: value, Flags: uint32(flags) | unix.AT_SYMLINK_NOFOLLOW,
	})
	return err
}

// Listxattr returns the names of a file's extended attributes. Symbolic links are not followed.
func (fsys *FS) Listxattr(name string) ([]string, error) {
	r, err := fsys.onPath("listxattr", &wire.Request{Op: wire.OpListXattr, Path: name, Flags: unix.AT_SYMLINK_NOFOLLOW})
	if err != nil {
		return nil, err
	}
	return r.Names, nil
}

// Removexattr removes an extended attribute. Symbolic links are not followed.
func (fsys *FS) Removexattr(name, attr string) error {
	_, err := fsys.onPath("removexattr", &wire.Request{Op: wire.OpRemoveXattr, Path: name, Path2: attr, Flags: unix.AT_SYMLINK_NOFOLLOW})
	return err
}

// Statfs counts what the pool has and what of it is free.
func (fsys *FS) Statfs() (StatfsInfo, error) {
	r, err := fsys.call(&wire.Request{Op: wire.OpStatfs})
	if err == nil && r.Statfs == nil {
		err = errProtocol
	}
	if err != nil {
		return StatfsInfo{}, pathError("statfs", ".", err)
	}
	s := r.Statfs
	return StatfsInfo{
		BlockSize: blockSize, Blocks: s.Blocks, FreeBlocks: s.FreeBlocks, Inodes: s.Inodes, FreeInodes: s.FreeInodes,
		MetaBlocks: s.MetaBlocks, FreeMetaBlocks: s.FreeMetaBlocks,
	}, nil
}

// MapMask returns the flags that Map supports on this pool, with this owner, on this machine. Every other flag is
// refused by Map with EOPNOTSUPP.
func (fsys *FS) MapMask() MapFlags { return MapFlags(fsys.hello.MapMask) }

// Info says what is behind the FS: the pool, its medium and how that was found out.
func (fsys *FS) Info() Info {
	i := fsys.info
	if pid := fsys.space.server.Load(); pid != 0 {
		i.PID = int(pid) // perhaps not the first
	}
	return i
}

// Close closes the FS. Open files are closed, and mappings lose all access, as if unmapped. An embedded pool is
// unmounted cleanly.
func (fsys *FS) Close() error {
	if fsys.hold() == nil {
		defer fsys.release() // until here nothing that is unmapped closes it
	}
	var errs []error
	if c, ok := fsys.t.(*connection); ok {
		c.hurry()
	}
	for _, m := range fsys.space.list() {
		errs = append(errs, m.Unmap())
	}
	if fsys.closed.Swap(true) {
		return fs.ErrClosed
	}
	errs = append(errs, fsys.t.Close())
	for _, m := range fsys.space.list() { // made meanwhile; Map looks at closed after it has added one
		m.Unmap()
	}
	fsys.space.close()
	return errors.Join(errs...)
}

// unixPerm turns a FileMode into the 07777 bits of st_mode.
func unixPerm(m fs.FileMode) uint32 {
	p := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		p |= unix.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		p |= unix.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		p |= unix.S_ISVTX
	}
	return p
}

// goMode turns st_mode into a FileMode.
func goMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	}
	if mode&unix.S_ISUID != 0 {
		m |= fs.ModeSetuid
	}
	if mode&unix.S_ISGID != 0 {
		m |= fs.ModeSetgid
	}
	if mode&unix.S_ISVTX != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// errProtocol is returned when the server's reply lacks what it must have.
var errProtocol error = &detailed{"the server's reply is not what the protocol says", syscall.EPROTO}

// blockSize is the unit of allocation and of mapping, in bytes.
const blockSize = 4096
