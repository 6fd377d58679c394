package core

import (
	"errors"
	"slices"

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
	Made     bool  // all of it was allocated or copied now, because stores to it are expected
}

// Fault resolves an access to a block of the file. For a write it allocates the
// block when it is a hole (with up to ahead blocks in all, zeroed) and marks
// it written, and copies it (and as many) when other files have it, too; for a
// read of a hole it offers zeros. grant is called with a run, while the inode is
// locked, so that no break can come in between: what was allocated or copied now, as
// far as it is contiguous, or else the largest run around the block inside its aligned
// window of window blocks. What lies around new blocks is left out because whoever
// stores there has most of it already: to find it again takes longer than the rest of
// the fault, and to map it again costs the client the page tables that it has. For a
// block alone the journal is locked, too: grant must not use the file system.
//
// With durable, all metadata that finds the run is durable before it is granted.
// That goes for reads, too: who flushes what he has stored, and has lost the
// block since, faults as for a read; and who has a run that a crash takes away
// from the file may outlive that crash.
//
// ENXIO beyond the end of the file, ENOSPC, a *MediaError for a block that is known
// to be bad, or what grant returns.
//
// Costs: nothing on the medium for a block that is written; else the zeros of
// the new blocks or the copies of the old, one fence, and a transaction; with
// durable a commit of what is staged.
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
	if in.fs.readOnly || in.frozen {
		return unix.EROFS
	}
	made, granted, err := in.materialise(block, min(end, block+max(ahead, 1)), grant)
	if err != nil || granted {
		return err
	}
	if made.Count == 0 { // a transaction has set the times, too
		in.touch()
	}
	if err := in.settleFor(durable); err != nil {
		return err
	}
	if made.Count > 0 && made.First == block {
		return grant(made)
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

// materialise makes [first, end) written blocks of this file alone, as far as its
// first piece goes, but where nobody forbids it. It returns the first run that it has
// made so, Count 0 when they were that before. One block alone is granted as soon as its
// record is durable, if the transaction does not wait for others: who stores there need not
// wait for what is left to do.
func (in *inode) materialise(first, end int64, grant func(Run) error) (made Run, granted bool, err error) {
	q, err := in.fs.find(in.fs.journal.View, &in.Inode, first, end)
	if err != nil || !q.zeros() && !q.shared() {
		return Run{}, false, err
	}
	if q = q.clip(first, end); q.count > 1 && in.mayChange(q.first, q.end()) != nil {
		q = q.clip(first, first+1)
	}
	if q.count > 1 {
		if made, _, err = in.materialisePiece(q, nil); !errors.Is(err, unix.ENOSPC) {
			return made, false, err
		}
		q = q.clip(first, first+1)
	}
	return in.materialisePiece(q, grant)
}

// materialisePiece makes all of a piece written blocks of this file alone. grant: nil, or
// see materialise.
func (in *inode) materialisePiece(q piece, grant func(Run) error) (made Run, granted bool, err error) {
	plan, err := in.planPiece(q)
	if err != nil {
		return Run{}, false, err
	}
	defer plan.release()
	plan.grant = grant
	err = in.writeOut(plan, func(u *update, want *layout.Inode) error {
		in.modified(want)
		if grant != nil && !in.fs.stage { // so that it is called before writeOut returns, or never
			u.OnDurable(plan.durable)
		}
		return nil
	})
	if err == nil {
		err = plan.refused
	}
	return plan.made(), plan.granted, err
}

// writeOut makes the pieces of a plan written blocks of this file alone, with the
// contents that they have: zeros, or copies of what other files have, too. They
// are durable before the transaction that makes them reachable.
func (in *inode) writeOut(p *plan, finish func(u *update, want *layout.Inode) error) error {
	if err := in.claim(p.sole); err != nil || p.inPlace() {
		return err
	}
	for q := range p.changes() {
		if err := in.mayChange(q.first, q.end()); err != nil {
			return err
		}
	}
	if err := in.breakPlan(p); err != nil {
		return err
	}
	if err := in.settleCut(); err != nil {
		return err
	}
	fs := in.fs
	if err := p.reserve(fs); err != nil {
		return err
	}
	for m := range p.targets() {
		if err := in.fillMove(m, func() { fs.carry(m, 0, m.from.count*layout.BlockSize) }); err != nil {
			fs.cancel(p.runs)
			return err
		}
	}
	if err := fs.fenceData(); err != nil {
		fs.cancel(p.runs)
		return err
	}
	return in.commitPlan(p, finish)
}

// own makes those of [first, end) that other files have, too, copies for this
// file alone, and leaves the others as they are.
func (in *inode) own(first, end int64) error {
	p, err := in.plan(first, end)
	if err != nil {
		return err
	}
	defer p.release()
	p.unwritten = p.unwritten[:0]
	p.fresh = slices.DeleteFunc(p.fresh, piece.hole)
	return in.writeOut(p, func(_ *update, want *layout.Inode) error {
		in.changed(want)
		return nil
	})
}

// ownPart is own for the blocks of bytes lo to hi, of which something is going to
// be stored in place.
func (in *inode) ownPart(lo, hi int64) error {
	if lo >= hi {
		return nil
	}
	return in.own(blocksOf(lo, hi-lo))
}

// runFrom is the largest run from a block up to hi that can be granted as it is. It
// looks at no more entries than the run has, and one more.
func (in *inode) runFrom(block, hi int64) (piece, error) {
	v := in.fs.journal.View
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
	return run, err
}

// runAround is runFrom for the part of an aligned window on both sides of the block.
func (in *inode) runAround(block, window, end int64) (Run, error) {
	v := in.fs.journal.View
	lo := block / window * window
	run, err := in.runFrom(block, min(lo+window, end))
	for err == nil && run.first > lo {
		q, one := in.fs.findBack(v, &in.Inode, run.first-1, run.first)
		if err = one; err != nil || !q.clip(lo, run.first).read().joins(run) {
			break
		}
		q, err = in.fs.findBack(v, &in.Inode, run.first-1, lo)
		q = q.clip(lo, run.first).read()
		q.count += run.count
		run = q
	}
	if err == nil {
		run, err = in.spared(run, block)
	}
	if err != nil {
		return Run{}, err
	}
	return run.granted(), nil
}

// granted is the piece as it can be granted.
func (p piece) granted() Run {
	return Run{First: p.first, Count: p.count, Block: p.block, Writable: !p.hole() && !p.shared()}
}

// read is the piece as a reader sees it: what reads as zeros is a hole,
// whether it is allocated or not.
func (p piece) read() piece {
	if p.zeros() {
		return hole(p.first, p.count)
	}
	return p
}
