package fault

import (
	"runtime"
	"testing"
)

// How long is polled follows what a wake-up takes here, within bounds.
func TestWakeUp(t *testing.T) {
	if runtime.NumCPU() == 1 {
		t.Skip("one CPU: nobody polls")
	}
	if took := measureWake(); took <= 0 {
		t.Errorf("a wake-up takes %v", took)
	}
	if wakeUp() < leastWake || wakeUp() > mostWake {
		t.Errorf("%v are taken for a wake-up", wakeUp())
	}
	if pollRounds() == 0 {
		t.Error("clients do not poll")
	}
}

// Who expects a ring polls for it, however long ago the last one was.
func TestExpect(t *testing.T) {
	p, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	w, ended := &p.faults, func() bool { return false }
	rung := func() uint32 { seen := *w.bell; w.ring(); return seen } // so that no wait is long
	if w.wait(rung(), ended); w.budget != 0 {
		t.Errorf("expects nothing, and polls %v", w.budget)
	}
	bell := *w.bell
	if p.Expect(); *w.bell == bell {
		t.Error("who sleeps is not told")
	}
	if w.wait(rung(), ended); w.budget != w.longest() {
		t.Errorf("expects a fault, and polls %v", w.budget)
	}
	w.budget = 0
	if w.wait(rung(), ended); w.budget != 0 {
		t.Errorf("expects one fault, and polls %v for the next", w.budget)
	}
}
