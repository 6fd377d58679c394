package core

import (
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// Filled calls then when every block that [off, off+length) touches is written
// and not shared, and the metadata that finds them durable. The inode is locked
// meanwhile, as for the grant of a fault: a seal that then records is one of
// blocks that are filled.
//
// An *UnfilledError names the first block that is not. ENXIO when the range
// reaches beyond the block with the last byte of the file; EINVAL when it is
// empty.
func (n *Node) Filled(off, length int64, then func() error) error {
	if err := n.regular(); err != nil {
		return err
	}
	return n.Hold(func() error {
		first, end, err := n.in.inside(off, length)
		if err != nil {
			return err
		}
		if err := n.in.filled(first, end); err != nil {
			return err
		}
		if err := n.in.fs.journal.Commit(n.in.metaLSN); err != nil {
			return err
		}
		return then()
	})
}

// Hold calls then while the inode is locked: no break is under way, and the
// block map does not change.
func (n *Node) Hold(then func() error) error {
	n.in.mu.RLock()
	defer n.in.mu.RUnlock()
	return then()
}

// inside is the range of blocks that bytes of the file touch. in.mu is held.
func (in *inode) inside(off, length int64) (first, end int64, err error) {
	limit := layout.RoundUp(in.Size, layout.BlockSize)
	switch {
	case off < 0 || length <= 0:
		return 0, 0, unix.EINVAL
	case off > limit || length > limit-off:
		return 0, 0, unix.ENXIO
	}
	first, end = blocksOf(off, length)
	return first, end, nil
}

// filled returns an *UnfilledError when not every block of [first, end) is
// written and the file's own.
func (in *inode) filled(first, end int64) error {
	return in.fs.pieces(in.fs.journal.View, &in.Inode, first, end, func(p piece) error {
		what := ""
		switch {
		case p.hole():
			what = "a hole"
		case p.unwritten():
			what = "unwritten"
		case p.shared():
			what = "shared"
		default:
			return nil
		}
		return &UnfilledError{Off: p.first * layout.BlockSize, What: what}
	})
}

// fillBlocks is how much of a file a transaction of Fill makes written. It is
// zeroed while the inode is locked, which bounds how long others wait.
const fillBlocks = writeStep / layout.BlockSize

// Fill makes every block that [off, off+length) touches written and this file's
// own, durably: what a seal needs. Contents and size stay as they are. Where blocks are contiguous
// and aligned the map gets by with leaves of 2 MiB and 1 GiB.
//
// It goes in steps of 4 MiB, each atomic, between which others have their turn;
// holes of more than that get their blocks 1 GiB at a time. ENXIO when the
// range reaches beyond the block with the last byte of the file, ENOSPC, or an
// error of the Breaker: the steps before stay done.
//
// Costs: nothing for blocks that are written and nobody else's; else in each step
// the zeros and copies, one fence, and a transaction.
func (n *Node) Fill(off, length int64) error {
	if err := n.regular(); err != nil {
		return err
	}
	if n.in.fs.readOnly || n.in.frozen {
		return unix.EROFS
	}
	in := n.in
	var first, end int64
	err := n.Hold(func() (err error) {
		first, end, err = in.inside(off, length)
		return err
	})
	for err == nil && first < end {
		window := min(end, layout.RoundUp(first+1, layout.GiantBlock))
		err = in.fillWindow(first, window)
		first = window
	}
	if err != nil {
		return err
	}
	return n.commit()
}

// commit makes the inode's metadata durable, if it is only staged.
func (n *Node) commit() error {
	n.in.mu.RLock()
	lsn := n.in.metaLSN
	n.in.mu.RUnlock()
	return n.in.fs.commitTo(lsn)
}

// fillWindow makes [first, end) written, step by step.
func (in *inode) fillWindow(first, end int64) error {
	if end-first > fillBlocks {
		if err := in.fillHoles(first, end); err != nil {
			return err
		}
	}
	for first < end {
		next := min(end, layout.RoundUp(first+1, fillBlocks))
		if err := in.fillStep(first, next); err != nil {
			return err
		}
		first = next
	}
	return nil
}

// fillHoles gives the holes in [first, end) unwritten blocks, contiguous ones
// as far as there are any.
func (in *inode) fillHoles(first, end int64) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	plan, err := in.planInside(first, end)
	if err != nil {
		return err
	}
	holes := plan.holes()
	if holes == nil {
		return nil
	}
	if err := in.mayChangeAll(holes); err != nil {
		return err
	}
	f := filling{}
	if f.fresh, err = in.reserveMoves(holes, plan.goal); err != nil {
		return err
	}
	defer f.cancel(in.fs)
	return in.fillAll(&f, in.changed)
}

// fillStep makes [first, end) written.
func (in *inode) fillStep(first, end int64) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	plan, err := in.planInside(first, end)
	if err != nil {
		return err
	}
	err = in.writeOut(plan, func(u *update, want *layout.Inode) error {
		in.changed(want)
		return u.merge(want, first, end)
	})
	if err != nil {
		return err
	}
	return in.filled(first, end)
}

// planInside is plan for blocks that the file must still have.
func (in *inode) planInside(first, end int64) (*plan, error) {
	if _, limit := blocksOf(0, in.Size); end > limit {
		return nil, unix.ENXIO
	}
	return in.plan(first, end)
}
