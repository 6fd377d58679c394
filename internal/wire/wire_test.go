package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func drawRequest(t *rapid.T) *Request {
	q := &Request{
		ID:      rapid.Uint32().Draw(t, "id"),
		Op:      Op(rapid.Uint16Range(1, uint16(OpEnd)-1).Draw(t, "op")),
		Handle:  rapid.Uint32().Draw(t, "handle"),
		Flags:   rapid.Uint32().Draw(t, "flags"),
		Mode:    rapid.Uint32().Draw(t, "mode"),
		Valid:   rapid.Uint32Range(0, setAll).Draw(t, "valid"),
		UID:     rapid.Uint32().Draw(t, "uid"),
		GID:     rapid.Uint32().Draw(t, "gid"),
		Offset:  rapid.Int64().Draw(t, "offset"),
		Length:  rapid.Int64().Draw(t, "length"),
		Address: rapid.Uint64().Draw(t, "address"),
		Atime:   rapid.Int64().Draw(t, "atime"),
		Mtime:   rapid.Int64().Draw(t, "mtime"),
		Path:    rapid.StringN(0, -1, MaxPath).Draw(t, "path"),
		Path2:   rapid.StringN(0, -1, MaxPath).Draw(t, "path2"),

		Source:       rapid.Uint32().Draw(t, "source"),
		SourceOffset: rapid.Int64().Draw(t, "sourceOffset"),

		Inode:       rapid.Uint64().Draw(t, "inode"),
		Generation:  rapid.Uint64().Draw(t, "generation"),
		Inode2:      rapid.Uint64().Draw(t, "inode2"),
		Generation2: rapid.Uint64().Draw(t, "generation2"),
		Umask:       rapid.Uint32().Draw(t, "umask"),
		Closed:      rapid.Uint32().Draw(t, "closed"),
	}
	if b := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "data"); len(b) > 0 {
		q.Data = b
	}
	return q
}

func drawList[T any](t *rapid.T, name string, draw func(*rapid.T) T) []T {
	l := rapid.SliceOfN(rapid.Custom(draw), 0, 5).Draw(t, name)
	if len(l) == 0 {
		return nil
	}
	return l
}

func drawReply(t *rapid.T) *Reply {
	r := &Reply{
		ID:     rapid.Uint32().Draw(t, "id"),
		Errno:  rapid.Uint16().Draw(t, "errno"),
		Reason: Reason(rapid.Uint8Range(0, uint8(reasonEnd)-1).Draw(t, "reason")),
		Handle: rapid.Uint32().Draw(t, "handle"),
		N:      rapid.Int64().Draw(t, "n"),
		Offset: rapid.Int64().Draw(t, "offset"),
		Attr:   rapid.Ptr(rapid.Make[Attr](), true).Draw(t, "attr"),
		Statfs: rapid.Ptr(rapid.Make[Statfs](), true).Draw(t, "statfs"),
		Hello:  rapid.Ptr(rapid.Make[Hello](), true).Draw(t, "hello"),
		Sealed: rapid.Ptr(rapid.Make[Sealed](), true).Draw(t, "sealed"),
		Detail: rapid.StringN(0, -1, MaxDetail).Draw(t, "detail"),
		Name:   rapid.StringN(0, -1, MaxPath).Draw(t, "name"),
	}
	if r.Attr != nil {
		r.Attr.Flags &= attrAll
	}
	if r.Sealed != nil {
		r.Sealed.Pin &= 1
	}
	r.Entries = drawList(t, "entries", func(t *rapid.T) Entry {
		return Entry{rapid.StringN(0, -1, maxName).Draw(t, "name"), rapid.Uint64().Draw(t, "ino"), rapid.Uint32().Draw(t, "type"), rapid.Uint64().Draw(t, "next")}
	})
	r.Extents = drawList(t, "extents", func(t *rapid.T) Extent {
		return Extent{rapid.Int64().Draw(t, "off"), rapid.Int64().Draw(t, "len"), rapid.Int64().Draw(t, "block"), rapid.Uint32Range(0, extentAll).Draw(t, "flags")}
	})
	r.Names = drawList(t, "names", func(t *rapid.T) string { return rapid.StringN(0, -1, maxName).Draw(t, "name") })
	if b := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "data"); len(b) > 0 {
		r.Data = b
	}
	if n := rapid.IntRange(0, maxFiles).Draw(t, "files"); n > 0 {
		r.Files = slices.Repeat([]int{-1}, n)
	}
	return r
}

// Every message comes back as it went, and has exactly one encoding.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := drawRequest(t)
		frame, err := AppendRequest([]byte("before"), q)
		if err != nil {
			t.Fatal(err)
		}
		body, err := ReadFrame(bytes.NewReader(frame[len("before"):]))
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeRequest(body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(q, got); diff != "" {
			t.Fatal(diff)
		}
		r := drawReply(t)
		frame, err = AppendReply(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		gotReply, err := DecodeReply(frame[4:])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, gotReply); diff != "" {
			t.Fatal(diff)
		}
	})
}

// A message cut short, or with a byte too many, is refused.
func TestCutAndTrailing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		frame, err := AppendReply(nil, drawReply(t))
		if err != nil {
			t.Fatal(err)
		}
		body := frame[4:]
		cut := rapid.IntRange(0, len(body)-1).Draw(t, "cut")
		if _, err := DecodeReply(body[:cut]); !errors.Is(err, ErrMalformed) {
			t.Fatalf("cut at %d of %d: %v", cut, len(body), err)
		}
		if _, err := DecodeReply(append(body, 0)); !errors.Is(err, ErrMalformed) {
			t.Fatalf("one byte too many: %v", err)
		}
		if _, err := ReadFrame(bytes.NewReader(frame[:4+cut])); !errors.Is(err, io.ErrUnexpectedEOF) && cut > 0 {
			t.Fatalf("frame cut at %d: %v", cut, err)
		}
	})
}

func TestBounds(t *testing.T) {
	if _, err := AppendRequest(nil, &Request{Op: OpWrite, Data: make([]byte, MaxData+1)}); !errors.Is(err, ErrTooLong) {
		t.Error("data beyond the bound was encoded:", err)
	}
	if _, err := AppendRequest(nil, &Request{Op: OpOpen, Path: strings.Repeat("x", MaxPath+1)}); !errors.Is(err, ErrTooLong) {
		t.Error("path beyond the bound was encoded:", err)
	}
	if _, err := AppendRequest(nil, &Request{Op: OpWrite, Data: make([]byte, MaxData)}); err != nil {
		t.Error("data at the bound was refused:", err)
	}
	frame, err := AppendReply(nil, &Reply{Detail: strings.Repeat("x", MaxDetail+7)})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := DecodeReply(frame[4:]); err != nil || len(r.Detail) != MaxDetail {
		t.Error("a long detail was not cut:", err)
	}
	// A full reply of each list fits into a frame.
	full := &Reply{Names: make([]string, MaxNames)}
	for range MaxEntries {
		full.Entries = append(full.Entries, Entry{Name: strings.Repeat("n", 40)})
	}
	if _, err := AppendReply(nil, full); err != nil {
		t.Error(err)
	}
	for _, head := range [][]byte{{1, 0, 17, 0}, {255, 255, 255, 255}} {
		if _, err := ReadFrame(bytes.NewReader(head)); !errors.Is(err, ErrMalformed) {
			t.Errorf("length % x: %v", head, err)
		}
	}
}

// Bodies that are wrong in one way each.
func TestRefused(t *testing.T) {
	for name, body := range map[string][]byte{
		"empty":              {},
		"no operation":       {1, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"unknown operation":  {1, 0, 0, 0, byte(OpEnd), 0, 0, 0, 0, 0},
		"unknown field":      {1, 0, 0, 0, 1, 0, 0, 0, 0, 128},
		"zero field":         {1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0},
		"unknown attributes": {1, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0, 2, 0, 0},
		"path too long":      {1, 0, 0, 0, 1, 0, 0, 8, 0, 0, 255, 255, 255, 127},
		"empty data":         {1, 0, 0, 0, 1, 0, 0, 32, 0, 0, 0, 0, 0, 0},
	} {
		if q, err := DecodeRequest(body); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, q, err)
		}
	}
}

// socketPair returns two ends of a stream.
func socketPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { c.Close() })
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

// holding makes a file to be sent.
func holding(t *testing.T, content string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return f
}

// wantHolding checks a descriptor that was received, and closes it.
func wantHolding(t *testing.T, fd int, content string) {
	t.Helper()
	f := os.NewFile(uintptr(fd), "received")
	defer f.Close()
	b := make([]byte, len(content))
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != content {
		t.Fatalf("descriptor %d: %q, %v", fd, b, err)
	}
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Error("a received descriptor is not close-on-exec:", flags, err)
	}
}

func TestFiles(t *testing.T) {
	from, to := socketPair(t)
	frame, err := AppendReply(nil, &Reply{ID: 7, Data: bytes.Repeat([]byte{1}, 1000)})
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteFiles(from, frame, []int{int(holding(t, "carried").Fd())}); err != nil {
		t.Fatal(err)
	}
	body, files, err := ReadFiles(to)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	wantHolding(t, files[0], "carried")
	if r, err := DecodeReply(body); err != nil || r.ID != 7 {
		t.Fatal(r, err)
	}
}

// A Receiver gives each reply the descriptors that were sent with it, whatever else is waiting.
func TestReceiver(t *testing.T) {
	from, to := socketPair(t)
	content := []string{"zero", "one", "two", "three", "four"}
	var sent []*os.File
	for _, c := range content {
		sent = append(sent, holding(t, c))
	}
	next := uint32(0)
	send := func(size int, files ...int) {
		t.Helper()
		r := &Reply{ID: next, Data: make([]byte, size)}
		next++
		var fds []int
		for _, i := range files {
			fds = append(fds, int(sent[i].Fd()))
		}
		r.Files = fds
		frame, err := AppendReply(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		if err := WriteFiles(from, frame, fds); err != nil {
			t.Fatal(err)
		}
	}
	r := NewReceiver(to)
	want := func(id uint32, files ...int) {
		t.Helper()
		reply, err := r.Next()
		if err != nil || reply.ID != id || len(reply.Files) != len(files) {
			t.Fatalf("%+v, %v; want reply %d with %d descriptors", reply, err, id, len(files))
		}
		for i, fd := range reply.Files {
			wantHolding(t, fd, content[files[i]])
		}
	}
	// All of them are there before the first is read, and longer ones than the buffer among them.
	send(10)
	send(10, 1)
	send(10, 2, 3)
	send(10)
	send(70<<10, 4)
	send(10, 0)
	want(0)
	want(1, 1)
	want(2, 2, 3)
	want(3)
	want(4, 4)
	want(5, 0)

	// A reply that lacks its descriptor, and one that has too many.
	frame, err := AppendReply(nil, &Reply{Files: []int{0}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := from.Write(frame); err != nil {
		t.Fatal(err)
	}
	if reply, err := r.Next(); !errors.Is(err, ErrMalformed) {
		t.Error(reply, err)
	}
	fd := int(sent[0].Fd())
	if err := WriteFiles(from, frame, slices.Repeat([]int{fd}, maxFiles+1)); err != nil {
		t.Fatal(err)
	}
	if reply, err := r.Next(); !errors.Is(err, ErrMalformed) {
		t.Error(reply, err)
	}
	if len(r.from.files) > 0 {
		t.Error("descriptors are left:", r.from.files)
	}
	if _, err := AppendReply(nil, &Reply{Files: make([]int, maxFiles+1)}); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
}

func FuzzRequest(f *testing.F) {
	for _, q := range []*Request{
		{ID: 1, Op: OpHello, Offset: Version, Flags: HelloReadOnly},
		{ID: 2, Op: OpOpen, Path: "dir/file", Flags: unix.O_RDWR | unix.O_CREAT, Mode: 0o600},
		{ID: 3, Op: OpWrite, Handle: 1, Offset: 4096, Data: []byte("record")},
		{ID: 4, Op: OpSetAttr, Path: "f", Valid: setAll, Mode: 0o644, UID: 1, GID: 2, Length: 3, Atime: 4, Mtime: 5},
		{ID: 5, Op: OpMap, Handle: 1, Length: 1 << 21, Flags: 2, Address: 0x7f0000000000},
		{ID: 6, Op: OpRename, Path: "a", Path2: "b"},
		{ID: 7, Op: OpClone, Handle: 1, Path2: "clone"},
		{ID: 8, Op: OpCloneRange, Handle: 1, Offset: 8192, Length: 4096, Source: 2, SourceOffset: 1 << 20},
		{ID: 9, Op: OpCopyRange, Handle: 1, Offset: 5, Length: 1 << 30, Source: 1, SourceOffset: 4096},
		{ID: 10, Op: OpDefrag, Handle: 1, Offset: 2 << 20},
	} {
		frame, err := AppendRequest(nil, q)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame[4:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := DecodeRequest(body)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		frame, err := AppendRequest(nil, q)
		if err != nil || !bytes.Equal(frame[4:], body) {
			t.Fatalf("% x has another encoding: % x, %v", body, frame, err)
		}
	})
}

func FuzzReply(f *testing.F) {
	for _, r := range []*Reply{
		{ID: 1, Hello: &Hello{Version: Version, PID: 1}},
		{ID: 2, Errno: uint16(unix.ENOENT), Detail: "no such file"},
		{ID: 3, Errno: uint16(unix.EBUSY), Reason: ReasonSealed, Sealed: &Sealed{PID: 7, Handle: 2, Length: 4096, Pin: 1}},
		{ID: 4, Attr: &Attr{Ino: 1}, Handle: 9},
		{ID: 5, Entries: []Entry{{"a", 2, unix.S_IFREG, 1}, {"b", 3, unix.S_IFDIR, 2}}},
		{ID: 6, Extents: []Extent{{0, 4096, 7, ExtentUnwritten}, {4096, 4096, -1, 0}}},
		{ID: 8, Names: []string{"user.a", "user.b"}},
		{ID: 9, Statfs: &Statfs{Blocks: 10}, Data: []byte("x"), Name: "target", N: 1},
		{ID: 10, Files: []int{-1, -1}},
	} {
		frame, err := AppendReply(nil, r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame[4:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := DecodeReply(body)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		frame, err := AppendReply(nil, r)
		if err != nil || !bytes.Equal(frame[4:], body) {
			t.Fatalf("% x has another encoding: % x, %v", body, frame, err)
		}
	})
}

// TestShort: a block is read and written by short requests, and what is short fits, in both directions.
func TestShort(t *testing.T) {
	block := make([]byte, 4096)
	name := strings.Repeat("n", MaxPath)
	for _, q := range []Request{{Op: OpRead, Length: 4096}, {Op: OpWrite, Data: block}} {
		if !q.Short() {
			t.Errorf("%v of a block is not short", q.Op)
		}
		if frame, err := AppendRequest(nil, &q); err != nil || len(Body(frame)) > MaxShort {
			t.Errorf("%v: %d bytes, %v", q.Op, len(frame), err)
		}
	}
	longest := Request{Op: OpRead}
	for longest.Length = 0; longest.Short(); longest.Length++ {
	}
	for what, r := range map[string]Reply{
		"data":       {Data: make([]byte, longest.Length-1), Detail: name, Attr: &Attr{}},
		"a target":   {Name: name, Detail: name, Attr: &Attr{}},
		"statistics": {Statfs: &Statfs{}},
	} {
		if frame, err := AppendReply(nil, &r); err != nil || len(Body(frame)) > MaxShort {
			t.Errorf("a reply with %s: %d bytes, %v", what, len(frame), err)
		}
	}
}
