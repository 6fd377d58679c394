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
//	mapping lock    everybody who may map the data area holds it shared, in one of two forms. Owner, readers and clients
//	                without a slot: a flock on data or the device. Clients with a slot: an open-file-description lock on
//	                the slot's own byte behind the end of data or the device. An opener for writing takes the flock
//	                exclusively for a moment, and looks for slots that are locked; either is in its way as long as
//	                clients of an earlier owner live, but for slots that it takes over.
//
// Order: owner lock, then mapping lock. Who holds the owner lock exclusively is alone in taking the mapping lock
// exclusively, so that the change from exclusive to shared, which flock(2) does not do in one step, cannot be
// overtaken. Nobody else hands out slots either, so that none is locked anew after they were looked at.
//
// A client with a slot has no flock: holders of a shared flock cannot be told apart or counted (/proc/locks shows
// them only where it can translate the pid of who took them), so an opener that takes over the clients in slots could
// not know whether they alone keep it from the exclusive one. As it is, a flock that is refused always means somebody
// who cannot be taken over: a client without a slot, or a program that has locked the file for reasons of its own,
// such as a backup.
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

// survivors are those who have the mapping lock of an earlier owner, as far as an opener has found out.
type survivors struct {
	adopt   func(live []int) map[int]int // Options.Adopt
	asked   bool                         // adopt was
	adopted map[int]int                  // slot -> pid of who is taken over

	slotless bool  // the flock is refused
	foreign  bool  // bytes of slots are locked in a way that is not ours: who has a slot is not known
	inWay    []int // slots that are locked and not taken over
}

// look finds out who is there, and reports whether nobody is in the way.
func (s *survivors) look(data *os.File) (bool, error) {
	alone, err := flock(data, unix.LOCK_EX)
	if err != nil {
		return false, err
	}
	live, foreign, err := liveSlots(data)
	if err != nil {
		return false, err
	}
	if !s.asked && len(live) > 0 && !foreign {
		s.asked, s.adopted = true, s.adopt(live)
	}
	s.slotless, s.foreign, s.inWay = !alone, foreign, s.inWay[:0]
	for _, slot := range live {
		if _, ok := s.adopted[slot]; !ok {
			s.inWay = append(s.inWay, slot)
		}
	}
	return alone && !foreign && len(s.inWay) == 0, nil
}

// lockMapping takes the mapping lock, shared when it returns nil. A writer finds out first that nobody else has it,
// but for clients that it takes over.
func lockMapping(data *os.File, readOnly bool, s *survivors, deadline time.Time) error {
	if !readOnly {
		ok, err := lockUntil(deadline, func() (bool, error) { return s.look(data) })
		if err != nil {
			return err
		}
		if !ok {
			return &Error{
				Kind:   ErrSurvivors,
				PIDs:   s.pids(data),
				Reason: "they could store into blocks that are about to be used otherwise; stop them, or wait until they have unmapped",
			}
		}
	}
	if ok, err := flock(data, unix.LOCK_SH); !ok || err != nil {
		return errors.Join(err, fmt.Errorf("flock %s: a shared lock was refused to the only owner", data.Name()))
	}
	return nil
}
