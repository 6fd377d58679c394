package fault

import (
	"runtime"
	"sync/atomic"
	"time"
)

const (
	longestSpin  = 100 * time.Microsecond // about two wake-ups of another CPU: polling longer cannot pay
	shortestSpin = 10 * time.Microsecond  // below this a poll does not even cover a round trip
	napTime      = 200 * time.Microsecond // a sleep that was over before this would better have been a poll
)

// spinning counts the Serves that poll now, and is kept below the number of CPUs: somebody has to run the clients.
var spinning atomic.Int32

// spinner decides how long Serve polls before it sleeps: the longest time after a poll that paid or a sleep that was
// short, half as long after each one that did not, and not at all when the faults are far apart.
type spinner struct{ budget time.Duration }

// poll waits for *bell to leave seen and reports whether it did.
func (s *spinner) poll(bell *uint32, seen uint32) bool {
	if s.budget == 0 {
		return false
	}
	defer spinning.Add(-1)
	if int(spinning.Add(1)) >= runtime.NumCPU() {
		return false
	}
	for start := time.Now(); time.Since(start) < s.budget; {
		for range 16 {
			if atomic.LoadUint32(bell) != seen {
				s.budget = longestSpin
				return true
			}
			pause()
		}
	}
	s.budget /= 2
	if s.budget < shortestSpin {
		s.budget = 0
	}
	return false
}

// slept tells how long Serve has slept before the next fault.
func (s *spinner) slept(d time.Duration) {
	if d < napTime {
		s.budget = longestSpin
	}
}
