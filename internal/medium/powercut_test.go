package medium

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// newPowerCutPool makes a pool of two pages of meta and four of data, with power cuts.
func newPowerCutPool(t *testing.T, seed uint64) (*PowerCut, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pool")
	pool, err := Create(path, 2*pageSize, 4*pageSize, Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPowerCut(pool, PowerCutOptions{Seed: seed})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, path
}

// restart cuts the power and lets it come back.
func restart(t *testing.T, p *PowerCut) (*PowerCut, CutReport) {
	t.Helper()
	r, err := p.Cut()
	if err != nil {
		t.Fatal(err)
	}
	next, err := p.Restart()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { next.Close() })
	return next, r
}

func eight(c byte) []byte { return bytes.Repeat([]byte{c}, 8) }

// TestPowerCutLoses: what is there after a cut, as the first letters of the first three lines.
func TestPowerCutLoses(t *testing.T) {
	for _, tc := range []struct {
		name string
		run  func(a Area, p *PowerCut, i *Issuer)
		want string
		lost int64
	}{
		{"written", func(a Area, _ *PowerCut, _ *Issuer) { a.Write(0, eight('a')) }, "...", 1},
		{"flushed", func(a Area, _ *PowerCut, _ *Issuer) { a.Write(0, eight('a')); a.Flush(0, 8) }, "...", 1},
		{"fenced, not flushed", func(a Area, _ *PowerCut, _ *Issuer) { a.Write(0, eight('a')); a.Fence() }, "...", 1},
		{"persisted", func(a Area, _ *PowerCut, _ *Issuer) { a.Write(0, eight('a')); a.Flush(7, 1); a.Fence() }, "a..", 0},
		{"the line as it was flushed", func(a Area, _ *PowerCut, _ *Issuer) {
			a.Write(0, eight('a'))
			a.Flush(0, 8)
			a.Write(0, eight('b'))
			a.Fence()
		}, "a..", 1},
		{"its lines only", func(a Area, _ *PowerCut, _ *Issuer) {
			a.Write(0, bytes.Repeat([]byte("a"), 192))
			a.Flush(64, 64)
			a.Fence()
		}, ".a.", 2},
		{"over an edge", func(a Area, _ *PowerCut, _ *Issuer) {
			a.Write(0, bytes.Repeat([]byte("a"), 192))
			a.Flush(63, 2)
			a.Fence()
		}, "aa.", 1},
		{"streamed", func(a Area, _ *PowerCut, _ *Issuer) { a.Stream(0, eight('a')); a.Zero(64, 8) }, "...", 2},
		{"streamed and fenced", func(a Area, _ *PowerCut, _ *Issuer) {
			a.Stream(0, eight('a'))
			a.Fence()
			a.Copy(128, 0, 8)
			a.Fence()
		}, "a.a", 0},
		{"fenced by the other area", func(a Area, p *PowerCut, _ *Issuer) { a.Stream(0, eight('a')); p.Meta().Fence() }, "a..", 0},
		{"flushed by one, fenced by another", func(a Area, _ *PowerCut, i *Issuer) {
			a.Write(0, eight('a'))
			i.Flush(0, 8)
			a.Fence()
		}, "...", 1},
		{"by an issuer", func(a Area, _ *PowerCut, i *Issuer) { a.Write(0, eight('a')); i.Flush(0, 8); i.Fence() }, "a..", 0},
		{"never older", func(a Area, _ *PowerCut, i *Issuer) {
			a.Write(0, eight('a'))
			i.Flush(0, 8)
			a.Stream(0, eight('b'))
			a.Fence()
			i.Fence()
		}, "b..", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, _ := newPowerCutPool(t, 0)
			p.Data().Stream(0, bytes.Repeat([]byte("."), 192))
			if err := p.Data().Fence(); err != nil {
				t.Fatal(err)
			}
			issuer := p.Issuer()
			tc.run(p.Data(), p, issuer)
			issuer.Close()
			next, r := restart(t, p)
			b := next.Data().Bytes()
			if diff := cmp.Diff(tc.want, string([]byte{b[0], b[64], b[128]})); diff != "" {
				t.Error(diff)
			}
			if want := (CutReport{Lines: tc.lost, Lost: tc.lost, Cut: 1}); r != want {
				t.Errorf("%+v, want %+v", r, want)
			}
		})
	}
}

// TestPowerCutEvicts: with a seed a part survives, the same with the same seed, whole lines, and what is flushed but not
// fenced as it is or as it was flushed.
func TestPowerCutEvicts(t *testing.T) {
	run := func(seed uint64) (string, CutReport) {
		p, _ := newPowerCutPool(t, seed)
		a := p.Data()
		a.Write(0, bytes.Repeat([]byte("a"), pageSize))
		a.Flush(0, pageSize/2)
		a.Write(0, bytes.Repeat([]byte("b"), pageSize/2))
		next, r := restart(t, p)
		var s []byte
		for off := 0; off < pageSize; off += lineSize {
			line := next.Data().Bytes()[off : off+lineSize]
			if !bytes.Equal(line, bytes.Repeat(line[:1], lineSize)) {
				t.Errorf("seed %d: a torn line %q", seed, line)
			}
			s = append(s, max(line[0], '.'))
		}
		return string(s), r
	}
	seen := map[string]bool{}
	all := map[rune]int{}
	for seed := uint64(1); seed <= 20; seed++ {
		s, r := run(seed)
		if again, _ := run(seed); again != s {
			t.Errorf("seed %d gives %s and %s", seed, s, again)
		}
		if r.Lines != linesPerPage || r.Evicted+r.Lost != r.Lines || r.Seed != seed {
			t.Errorf("seed %d: %+v", seed, r)
		}
		if bytes.ContainsRune([]byte(s[linesPerPage/2:]), 'b') {
			t.Errorf("seed %d: %s", seed, s)
		}
		seen[s] = true
		for _, c := range s[:linesPerPage/2] {
			all[c]++
		}
	}
	if len(seen) < 10 || all['.'] == 0 || all['a'] == 0 || all['b'] == 0 {
		t.Errorf("%d different images, %v", len(seen), all)
	}
}

// TestPowerCutClose: a good end makes everything durable; a cut makes everything fail until the power is back.
func TestPowerCutClose(t *testing.T) {
	p, path := newPowerCutPool(t, 0)
	p.Data().Write(3*pageSize, eight('a'))
	p.Meta().Write(pageSize, eight('b'))
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	pool, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if pool.Data().Bytes()[3*pageSize] != 'a' || pool.Meta().Bytes()[pageSize] != 'b' {
		t.Error("Close has lost something")
	}
	if p, err = NewPowerCut(pool, PowerCutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Cut(); err != nil {
		t.Fatal(err)
	}
	i := p.Issuer()
	p.Data().Stream(0, eight('c'))
	if err := p.Data().Fence(); !errors.Is(err, ErrPowerCut) || !errors.Is(err, unix.EIO) {
		t.Errorf("Fence: %v", err)
	}
	if err := errors.Join(i.Flush(0, 1), i.Fence()); !errors.Is(err, ErrPowerCut) {
		t.Errorf("an issuer: %v", err)
	}
	if _, err := p.Cut(); !errors.Is(err, ErrPowerCut) {
		t.Errorf("a second cut: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if pool, err = Open(path, Options{}); err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if pool.Data().Bytes()[0] != 0 {
		t.Error("something was stored after the cut")
	}
}

// TestPowerCutRefused: it never takes what it cannot emulate.
func TestPowerCutRefused(t *testing.T) {
	p, path := newPowerCutPool(t, 0)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		open Options
		o    PowerCutOptions
		want error
	}{
		{"read-only", Options{ReadOnly: true}, PowerCutOptions{}, unix.EROFS},
		{"byte granularity", Options{}, PowerCutOptions{Require: Byte}, ErrGranularity},
	} {
		pool, err := Open(path, tc.open)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewPowerCut(pool, tc.o); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestPowerCutReport: nobody can take it for the real thing, and the client's file cannot be cut off.
func TestPowerCutReport(t *testing.T) {
	p, _ := newPowerCutPool(t, 7)
	r := p.Report()
	if !r.PowerCut || !r.Emulated || r.Granularity != CacheLine || r.MapSync || len(r.Evidence) == 0 ||
		r.Evidence[len(r.Evidence)-1].What != "emulation of power cuts" || r.DataSize != 4*pageSize {
		t.Errorf("%+v", r)
	}
	f, err := p.ClientFile(false, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncate: %v", err)
	}
	ro, err := p.ClientFile(true, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if _, err := ro.WriteAt(eight('x'), 0); err == nil {
		t.Error("a read-only client can write")
	}
}
