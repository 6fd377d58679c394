package fault

// The signal entries find what they need in two static arrays: they can neither lock nor follow maps that the garbage
// collector or the scheduler look after. An entry of either array goes
//
//	unused -> (fields written by Go code) -> in use -> (in use ends) -> users is 0 -> unused
//
// A signal entry that wants to use an entry adds one to users, and only then looks (again) whether it is in use and is
// the one it wants; it takes one from users when it has finished. Who ends the use stores that first, and then waits
// for users to be 0 before changing a field or unmapping what the fields speak of. Both sides use full barriers, so
// either the signal entry sees the end, or the one who ends sees the user. Hence an entry that is pinned and in use
// does not change, and its memory stays mapped.

const (
	maxClients = 32   // Dials of one process
	maxRanges  = 1024 // mappings of one process
)

// clientEntry is a connection to a server. Invariant: while live is 1, all fields but users, life, the free words and
// asks are constant. server is the same descriptor for ever, but Resume has it refer to another process.
type clientEntry struct {
	live  uint32
	users uint32
	life  uint32 // lifeGone, and +lifeResumed with each server that has taken over

	hint        uint32 // rotates where claims begin to look for a free slot
	freeBell    uint32 // +1 when a slot becomes free; claims sleep on it when there is none
	freeSleeper uint32 // how many do

	page     *sharedPage // nil: no server; every fault fails with CodeBeyondEnd
	dataFd   int32
	patience uint32 // how many naps of answerNap a fault waits without a server
	server   pollFd // the server's pidfd; only fd and events matter, as several threads may poll at once
	base     uint64 // added to every offset
	mapFlags uint64

	asks [maxAsks]ask
}

const (
	lifeGone    uint32 = 1 << iota // no server will come any more: faults fail at once. Set once, for good
	lifeResumed                    // what one Resume adds
)

// maxAsks is how many goroutines have requests of their own under way (Range.Populate) at the same time: far fewer than
// there are slots, so that faults always find one.
const maxAsks = 8

// ask is a request of a goroutine. When the answer has come, whoever sees it first maps the run: the goroutine, or a
// thread that waits in a fault. It may be that the goroutine cannot run because all Ps are held by such threads, or
// because the world is being stopped and waits for one; and their faults may wait for a break that waits for this
// answer.
//
// state is a sequence number, counted in askNext, and one of the ask states:
//
//	askOver    goroutine -> askWaits     it writes range, slot, page, write first
//	askWaits   anybody   -> askMaps      compare-and-swap; the slot is ANSWERED
//	askMaps    the same  -> askOver      it has mapped the run, freed the slot, and written next and code
//	askWaits   goroutine -> askOver      compare-and-swap; no server will answer
type ask struct {
	state uint32
	entry uint32 // index in ranges, of a range that the goroutine has pinned
	slot  uint32 // index in sharedPage.faults
	write bool
	code  Code
	page  uint64
	next  uint64 // page after the run
}

const (
	askOver uint32 = iota
	askWaits
	askMaps
	askMask uint32 = 3
	askNext        = askMask + 1 // one request more
)

// rangeEntry is a range of addresses. Invariant: while state is not rangeUnused, start, end and client are constant, and
// mapping is once state is rangeActive.
type rangeEntry struct {
	state       uint32
	users       uint32
	client      uint32 // index in clients
	mapping     uint32 // as the server knows it
	noDowngrade uint32 // 1: pages that the server thinks are mapped may not be; see mapAnswer
	alone       uint32 // 1: the last answer was a page alone, and so may be the next. A hint
	start, end  uint64 // [start, end), multiples of rangeAlign
}

const (
	rangeUnused   uint32 = iota
	rangeReserved        // not yet known to the server; faults fail
	rangeActive
	rangeRetired // inaccessible for good; faults fail
)

// failure is the record of an access that failed, for Find. address is stored last, and is 0 while code is stored.
type failure struct {
	address uint64
	code    uint32
	_       uint32
}

const maxFailures = 256 // kept at the same time; a panicking goroutine looks for its own soon after

var (
	clients     [maxClients]clientEntry
	ranges      [maxRanges]rangeEntry
	rangesHigh  uint32 // entries at and above have never been in use
	clientsHigh uint32
	failures    [maxFailures]failure
	failureNext uint32

	//lint:ignore U1000 used by the assembly
	goFaultHandler uintptr // what handled SIGSEGV and SIGBUS before
	spinRounds     uint32  // pauses that a client waits for an answer before it sleeps
	yieldRounds    uint32  // of them, those after which it lets others run, who may be the server
)

// guard is the exception table, which package lines explains. It is constant once the entries are installed.
var guard struct{ start, end, landing uintptr }

// pollFd is poll(2)'s struct pollfd.
type pollFd struct {
	fd      int32
	events  int16
	revents int16
}

// timespec is the kernel's. Those given to the kernel by the signal entries are variables: the address of a local one
// would have to survive as a number on a stack that may move (Range.Populate runs the same code on a goroutine).
type timespec struct{ sec, nsec int64 }

var (
	noTime    timespec
	answerNap = timespec{nsec: 10e6} // how often a waiting fault looks whether there still is a server
	claimNap  = timespec{nsec: 1e6}
)
