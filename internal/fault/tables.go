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

// clientEntry is a connection to a server. Invariant: while live is 1, all fields but users, gone and the free words are
// constant.
type clientEntry struct {
	live  uint32
	users uint32
	gone  uint32 // 0 -> 1 when the server is; faults then fail at once

	hint        uint32 // rotates where claims begin to look for a free slot
	freeBell    uint32 // +1 when a slot becomes free; claims sleep on it when there is none
	freeSleeper uint32 // how many do

	page     *sharedPage // nil: no server; every fault fails with CodeBeyondEnd
	dataFd   int32
	server   pollFd // the server's pidfd; only fd and events matter, as several threads may poll at once
	base     uint64 // added to every offset
	mapFlags uint64
}

// rangeEntry is a range of addresses. Invariant: while state is not rangeUnused, start, end and client are constant, and
// mapping is once state is rangeActive.
type rangeEntry struct {
	state       uint32
	users       uint32
	client      uint32 // index in clients
	mapping     uint32 // as the server knows it
	noDowngrade uint32 // 1: pages that the server thinks are mapped may not be; see mapRun
	_           uint32
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
	goFaultHandler uintptr // what handled SIGSEGV before
	spinRounds     uint32  // pauses that a client waits for an answer before it sleeps
)

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
	answerNap = timespec{nsec: 10e6} // how often a waiting fault looks whether the server still lives
	claimNap  = timespec{nsec: 1e6}
)
