package fault

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rangeAlign is the alignment of ranges, so that runs of 2 MiB can be mapped by huge pages, and device DAX at all.
const rangeAlign = 2 << 20

// ClientOptions are what a client has been given by its server. A successful NewClient takes over both files and the
// descriptor, and closes them in Client.Close.
type ClientOptions struct {
	Page        *os.File // the server's fault page; nil: there is no server, and every fault fails with CodeBeyondEnd
	Data        *os.File // the data area
	Base        int64    // added to every offset in the data area, in bytes, multiple of PageSize
	MapFlags    int      // mmap(2) flags for the data area: MAP_SHARED, or MAP_SHARED_VALIDATE|MAP_SYNC
	ServerPidfd int      // pidfd_open(2) of the server, to notice its death; -1: none

	// Patience is for how long a fault waits when the server process has died, until another one takes over its page: at
	// least that long. Then it and all others fail with CodeServerGone, for good. 0: at once. After the orderly end of a
	// server nobody waits.
	Patience time.Duration
}

// Client is this process's half of a connection. Its methods may be called from any goroutine.
type Client struct {
	entry  *clientEntry
	index  uint32
	opts   ClientOptions // keeps the files from being closed by the garbage collector
	region []byte        // the mapped fault page
	asks   chan int      // indexes of free asks of entry

	mu     sync.Mutex          // protects ranges
	ranges map[*Range]struct{} // not yet released

	end   sync.Mutex // protects ended; never held while waiting
	ended bool       // Close has begun: entry and descriptors may soon be somebody else's
}

// Range is a range of addresses of this process in which faults are resolved by the server.
type Range struct {
	client *Client
	entry  *rangeEntry
	index  int
	base   unsafe.Pointer
	length int64
}

// registry is what Go code knows of the static tables.
var registry struct {
	mu     sync.Mutex // protects the entries' change between unused and in use, and what follows
	ranges [maxRanges]*Range
}

// NewClient makes the client half of a connection. It fails when Install does.
func NewClient(o ClientOptions) (*Client, error) {
	if err := Install(); err != nil {
		return nil, err
	}
	c := &Client{opts: o, ranges: make(map[*Range]struct{}), asks: make(chan int, maxAsks)}
	for i := range maxAsks {
		c.asks <- i
	}
	var page *sharedPage
	if o.Page != nil {
		var err error
		if page, c.region, err = mapPage(o.Page); err != nil {
			return nil, fmt.Errorf("fault page: %w", err)
		}
		if page.magic != pageMagic {
			unix.Munmap(c.region)
			return nil, errVersions
		}
	}
	registry.mu.Lock()
	defer registry.mu.Unlock()
	for i := range clients {
		e := &clients[i]
		if load32(&e.live) != 0 || load32(&e.users) != 0 {
			continue
		}
		e.page, e.base, e.mapFlags, e.dataFd = page, uint64(o.Base), uint64(o.MapFlags), int32(o.Data.Fd())
		e.server = pollFd{fd: int32(o.ServerPidfd), events: unix.POLLIN}
		e.patience = naps(o.Patience)
		store32(&e.life, 0)
		store32(&e.live, 1)
		if uint32(i) >= clientsHigh {
			store32(&clientsHigh, uint32(i)+1)
		}
		c.entry, c.index = e, uint32(i)
		return c, nil
	}
	if c.region != nil {
		unix.Munmap(c.region)
	}
	return nil, fmt.Errorf("more than %d connections: %w", maxClients, unix.EMFILE)
}

// naps is how often a fault naps in d.
func naps(d time.Duration) uint32 {
	nap := time.Duration(answerNap.nsec)
	return uint32(min(max(d, 0)/nap+min(1, max(d, 0)%nap), math.MaxUint32-1))
}

// Reserve takes a range of addresses of length bytes (more than 0; rounded up to PageSize), aligned to 2 MiB. Nothing in
// it is accessible, and until Activate every access fails. At most 1024 ranges exist at the same time: ENFILE.
// It costs address space only.
func (c *Client) Reserve(length int64) (*Range, error) {
	if length <= 0 || length > math.MaxInt64/2 {
		return nil, fmt.Errorf("reserve %d bytes of address space: %w", length, unix.EINVAL)
	}
	if err := checkInstalled(); err != nil {
		return nil, err
	}
	length = (length + PageSize - 1) &^ (PageSize - 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hasEnded() {
		return nil, os.ErrClosed
	}
	base, err := reserveAligned(uintptr(length))
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes of address space: %w", length, err)
	}
	r := &Range{client: c, base: base, length: length}
	if err := r.publish(); err != nil {
		unix.MunmapPtr(base, uintptr(length))
		return nil, err
	}
	c.ranges[r] = struct{}{}
	return r, nil
}

// reserveAligned maps length bytes of nothing at a multiple of rangeAlign.
func reserveAligned(length uintptr) (unsafe.Pointer, error) {
	// Whole multiples, so that no other range or mapping shares the last 2 MiB: a run mapped by huge pages ends there.
	whole := (length + rangeAlign - 1) &^ (rangeAlign - 1)
	p, err := unix.MmapPtr(-1, 0, nil, whole+rangeAlign, unix.PROT_NONE, nothingFlags)
	if err != nil {
		return nil, err
	}
	head := -uintptr(p) & (rangeAlign - 1)
	if head > 0 {
		unix.MunmapPtr(p, head)
	}
	base := unsafe.Add(p, head)
	if tail := whole - length + rangeAlign - head; tail > 0 {
		unix.MunmapPtr(unsafe.Add(base, length), tail)
	}
	if err := unix.Madvise(unsafe.Slice((*byte)(base), length), unix.MADV_DONTFORK); err != nil {
		unix.MunmapPtr(base, length)
		return nil, err
	}
	return base, nil
}

// publish makes the range known to the signal entries.
func (r *Range) publish() error {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	for i := range ranges {
		e := &ranges[i]
		if load32(&e.state) != rangeUnused || registry.ranges[i] != nil {
			continue
		}
		e.client, e.noDowngrade, e.alone = r.client.index, 0, 0
		store64(&e.end, uint64(uintptr(r.base))+uint64(r.length))
		store64(&e.start, uint64(uintptr(r.base)))
		store32(&e.state, rangeReserved)
		if uint32(i) >= rangesHigh {
			store32(&rangesHigh, uint32(i)+1)
		}
		r.entry, r.index = e, i
		registry.ranges[i] = r
		return nil
	}
	return fmt.Errorf("more than %d mappings: %w", maxRanges, unix.ENFILE)
}

// Address is where the range begins.
func (r *Range) Address() uintptr { return uintptr(r.base) }

// Bytes is the range. It must not be used after Release.
func (r *Range) Bytes() []byte { return unsafe.Slice((*byte)(r.base), r.length) }

// Activate lets faults be sent to the server as faults of mapping, page by page from the start of the range. Once
// only. After Retire or Abandon it does nothing.
func (r *Range) Activate(mapping uint32) {
	r.client.mu.Lock()
	defer r.client.mu.Unlock()
	switch load32(&r.entry.state) {
	case rangeReserved:
		r.entry.mapping = mapping
		store32(&r.entry.state, rangeActive)
	case rangeActive:
		panic("fault: Activate of an active range")
	}
}

// Retire makes the range inaccessible for good: later accesses fail with CodeBeyondEnd. On return no fault in it is
// under way any more, so the server may forget the mapping. Then call Release. It waits for faults that are under way,
// which without a server takes as long as the client's patience.
func (r *Range) Retire() error {
	err := r.retire()
	if !errors.Is(err, os.ErrClosed) {
		waitUnpinned(&r.entry.users)
	}
	return err
}

func (r *Range) retire() error {
	c := r.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, mine := c.ranges[r]; !mine {
		return os.ErrClosed
	}
	return r.clear()
}

// clear makes the range inaccessible for good.
func (r *Range) clear() error {
	store32(&r.entry.state, rangeRetired)
	if !forbid(r.entry.start, uint64(r.length)) {
		return fmt.Errorf("make a mapping inaccessible: %w", unix.ENOMEM)
	}
	return nil
}

// waitUnpinned waits until no signal entry uses a table's entry that is not in use any more.
func waitUnpinned(users *uint32) {
	for load32(users) != 0 {
		time.Sleep(50 * time.Microsecond)
	}
}

// Release gives the addresses back to the kernel. The server must have forgotten the mapping: call Retire, tell the
// server, then Release. An access after it may hit anything, as after any munmap.
func (r *Range) Release() error {
	c := r.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, mine := c.ranges[r]; !mine {
		return os.ErrClosed
	}
	return r.release()
}

// release is Release under the client's lock.
func (r *Range) release() error {
	r.clear()
	e := r.entry
	waitUnpinned(&e.users)
	store32(&e.state, rangeUnused)
	waitUnpinned(&e.users)
	store64(&e.start, 0)
	store64(&e.end, 0)
	err := unix.MunmapPtr(r.base, uintptr(r.length))
	delete(r.client.ranges, r)
	registry.mu.Lock()
	registry.ranges[r.index] = nil
	registry.mu.Unlock()
	return err
}

// pin is pinRange for a range that is known; false when it has been released.
func (r *Range) pin() bool {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	if registry.ranges[r.index] != r || load32(&r.entry.state) == rangeUnused {
		return false
	}
	add32(&r.entry.users, 1)
	return true
}

// Populate does for pages [first, first+count) what faults would do, without any: it asks the server for run after run
// and maps them, for stores when write is set. It returns the first code that is not CodeOK, and how many pages from
// first on are mapped then.
func (r *Range) Populate(first, count int64, write bool) (mapped int64, code Code) {
	e, c := r.entry, r.client.entry
	total := r.length / PageSize
	if first < 0 || count < 0 || first > total || count > total-first || !r.pin() {
		return 0, CodeBeyondEnd
	}
	defer unpin(&e.users)
	for page, end := uint64(first), uint64(first+count); page < end; {
		if c.page == nil || load32(&e.state) != rangeActive {
			return int64(page) - first, unserved(c)
		}
		next, code := r.ask(page, end-page, write)
		if code != CodeOK {
			return int64(page) - first, code
		}
		page = min(next, end)
	}
	return count, CodeOK
}

// ask is resolve for a goroutine: it sleeps in ways that let the scheduler know. See the type ask.
func (r *Range) ask(page, count uint64, write bool) (next uint64, code Code) {
	c := r.client.entry
	k := <-r.client.asks
	defer func() { r.client.asks <- k }()
	w := wait{slot: tryClaim(c)}
	for w.slot == noSlot {
		if serverGone(c) {
			return 0, CodeServerGone
		}
		time.Sleep(50 * time.Microsecond)
		w.slot = tryClaim(c)
	}
	a, s := &c.asks[k], &c.page.faults[w.slot]
	a.entry, a.slot, a.page, a.write = uint32(r.index), w.slot, page, write
	waits := load32(&a.state) + askNext + askWaits
	store32(&a.state, waits)
	post(c, s, r.entry.mapping, page, count, write)
	w.poll(c)
	for {
		if finish(c, a); load32(&a.state) == waits-askWaits+askOver {
			return a.next, a.code
		}
		if serverGone(c) && cas32(&a.state, waits, waits-askWaits+askOver) {
			return 0, CodeServerGone
		}
		store32(&s.clientSleeps, 1)
		if state := load32(&s.state); state != slotAnswered && futexWait(&s.state, state, time.Duration(answerNap.nsec)) {
			w.inVain(c)
		}
	}
}

// MapRun maps a run that has not been asked for by a fault, such as a run of a mapping without a server. With a server,
// use Populate: a break cannot know of a run that was granted by other means and is not mapped yet.
func (r *Range) MapRun(reply Reply) Code {
	var flags uint32
	if reply.Writable {
		flags |= slotWritable
	}
	if reply.Offset < 0 {
		flags |= slotZeros
	}
	if !r.pin() {
		return CodeBeyondEnd
	}
	defer unpin(&r.entry.users)
	run := faultSlot{first: uint64(reply.FirstPage), pages: uint64(reply.Count), offset: uint64(reply.Offset), flags: flags}
	return mapAnswer(r.entry, &run, run.first, reply.Writable)
}

// TakeBack does to pages [first, first+count) what a break would do. For mappings without a server.
func (r *Range) TakeBack(first, count int64, to Access) error {
	if first < 0 || count <= 0 || first > r.length/PageSize-count {
		return unix.EINVAL
	}
	if !r.pin() {
		return os.ErrClosed
	}
	defer unpin(&r.entry.users)
	if !breakRun(r.client.index, r.entry.start+uint64(first)*PageSize, uint64(count)*PageSize, to) {
		return unix.ENOMEM
	}
	return nil
}

// Resume tells the client that another server process has taken over its fault page: from now on the death of that one
// is looked for. It takes over the descriptor (pidfd_open(2)) in any case. os.ErrClosed: Close or Abandon has been
// called, or the client's patience is over, so that faults have failed. EINVAL: the client was made without a
// descriptor.
func (c *Client) Resume(serverPidfd int) error {
	defer unix.Close(serverPidfd)
	c.end.Lock()
	defer c.end.Unlock()
	switch {
	case c.ended:
		return os.ErrClosed
	case c.opts.ServerPidfd < 0:
		return unix.EINVAL
	}
	// The descriptor keeps its number, which signal entries may be about to use.
	if err := unix.Dup3(serverPidfd, c.opts.ServerPidfd, unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("dup3", err)
	}
	for {
		life := load32(&c.entry.life)
		if life&lifeGone != 0 {
			return os.ErrClosed
		}
		if cas32(&c.entry.life, life, life+lifeResumed) {
			return nil
		}
	}
}

// Lost reports whether all faults fail with CodeServerGone, for good: because the client's patience is over, or after
// Abandon or Close.
func (c *Client) Lost() bool {
	c.end.Lock()
	defer c.end.Unlock()
	return c.ended || load32(&c.entry.life)&lifeGone != 0
}

// Abandon is for a client whose server is gone and will not come back: every range becomes inaccessible for good, and
// faults, also those under way, fail with CodeServerGone. On return no block of the pool can be reached through this
// client.
func (c *Client) Abandon() error {
	if !c.giveUp(false) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for r := range c.ranges {
		errs = append(errs, r.clear())
	}
	for r := range c.ranges {
		waitUnpinned(&r.entry.users)
	}
	return errors.Join(errs...)
}

// giveUp lets faults, also those under way, fail from now on; false when Close has done so already.
func (c *Client) giveUp(toClose bool) bool {
	c.end.Lock()
	defer c.end.Unlock()
	if c.ended {
		return false
	}
	c.ended = toClose
	for life := load32(&c.entry.life); life&lifeGone == 0; life = load32(&c.entry.life) {
		cas32(&c.entry.life, life, life|lifeGone)
	}
	return true
}

func (c *Client) hasEnded() bool {
	c.end.Lock()
	defer c.end.Unlock()
	return c.ended
}

// Close releases every range and the fault page, and closes the descriptors.
func (c *Client) Close() error {
	// First of all: faults that still wait must not wait for a server that may have no reason to answer.
	if !c.giveUp(true) {
		return os.ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for r := range c.ranges {
		errs = append(errs, r.release())
	}
	store32(&c.entry.live, 0)
	waitUnpinned(&c.entry.users)
	if c.region != nil {
		errs = append(errs, unix.Munmap(c.region), c.opts.Page.Close())
	}
	errs = append(errs, c.opts.Data.Close())
	if c.opts.ServerPidfd >= 0 {
		errs = append(errs, unix.Close(c.opts.ServerPidfd))
	}
	return errors.Join(errs...)
}

// Find tells which range an address is in, and why the last access to it has failed: for the address of a runtime error
// that was recovered under debug.SetPanicOnFault. ok is false when the address is in no range. A code of CodeOK means
// that no access to this address has failed of late.
func Find(address uintptr) (r *Range, code Code, ok bool) {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	for i := range registry.ranges {
		if r = registry.ranges[i]; r != nil && r.entry.contains(uint64(address)) {
			return r, findFailure(uint64(address)), true
		}
	}
	return nil, CodeOK, false
}

// findFailure looks for the newest record of address.
func findFailure(address uint64) Code {
	newest := load32(&failureNext)
	for i := range uint32(maxFailures) {
		f := &failures[(newest-i)%maxFailures]
		if load64(&f.address) != address {
			continue
		}
		code := Code(load32(&f.code))
		if load64(&f.address) == address {
			return code
		}
	}
	return CodeOK
}
