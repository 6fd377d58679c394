package server

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// Requests relative to inodes are those of a kernel that has the pool mounted. It names inodes by number and
// generation, as open_by_handle_at(2) does, and has checked what its processes may do.

// place is where a request names something: a name in a directory, or the inode itself. Without an inode name is a path.
type place struct {
	inode, generation uint64
	name              string
}

func first(q *wire.Request) place  { return place{q.Inode, q.Generation, q.Path} }
func second(q *wire.Request) place { return place{q.Inode2, q.Generation2, q.Path2} }

// mayAddress checks that the client may name inodes: nobody has looked at the permissions on the way to them.
func (s *Session) mayAddress() error {
	if s.imported || s.cred.UID != 0 && !slices.Contains(s.srv.owners, s.cred.UID) {
		return fmt.Errorf("process %d (user %d) may not name inodes by number, which the owner of the pool and root may: %w",
			s.pid, s.cred.UID, unix.EPERM)
	}
	return nil
}

// as is the credential for a request.
func (s *Session) as(q *wire.Request) core.Cred {
	if q.Inode == 0 {
		return s.cred
	}
	return core.Cred{UID: q.UID, GID: q.GID, Umask: q.Umask, Checked: true}
}

// inode opens an inode by its number. ESTALE: there is none, or it is another one now.
func (s *Session) inode(number, generation uint64) (*core.Node, error) {
	if number >= s.srv.inodes || number == uint64(layout.CountsIno) { // which is nobody's file
		return nil, unix.ESTALE
	}
	n, err := s.srv.fs.Adopt(layout.Ino(number), generation)
	if errors.Is(err, unix.ENOENT) {
		err = unix.ESTALE
	}
	return n, err
}

// findAttempts is how often findAt believes that somebody else was faster.
const findAttempts = 1000

// findAt opens what a place names.
func (s *Session) findAt(p place) (*core.Node, error) {
	base, err := s.inode(p.inode, p.generation)
	if err != nil || p.name == "" {
		return base, err
	}
	defer base.Close()
	for range findAttempts {
		a, err := s.srv.fs.Lookup(core.Cred{Checked: true}, base.Ino(), p.name)
		if err != nil {
			return nil, err
		}
		n, err := s.inode(uint64(a.Ino), a.Generation)
		if !errors.Is(err, unix.ESTALE) {
			return n, err
		}
	}
	return nil, layout.Corrupt("directory", -1, "%q in %v leads to a free inode", p.name, base.Ino())
}

// parentAt returns the directory of a place that must have a name.
func (s *Session) parentAt(p place) (layout.Ino, string, error) {
	n, err := s.inode(p.inode, p.generation)
	if err != nil {
		return 0, "", err
	}
	defer n.Close()
	if p.name == "" {
		return 0, "", invalid("no name in inode %d", p.inode)
	}
	return n.Ino(), p.name, nil
}

// mknod makes a file of any type, or a directory.
func (s *Session) mknod(q *wire.Request) (*wire.Reply, error) {
	if q.Inode == 0 {
		return nil, invalid("mknod by a path")
	}
	dir, name, err := s.parentAt(first(q))
	if err != nil {
		return nil, err
	}
	return s.entry(s.srv.fs.Create(s.as(q), dir, name, q.Mode, q.Address))
}

// openAt finds, or creates, the file that an open relative to an inode names.
func (s *Session) openAt(q *wire.Request) (n *core.Node, created bool, err error) {
	if q.Flags&unix.O_TMPFILE == unix.O_TMPFILE {
		n, err = s.inode(q.Inode, q.Generation)
		if err != nil {
			return nil, false, err
		}
		defer n.Close()
		n, err = s.srv.fs.CreateUnnamed(s.as(q), n.Ino(), q.Mode)
		return n, true, err
	}
	for {
		n, err = s.findAt(first(q))
		if q.Flags&unix.O_CREAT == 0 || err != nil && !errors.Is(err, unix.ENOENT) {
			return n, false, err
		}
		if err == nil && q.Flags&unix.O_EXCL != 0 {
			n.Close()
			return nil, false, unix.EEXIST
		}
		if err == nil {
			return n, false, nil
		}
		if n, err = s.createAt(q); !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ESTALE) {
			return n, err == nil, err
		} // somebody was faster
	}
}

func (s *Session) createAt(q *wire.Request) (*core.Node, error) {
	dir, name, err := s.parentAt(first(q))
	if err != nil {
		return nil, err
	}
	a, err := s.srv.fs.Create(s.as(q), dir, name, unix.S_IFREG|q.Mode&0o7777, 0)
	if err != nil {
		return nil, err
	}
	return s.inode(uint64(a.Ino), a.Generation)
}

// references are the inodes that a session's client knows by number.
//
// Invariant: each has an open node, and is counted once for each reply that told of it and was not forgotten.
type references struct {
	mu sync.Mutex
	m  map[layout.Ino]*reference // protected by mu
}

type reference struct {
	node  *core.Node
	count uint64
}

// keep counts a reference, and takes the node over.
func (r *references) keep(n *core.Node) {
	r.mu.Lock()
	known := r.m[n.Ino()]
	if known == nil {
		if r.m == nil {
			r.m = map[layout.Ino]*reference{}
		}
		r.m[n.Ino()] = &reference{n, 1}
	} else {
		known.count++
	}
	r.mu.Unlock()
	if known != nil {
		n.Close()
	}
}

// forget takes references back. What a session does not know it need not forget: an earlier server did.
func (r *references) forget(ino layout.Ino, count uint64) {
	r.mu.Lock()
	known := r.m[ino]
	if known != nil {
		if known.count -= min(count, known.count); known.count == 0 {
			delete(r.m, ino)
		} else {
			known = nil
		}
	}
	r.mu.Unlock()
	if known != nil {
		known.node.Close()
	}
}

// drop forgets everything.
func (r *references) drop() {
	r.mu.Lock()
	all := r.m
	r.m = nil
	r.mu.Unlock()
	for _, known := range all {
		known.node.Close()
	}
}

func (s *Session) forget(q *wire.Request) (*wire.Reply, error) {
	if q.Length < 0 {
		return nil, invalid("forget %d references", q.Length)
	}
	s.references.forget(layout.Ino(q.Inode), uint64(q.Length))
	return nil, nil
}

// entry is the reply that tells of an inode that was made or found, and refers to it.
func (s *Session) entry(a core.Attr, err error) (*wire.Reply, error) {
	if err != nil {
		return nil, err
	}
	n, err := s.inode(uint64(a.Ino), a.Generation)
	if errors.Is(err, unix.ESTALE) {
		err = unix.ENOENT // removed again already
	}
	if err != nil {
		return nil, err
	}
	s.references.keep(n)
	return attrReply(a, nil)
}

// refer counts a reference to what an open has made or found.
func (s *Session) refer(r *wire.Reply) error {
	_, err := s.entry(core.Attr{Ino: layout.Ino(r.Attr.Ino), Generation: r.Attr.Generation}, nil)
	return err
}

// Watch has f called with whether there are other clients than the session that can change anything: before the first of
// them can, and after the last of them could. From its first call, now, on the answer changes only by calls.
func (s *Session) Watch(f func(others bool)) {
	s.srv.watching.Lock()
	s.srv.watcher = &watcher{s, f}
	s.srv.watching.Unlock()
	s.srv.tellWatcher()
}

type watcher struct {
	sess *Session
	tell func(others bool)
}

// tellWatcher tells who watches of the sessions there are.
func (s *Server) tellWatcher() {
	s.watching.Lock()
	defer s.watching.Unlock()
	if s.watcher == nil {
		return
	}
	s.watcher.tell(slices.ContainsFunc(s.all(), func(other *Session) bool {
		return other != s.watcher.sess && !other.readOnly
	}))
}
