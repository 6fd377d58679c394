package pmem

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/lines"
)

const pageSize = 4096

// mapShared returns n bytes of shared memory outside the Go heap, as a medium is.
func mapShared(t testing.TB, n int) []byte {
	t.Helper()
	p, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
	if err != nil {
		t.Fatalf("map %d bytes: %v", n, err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(p); err != nil {
			t.Errorf("unmap: %v", err)
		}
	})
	return p
}

// use makes the package call the named methods until the test ends.
func use(t testing.TB, flushName, streamName string) {
	t.Helper()
	forced := map[string]string{flushVariable: flushName, streamVariable: streamName}
	m, err := choose(flushMethods(), streamMethods(), func(v string) string { return forced[v] })
	if err != nil && err.Error() != fmt.Sprint(platformError()) {
		t.Fatal(err)
	}
	saved := chosen
	chosen = m
	t.Cleanup(func() { chosen = saved })
}

// eachMethod runs test with every stream method that this CPU has, and then
// with every flush method.
func eachMethod(t *testing.T, test func(*testing.T)) {
	for _, s := range streamMethods() {
		if s.supported {
			t.Run(s.name, func(t *testing.T) { use(t, "", s.name); test(t) })
		}
	}
	for _, f := range flushMethods() {
		if f.supported {
			t.Run(f.name, func(t *testing.T) { use(t, f.name, ""); test(t) })
		}
	}
}

func fillRandom(p []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
}

// Every start within two lines and every length up to almost five lines: the
// range gets the bytes, all others keep theirs.
func TestCopyAndZeroEveryEdge(t *testing.T) {
	const maxOff, maxLen = 130, 300
	eachMethod(t, func(t *testing.T) {
		const size = 1024
		dst, src := mapShared(t, size), mapShared(t, size)
		before := make([]byte, size)
		fillRandom(before, 1)
		fillRandom(src, 2)
		want := make([]byte, size)
		check := func(off, n int, what string) {
			Fence()
			if !bytes.Equal(dst, want) {
				i := 0
				for dst[i] == want[i] {
					i++
				}
				t.Fatalf("%s at %d, length %d: byte %d is %#x, want %#x", what, off, n, i, dst[i], want[i])
			}
		}
		for off := 0; off <= maxOff; off++ {
			for n := 0; n <= maxLen; n++ {
				from := (off*7 + n*3) % 131
				copy(dst, before)
				copy(want, before)
				copy(want[off:off+n], src[from:])
				if got := Copy(dst[off:off+n], src[from:from+n]); got != n {
					t.Fatalf("Copy returned %d, want %d", got, n)
				}
				check(off, n, "Copy")
				clear(want[off : off+n])
				copy(dst, before)
				copy(want[:off], before)
				copy(want[off+n:], before[off+n:])
				Zero(dst[off : off+n])
				check(off, n, "Zero")
			}
		}
	})
}

// Ranges longer than a piece of the stream and flush loops, with every
// combination of aligned and unaligned ends.
func TestCopyAndZeroLarge(t *testing.T) {
	eachMethod(t, func(t *testing.T) {
		size := int(max(streamPiece, lines.Piece)*4 + pageSize)
		dst, src := mapShared(t, size), mapShared(t, size)
		want := make([]byte, size)
		fillRandom(src, 3)
		for _, off := range []int{0, 1, 63, 64, 4095} {
			for _, n := range []int{int(streamPiece) - 1, int(streamPiece), int(streamPiece) + 65, lines.Piece*2 + 1, size - 4096} {
				copy(want[off:off+n], src[17:])
				if got := Copy(dst[off:off+n], src[17:]); got != min(n, size-17) {
					t.Fatalf("Copy returned %d, want %d", got, n)
				}
				Persist(dst)
				if !bytes.Equal(dst, want) {
					t.Fatalf("Copy at %d, length %d: bytes differ", off, n)
				}
				clear(want[off : off+n])
				Zero(dst[off : off+n])
				Persist(dst[off : off+n])
				if !bytes.Equal(dst, want) {
					t.Fatalf("Zero at %d, length %d: bytes differ", off, n)
				}
			}
		}
	})
}

func TestCopyCopiesTheShorterLength(t *testing.T) {
	dst, src := make([]byte, 100), bytes.Repeat([]byte{1}, 200)
	if n := Copy(dst[:70], src); n != 70 || dst[69] != 1 || dst[70] != 0 {
		t.Errorf("Copy to 70 bytes: n = %d, dst[69:71] = %v", n, dst[69:71])
	}
	clear(dst)
	if n := Copy(dst, src[:30]); n != 30 || dst[29] != 1 || dst[30] != 0 {
		t.Errorf("Copy of 30 bytes: n = %d, dst[29:31] = %v", n, dst[29:31])
	}
}

// An empty slice may point anywhere, also to memory that cannot be accessed.
func TestEmptyRangesTouchNothing(t *testing.T) {
	p := mapShared(t, pageSize)
	if err := unix.Mprotect(p, unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	for _, empty := range [][]byte{nil, {}, p[:0], p[pageSize:]} {
		Flush(empty)
		Persist(empty)
		Zero(empty)
		if n := Copy(empty, []byte{1}) + Copy([]byte{1}, empty); n != 0 {
			t.Errorf("Copy of nothing returned %d", n)
		}
	}
}

func TestCopyOfOverlappingRangesPanics(t *testing.T) {
	p := make([]byte, 256)
	for _, c := range []struct {
		dst, src int
		overlap  bool
	}{{0, 99, true}, {99, 0, true}, {5, 5, true}, {0, 100, false}, {100, 0, false}} {
		func() {
			defer func() {
				if r := recover(); (r != nil) != c.overlap {
					t.Errorf("Copy of 100 bytes from %d to %d: panic %v", c.src, c.dst, r)
				}
			}()
			Copy(p[c.dst:c.dst+100], p[c.src:c.src+100])
		}()
	}
}

// touches reports whether f accesses memory that it may not.
func touches(f func()) (fault bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(interface{ Addr() uintptr }); !ok {
				panic(r)
			}
			fault = true
		}
	}()
	f()
	return false
}

// fenced is a run of accessible pages with an inaccessible one on each side.
type fenced struct {
	t   *testing.T
	mem []byte
}

const fencedPages = 70

func newFenced(t *testing.T) fenced {
	m := fenced{t, mapShared(t, (fencedPages+2)*pageSize)}
	m.protect(0, unix.PROT_NONE)
	m.protect(fencedPages+1, unix.PROT_NONE)
	return m
}

// protect changes one page; 0 is the one before the run.
func (m fenced) protect(page, prot int) {
	m.t.Helper()
	if err := unix.Mprotect(m.mem[page*pageSize:(page+1)*pageSize], prot); err != nil {
		m.t.Fatal(err)
	}
}

// in returns the run with its start and its end moved by so many bytes.
func (m fenced) in(start, end int) []byte {
	return m.mem[pageSize+start : len(m.mem)-pageSize+end]
}

// No function goes beyond its range, and each goes to both of its ends and to
// pages within, whatever the alignment.
func TestRangesAreKeptAndCovered(t *testing.T) {
	src := make([]byte, (fencedPages+2)*pageSize)
	functions := map[string]func([]byte){
		"Zero": Zero,
		"Copy": func(p []byte) { Copy(p, src) },
	}
	eachMethod(t, func(t *testing.T) {
		m := newFenced(t)
		for name, f := range functions {
			checkRange(t, m, name, f)
		}
		// Flushes fault as loads do, but not those of an emulator, and the
		// stand-ins of other platforms flush nothing.
		if !emulated() || touches(func() { Flush(m.in(-pageSize, 0)[:pageSize]) }) {
			checkRange(t, m, "Flush", Flush)
			checkRange(t, m, "Persist", Persist)
		}
	})
}

func checkRange(t *testing.T, m fenced, name string, f func([]byte)) {
	for _, edge := range []int{0, 1, 7, 8, 63, 64, 65, 129} {
		if touches(func() { f(m.in(edge, 0)); f(m.in(0, -edge)); f(m.in(0, 0)[:edge]) }) {
			t.Errorf("%s goes beyond a range whose end is %d bytes inside", name, edge)
		}
		if edge == 0 {
			continue
		}
		last, first := m.in(fencedPages*pageSize-edge, 1), m.in(-1, edge-fencedPages*pageSize)
		if !touches(func() { f(last) }) || !touches(func() { f(first) }) {
			t.Errorf("%s leaves out a byte that is %d bytes from the other end of its range", name, edge)
		}
	}
	for _, page := range []int{1, fencedPages / 2, fencedPages} {
		m.protect(page, unix.PROT_NONE)
		if !touches(func() { f(m.in(0, 0)) }) {
			t.Errorf("%s leaves out page %d of its range", name, page)
		}
		m.protect(page, unix.PROT_READ|unix.PROT_WRITE)
	}
}

// A reader that loads the aligned words inside a range while it is copied over
// finds old or new words, never a mixture.
func TestWordsAreNeverTorn(t *testing.T) {
	if err := platformError(); err != nil {
		t.Skip(err) // plain copies tear
	}
	const rounds = 5000
	ranges := []struct{ off, n int }{{0, 64}, {3, 14}, {1, 63}, {5, 200}, {61, 70}, {7, 9}}
	old, young := bytes.Repeat([]byte{0x00}, pageSize), bytes.Repeat([]byte{0xff}, pageSize)
	eachMethod(t, func(t *testing.T) {
		for _, r := range ranges {
			p := mapShared(t, pageSize)[r.off : r.off+r.n]
			first, end := (r.off+wordSize-1)/wordSize, (r.off+r.n)/wordSize
			base := unsafe.Add(unsafe.Pointer(&p[0]), -r.off)
			var done atomic.Bool
			var wg sync.WaitGroup
			wg.Go(func() {
				defer done.Store(true)
				for i := range rounds {
					Copy(p, young[i%9:])
					if i%2 == 0 {
						Zero(p)
					} else {
						Copy(p, old[i%7:])
					}
				}
			})
			for !done.Load() {
				for w := first; w < end; w++ {
					if v := atomic.LoadUint64((*uint64)(unsafe.Add(base, w*wordSize))); v+1 > 1 {
						wg.Wait() // before the memory goes
						t.Fatalf("offset %d, length %d: word %d is %#016x", r.off, r.n, w, v)
					}
				}
			}
			wg.Wait()
		}
	})
}

// The buffers of callers stay on their stacks.
func TestNothingAllocates(t *testing.T) {
	n := testing.AllocsPerRun(100, func() {
		var a, b [192]byte
		a[0] = 1
		Flush(a[3:100])
		Copy(b[1:], a[:])
		Zero(a[:130])
		Persist(b[:])
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestChoose(t *testing.T) {
	flushes := []flushMethod{{name: "best"}, {name: "good", supported: true}, {name: "base", supported: true}}
	streams := []streamMethod{{name: "wide", supported: true}, {name: "narrow", supported: true}}
	for _, c := range []struct{ flush, stream, wantFlush, wantStream, err string }{
		{"", "", "good", "wide", ""},
		{"base", "narrow", "base", "narrow", ""},
		{"best", "", "good", "wide", "pmem: PMEMFS_FLUSH=best: this CPU does not support it (it has good, base)"},
		{"", "odd", "good", "wide", "pmem: PMEMFS_STREAM=odd: unknown method (this CPU has wide, narrow)"},
	} {
		forced := map[string]string{flushVariable: c.flush, streamVariable: c.stream}
		m, err := choose(flushes, streams, func(v string) string { return forced[v] })
		if m.name != c.wantFlush || m.stream.name != c.wantStream {
			t.Errorf("%v: chose %s and %s, want %s and %s", c, m.name, m.stream.name, c.wantFlush, c.wantStream)
		}
		var got []string
		if err != nil {
			got = strings.Split(err.Error(), "\n")
		}
		if e := platformError(); e != nil {
			got = got[1:]
		}
		if strings.Join(got, "\n") != c.err {
			t.Errorf("%v: error %q, want %q", c, got, c.err)
		}
	}
}
