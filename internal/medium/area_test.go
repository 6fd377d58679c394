package medium

import (
	"bytes"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// areasUnderTest returns one area of each implementation, all of the size.
func areasUnderTest(t testing.TB, size int64) map[string]Area {
	pool, err := Create(filepath.Join(tmpfs(t), "pool"), size, size, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pool.Close() })
	disk, err := Create(filepath.Join(t.TempDir(), "pool"), size, size, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { disk.Close() })
	return map[string]Area{
		"memory":   Memory(size),
		"counting": Counting(Memory(size)),
		"tmpfs":    pool.Data(),
		"disk":     disk.Data(),
	}
}

// panicOf returns what f panics with, as text; "" if it does not.
func panicOf(f func()) (text string) {
	defer func() {
		if v := recover(); v != nil {
			text = fmt.Sprint(v)
		}
	}()
	f()
	return ""
}

func TestRangesOutsidePanic(t *testing.T) {
	const size = 2 * pageSize
	bad := []struct{ off, n int64 }{
		{-1, 1}, {0, -1}, {size, 1}, {size + 1, 0}, {0, size + 1}, {size - 1, 2}, {1, size},
		{math.MaxInt64, 1}, {1, math.MaxInt64}, {math.MaxInt64, math.MaxInt64}, {math.MinInt64, 1}, {0, math.MinInt64},
	}
	for name, a := range areasUnderTest(t, size) {
		for _, r := range bad {
			calls := map[string]func(){
				"Zero":      func() { a.Zero(r.off, r.n) },
				"Flush":     func() { a.Flush(r.off, r.n) },
				"Copy to":   func() { a.Copy(r.off, 0, r.n) },
				"Copy from": func() { a.Copy(0, r.off, r.n) },
			}
			if r.n >= 0 && r.n <= 2*size {
				calls["Write"] = func() { a.Write(r.off, make([]byte, r.n)) }
				calls["Stream"] = func() { a.Stream(r.off, make([]byte, r.n)) }
			}
			for call, f := range calls {
				if text := panicOf(f); !strings.Contains(text, "out of range") {
					t.Errorf("%s: %s(%d, %d bytes): panic %q, want one about the range", name, call, r.off, r.n, text)
				}
			}
		}
		for _, r := range [][3]int64{{0, 0, 1}, {0, 64, 65}, {64, 0, 65}, {4095, 0, 4096}} {
			if text := panicOf(func() { a.Copy(r[0], r[1], r[2]) }); !strings.Contains(text, "overlap") {
				t.Errorf("%s: Copy(%d, %d, %d): panic %q, want one about the overlap", name, r[0], r[1], r[2], text)
			}
		}
		if !bytes.Equal(a.Bytes(), make([]byte, size)) {
			t.Errorf("%s: a refused call has changed the area", name)
		}
	}
}

func TestEmptyRangesDoNothing(t *testing.T) {
	const size = pageSize
	for name, a := range areasUnderTest(t, size) {
		for _, off := range []int64{0, 1, size - 1, size} {
			if text := panicOf(func() {
				a.Write(off, nil)
				a.Stream(off, nil)
				a.Zero(off, 0)
				a.Copy(off, 0, 0)
				a.Flush(off, 0)
			}); text != "" {
				t.Errorf("%s: an empty range at %d panics: %s", name, off, text)
			}
		}
	}
}

// FuzzRange compares the range check with arithmetic that cannot overflow.
func FuzzRange(f *testing.F) {
	f.Add(int64(0), int64(0), int64(0))
	f.Add(int64(math.MaxInt64), int64(1), int64(math.MaxInt64))
	f.Add(int64(-1), int64(2), int64(10))
	f.Fuzz(func(t *testing.T, off, n, size int64) {
		if size < 0 {
			size = -(size + 1)
		}
		inside := off >= 0 && n >= 0 && uint64(off)+uint64(n) <= uint64(size)
		if panicked := panicOf(func() { checkRange("store", off, n, size) }) != ""; panicked == inside {
			t.Errorf("range of %d bytes at %d in %d: panicked %v", n, off, size, panicked)
		}
	})
}

// TestAreasAgree makes the same stores to every kind of area and to a plain slice.
func TestAreasAgree(t *testing.T) {
	const size = 4 * pageSize
	areas := areasUnderTest(t, size)
	want := make([]byte, size)
	rapid.Check(t, func(t *rapid.T) {
		off := rapid.Int64Range(0, size).Draw(t, "off")
		n := rapid.Int64Range(0, size-off).Draw(t, "n")
		p := bytes.Repeat([]byte{byte(rapid.IntRange(1, 255).Draw(t, "fill"))}, int(n))
		call := rapid.SampledFrom([]string{"write", "stream", "zero", "copy"}).Draw(t, "call")
		src := rapid.Int64Range(0, size-n).Draw(t, "src")
		if call == "copy" && src < off+n && off < src+n {
			call = "write"
		}
		switch call {
		case "write", "stream":
			copy(want[off:], p)
		case "zero":
			clear(want[off : off+n])
		case "copy":
			copy(want[off:off+n], want[src:src+n])
		}
		for name, a := range areas {
			switch call {
			case "write":
				a.Write(off, p)
				a.Flush(off, n)
			case "stream":
				a.Stream(off, p)
			case "zero":
				a.Zero(off, n)
			case "copy":
				a.Copy(off, src, n)
			}
			if err := a.Fence(); err != nil {
				t.Fatalf("%s: fence: %v", name, err)
			}
			if !bytes.Equal(a.Bytes(), want) {
				t.Fatalf("%s: after %s of %d bytes at %d (from %d) the area differs", name, call, n, off, src)
			}
		}
	})
}

func TestCounting(t *testing.T) {
	c := Counting(Memory(pageSize))
	steps := []struct {
		name string
		do   func()
		want Counts
	}{
		{"nothing", func() {}, Counts{}},
		{"a write", func() { c.Write(60, make([]byte, 8)) }, Counts{WrittenBytes: 8}},
		{"a flush across an edge", func() { c.Flush(60, 8) }, Counts{FlushedLines: 2}},
		{"a flush of one byte", func() { c.Flush(63, 1) }, Counts{FlushedLines: 1}},
		{"a flush of nothing", func() { c.Flush(64, 0) }, Counts{}},
		{"a stream of two lines", func() { c.Stream(64, make([]byte, 128)) }, Counts{StreamedLines: 2}},
		{"an unaligned stream", func() { c.Stream(65, make([]byte, 128)) }, Counts{StreamedLines: 3}},
		{"zeros", func() { c.Zero(0, pageSize) }, Counts{StreamedLines: 64}},
		{"a copy, counted at its destination", func() { c.Copy(64, 1027, 64) }, Counts{StreamedLines: 1}},
		{"fences", func() { c.Fence(); c.Fence() }, Counts{Fences: 2}},
	}
	for _, s := range steps {
		c.Reset()
		s.do()
		if got := c.Counts(); got != s.want {
			t.Errorf("%s: counted %+v, want %+v", s.name, got, s.want)
		}
	}
	if text := panicOf(func() { c.Flush(0, pageSize+1) }); text == "" {
		t.Error("a flush out of range does not panic")
	}
}
