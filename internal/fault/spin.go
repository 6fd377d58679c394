package fault

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Polling for some times what sleeping and being woken takes costs at most so many times what the best choice would have
// cost, whatever comes (Karlin and others, Competitive Randomized Algorithms for Nonuniform Problems, 1990). How long a
// wake-up is depends on the machine: some microseconds where an idle CPU does not halt, dozens where a hypervisor has to run
// it again, a hundred where it is emulated. So it is measured, once in each process that waits.
const (
	serverPolls = 8                     // wake-ups that a server polls: its own, the client's, and what the client does meanwhile
	clientPolls = 6                     // wake-ups that a client polls: the server's, its own, and what is served meanwhile
	leastWake   = 12 * time.Microsecond // what is taken for a wake-up at least, however busy or lucky the machine is
	mostWake    = 100 * time.Microsecond

	// How long whoever polls for faults, or in one, does so before it yields: a request is taken up in a fraction of that by who
	// polls for it on another CPU, and most clients come back with another fault in the other.
	clientYield = 4 * time.Microsecond
	serverYield = 16 * time.Microsecond

	leaveShare = 50 // a server spends at most one of so many parts of the time for a client on leaving CPUs
)

// wakeUp is what it takes until a thread that sleeps runs on another CPU, when it is woken.
var wakeUp = sync.OnceValue(func() time.Duration {
	if runtime.NumCPU() == 1 {
		return leastWake // nobody polls
	}
	return min(max(measureWake(), leastWake), mostWake)
})

// measureWake wakes another thread some times, each time when its CPU has had nothing to do for a while, and polls for its
// answer, as whoever makes a request does. It returns what two thirds of them took at most: sometimes the CPU has not halted
// yet, sometimes something else has come.
func measureWake() time.Duration {
	const times, rest = 9, 100 * time.Microsecond
	var bell, answer uint32
	go func() {
		for n := range uint32(times) {
			for atomic.LoadUint32(&bell) == n {
				futexWait(&bell, n, longestSleep)
			}
			atomic.StoreUint32(&answer, n+1)
		}
	}()
	var took []time.Duration
	for n := range uint32(times) {
		time.Sleep(rest)
		start := time.Now()
		atomic.StoreUint32(&bell, n+1)
		futexWake(&bell)
		for atomic.LoadUint32(&answer) <= n && time.Since(start) < mostWake {
			pause()
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took[times*2/3]
}

// spinning counts the waiters that poll now, and is kept below the number of CPUs: somebody has to run the clients.
var spinning atomic.Int32

// waiter waits for a bell that the client rings. It polls the longest time after a poll that paid or a sleep that had
// better been a poll, half as long after each one that did not pay, and not at all when the rings are far apart. It gives
// way when the client rings the page's other bell: whoever waits for that needs the CPU. Where there is nothing to fall back
// on, as in a fault, it yields now and then, and leaves a CPU that the client waits on; see yield and leave.
type waiter struct {
	bell, sleeps, other *uint32 // in the shared page
	late, lateOn        *uint32 // in the shared page; nil: it neither yields nor leaves
	budget              time.Duration
	stays               time.Time // until then it leaves no CPU
}

// longest is how long a waiter polls at most.
func (w *waiter) longest() time.Duration { return serverPolls * wakeUp() }

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
		if time.Since(start) < 2*w.longest() {
			w.budget = w.longest()
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
	if w.late != nil && atomic.LoadUint32(w.late) != 0 {
		atomic.StoreUint32(w.late, 0)
		w.leave(int(atomic.LoadUint32(w.lateOn)))
	}
	others := atomic.LoadUint32(w.other)
	start := time.Now()
	for yielded, polled := time.Duration(0), time.Duration(0); polled < w.budget; polled = time.Since(start) {
		for range 16 {
			if atomic.LoadUint32(w.bell) != seen {
				w.budget = w.longest()
				return true
			}
			pause()
		}
		if atomic.LoadUint32(w.other) != others {
			return false
		}
		if w.late != nil && polled-yielded > serverYield {
			yielded = polled
			yield()
		}
	}
	w.budget /= 2
	if w.budget < w.longest()/8 { // it would hardly cover a round trip
		w.budget = 0
	}
	return false
}

// The kernel may have both sides on one CPU while others are idle: it moves no thread that has just run, and when both were
// busy a moment ago it does not look for an idle CPU where it wakes one. That can last for dozens of milliseconds, with each
// side polling as long as it can before it lets the other one run. Therefore whoever waits for longer than usual yields, and
// a client says on which CPU it does so: when the server finds itself there, it leaves.

// yield lets others run who want this CPU: most likely who is waited for.
func yield() { unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// leave moves this thread to another CPU if it is on that one and may use others, unless it has just done so. Which one, the
// kernel chooses: with two CPUs the one that is idle, if any is; with many perhaps one that is not.
//
// Costs: a system call, six when it moves, and what the kernel takes for that, about as much as a wake-up.
func (w *waiter) leave(cpu int) {
	start := time.Now()
	if cpu != currentCPU() || start.Before(w.stays) {
		return
	}
	runtime.LockOSThread() // what is changed and given back is the thread's
	if avoid(cpu) == nil {
		runtime.UnlockOSThread() // else Go ends the thread with this goroutine
	}
	w.stays = time.Now().Add(time.Since(start) * leaveShare)
}

// avoid moves this thread off a CPU, if it may use others. An error means that it may not use all that it could before.
func avoid(cpu int) error {
	var before, others, every, after unix.CPUSet
	if unix.SchedGetaffinity(0, &before) != nil {
		return nil // more CPUs than the set has
	}
	others = before
	others.Clear(cpu)
	if others.Count() == 0 || unix.SchedSetaffinity(0, &others) != nil {
		return nil
	}
	// Every CPU, of which the kernel allows those of the cgroup. To be given those that they are now would be a wish of this
	// thread for good, also when the cgroup has others: only where somebody has had such a wish is it restored.
	every.Fill()
	if unix.SchedSetaffinity(0, &every) == nil && unix.SchedGetaffinity(0, &after) == nil && after == before {
		return nil
	}
	return unix.SchedSetaffinity(0, &before)
}

// pollRounds is how often a client looks at a slot before it sleeps, 0 where polling only keeps the server off the only CPU; and
// after how many times it yields.
var pollRounds = sync.OnceValues(func() (rounds, yield uint32) {
	if runtime.NumCPU() == 1 {
		return 0, 1
	}
	const tries = 1000
	var word uint32
	fastest := time.Hour // a slower try was interrupted
	for range 5 {
		start := time.Now()
		for range tries {
			load32(&word)
			pause()
		}
		fastest = min(fastest, time.Since(start))
	}
	in := func(d time.Duration) uint32 { return max(1, uint32(d*tries/max(fastest, 1))) }
	return in(clientPolls * wakeUp()), in(clientYield)
})
