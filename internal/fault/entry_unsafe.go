package fault

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Everything in this file runs on the signal stack of any thread at any instant, or is called from there. All of it is
// nosplit (there is no room to grow), norace and nocheckptr (no instrumentation), takes no lock, allocates nothing and
// stores no pointer. The linker checks that the frames together fit into what nosplit functions may use, which they must
// in builds for debuggers, too (-gcflags='-N -l').

// What the entries in assembly call; see there why through variables.
var (
	//lint:ignore U1000 used by the assembly
	faultFunction = onFault
	//lint:ignore U1000 used by the assembly
	breakFunction = onBreak
)

// sigInfo is the beginning of the kernel's siginfo_t for SIGSEGV and SIGBUS.
type sigInfo struct {
	number  int32
	_       int32 // errno
	code    int32
	_       int32
	address uint64
}

const (
	segvMapErr = 1 // SEGV_MAPERR: nothing is mapped there
	segvAccErr = 2 // SEGV_ACCERR: what is mapped there does not allow it
	busMceAO   = 5 // BUS_MCEERR_AO: memory has been lost that this thread has not accessed
)

// onFault is called by faultEntry. It returns whether the thread can go on: the fault is resolved, so that the access can
// be retried, or the context is now at guard.landing.
//
//go:nosplit
//go:norace
//go:nocheckptr
func onFault(info *sigInfo, context *sigContext) bool {
	if info.number != int32(unix.SIGSEGV) || info.code != segvMapErr && info.code != segvAccErr {
		return info.ofAccess() && context.land()
	}
	if write, ok := context.dataFault(); ok {
		if e := pinRange(info.address); e != nil {
			code := resolve(e, (info.address-e.start)/PageSize, write)
			if code != CodeOK {
				recordFailure(info.address, code)
			}
			unpin(&e.users)
			if code == CodeOK {
				return true
			}
		}
	}
	return context.land()
}

// ofAccess says whether the signal is due to an access of the thread that has got it: not to kill(2), which no access could
// be blamed for.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (i *sigInfo) ofAccess() bool {
	return i.code > 0 && (i.number == int32(unix.SIGSEGV) || i.code != busMceAO)
}

// land has a flush that may fail go on at its landing, if it is one that the context is of.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (c *sigContext) land() bool {
	if c.pc < guard.start || c.pc >= guard.end {
		return false
	}
	c.pc = guard.landing
	return true
}

// pinRange finds the range that contains address and keeps it from changing until unpin(&e.users); nil if there is none.
//
//go:nosplit
//go:norace
//go:nocheckptr
func pinRange(address uint64) *rangeEntry {
	high := load32(&rangesHigh)
	for i := uint32(0); i < high && i < maxRanges; i++ {
		e := &ranges[i]
		if !e.contains(address) {
			continue
		}
		add32(&e.users, 1)
		if load32(&e.state) != rangeUnused && e.contains(address) {
			return e
		}
		unpin(&e.users)
	}
	return nil
}

//go:nosplit
//go:norace
//go:nocheckptr
func (e *rangeEntry) contains(address uint64) bool {
	return load64(&e.start) <= address && address < load64(&e.end)
}

//go:nosplit
//go:norace
//go:nocheckptr
func unpin(users *uint32) { add32(users, ^uint32(0)) }

// resolve asks the server for the page of a pinned range and maps what it answers. It also finishes what goroutines have
// asked for meanwhile.
//
//go:nosplit
//go:norace
//go:nocheckptr
func resolve(e *rangeEntry, page uint64, write bool) Code {
	c := &clients[e.client%maxClients]
	w := wait{slot: noSlot}
	for !w.advance(c, e, page, write) {
		for helped, a := pinAnswered(); a != nil; helped, a = pinAnswered() {
			finish(helped, a)
			unpin(&helped.users)
		}
	}
	if w.code != CodeOK {
		return w.code
	}
	s := &c.page.faults[w.slot%faultSlots]
	w.code = mapAnswer(e, s, page, write)
	freeSlot(c, s)
	if w.code != CodeOK {
		apart(e, page, unix.MADV_NORMAL)
	}
	return w.code
}

// apart has the kernel's mapping divided around a page, whose access pattern (madvise(2)) then is MADV_RANDOM and that of its
// neighbours is not; MADV_NORMAL joins them again. To put a page in place of a mapping of its own is half of the work for mmap.
// An error, of too many mappings, will be mmap's, too.
//
//go:nosplit
//go:norace
//go:nocheckptr
func apart(e *rangeEntry, page uint64, pattern uintptr) {
	systemCall(unix.SYS_MADVISE, uintptr(e.start+page*PageSize), PageSize, pattern, 0, 0, 0)
}

// wait is how far somebody who waits for an answer has got, and what is known of the server.
type wait struct {
	slot            uint32 // noSlot: none claimed yet
	code            Code   // CodeOK, or why no answer will come
	life, takeovers uint32 // of the client and the page, when they were looked at last
	naps            uint32 // without a server since then
}

const noSlot = faultSlots

// advance claims a slot, posts the request, or waits, until it naps: then it returns false, and is to be called again.
// It returns true when the slot is answered, or code is not CodeOK because it will not be.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (w *wait) advance(c *clientEntry, e *rangeEntry, page uint64, write bool) bool {
	if w.slot == noSlot {
		if c.page == nil || load32(&e.state) != rangeActive {
			w.code = unserved(c)
			return true
		}
		if serverGone(c) {
			w.code = CodeServerGone
			return true
		}
		if w.slot = claim(c); w.slot == noSlot {
			return false
		}
		s := &c.page.faults[w.slot%faultSlots]
		post(c, s, e.mapping, page, 1, write)
		if load32(&e.alone) != 0 {
			apart(e, page, unix.MADV_RANDOM) // while the server is busy
		}
		w.poll(c)
	}
	s := &c.page.faults[w.slot%faultSlots]
	if load32(&s.state) == slotAnswered {
		return true
	}
	if serverGone(c) {
		w.code = CodeServerGone // the slot is lost, as is the connection
		return true
	}
	napOn(c, s, w)
	return false
}

// poll waits a moment for the answer of a request that has been posted.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (w *wait) poll(c *clientEntry) {
	s := &c.page.faults[w.slot%faultSlots]
	for n := uint32(1); n <= spinRounds && load32(&s.state) != slotAnswered; n++ {
		pause()
		if n%yieldRounds == 0 && load32(&s.state) == slotRequest {
			if !failed(systemCall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&c.page.lateOn)), 0, 0, 0, 0, 0)) {
				store32(&c.page.late, 1)
			}
			systemCall(unix.SYS_SCHED_YIELD, 0, 0, 0, 0, 0, 0)
		}
	}
	w.life, w.takeovers = load32(&c.life), load32(&c.page.takeovers)
}

// unserved is why a fault fails without the server being asked.
//
//go:nosplit
//go:norace
//go:nocheckptr
func unserved(c *clientEntry) Code {
	if load32(&c.life)&lifeGone != 0 {
		return CodeServerGone
	}
	return CodeBeyondEnd
}

// claim takes a free slot. When there is none it naps until there may be one, and returns noSlot. Whether there is a
// server is looked after by those who have the slots.
//
//go:nosplit
//go:norace
//go:nocheckptr
func claim(c *clientEntry) uint32 {
	bell := load32(&c.freeBell)
	slot := tryClaim(c)
	if slot == noSlot {
		add32(&c.freeSleeper, 1)
		futex(&c.freeBell, futexOpWait, bell, &claimNap)
		add32(&c.freeSleeper, ^uint32(0))
	}
	return slot
}

// tryClaim takes a free slot; noSlot if there is none. Threads begin to look at different slots, so that they do not
// meet.
//
//go:nosplit
//go:norace
//go:nocheckptr
func tryClaim(c *clientEntry) uint32 {
	first := add32(&c.hint, 1)
	for i := uint32(0); i < faultSlots; i++ {
		slot := (first + i) % faultSlots
		s := &c.page.faults[slot]
		if load32(&s.state) == slotFree && cas32(&s.state, slotFree, slotClaimed) {
			return slot
		}
	}
	return noSlot
}

// post makes the request of a claimed slot visible, and wakes the server if it sleeps.
//
//go:nosplit
//go:norace
//go:nocheckptr
func post(c *clientEntry, s *faultSlot, mapping uint32, page, count uint64, write bool) {
	s.mapping, s.page, s.count, s.flags = mapping, page, count, 0
	if write {
		s.flags = slotWrite
	}
	store32(&s.state, slotRequest)
	p := c.page
	add32(&p.bell, 1)
	if load32(&p.serverSleeps) != 0 && swap32(&p.serverSleeps, 0) != 0 {
		futex(&p.bell, futexOpWake, 1, nil)
	}
}

// napOn sleeps until the slot may be answered, but not for long.
//
//go:nosplit
//go:norace
//go:nocheckptr
func napOn(c *clientEntry, s *faultSlot, w *wait) {
	store32(&s.clientSleeps, 1)
	state := load32(&s.state)
	if state == slotAnswered {
		return
	}
	if futex(&s.state, futexOpWait, state, &answerNap) == timedOut {
		w.inVain(c)
	}
}

const timedOut = ^uintptr(unix.ETIMEDOUT) + 1

// inVain is called after each nap in which nothing came. When the server process has ended, and no other one has come
// for longer than the client's patience, it ends the connection for good. A server that has taken over the page, but
// not yet made itself known to Resume, is not looked for: it has as long again.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (w *wait) inVain(c *clientEntry) {
	life, takeovers := load32(&c.life), load32(&c.page.takeovers)
	if life != w.life || takeovers != w.takeovers || !serverDied(c) {
		w.life, w.takeovers, w.naps = life, takeovers, 0
		return
	}
	w.naps++
	if w.naps > c.patience {
		cas32(&c.life, life, life|lifeGone) // unless there has been a Resume: then it is not its server that has died
	}
}

// serverGone reports that no answer will come any more.
//
//go:nosplit
//go:norace
//go:nocheckptr
func serverGone(c *clientEntry) bool {
	return load32(&c.life)&lifeGone != 0 || load32(&c.page.closed) != 0
}

// serverDied asks the kernel whether the server process has ended.
//
//go:nosplit
//go:norace
//go:nocheckptr
func serverDied(c *clientEntry) bool {
	if c.server.fd < 0 {
		return false
	}
	n := systemCall(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&c.server)), 1, uintptr(unsafe.Pointer(&noTime)), 0, 0, 0)
	return n == 1
}

// pinAnswered finds an ask, of whichever client, that has been answered and is not yet mapped; nil if there is none. It
// keeps the client from being closed until unpin(&c.users).
//
//go:nosplit
//go:norace
//go:nocheckptr
func pinAnswered() (c *clientEntry, a *ask) {
	high := load32(&clientsHigh)
	for i := uint32(0); i < high && i < maxClients; i++ {
		c = &clients[i]
		add32(&c.users, 1)
		if load32(&c.live) != 0 && c.page != nil {
			for k := range c.asks {
				if a = &c.asks[k]; a.answered(c) {
					return c, a
				}
			}
		}
		unpin(&c.users)
	}
	return nil, nil
}

// answered reports whether an ask waits to be finished.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (a *ask) answered(c *clientEntry) bool {
	return load32(&a.state)&askMask == askWaits && load32(&c.page.faults[a.slot%faultSlots].state) == slotAnswered
}

// finish maps what an ask has been answered with, if it has been answered and nobody else does. It cannot be preempted
// (nosplit functions never are), so askMaps does not last.
//
//go:nosplit
//go:norace
//go:nocheckptr
func finish(c *clientEntry, a *ask) {
	state := load32(&a.state)
	if state&askMask != askWaits {
		return
	}
	s := &c.page.faults[a.slot%faultSlots]
	if load32(&s.state) != slotAnswered || !cas32(&a.state, state, state-askWaits+askMaps) {
		return
	}
	a.next = s.first + s.pages
	a.code = mapAnswer(&ranges[a.entry%maxRanges], s, a.page, a.write)
	freeSlot(c, s)
	store32(&a.state, state-askWaits+askOver)
}

// freeSlot acknowledges the answer of a slot, and gives the slot to who may wait for one.
//
//go:nosplit
//go:norace
//go:nocheckptr
func freeSlot(c *clientEntry, s *faultSlot) {
	store32(&s.clientSleeps, 0)
	store32(&s.state, slotFree)
	acknowledge(c.page)
	add32(&c.freeBell, 1)
	if load32(&c.freeSleeper) != 0 {
		futex(&c.freeBell, futexOpWake, 1, nil)
	}
}

// acknowledge tells a TakeBack that waits to look again.
//
//go:nosplit
//go:norace
//go:nocheckptr
func acknowledge(p *sharedPage) {
	add32(&p.ackBell, 1)
	if load32(&p.serverWaits) != 0 && swap32(&p.serverWaits, 0) != 0 {
		futex(&p.ackBell, futexOpWake, everyone, nil)
	}
}

// mapAnswer replaces pages of a pinned range by the run of an answered slot, which is to be freed afterwards in any case.
// page is what was asked for.
//
// Postcondition: when the range has been retired or the server has gone meanwhile, the run is inaccessible. Whoever ends
// the use of a range stores that before it makes the range inaccessible; here the order is the opposite.
//
//go:nosplit
//go:norace
//go:nocheckptr
func mapAnswer(e *rangeEntry, s *faultSlot, page uint64, write bool) Code {
	if code := Code(s.code); code != CodeOK {
		return code
	}
	c := &clients[e.client%maxClients]
	first, pages, flags, total := s.first, s.pages, s.flags, (e.end-e.start)/PageSize
	if first >= total || pages == 0 || pages > total-first {
		return CodeIO
	}
	if page < first || page-first >= pages || (write && flags&slotWritable == 0) {
		return CodeIO // it would fault again at once, and for ever
	}
	alone := uint32(0)
	if pages == 1 {
		alone = 1
	}
	store32(&e.alone, alone)
	address, length := e.start+first*PageSize, pages*PageSize
	prot, how, fd, offset := uintptr(unix.PROT_READ), uintptr(c.mapFlags), int(c.dataFd), c.base+s.offset
	if flags&slotZeros != 0 {
		how, fd, offset = nothingFlags, -1, 0
	} else if flags&slotWritable != 0 {
		prot |= unix.PROT_WRITE
	}
	// The page tables are filled by one call, in place of a fault in the kernel for each page. Memory that does not wait
	// for the first store is mapped fastest as if it were read.
	populate := flags&slotPopulate != 0 && prot&unix.PROT_WRITE != 0
	if populate && how&unix.MAP_SYNC == 0 {
		how |= unix.MAP_POPULATE
	}
	r := systemCall(unix.SYS_MMAP, uintptr(address), uintptr(length), prot, how|unix.MAP_FIXED, uintptr(fd), uintptr(offset))
	if failed(r) {
		store32(&e.noDowngrade, 1)
		plug(address, length)
		if r == ^uintptr(unix.EACCES)+1 {
			return CodeAccess
		}
		return CodeNoMemory
	}
	if load32(&e.state) != rangeActive || load32(&c.life)&lifeGone != 0 {
		forbid(address, length)
		return unserved(c)
	}
	if populate && how&unix.MAP_SYNC != 0 {
		// As if each page were stored to. An older kernel refuses, and has a fault for each.
		systemCall(unix.SYS_MADVISE, uintptr(address), uintptr(length), unix.MADV_POPULATE_WRITE, 0, 0, 0)
	}
	return CodeOK
}

// nothingFlags, with PROT_NONE, map inaccessible memory that costs nothing.
const nothingFlags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE

// plug closes a hole that a failed mmap may have left in a range, before somebody else gets memory there.
//
//go:nosplit
//go:norace
//go:nocheckptr
func plug(address, length uint64) {
	fd := -1
	systemCall(unix.SYS_MMAP, uintptr(address), uintptr(length), unix.PROT_NONE, nothingFlags|unix.MAP_FIXED_NOREPLACE,
		uintptr(fd), 0)
}

// failed tells an errno from the result of a system call.
//
//go:nosplit
//go:norace
//go:nocheckptr
func failed(r uintptr) bool { return r > ^uintptr(4095) }

//go:nosplit
//go:norace
//go:nocheckptr
func futex(word *uint32, op, value uint32, timeout *timespec) uintptr {
	return systemCall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), uintptr(op), uintptr(value),
		uintptr(unsafe.Pointer(timeout)), 0, 0)
}

// recordFailure keeps the reason of a failed access for Find.
//
//go:nosplit
//go:norace
//go:nocheckptr
func recordFailure(address uint64, code Code) {
	f := &failures[add32(&failureNext, 1)%maxFailures]
	store64(&f.address, 0)
	store32(&f.code, uint32(code))
	store64(&f.address, address)
}

// onBreak is called by breakEntry: it carries out every break that is posted, whichever client it is for.
//
//go:nosplit
//go:norace
//go:nocheckptr
func onBreak() {
	high := load32(&clientsHigh)
	for i := uint32(0); i < high && i < maxClients; i++ {
		c := &clients[i]
		add32(&c.users, 1)
		if load32(&c.live) != 0 && c.page != nil {
			breakAll(c, i)
		}
		unpin(&c.users)
	}
}

//go:nosplit
//go:norace
//go:nocheckptr
func breakAll(c *clientEntry, client uint32) {
	some := false
	for i := range c.page.breaks {
		s := &c.page.breaks[i]
		if load32(&s.state) != breakPosted || !cas32(&s.state, breakPosted, breakTaken) {
			continue
		}
		some = true
		if breakRun(client, s.address, s.length, Access(s.to)) {
			store32(&s.state, breakDone)
		} else {
			store32(&s.state, breakFailed)
		}
	}
	if some {
		acknowledge(c.page)
	}
}

// breakRun takes access to a run away and reports whether it is gone. A run that is in no range of this client (any
// more) is nothing to do; one that is only partly in a range is refused.
//
//go:nosplit
//go:norace
//go:nocheckptr
func breakRun(client uint32, address, length uint64, to Access) bool {
	if address%PageSize != 0 || length%PageSize != 0 || length == 0 || address+length < address {
		return false
	}
	e := pinRange(address)
	if e == nil {
		return true
	}
	ok := e.client == client && length <= e.end-address && restrict(e, address, length, to)
	unpin(&e.users)
	return ok
}

// restrict makes a run of a pinned range read-only or inaccessible.
//
//go:nosplit
//go:norace
//go:nocheckptr
func restrict(e *rangeEntry, address, length uint64, to Access) bool {
	if load32(&e.state) != rangeActive {
		return true // it is inaccessible already
	}
	if to == AccessRead && load32(&e.noDowngrade) == 0 {
		return !failed(systemCall(unix.SYS_MPROTECT, uintptr(address), uintptr(length), unix.PROT_READ, 0, 0, 0))
	}
	if forbid(address, length) {
		return true
	}
	// A break in the middle of a mapped run makes three mappings of one, which vm.max_map_count may forbid. The whole
	// range can be made inaccessible without a new one; what is still granted will fault again.
	store32(&e.noDowngrade, 1)
	return forbid(e.start, e.end-e.start)
}

// forbid makes a run inaccessible and reports whether it is. When vm.max_map_count has been exceeded, mmap fails even
// where it would make fewer mappings; then the run keeps its mapping, but not the access.
//
//go:nosplit
//go:norace
//go:nocheckptr
func forbid(address, length uint64) bool {
	fd := -1
	if !failed(systemCall(unix.SYS_MMAP, uintptr(address), uintptr(length), unix.PROT_NONE, nothingFlags|unix.MAP_FIXED,
		uintptr(fd), 0)) {
		return true
	}
	return !failed(systemCall(unix.SYS_MPROTECT, uintptr(address), uintptr(length), unix.PROT_NONE, 0, 0, 0))
}
