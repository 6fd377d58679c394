package pmemfs

import (
	"io/fs"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// fileInfo implements fs.FileInfo. It is immutable.
type fileInfo struct {
	name string
	attr *wire.Attr
}

func newFileInfo(op, name string, r *wire.Reply) (fs.FileInfo, error) {
	if r.Attr == nil {
		return nil, pathError(op, name, errProtocol)
	}
	return &fileInfo{name: path.Base(name), attr: r.Attr}, nil
}

func (fi *fileInfo) Name() string       { return fi.name }
func (fi *fileInfo) Size() int64        { return fi.attr.Size }
func (fi *fileInfo) Mode() fs.FileMode  { return goMode(fi.attr.Mode) }
func (fi *fileInfo) ModTime() time.Time { return time.Unix(0, fi.attr.Mtime) }
func (fi *fileInfo) IsDir() bool        { return fi.attr.Mode&unix.S_IFMT == unix.S_IFDIR }
func (fi *fileInfo) String() string     { return fs.FormatFileInfo(fi) }

// Sys returns a *Stat.
func (fi *fileInfo) Sys() any {
	a := fi.attr
	return &Stat{
		Ino: a.Ino, Generation: a.Generation, Mode: a.Mode, Nlink: a.Nlink, UID: a.UID, GID: a.GID,
		Size: a.Size, Blocks: a.Blocks, Atime: a.Atime, Mtime: a.Mtime, Ctime: a.Ctime, Btime: a.Btime,
		Static: a.Flags&wire.AttrStatic != 0,
	}
}

// dirEntry implements fs.DirEntry. It is immutable.
type dirEntry struct {
	fsys *FS
	dir  string
	name string
	kind uint32 // S_IFMT bits
}

func (e *dirEntry) Name() string               { return e.name }
func (e *dirEntry) IsDir() bool                { return e.kind&unix.S_IFMT == unix.S_IFDIR }
func (e *dirEntry) Type() fs.FileMode          { return goMode(e.kind).Type() }
func (e *dirEntry) Info() (fs.FileInfo, error) { return e.fsys.Lstat(path.Join(e.dir, e.name)) }
func (e *dirEntry) String() string             { return fs.FormatDirEntry(e) }
