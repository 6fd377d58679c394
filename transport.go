package pmemfs

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/server"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// transport carries a request to whoever serves the pool and returns its reply: over a socket, or by a call into
// the server's own code when this process owns the pool. An error means that there is no reply; a reply with an
// errno is no error of the transport. Safe for concurrent use. The request may be reused once Do has returned.
type transport interface {
	Do(*wire.Request) (*wire.Reply, error)
	Close() error
}

// embedded is the transport of a pool that this process owns.
type embedded struct {
	srv     *server.Server
	session *server.Session
	space   *addressSpace

	using sync.RWMutex // held by requests, so that Close waits for them
	done  bool         // protected by using
	off   bool         // protected by using: the power was cut
}

func (e *embedded) Do(q *wire.Request) (*wire.Reply, error) {
	e.using.RLock()
	defer e.using.RUnlock()
	if e.done {
		return nil, fs.ErrClosed
	}
	if e.off {
		return nil, ErrServerGone
	}
	r := e.session.Do(q)
	e.space.restore()
	return r, nil
}

func (e *embedded) Close() error {
	e.using.Lock()
	defer e.using.Unlock()
	e.done = true
	return e.srv.Close()
}

// connection is the transport to a server. Requests of several goroutines are under way at the same time and are told
// apart by their numbers.
type connection struct {
	conn   *net.UnixConn
	onGone func()        // called once, when the connection is lost
	lost   chan struct{} // closed after onGone

	writing sync.Mutex // a frame at a time

	mu      sync.Mutex
	pending map[uint32]chan<- *wire.Reply // protected by mu; nil once the connection is lost
	last    uint32                        // protected by mu
}

func newConnection(c *net.UnixConn, onGone func()) *connection {
	t := &connection{conn: c, onGone: onGone, lost: make(chan struct{}), pending: map[uint32]chan<- *wire.Reply{}}
	go t.receive()
	return t
}

// expect registers a request and gives it its number.
func (t *connection) expect(q *wire.Request) (<-chan *wire.Reply, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pending == nil {
		return nil, ErrServerGone
	}
	for {
		t.last++
		if _, used := t.pending[t.last]; !used {
			break
		}
	}
	q.ID = t.last
	c := make(chan *wire.Reply, 1)
	t.pending[q.ID] = c
	return c, nil
}

// settle ends the wait for a reply; a nil one says that there is none.
func (t *connection) settle(id uint32, r *wire.Reply) {
	t.mu.Lock()
	c := t.pending[id]
	delete(t.pending, id)
	t.mu.Unlock()
	if c != nil {
		c <- r
	} else if r != nil {
		wire.CloseFiles(r.Files) // nobody has asked
	}
}

func (t *connection) Do(q *wire.Request) (*wire.Reply, error) {
	c, err := t.expect(q)
	if err != nil {
		<-t.lost
		return nil, err
	}
	// The frame is a copy made outside of any lock and system call: q.Data may lie in a mapping, where an access can
	// take a page fault or panic.
	frame, err := t.encode(q)
	if err != nil {
		t.settle(q.ID, nil)
		return nil, fmt.Errorf("%w: %w", unix.EMSGSIZE, err)
	}
	t.writing.Lock()
	_, err = t.conn.Write(frame)
	t.writing.Unlock()
	if err != nil {
		t.lose()
	}
	r := <-c
	if r == nil {
		return nil, ErrServerGone
	}
	return r, nil
}

// encode is AppendRequest, and forgets the request when the copying of its data panics.
func (t *connection) encode(q *wire.Request) ([]byte, error) {
	done := false
	defer func() {
		if !done {
			t.settle(q.ID, nil)
		}
	}()
	frame, err := wire.AppendRequest(make([]byte, 0, 256+len(q.Path)+len(q.Path2)+len(q.Data)), q)
	done = true
	return frame, err
}

// receive hands replies to those who wait for them, until the connection ends.
func (t *connection) receive() {
	defer t.lose()
	in := wire.NewReceiver(t.conn)
	for {
		r, err := in.Next()
		if err != nil {
			return // the end, or not a server
		}
		t.settle(r.ID, r)
	}
}

// lose ends the connection for everybody: first for the mappings, so that whoever gets an error from a call finds
// them inaccessible already.
func (t *connection) lose() {
	t.mu.Lock()
	waiting := t.pending
	t.pending = nil
	t.mu.Unlock()
	if waiting == nil {
		return
	}
	t.conn.Close()
	t.onGone()
	close(t.lost)
	for _, c := range waiting {
		c <- nil
	}
}

func (t *connection) Close() error {
	t.lose()
	return nil
}

// connect connects to a socket, waiting up to wait for somebody to listen.
func connect(socket string, wait time.Duration) (*net.UnixConn, error) {
	deadline := time.Now().Add(wait)
	for {
		c, err := connectOnce(socket)
		absent := errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)
		if !absent || !time.Now().Before(deadline) {
			return c, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func connectOnce(socket string) (*net.UnixConn, error) {
	// By a descriptor, because a socket's address has room for 107 bytes only.
	fd, err := unix.Open(socket, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d", fd), Net: "unix"})
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // without the name that is only of use here
	}
	return c, err
}
