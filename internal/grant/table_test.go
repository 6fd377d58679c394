package grant

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeClient stands for a client's address space: it notes what is taken back, and fails when told to.
type fakeClient struct {
	pid int

	mu    sync.Mutex
	fail  error
	taken []taken
	enter func() // called by TakeBack, without mu
}

type taken struct {
	runs []AddressRun
	to   Access
}

func (c *fakeClient) PID() int { return c.pid }

func (c *fakeClient) TakeBack(runs []AddressRun, to Access) error {
	if c.enter != nil {
		c.enter()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = append(c.taken, taken{slices.Clone(runs), to})
	return c.fail
}

// next returns what was taken back since the last call, as text.
func (c *fakeClient) next() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, t := range c.taken {
		fmt.Fprintf(&b, "%v:", t.to)
		for _, r := range t.runs {
			fmt.Fprintf(&b, " %#x+%d", r.Address, r.Length/BlockSize)
		}
		b.WriteString(";")
	}
	c.taken = nil
	return b.String()
}

// text shows a mapping's runs: "3+2w 8+1rz".
func (m *Mapping) text() string {
	m.table.mu.Lock()
	defer m.table.mu.Unlock()
	var parts []string
	for n := range m.runs.overlapping(math.MinInt64, math.MaxInt64) {
		s := fmt.Sprintf("%d+%d%c", n.first, n.end-n.first, n.value.access.String()[0])
		if n.value.zeros {
			s += "z"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ")
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestGrantsJoin(t *testing.T) {
	m := NewTable(Limits{}).Map(&fakeClient{}, 7, 10, 100, 0x100000, 3)
	steps := []struct {
		do   func() error
		want string
	}{
		{func() error { return m.Grant(20, 2, Read) }, "20+2r"},
		{func() error { return m.Grant(22, 2, Read) }, "20+4r"},
		{func() error { return m.Grant(18, 2, Read) }, "18+6r"},
		{func() error { return m.Grant(19, 2, Read) }, "18+6r"},
		{func() error { return m.Grant(20, 2, Write) }, "18+2r 20+2w 22+2r"},
		// In which order the client maps the two answers is not known: it may still store.
		{func() error { return m.Grant(20, 2, Read) }, "18+2r 20+2w 22+2r"},
		{func() error { return m.Grant(18, 6, Write) }, "18+6w"},
		{func() error { return m.Grant(30, 1, Write) }, "18+6w 30+1w"},
		{func() error { return m.Grant(10, 100, Read) }, "10+8r 18+6w 24+6r 30+1w 31+79r"},
		{func() error { return m.GrantZero(109, 1) }, "10+8r 18+6w 24+6r 30+1w 31+78r 109+1rz"},
		{func() error { return m.Grant(10, 100, Write) }, "10+99w 109+1wz"},
	}
	for i, s := range steps {
		must(t, s.do())
		expect(t, fmt.Sprintf("after step %d", i), m.text(), s.want)
	}
}

func TestBreakAsksForWhatIsGranted(t *testing.T) {
	table := NewTable(Limits{})
	c := &fakeClient{pid: 17}
	m := table.Map(c, 7, 10, 100, 0x100000, 3) // block b is at 0x100000 + (b-10) * 0x1000
	must(t, m.Grant(20, 10, Write), m.Grant(40, 5, Read), m.GrantZero(50, 2))

	must(t, table.Break(8, None, Run{0, 1000}), table.Break(7, None, Run{0, 20}), table.Break(7, None, Run{30, 10}))
	expect(t, "other files and runs without grants", c.next(), "")
	must(t, table.Break(7, Write, Run{0, 1000}))
	expect(t, "a break that leaves everything", c.next(), "")

	must(t, table.Break(7, Read, Run{25, 20}))
	expect(t, "a break to read asks for write grants only", c.next(), "read: 0x10f000+5;")
	expect(t, "what is left", m.text(), "20+5w 25+5r 40+5r 50+2rz")

	must(t, table.BreakZero(7, Run{0, math.MaxInt64}))
	expect(t, "a break of zeros", c.next(), "none: 0x128000+2;")

	must(t, table.Break(7, None, Run{24, math.MaxInt64}))
	expect(t, "a break to none, once for all runs, joined", c.next(), "none: 0x10e000+6 0x11e000+5;")
	expect(t, "what is left", m.text(), "20+4w")

	if u := table.Usage(); u.Grants != 1 || u.GrantedBlocks != 4 || u.Breaks != 3 {
		t.Errorf("usage: %+v", u)
	}
	table.Unmap(m)
	table.Unmap(m)
	must(t, table.Break(7, None, Run{0, 1000}))
	expect(t, "after unmap", c.next(), "")
	if u := table.Usage(); u != (Usage{Breaks: 3}) {
		t.Errorf("after unmap: %+v", u)
	}
	for name, err := range map[string]error{"Grant": m.Grant(20, 1, Read), "GrantZero": m.GrantZero(20, 1), "Pin": m.Pin(20, 1), "Unpin": m.Unpin(20, 1)} {
		if !errors.Is(err, ErrUnmapped) {
			t.Errorf("%s of an unmapped mapping: %v", name, err)
		}
	}
}

func TestBreakOfSeveralRuns(t *testing.T) {
	table := NewTable(Limits{})
	c := &fakeClient{pid: 17}
	m := table.Map(c, 7, 0, 100, 0x100000, 3)
	must(t, m.Grant(0, 30, Write), m.Grant(50, 10, Read))
	must(t, table.Break(7, None, Run{55, 2}, Run{2, 3}, Run{5, 1}, Run{70, 5}))
	expect(t, "a client is asked once for all runs", c.next(), "none: 0x102000+4 0x137000+2;")
	expect(t, "what is left", m.text(), "0+2w 6+24w 50+5r 57+3r")
	must(t, table.Break(7, Read, Run{0, 1}, Run{10, 10}))
	expect(t, "the right to store", c.next(), "read: 0x100000+1 0x10a000+10;")
	must(t, m.Pin(58, 1))
	var e *SealedError
	if err := table.Break(7, None, Run{20, 1}, Run{55, 10}); !errors.As(err, &e) || e.First != 58 {
		t.Errorf("one of two runs is pinned: %v", err)
	}
	expect(t, "then nobody is asked", c.next(), "")
	must(t, table.Break(7, None))
}

func TestBreakOfSeveralMappings(t *testing.T) {
	table := NewTable(Limits{})
	a, b := &fakeClient{pid: 1}, &fakeClient{pid: 2}
	a1, a2 := table.Map(a, 7, 0, 10, 0x10000, 3), table.Map(a, 7, 10, 10, 0x1a000, 3) // adjoining in a's address space
	b1 := table.Map(b, 7, 5, 10, 0x50000, 3)
	must(t, a1.Grant(5, 5, Read), a2.Grant(10, 5, Read), b1.Grant(5, 10, Write))
	must(t, table.Break(7, None, Run{6, 8}))
	expect(t, "a client with two mappings is asked once", a.next(), "none: 0x16000+8;")
	expect(t, "the other client", b.next(), "none: 0x51000+8;")
	expect(t, "what is left", a1.text()+"; "+a2.text()+"; "+b1.text(), "5+1r; 14+1r; 5+1w 14+1w")
}

func TestBreakFailsForOneClient(t *testing.T) {
	table := NewTable(Limits{})
	good, bad := &fakeClient{pid: 1}, &fakeClient{pid: 4711, fail: fmt.Errorf("stopped: %w", ErrBusy)}
	mg, mb := table.Map(good, 7, 0, 10, 0x10000, 3), table.Map(bad, 7, 0, 10, 0x20000, 3)
	must(t, mg.Grant(0, 10, Write), mb.Grant(0, 10, Write))

	err := table.Break(7, None, Run{2, 3})
	var e *BreakError
	if !errors.Is(err, ErrBusy) || !errors.Is(err, unix.EBUSY) || !errors.As(err, &e) || e.PID != 4711 || e.Client != bad {
		t.Fatalf("break: %v", err)
	}
	if !strings.Contains(err.Error(), "process 4711") {
		t.Errorf("%q does not name the process", err)
	}
	expect(t, "grants", mg.text()+"; "+mb.text(), "0+2w 5+5w; 0+10w")

	err = table.Break(7, Read, Run{0, 10})
	if !errors.Is(err, ErrBusy) {
		t.Errorf("break to read: %v", err)
	}
	expect(t, "grants", mg.text()+"; "+mb.text(), "0+2r 5+5r; 0+10w")

	bad.fail = nil
	must(t, table.Break(7, None, Run{0, 10}))
	expect(t, "grants", mg.text()+"; "+mb.text(), "; ")
}

// TestUnmapDuringBreak: a client that dies while it is asked has given everything back.
func TestUnmapDuringBreak(t *testing.T) {
	for _, answer := range []error{nil, ErrBusy} {
		table := NewTable(Limits{})
		c := &fakeClient{fail: answer}
		m := table.Map(c, 7, 0, 10, 0x10000, 3)
		must(t, m.Grant(0, 10, Write))
		c.enter = func() { table.Unmap(m) }
		if err := table.Break(7, None, Run{0, 10}); err != nil {
			t.Errorf("the client answers %v and is unmapped: %v", answer, err)
		}
		if u := table.Usage(); u.Grants != 0 {
			t.Errorf("the client answers %v: %d grants are left", answer, u.Grants)
		}
	}
}

// TestClientsAreAskedInParallel would hang if one were asked after the other: each waits for all the others.
func TestClientsAreAskedInParallel(t *testing.T) {
	const n = 16
	table := NewTable(Limits{})
	var all sync.WaitGroup
	all.Add(n)
	for i := range n {
		c := &fakeClient{enter: func() {
			all.Done()
			all.Wait()
			table.Usage() // the table is not locked meanwhile
		}}
		must(t, table.Map(c, 7, 0, 10, uint64(i)<<20, 3).Grant(0, 10, Read))
	}
	must(t, table.Break(7, None, Run{0, 10}))
}

func TestPinnedRunsAreNotBroken(t *testing.T) {
	table := NewTable(Limits{})
	owner, other := &fakeClient{pid: 99}, &fakeClient{pid: 5}
	m, o := table.Map(owner, 7, 100, 50, 0x10000, 3), table.Map(other, 7, 100, 50, 0x90000, 3)
	must(t, m.Grant(100, 50, Write), o.Grant(100, 50, Read), o.GrantZero(120, 1))
	must(t, m.Pin(110, 5), m.Pin(110, 5), m.Pin(112, 10))

	breaks := map[string]func(first, count int64) error{
		"to none": func(first, count int64) error { return table.Break(7, None, Run{first, count}) },
		"to read": func(first, count int64) error { return table.Break(7, Read, Run{first, count}) },
		"zeros":   func(first, count int64) error { return table.BreakZero(7, Run{first, count}) },
	}
	refused := func(when string, first, count int64) {
		t.Helper()
		for name, b := range breaks {
			err := b(first, count)
			var e *SealedError
			if !errors.Is(err, ErrSealed) || !errors.Is(err, unix.EBUSY) || !errors.As(err, &e) || e.PID != 99 || e.File != 7 {
				t.Errorf("%s: break %s of %d blocks from %d: %v", when, name, count, first, err)
				continue
			}
			if e.Address != 0x10000+uint64(e.First-100)*BlockSize {
				t.Errorf("%s: %v: wrong address", when, err)
			}
		}
		expect(t, when+": nobody was asked", owner.next()+other.next(), "")
	}
	refused("three pins", 0, math.MaxInt64)
	refused("the first block", 110, 1)
	refused("the last block", 121, 1)
	must(t, m.Unpin(112, 10))
	refused("one pin less", 100, 11)
	must(t, table.Break(7, Read, Run{115, 7}))
	expect(t, "beside the pins", owner.next()+other.next(), "read: 0x1f000+7;")
	must(t, m.Unpin(110, 5))
	refused("taken twice, given back once", 114, 1)
	must(t, m.Unpin(110, 5))
	for _, r := range [][2]int64{{110, 5}, {112, 10}, {111, 1}} {
		if err := m.Unpin(r[0], r[1]); !errors.Is(err, ErrUnmapped) {
			t.Errorf("a pin too many is given back: %v", err)
		}
	}
	must(t, m.Pin(100, 50))
	table.Unmap(m)
	must(t, table.Break(7, None, Run{0, math.MaxInt64}))
	expect(t, "pins go with their mapping", o.text(), "")
}

func TestSealedErrorSays(t *testing.T) {
	err := &SealedError{PID: 99, Handle: 8, File: 7, First: 110, Count: 5, Address: 0x1a000}
	expect(t, "text", err.Error(),
		"blocks 110 to 114 of inode 7 are sealed by process 99, which maps them at 0x1a000 by its handle 8")
	err.Pin = true
	expect(t, "text", err.Error(),
		"blocks 110 to 114 of inode 7 are pinned by process 99, which maps them at 0x1a000 by its handle 8")
}

func TestImpossibleNumbersPanic(t *testing.T) {
	table := NewTable(Limits{})
	m := table.Map(&fakeClient{}, 7, 10, 10, 0x10000, 3)
	calls := map[string]func(){
		"Map before the file":              func() { table.Map(&fakeClient{}, 7, -1, 1, 0, 3) },
		"Map of nothing":                   func() { table.Map(&fakeClient{}, 7, 0, 0, 0, 3) },
		"Map of too much":                  func() { table.Map(&fakeClient{}, 7, 1, math.MaxInt64, 0, 3) },
		"Map of more than there is memory": func() { table.Map(&fakeClient{}, 7, 0, 1<<52, 0, 3) },
		"Map to the end of memory":         func() { table.Map(&fakeClient{}, 7, 0, 2, math.MaxUint64&^(BlockSize-1), 3) },
		"Map askew":                        func() { table.Map(&fakeClient{}, 7, 0, 1, 1, 3) },
		"Grant before":                     func() { m.Grant(9, 1, Read) },
		"Grant beyond":                     func() { m.Grant(20, 1, Read) },
		"Grant across the end":             func() { m.Grant(19, 2, Read) },
		"Grant of nothing":                 func() { m.Grant(10, 0, Read) },
		"Grant of too much":                func() { m.Grant(11, math.MaxInt64, Read) },
		"Grant of no access":               func() { m.Grant(10, 1, None) },
		"Grant of more than write":         func() { m.Grant(10, 1, Write+1) },
		"GrantZero beyond":                 func() { m.GrantZero(20, 1) },
		"Pin beyond":                       func() { m.Pin(20, 1) },
		"Break before":                     func() { table.Break(7, None, Run{-1, 1}) },
		"Break of less than nothing":       func() { table.Break(7, None, Run{1, -1}) },
	}
	for name, f := range calls {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s does not panic", name)
				}
			}()
			f()
		}()
	}
	expect(t, "nothing was granted", m.text(), "")
	table.Map(&fakeClient{}, 7, 0, 1, math.MaxUint64&^(2*BlockSize-1), 3) // the last page but one
}

func TestSeal(t *testing.T) {
	table := NewTable(Limits{})
	c := &fakeClient{pid: 99}
	m := table.Map(c, 7, 100, 50, 0x10000, 8)
	must(t, m.Grant(100, 50, Write), m.Pin(110, 5), m.Seal(), m.Seal())
	for _, at := range []int64{100, 112, 149} {
		var e *SealedError
		if err := table.Break(7, Read, Run{at, 1}); !errors.As(err, &e) || e.PID != 99 || e.Handle != 8 {
			t.Errorf("break of block %d of a sealed mapping: %v", at, err)
		}
	}
	must(t, table.Sealed(7, 0, 100), table.Sealed(7, 150, math.MaxInt64), table.Sealed(8, 0, math.MaxInt64))
	must(t, m.Unpin(110, 5))
	if u := table.Usage(); u.Seals != 1 || u.SealedBlocks != 50 || u.Pins != 0 {
		t.Errorf("usage %+v", u)
	}
	table.Unmap(m)
	must(t, table.Sealed(7, 0, math.MaxInt64))
	if err := m.Seal(); !errors.Is(err, ErrUnmapped) {
		t.Errorf("seal of an unmapped mapping: %v", err)
	}
}

// TestLimits: what a client may have is bounded, whatever others have, and giving back makes room.
func TestLimits(t *testing.T) {
	table := NewTable(Limits{Grants: 2, PinnedBlocks: 10, SealedBlocks: 20})
	c, other := &fakeClient{pid: 99}, &fakeClient{pid: 5}
	m := table.Map(c, 7, 0, 20, 0x100000, 3)
	o := table.Map(other, 7, 0, 20, 0x900000, 3)
	over := func(what string, err error) {
		t.Helper()
		var e *LimitError
		if !errors.Is(err, ErrLimit) || !errors.Is(err, unix.EDQUOT) || !errors.As(err, &e) || e.PID != 99 || e.What != what {
			t.Errorf("too many %s: %v", what, err)
		}
	}
	must(t, m.Grant(0, 2, Write), m.Grant(4, 2, Write), m.Grant(4, 1, Read))
	over("grants", m.Grant(8, 1, Read))
	over("grants", m.GrantZero(0, 1))
	must(t, o.Grant(8, 1, Read), table.Break(7, None, Run{0, 2}), m.Grant(8, 1, Read))

	must(t, m.Pin(0, 5), m.Pin(0, 5))
	over("pinned blocks", m.Pin(0, 1))
	must(t, o.Pin(0, 1), m.Unpin(0, 5), m.Pin(3, 4))

	must(t, m.Seal())
	m2 := table.Map(c, 8, 0, 1, 0x800000, 3)
	over("sealed blocks", m2.Seal())
	table.Unmap(m)
	must(t, m2.Seal())
}

// TestRecordsAreFew: a run is one record, however long, and nothing is recorded for what nobody maps.
func TestRecordsAreFew(t *testing.T) {
	table := NewTable(Limits{})
	m := table.Map(&fakeClient{}, 7, 0, 1<<18, 1<<32, 3) // 1 GiB
	for at := int64(0); at < 1<<18; at += 512 {
		must(t, m.Grant(at, 512, Write))
	}
	must(t, m.Seal())
	if u := table.Usage(); u.Grants != 1 || u.Records > 5 || u.Bytes > 2048 {
		t.Errorf("a sealed 1 GiB takes %+v", u)
	}
	table.Unmap(m)
	if u := table.Usage(); u != (Usage{}) {
		t.Errorf("nothing is mapped, and yet %+v", u)
	}
}
