package server

import (
	"encoding/json"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/wire"
)

func wireAttr(a core.Attr) *wire.Attr {
	var flags uint32
	if a.Static {
		flags |= wire.AttrStatic
	}
	return &wire.Attr{
		Flags: flags, Ino: uint64(a.Ino), Generation: a.Generation, Mode: a.Mode, Nlink: a.Nlink, UID: a.UID, GID: a.GID,
		Size: a.Size, Blocks: a.Blocks, Rdev: a.Rdev, Atime: a.Atime, Mtime: a.Mtime, Ctime: a.Ctime, Btime: a.Btime,
	}
}

func attrReply(a core.Attr, err error) (*wire.Reply, error) {
	if err != nil {
		return nil, err
	}
	return &wire.Reply{Attr: wireAttr(a)}, nil
}

// setAttr changes attributes of an open file, or of what a path leads to when there is no handle.
func (s *Session) setAttr(q *wire.Request) (*wire.Reply, error) {
	if q.Handle == 0 {
		return s.withNode(q, func(n *core.Node) (*wire.Reply, error) {
			if q.Valid&wire.SetSize != 0 {
				if err := s.srv.fs.Access(s.cred, n.Ino(), 2); err != nil {
					return nil, err
				}
			}
			return s.applyAttr(q, n.Ino())
		})
	}
	return s.use(q, func(h *handle) (*wire.Reply, error) {
		if q.Valid&wire.SetSize != 0 && !h.writable() {
			return nil, fmt.Errorf("the file is not open for writing: %w", unix.EINVAL) // as ftruncate(2)
		}
		return s.applyAttr(q, h.node.Ino())
	})
}

// applyAttr sets the size with the right of whoever has checked it, and the rest with the client's.
func (s *Session) applyAttr(q *wire.Request, ino layout.Ino) (*wire.Reply, error) {
	cred := s.cred
	var set core.SetAttr
	if q.Valid&wire.SetSize != 0 {
		if q.Length < 0 {
			return nil, invalid("size %d", q.Length)
		}
		if q.Valid != wire.SetSize {
			return nil, invalid("a size is set alone")
		}
		set.Size, cred = &q.Length, root
	}
	if q.Valid&wire.SetMode != 0 {
		set.Mode = &q.Mode
	}
	if q.Valid&wire.SetUID != 0 {
		set.UID = &q.UID
	}
	if q.Valid&wire.SetGID != 0 {
		set.GID = &q.GID
	}
	if q.Valid&wire.SetAtime != 0 {
		set.Atime = &q.Atime
	}
	if q.Valid&wire.SetMtime != 0 {
		set.Mtime = &q.Mtime
	}
	return attrReply(s.srv.fs.SetAttr(cred, ino, set))
}

func (s *Session) statfs(*wire.Request) (*wire.Reply, error) {
	st := s.srv.fs.Statfs()
	return &wire.Reply{Statfs: &wire.Statfs{
		Blocks: st.Blocks, FreeBlocks: st.FreeBlocks, Inodes: st.Inodes, FreeInodes: st.FreeInodes,
		MetaBlocks: st.Nodes, FreeMetaBlocks: st.FreeNodes,
	}}, nil
}

func (s *Session) info(*wire.Request) (*wire.Reply, error) {
	data, err := json.Marshal(s.srv.Info())
	if err != nil {
		return nil, err
	}
	return &wire.Reply{Data: data}, nil
}
