package fault

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A call is a message of the client to its server, and the answer to it, both through the fault page: where both poll
// that takes a microsecond, of which the waking of a process over a socket takes dozens. What the messages say is
// nobody's business here. Unlike faults, calls are made by ordinary Go code, and are optional: one that nobody takes up
// soon can be made in another way.

// ServeCalls answers the client's calls, one after the other, until Close or until stopped says so, which must be followed
// by StopCalls; then it returns nil. handle gets a copy of each message, valid until it returns, and returns the answer,
// at most CallBytes long, or nil: then later.Answer gives it. If it is not ok the slot stays as it is and the serving
// ends. At most one ServeCalls at a time. An error says that the client has made its page unusable.
func (p *Page) ServeCalls(stopped func() bool, handle func(message []byte, later Later) (answer []byte, ok bool)) error {
	if !p.enter() {
		return nil
	}
	defer p.leave()
	ended := func() bool { return p.closed.Load() || stopped() }
	return p.guard(func() error {
		var message [CallBytes]byte
		for !ended() {
			seen := atomic.LoadUint32(p.calls.bell)
			served := 0
			for i := range p.shared.calls {
				s := &p.shared.calls[i]
				if atomic.LoadUint32(&s.state) != slotRequest || !atomic.CompareAndSwapUint32(&s.state, slotRequest, slotServing) {
					continue
				}
				served++
				n := copy(message[:], s.message[:min(atomic.LoadUint32(&s.length), CallBytes)])
				answer, ok := unguarded(func() ([]byte, bool) { return handle(message[:n], Later{page: p, slot: s}) })
				if !ok {
					return nil
				}
				if answer != nil {
					s.answer(answer)
				}
			}
			if served == 0 {
				p.calls.wait(seen, ended)
			}
		}
		return nil
	})
}

// unguarded calls f, whose accesses are none of guard's business.
func unguarded(f func() ([]byte, bool)) ([]byte, bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(false))
	return f()
}

// Later is a call that is to be answered when others have been served: one that waits for something.
type Later struct {
	page *Page
	slot *callSlot
}

// Answer answers the call; it may be called once, from any goroutine, also after Close. b is at most CallBytes long.
func (l Later) Answer(b []byte) {
	if l.page.enter() {
		defer l.page.leave()
		l.page.guard(func() error { l.slot.answer(b); return nil }) // ServeCalls tells of a page that has been cut
	}
}

// answer gives the client its answer, if it still wants one.
func (s *callSlot) answer(b []byte) {
	atomic.StoreUint32(&s.length, uint32(copy(s.message[:], b)))
	if !atomic.CompareAndSwapUint32(&s.state, slotServing, slotAnswered) {
		atomic.CompareAndSwapUint32(&s.state, slotAbandoned, slotFree)
		return
	}
	if atomic.SwapUint32(&s.clientSleeps, 0) != 0 {
		futexWake(&s.state)
	}
}

// StopCalls has ServeCalls look whether it is to stop.
func (p *Page) StopCalls() {
	if p.enter() {
		defer p.leave()
		p.guard(func() error { p.calls.ring(); return nil })
	}
}

var (
	// ErrUntaken: the call was not made, nobody has taken it up in time.
	ErrUntaken = errors.New("the call was not taken up")
	// ErrUnanswered: nobody knows whether the call was served.
	ErrUnanswered = errors.New("the call was not answered")
)

// Calls is the client's half of the call slots. Its methods may be called from any goroutine.
type Calls struct {
	shared *sharedPage
	region []byte
	misses atomic.Int32 // of the last calls, how many were not answered while they polled
	rest   atomic.Int32 // so many calls are not made: see poll

	using sync.RWMutex // held by calls, so that Close waits for them
	ended bool         // protected by using
}

// NewCalls makes the client's half for the server's fault page, which stays the caller's.
func NewCalls(page *os.File) (*Calls, error) {
	shared, region, err := mapPage(page)
	if err != nil {
		return nil, fmt.Errorf("fault page: %w", err)
	}
	if shared.magic != pageMagic {
		unix.Munmap(region)
		return nil, errVersions
	}
	return &Calls{shared: shared, region: region}, nil
}

// Close waits for calls that are under way. Those that come are not made: ErrUntaken.
func (c *Calls) Close() error {
	c.using.Lock()
	defer c.using.Unlock()
	if c.ended {
		return nil
	}
	c.ended = true
	return unix.Munmap(c.region)
}

const (
	mostRest    = 64                    // calls that are not made at a time
	takeUpLimit = time.Millisecond      // in which a server that polls or is woken takes up a call, if it is not busy with another one
	callNap     = 10 * time.Millisecond // how often a waiting call looks whether there still is a connection
)

// Do makes a call, of a message of at most CallBytes, and returns the answer. lost says whether the connection, without
// which nobody serves calls, is lost. ErrUntaken, ErrUnanswered.
//
// Costs: nothing but memory where both sides poll; otherwise up to three system calls on this side, two on the other.
func (c *Calls) Do(message []byte, lost func() bool) ([]byte, error) {
	c.using.RLock()
	defer c.using.RUnlock()
	if c.ended {
		return nil, ErrUntaken
	}
	if c.rest.Load() > 0 {
		c.rest.Add(-1)
		return nil, ErrUntaken
	}
	s := c.claim()
	if s == nil {
		return nil, ErrUntaken
	}
	atomic.StoreUint32(&s.length, uint32(copy(s.message[:], message)))
	atomic.StoreUint32(&s.state, slotRequest)
	atomic.AddUint32(&c.shared.callBell, 1)
	if atomic.LoadUint32(&c.shared.callSleeps) != 0 && atomic.SwapUint32(&c.shared.callSleeps, 0) != 0 {
		futexWake(&c.shared.callBell)
	}
	c.poll(s)
	return c.await(s, lost)
}

// poll waits for an answer for a moment. If none comes, most likely both sides want the same CPU, because others have the
// rest: then neither gets on while the other polls, and the next calls, more and more, had better be made in a way in
// which nobody does.
func (c *Calls) poll(s *callSlot) {
	rounds, _ := pollRounds()
	for ; rounds > 0; rounds-- {
		if atomic.LoadUint32(&s.state) > slotServing {
			if c.misses.Load() > 0 {
				c.misses.Store(0)
			}
			return
		}
		pause()
	}
	c.rest.Store(int32(min(1<<min(c.misses.Add(1), 16), mostRest)))
}

// claim takes a free slot; nil when there is none. The first is the one that the server looks at first.
func (c *Calls) claim() *callSlot {
	for i := range c.shared.calls {
		s := &c.shared.calls[i]
		if atomic.LoadUint32(&s.state) == slotFree && atomic.CompareAndSwapUint32(&s.state, slotFree, slotClaimed) {
			return s
		}
	}
	return nil
}

// await waits for the answer of a slot and frees it.
func (c *Calls) await(s *callSlot, lost func() bool) ([]byte, error) {
	for nap := takeUpLimit; ; nap = callNap {
		switch state := atomic.LoadUint32(&s.state); state {
		case slotAnswered:
			answer := append([]byte(nil), s.message[:min(s.length, CallBytes)]...)
			s.free()
			return answer, nil
		case slotVoid:
			s.free()
			return nil, ErrUnanswered
		case slotRequest, slotServing:
			atomic.StoreUint32(&s.clientSleeps, 1)
			napped := futexWait(&s.state, state, nap)
			gone := lost() || atomic.LoadUint32(&c.shared.closed) != 0
			switch {
			case (napped || gone) && atomic.CompareAndSwapUint32(&s.state, slotRequest, slotFree):
				return nil, ErrUntaken
			case gone && atomic.CompareAndSwapUint32(&s.state, slotServing, slotAbandoned):
				return nil, ErrUnanswered
			}
		default: // not a server
			return nil, ErrUnanswered
		}
	}
}

func (s *callSlot) free() {
	atomic.StoreUint32(&s.clientSleeps, 0)
	atomic.StoreUint32(&s.state, slotFree)
}
