package core

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// Run is what a fault may be answered with: consecutive file blocks that lie
// in consecutive data blocks (or are zeros).
type Run struct {
	First    int64 // file block
	Count    int64
	Block    int64 // data block of First, -1: zeros, for reading only
	Writable bool  // a store needs no further work: with durable it is durable once flushed and fenced
}

// Fault resolves an access to a block of the file. For a write it allocates the
// block when it is a hole (with up to ahead blocks in all, zeroed) and marks
// it written; for a read of a hole it offers zeros. grant is called with the
// largest run around the block inside its aligned window of window blocks,
// while the inode is locked, so that no break can come in between.
//
// With durable, all metadata that finds the run is durable before it is granted.
// That goes for reads, too: who flushes what he has stored, and has lost the
// block since, faults as for a read; and who has a run that a crash takes away
// from the file may outlive that crash.
//
// ENXIO beyond the end of the file, ENOSPC, or what grant returns.
//
// Costs: nothing on the medium for a block that is written; else the zeros of
// the new blocks, one fence, and a transaction; with durable a commit of what
// is staged.
func (n *Node) Fault(block int64, write, durable bool, window, ahead int64, grant func(Run) error) error {
	if err := n.regular(); err != nil {
		return err
	}
	in := n.in
	if !write {
		in.mu.RLock()
		defer in.mu.RUnlock()
		if err := in.settleFor(durable); err != nil {
			return err
		}
		return in.answer(block, window, grant)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	_, end := blocksOf(0, in.Size)
	if block < 0 || block >= end {
		return unix.ENXIO
	}
	if in.fs.readOnly {
		return unix.EROFS
	}
	changed, err := in.materialise(block, min(end, block+max(ahead, 1)))
	if err != nil {
		return err
	}
	if !changed { // a transaction has set the times, too
		in.touch()
	}
	if err := in.settleFor(durable); err != nil {
		return err
	}
	return in.answer(block, window, grant)
}

// settleFor makes the inode's metadata durable when it must be before something
// is granted. in.mu is held.
func (in *inode) settleFor(durable bool) error {
	if durable {
		return in.fs.journal.Commit(in.metaLSN)
	}
	return nil
}

// answer grants what can be granted around a block as it is. in.mu is held.
func (in *inode) answer(block, window int64, grant func(Run) error) error {
	_, end := blocksOf(0, in.Size)
	if block < 0 || block >= end {
		return unix.ENXIO
	}
	run, err := in.runAround(block, window, end)
	if err != nil {
		return err
	}
	return grant(run)
}

// materialise makes [first, end) written, as far as its first piece goes, but
// where nobody forbids it. changed is false when they were written before.
func (in *inode) materialise(first, end int64) (changed bool, err error) {
	q, err := in.fs.find(in.fs.journal.View, &in.Inode, first, end)
	if err != nil || !q.zeros() {
		return false, err
	}
	if q = q.clip(first, end); q.count > 1 && in.mayChange(q.first, q.end()) != nil {
		q = q.clip(first, first+1)
	}
	for {
		plan, err := in.plan(q.first, q.end())
		if err == nil {
			err = in.writeZeros(plan, func(_ *update, want *layout.Inode) error {
				in.modified(want)
				return nil
			})
		}
		if q.count == 1 || !errors.Is(err, unix.ENOSPC) {
			return true, err
		}
		q = q.clip(first, first+1)
	}
}

// writeZeros makes the pieces of a plan that read as zeros blocks of zeros,
// durable before the transaction that makes them reachable.
func (in *inode) writeZeros(p plan, finish func(u *update, want *layout.Inode) error) error {
	if p.zeros == nil {
		return nil
	}
	if err := in.mayChangeAll(p.zeros); err != nil {
		return err
	}
	if err := in.breakZeros(p.zeros); err != nil {
		return err
	}
	if err := in.settleCut(); err != nil {
		return err
	}
	fs := in.fs
	runs, err := fs.reserve(p.holes, p.goal)
	if err != nil {
		return err
	}
	for _, t := range p.targets(runs) {
		if t.unwritten() {
			fs.data.Zero(t.block*layout.BlockSize, t.count*layout.BlockSize)
		}
	}
	if err := fs.fenceData(); err != nil {
		fs.cancel(runs)
		return err
	}
	return in.commitPlan(p, runs, finish)
}

// runAround is the largest run around a block that can be granted as it is. It
// looks at no more entries than the run has, and one on each side.
func (in *inode) runAround(block, window, end int64) (Run, error) {
	v := in.fs.journal.View
	lo := block / window * window
	hi := min(lo+window, end)
	run, err := in.fs.find(v, &in.Inode, block, hi)
	run = run.clip(block, hi).read()
	for err == nil && run.end() < hi {
		// One entry first: only what joins is worth a look at the rest.
		q, one := in.fs.find(v, &in.Inode, run.end(), run.end())
		if err = one; err != nil || !run.joins(q.clip(run.end(), hi).read()) {
			break
		}
		q, err = in.fs.find(v, &in.Inode, run.end(), hi)
		run.count += q.clip(run.end(), hi).count
	}
	for err == nil && run.first > lo {
		q, one := in.fs.findBack(v, &in.Inode, run.first-1, run.first)
		if err = one; err != nil || !q.clip(lo, run.first).read().joins(run) {
			break
		}
		q, err = in.fs.findBack(v, &in.Inode, run.first-1, lo)
		q = q.clip(lo, run.first).read()
		run = piece{q.first, q.count + run.count, q.block, q.flags}
	}
	if err != nil {
		return Run{}, err
	}
	return Run{run.first, run.count, run.block, !run.hole() && run.flags&layout.EntryShared == 0}, nil
}

// read is the piece as a reader sees it: what reads as zeros is a hole,
// whether it is allocated or not.
func (p piece) read() piece {
	if p.zeros() {
		return piece{p.first, p.count, -1, 0}
	}
	return p
}
