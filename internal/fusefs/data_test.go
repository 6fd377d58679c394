package fusefs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	root "github.com/pmemfs/pmemfs"
)

// maxModel is how long the file of the model becomes: a few readaheads.
const maxModel = 600 << 10

// exerciser does random operations to one file, by every way there is, and compares it with what it should hold.
type exerciser struct {
	t       *testing.T
	r       *rand.Rand
	path    string
	want    []byte
	fd      int
	direct  *root.FS // of a client beside the mount; nil: there is none
	file    *root.File
	mapping *root.Mapping
	history []string
}

// TestContents is what fsx does: reads, writes, appends, truncations, holes, copies and stores through mappings, in random
// order, and after each of them a look at the file.
func TestContents(t *testing.T) {
	t.Run("alone", func(t *testing.T) { exercise(t, newMount(t, "256M"), "") })
	t.Run("with a client", func(t *testing.T) {
		socket := filepath.Join(memoryDir(t), "socket")
		exercise(t, newMount(t, "256M", "--socket", socket, "--runtime-dir", filepath.Dir(socket)), socket)
	})
}

func exercise(t *testing.T, m *mount, socket string) {
	duration := 3 * time.Second
	if *long {
		duration = 2 * time.Minute
	}
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	e := &exerciser{t: t, r: rand.New(rand.NewPCG(seed, 1)), path: filepath.Join(m.dir, "file")}
	e.open(unix.O_CREAT)
	defer func() { unix.Close(e.fd) }()
	if socket != "" {
		defer e.attach(socket)()
	}
	for start := time.Now(); time.Since(start) < duration && !t.Failed(); {
		e.step()
		e.compare()
	}
	if t.Failed() {
		t.Logf("after\n%s", strings.Join(e.history[max(0, len(e.history)-20):], "\n"))
	}
}

func (e *exerciser) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatalf("%v after\n%s", err, strings.Join(e.history[max(0, len(e.history)-20):], "\n"))
	}
}

func (e *exerciser) open(flags int) {
	e.t.Helper()
	var err error
	e.fd, err = unix.Open(e.path, unix.O_RDWR|unix.O_CLOEXEC|flags, 0o600)
	e.must(err)
}

// attach has a client map the file beside the mount.
func (e *exerciser) attach(socket string) (detach func()) {
	var err error
	e.direct, err = root.Dial(socket)
	e.must(err)
	e.file, err = e.direct.OpenFile("file", os.O_RDWR, 0)
	e.must(err)
	e.mapping, err = e.file.Map(0, maxModel, root.Shared)
	e.must(err)
	return func() {
		e.must(e.mapping.Unmap())
		e.must(e.file.Close())
		e.must(e.direct.Close())
	}
}

func (e *exerciser) note(format string, args ...any) {
	e.history = append(e.history, fmt.Sprintf(format, args...))
}

// span draws a part of the file, perhaps beyond its end.
func (e *exerciser) span() (off, n int) {
	off = e.r.IntN(maxModel - 1)
	n = 1 + e.r.IntN(min(maxModel-off, 1<<e.r.IntN(19)+1))
	if e.r.IntN(3) == 0 { // whole blocks
		off = off &^ 4095
		n = min((n+4095)&^4095, maxModel-off)
	}
	return off, min(n, maxModel-off)
}

func (e *exerciser) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(e.r.Uint32()) | 1
	}
	return b
}

// put changes the model.
func (e *exerciser) put(off int, b []byte) {
	if end := off + len(b); end > len(e.want) {
		e.want = append(e.want, make([]byte, end-len(e.want))...)
	}
	copy(e.want[off:], b)
}

func (e *exerciser) step() {
	off, n := e.span()
	ops := []func(off, n int){e.write, e.write, e.write, e.appendTo, e.truncate, e.punch, e.zero, e.allocate, e.store, e.copyRange, e.reopen, e.openDirect}
	if e.direct != nil {
		ops = append(ops, e.clientStore, e.clientWrite, e.clientTruncate)
	}
	ops[e.r.IntN(len(ops))](off, n)
}

func (e *exerciser) write(off, n int) {
	e.note("write %d %d", off, n)
	b := e.bytes(n)
	got, err := unix.Pwrite(e.fd, b, int64(off))
	e.must(err)
	if got != n {
		e.t.Errorf("%d bytes written of %d", got, n)
	}
	e.put(off, b)
}

func (e *exerciser) appendTo(_, n int) {
	n = min(n, maxModel-len(e.want))
	if n == 0 {
		return
	}
	e.note("append %d to %d", n, len(e.want))
	b := e.bytes(n)
	fd, err := unix.Open(e.path, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
	e.must(err)
	_, err = unix.Write(fd, b)
	e.must(err)
	e.must(unix.Close(fd))
	e.put(len(e.want), b)
}

func (e *exerciser) truncate(off, _ int) {
	e.note("truncate %d", off)
	e.must(unix.Ftruncate(e.fd, int64(off)))
	e.resize(off)
}

func (e *exerciser) resize(size int) {
	e.want = append(e.want[:min(size, len(e.want))], make([]byte, max(0, size-len(e.want)))...)
}

func (e *exerciser) punch(off, n int) {
	e.note("punch %d %d", off, n)
	e.must(unix.Fallocate(e.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n)))
	if off < len(e.want) {
		clear(e.want[off:min(off+n, len(e.want))])
	}
}

func (e *exerciser) zero(off, n int) {
	e.note("zero %d %d", off, n)
	e.must(unix.Fallocate(e.fd, unix.FALLOC_FL_ZERO_RANGE, int64(off), int64(n)))
	e.put(off, make([]byte, n))
}

func (e *exerciser) allocate(off, n int) {
	e.note("allocate %d %d", off, n)
	e.must(unix.Fallocate(e.fd, 0, int64(off), int64(n)))
	e.resize(max(len(e.want), off+n))
}

// store stores through a shared mapping of the mount, and syncs it if others look at the file, too.
func (e *exerciser) store(off, n int) {
	if len(e.want) == 0 {
		return
	}
	off %= len(e.want)
	n = min(n, len(e.want)-off)
	e.note("store %d %d", off, n)
	base := off &^ 4095
	if e.direct != nil { // what the client has stored is seen from the next open on
		fd, err := unix.Open(e.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		e.must(err)
		e.must(unix.Close(fd))
	}
	p, err := unix.Mmap(e.fd, int64(base), off+n-base, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	e.must(err)
	if got := p[off-base:]; !bytes.Equal(got, e.want[off:off+n]) {
		e.t.Errorf("the mapping has something else at %d", off)
	}
	b := e.bytes(n)
	copy(p[off-base:], b)
	if e.direct != nil || e.r.IntN(2) == 0 {
		e.must(unix.Msync(p, unix.MS_SYNC))
	}
	e.must(unix.Munmap(p))
	e.put(off, b)
}

func (e *exerciser) copyRange(off, n int) {
	to, _ := e.span()
	n = min(n, len(e.want)-off, maxModel-to)
	if n <= 0 || off < to+n && to < off+n {
		return
	}
	e.note("copy %d %d to %d", off, n, to)
	from, at := int64(off), int64(to)
	for left := n; left > 0; {
		got, err := unix.CopyFileRange(e.fd, &from, e.fd, &at, left, 0)
		e.must(err)
		if got == 0 {
			e.t.Errorf("%d bytes were not copied", left)
			return
		}
		left -= got
	}
	e.put(to, bytes.Clone(e.want[off:off+n]))
}

func (e *exerciser) reopen(int, int) {
	e.note("reopen")
	e.must(unix.Close(e.fd))
	e.open(0)
}

func (e *exerciser) openDirect(int, int) {
	e.note("reopen, O_DIRECT")
	e.must(unix.Close(e.fd))
	e.open(unix.O_DIRECT)
}

func (e *exerciser) clientStore(off, n int) {
	if len(e.want) == 0 {
		return
	}
	off %= len(e.want)
	n = min(n, len(e.want)-off)
	e.note("the client stores %d %d", off, n)
	b := e.bytes(n)
	copy(e.mapping.Bytes()[off:], b)
	e.put(off, b)
}

func (e *exerciser) clientWrite(off, n int) {
	e.note("the client writes %d %d", off, n)
	b := e.bytes(n)
	_, err := e.file.WriteAt(b, int64(off))
	e.must(err)
	e.put(off, b)
}

func (e *exerciser) clientTruncate(off, _ int) {
	e.note("the client truncates to %d", off)
	e.must(e.file.Truncate(int64(off)))
	e.resize(off)
}

// compare reads all of the file, and looks at its size and its holes.
func (e *exerciser) compare() {
	e.t.Helper()
	got := make([]byte, maxModel+4096)
	n, err := unix.Pread(e.fd, got, 0)
	e.must(err)
	same(e.t, "read", got[:n], e.want)
	var st unix.Stat_t
	e.must(unix.Fstat(e.fd, &st))
	if st.Size != int64(len(e.want)) {
		e.t.Errorf("the size is %d, not %d", st.Size, len(e.want))
	}
	if e.direct != nil {
		same(e.t, "the client's mapping", e.mapping.Bytes()[:len(e.want)], e.want)
	}
	for at := int64(0); at < int64(len(e.want)); { // what is a hole must be zeros
		data, err := unix.Seek(e.fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			data, err = int64(len(e.want)), nil
		}
		e.must(err)
		if hole := e.want[at:data]; len(bytes.Trim(hole, "\x00")) > 0 {
			e.t.Errorf("the hole from %d to %d has data", at, data)
		}
		if data == int64(len(e.want)) {
			break
		}
		at, err = unix.Seek(e.fd, data, unix.SEEK_HOLE)
		e.must(err)
	}
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Errorf("%s: %#x at %d, not %#x (%d bytes, want %d)", what, got[i], i, want[i], len(got), len(want))
			return
		}
	}
	t.Errorf("%s: %d bytes, not %d", what, len(got), len(want))
}
