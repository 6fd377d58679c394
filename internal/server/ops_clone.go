package server

import (
	"encoding/json"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// clone makes a new file of what is in an open one, or in the one that a path leads to.
func (s *Session) clone(q *wire.Request) (*wire.Reply, error) {
	if q.Handle == 0 {
		return s.withNode(q, func(n *core.Node) (*wire.Reply, error) {
			if err := s.srv.fs.Access(s.cred, n.Ino(), core.CanRead); err != nil {
				return nil, err
			}
			return s.cloneNode(n, q.Path2)
		})
	}
	return s.useFile(q, true, false, func(h *handle) (*wire.Reply, error) { return s.cloneNode(h.node, q.Path2) })
}

// cloneNode gives the clone the permission bits of n, but none that lend the owner's rights to others: the owner is another.
func (s *Session) cloneNode(n *core.Node, name string) (*wire.Reply, error) {
	dir, base, err := s.parent(place{name: name}, unix.EEXIST)
	if err != nil {
		return nil, err
	}
	return attrReply(n.Clone(s.cred, dir, base, n.Attr().Mode&0o777))
}

// cloneRange does FICLONERANGE of ioctl_ficlonerange(2).
func (s *Session) cloneRange(q *wire.Request) (*wire.Reply, error) {
	return s.between(q, func(to, from *handle) (*wire.Reply, error) {
		return nil, to.node.CloneRange(q.Offset, from.node, q.SourceOffset, q.Length)
	})
}

// copyRange does a part of copy_file_range(2).
func (s *Session) copyRange(q *wire.Request) (*wire.Reply, error) {
	return s.between(q, func(to, from *handle) (*wire.Reply, error) {
		n, err := to.node.CopyRange(q.Offset, from.node, q.SourceOffset, q.Length)
		if err != nil {
			return nil, err
		}
		return &wire.Reply{N: n}, nil
	})
}

// between calls f with a file that is open for writing and the source, which is open for reading.
func (s *Session) between(q *wire.Request, f func(to, from *handle) (*wire.Reply, error)) (*wire.Reply, error) {
	return s.useFile(q, false, true, func(to *handle) (*wire.Reply, error) {
		if to.flags&unix.O_APPEND != 0 {
			return nil, fmt.Errorf("the file is open for appending: %w", unix.EBADF)
		}
		source := wire.Request{Handle: q.Source}
		return s.useFile(&source, true, false, func(from *handle) (*wire.Reply, error) {
			if q.Offset < 0 || q.SourceOffset < 0 || q.Length < 0 {
				return nil, invalid("range of %d bytes at %d and %d", q.Length, q.Offset, q.SourceOffset)
			}
			return f(to, from)
		})
	})
}

// defrag does one step of making a file contiguous, or looks at what it would do.
func (s *Session) defrag(q *wire.Request) (*wire.Reply, error) {
	look := q.Op == wire.OpDefragLook
	return s.useFile(q, look, !look, func(h *handle) (*wire.Reply, error) {
		next, did, err := h.node.Defragment(q.Offset, look)
		if err != nil {
			return nil, err
		}
		data, err := json.Marshal(did)
		if err != nil {
			return nil, err
		}
		return &wire.Reply{Offset: next, Data: data}, nil
	})
}
