package server

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/wire"
)

const (
	blockSize   = layout.BlockSize
	maxSymlinks = 40 // as Linux
)

// root is the credential for what was checked already, when the file was opened.
var root = core.Cred{}

// withNode calls f with what a path leads to.
func (s *Session) withNode(q *wire.Request, f func(*core.Node) (*wire.Reply, error)) (*wire.Reply, error) {
	n, err := s.find(q, q.Flags&unix.AT_SYMLINK_NOFOLLOW == 0)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	return f(n)
}

// find opens what a request names.
func (s *Session) find(q *wire.Request, follow bool) (*core.Node, error) {
	if q.Inode != 0 {
		return s.findAt(place{q.Inode, q.Generation, q.Path})
	}
	return s.srv.fs.OpenPath(s.cred, q.Path, follow)
}

// parent resolves the directory of what is to be made, removed or renamed, by its place or, if that has no inode, its path;
// the root has none.
func (s *Session) parent(p place, ofRoot error) (layout.Ino, string, error) {
	if p.inode != 0 {
		return s.parentAt(p)
	}
	if isRoot(p.name) {
		return 0, "", ofRoot
	}
	return s.srv.fs.ResolveParent(s.cred, p.name)
}

// isRoot says whether a path is, by its text, the root's.
func isRoot(name string) bool {
	name = strings.TrimRight(name, "/")
	switch name[strings.LastIndexByte(name, '/')+1:] {
	case "", ".", "..":
		return path.Clean("/"+name) == "/"
	}
	return false
}

// create makes a regular file and holds it.
func (s *Session) create(name string, mode uint32) (*core.Node, error) {
	dir, base, err := s.parent(place{name: name}, unix.EISDIR)
	if err != nil {
		return nil, err
	}
	return s.srv.fs.CreateFile(s.cred, dir, base, mode)
}

// throughLink returns where a path leads when its last element is a symbolic link; otherwise the path itself.
func (s *Session) throughLink(name string) (string, error) {
	n, err := s.srv.fs.OpenPath(s.cred, name, false)
	if errors.Is(err, unix.ENOENT) {
		return name, nil
	}
	if err != nil {
		return "", err
	}
	defer n.Close()
	if n.Attr().Mode&unix.S_IFMT != unix.S_IFLNK {
		return name, nil
	}
	target, err := s.srv.fs.Readlink(n.Ino())
	if err != nil || strings.HasPrefix(target, "/") {
		return target, err
	}
	// Not path.Join, which would resolve ".." behind a link by text.
	return path.Dir(name) + "/" + target, nil
}
