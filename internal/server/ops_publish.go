package server

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// Bits of a mapping's flags, beside those that clients know, that say what it is to the next server, too.
const (
	mapPrivate = 1 << 31 // of a private clone, of which it is the only user
	mapMerge   = 1 << 30 // which merges
)

// mapClone maps a private clone of a range of a file, to be published.
func (s *Session) mapClone(q *wire.Request) (*wire.Reply, error) {
	if q.Flags&^wire.CloneAll != 0 {
		return nil, invalid("clone flags %#x", q.Flags)
	}
	if err := s.checkMapRange(q, true); err != nil {
		return nil, err
	}
	if s.MapMask() == 0 || !s.taker.resolvesFaults() {
		return nil, fmt.Errorf("a clone to be published needs page faults, by which its changes are known, "+
			"and so a server, and memory that can be mapped in units of %d bytes: %w", blockSize, unix.EOPNOTSUPP)
	}
	return s.useFile(q, true, true, func(h *handle) (*wire.Reply, error) {
		flags, merge := uint32(wire.MapShared|mapPrivate), q.Flags&wire.CloneMerge != 0
		if merge {
			flags |= mapMerge
		}
		node, err := h.node.Private(q.Offset, q.Length, merge)
		if err != nil {
			return nil, err
		}
		m := s.newMapping(newHandle(node, unix.S_IFREG, unix.O_RDWR), q.Handle, 0, q.Length, q.Address, flags)
		id, err := s.addMapping(m, q.Handle)
		if err != nil {
			m.end()
			return nil, err
		}
		return &wire.Reply{Handle: id}, nil
	})
}

// publish publishes what was stored to clones.
func (s *Session) publish(q *wire.Request) (*wire.Reply, error) {
	n := len(q.Data) / 4
	if n == 0 || n > wire.MaxPublish || len(q.Data)%4 != 0 {
		return nil, invalid("%d bytes of mappings to publish", len(q.Data))
	}
	return s.withClones(q.Data, -1, nil, func(clones []*core.Node) error {
		err := core.Publish(clones...)
		if errors.Is(err, unix.EFBIG) {
			err = fmt.Errorf("%w: publish fewer blocks at a time, or use a pool with a larger journal (pmemfs mkfs --journal)", err)
		}
		return err
	})
}

func (s *Session) discard(q *wire.Request) (*wire.Reply, error) {
	numbers := binary.LittleEndian.AppendUint32(nil, q.Handle)
	return s.withClones(numbers, -1, nil, func(clones []*core.Node) error { return clones[0].Discard() })
}

// withClones calls f with the clones of mappings of which none can end meanwhile. All who lock several do so in the
// order of their numbers.
func (s *Session) withClones(numbers []byte, last int64, clones []*core.Node, f func([]*core.Node) error) (*wire.Reply, error) {
	if len(numbers) == 0 {
		return nil, f(clones)
	}
	id := binary.LittleEndian.Uint32(numbers)
	if int64(id) <= last {
		return nil, invalid("mapping %d is to be published twice, or after mapping %d", id, last)
	}
	return s.live(id, func(m *mapping) (*wire.Reply, error) {
		if m.flags&mapPrivate == 0 {
			return nil, invalid("mapping %d is of a file, not of a clone", id)
		}
		return s.withClones(numbers[4:], int64(id), append(clones, m.handle.node), f)
	})
}
