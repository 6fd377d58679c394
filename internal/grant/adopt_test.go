package grant

import (
	"errors"
	"testing"
)

// TestAdopt: what a client of an earlier owner has is recorded whatever the limits say, and is given back like all
// else.
func TestAdopt(t *testing.T) {
	tab := NewTable(Limits{Grants: 1, PinnedBlocks: 1, SealedBlocks: 1})
	c, other := &fakeClient{pid: 7}, &fakeClient{pid: 8}
	sealed := tab.Map(c, 5, 10, 20, 0x100000, 3)
	sealed.Adopt(true, true)
	open := tab.Map(c, 6, 0, 20, 0x200000, 4)
	open.Adopt(true, false)
	open.AdoptPin(2, 5)
	open.AdoptPin(2, 5)
	reader := tab.Map(other, 6, 5, 10, 0x300000, 1)
	reader.Adopt(false, false)
	for m, want := range map[*Mapping]string{sealed: "10+20wz", open: "0+20wz", reader: "5+10rz"} {
		if got := m.text(); got != want {
			t.Errorf("recorded %q, want %q", got, want)
		}
	}
	if u := tab.Usage(); u.Seals != 1 || u.Pins != 1 {
		t.Errorf("usage %+v", u)
	}

	var e *SealedError
	if err := tab.Break(5, None, Run{29, 5}); !errors.As(err, &e) || e.PID != 7 || e.Handle != 3 || e.Pin || e.First != 10 || e.Count != 20 {
		t.Errorf("a break of what is sealed: %v", err)
	}
	if err := tab.BreakZero(6, Run{0, 3}); !errors.As(err, &e) || e.PID != 7 || !e.Pin {
		t.Errorf("a break of what is pinned: %v", err)
	}
	if got := c.next() + other.next(); got != "" {
		t.Errorf("asked: %s", got)
	}
	if err := tab.BreakZero(6, Run{8, 2}); err != nil {
		t.Error(err)
	}
	if got := c.next() + " " + other.next(); got != "none: 0x208000+2; none: 0x303000+2;" {
		t.Errorf("a hole is filled: asked %s", got)
	}
	if err := open.Unpin(2, 5); err != nil {
		t.Error(err)
	}
	if err := tab.Break(6, None, Run{0, 20}); !errors.As(err, &e) {
		t.Errorf("one pin of two is left: %v", err)
	}
	if err := open.Unpin(2, 5); err != nil {
		t.Error(err)
	}
	if err := tab.Break(6, None, Run{0, 20}); err != nil || open.text()+reader.text() != "" {
		t.Errorf("a break of everything: %v, left %q %q", err, open.text(), reader.text())
	}
	tab.Unmap(sealed)
	if err := tab.Break(5, None, Run{0, 100}); err != nil {
		t.Errorf("the seal outlives its mapping: %v", err)
	}
	again := tab.Map(c, 5, 0, 1, 0x400000, 1)
	if err := again.Seal(); err != nil {
		t.Errorf("what was adopted is still counted: %v", err)
	}
}
