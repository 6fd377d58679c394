package server

import (
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/wire"
)

func (s *Session) lookup(q *wire.Request) (*wire.Reply, error) {
	return attrReply(s.srv.fs.Resolve(s.cred, q.Path, q.Flags&unix.AT_SYMLINK_NOFOLLOW == 0))
}

func (s *Session) mkdir(q *wire.Request) (*wire.Reply, error) {
	dir, name, err := s.parent(q.Path, unix.EEXIST)
	if err != nil {
		return nil, err
	}
	return attrReply(s.srv.fs.Create(s.cred, dir, name, unix.S_IFDIR|q.Mode&0o7777, 0))
}

func (s *Session) remove(q *wire.Request) (*wire.Reply, error) {
	dir, name, err := s.parent(q.Path, unix.EBUSY)
	if err != nil {
		return nil, err
	}
	switch q.Flags {
	case 0:
		return nil, s.srv.fs.Unlink(s.cred, dir, name)
	case unix.AT_REMOVEDIR:
		return nil, s.srv.fs.Rmdir(s.cred, dir, name)
	}
	return nil, invalid("remove flags %#x", q.Flags)
}

func (s *Session) rename(q *wire.Request) (*wire.Reply, error) {
	if q.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return nil, invalid("rename flags %#x", q.Flags)
	}
	oldDir, oldName, err := s.parent(q.Path, unix.EBUSY)
	if err != nil {
		return nil, err
	}
	newDir, newName, err := s.parent(q.Path2, unix.EBUSY)
	if err != nil {
		return nil, err
	}
	return nil, s.srv.fs.Rename(s.cred, oldDir, oldName, newDir, newName, q.Flags)
}

func (s *Session) link(q *wire.Request) (*wire.Reply, error) {
	n, err := s.srv.fs.OpenPath(s.cred, q.Path, false)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	dir, name, err := s.parent(q.Path2, unix.EEXIST)
	if err != nil {
		return nil, err
	}
	return attrReply(s.srv.fs.Link(s.cred, n.Ino(), dir, name))
}

func (s *Session) symlink(q *wire.Request) (*wire.Reply, error) {
	dir, name, err := s.parent(q.Path, unix.EEXIST)
	if err != nil {
		return nil, err
	}
	return attrReply(s.srv.fs.Symlink(s.cred, dir, name, q.Path2))
}

func (s *Session) readlink(q *wire.Request) (*wire.Reply, error) {
	n, err := s.srv.fs.OpenPath(s.cred, q.Path, false)
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
		value, err := s.srv.fs.GetXattr(s.cred, n.Ino(), q.Path2)
		if err != nil {
			return nil, err
		}
		return &wire.Reply{Data: value}, nil
	})
}

func (s *Session) setXattr(q *wire.Request) (*wire.Reply, error) {
	return s.withNode(q, func(n *core.Node) (*wire.Reply, error) {
		flags := q.Flags &^ unix.AT_SYMLINK_NOFOLLOW
		if flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0 {
			return nil, invalid("setxattr flags %#x", q.Flags)
		}
		return nil, s.srv.fs.SetXattr(s.cred, n.Ino(), q.Path2, q.Data, int(flags))
	})
}

func (s *Session) listXattr(q *wire.Request) (*wire.Reply, error) {
	return s.withNode(q, func(n *core.Node) (*wire.Reply, error) {
		names, err := s.srv.fs.ListXattr(s.cred, n.Ino())
		if err != nil {
			return nil, err
		}
		return &wire.Reply{Names: names}, nil
	})
}

func (s *Session) removeXattr(q *wire.Request) (*wire.Reply, error) {
	return s.withNode(q, func(n *core.Node) (*wire.Reply, error) {
		return nil, s.srv.fs.RemoveXattr(s.cred, n.Ino(), q.Path2)
	})
}
