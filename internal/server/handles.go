package server

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/session"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// handle is an open file or directory.
//
// Invariant: users is 1 for being in the session's table, plus 1 for each request that uses it; the node is closed when
// it drops to 0, so that a request that is under way when the client closes the handle is served to its end.
type handle struct {
	node  *core.Node // immutable
	kind  uint32     // immutable: S_IFMT bits
	flags uint32     // immutable: O_ACCMODE, O_APPEND and O_SYNC
	users atomic.Int64

	direct atomic.Bool // somebody who may seal has allowed it to whoever has the handle
}

func newHandle(n *core.Node, kind, flags uint32) *handle {
	h := &handle{node: n, kind: kind, flags: flags & (unix.O_ACCMODE | unix.O_APPEND | unix.O_SYNC)}
	h.users.Store(1)
	return h
}

func (h *handle) put() {
	if h.users.Add(-1) == 0 {
		h.node.Close() // what it could not make durable is reported by the next operation on the pool
	}
}

func (h *handle) readable() bool { return h.flags&unix.O_ACCMODE != unix.O_WRONLY }
func (h *handle) writable() bool { return h.flags&unix.O_ACCMODE != unix.O_RDONLY }

// dropPrivileges drops what a change of the contents drops, if the request says so.
func (h *handle) dropPrivileges(q *wire.Request) error {
	if q.Flags&wire.FlagDropPrivileges == 0 {
		return nil
	}
	return h.node.DropPrivileges()
}

// saved is what is recorded of a handle of the session.
func (h *handle) saved() session.Handle {
	return session.Handle{Ino: uint64(h.node.Ino()), Generation: h.node.Attr().Generation, Flags: h.flags, Direct: h.direct.Load()}
}

// addHandle gives a handle a number.
func (s *Session) addHandle(h *handle) (uint32, error) {
	f := s.record()
	if f == nil {
		return s.handles.add(h, nil)
	}
	saved := h.saved()
	return s.handles.add(h, func(n uint32) error {
		saved.Number = n
		return f.PutHandle(saved)
	})
}

// closeHandle takes a number back. EBADF: there is no such handle.
func (s *Session) closeHandle(n uint32) error {
	h, err := s.handles.remove(n)
	if err != nil {
		return err
	}
	if f := s.record(); f != nil {
		s.forgotten(f.DropHandle(n))
	}
	h.put()
	return nil
}

// forgotten takes the outcome of dropping a record. One that stays is taken for what it says by the next server,
// until the client tells it better.
func (s *Session) forgotten(err error) {
	if err != nil && !errors.Is(err, unix.ESHUTDOWN) {
		s.srv.logf("process %d: %v", s.pid, err)
	}
}

// use calls f with a handle of the client. EBADF: there is none.
func (s *Session) use(q *wire.Request, f func(*handle) (*wire.Reply, error)) (*wire.Reply, error) {
	h, err := s.handles.get(q.Handle)
	if err != nil {
		return nil, err
	}
	for {
		n := h.users.Load()
		if n == 0 {
			return nil, fmt.Errorf("handle %d is being closed: %w", q.Handle, unix.EBADF)
		}
		if h.users.CompareAndSwap(n, n+1) {
			break
		}
	}
	defer h.put()
	return f(h)
}

// useFile is use for a regular file that is open for the access wanted.
func (s *Session) useFile(q *wire.Request, read, write bool, f func(*handle) (*wire.Reply, error)) (*wire.Reply, error) {
	return s.use(q, func(h *handle) (*wire.Reply, error) {
		switch {
		case h.kind == unix.S_IFDIR:
			return nil, unix.EISDIR
		case read && !h.readable():
			return nil, fmt.Errorf("the file is not open for reading: %w", unix.EBADF)
		case write && !h.writable():
			return nil, fmt.Errorf("the file is not open for writing: %w", unix.EBADF)
		}
		return f(h)
	})
}
