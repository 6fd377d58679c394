package server

import (
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/wire"
)

func (s *Session) lookup(q *wire.Request) (*wire.Reply, error) {
	if q.Inode == 0 {
		return attrReply(s.srv.fs.Resolve(s.cred, q.Path, q.Flags&unix.AT_SYMLINK_NOFOLLOW == 0))
	}
	n, err := s.findAt(first(q))
	if err != nil {
		return nil, err
	}
	r, err := attrReply(n.Attr(), nil)
	if q.Path == "" { // who has the inode has the reference
		n.Close()
	} else {
		s.references.keep(n)
	}
	return r, err
}

func (s *Session) mkdir(q *wire.Request) (*wire.Reply, error) {
	dir, name, err := s.parent(first(q), unix.EEXIST)
	if err != nil {
		return nil, err
	}
	_, err = s.srv.fs.Create(s.cred, dir, name, unix.S_IFDIR|q.Mode&0o7777, 0)
	return nil, err
}

func (s *Session) remove(q *wire.Request) (*wire.Reply, error) {
	dir, name, err := s.parent(first(q), unix.EBUSY)
	if err != nil {
		return nil, err
	}
	switch q.Flags {
	case 0:
		return nil, s.srv.fs.Unlink(s.as(q), dir, name)
	case unix.AT_REMOVEDIR:
		return nil, s.srv.fs.Rmdir(s.as(q), dir, name)
	}
	return nil, invalid("remove flags %#x", q.Flags)
}

func (s *Session) rename(q *wire.Request) (*wire.Reply, error) {
	if q.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return nil, invalid("rename flags %#x", q.Flags)
	}
	oldDir, oldName, err := s.parent(first(q), unix.EBUSY)
	if err != nil {
		return nil, err
	}
	newDir, newName, err := s.parent(second(q), unix.EBUSY)
	if err != nil {
		return nil, err
	}
	return nil, s.srv.fs.Rename(s.as(q), oldDir, oldName, newDir, newName, q.Flags)
}

func (s *Session) link(q *wire.Request) (*wire.Reply, error) {
	n, err := s.find(q, false)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	dir, name, err := s.parent(second(q), unix.EEXIST)
	if err != nil {
		return nil, err
	}
	a, err := s.srv.fs.Link(s.as(q), n.Ino(), dir, name)
	return s.made(q, a, err)
}

func (s *Session) symlink(q *wire.Request) (*wire.Reply, error) {
	dir, name, err := s.parent(first(q), unix.EEXIST)
	if err != nil {
		return nil, err
	}
	a, err := s.srv.fs.Symlink(s.as(q), dir, name, q.Path2)
	return s.made(q, a, err)
}

// made is the reply that tells of a name that was made: of the inode as well to who names things by them.
func (s *Session) made(q *wire.Request, a core.Attr, err error) (*wire.Reply, error) {
	if q.Inode == 0 {
		return nil, err
	}
	return s.entry(a, err)
}

func (s *Session) readlink(q *wire.Request) (*wire.Reply, error) {
	n, err := s.find(q, false)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	target, err := s.srv.fs.Readlink(n.Ino())
	if err != nil {
		return nil, err
	}
	return &wire.Reply{Name: target}, nil
}

func (s *Session) getXattr(q *wire.Request) (*wire.Reply, error) {
	return s.withNode(q, func(n *core.Node) (*wire.Reply, error) {
		value, err := s.srv.fs.GetXattr(s.as(q), n.Ino(), q.Path2)
		if err != nil {
			return nil, err
		}
		return &wire.Reply{Data: value}, nil
	})
}

func (s *Session) setXattr(q *wire.Request) (*wire.Reply, error) {
	return s.withNode(q, func(n *core.Node) (*wire.Reply, error) {
		flags := q.Flags &^ unix.AT_SYMLINK_NOFOLLOW
		if flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE|wire.ACLDropSGID) != 0 {
			return nil, invalid("setxattr flags %#x", q.Flags)
		}
		return nil, s.srv.fs.SetXattr(s.as(q), n.Ino(), q.Path2, q.Data, int(flags))
	})
}

func (s *Session) listXattr(q *wire.Request) (*wire.Reply, error) {
	return s.withNode(q, func(n *core.Node) (*wire.Reply, error) {
		names, err := s.srv.fs.ListXattr(s.as(q), n.Ino())
		if err != nil {
			return nil, err
		}
		return &wire.Reply{Names: names}, nil
	})
}

func (s *Session) removeXattr(q *wire.Request) (*wire.Reply, error) {
	return s.withNode(q, func(n *core.Node) (*wire.Reply, error) {
		return nil, s.srv.fs.RemoveXattr(s.as(q), n.Ino(), q.Path2)
	})
}
