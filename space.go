package pmemfs

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/grant"
	"github.com/pmemfs/pmemfs/internal/progress"
	"github.com/pmemfs/pmemfs/internal/server"
)

// addressSpace is where the mappings of an FS live. With a server, page faults in them are resolved by it, and its
// breaks reach them, without any code of this package. When embedded it is the grant.Client of its own session.
type addressSpace struct {
	session  *server.Session // embedded; nil: there is a server
	progress *progress.Page  // what is pending of each file; nil: embedded

	mu       sync.Mutex
	opts     fault.ClientOptions   // protected by mu: until client is made its descriptors are owned by the space
	client   *fault.Client         // protected by mu; nil until the first Map, so that no program gets signal entries for nothing
	mappings map[*Mapping]struct{} // protected by mu
	taken    []taken               // protected by mu; embedded: what breaks have taken and restore will give back
	breaks   atomic.Bool           // there may be something in taken; set while mu is held

	gone   atomic.Bool  // no more mappings. Set with mu held, once, for good
	server atomic.Int64 // the process of the server
}

// taken is a run of pages of an embedded mapping.
type taken struct {
	m            *Mapping
	first, count int64
}

// reserve takes an address range for n bytes.
func (s *addressSpace) reserve(n int64) (*fault.Range, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isGone() {
		return nil, ErrServerGone
	}
	if s.client == nil {
		c, err := fault.NewClient(s.opts)
		if err != nil {
			return nil, err
		}
		s.client = c
	}
	return s.client.Reserve(n)
}

func (s *addressSpace) add(m *Mapping) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mappings[m] = struct{}{}
}

func (s *addressSpace) remove(m *Mapping) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mappings, m)
	s.taken = slices.DeleteFunc(s.taken, func(t taken) bool { return t.m == m })
}

func (s *addressSpace) list() []*Mapping {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*Mapping
	for m := range s.mappings {
		list = append(list, m)
	}
	return list
}

func (s *addressSpace) isGone() bool { return s.gone.Load() }

// resume is told that another server has taken over the fault page, and of its process. It takes over the descriptor.
func (s *addressSpace) resume(pidfd, pid int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case pidfd < 0:
		return os.ErrInvalid
	case s.isGone():
		unix.Close(pidfd)
		return ErrServerGone
	case s.client != nil:
		if err := s.client.Resume(pidfd); err != nil {
			return err
		}
	default:
		unix.Close(s.opts.ServerPidfd)
		s.opts.ServerPidfd = pidfd
	}
	s.server.Store(int64(pid))
	return nil
}

// serverEnded says that the server has ended in good order, or that page faults have failed: there is nothing to wait
// for.
func (s *addressSpace) serverEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isGone() || s.client != nil && s.client.Lost() {
		return true
	}
	closed, err := fault.PageClosed(s.opts.Page)
	return closed || err != nil
}

// takenOver says that another server has taken over the fault page.
func (s *addressSpace) takenOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := fault.PageTakeovers(s.opts.Page)
	return n > 0 && err == nil
}

// abandon takes every access away, because the server is gone, and lets go of the data area: its descriptor carries the
// lock that keeps the next server from a pool that is still mapped.
func (s *addressSpace) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone.Store(true)
	if s.client != nil {
		s.client.Abandon() // an error would be that of an mmap over one's own range
	}
	if s.opts.Data != nil {
		s.opts.Data.Close()
	}
}

// close gives up the address ranges and the descriptors. Nothing is mapped any more.
func (s *addressSpace) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone.Store(true)
	switch {
	case s.client != nil:
		s.client.Close()
		s.client = nil
	case s.opts.Data != nil:
		s.opts.Data.Close()
		if s.opts.Page != nil {
			s.opts.Page.Close()
		}
		if s.opts.ServerPidfd >= 0 {
			unix.Close(s.opts.ServerPidfd)
		}
	}
	s.opts = fault.ClientOptions{ServerPidfd: -1}
}

// TakeBack implements grant.Client for an embedded pool.
func (s *addressSpace) TakeBack(runs []grant.AddressRun, to grant.Access) error {
	access := fault.AccessNone
	if to == grant.Read {
		access = fault.AccessRead
	}
	for _, run := range runs {
		m, first := s.find(run.Address)
		if m == nil {
			continue // unmapped
		}
		count := int64(run.Length / blockSize)
		if err := m.region.TakeBack(first, count, access); err != nil {
			return fmt.Errorf("take back %d pages of the mapping of %s: %w", count, m.name, err)
		}
		s.mu.Lock()
		s.taken = append(s.taken, taken{m, first, count})
		s.breaks.Store(true)
		s.mu.Unlock()
	}
	return nil
}

// find returns the mapping at an address and the page in it.
func (s *addressSpace) find(address uint64) (*Mapping, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for m := range s.mappings {
		start := uint64(m.region.Address())
		if start <= address && address < start+uint64(m.pages())*blockSize {
			return m, int64((address - start) / blockSize)
		}
	}
	return nil, 0
}

// restore gives back what the breaks of an operation have taken from embedded mappings, as far as the file still has
// it: there are no page faults that would. What fails stays inaccessible.
func (s *addressSpace) restore() {
	for s.breaks.Load() {
		s.mu.Lock()
		list := s.taken
		s.taken = nil
		s.breaks.Store(false)
		s.mu.Unlock()
		for _, t := range list {
			t.m.populatePages(t.first, t.count)
		}
	}
}
