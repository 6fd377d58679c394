package medium

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// MaxSlots is how many clients can be told apart after the death of their owner: slots are 0 to MaxSlots-1.
const MaxSlots = 1024

// slotBase is where the slots' bytes begin: far behind the end of any file or device.
const slotBase = 1 << 62

// lockSlot takes the mapping lock of a slot on f's description. Others have the same slot locked only if they are to
// be taken for the same client.
func lockSlot(f *os.File, slot int) error {
	l := unix.Flock_t{Type: unix.F_RDLCK, Whence: unix.SEEK_SET, Start: slotBase + int64(slot), Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l); err != nil {
		return fmt.Errorf("lock slot %d of %s: %w", slot, f.Name(), err)
	}
	return nil
}

// SlotInUse says whether a client has a slot, be it one of an owner before this one.
func (p *Pool) SlotInUse(slot int) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dataFile == nil {
		return false, &fs.PathError{Op: "look for a slot", Path: p.path, Err: fs.ErrClosed}
	}
	l, err := lockAt(p.dataFile, int64(slot), int64(slot)+1)
	return l.Type != unix.F_UNLCK, err
}

// lockAt returns one of the locks, whichever the kernel finds first, that others than f's description have on the
// bytes of slots [first, end). Its type is F_UNLCK if there is none.
func lockAt(f *os.File, first, end int64) (unix.Flock_t, error) {
	for {
		l := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: slotBase + first, Len: end - first}
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l)
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return l, fmt.Errorf("find the slots of %s that are in use: %w", f.Name(), err)
		}
	}
}

// liveSlots returns the slots that are locked by other descriptions than f's, ascending. foreign says that somebody has
// locked the bytes in another way than lockSlot does: who has which slot cannot be told then.
func liveSlots(f *os.File) (live []int, foreign bool, err error) {
	var look func(first, end int64) error // what is left is at the sides of the lock that is found
	look = func(first, end int64) error {
		if first >= end || foreign {
			return nil
		}
		l, err := lockAt(f, first, end)
		switch at := l.Start - slotBase; {
		case err != nil:
			return err
		case l.Type == unix.F_UNLCK:
			return nil
		case l.Type != unix.F_RDLCK || l.Len != 1 || at < first || at >= end:
			foreign = true
			return nil
		default:
			if err := look(first, at); err != nil {
				return err
			}
			live = append(live, int(at))
			return look(at+1, end)
		}
	}
	err = look(0, MaxSlots)
	return live, foreign, err
}
