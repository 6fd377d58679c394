package server

import (
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/wire"
)

func wireAttr(a core.Attr) wire.Attr {
	var flags uint32
	if a.Static {
		flags |= wire.AttrStatic
	}
	return wire.Attr{
		Flags: flags, Ino: uint64(a.Ino), Generation: a.Generation, Mode: a.Mode, Nlink: a.Nlink, UID: a.UID, GID: a.GID,
		Size: a.Size, Blocks: a.Blocks, Rdev: a.Rdev, Atime: a.Atime, Mtime: a.Mtime, Ctime: a.Ctime, Btime: a.Btime,
	}
}

func attrReply(a core.Attr, err error) (*wire.Reply, error) {
	if err != nil {
		return nil, err
	}
	return replyOf(a), nil
}

// replyOf is a reply with attributes, in one piece of memory.
func replyOf(a core.Attr) *wire.Reply {
	r := &struct {
		wire.Reply
		attr wire.Attr
	}{attr: wireAttr(a)}
	r.Attr = &r.attr
	return &r.Reply
}

// setAttr changes attributes of an open file, or of what a path leads to when there is no handle.
func (s *Session) setAttr(q *wire.Request) (*wire.Reply, error) {
	if q.Handle == 0 {
		return s.withNode(q, func(n *core.Node) (*wire.Reply, error) {
			if q.Valid&wire.SetSize != 0 && q.Inode == 0 {
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

// applyAttr sets the size with the right of whoever has checked it, and the rest with the client's. Relative to an inode
// everything was checked.
func (s *Session) applyAttr(q *wire.Request, ino layout.Ino) (*wire.Reply, error) {
	cred := s.cred
	if q.Inode != 0 {
		cred = core.Cred{Checked: true}
	}
	set := core.SetAttr{DropPrivileges: q.Valid&wire.SetDropPrivileges != 0}
	if q.Valid&wire.SetSize != 0 {
		if q.Length < 0 {
			return nil, invalid("size %d", q.Length)
		}
		if q.Valid != wire.SetSize && q.Inode == 0 {
			return nil, invalid("a size is set alone")
		}
		set.Size, cred.Checked = &q.Length, true
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
	now := time.Now().UnixNano()
	set.Atime = timeOf(q, wire.SetAtime, wire.SetAtimeNow, &q.Atime, &now)
	set.Mtime = timeOf(q, wire.SetMtime, wire.SetMtimeNow, &q.Mtime, &now)
	return attrReply(s.srv.fs.SetAttr(cred, ino, set))
}

// timeOf is what a time is set to: given, now, or nil: not at all.
func timeOf(q *wire.Request, set, setNow uint32, given, now *int64) *int64 {
	switch {
	case q.Valid&set == 0:
		return nil
	case q.Valid&setNow != 0:
		return now
	}
	return given
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
