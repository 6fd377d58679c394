// Package grant is the volatile record of who may access which blocks of which file: grants, breaks, seals and pins. It
// knows nothing of media, of block numbers on them, or of how clients are reached. After a crash it is empty, as are the
// clients' page tables.
//
// # Locks
//
//	the inode's lock (core): held by callers of Grant, GrantZero, Pin, Break and BreakZero, so that nothing is granted or
//	|   pinned in a run while it is broken, and the file's blocks do not change before the break is over
//	+-- the journal's: held by some callers of Grant, too
//	+-- Table.mu: a leaf; never held while Client.TakeBack runs, and nothing else is locked under it
//
// Map, Unmap, Unpin, Sealed and Usage need no lock: they may be called while a break is under way.
package grant

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// BlockSize is the size in bytes of a block, the unit of files here, and of the pages of address space that show it.
const BlockSize = 4096

// Access is what a grant allows. The order matters: more is greater.
type Access uint8

// The kinds of access.
const (
	None Access = iota
	Read
	Write // and Read
)

// String returns "none", "read" or "write".
func (a Access) String() string {
	switch a {
	case None:
		return "none"
	case Read:
		return "read"
	case Write:
		return "write"
	default:
		return fmt.Sprintf("access(%d)", uint8(a))
	}
}

// AddressRun is a run of a client's address space, in bytes, both multiples of BlockSize; Length > 0.
type AddressRun struct{ Address, Length uint64 }

// Client is a process (or this one) that holds grants. It must be comparable: a pointer, as a rule. If it has a method
// PID() int, errors name the process by it.
type Client interface {
	// TakeBack returns nil only when the client cannot access the runs any more (to None), or can only load from them (to
	// Read); answers to its page faults that it has not acted upon yet count as access. A process that is dead has no
	// access. Otherwise it returns an error, ErrBusy if the client did not answer in time: the client may then have kept
	// all, some or none of the access.
	//
	// The runs are ascending and neither overlap nor touch. TakeBack is called from several goroutines at once, for
	// different files, and must not call the table.
	TakeBack(runs []AddressRun, to Access) error
}

var (
	// ErrSealed is returned by Break and BreakZero, as a *SealedError, when the run is pinned or sealed.
	ErrSealed = sentinel{errors.New("sealed"), unix.EBUSY}
	// ErrBusy is returned by clients that do not give a grant back in time.
	ErrBusy = sentinel{errors.New("the client did not give its grants back in time"), unix.EBUSY}
	// ErrUnmapped is returned by Grant, GrantZero, Seal and Pin when the mapping has been unmapped, and by Unpin when
	// there is no such pin.
	ErrUnmapped = sentinel{errors.New("not mapped"), unix.EINVAL}
	// ErrLimit is returned by Grant, GrantZero, Seal and Pin, as a *LimitError, when the client has as much as it may.
	ErrLimit = sentinel{errors.New("over the client's limit"), unix.EDQUOT}
)

// sentinel is an error with the errno that it means to callers who know only those.
type sentinel struct {
	error
	errno unix.Errno
}

func (s sentinel) Unwrap() error { return s.errno }

// SealedError says which pin or seal is in the way of a break. It matches ErrSealed and EBUSY.
type SealedError struct {
	PID          int    // the process that holds it; 0 if the client has no PID method
	Handle       uint32 // by which that process has mapped the file
	File         uint64 // inode number
	First, Count int64  // the sealed run, in blocks of the file
	Address      uint64 // where it is mapped
	Pin          bool   // a pin, not a seal
}

func (e *SealedError) Error() string {
	how := "sealed"
	if e.Pin {
		how = "pinned"
	}
	return fmt.Sprintf("blocks %d to %d of inode %d are %s by %s, which maps them at %#x by its handle %d",
		e.First, e.First+e.Count-1, e.File, how, process(e.PID), e.Address, e.Handle)
}

func (e *SealedError) Unwrap() error { return ErrSealed }

// LimitError says what a client has too much of. It matches ErrLimit and EDQUOT.
type LimitError struct {
	PID               int    // of the client; 0 if it has no PID method
	What              string // "grants", "pinned blocks" or "sealed blocks"
	Have, More, Limit int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s has %d %s, and %d more would exceed its limit of %d", process(e.PID), e.Have, e.What, e.More, e.Limit)
}

func (e *LimitError) Unwrap() error { return ErrLimit }

// BreakError says which client did not give its grants back, and why. If several did not, Break joins their errors.
type BreakError struct {
	Client Client
	PID    int // 0 if the client has no PID method
	Err    error
}

func (e *BreakError) Error() string {
	return fmt.Sprintf("take grants back from %s: %v", process(e.PID), e.Err)
}

func (e *BreakError) Unwrap() error { return e.Err }

func pidOf(c Client) int {
	if p, ok := c.(interface{ PID() int }); ok {
		return p.PID()
	}
	return 0
}

func process(pid int) string {
	if pid == 0 {
		return "a client"
	}
	return fmt.Sprintf("process %d", pid)
}
