package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/wire"
)

var errNotEmulated = fmt.Errorf("power cuts are emulated only where the pool was opened for that: %w", unix.EOPNOTSUPP)

// flush is how a client tells of its flushes and fences, where power cuts are emulated.
func (s *Session) flush(q *wire.Request) (*wire.Reply, error) {
	switch {
	case s.issuer == nil:
		return nil, errNotEmulated
	case q.Flags == 0 || q.Flags&^wire.FlushAll != 0:
		return nil, invalid("flush flags %#x", q.Flags)
	}
	return s.live(q.Handle, func(m *mapping) (*wire.Reply, error) {
		if _, _, err := m.checkRange(q.Offset, q.Length); err != nil {
			return nil, err
		}
		if q.Flags&wire.FlushLines != 0 && q.Length > 0 {
			if err := m.flush(s.issuer, m.first*blockSize+q.Offset, q.Length); err != nil {
				return nil, err
			}
		}
		if q.Flags&wire.FlushFence != 0 {
			return nil, s.issuer.Fence()
		}
		return nil, nil
	})
}

// flush flushes bytes of the file where they lie now. Holes hold no store; a block that is moved meanwhile is copied with
// all its stores, and what is flushed here at its old place harms nobody: any line may reach the medium at any time.
func (m *mapping) flush(i *medium.Issuer, off, n int64) error {
	list, err := m.handle.node.Extents(off, n)
	if err != nil {
		return err
	}
	for _, e := range list {
		lo, hi := max(off, e.Off), min(off+n, e.Off+e.Len)
		if e.Block < 0 || lo >= hi {
			continue
		}
		if err := i.Flush(e.Block*blockSize+lo-e.Off, hi-lo); err != nil {
			return err
		}
	}
	return nil
}

func (s *Session) powerCut(*wire.Request) (*wire.Reply, error) {
	report, err := s.srv.cutPower(s)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(report)
	return &wire.Reply{Data: data}, err
}

// CutPower cuts the power where that is emulated: clients lose their mappings and connections, and what is not durable is
// lost (see medium.PowerCut). Serve returns medium.ErrPowerCut; what is left to do with the server is Restart or Close.
// A local session is not ended: its program has given up its mappings before. EOPNOTSUPP: it is not emulated; EALREADY:
// somebody else does it.
func (s *Server) CutPower() (medium.CutReport, error) {
	r, err := s.cutPower(nil)
	if !errors.Is(err, unix.EALREADY) && s.power != nil {
		s.end()
	}
	return r, err
}

// cutPower is CutPower for a client, which still gets a reply; Serve goes on until then.
func (s *Server) cutPower(by *Session) (medium.CutReport, error) {
	if s.power == nil {
		return medium.CutReport{}, errNotEmulated
	}
	if s.off.Swap(true) { // from now on nobody gets a reply
		return medium.CutReport{}, fmt.Errorf("the power is being cut: %w", unix.EALREADY)
	}
	s.mu.Lock()
	s.closed = true
	v := s.serving
	s.mu.Unlock()
	if by != nil {
		by.cutter.Store(true)
	}
	if v != nil {
		v.stop()
		<-v.refusing
	}
	var all sync.WaitGroup
	for _, sess := range s.all() {
		if sess.remote() != nil {
			all.Go(sess.revokeAll)
		}
	}
	all.Wait()
	r, err := s.power.Cut()
	for _, sess := range s.all() {
		if sess != by {
			sess.hangUp()
		}
	}
	return r, err
}

// revokeAll takes back what the client has mapped. One that does not react may still store to its copy of the area, which
// nobody else will look at after the cut.
func (s *Session) revokeAll() {
	for _, m := range s.mappings.all() {
		if err := s.revoke(m); err != nil && !errors.Is(err, os.ErrClosed) { // else it has ended meanwhile
			s.srv.logf("process %d: %v", s.pid, err)
			return // the others would take as long
		}
	}
}

// service is what a power cut needs to know of Serve.
type service struct {
	stop     context.CancelFunc // no more connections
	refusing chan struct{}      // closed when there are no more: they wait for the power
	answered chan struct{}      // closed when whoever has cut the power knows of it
	once     sync.Once
}

func (s *Server) begin(stop context.CancelFunc) *service {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serving = &service{stop: stop, refusing: make(chan struct{}), answered: make(chan struct{})}
	return s.serving
}

// end lets Serve end after a power cut.
func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.serving; v != nil {
		v.once.Do(func() { close(v.answered) })
	}
}

// Restart is the power coming back after CutPower, when Serve has returned: a server that has mounted what was durable, the
// log replayed, takes over the pool. s is closed. When it fails the pool is closed, too.
func (s *Server) Restart() (*Server, error) {
	if !s.off.Load() {
		return nil, errors.New("server: Restart without a power cut")
	}
	for _, sess := range s.all() {
		sess.Close()
	}
	s.stopCommitter()
	s.fs.Close() // an error: it has no power to make anything durable
	s.progress.Close()
	power, err := s.power.Restart()
	if err != nil {
		return nil, err
	}
	next := &Server{pool: power, power: power, opts: s.opts, owners: s.owners}
	if err := next.mount(nil); err != nil {
		return nil, err
	}
	return next, nil
}

// Run serves until ctx is done, through any number of power cuts, and closes the server: s or what has followed it. back is
// called with each that follows.
func Run(ctx context.Context, s *Server, l *Listener, back func(*Server)) error {
	for {
		err := s.Serve(ctx, l)
		if !errors.Is(err, medium.ErrPowerCut) {
			return errors.Join(err, s.Close())
		}
		if s, err = s.Restart(); err != nil {
			return errors.Join(fmt.Errorf("after the power cut: %w", err), l.Close())
		}
		back(s)
	}
}
