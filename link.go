package pmemfs

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// link is one connection to one server process. Requests of several goroutines are under way at the same time and are
// told apart by their numbers.
type link struct {
	conn   *net.UnixConn
	calls  *fault.Calls // nil: all requests go over the connection
	held   *belongings
	onLost func(*link) // called once, before those who wait for a reply learn of it
	lost   atomic.Bool

	writing sync.Mutex // a frame at a time

	mu      sync.Mutex
	pending map[uint32]waiting // protected by mu; nil once the connection is lost
	last    uint32             // protected by mu
}

// waiting is a request that is under way, and who waits for the reply.
type waiting struct {
	op     wire.Op
	handle uint32
	reply  chan<- *wire.Reply // gets nil when there is none
}

var (
	// errLost: there is no reply, and nobody knows whether the request was done.
	errLost = errors.New("the connection was lost")
	// errUnsent: the request was not done, for the server did not get all of it.
	errUnsent = errors.New("the connection was lost before the request was sent")
)

func newLink(c *net.UnixConn, calls *fault.Calls, held *belongings, onLost func(*link)) *link {
	return &link{conn: c, calls: calls, held: held, onLost: onLost, pending: map[uint32]waiting{}}
}

// expect registers a request and gives it its number.
func (l *link) expect(q *wire.Request) (<-chan *wire.Reply, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending == nil {
		return nil, errUnsent
	}
	for {
		l.last++
		if _, used := l.pending[l.last]; !used {
			break
		}
	}
	q.ID = l.last
	c := make(chan *wire.Reply, 1)
	l.pending[q.ID] = waiting{op: q.Op, handle: q.Handle, reply: c}
	return c, nil
}

// settle ends the wait for a reply; a nil one says that there is none.
func (l *link) settle(id uint32, r *wire.Reply) {
	l.mu.Lock()
	w, known := l.pending[id]
	delete(l.pending, id)
	l.mu.Unlock()
	switch {
	case known:
		if r != nil {
			l.held.gain(w.op, w.handle, r)
		}
		w.reply <- r
	case r != nil:
		wire.CloseFiles(r.Files) // nobody has asked
	}
}

// do does a request. errLost: it was perhaps done; errUnsent: it was not.
func (l *link) do(q *wire.Request) (*wire.Reply, error) {
	if l.calls != nil && q.Short() {
		if r, err := l.call(q); err != fault.ErrUntaken {
			return r, err
		}
	}
	c, err := l.expect(q)
	if err != nil {
		return nil, err
	}
	// The frame is a copy made outside of any lock and system call: q.Data may lie in a mapping, where an access can
	// take a page fault or panic.
	frame, err := l.encode(q)
	if err != nil {
		l.settle(q.ID, nil)
		return nil, fmt.Errorf("%w: %w", unix.EMSGSIZE, err)
	}
	l.writing.Lock()
	_, err = l.conn.Write(frame)
	l.writing.Unlock()
	if err != nil {
		l.lose()
		err = errUnsent
	} else {
		err = errLost
	}
	if r := <-c; r != nil {
		return r, nil
	}
	return nil, err
}

// A slot holds what may be in one.
const _ = uint(fault.CallBytes - wire.MaxShort)

// shortFrames are buffers for the frames of short requests.
var shortFrames = sync.Pool{New: func() any { return new([]byte) }}

// call does a short request through the fault page. ErrUntaken: it was not done, and can be sent.
func (l *link) call(q *wire.Request) (*wire.Reply, error) {
	if len(q.Data) > wire.MaxShort {
		return nil, fault.ErrUntaken
	}
	room := shortFrames.Get().(*[]byte) // lost if the copying of the data panics, as in encode
	frame, err := wire.AppendRequest((*room)[:0], q)
	*room = frame
	defer shortFrames.Put(room) // the slot has a copy of it
	if err != nil || len(wire.Body(frame)) > wire.MaxShort {
		return nil, fault.ErrUntaken // sending says it, or takes it
	}
	answer, err := l.calls.Do(wire.Body(frame), l.lost.Load)
	if err == fault.ErrUnanswered {
		return nil, errLost
	}
	if err != nil {
		return nil, err
	}
	r, err := wire.DecodeReply(answer)
	if err != nil { // not a server
		l.lose()
		return nil, errLost
	}
	l.held.gain(q.Op, q.Handle, r)
	return r, nil
}

// encode is AppendRequest, and forgets the request when the copying of its data panics.
func (l *link) encode(q *wire.Request) ([]byte, error) {
	done := false
	defer func() {
		if !done {
			l.settle(q.ID, nil)
		}
	}()
	frame, err := wire.AppendRequest(make([]byte, 0, 256+len(q.Path)+len(q.Path2)+len(q.Data)), q)
	done = true
	return frame, err
}

// receive hands replies to those who wait for them, until the connection ends.
func (l *link) receive() {
	defer l.lose()
	in := wire.NewReceiver(l.conn)
	for {
		r, err := in.Next()
		if err != nil {
			return // the end, or not a server
		}
		l.settle(r.ID, r)
	}
}

// lose ends the connection for everybody.
func (l *link) lose() {
	l.mu.Lock()
	all := l.pending
	l.pending = nil
	l.mu.Unlock()
	if all == nil {
		return
	}
	l.lost.Store(true)
	l.conn.Close()
	l.onLost(l)
	for _, w := range all {
		w.reply <- nil
	}
}

// belongings are what the server has given to this client and the client has not given back: what it says that it has
// when it resumes its session with another server process.
type belongings struct {
	mu       sync.Mutex
	handles  map[uint32]struct{}            // protected by mu
	mappings map[uint32]map[uint32]struct{} // protected by mu: with the numbers of their pins
	lists    uint64                         // protected by mu: how many were made
}

func newBelongings() *belongings {
	return &belongings{handles: map[uint32]struct{}{}, mappings: map[uint32]map[uint32]struct{}{}}
}

// gain adds what a reply gives.
func (b *belongings) gain(op wire.Op, handle uint32, r *wire.Reply) {
	if r.Errno != 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch op {
	case wire.OpOpen:
		b.handles[r.Handle] = struct{}{}
	case wire.OpMap, wire.OpMapClone:
		b.mappings[r.Handle] = map[uint32]struct{}{}
	case wire.OpPin:
		if pins := b.mappings[handle]; pins != nil {
			pins[r.Handle] = struct{}{}
		}
	}
}

// giveUp removes what a request is about to give back, before it is sent. released is false for other requests. Lists
// made after the first before of them do not have it.
func (b *belongings) giveUp(q *wire.Request) (before uint64, released bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch q.Op {
	case wire.OpClose:
		delete(b.handles, q.Handle)
	case wire.OpUnmap:
		delete(b.mappings, q.Handle)
	case wire.OpUnpin:
		delete(b.mappings[q.Handle], q.Flags)
	default:
		return 0, false
	}
	return b.lists, true
}

// list lists everything, and tells how many lists there were until now.
func (b *belongings) list(token wire.Token) (r *wire.Resume, before uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r = &wire.Resume{Token: token}
	for n := range b.handles {
		r.Handles = append(r.Handles, n)
	}
	for n, pins := range b.mappings {
		r.Mappings = append(r.Mappings, n)
		for pin := range pins {
			r.Pins = append(r.Pins, wire.Pin{Mapping: n, Number: pin})
		}
	}
	b.lists++
	return r, b.lists
}
