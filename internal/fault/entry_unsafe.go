package fault

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Everything in this file runs on the signal stack of any thread at any instant, or is called from there. All of it is
// nosplit (there is no room to grow), norace and nocheckptr (no instrumentation), takes no lock, allocates nothing and
// stores no pointer. The linker checks that the frames together fit into what nosplit functions may use.

// What the entries in assembly call; see there why through variables.
var (
	//lint:ignore U1000 used by the assembly
	faultFunction = onFault
	//lint:ignore U1000 used by the assembly
	breakFunction = onBreak
)

// sigInfo is the beginning of the kernel's siginfo_t for SIGSEGV.
type sigInfo struct {
	_       [2]int32 // number, errno
	code    int32
	_       int32
	address uint64
}

const (
	segvMapErr = 1 // SEGV_MAPERR: nothing is mapped there
	segvAccErr = 2 // SEGV_ACCERR: what is mapped there does not allow it
)

// onFault is called by segvEntry. It returns whether the fault is resolved, so that the access can be retried.
//
//go:nosplit
//go:norace
//go:nocheckptr
func onFault(info *sigInfo, context *sigContext) bool {
	if info.code != segvMapErr && info.code != segvAccErr {
		return false
	}
	write, ok := context.dataFault()
	if !ok {
		return false
	}
	e := pinRange(info.address)
	if e == nil {
		return false
	}
	code := resolve(e, (info.address-e.start)/PageSize, write)
	if code != CodeOK {
		recordFailure(info.address, code)
	}
	unpin(&e.users)
	return code == CodeOK
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

// resolve asks the server for the page of a pinned range and maps what it answers.
//
//go:nosplit
//go:norace
//go:nocheckptr
func resolve(e *rangeEntry, page uint64, write bool) Code {
	c := &clients[e.client%maxClients]
	if c.page == nil || load32(&e.state) != rangeActive {
		return unserved(c)
	}
	s := claim(c)
	if s == nil {
		return CodeServerGone
	}
	post(c, s, e.mapping, page, 1, write)
	for n := spinRounds; n > 0 && load32(&s.state) != slotAnswered; n-- {
		pause()
	}
	w := watch{life: load32(&c.life), takeovers: load32(&c.page.takeovers)}
	for load32(&s.state) != slotAnswered {
		if serverGone(c) {
			return CodeServerGone // the slot is lost, as is the connection
		}
		napOn(c, s, &w)
	}
	code := mapAnswer(e, s, page, write)
	freeSlot(c, s)
	return code
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

// claim takes a free slot, and waits for one if there is none; nil when the server is gone: those who have the slots
// look.
//
//go:nosplit
//go:norace
//go:nocheckptr
func claim(c *clientEntry) *faultSlot {
	for !serverGone(c) {
		bell := load32(&c.freeBell)
		if s := tryClaim(c); s != nil {
			return s
		}
		help()
		add32(&c.freeSleeper, 1)
		futex(&c.freeBell, futexOpWait, bell, &claimNap)
		add32(&c.freeSleeper, ^uint32(0))
	}
	return nil
}

// tryClaim takes a free slot; nil if there is none. Threads begin to look at different slots, so that they do not meet.
//
//go:nosplit
//go:norace
//go:nocheckptr
func tryClaim(c *clientEntry) *faultSlot {
	first := add32(&c.hint, 1)
	for i := uint32(0); i < faultSlots; i++ {
		s := &c.page.faults[(first+i)%faultSlots]
		if load32(&s.state) == slotFree && cas32(&s.state, slotFree, slotClaimed) {
			return s
		}
	}
	return nil
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
func napOn(c *clientEntry, s *faultSlot, w *watch) {
	help()
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

// watch is what somebody who waits for an answer knows of the server.
type watch struct {
	life, takeovers uint32 // of the client and the page, when they were looked at last
	naps            uint32 // without a server since then
}

// inVain is called after each nap in which nothing came. When the server process has ended, and no other one has come
// for longer than the client's patience, it ends the connection for good. A server that has taken over the page, but
// not yet made itself known to Resume, is not looked for: it has as long again.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (w *watch) inVain(c *clientEntry) {
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

// mapAnswer maps the run of an answered slot, which is to be freed afterwards in any case.
//
//go:nosplit
//go:norace
//go:nocheckptr
func mapAnswer(e *rangeEntry, s *faultSlot, page uint64, write bool) Code {
	if code := Code(s.code); code != CodeOK {
		return code
	}
	if s.first > page || s.first+s.pages <= page || (write && s.flags&slotWritable == 0) {
		return CodeIO // it would fault again at once, and for ever
	}
	return mapRun(e, s.first, s.pages, s.offset, s.flags)
}

// help finishes what goroutines have asked for, by whichever client, and has been answered.
//
//go:nosplit
//go:norace
//go:nocheckptr
func help() {
	high := load32(&clientsHigh)
	for i := uint32(0); i < high && i < maxClients; i++ {
		c := &clients[i]
		add32(&c.users, 1)
		if load32(&c.live) != 0 && c.page != nil {
			for k := range c.asks {
				finish(c, &c.asks[k])
			}
		}
		unpin(&c.users)
	}
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

// mapRun replaces pages [first, first+pages) of a pinned range by the blocks at offset of the data area.
//
// Postcondition: when the range has been retired or the server has gone meanwhile, the run is inaccessible. Whoever ends
// the use of a range stores that before it makes the range inaccessible; here the order is the opposite.
//
//go:nosplit
//go:norace
//go:nocheckptr
func mapRun(e *rangeEntry, first, pages, offset uint64, flags uint32) Code {
	c := &clients[e.client%maxClients]
	total := (e.end - e.start) / PageSize
	if first >= total || pages == 0 || pages > total-first {
		return CodeIO
	}
	address, length := e.start+first*PageSize, pages*PageSize
	var r uintptr
	switch {
	case flags&slotZeros != 0:
		r = mmap(address, length, unix.PROT_READ, nothingFlags, -1, 0)
	case flags&slotWritable != 0:
		r = mmap(address, length, unix.PROT_READ|unix.PROT_WRITE, uintptr(c.mapFlags), c.dataFd, c.base+offset)
	default:
		r = mmap(address, length, unix.PROT_READ, uintptr(c.mapFlags), c.dataFd, c.base+offset)
	}
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

//go:nosplit
//go:norace
//go:nocheckptr
func mmap(address, length uint64, prot, flags uintptr, fd int32, offset uint64) uintptr {
	return systemCall(unix.SYS_MMAP, uintptr(address), uintptr(length), prot, flags|unix.MAP_FIXED, uintptr(fd), uintptr(offset))
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
	if !failed(mmap(address, length, unix.PROT_NONE, nothingFlags, -1, 0)) {
		return true
	}
	return !failed(systemCall(unix.SYS_MPROTECT, uintptr(address), uintptr(length), unix.PROT_NONE, 0, 0, 0))
}
