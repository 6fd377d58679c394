package server

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/session"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// legacy is what a server that has died has left of one client: this process.
type legacy struct {
	pool, runtime string
	token         wire.Token
	data          *os.File // carries the lock of its slot
}

// leave makes a pool and what a server has left: c, with what record has put on record. inos are of files a, b and c
// with eight blocks each.
func leave(t *testing.T, c session.Client, record func(f *session.File, files []session.Handle)) *legacy {
	t.Helper()
	l := &legacy{pool: newPool(t), runtime: t.TempDir()}
	s, err := Open(l.pool, Options{Logf: t.Logf, Alone: true})
	if err != nil {
		t.Fatal(err)
	}
	local, err := s.Local(nil)
	if err != nil {
		t.Fatal(err)
	}
	var files []session.Handle
	for _, name := range []string{"a", "b", "c"} {
		r := local.Do(&wire.Request{Op: wire.OpOpen, Path: name, Flags: unix.O_RDWR | unix.O_CREAT, Mode: 0o600})
		if r.Errno != 0 {
			t.Fatal(r)
		}
		if r := local.Do(&wire.Request{Op: wire.OpAlloc, Handle: r.Handle, Length: 8 * blockSize}); r.Errno != 0 {
			t.Fatal(r)
		}
		files = append(files, session.Handle{Ino: r.Attr.Ino, Generation: r.Attr.Generation, Flags: unix.O_RDWR})
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := medium.Open(l.pool, medium.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := session.Open(l.runtime, p.Identity())
	if err != nil {
		t.Fatal(err)
	}
	c.PID = os.Getpid()
	f, err := d.Create(c, p.SlotInUse)
	if err != nil {
		t.Fatal(err)
	}
	page, err := fault.NewPageIn(f.PagePath())
	if err != nil {
		t.Fatal(err)
	}
	if l.data, err = p.ClientFile(c.ReadOnly, f.Slot()); err != nil {
		t.Fatal(err)
	}
	l.token = tokenOf(f)
	record(f, files)
	if err := errors.Join(page.Leave(), f.Close(), d.Close(), p.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.data.Close() })
	return l
}

func (l *legacy) open(t *testing.T, log *lines) (*Server, error) {
	t.Helper()
	return Open(l.pool, Options{RuntimeDir: l.runtime, Logf: log.logf, BreakTimeout: 10 * time.Millisecond})
}

// put records things that must be possible.
func put(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func mappingOf(h session.Handle, number, handle uint32, flags uint32) session.Mapping {
	return session.Mapping{
		Number: number, Handle: handle, Ino: h.Ino, Generation: h.Generation, Length: 8 * blockSize,
		Address: 1<<40 + uint64(number)<<20, Flags: flags,
	}
}

func (c rawClient) resume(r *wire.Resume) *wire.Reply {
	c.t.Helper()
	data, err := wire.EncodeResume(r)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.ask(&wire.Request{ID: 9, Op: wire.OpHello, Offset: wire.Version, Flags: wire.HelloResume, Data: data})
}

// TestResume is a client's way back, by the protocol.
func TestResume(t *testing.T) {
	l := leave(t, session.Client{UID: 77, GID: 88, Groups: []uint32{99}}, func(f *session.File, files []session.Handle) {
		for i := range files {
			files[i].Number = uint32(10 + i)
			put(t, f.PutHandle(files[i]))
		}
		put(t, f.PutMapping(mappingOf(files[0], 3, 10, wire.MapSync)),
			f.PutPin(session.Pin{Mapping: 3, Number: 5, First: 1, Count: 2}),
			f.PutPin(session.Pin{Mapping: 3, Number: 6, First: 4, Count: 1}),
			f.PutMapping(mappingOf(files[1], 4, 7, wire.MapDirect)), // its handle is closed
			f.PutMapping(mappingOf(files[2], 8, 12, wire.MapShared|wire.MapReadOnly)))
	})
	var log lines
	s, err := l.open(t, &log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { put(t, s.Close()) })
	u := s.grants.Usage()
	if u.Mappings != 3 || u.Seals != 1 || u.SealedBlocks != 8 || u.Pins != 2 || u.PinnedBlocks != 3 || u.GrantedBlocks != 24 {
		t.Errorf("taken over: %+v", u)
	}
	for _, sess := range s.all() {
		if sess.cred.UID != 77 || sess.cred.GID != 88 || !slices.Equal(sess.cred.Groups, []uint32{99}) || sess.readOnly || sess.imported {
			t.Errorf("taken over: %+v", sess.cred)
		}
	}
	socket := serving(t, s)

	wrong := l.token
	wrong.Nonce[7]++
	otherSlot := l.token
	otherSlot.Slot++
	for what, token := range map[string]wire.Token{"secret": wrong, "slot": otherSlot} {
		if r := connect(t, socket).resume(&wire.Resume{Token: token}); r.Errno != uint16(unix.ESTALE) {
			t.Errorf("another %s: %+v", what, r)
		}
	}
	c := connect(t, socket)
	nonsense := &wire.Request{ID: 9, Op: wire.OpHello, Offset: wire.Version, Flags: wire.HelloResume, Data: []byte("abc")}
	if r := c.ask(nonsense); r.Errno == 0 {
		t.Errorf("nonsense: %+v", r)
	}
	c.wantDropped()
	if u := s.grants.Usage(); u.Mappings != 3 {
		t.Errorf("who is not the client has changed something: %+v", u)
	}

	c = connect(t, socket)
	r := c.resume(&wire.Resume{
		Token: l.token, Handles: []uint32{10, 11, 99}, Mappings: []uint32{3, 8},
		Pins: []wire.Pin{{Mapping: 3, Number: 6}, {Mapping: 4, Number: 1}},
	})
	if r.Errno != 0 || r.Hello == nil || len(r.Files) != 0 {
		t.Fatalf("the client: %+v", r)
	}
	if u := s.grants.Usage(); u.Mappings != 2 || u.Seals != 0 || u.Pins != 1 || u.PinnedBlocks != 1 {
		t.Errorf("what it does not have any more: %+v", u)
	}
	for handle, errno := range map[uint32]unix.Errno{10: 0, 11: 0, 12: unix.EBADF, 99: unix.EBADF} {
		if r := c.ask(&wire.Request{ID: 1, Op: wire.OpStat, Handle: handle}); r.Errno != uint16(errno) {
			t.Errorf("handle %d: %+v", handle, r)
		}
	}
	if r := c.ask(&wire.Request{ID: 1, Op: wire.OpOpen, Path: "a", Flags: unix.O_RDWR}); r.Errno != uint16(unix.EACCES) {
		t.Errorf("it is user 77: %+v", r)
	}
	if r := c.ask(&wire.Request{ID: 1, Op: wire.OpUnpin, Handle: 3, Flags: 6}); r.Errno != 0 {
		t.Errorf("unpin: %+v", r)
	}
	q := &wire.Request{ID: 1, Op: wire.OpMap, Handle: 10, Length: blockSize, Address: 1 << 44, Flags: wire.MapShared}
	if r := c.ask(q); r.Handle != 9 {
		t.Errorf("the number of the next mapping: %+v", r)
	}
	if r := connect(t, socket).resume(&wire.Resume{Token: l.token}); r.Errno != uint16(unix.ESTALE) {
		t.Errorf("a second time: %+v", r)
	}
	if r := c.ask(&wire.Request{ID: 1, Op: wire.OpStat, Handle: 10}); r.Errno != 0 {
		t.Errorf("after the second: %+v", r)
	}
}

// TestAdoptImported: who has come with an open file is not let in to anything else.
func TestAdoptImported(t *testing.T) {
	l := leave(t, session.Client{Imported: true, ReadOnly: true}, func(f *session.File, files []session.Handle) {
		files[0].Number = 1
		put(t, f.PutHandle(files[0]))
	})
	s, err := l.open(t, new(lines))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { put(t, s.Close()) })
	c := connect(t, serving(t, s))
	if r := c.resume(&wire.Resume{Token: l.token, Handles: []uint32{1}}); r.Errno != 0 || r.Hello.ReadOnly != 1 {
		t.Fatal(r)
	}
	for op, errno := range map[wire.Op]unix.Errno{wire.OpLookup: unix.EACCES, wire.OpMkdir: unix.EACCES, wire.OpStat: 0} {
		if r := c.ask(&wire.Request{ID: 1, Op: op, Handle: 1, Path: "b"}); r.Errno != uint16(errno) {
			t.Errorf("operation %d: %+v", op, r)
		}
	}
}

// TestAdoptLostFile: a file that is not there any more cannot be open; but one that is mapped must be there.
func TestAdoptLostFile(t *testing.T) {
	lost := func(files []session.Handle) (h session.Handle) {
		h = files[0]
		h.Generation++
		h.Number = 2
		return h
	}
	l := leave(t, session.Client{}, func(f *session.File, files []session.Handle) {
		files[1].Number = 1
		put(t, f.PutHandle(files[1]), f.PutHandle(lost(files)))
	})
	var log lines
	s, err := l.open(t, &log)
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(log.all(), "\n"); !strings.Contains(text, "is closed now") {
		t.Errorf("the log says %q", text)
	}
	for _, sess := range s.all() {
		if handles := sess.handles.all(); len(handles) != 1 || handles[1] == nil {
			t.Errorf("handles %v", handles)
		}
	}
	put(t, s.Close())

	l = leave(t, session.Client{}, func(f *session.File, files []session.Handle) {
		put(t, f.PutMapping(mappingOf(lost(files), 1, 2, wire.MapShared)))
	})
	if s, err := l.open(t, &log); !errors.Is(err, unix.ESTALE) {
		t.Errorf("a server over a mapping of what is not there: %v, %v", s, err)
	}
	// Nothing has happened to the client: it waits for a server that can do better.
	names, err := filepath.Glob(l.runtime + "/*/*")
	if err != nil || len(names) < 2 {
		t.Errorf("left: %v, %v", names, err)
	}
	page, err := os.Open(filepath.Join(filepath.Dir(names[0]), "0.page"))
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	if closed, err := fault.PageClosed(page); closed || err != nil {
		t.Errorf("the page is closed: %v, %v", closed, err)
	}
}

// TestAdoptedAreLeft: a server that never served leaves whom it has taken over to the next, any number of times.
func TestAdoptedAreLeft(t *testing.T) {
	l := leave(t, session.Client{}, func(f *session.File, files []session.Handle) {
		files[0].Number = 1
		put(t, f.PutHandle(files[0]), f.PutMapping(mappingOf(files[0], 1, 1, wire.MapDirect)))
	})
	for range 3 {
		s, err := l.open(t, new(lines))
		if err != nil {
			t.Fatal(err)
		}
		if u := s.grants.Usage(); u.Seals != 1 {
			t.Errorf("taken over: %+v", u)
		}
		put(t, s.Close())
	}
	// Whoever has no heirs does not take over either.
	for what, o := range map[string]Options{
		"commits at intervals": {Commit: CommitEvery(time.Second)},
		"is alone":             {Alone: true},
		"emulates power cuts":  {PowerCut: &medium.PowerCutOptions{}},
	} {
		o.RuntimeDir, o.Logf = l.runtime, t.Logf
		if s, err := Open(l.pool, o); !errors.Is(err, medium.ErrSurvivors) {
			t.Errorf("a server that %s: %v, %v", what, s, err)
		}
	}
	l.data.Close()
	s, err := l.open(t, new(lines))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.all()) != 0 {
		t.Error("somebody who has gone is taken over")
	}
	put(t, s.Close())
	if left, err := os.ReadDir(l.runtime); len(left) != 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}
