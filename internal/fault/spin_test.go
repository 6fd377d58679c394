package fault

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
	if rounds, yield := pollRounds(); yield == 0 || rounds < yield {
		t.Errorf("clients poll %d times and yield after %d", rounds, yield)
	}
}

// A server that polls on the CPU that its client waits on goes to another one, may use all of them as before, and does not go
// again at once.
func TestServerLeaves(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, after unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	if all.Count() == 1 || runtime.GOMAXPROCS(0) == 1 {
		t.Skip("SKIPPED, nothing was tested: one CPU: nobody polls")
	}
	page, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	w, shared := &page.faults, page.shared
	left := false
	for range 10 { // the kernel may move the thread, too
		here := currentCPU()
		w.stays, w.budget = time.Time{}, time.Microsecond
		atomic.StoreUint32(&shared.lateOn, uint32(here))
		atomic.StoreUint32(&shared.late, 1)
		if w.poll(0) {
			t.Fatal("nobody has rung")
		}
		left = left || currentCPU() != here && w.stays.After(time.Now())
		if atomic.LoadUint32(&shared.late) != 0 {
			t.Fatal("late was not taken back")
		}
	}
	if !left {
		t.Error("the thread has not left its CPU")
	}
	if err := unix.SchedGetaffinity(0, &after); err != nil || after != all {
		t.Errorf("the thread may use %d CPUs now, %d before: %v", after.Count(), all.Count(), err)
	}
	w.stays = time.Time{}
	if w.leave(1 << 20); w.stays != (time.Time{}) {
		t.Error("the thread has left a CPU that it was not on")
	}
	until := time.Now().Add(time.Hour)
	w.stays = until
	if w.leave(currentCPU()); w.stays != until {
		t.Error("the thread has left its CPU again at once")
	}
	if page.calls.late != nil {
		t.Error("who polls for calls leaves, too")
	}
}

// A fault that nobody takes up says where it waits.
func TestLateRequest(t *testing.T) {
	if runtime.NumCPU() == 1 {
		t.Skip("SKIPPED, nothing was tested: one CPU: nobody polls")
	}
	f := newTestFile(t, 1, 1)
	page, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	c := f.connect(t, page, "touch")
	atomic.StoreUint32(&page.shared.lateOn, 1<<20)
	c.say("go")
	for start := time.Now(); atomic.LoadUint32(&page.shared.late) == 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > testTimeout {
			t.Fatal("the client does not say that it waits")
		}
	}
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	if on := int(atomic.LoadUint32(&page.shared.lateOn)); !all.IsSet(on) {
		t.Errorf("the client waits on CPU %d, which it may not use", on)
	}
	go func() { c.served <- page.Serve(c.fault) }()
	c.expect("end")
	page.Close()
	if err := <-c.served; err != nil {
		t.Error(err)
	}
}

func touchRole() error {
	c, err := dial()
	if err == nil {
		c.mem[0] = 1
	}
	return err
}
