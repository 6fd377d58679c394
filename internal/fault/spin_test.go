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
	if rounds, yield := pollRounds(); yield == 0 || rounds < yield {
		t.Errorf("clients poll %d times and yield after %d", rounds, yield)
	}
}
