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
