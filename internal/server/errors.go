package server

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/grant"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// classify is the one place where errors become numbers. An error without an errno is EIO.
func classify(err error) (syscall.Errno, wire.Reason) {
	var corrupt *layout.CorruptError
	var errno syscall.Errno
	switch {
	case errors.Is(err, grant.ErrSealed):
		return unix.EBUSY, wire.ReasonSealed
	case errors.Is(err, core.ErrStatic):
		return unix.EBUSY, wire.ReasonStatic
	case errors.As(err, new(*core.UnfilledError)):
		return unix.EINVAL, wire.ReasonUnfilled
	case errors.As(err, new(*core.ConflictError)):
		return unix.ESTALE, wire.ReasonConflict
	case errors.As(err, new(*core.MediaError)):
		return unix.EIO, wire.ReasonMedia
	case errors.As(err, &corrupt):
		return unix.EIO, wire.ReasonCorrupt
	case errors.As(err, &errno) && errno != 0:
		return errno, wire.ReasonNone
	}
	return unix.EIO, wire.ReasonNone
}

// errorReply carries an error to the client: its number and, when it says more than the number does, its text.
func errorReply(err error) *wire.Reply {
	errno, reason := classify(err)
	r := &wire.Reply{Errno: uint16(errno), Reason: reason}
	var about *core.FileError
	if errors.As(err, &about) {
		r.Name = about.Path[max(0, len(about.Path)-wire.MaxPath):]
		err = about.Err
	}
	if text := err.Error(); text != errno.Error() {
		r.Detail = text
	}
	var limit *grant.LimitError
	if errors.As(err, &limit) {
		what, _, _ := strings.Cut(limit.What, " ")
		r.Detail += fmt.Sprintf(" (pmemfs serve --max-%s)", what)
	}
	var lost *core.MediaError
	if errors.As(err, &lost) {
		r.N, r.Offset = int64(lost.Ino), lost.Offset
	}
	var sealed *grant.SealedError
	if errors.As(err, &sealed) {
		r.Sealed = &wire.Sealed{
			PID: int64(sealed.PID), Handle: sealed.Handle, Off: sealed.First * blockSize, Length: sealed.Count * blockSize,
		}
		if sealed.Pin {
			r.Sealed.Pin = 1
		}
	}
	var unfilled *core.UnfilledError
	if errors.As(err, &unfilled) {
		r.Offset, r.Name = unfilled.Off, unfilled.What
	}
	var conflict *core.ConflictError
	if errors.As(err, &conflict) {
		r.Offset, r.N = conflict.Off, int64(conflict.Ino)
	}
	return r
}

// faultCode tells a page fault why it failed.
func faultCode(err error) fault.Code {
	switch errno, _ := classify(err); errno {
	case unix.ENXIO, unix.EBADF:
		return fault.CodeBeyondEnd
	case unix.ENOSPC:
		return fault.CodeNoSpace
	case unix.EACCES, unix.EPERM, unix.EROFS:
		return fault.CodeAccess
	case unix.EBUSY:
		return fault.CodeBusy
	case unix.ENOMEM:
		return fault.CodeNoMemory
	case unix.EDQUOT:
		return fault.CodeLimit
	}
	return fault.CodeIO
}

// invalid is an EINVAL with a text.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), unix.EINVAL)
}
