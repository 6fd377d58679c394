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

// spinning counts the waiters that poll now, and is kept below the number of CPUs: somebody has to run the clients.
var spinning atomic.Int32

// waiter waits for a bell that the client rings. It polls the longest time after a poll that paid or a sleep that was
// short, half as long after each one that did not, and not at all when the rings are far apart.
type waiter struct {
	bell, sleeps *uint32 // in the shared page
	budget       time.Duration
}

// longestSleep is how long a waiter sleeps at most. Close cannot wake it when the client has cut the page meanwhile:
// the bell is known to the kernel by the memory that it was in.
const longestSleep = time.Second

// wait returns when the bell is no longer at seen, or ended, but does not wait for ever.
func (w *waiter) wait(seen uint32, ended func() bool) {
	if w.poll(seen) {
		return
	}
	atomic.StoreUint32(w.sleeps, 1)
	if atomic.LoadUint32(w.bell) == seen && !ended() {
		start := time.Now()
		futexWait(w.bell, seen, longestSleep)
		if time.Since(start) < napTime {
			w.budget = longestSpin
		}
	}
	atomic.StoreUint32(w.sleeps, 0)
}

// ring ends a wait.
func (w *waiter) ring() {
	atomic.AddUint32(w.bell, 1)
	futexWake(w.bell)
}

// poll waits for the bell to leave seen as long as the budget allows, and reports whether it did.
func (w *waiter) poll(seen uint32) bool {
	if w.budget == 0 {
		return false
	}
	defer spinning.Add(-1)
	if int(spinning.Add(1)) >= min(runtime.NumCPU(), runtime.GOMAXPROCS(0)) {
		return false
	}
	for start := time.Now(); time.Since(start) < w.budget; {
		for range 16 {
			if atomic.LoadUint32(w.bell) != seen {
				w.budget = longestSpin
				return true
			}
			pause()
		}
	}
	w.budget /= 2
	if w.budget < shortestSpin {
		w.budget = 0
	}
	return false
}
