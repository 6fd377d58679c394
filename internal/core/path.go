package core

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// maxLinks is how many symbolic links one path may lead through, as in
// path_resolution(7).
const maxLinks = 40

// Resolve walks a path from the root, symbolic links included (the last one
// only with followLast). Empty components and "." are skipped, ".." of the
// root is the root. ELOOP, ENOENT, ENOTDIR, EACCES.
func (fs *FS) Resolve(c Cred, path string, followLast bool) (Attr, error) {
	w := walk{fs: fs, c: c}
	a, err := w.from(layout.RootIno, path, followLast)
	return a, err
}

// ResolveParent walks to the directory that holds the last component, which
// need not exist and is not followed. EINVAL for a path without one.
func (fs *FS) ResolveParent(c Cred, path string) (dir layout.Ino, name string, err error) {
	path = strings.TrimRight(path, "/")
	parent, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent, name = path[:i], path[i+1:]
	}
	if name == "" || name == "." || name == ".." {
		return 0, "", unix.EINVAL
	}
	a, err := fs.Resolve(c, parent, true)
	if err == nil && a.Mode&layout.ModeType != layout.ModeDirectory {
		err = unix.ENOTDIR
	}
	return a.Ino, name, err
}

// walk is one path resolution; it counts the links it followed.
type walk struct {
	fs    *FS
	c     Cred
	links int
}

func (w *walk) from(dir layout.Ino, path string, followLast bool) (Attr, error) {
	if strings.HasPrefix(path, "/") {
		dir = layout.RootIno
	}
	at, err := w.fs.GetAttr(dir)
	if err != nil {
		return at, err
	}
	for path = strings.TrimLeft(path, "/"); path != ""; {
		name, rest, slash := strings.Cut(path, "/")
		path = strings.TrimLeft(rest, "/")
		parent := at.Ino
		if at, err = w.fs.Lookup(w.c, parent, name); err != nil {
			return at, err
		}
		if at.Mode&layout.ModeType == layout.ModeSymlink && (followLast || slash) {
			if at, err = w.follow(parent, at); err != nil {
				return at, err
			}
		}
		if slash && at.Mode&layout.ModeType != layout.ModeDirectory {
			return at, unix.ENOTDIR
		}
	}
	return at, nil
}

func (w *walk) follow(dir layout.Ino, link Attr) (Attr, error) {
	if w.links++; w.links > maxLinks {
		return Attr{}, unix.ELOOP
	}
	target, err := w.fs.Readlink(link.Ino)
	if err != nil {
		return Attr{}, err
	}
	return w.from(dir, target, true)
}
