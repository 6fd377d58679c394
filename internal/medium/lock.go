package medium

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Locks of a pool, all of them on open file descriptions, so that they last exactly as long as the last descriptor or
// mapping made from it:
//
//	owner lock      one owner (exclusive) or several readers (shared). A flock on meta; on a device, where the same file
//	                carries the other lock too, an open-file-description lock (F_OFD_SETLK) on its first byte.
//	mapping lock    everybody who may map the data area holds it shared: owner, readers, and every client by the
//	                description that ClientFile made. A flock on data or the device. An opener for writing takes it
//	                exclusively for a moment, which is refused as long as clients of an earlier owner live.
//
// Order: owner lock, then mapping lock. Who holds the owner lock exclusively is alone in taking the mapping lock
// exclusively, so that the change from exclusive to shared, which flock(2) does not do in one step, cannot be overtaken.
//
// A device's locks are on its node in /dev: openers through different nodes of the same device do not see each other.

// lockPoll is how often a lock is tried while waiting: neither lock can be waited for with a time limit.
const lockPoll = 5 * time.Millisecond

// flock tries a flock on f's description. false: somebody else has one that conflicts.
func flock(f *os.File, how int) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		default:
			return false, fmt.Errorf("flock %s: %w", f.Name(), err)
		}
	}
}

// lockFirstByte tries an open-file-description lock on the first byte of f.
func lockFirstByte(f *os.File, readOnly bool) (bool, error) {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: 0, Len: 1}
	if readOnly {
		l.Type = unix.F_RDLCK
	}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return true, nil
}

// lockUntil tries until it succeeds or the deadline is over. It tries at least once.
func lockUntil(deadline time.Time, try func() (bool, error)) (bool, error) {
	for {
		if ok, err := try(); ok || err != nil {
			return ok, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return false, nil
		}
		time.Sleep(min(left, lockPoll))
	}
}

// lockOwner takes the owner lock, or returns ErrInUse with those who have it.
func lockOwner(meta *os.File, device, readOnly bool, deadline time.Time) error {
	ok, err := lockUntil(deadline, func() (bool, error) {
		switch {
		case device:
			return lockFirstByte(meta, readOnly)
		case readOnly:
			return flock(meta, unix.LOCK_SH)
		default:
			return flock(meta, unix.LOCK_EX)
		}
	})
	if ok || err != nil {
		return err
	}
	kind := "FLOCK"
	if device {
		kind = "OFDLCK"
	}
	return &Error{Kind: ErrInUse, PIDs: ownersOf(meta, kind, !readOnly)}
}

// lockMapping takes the mapping lock, shared when it returns nil. A writer finds out first that nobody else has it.
func lockMapping(data *os.File, readOnly bool, deadline time.Time) error {
	if !readOnly {
		ok, err := lockUntil(deadline, func() (bool, error) { return flock(data, unix.LOCK_EX) })
		if err != nil {
			return err
		}
		if !ok {
			return &Error{
				Kind:   ErrSurvivors,
				PIDs:   survivorsOf(data),
				Reason: "they could store into blocks that are about to be used otherwise; stop them, or wait until they have unmapped",
			}
		}
	}
	if ok, err := flock(data, unix.LOCK_SH); !ok || err != nil {
		return errors.Join(err, fmt.Errorf("flock %s: a shared lock was refused to the only owner", data.Name()))
	}
	return nil
}
