package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/grant"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// lines collects what a server logs.
type lines struct {
	mu   sync.Mutex
	text []string // protected by mu
}

func (l *lines) logf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, fmt.Sprintf(format, args...))
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.text)
}

// newPool makes a pool.
func newPool(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pmemfs-server")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	pool := filepath.Join(dir, "pool")
	meta, data, err := core.Sizes(32<<20, core.FormatOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := medium.Create(pool, meta, data, medium.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(core.Format(p.Meta(), p.Data(), core.FormatOptions{Zeroed: true}), p.Close()); err != nil {
		t.Fatal(err)
	}
	return pool
}

// newServer opens a pool of its own.
func newServer(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Open(newPool(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// serving runs Serve until the test ends.
func serving(t *testing.T, s *Server) (socket string) {
	t.Helper()
	socket, stop, done := startServing(t, s)
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return socket
}

// startServing runs Serve until stop is called. done gets what it returns.
func startServing(t *testing.T, s *Server) (socket string, stop func(), done <-chan error) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "socket")
	l, err := Listen(socket, Access{GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	return socket, cancel, ended
}

// rawClient speaks the protocol by hand.
type rawClient struct {
	t *testing.T
	c *net.UnixConn
}

func connect(t *testing.T, socket string) rawClient {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return rawClient{t, c}
}

func (c rawClient) send(b []byte) {
	c.t.Helper()
	if _, err := c.c.Write(b); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		c.t.Error(err)
	}
}

func (c rawClient) ask(q *wire.Request) *wire.Reply {
	c.t.Helper()
	frame, err := wire.AppendRequest(nil, q)
	if err != nil {
		c.t.Fatal(err)
	}
	c.send(frame)
	body, files, err := wire.ReadFiles(c.c)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, fd := range files {
		unix.Close(fd)
	}
	r, err := wire.DecodeReply(body)
	if err != nil || r.ID != q.ID {
		c.t.Fatal(r, err)
	}
	return r
}

func (c rawClient) hello() rawClient {
	c.t.Helper()
	if r := c.ask(&wire.Request{ID: 1, Op: wire.OpHello, Offset: wire.Version}); r.Errno != 0 || r.Hello == nil {
		c.t.Fatal(r)
	}
	return c
}

// wantDropped checks that the server ends the connection.
func (c rawClient) wantDropped() {
	c.t.Helper()
	if _, err := io.Copy(io.Discard, c.c); err != nil && !errors.Is(err, unix.ECONNRESET) {
		c.t.Error("the connection was not dropped:", err)
	}
}

// Clients that do not speak the protocol are disconnected, and nobody else notices.
func TestBadClients(t *testing.T) {
	var log lines
	s := newServer(t, Options{Logf: log.logf})
	socket := serving(t, s)
	good := connect(t, socket).hello()
	frame := func(body ...byte) []byte {
		return append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	stat, err := wire.AppendRequest(nil, &wire.Request{ID: 5, Op: wire.OpStatfs})
	if err != nil {
		t.Fatal(err)
	}
	for name, bytes := range map[string][]byte{
		"garbage":          bytes.Repeat([]byte("garbage!"), 10000),
		"too long":         {0, 0, 0, 255, 1, 2, 3},
		"empty frame":      frame(),
		"unknown op":       frame(1, 0, 0, 0, 255, 255, 0, 0, 0, 0),
		"unknown field":    frame(1, 0, 0, 0, 3, 0, 0, 0, 0, 128),
		"trailing":         frame(1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 9),
		"after a good one": append(slices.Clone(stat), frame(9)...),
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, socket)
			c.send(bytes)
			c.wantDropped()
			c = connect(t, socket).hello()
			c.send(bytes)
			c.wantDropped()
		})
	}
	t.Run("half a message", func(t *testing.T) {
		for _, c := range []rawClient{connect(t, socket), connect(t, socket).hello()} {
			c.send(stat[:len(stat)-1])
			c.c.Close()
		}
	})
	t.Run("another version", func(t *testing.T) {
		c := connect(t, socket)
		if r := c.ask(&wire.Request{ID: 1, Op: wire.OpHello, Offset: wire.Version + 1}); r.Errno != uint16(unix.EPROTONOSUPPORT) {
			t.Error(r)
		}
		c.wantDropped()
	})
	t.Run("no hello", func(t *testing.T) {
		c := connect(t, socket)
		if r := c.ask(&wire.Request{ID: 1, Op: wire.OpStatfs}); r.Errno != uint16(unix.EPROTONOSUPPORT) {
			t.Error(r)
		}
		c.wantDropped()
	})
	t.Run("hello twice", func(t *testing.T) {
		if r := connect(t, socket).hello().ask(&wire.Request{ID: 1, Op: wire.OpHello, Offset: wire.Version}); r.Errno != uint16(unix.ENOSYS) {
			t.Error(r)
		}
	})
	if r := good.ask(&wire.Request{ID: 7, Op: wire.OpStatfs}); r.Errno != 0 || r.Statfs == nil {
		t.Error("a good client was harmed:", r)
	}
	if len(log.all()) == 0 {
		t.Error("nothing was logged")
	}
}

// What clients can say in messages that are well formed: each is answered by an error, and nothing has changed.
func TestBadRequests(t *testing.T) {
	s := newServer(t, Options{Logf: t.Logf})
	c := connect(t, serving(t, s)).hello()
	open := c.ask(&wire.Request{ID: 2, Op: wire.OpOpen, Path: "f", Flags: unix.O_RDWR | unix.O_CREAT, Mode: 0o600})
	if open.Errno != 0 {
		t.Fatal(open)
	}
	mapReq := wire.Request{Op: wire.OpMap, Handle: open.Handle, Length: blockSize, Flags: wire.MapSync, Address: 1 << 21}
	but := func(change func(*wire.Request)) *wire.Request {
		q := mapReq
		change(&q)
		return &q
	}
	for i, test := range []struct {
		q    *wire.Request
		want unix.Errno
	}{
		{&wire.Request{Op: wire.OpRead, Handle: 99}, unix.EBADF},
		{&wire.Request{Op: wire.OpRead, Handle: open.Handle, Length: 1 << 40}, unix.EINVAL},
		{&wire.Request{Op: wire.OpRead, Handle: open.Handle, Length: -1}, unix.EINVAL},
		{&wire.Request{Op: wire.OpRead, Handle: open.Handle, Offset: -1, Length: 1}, unix.EINVAL},
		{&wire.Request{Op: wire.OpWrite, Handle: open.Handle, Offset: -1, Data: []byte{1}}, unix.EINVAL},
		{&wire.Request{Op: wire.OpWrite, Handle: open.Handle, Offset: 1<<63 - 1, Data: []byte{1}}, unix.EFBIG},
		{&wire.Request{Op: wire.OpList, Handle: open.Handle, Length: 1}, unix.ENOTDIR},
		{&wire.Request{Op: wire.OpSeek, Handle: open.Handle, Flags: 99}, unix.EINVAL},
		{&wire.Request{Op: wire.OpExtent, Handle: open.Handle, Offset: 1}, unix.EINVAL},
		{&wire.Request{Op: wire.OpAlloc, Handle: open.Handle, Offset: 1<<63 - 1, Length: 1<<63 - 1}, unix.EFBIG},
		{&wire.Request{Op: wire.OpMove, Handle: open.Handle, Offset: -1, Length: 1}, unix.EINVAL},
		{&wire.Request{Op: wire.OpSetAttr, Handle: open.Handle, Valid: wire.SetSize, Length: -1}, unix.EINVAL},
		{&wire.Request{Op: wire.OpSetAttr, Handle: open.Handle, Valid: wire.SetSize | wire.SetMode}, unix.EINVAL},
		{&wire.Request{Op: wire.OpRemove, Path: "f", Flags: 1}, unix.EINVAL},
		{&wire.Request{Op: wire.OpRename, Path: "f", Path2: "g", Flags: 1 << 7}, unix.EINVAL},
		{&wire.Request{Op: wire.OpMkdir, Path: "a\x00b"}, unix.EINVAL},
		{&wire.Request{Op: wire.OpMkdir, Path: "../.."}, unix.EEXIST},
		{&wire.Request{Op: wire.OpUnmap, Handle: 99}, unix.EBADF},
		{&wire.Request{Op: wire.OpClone, Handle: 99, Path2: "g"}, unix.EBADF},
		{&wire.Request{Op: wire.OpClone, Path: "../..", Path2: "g"}, unix.EISDIR},
		{&wire.Request{Op: wire.OpCloneRange, Handle: open.Handle, Source: 99}, unix.EBADF},
		{&wire.Request{Op: wire.OpCloneRange, Handle: open.Handle, Source: open.Handle, Length: -1}, unix.EINVAL},
		{&wire.Request{Op: wire.OpDefrag, Handle: open.Handle, Offset: 4096}, unix.EINVAL},
		{&wire.Request{Op: wire.OpDefragLook, Handle: open.Handle, Offset: -2 << 20}, unix.EINVAL},
		{&wire.Request{Op: wire.OpCopyRange, Handle: open.Handle, Source: open.Handle, SourceOffset: -1, Length: 1}, unix.EINVAL},
		{&wire.Request{Op: wire.OpCopyRange, Handle: open.Handle, Source: open.Handle, SourceOffset: 1<<63 - 1, Length: 1<<63 - 1}, 0},
		{&wire.Request{Op: wire.OpPin, Handle: 99}, unix.EBADF},
		{but(func(q *wire.Request) { q.Address = 0 }), unix.EINVAL},
		{but(func(q *wire.Request) { q.Address = 1 }), unix.EINVAL},
		{but(func(q *wire.Request) { q.Address = 1<<64 - blockSize }), unix.EINVAL},
		{but(func(q *wire.Request) { q.Offset = 5 }), unix.EINVAL},
		{but(func(q *wire.Request) { q.Length = 1<<63 - 1 }), unix.EFBIG},
		{but(func(q *wire.Request) { q.Length = 0 }), unix.EINVAL},
		{but(func(q *wire.Request) { q.Flags = 0 }), unix.EINVAL},
		{but(func(q *wire.Request) { q.Flags = 1 << 31 }), unix.EOPNOTSUPP},
	} {
		test.q.ID = uint32(100 + i)
		if r := c.ask(test.q); r.Errno != uint16(test.want) {
			t.Errorf("%+v: %v (%s), want %v", test.q, unix.Errno(r.Errno), r.Detail, test.want)
		}
	}
	m := c.ask(&mapReq)
	for i, q := range []*wire.Request{
		{Op: wire.OpPin, Handle: m.Handle, Length: 1 << 40},
		{Op: wire.OpPin, Handle: m.Handle, Offset: -1, Length: 1},
		{Op: wire.OpPin, Handle: m.Handle},
		{Op: wire.OpMapSync, Handle: m.Handle, Offset: 1<<63 - 1, Length: 1<<63 - 1},
	} {
		q.ID = uint32(200 + i)
		if r := c.ask(q); r.Errno != uint16(unix.EINVAL) {
			t.Errorf("%+v: %v", q, r)
		}
	}
	if r := c.ask(&wire.Request{ID: 300, Op: wire.OpUnpin, Handle: m.Handle, Flags: 7}); r.Errno != uint16(unix.EBADF) {
		t.Error(r)
	}
	if r := c.ask(&wire.Request{ID: 301, Op: wire.OpUnmap, Handle: m.Handle}); r.Errno != 0 {
		t.Error(r)
	}
}

func TestEveryOperationHasAHandler(t *testing.T) {
	for op := wire.OpHello + 1; op < wire.OpEnd; op++ {
		if ops[op].do == nil {
			t.Errorf("operation %d has none", op)
		}
	}
}

// A handler that panics answers EIO and leaves one entry in the log.
func TestPanic(t *testing.T) {
	var log lines
	s := &Session{srv: &Server{opts: Options{Logf: log.logf}}} // without a file system
	r := s.Do(&wire.Request{ID: 9, Op: wire.OpStatfs})
	if r.Errno != uint16(unix.EIO) || r.Detail == "" {
		t.Errorf("%+v", r)
	}
	if all := log.all(); len(all) != 1 || !strings.Contains(all[0], "nil pointer") {
		t.Error(all)
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		errno  unix.Errno
		reason wire.Reason
		detail string
		code   fault.Code
	}{
		{unix.ENOENT, unix.ENOENT, 0, "", fault.CodeIO},
		{fmt.Errorf("more: %w", unix.ENOSPC), unix.ENOSPC, 0, "more: no space left on device", fault.CodeNoSpace},
		{errors.New("what"), unix.EIO, 0, "what", fault.CodeIO},
		{layout.Corrupt("inode", 64, "bad"), unix.EIO, wire.ReasonCorrupt, "damaged inode at meta offset 0x40: bad", fault.CodeIO},
		{&grant.SealedError{PID: 3}, unix.EBUSY, wire.ReasonSealed, (&grant.SealedError{PID: 3}).Error(), fault.CodeBusy},
		{&grant.BreakError{PID: 4, Err: fault.ErrBusy}, unix.EBUSY, 0, "take grants back from process 4: " + fault.ErrBusy.Error(), fault.CodeBusy},
		{unix.ENXIO, unix.ENXIO, 0, "", fault.CodeBeyondEnd},
		{unix.EROFS, unix.EROFS, 0, "", fault.CodeAccess},
	} {
		r := errorReply(c.err)
		if r.Errno != uint16(c.errno) || r.Reason != c.reason || r.Detail != c.detail || faultCode(c.err) != c.code {
			t.Errorf("%v: %+v, %v", c.err, r, faultCode(c.err))
		}
	}
}

func TestAccess(t *testing.T) {
	if a := (Access{GID: -1}); a.validate() != nil || a.Mode != 0o600 || a.GID != os.Getegid() {
		t.Error(a)
	}
	for _, mode := range []fs.FileMode{0o700, 0o777, 0o400, 0o620, 0o602, 0o4600} {
		if err := (&Access{Mode: mode}).validate(); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%#o: %v", mode, err)
		}
	}
	owner, member, side, other := core.Cred{UID: 7, GID: 7}, core.Cred{UID: 8, GID: 50}, core.Cred{UID: 9, GID: 9, Groups: []uint32{1, 50}}, core.Cred{UID: 10, GID: 10}
	for _, c := range []struct {
		mode         fs.FileMode
		socket       fs.FileMode
		group, world string
	}{
		{0o600, 0o600, "", ""},
		{0o640, 0o660, "r", ""},
		{0o660, 0o660, "rw", ""},
		{0o644, 0o666, "r", "r"},
		{0o664, 0o666, "rw", "r"},
		{0o666, 0o666, "rw", "rw"},
		{0o606, 0o606, "", "rw"},
	} {
		a := Access{Mode: c.mode, GID: 50}
		if err := a.validate(); err != nil {
			t.Error(err)
		}
		if a.socketMode() != c.socket {
			t.Errorf("%#o: socket %#o", c.mode, a.socketMode())
		}
		for _, who := range []struct {
			cred core.Cred
			want string
		}{{core.Cred{}, "rw"}, {owner, "rw"}, {member, c.group}, {side, c.group}, {other, c.world}} {
			ok, readOnly := a.allows(who.cred, 3, 7)
			got := map[bool]map[bool]string{false: {}, true: {true: "r", false: "rw"}}[ok][readOnly]
			if got != who.want {
				t.Errorf("%#o, %+v: %q, want %q", c.mode, who.cred, got, who.want)
			}
		}
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	name := func(s string) string { return filepath.Join(dir, s) }
	listen := func(path string) (*Listener, error) { return Listen(path, Access{GID: -1}) }
	l, err := listen(name("socket"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Lstat(name("socket"))
	if err != nil || st.Mode() != fs.ModeSocket|0o600 {
		t.Error(st, err)
	}
	if _, err := listen(name("socket")); !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "another server listens") {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(name("socket")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the socket was left:", err)
	}

	// A socket that nobody listens on any more, as a killed server leaves it.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: name("stale"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	l, err = listen(name("stale"))
	if err != nil {
		t.Fatal(err)
	}
	// Somebody replaces it: it is not ours to remove.
	if err := os.WriteFile(name("new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name("new"), name("stale")); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := os.Lstat(name("stale")); err != nil {
		t.Error("somebody else's file was removed:", err)
	}

	// What is not a socket is left alone.
	if _, err := listen(name("stale")); !errors.Is(err, unix.EADDRINUSE) {
		t.Error(err)
	}
	if err := os.Symlink("nowhere", name("link")); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(name("link")); !errors.Is(err, unix.EADDRINUSE) {
		t.Error(err)
	}
	if _, err := listen(name("none/socket")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if left, err := filepath.Glob(name(".*")); len(left) > 0 || err != nil {
		t.Error("left behind:", left, err)
	}
}

func TestTable(t *testing.T) {
	tab := newTable[string]("thing", 3, "give one back")
	a, _ := tab.add("a", nil)
	b, _ := tab.add("b", nil)
	if _, err := tab.remove(a); err != nil {
		t.Error(err)
	}
	if _, err := tab.get(a); !errors.Is(err, unix.EBADF) {
		t.Error(err)
	}
	c, _ := tab.add("c", nil)
	if c == a || c == b {
		t.Error("a number was used again at once")
	}
	tab.add("d", nil)
	if _, err := tab.add("e", nil); !errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), "3 things") {
		t.Error(err)
	}
	tab.mu.Lock()
	tab.last = 1<<32 - 1
	tab.mu.Unlock()
	tab.remove(b)
	if n, err := tab.add("after the turn", nil); n != 1 || err != nil {
		t.Error(n, err)
	}
	if got := len(tab.drain()); got != 3 {
		t.Error(got)
	}
	if _, err := tab.add("late", nil); !errors.Is(err, unix.ESHUTDOWN) {
		t.Error(err)
	}
}

func TestPattern(t *testing.T) {
	var p pattern
	var got []int64
	for _, page := range []int64{0, 1, 5, 21, 85, 341, 853, 10, 11, 15, 3} {
		n := p.ahead(page)
		got = append(got, n)
		p.granted(page + n)
	}
	if want := []int64{1, 4, 16, 64, 256, 512, 512, 1, 4, 16, 1}; !slices.Equal(got, want) {
		t.Error(got, want)
	}
}

// Serve returns at once when nobody has anything, also with connections that never said who they are.
func TestShutdown(t *testing.T) {
	s := newServer(t, Options{Logf: t.Logf})
	socket, stop, done := startServing(t, s)
	silent, quiet := connect(t, socket), connect(t, socket).hello()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	silent.wantDropped()
	quiet.wantDropped()
	if _, err := net.Dial("unix", socket); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
