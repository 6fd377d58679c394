package pmemfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// sentinel is an error of this package that also matches the errno a kernel would have given.
type sentinel struct {
	text  string
	errno syscall.Errno
}

func (s *sentinel) Error() string { return s.text }
func (s *sentinel) Unwrap() error { return s.errno }

var (
	// ErrSealed is returned when an operation would have to take back a run of blocks that a program has
	// sealed (see [Direct]) or pinned (see [Mapping.Pin]); a [SealedError] says which. Nothing has changed. It
	// matches EBUSY.
	ErrSealed error = &sentinel{"the blocks are sealed by a mapping", unix.EBUSY}

	// ErrStatic is returned when an operation would change the size of a static file or where its blocks lie: see
	// [File.SetStatic]. Nothing has changed. It matches ErrSealed and EBUSY.
	ErrStatic error = &detailed{"the file is static: its size and the place of its blocks are frozen until it is thawed", ErrSealed}

	// ErrServerGone is returned by every call, and is the reason of every failed access to a mapping, once the
	// server has ended, or has died and no other one has taken over in time: see [Reconnect]. It is also returned by a
	// call that was under way when the server died, if it may have changed something: whether it did is not known.
	// It matches ECONNRESET.
	ErrServerGone error = &sentinel{"the pmemfs server is gone", unix.ECONNRESET}

	// ErrCorrupt is returned when a structure on the medium is damaged; the error's text names it. It matches
	// EIO.
	ErrCorrupt error = &sentinel{"the pool is damaged", unix.EIO}

	// ErrConflict is returned by [PublishAll] when a file has changed since it was cloned; a [ConflictError] says where.
	// Nothing has changed. It matches ESTALE.
	ErrConflict error = &sentinel{"the file has changed since it was cloned", unix.ESTALE}

	// ErrUnmapped is returned by the methods of a [Mapping] after Unmap. It matches EINVAL.
	ErrUnmapped error = &sentinel{"the mapping is unmapped", unix.EINVAL}
)

// SealedError says which seal or pin is in the way of an operation. It matches [ErrSealed] and EBUSY.
type SealedError struct {
	PID            int    // of the process that holds it
	Handle         uint32 // by which that process has mapped the file; see [File.Handle]
	Offset, Length int64  // what it has sealed or pinned, in bytes of the file
	Pin            bool   // it is a pin, which is short; else a seal, which lasts as long as the mapping
}

func (e *SealedError) Error() string {
	how, remedy := "sealed", "a Direct mapping of it must be unmapped first"
	if e.Pin {
		how, remedy = "pinned", "it will be unpinned when its I/O is over"
	}
	return fmt.Sprintf("bytes %d to %d are %s by process %d (handle %d): %s",
		e.Offset, e.Offset+e.Length-1, how, e.PID, e.Handle, remedy)
}

// Unwrap returns ErrSealed.
func (e *SealedError) Unwrap() error { return ErrSealed }

// UnfilledError says which block keeps a range from being sealed or a file from being static: each must be written
// and be no other file's. It matches EINVAL. [File.Fill] makes it so.
type UnfilledError struct {
	Offset int64  // byte of the file where the block begins
	What   string // "a hole", "unwritten" (allocated, reads as zeros) or "shared"
}

func (e *UnfilledError) Error() string {
	return fmt.Sprintf("the block at offset %d is %s: fill the range first (Fill, or Populate when mapping)", e.Offset, e.What)
}

// Unwrap returns EINVAL.
func (e *UnfilledError) Unwrap() error { return unix.EINVAL }

// ConflictError says where a file has changed since it was cloned. It matches [ErrConflict] and ESTALE.
type ConflictError struct {
	Offset int64 // byte of the file where the first block begins that has changed
	ino    uint64
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("the block at offset %d has changed since the file was cloned: discard, and do it again on what the file is now", e.Offset)
}

// Unwrap returns ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// MediaError says that the medium has lost a block of a file: what read it, or would have stored to a part of it, has
// failed. It matches EIO. Writing all of the block heals it (docs/guarantees.md).
type MediaError struct {
	Inode  uint64 // of the file; of a copy that may be the source
	Offset int64  // byte of the file where the block begins
	text   string
}

func (e *MediaError) Error() string { return e.text }

// Unwrap returns EIO.
func (e *MediaError) Unwrap() error { return unix.EIO }

// FaultError says why an access to a mapping failed: the file has no such byte any more, no block could be
// allocated, the medium has lost the block, the server is gone. It is found in the *fs.PathError that [Catch] returns.
type FaultError struct {
	Offset int64 // byte of the file that was accessed
	Reason error // matches ENXIO beyond the end of the file, ENOSPC, EIO, EACCES, ErrServerGone, ErrUnmapped …
}

func (e *FaultError) Error() string { return fmt.Sprintf("offset %d: %v", e.Offset, e.Reason) }

// Unwrap returns the reason.
func (e *FaultError) Unwrap() error { return e.Reason }

// detailed is an error with a text that says more than its cause does.
type detailed struct {
	text  string
	cause error
}

func (e *detailed) Error() string { return e.text }
func (e *detailed) Unwrap() error { return e.cause }

// invalidName matches what os functions and system calls return for a name that they do not allow.
type invalidName struct{}

func (invalidName) Error() string {
	return "invalid name (names are relative to the root, without . and .. elements)"
}
func (invalidName) Is(target error) bool { return target == fs.ErrInvalid }
func (invalidName) Unwrap() error        { return unix.EINVAL }

// replyError turns a reply into the error that it carries, nil when the operation was done.
func replyError(r *wire.Reply) error {
	if r.Errno == 0 {
		return nil
	}
	var cause error = syscall.Errno(r.Errno)
	switch r.Reason {
	case wire.ReasonSealed:
		cause = ErrSealed
		if s := r.Sealed; s != nil {
			return &SealedError{PID: int(s.PID), Handle: s.Handle, Offset: s.Off, Length: s.Length, Pin: s.Pin != 0}
		}
	case wire.ReasonStatic:
		return ErrStatic
	case wire.ReasonUnfilled:
		return &UnfilledError{Offset: r.Offset, What: r.Name}
	case wire.ReasonConflict:
		return &ConflictError{Offset: r.Offset, ino: uint64(r.N)}
	case wire.ReasonMedia:
		return &MediaError{Inode: uint64(r.N), Offset: r.Offset, text: r.Detail}
	case wire.ReasonCorrupt:
		cause = ErrCorrupt
	}
	if r.Detail == "" {
		return cause
	}
	return &detailed{text: r.Detail, cause: cause}
}

// pathError wraps err for an operation on one name. It returns nil for nil, and io.EOF must not be given to it.
func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		return err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// linkError wraps err for an operation on two names.
func linkError(op, oldName, newName string, err error) error {
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: op, Old: oldName, New: newName, Err: err}
}
