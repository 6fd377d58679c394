package server

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/grant"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/session"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// mapping is a range of a file that a client has mapped.
//
// Invariant: grants are recorded only with mu held for reading and ended false, so that after end none is and none
// comes.
type mapping struct {
	srv      *Server
	handle   *handle     // one of its users: a removed file lives until it is unmapped
	first    int64       // file block
	length   int64       // bytes
	address  uint64      // in the client
	flags    uint32      // as the client has asked for; Advise changes durable only
	outlives bool        // the client may outlive the server, whose heir must know of every block that it can store to
	durable  atomic.Bool // stores are durable once flushed: the metadata must be before they are allowed

	mu      sync.RWMutex
	ended   bool           // protected by mu
	grants  *grant.Mapping // immutable
	pins    *table[pinned]
	pattern pattern
}

// pinned is a run of blocks of the file.
type pinned struct{ first, count int64 }

func (m *mapping) writable() bool { return m.flags&wire.MapReadOnly == 0 }

func (m *mapping) pages() int64 { return (m.length + blockSize - 1) / blockSize }

// end forgets the mapping and what it was granted. The client has lost access to it.
func (m *mapping) end() {
	m.mu.Lock()
	ended := m.ended
	m.ended = true
	m.mu.Unlock()
	if !ended {
		m.forget()
	}
}

// forget follows the end, once. On return no break of the mapping is under way any more, so that the client may use its
// addresses for something else: a break is made under the lock of the inode, and Attr waits for it.
func (m *mapping) forget() {
	m.srv.grants.Unmap(m.grants)
	m.handle.node.Attr()
	m.handle.put()
}

// revoke takes back all that the mapping was granted, and ends it. An error: the client may still have access.
func (s *Session) revoke(m *mapping) error {
	m.mu.Lock()
	ended := m.ended
	m.ended = true // no new grants
	m.mu.Unlock()
	if ended {
		return nil
	}
	err := s.taker.TakeBack([]grant.AddressRun{{Address: m.address, Length: uint64(m.pages()) * blockSize}}, grant.None)
	m.forget()
	return err
}

// checkRange checks a range in bytes of the mapping and returns it in pages.
func (m *mapping) checkRange(off, n int64) (first, count int64, err error) {
	if off < 0 || n < 0 || off > m.length || n > m.length-off {
		return 0, 0, invalid("range of %d bytes at %d in a mapping of %d", n, off, m.length)
	}
	first = off / blockSize
	return first, (off+n+blockSize-1)/blockSize - first, nil
}

// checkMapFlags refuses what is unknown, unsupported or contradictory.
func (s *Session) checkMapFlags(flags uint32) error {
	const exclusive = wire.MapSync | wire.MapDirect | wire.MapUnchecked // each goes with MapShared, which they include
	mask := s.MapMask()
	switch {
	case flags&^mask != 0:
		return fmt.Errorf("map flags %#x are not supported, %#x are: %w", flags&^mask, mask, unix.EOPNOTSUPP)
	case flags&(exclusive|wire.MapShared) == 0:
		return invalid("none of the kinds of mapping is given: Shared, Sync, Direct or Unchecked")
	case bits.OnesCount32(flags&exclusive) > 1:
		return invalid("Sync, Direct and Unchecked exclude each other")
	}
	return nil
}

func (s *Session) mapFile(q *wire.Request) (*wire.Reply, error) {
	if err := s.checkMapFlags(q.Flags); err != nil {
		return nil, err
	}
	write := q.Flags&wire.MapReadOnly == 0
	if err := s.checkMapRange(q, write); err != nil {
		return nil, err
	}
	return s.useFile(q, true, write, func(h *handle) (*wire.Reply, error) {
		direct := q.Flags&wire.MapDirect != 0
		if direct {
			if err := s.mayDirect(h); err != nil {
				return nil, err
			}
		}
		h.users.Add(1) // it is one already, as this request
		m := s.newMapping(h, q.Handle, q.Offset/blockSize, q.Length, q.Address, q.Flags)
		if direct {
			fill := q.Flags&wire.MapPopulate != 0 && h.writable() && !s.readOnly
			if err := m.filled(q.Offset, q.Length, fill, m.grants.Seal); err != nil {
				m.end()
				return nil, err
			}
		}
		id, err := s.addMapping(m, q.Handle)
		if err != nil {
			m.end()
			return nil, err
		}
		return &wire.Reply{Handle: id}, nil
	})
}

// checkMapRange refuses ranges of the file and of addresses that cannot be mapped.
func (s *Session) checkMapRange(q *wire.Request, write bool) error {
	switch {
	case q.Offset < 0 || q.Offset%blockSize != 0:
		return invalid("a mapping must begin at a multiple of %d, not at %d", blockSize, q.Offset)
	case q.Length <= 0:
		return invalid("a mapping of %d bytes", q.Length)
	case q.Length > layout.MaxFileSize || q.Offset > layout.MaxFileSize-q.Length:
		return fmt.Errorf("a mapping may not go beyond the largest file size, %d bytes: %w", int64(layout.MaxFileSize), unix.EFBIG)
	case q.Address == 0 || q.Address%blockSize != 0 || q.Address > maxAddress-uint64(q.Length):
		return invalid("address %#x", q.Address)
	case write && s.readOnly:
		return unix.EROFS
	}
	return nil
}

// maxAddress is above every address of a process on amd64 and arm64.
const maxAddress = 1 << 52

// newMapping takes over one use of a handle, of which number is the number.
func (s *Session) newMapping(h *handle, number uint32, first, length int64, address uint64, flags uint32) *mapping {
	m := &mapping{
		srv: s.srv, handle: h, first: first, length: length, address: address, flags: flags, outlives: s.record() != nil,
		pins: newTable[pinned]("pin", maxPins, "of one mapping: unpin some"),
	}
	m.durable.Store(flags&(wire.MapSync|wire.MapDirect) != 0)
	m.grants = s.srv.grants.Map(s.taker, uint64(h.node.Ino()), first, m.pages(), address, number)
	return m
}

// addMapping gives a mapping a number. handle is the number that its handle had.
func (s *Session) addMapping(m *mapping, handle uint32) (uint32, error) {
	f := s.record()
	if f == nil {
		return s.mappings.add(m, nil)
	}
	saved := session.Mapping{
		Handle: handle, Ino: uint64(m.handle.node.Ino()), Generation: m.handle.node.Attr().Generation,
		First: m.first, Length: m.length, Address: m.address, Flags: m.flags,
	}
	return s.mappings.add(m, func(n uint32) error {
		saved.Number = n
		return f.PutMapping(saved)
	})
}

func (s *Session) unmap(q *wire.Request) (*wire.Reply, error) { return nil, s.endMapping(q.Handle) }

// endMapping takes a number back. EBADF: there is no such mapping.
func (s *Session) endMapping(n uint32) error {
	m, err := s.mappings.remove(n)
	if err != nil {
		return err
	}
	m.end()
	if f := s.record(); f != nil {
		s.forgotten(f.DropMapping(n))
		for pin := range m.pins.drain() {
			s.forgotten(f.DropPin(n, pin))
		}
	}
	return nil
}

// live calls f with a mapping of the client that cannot end meanwhile.
func (s *Session) live(id uint32, f func(*mapping) (*wire.Reply, error)) (*wire.Reply, error) {
	m, err := s.mappings.get(id)
	if err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.ended {
		return nil, fmt.Errorf("mapping %d is being unmapped: %w", id, unix.EBADF)
	}
	return f(m)
}

func (s *Session) pin(q *wire.Request) (*wire.Reply, error) {
	return s.live(q.Handle, func(m *mapping) (*wire.Reply, error) {
		first, count, err := m.checkRange(q.Offset, q.Length)
		if err != nil {
			return nil, err
		}
		if count == 0 {
			return nil, invalid("a pin of nothing")
		}
		r := pinned{m.first + first, count}
		id, err := s.addPin(m, q.Handle, r)
		if err != nil {
			return nil, err
		}
		if err := m.pin(r); err != nil {
			_, removeErr := s.removePin(m, q.Handle, id)
			return nil, errors.Join(err, removeErr)
		}
		return &wire.Reply{Handle: id}, nil
	})
}

// addPin gives a pin of mapping n a number.
func (s *Session) addPin(m *mapping, n uint32, r pinned) (uint32, error) {
	f := s.record()
	if f == nil {
		return m.pins.add(r, nil)
	}
	return m.pins.add(r, func(pin uint32) error {
		return f.PutPin(session.Pin{Mapping: n, Number: pin, First: r.first, Count: r.count})
	})
}

// removePin takes a number back. EBADF: there is no such pin.
func (s *Session) removePin(m *mapping, n, pin uint32) (pinned, error) {
	r, err := m.pins.remove(pin)
	if f := s.record(); f != nil && err == nil {
		s.forgotten(f.DropPin(n, pin))
	}
	return r, err
}

// pin pins a run. Where the client can store, it is filled first: a hole that is granted as zeros would have to be
// taken back when the client itself stores to it.
func (m *mapping) pin(r pinned) error {
	pin := func() error { return m.grants.Pin(r.first, r.count) }
	if m.writable() {
		return m.filled(r.first*blockSize, r.count*blockSize, true, pin)
	}
	return m.handle.node.Hold(pin)
}

func (s *Session) unpin(q *wire.Request) (*wire.Reply, error) {
	return s.live(q.Handle, func(m *mapping) (*wire.Reply, error) {
		r, err := s.removePin(m, q.Handle, q.Flags)
		if err != nil {
			return nil, err
		}
		return nil, m.grants.Unpin(r.first, r.count)
	})
}

// mapSync makes durable the metadata that finds what the client has stored through its mapping; the stores it has
// flushed itself.
func (s *Session) mapSync(q *wire.Request) (*wire.Reply, error) {
	return s.live(q.Handle, func(m *mapping) (*wire.Reply, error) {
		_, _, err := m.checkRange(q.Offset, q.Length)
		if err == nil {
			err = m.handle.node.Sync()
		}
		return nil, err
	})
}

// verify reads a block for a client whose access to it has failed although it was granted, and remembers if it is lost.
func (s *Session) verify(q *wire.Request) (*wire.Reply, error) {
	return s.live(q.Handle, func(m *mapping) (*wire.Reply, error) {
		first, _, err := m.checkRange(q.Offset, 1)
		if err != nil {
			return nil, err
		}
		_, err = m.handle.node.ReadAt(make([]byte, blockSize), (m.first+first)*blockSize)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return nil, err
	})
}

// advise changes the kind of a mapping that was made with Shared or Sync. On return to Sync the metadata of all that
// it was granted is durable.
func (s *Session) advise(q *wire.Request) (*wire.Reply, error) {
	return s.live(q.Handle, func(m *mapping) (*wire.Reply, error) {
		if err := s.checkMapFlags(q.Flags); err != nil {
			return nil, err
		}
		switch {
		case q.Flags != wire.MapShared && q.Flags&^wire.MapShared != wire.MapSync:
			return nil, invalid("a mapping can become Shared or Sync")
		case m.flags&(wire.MapDirect|wire.MapUnchecked|mapPrivate) != 0:
			return nil, invalid("a mapping that is Direct, Unchecked or of a clone stays what it is")
		}
		m.durable.Store(q.Flags&wire.MapSync != 0)
		if !m.durable.Load() {
			return nil, nil
		}
		return nil, m.handle.node.Sync() // what was granted before; what comes is granted durable
	})
}

// fault resolves a fault of pages [page, page+count) of a mapping, of which the first must and the others may be
// granted. grant is called with the run, in pages of the mapping, while the inode is locked: when it returns without
// an error the client has the grant.
func (m *mapping) fault(page, count int64, write bool, granted func(fault.Reply) error) error {
	if page < 0 || page >= m.pages() {
		return unix.ENXIO
	}
	if write && !m.writable() {
		return unix.EACCES
	}
	count = min(count, m.pages()-page)
	window, ahead := min(max(count, faultAround), populateWindow), min(count, populateAhead)
	if count == 1 {
		ahead = min(m.pattern.ahead(page), m.pages()-page)
	}
	durable := m.outlives || m.durable.Load()
	resolve := func(run core.Run) error {
		if !durable && m.durable.Load() {
			return errAdvised
		}
		first, end := max(run.First, m.first), min(run.First+run.Count, m.first+m.pages())
		r := fault.Reply{FirstPage: first - m.first, Count: end - first, Offset: -1, Writable: run.Writable && m.writable()}
		r.Populate = run.Made && r.Writable
		if r.FirstPage > page || end <= m.first+page || (write && !r.Writable) {
			return fmt.Errorf("fault of page %d was answered by %+v", page, run)
		}
		if run.Block >= 0 {
			r.Offset = (run.Block + first - run.First) * blockSize
		}
		if err := m.record(first, r); err != nil {
			return err
		}
		m.pattern.granted(r.FirstPage + r.Count)
		return granted(r) // on failure a grant too much is recorded, which only costs a break
	}
	err := m.srv.fs.Guard(func() error { return m.handle.node.Fault(m.first+page, write, durable, window, ahead, resolve) })
	if err == errAdvised {
		return m.fault(page, count, write, granted)
	}
	return err
}

// errAdvised: the mapping has become a Sync mapping while a fault was being resolved as one of a Shared mapping.
// Advise waits for the inode's lock after that, so that it finds what was granted before, and nothing is granted so
// later.
var errAdvised = errors.New("the mapping has become Sync")

func (m *mapping) record(first int64, r fault.Reply) error {
	switch {
	case r.Offset < 0:
		return m.grants.GrantZero(first, r.Count)
	case r.Writable:
		return m.grants.Grant(first, r.Count, grant.Write)
	}
	return m.grants.Grant(first, r.Count, grant.Read)
}

const (
	faultAround    = 512     // blocks, 2 MiB: what one fault is answered with at most
	populateWindow = 1 << 18 // blocks, 1 GiB: what one request to populate is answered with at most
	populateAhead  = 1 << 12 // blocks, 16 MiB: what is zeroed at once, while the inode is locked
)

// pattern decides how much is allocated ahead of a store into a hole: one block for stores here and there, more and
// more as long as each begins where the last run ended.
type pattern struct {
	mu    sync.Mutex
	next  int64 // protected by mu: page after the last run
	count int64 // protected by mu: blocks to allocate at most
}

func (p *pattern) ahead(page int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if page == p.next && page != 0 {
		p.count = min(max(p.count, 1)*4, faultAround)
	} else {
		p.count = 1
	}
	return p.count
}

func (p *pattern) granted(next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = next
}
