package fault

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pmemfs/pmemfs/internal/medium/mediumtest"
)

// callServer serves the calls of a page until the test ends.
func callServer(t *testing.T, p *Page, handle func(message []byte) ([]byte, bool)) (stop func() error) {
	t.Helper()
	return laterServer(t, p, func(message []byte, _ Later) ([]byte, bool) { return handle(message) })
}

// laterServer is callServer with a handler that may answer later.
func laterServer(t *testing.T, p *Page, handle func(message []byte, later Later) ([]byte, bool)) (stop func() error) {
	t.Helper()
	var stopped atomic.Bool
	served := make(chan error, 1)
	go func() { served <- p.ServeCalls(stopped.Load, handle) }()
	return func() error {
		stopped.Store(true)
		p.StopCalls()
		select {
		case err := <-served:
			return err
		case <-time.After(testTimeout):
			t.Fatal("ServeCalls does not end")
			return nil
		}
	}
}

func callPage(t *testing.T) (*Page, *Calls) {
	t.Helper()
	p, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, callsOf(t, p)
}

func callsOf(t *testing.T, p *Page) *Calls {
	t.Helper()
	c, err := NewCalls(p.File())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func never() bool { return false }

// untilTaken makes a call until it is taken up, as it may not be on a busy machine.
func untilTaken(c *Calls, message []byte, lost func() bool) (answer []byte, err error) {
	for err = ErrUntaken; err == ErrUntaken; {
		answer, err = c.Do(message, lost)
	}
	return answer, err
}

// TestCalls: each call that is answered gets its own answer, whoever else calls, and messages of any length go through.
func TestCalls(t *testing.T) {
	p, c := callPage(t)
	stop := callServer(t, p, func(message []byte) ([]byte, bool) {
		answer := bytes.Clone(message)
		for i := range answer {
			answer[i] ^= 0xff
		}
		return answer, true
	})
	var all sync.WaitGroup
	var answered atomic.Int64
	for g := range 2 * callSlots {
		all.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(g)))
			for range 300 {
				message := make([]byte, random.IntN(CallBytes+1))
				for i := range message {
					message[i] = byte(random.Uint32())
				}
				answer, err := c.Do(message, never)
				if err == ErrUntaken { // as it may be on a busy machine
					continue
				}
				for i := range answer {
					answer[i] ^= 0xff
				}
				if err != nil || !bytes.Equal(answer, message) {
					t.Errorf("a message of %d bytes was answered by %d bytes, %v", len(message), len(answer), err)
					return
				}
				answered.Add(1)
			}
		})
	}
	all.Wait()
	if err := stop(); err != nil || answered.Load() == 0 {
		t.Error(answered.Load(), err)
	}
	if _, err := c.Do([]byte("x"), never); err != ErrUntaken {
		t.Errorf("nobody serves: %v", err)
	}
	p.Close()
	if _, err := c.Do([]byte("x"), never); err != ErrUntaken {
		t.Errorf("closed by the server: %v", err)
	}
	c.Close()
	if _, err := c.Do([]byte("x"), never); err != ErrUntaken {
		t.Errorf("closed: %v", err)
	}
}

// TestCallsBehindLongOne: who calls while another call takes long does not wait for it, and that one is answered.
func TestCallsBehindLongOne(t *testing.T) {
	p, c := callPage(t)
	begun, end := make(chan bool, 1), make(chan bool)
	stop := callServer(t, p, func(message []byte) ([]byte, bool) {
		if string(message) == "long" {
			begun <- true
			<-end
		}
		return append([]byte("not "), message...), true
	})
	long := make(chan string, 1)
	go func() {
		for {
			answer, err := c.Do([]byte("long"), never)
			if err != ErrUntaken {
				long <- fmt.Sprint(string(answer), err)
				return
			}
		}
	}()
	<-begun
	for range callSlots + 1 {
		if _, err := c.Do([]byte("short"), never); err != ErrUntaken {
			t.Errorf("behind a long one: %v", err)
		}
	}
	close(end)
	if got := <-long; got != "not long<nil>" {
		t.Errorf("the long one: %s", got)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestCallsOfLostConnection: what is being served when the connection is lost is given up, and its slot is used again.
func TestCallsOfLostConnection(t *testing.T) {
	p, c := callPage(t)
	begun, end := make(chan bool, 1), make(chan bool)
	stop := callServer(t, p, func([]byte) ([]byte, bool) {
		begun <- true
		<-end
		return []byte{}, true
	})
	var lost atomic.Bool
	outcome := make(chan error, 1)
	go func() {
		_, err := untilTaken(c, []byte("x"), lost.Load)
		outcome <- err
	}()
	<-begun
	lost.Store(true)
	if err := <-outcome; err != ErrUnanswered {
		t.Errorf("%v", err)
	}
	close(end)
	if err := stop(); err != nil {
		t.Error(err)
	}
	for i := range p.shared.calls {
		if s := load32(&p.shared.calls[i].state); s != slotFree {
			t.Errorf("slot %d is in state %d", i, s)
		}
	}
}

// TestCallsTakenOver: another server answers none of the calls that its predecessor has left, and serves those that come.
func TestCallsTakenOver(t *testing.T) {
	dead, path := newNamedPage(t)
	c := callsOf(t, dead)
	for _, state := range []uint32{slotRequest, slotServing} {
		s := &dead.shared.calls[0]
		outcome := make(chan error, 1)
		store32(&s.state, state)
		go func() {
			_, err := c.await(s, never)
			outcome <- err
		}()
		heir, err := OpenPage(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-outcome; err != ErrUnanswered && !(state == slotRequest && err == ErrUntaken) {
			t.Errorf("state %d: %v", state, err)
		}
		stop := callServer(t, heir, func([]byte) ([]byte, bool) { return []byte("heir"), true })
		answer, err := untilTaken(c, nil, never)
		if err == nil && string(answer) != "heir" {
			t.Errorf("%q", answer)
		}
		if err := errors.Join(err, stop(), heir.Leave()); err != nil {
			t.Error(err)
		}
	}
}

// TestCallsOfLiar: whatever a client writes into its slots, and when it cuts the page, the server goes on or ends in order.
func TestCallsOfLiar(t *testing.T) {
	p, _ := newNamedPage(t)
	defer p.Close()
	liar := callsOf(t, p)
	served := 0
	stop := callServer(t, p, func(message []byte) ([]byte, bool) {
		if len(message) > CallBytes {
			t.Errorf("a message of %d bytes", len(message))
		}
		served++
		return make([]byte, served%(2*CallBytes)), true
	})
	for start := time.Now(); time.Since(start) < 300*time.Millisecond; {
		s := &liar.shared.calls[rand.IntN(callSlots)]
		store32(&s.length, rand.Uint32())
		store32(&s.clientSleeps, rand.Uint32())
		store32(&s.state, rand.Uint32N(10))
		store32(&liar.shared.callSleeps, rand.Uint32N(2))
		add32(&liar.shared.callBell, rand.Uint32N(2))
		futexWake(&liar.shared.callBell)
	}
	mediumtest.NeedAddress(t)
	if err := p.File().Truncate(0); err != nil {
		t.Fatal(err)
	}
	if err := stop(); !errors.Is(err, errPageGone) {
		t.Errorf("of a page that is gone: %v", err)
	}
	if served == 0 {
		t.Error("nothing was served")
	}
}

// TestCallsAnsweredLater: a call that is answered later keeps nobody waiting, and gets its own answer; one that is answered when
// the page is closed is no harm.
func TestCallsAnsweredLater(t *testing.T) {
	p, c := callPage(t)
	held := make(chan Later, 2)
	stop := laterServer(t, p, func(message []byte, later Later) ([]byte, bool) {
		if bytes.HasPrefix(message, []byte("later")) {
			held <- later
			return nil, true
		}
		return append([]byte("answer to "), message...), true
	})
	type result struct {
		answer []byte
		err    error
	}
	results := make(chan result, 2)
	slow := func() {
		answer, err := untilTaken(c, []byte("later"), never)
		results <- result{answer, err}
	}
	go slow()
	first := <-held
	for i := range 100 {
		message := fmt.Sprint("now ", i)
		if answer, err := untilTaken(c, []byte(message), never); err != nil || string(answer) != "answer to "+message {
			t.Fatalf("%q: %q, %v", message, answer, err)
		}
	}
	select {
	case r := <-results:
		t.Fatalf("answered before the answer: %+v", r)
	default:
	}
	first.Answer([]byte("done"))
	if r := <-results; r.err != nil || string(r.answer) != "done" {
		t.Errorf("%q, %v", r.answer, r.err)
	}
	go slow()
	second := <-held
	if err := errors.Join(stop(), p.Close()); err != nil {
		t.Error(err)
	}
	if r := <-results; r.err != ErrUnanswered {
		t.Errorf("after Close: %q, %v", r.answer, r.err)
	}
	second.Answer([]byte("too late"))
}

// BenchmarkCall is a call that does nothing, in one process with its server.
func BenchmarkCall(b *testing.B) {
	p, err := NewPage()
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	c, err := NewCalls(p.File())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	go p.ServeCalls(never, func(message []byte, _ Later) ([]byte, bool) { return message, true })
	message := make([]byte, 64)
	for b.Loop() {
		if _, err := c.Do(message, never); err != nil && err != ErrUntaken {
			b.Fatal(err)
		}
	}
}
