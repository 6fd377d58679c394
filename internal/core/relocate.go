package core

import (
	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// Relocate moves the blocks of [off, off+length) to newly allocated ones,
// contiguous first, 512 at a time, each step atomic. Holes stay holes. What
// was granted in the range is taken back; the next access faults and finds
// the new place. What other files have, too, stays where it is; ENOSPC: so does
// what could not be moved. A *MediaError: so does what comes from the bad block on.
func (n *Node) Relocate(off, length int64) error {
	if err := n.writable(off, length); err != nil {
		return err
	}
	in := n.in
	in.mu.Lock()
	defer in.mu.Unlock()
	if length = min(length, layout.RoundUp(in.Size, layout.BlockSize)-off); length <= 0 {
		return nil
	}
	first, end := blocksOf(off, length)
	if err := in.mayChange(first, end); err != nil {
		return err
	}
	if err := in.takeAll(first, end); err != nil {
		return err
	}
	for ; first < end; first = (first/layout.HugeBlocks + 1) * layout.HugeBlocks {
		if err := in.relocateStep(first, min(end, (first/layout.HugeBlocks+1)*layout.HugeBlocks)); err != nil {
			return err
		}
	}
	return nil
}

func (in *inode) relocateStep(first, end int64) error {
	fs := in.fs
	var old []piece
	err := fs.pieces(fs.journal.View, &in.Inode, first, end, func(p piece) error {
		if !p.hole() && !p.shared() {
			old = append(old, p)
		}
		return nil
	})
	if err != nil || len(old) == 0 {
		return err
	}
	runs, err := fs.reserve(nil, old, -1)
	if err != nil {
		return err
	}
	return in.moveTo(old, runs, func(*update, *layout.Inode) error { return nil })
}

// moveTo moves pieces of the file, which clients cannot access, to blocks that were
// reserved, in one transaction, which finish completes. The blocks are taken, or
// free again when it fails.
func (in *inode) moveTo(old []piece, runs []alloc.Run, finish func(*update, *layout.Inode) error) error {
	fs := in.fs
	moved := moves(nil, old, runs)
	for _, m := range moved {
		if m.from.unwritten() {
			continue
		}
		if err := in.fillMove(m, func() { fs.carry(m, 0, m.from.count*layout.BlockSize) }); err != nil {
			fs.cancel(runs)
			return err
		}
	}
	if err := fs.fenceData(); err != nil {
		fs.cancel(runs)
		return err
	}
	u, err := fs.begin()
	if err != nil {
		fs.cancel(runs)
		return err
	}
	defer u.Abort()
	u.quiet = true
	want := u.edit(in)
	if err := fs.blocks.Take(&u.Tx, runs...); err != nil {
		return err
	}
	for _, m := range moved {
		if err := u.move(want, m, m.from.flags); err != nil {
			return err
		}
	}
	if err := finish(u, want); err != nil {
		return err
	}
	return u.commit()
}
