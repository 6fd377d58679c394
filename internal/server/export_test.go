package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// exportFile opens a file and exports it.
func exportFile(t *testing.T, c rawClient, name string, flags uint32) (exported int) {
	t.Helper()
	open := c.ask(&wire.Request{ID: 2, Op: wire.OpOpen, Path: name, Flags: flags | unix.O_CREAT, Mode: 0o600})
	if open.Errno != 0 {
		t.Fatal(open)
	}
	frame, err := wire.AppendRequest(nil, &wire.Request{ID: 3, Op: wire.OpExport, Handle: open.Handle, Path: name})
	if err != nil {
		t.Fatal(err)
	}
	c.send(frame)
	r, err := wire.NewReceiver(c.c).Next()
	if err != nil || r.Errno != 0 || len(r.Files) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	t.Cleanup(func() { unix.Close(r.Files[0]) })
	return r.Files[0]
}

// mailbox is a pair of sockets that an importer makes.
type mailbox struct {
	t    *testing.T
	mine *net.UnixConn
	sent int // the other end
}

func newMailbox(t *testing.T) *mailbox {
	t.Helper()
	mine, sent, err := socketPair(unix.SOCK_STREAM, func(int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	m := &mailbox{t, mine, sent}
	t.Cleanup(func() { mine.Close(); m.close() })
	mine.SetDeadline(time.Now().Add(30 * time.Second))
	return m
}

// close closes the end that was sent, so that the server's copy is the last.
func (m *mailbox) close() {
	if m.sent >= 0 {
		unix.Close(m.sent)
		m.sent = -1
	}
}

var helloFrame, _ = wire.AppendRequest(nil, &wire.Request{ID: 7, Op: wire.OpHello, Offset: wire.Version})

func send(t *testing.T, exported int, message []byte, files ...int) {
	t.Helper()
	if err := unix.Sendmsg(exported, message, unix.UnixRights(files...), nil, unix.MSG_NOSIGNAL); err != nil {
		t.Fatal(err)
	}
}

// knock imports and returns the reply.
func (m *mailbox) knock(exported int, frame []byte) (*wire.Reply, []int) {
	m.t.Helper()
	send(m.t, exported, frame, m.sent)
	m.close()
	body, files, err := wire.ReadFiles(m.mine)
	if err != nil {
		m.t.Fatal(err)
	}
	r, err := wire.DecodeReply(body)
	if err != nil || r.ID != 7 {
		m.t.Fatalf("%+v, %v", r, err)
	}
	return r, files
}

// importFile imports and returns the connection.
func importFile(t *testing.T, exported int) (rawClient, *wire.Reply) {
	t.Helper()
	r, files := newMailbox(t).knock(exported, helloFrame)
	if r.Errno != 0 || len(files) != 4 || r.Hello == nil {
		t.Fatalf("%+v with %d descriptors", r, len(files))
	}
	f := os.NewFile(uintptr(files[0]), "connection")
	defer f.Close()
	wire.CloseFiles(files[1:])
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return rawClient{t, c.(*net.UnixConn)}, r
}

// eventually waits for something that happens without anybody being told.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for range 1000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("after 10 s it is still not so that", what)
}

// only returns the one handle that is exported.
func only(t *testing.T, s *Server) *handle {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := range s.exports {
		if len(s.exports) == 1 {
			return e.handle
		}
	}
	t.Fatal(len(s.exports), "exports")
	return nil
}

// The handle lives as long as whoever has it: its opener, the exported descriptor, importers.
func TestExportedHandle(t *testing.T) {
	s := newServer(t, Options{Logf: t.Logf})
	c := connect(t, serving(t, s)).hello()
	exported := exportFile(t, c, "f", unix.O_RDWR|unix.O_APPEND)
	h := only(t, s)
	users := func(n int64) {
		t.Helper()
		eventually(t, fmt.Sprint("users are ", n), func() bool { return h.users.Load() == n })
	}
	users(2)
	i, r := importFile(t, exported)
	if r.Name != "f" || r.N != unix.O_RDWR|unix.O_APPEND || r.Attr == nil || r.Hello.ReadOnly != 0 {
		t.Errorf("%+v", r)
	}
	users(3)
	if w := i.ask(&wire.Request{ID: 8, Op: wire.OpWrite, Handle: r.Handle, Data: []byte("x")}); w.Errno != 0 || w.N != 1 {
		t.Errorf("%+v", w)
	}
	c.c.Close()
	users(2)
	again, r2 := importFile(t, exported)
	users(3)
	if st := again.ask(&wire.Request{ID: 8, Op: wire.OpStat, Handle: r2.Handle}); st.Attr == nil || st.Attr.Size != 1 {
		t.Errorf("%+v", st)
	}
	again.c.Close()
	users(2)
	copied, err := unix.Dup(exported)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(exported)
	last, _ := importFile(t, copied)
	last.c.Close()
	users(2)
	unix.Close(copied)
	users(1)
	if n := s.Stats().Exports; n != 0 {
		t.Error(n, "exports")
	}
	if w := i.ask(&wire.Request{ID: 8, Op: wire.OpWrite, Handle: r.Handle, Data: []byte("y")}); w.Errno != 0 || w.Offset != 1 {
		t.Errorf("%+v", w)
	}
	if r := i.ask(&wire.Request{ID: 9, Op: wire.OpClose, Handle: r.Handle}); r.Errno != 0 {
		t.Errorf("%+v", r)
	}
	users(0)
}

// Whatever is sent over an exported descriptor harms nobody: it is dropped, with all that came with it, logged, and the
// descriptor goes on to serve.
func TestBadImports(t *testing.T) {
	var log lines
	s := newServer(t, Options{Logf: log.logf})
	exported := exportFile(t, connect(t, serving(t, s)).hello(), "f", unix.O_RDWR)
	stat, err := wire.AppendRequest(nil, &wire.Request{ID: 7, Op: wire.OpStatfs})
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var sockets []int
	for _, kind := range [][2]int{
		{unix.AF_UNIX, unix.SOCK_DGRAM}, {unix.AF_UNIX, unix.SOCK_SEQPACKET}, {unix.AF_INET, unix.SOCK_STREAM},
	} {
		fd, err := unix.Socket(kind[0], kind[1]|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		sockets = append(sockets, fd)
	}
	lonely, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(lonely)
	box := newMailbox(t).sent
	for name, c := range map[string]struct {
		message []byte
		files   []int
	}{
		"empty":             {nil, nil},
		"nothing but files": {nil, []int{box}},
		"garbage":           {bytes.Repeat([]byte("garbage!"), 20), []int{box}},
		"huge":              {make([]byte, 100_000), []int{box}},
		"a huge frame":      {binary.LittleEndian.AppendUint32(nil, 1<<30), []int{box}},
		"half":              {helloFrame[:len(helloFrame)-1], []int{box}},
		"trailing":          {append(slices.Clone(helloFrame), 0), []int{box}},
		"two":               {append(slices.Clone(helloFrame), helloFrame...), []int{box}},
		"no socket":         {helloFrame, nil},
		"two sockets":       {helloFrame, []int{box, box}},
		"many sockets":      {helloFrame, slices.Repeat([]int{box}, 200)},
		"a file":            {helloFrame, []int{int(file.Fd())}},
		"itself":            {helloFrame, []int{exported}},
		"datagrams":         {helloFrame, sockets[:1]},
		"packets":           {helloFrame, sockets[1:2]},
		"inet":              {helloFrame, sockets[2:]},
		"nobody's":          {helloFrame, []int{lonely}},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(log.all())
			// The server must close what it gets: the end of a pipe tells. There is no room for it everywhere.
			var pipe [2]int
			if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			r := os.NewFile(uintptr(pipe[0]), "pipe")
			defer r.Close()
			if len(c.message) == 0 && len(c.files) == 0 {
				// package unix would put a byte in
				if _, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(exported), 0, 0, unix.MSG_NOSIGNAL, 0, 0); errno != 0 {
					t.Fatal(errno)
				}
			} else {
				send(t, exported, c.message, c.files...)
			}
			send(t, exported, c.message, pipe[1])
			unix.Close(pipe[1])
			if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Error("the server has kept a descriptor:", n, err)
			}
			if n := s.Stats().Clients; n != 1 {
				t.Error(n, "clients")
			}
			if after := len(log.all()); after == before && before < maxComplaints {
				t.Error("nothing was logged")
			}
		})
	}
	if n := len(log.all()); n != maxComplaints || !strings.Contains(log.all()[0], `"f"`) {
		t.Errorf("%d lines were logged: %q", n, log.all())
	}
	// These are told what is wrong.
	for _, c := range []struct {
		frame []byte
		want  unix.Errno
	}{{stat, unix.EPROTONOSUPPORT}, {versioned(t, wire.Version+1), unix.EPROTONOSUPPORT}} {
		if r, files := newMailbox(t).knock(exported, c.frame); r.Errno != uint16(c.want) || len(files) != 0 || r.Detail == "" {
			t.Errorf("%+v, %d descriptors", r, len(files))
		}
	}
	c, r := importFile(t, exported)
	if st := c.ask(&wire.Request{ID: 8, Op: wire.OpStat, Handle: r.Handle}); st.Attr == nil {
		t.Errorf("a good importer was harmed: %+v", st)
	}
	if now := only(t, s).users.Load(); now != 3 {
		t.Error(now, "users of the handle")
	}
}

func versioned(t *testing.T, version int64) []byte {
	t.Helper()
	frame, err := wire.AppendRequest(nil, &wire.Request{ID: 7, Op: wire.OpHello, Offset: version})
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// An importer that does not read gets no session, and one that sends the end of a connection to this very server
// confuses nobody but himself.
func TestImporterThatDoesNotRead(t *testing.T) {
	s := newServer(t, Options{Logf: t.Logf})
	socket := serving(t, s)
	exported := exportFile(t, connect(t, socket).hello(), "f", unix.O_RDWR)
	m := newMailbox(t)
	if err := unix.SetNonblock(m.sent, true); err != nil {
		t.Fatal(err)
	}
	full := make([]byte, 64<<10)
	for _, size := range []int{len(full), 1} {
		for {
			if _, err := unix.Write(m.sent, full[:size]); errors.Is(err, unix.EAGAIN) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := unix.SetNonblock(m.sent, false); err != nil {
		t.Fatal(err)
	}
	send(t, exported, helloFrame, m.sent)
	m.close()
	if r, files := newMailbox(t).knock(exported, versioned(t, 0)); r.Errno == 0 { // when this is answered, so is that
		t.Error(r, files)
	}
	if all, err := io.ReadAll(m.mine); err != nil || len(bytes.Trim(all, "\x00")) > 0 {
		t.Errorf("more than what it was filled with: %q, %v", bytes.Trim(all, "\x00"), err)
	}
	if n := s.Stats().Clients; n != 1 {
		t.Error(n, "clients")
	}
	own := connect(t, socket).hello()
	f, err := own.c.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	send(t, exported, helloFrame, int(f.Fd()))
	own.wantDropped() // what comes there is no request
	eventually(t, "all sessions but the first have ended", func() bool { return s.Stats().Clients == 1 })
	importFile(t, exported)
}

// An importer reaches the file and nothing else.
func TestImportedSession(t *testing.T) {
	s := newServer(t, Options{Logf: t.Logf})
	exported := exportFile(t, connect(t, serving(t, s)).hello(), "f", unix.O_RDWR)
	c, imported := importFile(t, exported)
	general := []wire.Op{wire.OpInfo, wire.OpStatfs, wire.OpStats} // need no file
	// look at other things first
	kinds := []wire.Op{wire.OpMap, wire.OpFlush, wire.OpMapClone, wire.OpPublish}
	for op := wire.OpHello + 1; op < wire.OpEnd; op++ {
		r := c.ask(&wire.Request{ID: 100 + uint32(op), Op: op, Path: "f", Path2: "user.g", Length: 1})
		switch errno := unix.Errno(r.Errno); {
		case slices.Contains(general, op):
			if errno != 0 {
				t.Errorf("operation %d: %v", op, errno)
			}
		case (errno == unix.EBADF || slices.Contains(kinds, op)) && !ops[op].beyond: // there is no handle 0
		case errno != unix.EACCES || !strings.Contains(r.Detail, "imported file"):
			t.Errorf("operation %d: %v (%s)", op, errno, r.Detail)
		}
	}
	if r := c.ask(&wire.Request{ID: 8, Op: wire.OpSetAttr, Handle: imported.Handle, Valid: wire.SetSize, Length: 5}); r.Errno != 0 {
		t.Errorf("%+v", r)
	}
}

// Nobody uses the server up by exports and imports.
func TestExportLimits(t *testing.T) {
	q := newQuota("things", 5, 2)
	for _, uid := range []uint32{1, 1, 2, 2} {
		if err := q.take(uid); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.take(1); !errors.Is(err, unix.EUSERS) || !strings.Contains(err.Error(), "user 1 has 2 things") {
		t.Error(err)
	}
	if err := q.take(3); err != nil {
		t.Error(err)
	}
	if err := q.take(4); !errors.Is(err, unix.EUSERS) || !strings.Contains(err.Error(), "the server has 5 things") {
		t.Error(err)
	}
	q.give(1)
	if err := q.take(1); err != nil || len(q.users) != 3 {
		t.Error(err, q.users)
	}

	s := newServer(t, Options{Logf: t.Logf})
	s.exported.ofUser, s.imported.ofUser = 3, 4
	socket := serving(t, s)
	c := connect(t, socket).hello()
	open := c.ask(&wire.Request{ID: 2, Op: wire.OpOpen, Path: "f", Flags: unix.O_RDWR | unix.O_CREAT, Mode: 0o600})
	export := &wire.Request{ID: 3, Op: wire.OpExport, Handle: open.Handle, Path: "f"}
	exported := exportFile(t, c, "f", unix.O_RDWR)
	for range 5 { // ask closes the descriptors, and they make room again
		eventually(t, "there is room", func() bool { return s.Stats().Exports <= 2 })
		if r := c.ask(export); r.Errno != 0 {
			t.Fatalf("%+v", r)
		}
	}
	eventually(t, "there is room", func() bool { return s.Stats().Exports == 1 })
	exportFile(t, c, "f", unix.O_RDWR)
	exportFile(t, c, "f", unix.O_RDWR)
	if r := c.ask(export); r.Errno != uint16(unix.EUSERS) {
		t.Errorf("%+v", r)
	}
	var last rawClient
	for range 4 {
		last, _ = importFile(t, exported)
	}
	if r, files := newMailbox(t).knock(exported, helloFrame); r.Errno != uint16(unix.EUSERS) || len(files) > 0 {
		t.Errorf("%+v", r)
	}
	connect(t, socket).hello().c.Close() // others may still come
	last.c.Close()
	eventually(t, "two sessions have ended", func() bool { return s.Stats().Clients == 4 })
	importFile(t, exported)
}

// Descriptors are sent to exports only.
func TestDescriptorsAreRefused(t *testing.T) {
	probe, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(probe)
	if _, err := unix.GetsockoptInt(probe, unix.SOL_SOCKET, unix.SO_PASSRIGHTS); err != nil {
		t.Skip("the kernel has no SO_PASSRIGHTS:", err)
	}
	s := newServer(t, Options{Logf: t.Logf})
	socket := serving(t, s)
	c := connect(t, socket).hello()
	i, _ := importFile(t, exportFile(t, c, "f", unix.O_RDWR))
	for _, c := range []rawClient{c, i, connect(t, socket)} {
		if _, _, err := c.c.WriteMsgUnix([]byte{0}, unix.UnixRights(probe), nil); !errors.Is(err, unix.EPERM) {
			t.Error("the server takes descriptors:", err)
		}
	}
}

// The end of Serve ends exports and imported connections, and waits for nobody who is made to wait by what was sent to
// him.
func TestShutdownWithExports(t *testing.T) {
	s := newServer(t, Options{Logf: t.Logf})
	socket, stop, done := startServing(t, s)
	c := connect(t, socket).hello()
	exported, stuck := exportFile(t, c, "f", unix.O_RDWR), exportFile(t, c, "g", unix.O_RDWR)
	i, _ := importFile(t, exported)
	hanging := lingering(t)
	send(t, stuck, helloFrame, hanging.fd)
	go unix.Close(hanging.fd) // hangs itself in the rare case that the server has closed its copy before
	stop()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Serve does not end")
	}
	i.wantDropped()
	if err := unix.Sendmsg(exported, helloFrame, nil, nil, unix.MSG_NOSIGNAL); !errors.Is(err, unix.EPIPE) {
		t.Error(err)
	}
	if n := s.Stats(); n.Exports != 0 || n.Clients != 0 {
		t.Errorf("%+v", n)
	}
	go io.Copy(io.Discard, hanging.reader)
	eventually(t, "all goroutines have ended", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.exported.all == 0
	})
}

// lingering makes a socket whose last close waits until somebody reads what was written to it.
func lingering(t *testing.T) (s struct {
	fd     int
	reader net.Conn
}) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if s.reader, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.reader.Close() })
	w.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for err = error(nil); err == nil; _, err = w.Write(make([]byte, 1<<20)) {
	}
	if err := w.SetLinger(60); err != nil {
		t.Fatal(err)
	}
	f, err := w.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if s.fd, err = unix.Dup(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	return s
}
