package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/wire"
)

const (
	// workers is how many requests of one connection are served at a time: enough for a client to have all CPUs
	// busy, and few enough that one client's large writes do not fill the memory.
	workers = 16
	// helloTimeout is how long a connection may take to say who it is.
	helloTimeout = 10 * time.Second
	// garbage is how many bytes of garbage a server lets lie: as many as it has live, and so many more, for it holds a piece
	// of that size, which is never touched and takes no memory. What is live is a few MiB, which would have the garbage
	// collected hundreds of times a second, each time on the CPU that a client's next request waits for.
	garbage = 64 << 20
)

// Serve accepts clients until ctx is done; then it takes back what they have mapped, ends their connections and waits
// until all is still. It closes the listener. The server can then be closed.
//
// When a client has cut the power it returns medium.ErrPowerCut and leaves the listener open, for what Restart returns.
func (s *Server) Serve(ctx context.Context, l *Listener) error {
	defer runtime.KeepAlive(make([]byte, garbage))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	v := s.begin(cancel)
	s.attend()
	failed := s.accept(ctx, l)
	close(v.refusing)
	off := s.off.Load()
	if off {
		<-v.answered
	}
	if !off || failed != nil {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			failed = errors.Join(failed, err)
		}
	}
	cancel()
	s.retreat()
	s.clients.Wait()
	if off && failed == nil {
		return medium.ErrPowerCut
	}
	return failed
}

// accept accepts clients until ctx is done.
func (s *Server) accept(ctx context.Context, l *Listener) error {
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		l.SetDeadline(time.Unix(1, 0)) // an error: it is closed
		close(woken)
	})
	defer func() {
		if !stop() {
			<-woken
			l.SetDeadline(time.Time{})
		}
	}()
	for ctx.Err() == nil {
		c, err := l.AcceptUnix()
		if err == nil {
			s.clients.Go(func() { s.serveConn(ctx, c, l.access) })
			continue
		}
		if ctx.Err() != nil {
			break
		}
		if !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) && !errors.Is(err, unix.ECONNABORTED) {
			return err
		}
		s.logf("accept: %v", err)
		time.Sleep(100 * time.Millisecond) // until somebody closes a descriptor
	}
	return nil
}

// retreat ends every remote session, after taking back what it has mapped.
func (s *Server) retreat() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	var all sync.WaitGroup
	s.endExports()
	for _, sess := range s.all() {
		r := sess.remote()
		if r == nil {
			continue
		}
		all.Go(func() {
			for _, m := range sess.mappings.all() {
				if s.off.Load() {
					break // CutPower has taken back what it could
				}
				if err := sess.revoke(m); err != nil {
					s.logf("process %d: %v; the pool cannot be opened again until it has ended", sess.pid, err)
					break // the others would take as long
				}
			}
			r.page.Close() // first, so that who sees the end of the connection knows that it is the end
			sess.hangUp()
			sess.Close()
		})
	}
	all.Wait()
}

// serveConn is the life of a connection.
func (s *Server) serveConn(ctx context.Context, c *net.UnixConn, a Access) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	sess, err := s.hello(c, a)
	stop() // from now on retreat sees to it
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, io.EOF) {
			s.logf("a client was refused: %v", err)
		}
		return
	}
	sess.serve(c)
}

// serve is the life of a session, from its connection on.
func (s *Session) serve(c *net.UnixConn) {
	if s.heir == nil {
		s.startFaults()
	}
	stopCalls := s.startCalls()
	err := s.serveRequests(c)
	stopCalls()
	if err != nil && !s.srv.ending() {
		s.srv.logf("process %d was disconnected: %v", s.pid, err)
	}
	c.Close()
	s.closeHandles()
	if len(s.mappings.all()) > 0 {
		s.remote().gone() // until then it can still store
	}
	s.Close()
	s.faults.Wait()
}

// requests is the serving of one connection by a few goroutines: one reads, the others serve what they have read or
// wait for their turn. Whoever has read a request serves it, so that no other goroutine must be woken before the
// reply.
type requests struct {
	sess *Session
	conn *net.UnixConn
	all  sync.WaitGroup

	reading sync.Mutex
	in      *bufio.Reader // protected by reading
	err     error         // protected by reading: why no more is read
	servers int           // protected by reading: goroutines there are

	idle    atomic.Int64 // goroutines that wait for reading
	writing sync.Mutex   // a frame at a time
}

// serveRequests serves requests until the connection ends: nil, or breaks the protocol: why.
func (s *Session) serveRequests(c *net.UnixConn) error {
	r := &requests{sess: s, conn: c, in: bufio.NewReaderSize(c, 64<<10), servers: 1}
	r.all.Go(r.serve)
	r.all.Wait()
	if errors.Is(r.err, io.EOF) || errors.Is(r.err, net.ErrClosed) || errors.Is(r.err, unix.ECONNRESET) {
		return nil
	}
	return r.err
}

func (r *requests) serve() {
	for {
		q := r.next()
		if q == nil {
			return
		}
		r.answer(q)
	}
}

// next reads a request, and sees to it that somebody reads the one after it. nil: there are no more.
func (r *requests) next() *wire.Request {
	r.idle.Add(1)
	r.reading.Lock()
	defer r.reading.Unlock()
	r.idle.Add(-1)
	if r.err != nil {
		return nil
	}
	body, err := wire.ReadFrame(r.in)
	if err != nil {
		r.err = err
		return nil
	}
	q, err := wire.DecodeRequest(body)
	if err != nil {
		r.err = err
		return nil
	}
	if r.idle.Load() == 0 && r.servers < workers {
		r.servers++
		r.all.Go(r.serve)
	}
	return q
}

func (r *requests) answer(q *wire.Request) {
	reply := r.sess.Do(q)
	defer wire.CloseFiles(reply.Files)
	if cutter := r.sess.cutter.Load(); cutter {
		defer r.sess.srv.end()
	} else if r.sess.srv.off.Load() {
		return // a machine without power answers nobody
	}
	frame, err := appendReply(nil, q.ID, reply)
	r.writing.Lock()
	defer r.writing.Unlock()
	if err == nil {
		err = wire.WriteFiles(r.conn, frame, reply.Files)
	}
	if err != nil {
		r.conn.Close() // a frame may be half written; the reading ends
	}
}

// appendReply appends the frame of the reply to a request, or of one that says why there is none.
func appendReply(b []byte, id uint32, reply *wire.Reply) ([]byte, error) {
	numbered := *reply
	numbered.ID = id
	frame, err := wire.AppendReply(b, &numbered)
	if err != nil {
		frame, err = wire.AppendReply(b, &wire.Reply{ID: id, Errno: uint16(unix.EMSGSIZE), Detail: err.Error()})
	}
	return frame, err
}

// startCalls serves the short requests that come through the fault page, until stop has returned: one after the other, but for
// those that wait for the medium, which would keep others waiting and could not share its system calls.
func (s *Session) startCalls() (stop func()) {
	var stopped atomic.Bool
	var serving sync.WaitGroup
	var waiting atomic.Int32
	page := s.remote().page
	serving.Go(func() {
		var q wire.Request // nobody keeps a short request that is served before the next one
		var buf []byte
		err := page.ServeCalls(stopped.Load, func(message []byte, later fault.Later) (answer []byte, ok bool) {
			if !s.decodeShort(&q, message) {
				return nil, false
			}
			if !s.awaitsMedium(&q) || waiting.Load() >= workers {
				if buf, ok = s.answerShort(&q, buf[:0]); !ok {
					return nil, false
				}
				return wire.Body(buf), true
			}
			own := new(wire.Request)
			own.Decode(bytes.Clone(message)) // as above
			waiting.Add(1)
			serving.Go(func() {
				defer waiting.Add(-1)
				if frame, ok := s.answerShort(own, nil); ok {
					later.Answer(wire.Body(frame))
				}
			})
			return nil, true
		})
		if err != nil {
			s.srv.logf("short requests of process %d: %v", s.pid, err)
		}
	})
	return func() {
		stopped.Store(true)
		page.StopCalls()
		serving.Wait()
	}
}

// decodeShort decodes a short request. A client that sends something else is hung up on.
func (s *Session) decodeShort(q *wire.Request, message []byte) bool {
	err := q.Decode(message)
	if err == nil && !q.Short() {
		err = fmt.Errorf("%w: operation %d is not short", wire.ErrMalformed, q.Op)
	}
	if err != nil {
		s.srv.logf("process %d: %v", s.pid, err)
		s.hangUp()
	}
	return err == nil
}

// answerShort does a request and appends the frame of the reply, unless there is to be none.
func (s *Session) answerShort(q *wire.Request, b []byte) (frame []byte, ok bool) {
	reply := s.Do(q)
	if s.srv.off.Load() {
		return nil, false // a machine without power answers nobody
	}
	frame, err := appendReply(b, q.ID, reply)
	return frame, err == nil
}

// hello makes a session of a connection whose first request is Hello and who may connect.
func (s *Server) hello(c *net.UnixConn, a Access) (*Session, error) {
	if err := c.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return nil, err
	}
	body, err := wire.ReadFrame(c)
	if err != nil {
		return nil, err
	}
	q, err := wire.DecodeRequest(body)
	if err != nil {
		return nil, err
	}
	sess, err := s.welcome(c, a, q)
	if err != nil {
		r := errorReply(err)
		r.ID = q.ID
		frame, encodeErr := wire.AppendReply(nil, r)
		if encodeErr == nil {
			_, encodeErr = c.Write(frame)
		}
		return nil, errors.Join(err, encodeErr)
	}
	return sess, c.SetDeadline(time.Time{})
}

// checkHello checks that the first request of a client is Hello, in this version of the protocol.
func checkHello(q *wire.Request) error {
	if q.Op != wire.OpHello || q.Offset != wire.Version {
		return fmt.Errorf("the client speaks version %d of the protocol, the server %d: %w", q.Offset, wire.Version, unix.EPROTONOSUPPORT)
	}
	return nil
}

// welcome checks who is there and hands over the descriptors.
func (s *Server) welcome(c *net.UnixConn, a Access, q *wire.Request) (*Session, error) {
	if err := checkHello(q); err != nil {
		return nil, err
	}
	if q.Flags&wire.HelloResume != 0 {
		return s.resume(c, a, q)
	}
	p, err := findPeer(c)
	if err != nil {
		return nil, err
	}
	ok, readOnly := a.allows(p.cred, s.owners...)
	if !ok {
		unix.Close(p.pidfd)
		return nil, refused(p)
	}
	readOnly = readOnly || q.Flags&wire.HelloReadOnly != 0
	r, err := s.newRemote(p, readOnly, false)
	if err != nil {
		return nil, err
	}
	sess := newSession(s, p.pid, p.cred, readOnly)
	sess.taker = r
	sess.conn.Store(c)
	if err := s.admit(sess); err != nil {
		r.close()
		return nil, err
	}
	greet := func(frame []byte, files []int) error { return wire.WriteFiles(c, frame, files) }
	if err := sess.greet(&wire.Reply{ID: q.ID}, r, sess.readOnly, greet); err != nil {
		sess.Close()
		return nil, err
	}
	return sess, nil
}

func refused(p peer) error {
	return fmt.Errorf("user %d (process %d) may not use this pool: %w", p.cred.UID, p.pid, unix.EACCES)
}

// Hello says what a client must know before it can map.
func (s *Session) Hello() *wire.Hello {
	base, flags, align := s.srv.pool.ClientMapping()
	h := &wire.Hello{
		Version: wire.Version, MapMask: s.MapMask(), MapFlags: uint32(flags), Granularity: uint32(s.srv.granularity()),
		Base: base, Align: align, DataBytes: s.srv.report.DataSize, PID: int64(os.Getpid()),
	}
	if s.readOnly {
		h.ReadOnly = 1
	}
	return h
}

// greet answers Hello: it adds to a reply what every client must know and have. readOnly is for the data area.
func (s *Session) greet(reply *wire.Reply, r *remote, readOnly bool, send func(frame []byte, files []int) error) error {
	slot := -1
	if r.record != nil {
		slot, reply.Data = r.record.Slot(), wire.AppendToken(nil, tokenOf(r.record))
	}
	data, err := s.srv.pool.ClientFile(readOnly, slot)
	if err != nil {
		return err
	}
	defer data.Close()
	page, err := duplicate(r.page.File()) // the session may be ended meanwhile, and its number be another file's
	if err != nil {
		return err
	}
	defer unix.Close(page)
	reply.Hello, reply.Files = s.Hello(), append(reply.Files, page, int(data.Fd()), int(s.srv.progress.Fd()))
	frame, err := wire.AppendReply(nil, reply)
	if err != nil {
		return err
	}
	return send(frame, reply.Files)
}

// duplicate returns another descriptor of a file, which may be closed meanwhile.
func duplicate(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	controlErr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(controlErr, err)
}

var _ core.Breaker = breaker{}
