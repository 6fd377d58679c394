package fault

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Page is the server's half of a fault page: one for each connected client process.
//
// Invariant: inFlight[i] is set from the moment the handler records it, before the answer is visible, until the server
// has seen slot i in another state than SERVING or ANSWERED. A set entry counts as a grant.
type Page struct {
	file     *os.File
	shared   *sharedPage
	region   []byte
	closed   atomic.Bool
	breaking chan struct{} // holds one token: the right to use the break slots, stuck and unsure

	mu       sync.Mutex             // protects what follows, up to the blank line
	users    int                    // Serve and TakeBack under way; the last one out of a closed page unmaps it
	inFlight [faultSlots]flightPlan // see the invariant
	answers  uint64                 // counts records, so that TakeBack can tell a new answer in a slot from an old one

	faults waiter           // only Serve
	calls  waiter           // only ServeCalls
	stuck  [breakSlots]bool // slots that a client had TAKEN when time was up
	unsure bool             // a TakeBack failed half way: the client may have given back more than is known here
}

// flightPlan is an answer that the client may be about to map.
type flightPlan struct {
	run    AddressRun
	number uint64 // of the answer; 0: none
}

// Request is one fault, copied out of the fault page: nothing in it can be trusted or changes any more.
type Request struct {
	Mapping uint32 // as given to Range.Activate, if the client is honest
	Page    int64  // index of the page in the mapping; never negative
	Count   int64  // pages wanted from Page on; 1 for a fault, more for Range.Populate; at least 1
	Write   bool   // the access is a store

	owner   *Page
	slot    int
	granted bool
}

// Reply answers a Request with a run.
type Reply struct {
	FirstPage, Count int64 // the run, in pages of the mapping; contains Request.Page
	Offset           int64 // of the run in the data area, in bytes, a multiple of PageSize; -1: zeros, read only
	Writable         bool  // must be set when Request.Write is
	Populate         bool  // with Writable: stores to all of the run are expected, so that its page tables are filled at once
}

// NewPage makes a fault page for one client process. It ends with the server process.
func NewPage() (*Page, error) {
	file, err := makePageFile()
	if err != nil {
		return nil, fmt.Errorf("fault page: %w", err)
	}
	return initPage(file)
}

// NewPageIn is NewPage with a page that outlives the server process, so that the next one can take it over by
// OpenPage: a new file, of mode 0600, which should lie on tmpfs. fs.ErrExist: there is a file. Removing it is left to
// the caller.
func NewPageIn(path string) (*Page, error) {
	file, err := createPageFile(path)
	if err != nil {
		return nil, fmt.Errorf("fault page: %w", err)
	}
	p, err := initPage(file)
	if err != nil {
		os.Remove(path)
	}
	return p, err
}

// initPage makes a page of a new file, which is closed when that fails.
func initPage(file *os.File) (*Page, error) {
	p, err := newPage(file)
	if err == nil {
		p.shared.magic = pageMagic
	}
	return p, err
}

// newPage maps a page. The file is closed when that fails.
func newPage(file *os.File) (*Page, error) {
	shared, region, err := mapPage(file)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("fault page: %w", err)
	}
	p := &Page{file: file, shared: shared, region: region, breaking: make(chan struct{}, 1)}
	p.faults = waiter{bell: &shared.bell, sleeps: &shared.serverSleeps, other: &shared.callBell,
		late: &shared.late, lateOn: &shared.lateOn}
	p.calls = waiter{bell: &shared.callBell, sleeps: &shared.callSleeps, other: &shared.bell}
	return p, nil
}

// File is to be sent to the client. It stays the Page's, and is closed with it.
func (p *Page) File() *os.File { return p.file }

// errPageGone says that the client has cut the file of its fault page. That harms it alone: its faults are not answered
// any more, and what it was granted cannot be taken back until it ends.
var errPageGone = errors.New("the client has cut its fault page")

// guard runs f, which accesses the page. Memory of a file that has been cut is an error then, not the end of the
// server.
func (p *Page) guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch v := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }:
			if !p.contains(v.Addr()) {
				panic(v)
			}
			err = errPageGone
		default:
			panic(v)
		}
	}()
	return f()
}

// Grant answers a request: the client reaches run (its address in the client). The handler must call it at the moment
// when the grant is recorded and all is durable that must be: while the lock is held that keeps breaks of the same blocks
// out. From then on a TakeBack that overlaps run waits until the client has mapped it; what the handler does afterwards
// nobody waits for.
func (r *Request) Grant(run AddressRun, reply Reply) {
	p := r.owner
	p.mu.Lock()
	p.answers++
	p.inFlight[r.slot] = flightPlan{run: run, number: p.answers}
	p.mu.Unlock()
	r.granted = true
	p.guard(func() error { r.answer(CodeOK, reply); return nil }) // Serve tells of a page that has been cut
}

// Serve answers the client's faults, one after the other, until Close; then it returns nil. It polls for a moment while
// faults keep arriving, and sleeps otherwise. handle gets every request in turn, checks Mapping and Page, and either calls
// Grant or returns why not; CodeOK without a Grant is answered by CodeIO. At most one Serve at a time. An error says that
// the client has made its page unusable; the page must be closed all the same.
func (p *Page) Serve(handle func(*Request) Code) error {
	if !p.enter() {
		return nil
	}
	defer p.leave()
	return p.guard(func() error {
		p.serve(func(req *Request) Code {
			defer debug.SetPanicOnFault(debug.SetPanicOnFault(false)) // its accesses are none of guard's business
			return handle(req)
		})
		return nil
	})
}

func (p *Page) serve(handle func(*Request) Code) {
	for !p.closed.Load() {
		// Read the bell before the slots: a request that the sweep has missed has rung it since.
		seen := atomic.LoadUint32(p.faults.bell)
		if p.sweep(handle) == 0 {
			p.faults.wait(seen, p.closed.Load)
		}
	}
}

// sweep serves every slot that has a request, and returns how many there were.
func (p *Page) sweep(handle func(*Request) Code) int {
	served := 0
	for i := range p.shared.faults {
		s := &p.shared.faults[i]
		if atomic.LoadUint32(&s.state) == slotRequest && atomic.CompareAndSwapUint32(&s.state, slotRequest, slotServing) {
			p.serveSlot(i, s, handle)
			served++
		}
	}
	return served
}

func (p *Page) serveSlot(i int, s *faultSlot, handle func(*Request) Code) {
	p.land(i) // the client has moved on: what this slot had in flight is mapped
	req := &Request{
		Mapping: atomic.LoadUint32(&s.mapping),
		Page:    int64(atomic.LoadUint64(&s.page) & (1<<62 - 1)),
		Count:   max(1, int64(atomic.LoadUint64(&s.count)&(1<<62-1))),
		Write:   atomic.LoadUint32(&s.flags)&slotWrite != 0,
		owner:   p,
		slot:    i,
	}
	code := handle(req)
	switch {
	case req.granted:
		return
	case code == CodeOK:
		code = CodeIO
	}
	req.answer(code, Reply{})
}

// answer passes an answer on to the client. Every word of the request stays as it is: if this process dies before the store
// of state, another one serves the request again.
func (r *Request) answer(code Code, reply Reply) {
	s := &r.owner.shared.faults[r.slot]
	var flags uint32
	if r.Write {
		flags |= slotWrite
	}
	if reply.Writable {
		flags |= slotWritable
	}
	if reply.Offset < 0 {
		flags |= slotZeros
	}
	if reply.Populate {
		flags |= slotPopulate
	}
	atomic.StoreUint32(&s.flags, flags)
	atomic.StoreUint32(&s.code, uint32(code))
	atomic.StoreUint64(&s.first, uint64(reply.FirstPage))
	atomic.StoreUint64(&s.pages, uint64(reply.Count))
	atomic.StoreUint64(&s.offset, uint64(reply.Offset))
	atomic.StoreUint32(&s.state, slotAnswered)
	if atomic.SwapUint32(&s.clientSleeps, 0) != 0 {
		futexWake(&s.state)
	}
}

func (p *Page) land(i int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inFlight[i] = flightPlan{}
}

// Close is the orderly end: it ends Serve, makes every fault of the client fail with CodeServerGone, and closes File.
// It does not take back what the client has mapped, and does not wait for a handler or a TakeBack under way. The
// client is not told otherwise. The file of a page with a name remains, and cannot be opened by OpenPage any more.
func (p *Page) Close() error {
	p.mu.Lock()
	if p.closed.Load() {
		p.mu.Unlock()
		return nil
	}
	p.users++ // this call itself; before closed is set, so that nobody unmaps the page under it
	p.closed.Store(true)
	p.mu.Unlock()
	p.guard(func() error { // a client that has cut the page has nobody left who waits
		atomic.StoreUint32(&p.shared.closed, 1)
		p.faults.ring()
		p.calls.ring()
		futexWake(&p.shared.ackBell)
		for i := range p.shared.faults {
			futexWake(&p.shared.faults[i].state)
		}
		for i := range p.shared.calls {
			futexWake(&p.shared.calls[i].state)
		}
		return nil
	})
	p.leave()
	return p.file.Close()
}

// enter keeps the page mapped until leave; false when it is closed.
func (p *Page) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Load() {
		return false
	}
	p.users++
	return true
}

func (p *Page) leave() {
	p.mu.Lock()
	p.users--
	last := p.users == 0 && p.closed.Load()
	p.mu.Unlock()
	if last {
		unix.Munmap(p.region)
	}
}

// errDead ends a wait because the client process has ended.
var errDead = errors.New("client process has ended")

const (
	takenGrace = 50 * time.Millisecond // for a break that a thread has already begun to carry out
	ackQuantum = 10 * time.Millisecond // how often a waiting TakeBack looks whether the process still lives
)

// TakeBack returns nil when the client process behind pidfd can no longer access runs (AccessNone) or no longer store
// to them (AccessRead): because it has said so after a break, or because it has ended. The caller must keep new grants
// over the same runs from being recorded meanwhile (Grant); answers already in flight are waited for.
//
// ErrBusy (EBUSY) means that it did not say so within timeout, or has made its page unusable: then nothing is known
// about the runs, and they must stay recorded as granted. Other errors: os.ErrClosed after Close; what
// pidfd_send_signal(2) says. Calls on one page are serialised; waiting for the turn counts.
func (p *Page) TakeBack(pidfd int, runs []AddressRun, to Access, timeout time.Duration) error {
	if !p.enter() {
		return os.ErrClosed
	}
	defer p.leave()
	deadline := time.Now().Add(timeout)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case p.breaking <- struct{}{}:
		defer func() { <-p.breaking }()
	case <-timer.C:
		return ErrBusy
	}
	err := p.guard(func() error { return p.takeBack(pidfd, runs, to, deadline) })
	switch {
	case errors.Is(err, errDead):
		return nil
	case errors.Is(err, errPageGone):
		p.unsure = true
		if processEnded(pidfd) {
			return nil
		}
		return ErrBusy
	}
	return err
}

func (p *Page) takeBack(pidfd int, runs []AddressRun, to Access, deadline time.Time) error {
	if err := p.await(pidfd, deadline, p.unstick); err != nil {
		return err
	}
	if p.unsure {
		// A read-only break changes the protection of what is there. After a failed break that may be memory which
		// the client has already given back; made readable it would show zeros.
		to = AccessNone
	}
	flights := p.flightsOver(runs)
	if err := p.await(pidfd, deadline, func() bool { return p.landed(flights) }); err != nil {
		return err
	}
	for len(runs) > 0 {
		n := min(len(runs), breakSlots)
		if err := p.breakBatch(pidfd, runs[:n], to, deadline); err != nil {
			p.unsure = true
			return err
		}
		runs = runs[n:]
	}
	return nil
}

// breakBatch posts at most breakSlots runs and waits for them. All break slots are free before and, but for stuck ones,
// after.
func (p *Page) breakBatch(pidfd int, runs []AddressRun, to Access, deadline time.Time) error {
	slots := p.shared.breaks[:len(runs)]
	for i, r := range runs {
		atomic.StoreUint32(&slots[i].to, uint32(to))
		atomic.StoreUint64(&slots[i].address, r.Address)
		atomic.StoreUint64(&slots[i].length, r.Length)
		atomic.StoreUint32(&slots[i].state, breakPosted)
	}
	err := p.ring(pidfd)
	if err == nil {
		// The kernel chooses the thread, and may choose one that waits for a file system and does not look at signals
		// until it has its answer: which may be what waits for this break. Another signal goes to another thread.
		rung := time.Now()
		err = p.await(pidfd, deadline, func() bool {
			if answered(slots) {
				return true
			}
			if time.Since(rung) > ackQuantum {
				rung = time.Now()
				p.ring(pidfd) // an error: the process has ended, which is looked at anyway
			}
			return false
		})
	}
	if left := p.withdraw(slots, err); err == nil {
		err = left
	}
	return err
}

// ring tells the process that breaks are posted.
func (p *Page) ring(pidfd int) error {
	err := unix.PidfdSendSignal(pidfd, unix.Signal(BreakSignal()), nil, 0)
	if errors.Is(err, unix.ESRCH) {
		err = errDead
	}
	return err
}

// answered reports whether every break has been carried out. A state that no honest client writes counts as an answer:
// it is its own memory.
func answered(slots []breakSlot) bool {
	for i := range slots {
		if s := atomic.LoadUint32(&slots[i].state); s == breakPosted || s == breakTaken {
			return false
		}
	}
	return true
}

// withdraw frees the slots after a wait that ended with err. A break that a thread has begun is given takenGrace; if it
// is still not over, its slot stays out of use until it is. The error says that a client has failed to carry one out.
func (p *Page) withdraw(slots []breakSlot, err error) error {
	var failed error
	grace := time.Now().Add(takenGrace)
	for i := range slots {
		state := &slots[i].state
		if atomic.CompareAndSwapUint32(state, breakPosted, breakFree) {
			continue
		}
		for err != nil && !errors.Is(err, errDead) && atomic.LoadUint32(state) == breakTaken && time.Now().Before(grace) {
			time.Sleep(time.Millisecond)
		}
		switch atomic.LoadUint32(state) {
		case breakTaken:
			if !errors.Is(err, errDead) {
				p.stuck[i] = true
				continue
			}
		case breakFailed:
			failed = ErrBusy
		}
		atomic.StoreUint32(state, breakFree)
	}
	return failed
}

// unstick takes stuck slots back into use and reports whether none is left.
func (p *Page) unstick() bool {
	for i := range p.stuck {
		if !p.stuck[i] {
			continue
		}
		if atomic.LoadUint32(&p.shared.breaks[i].state) == breakTaken {
			return false
		}
		atomic.StoreUint32(&p.shared.breaks[i].state, breakFree)
		p.stuck[i] = false
	}
	return true
}

// flightsOver lists the answers in flight that overlap one of runs: slot -> number of the answer.
func (p *Page) flightsOver(runs []AddressRun) map[int]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var flights map[int]uint64
	for i := range p.inFlight {
		f := &p.inFlight[i]
		if f.number == 0 {
			continue
		}
		for _, r := range runs {
			if f.run.overlaps(r) {
				if flights == nil {
					flights = make(map[int]uint64)
				}
				flights[i] = f.number
				break
			}
		}
	}
	return flights
}

// landed reports whether the client has acknowledged every one of flights.
func (p *Page) landed(flights map[int]uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, number := range flights {
		if p.inFlight[i].number != number {
			continue
		}
		if s := atomic.LoadUint32(&p.shared.faults[i].state); s == slotServing || s == slotAnswered {
			return false
		}
		p.inFlight[i] = flightPlan{}
	}
	return true
}

// await waits until done, which must not wait for anything. It returns nil, ErrBusy at the deadline, errDead, or
// os.ErrClosed.
func (p *Page) await(pidfd int, deadline time.Time, done func() bool) error {
	for range 200 {
		if done() {
			return nil
		}
		pause()
	}
	for {
		seen := atomic.LoadUint32(&p.shared.ackBell)
		atomic.StoreUint32(&p.shared.serverWaits, 1)
		if done() {
			return nil
		}
		left := time.Until(deadline)
		switch {
		case processEnded(pidfd):
			return errDead
		case p.closed.Load():
			return os.ErrClosed
		case left <= 0:
			return ErrBusy
		}
		futexWait(&p.shared.ackBell, seen, min(left, ackQuantum))
	}
}

// processEnded asks pidfd_open(2)'s descriptor, which is readable once all threads are gone, and their memory with them.
func processEnded(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1 && fds[0].Revents&unix.POLLIN != 0
}
