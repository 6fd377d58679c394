package server

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// fill gives a range what a seal needs: every block written, and nobody else's.
func (s *Session) fill(q *wire.Request) (*wire.Reply, error) {
	return s.useFile(q, false, true, func(h *handle) (*wire.Reply, error) {
		if q.Offset < 0 || q.Length <= 0 {
			return nil, invalid("range of %d bytes at %d", q.Length, q.Offset)
		}
		return nil, h.node.Fill(q.Offset, q.Length)
	})
}

// allowDirect lets whoever has the handle seal by it.
func (s *Session) allowDirect(q *wire.Request) (*wire.Reply, error) {
	return s.useFile(q, false, false, func(h *handle) (*wire.Reply, error) {
		if err := s.mayFreeze(); err != nil {
			return nil, err
		}
		h.direct.Store(true)
		if f := s.record(); f != nil {
			saved := h.saved()
			saved.Number = q.Handle
			return nil, f.PutHandle(saved)
		}
		return nil, nil
	})
}

func (s *Session) setStatic(q *wire.Request) (*wire.Reply, error) {
	return s.use(q, func(h *handle) (*wire.Reply, error) {
		if q.Flags > 1 {
			return nil, invalid("static %d", q.Flags)
		}
		if err := s.mayFreeze(); err != nil {
			return nil, err
		}
		return nil, h.node.SetStatic(q.Flags == 1)
	})
}

// mayDirect checks that the client may seal what it maps by a handle.
func (s *Session) mayDirect(h *handle) error {
	if h.direct.Load() {
		return nil
	}
	return s.mayFreeze()
}

// mayFreeze checks that the client may keep blocks where they are, against everybody else.
func (s *Session) mayFreeze() error {
	for _, g := range s.srv.opts.DirectGroups {
		if s.cred.InGroup(g) {
			return nil
		}
	}
	capable, err := capable(s.pid, s.taker.ended)
	if err != nil {
		return err
	}
	if !capable {
		return fmt.Errorf("process %d (user %d) may not seal or freeze blocks: it takes the capability CAP_LINUX_IMMUTABLE, "+
			"membership in a group that the server was given (--direct-group), or, to map, a handle that somebody who has "+
			"either has flagged: %w", s.pid, s.cred.UID, unix.EPERM)
	}
	return nil
}

// sealAttempts is how often a range is filled again because somebody has made a hole in it meanwhile.
const sealAttempts = 8

// filled calls then under the inode's lock when every block of a range in bytes of the file is written and nobody else's. With
// fill it is made so first.
func (m *mapping) filled(off, length int64, fill bool, then func() error) error {
	var unfilled *core.UnfilledError
	for attempt := 1; ; attempt++ {
		err := m.handle.node.Filled(off, length, then)
		if !fill || attempt == sealAttempts || !errors.As(err, &unfilled) {
			return err
		}
		if err := m.handle.node.Fill(off, length); err != nil {
			return err
		}
	}
}
