package pmemfs

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// connection is the transport to a server, which may die and be followed by another one that takes over what this
// client has: then the connection is made anew. Page faults do not wait for that: see package fault.
//
// Invariant: a link is current from the moment when others can get it until it is lost; gone is final.
type connection struct {
	held  *belongings
	calls *fault.Calls // nil: there are none
	space *addressSpace
	way   *wayBack // nil: there is none

	closed  atomic.Pointer[closedHandle] // one that the server has not been told of; nil: none
	closing atomic.Bool                  // a timer runs after which it is told

	mu      sync.Mutex
	link    *link         // protected by mu; nil: there is none now
	list    uint64        // protected by mu: of the belongings, by which the link was resumed
	turn    chan struct{} // protected by mu: closed when there is a link again, or none will come
	gone    bool          // protected by mu: none will come
	hurried bool          // protected by mu: nobody waits for one any more
	lost    chan struct{} // closed when no mapping can be accessed any more, which follows gone
}

// wayBack is how to get to another server that takes the session over.
type wayBack struct {
	socket   string // absolute; "": the connection did not come by a name, and cannot be made anew
	token    wire.Token
	hello    *wire.Hello // what the other server must say as well
	patience time.Duration
}

// newConnection makes a transport of a connection after Hello. way is nil when the session ends with the server.
func newConnection(c *net.UnixConn, space *addressSpace, way *wayBack) *connection {
	t := &connection{held: newBelongings(), space: space, way: way, turn: make(chan struct{}), lost: make(chan struct{})}
	t.calls, _ = fault.NewCalls(space.opts.Page) // without them everything goes over the connection
	t.come(c, 0)
	return t
}

// come makes a connection the current link, unless the connection is given up.
func (t *connection) come(c *net.UnixConn, list uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone {
		c.Close()
		return
	}
	t.link, t.list = newLink(c, t.calls, t.held, t.down), list
	close(t.turn)
	go t.link.receive()
}

// await returns the link, when there is one. ErrServerGone: there will be none.
func (t *connection) await() (l *link, list uint64, err error) {
	for {
		t.mu.Lock()
		l, list, turn, gone := t.link, t.list, t.turn, t.gone
		t.mu.Unlock()
		switch {
		case gone:
			<-t.lost
			return nil, 0, ErrServerGone
		case l != nil:
			return l, list, nil
		}
		<-turn
	}
}

// closedHandle is a handle that the program has closed. When the session is resumed by a list that does not have it, which
// those after the first before of them have not, the server has dropped it, and may have given its number to another file.
type closedHandle struct {
	handle uint32
	before uint64
}

// closeDelay is how long the server is not told of a handle that was closed, if there is no request to tell it with.
const closeDelay = time.Millisecond

// Do does a request. The server learns of a handle that is closed with the next request, before that is served, or soon:
// closing it has no outcome, and waiting for none would cost as much as creating the file. What a handle keeps from others,
// the blocks of a file without a name, so are free for this client's next request; seals and pins are not of handles.
func (t *connection) Do(q *wire.Request) (*wire.Reply, error) {
	if q.Op == wire.OpClose && t.closeLater(q.Handle) {
		return &wire.Reply{}, nil
	}
	if len(q.Data) > 0 {
		t.closeNow() // and not with q: the copying of its data may panic
		return t.send(q, nil)
	}
	closed := t.closed.Swap(nil)
	r, err := t.send(q, closed)
	if closed != nil && errors.Is(err, unix.EMSGSIZE) { // it was too long to be sent
		t.sendClose(closed)
	}
	return r, err
}

// closeLater sees to it that the server will be told of a handle that is closed. false: it is to be told now.
func (t *connection) closeLater(handle uint32) bool {
	t.mu.Lock()
	up := t.link != nil
	t.mu.Unlock()
	if !up || t.closed.Load() != nil {
		return false
	}
	before, _ := t.held.giveUp(&wire.Request{Op: wire.OpClose, Handle: handle})
	c := &closedHandle{handle, before}
	if !t.closed.CompareAndSwap(nil, c) {
		t.sendClose(c) // another one has come first; before stays what it was when this handle was given up
		return true
	}
	if !t.closing.Swap(true) {
		time.AfterFunc(closeDelay, func() {
			t.closing.Store(false) // before it looks: whoever closes another one afterwards begins anew
			t.closeNow()
		})
	}
	return true
}

// closeNow tells the server of the handle that it has not been told of.
func (t *connection) closeNow() {
	if closed := t.closed.Swap(nil); closed != nil {
		t.sendClose(closed)
	}
}

// sendClose ignores an error: the server is gone, and the handle with it.
func (t *connection) sendClose(c *closedHandle) {
	t.sendAs(&wire.Request{Op: wire.OpClose, Handle: c.handle}, c.before, true, nil)
}

// send sends a request, and with it, unless nil, which handle is closed.
func (t *connection) send(q *wire.Request, closed *closedHandle) (*wire.Reply, error) {
	before, released := t.held.giveUp(q)
	return t.sendAs(q, before, released, closed)
}

// sendAs sends a request again when the connection is lost and no harm can come of that. Requests that give something
// back are done when the session is resumed: the server then drops what this client does not name. Only Unmap waits
// for that: until then the server may take the mapping's pages back, and they must not be another mapping's. before and
// released are what giveUp says of the request.
func (t *connection) sendAs(q *wire.Request, before uint64, released bool, closed *closedHandle) (*wire.Reply, error) {
	for {
		if released && q.Op != wire.OpUnmap && t.isDown() {
			return &wire.Reply{}, nil
		}
		l, list, err := t.await()
		if err != nil {
			return nil, err
		}
		if released && list > before {
			return &wire.Reply{}, nil
		}
		if q.Closed = 0; closed != nil && list <= closed.before {
			q.Closed = closed.handle
		}
		r, err := l.do(q)
		switch {
		case errors.Is(err, errUnsent):
		case !errors.Is(err, errLost):
			return r, err
		case !released && !repeatable(q):
			return nil, ErrServerGone
		}
	}
}

// repeatable says whether a request may be made twice: it changes nothing that can be read; or what it gives is dropped
// when the session is resumed, if nobody has learnt of it. A clone may not: the second would be one of what its source
// holds by then, in the place of what others may have made of the first.
func repeatable(q *wire.Request) bool {
	switch q.Op {
	case wire.OpInfo, wire.OpStatfs, wire.OpStats, wire.OpRead, wire.OpStat, wire.OpList, wire.OpSeek, wire.OpExtent,
		wire.OpLookup, wire.OpReadlink, wire.OpGetXattr, wire.OpListXattr, wire.OpSync, wire.OpMapSync, wire.OpVerify,
		wire.OpMap, wire.OpMapClone, wire.OpPin, wire.OpExport, wire.OpDefrag, wire.OpDefragLook,
		wire.OpSnapshots, wire.OpSnapshotDiff:
		return true
	case wire.OpOpen:
		return q.Flags&(unix.O_CREAT|unix.O_TRUNC) == 0
	}
	return false
}

// down follows the loss of a link. When it returns without another link to come, no mapping can be accessed any more.
func (t *connection) down(l *link) {
	t.mu.Lock()
	if t.link != l || t.gone {
		t.mu.Unlock()
		return
	}
	t.link, t.turn = nil, make(chan struct{})
	hurried := t.hurried
	t.mu.Unlock()
	switch {
	case t.way == nil || hurried || t.space.serverEnded():
		t.end()
	case t.way.socket == "":
		t.mute()
	default:
		go t.comeBack()
	}
}

// end gives up: first the mappings, so that whoever gets an error from a call finds them inaccessible already.
func (t *connection) end() {
	if l, first := t.finish(); first {
		t.space.abandon()
		close(t.lost)
		if l != nil {
			l.lose()
		}
	}
	<-t.lost
}

// mute is for a connection that cannot be made anew: calls fail from now on. The next server serves the mappings, if
// it comes in time, until it ends.
func (t *connection) mute() {
	if _, first := t.finish(); !first {
		return
	}
	close(t.lost)
	go func() {
		for deadline := time.Now().Add(t.way.patience); ; time.Sleep(comeBackPause) {
			late := time.Now().After(deadline) && !t.space.takenOver()
			if late || t.space.isGone() || t.space.serverEnded() {
				t.space.abandon()
				return
			}
		}
	}()
}

// finish lets all calls fail from now on; first is false when they do already.
func (t *connection) finish() (l *link, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone {
		return nil, false
	}
	t.gone = true
	l, t.link = t.link, nil
	if l == nil {
		close(t.turn)
	}
	return l, true
}

// isDown says that there is no server, and that one may come.
func (t *connection) isDown() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.link == nil && !t.gone
}

func (t *connection) isGone() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.gone
}

// hurry is called when nobody wants to wait for a server any more.
func (t *connection) hurry() {
	t.mu.Lock()
	t.hurried = true
	down := t.link == nil
	t.mu.Unlock()
	if down {
		t.end()
	}
}

func (t *connection) Close() error {
	t.end()
	if t.calls != nil {
		return t.calls.Close()
	}
	return nil
}

// comeBackPause is how long to wait before the next attempt to find a server: one takes longer to start.
const comeBackPause = 10 * time.Millisecond

// comeBack tries to resume the session with another server, as long as there is hope.
func (t *connection) comeBack() {
	for deadline := time.Now().Add(t.way.patience); ; time.Sleep(comeBackPause) {
		c, list, err := t.resume(deadline)
		if err == nil {
			t.come(c, list)
			return
		}
		if errors.Is(err, errNoWayBack) || time.Now().After(deadline) || t.isGone() || t.space.serverEnded() {
			t.end()
			return
		}
	}
}

// errNoWayBack: no other attempt will do better.
var errNoWayBack = errors.New("the session cannot be resumed")

// resume connects to the server that listens now, if there is one, and resumes the session.
func (t *connection) resume(deadline time.Time) (*net.UnixConn, uint64, error) {
	c, err := connectOnce(t.way.socket)
	if err != nil {
		return nil, 0, err
	}
	list, err := t.resumeOver(c, deadline)
	if err != nil {
		return nil, 0, errors.Join(err, c.Close())
	}
	return c, list, nil
}

func (t *connection) resumeOver(c *net.UnixConn, deadline time.Time) (list uint64, err error) {
	if err := c.SetDeadline(deadline); err != nil {
		return 0, err
	}
	have, list := t.held.list(t.way.token)
	r, err := sayResume(c, have)
	if err != nil {
		return 0, err
	}
	if !t.way.sameAs(r.Hello) {
		return 0, fmt.Errorf("%w: another pool is served at %s", errNoWayBack, t.way.socket)
	}
	if err := t.space.resume(serverPidfd(c), int(r.Hello.PID)); err != nil {
		return 0, fmt.Errorf("%w: %w", errNoWayBack, err)
	}
	return list, c.SetDeadline(time.Time{})
}

// sayResume says Hello. errNoWayBack: the server does not want it.
func sayResume(c *net.UnixConn, have *wire.Resume) (*wire.Reply, error) {
	data, err := wire.EncodeResume(have)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoWayBack, err)
	}
	frame, err := wire.AppendRequest(nil, &wire.Request{
		ID: 1, Op: wire.OpHello, Offset: wire.Version, Flags: wire.HelloResume, Data: data,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoWayBack, err)
	}
	if _, err := c.Write(frame); err != nil {
		return nil, err
	}
	r, err := readHello(c, 0)
	var refused *refusal
	if errors.As(err, &refused) {
		err = fmt.Errorf("%w: %w", errNoWayBack, err)
	}
	return r, err
}

// sameAs says whether what a server says about its pool is what the mappings and the program rely on.
func (w *wayBack) sameAs(h *wire.Hello) bool {
	want, got := *w.hello, *h
	want.PID, got.PID = 0, 0
	return want == got
}
