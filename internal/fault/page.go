package fault

const (
	faultSlots = 64
	breakSlots = 64
	callSlots  = 16
	pageMagic  = 0x33746c666d656d70 // "pmemflt3"
)

// CallBytes is how long a message in a call slot can be.
const CallBytes = 2*PageSize - 64

// sharedPage is the fault page: a file of fixed size in memory that the server makes and both processes map. Every word
// that is written by one side while the other polls has a cache line of its own. A page with a name outlives the server
// process; the next one takes it over as it is (OpenPage).
//
// Nothing in it is trusted. The server copies a request out once and keeps what it needs later (the runs in flight, the
// breaks it posted) in its own memory; whatever a client writes here, the server neither panics nor waits longer than
// its time limits. The client checks an answer against the bounds of the range before it maps anything.
//
// Who writes which word, and when (C: client, S: server; "own" = only in that state):
//
//	word            writer  when
//	magic           S       once, before the page is handed over
//	closed          S       0 -> 1, once, at an orderly end; every wait in the client ends with CodeServerGone
//	takeovers       S       +1 by each server process that takes the page over
//	bell            C       +1 after a slot became REQUEST (S: +1 when it closes)
//	serverSleeps    S       0 -> 1 before it sleeps on bell; C: 1 -> 0, then wakes
//	ackBell         C       +1 after slots became FREE or breaks DONE
//	serverWaits     S       0 -> 1 before TakeBack sleeps on ackBell; C: 1 -> 0, then wakes
//	late            C       0 -> 1 when a request in a fault slot has waited for longer than usual; S: 1 -> 0
//	lateOn          C       before that: the CPU that it waits on
//	callBell        C       +1 after a call slot became REQUEST (S: +1 when it stops to serve calls)
//	callSleeps      S       0 -> 1 before it sleeps on callBell; C: 1 -> 0, then wakes
//
//	fault slot      moved by            the mover's words; what the state means
//	FREE            C  -> CLAIMED       compare-and-swap; nobody's
//	CLAIMED         C  -> REQUEST       C writes mapping, page, count, flags first
//	REQUEST         S  -> SERVING       compare-and-swap; S copies the request once
//	SERVING         S  -> ANSWERED      S has recorded the run in flight, then writes flags .. offset
//	SERVING         S  -> REQUEST       another server process, before it serves anything: the request is still whole
//	ANSWERED        C  -> FREE          C has mapped the run (or given up): this is the acknowledgement
//	clientSleeps    C 0 -> 1 before it sleeps on state; S takes it back to 0 after ANSWERED, then wakes
//
//	break slot      moved by            the mover's words; what the state means
//	FREE            S  -> POSTED        S writes to, address, length first
//	POSTED          C  -> TAKEN         compare-and-swap in the break entry
//	POSTED          S  -> FREE          compare-and-swap: withdrawn, time is up
//	TAKEN           C  -> DONE, FAILED  the run is inaccessible (or only readable); FAILED: it could not be done
//	DONE, FAILED    S  -> FREE
//
//	call slot       moved by            the mover's words; what the state means
//	FREE            C  -> CLAIMED       compare-and-swap; nobody's
//	CLAIMED         C  -> REQUEST       C writes length and message first
//	REQUEST         S  -> SERVING       compare-and-swap; S copies the message once
//	REQUEST         C  -> FREE          compare-and-swap: withdrawn; C sends the message another way
//	SERVING         S  -> ANSWERED      compare-and-swap; S writes length and message first
//	SERVING         C  -> ABANDONED     compare-and-swap: the connection is lost
//	REQUEST,SERVING S  -> VOID          compare-and-swap; another server process: there will be no answer
//	ANSWERED, VOID  C  -> FREE          C has copied the message
//	ABANDONED       S  -> FREE
//	clientSleeps    as in a fault slot
type sharedPage struct {
	magic        uint64
	closed       uint32
	takeovers    uint32
	_            [48]byte
	bell         uint32
	_            [60]byte
	serverSleeps uint32
	_            [60]byte
	ackBell      uint32
	_            [60]byte
	serverWaits  uint32
	_            [60]byte
	callBell     uint32
	_            [60]byte
	callSleeps   uint32
	_            [60]byte
	late         uint32
	lateOn       uint32
	_            [56]byte
	_            [4096 - 8*64]byte
	faults       [faultSlots]faultSlot
	breaks       [breakSlots]breakSlot
	calls        [callSlots]callSlot
}

// faultSlot is one cache line; see sharedPage.
type faultSlot struct {
	state        uint32
	mapping      uint32 // request: as given to Range.Activate
	page         uint64 // request: index of the page in the mapping
	count        uint64 // request: pages wanted from page on; 1 for a fault
	flags        uint32 // request: slotWrite, which stays; answer: the other slot flags beside it
	code         uint32 // answer: Code
	first        uint64 // answer: index of the run's first page in the mapping
	pages        uint64 // answer: length of the run in pages
	offset       uint64 // answer: of the run in the data area, in bytes
	clientSleeps uint32
	_            uint32
}

// breakSlot is one cache line; see sharedPage.
type breakSlot struct {
	state   uint32
	to      uint32 // Access
	address uint64 // bytes
	length  uint64 // bytes
	_       [40]byte
}

// callSlot is a message from the client, and then its answer; see sharedPage.
type callSlot struct {
	state        uint32
	length       uint32 // of message, in bytes
	clientSleeps uint32
	_            [52]byte
	message      [CallBytes]byte
}

const (
	slotFree uint32 = iota
	slotClaimed
	slotRequest
	slotServing
	slotAnswered
	slotAbandoned // of a call
	slotVoid      // of a call
)

const (
	slotWrite    uint32 = 1 << iota // request: the access is a store
	slotWritable                    // answer: map it for loads and stores
	slotZeros                       // answer: no blocks: zeros, read only
	slotPopulate                    // answer: stores to all of it are expected: fill the page tables at once
)

const (
	breakFree uint32 = iota
	breakPosted
	breakTaken
	breakDone
	breakFailed
)
