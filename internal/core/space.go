package core

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// Modes of Fallocate, as in fallocate(2).
const (
	KeepSize      = unix.FALLOC_FL_KEEP_SIZE
	PunchHole     = unix.FALLOC_FL_PUNCH_HOLE
	ZeroRange     = unix.FALLOC_FL_ZERO_RANGE
	CollapseRange = unix.FALLOC_FL_COLLAPSE_RANGE
	InsertRange   = unix.FALLOC_FL_INSERT_RANGE
)

// Fallocate allocates [off, off+length) unwritten (mode 0 or KeepSize), makes
// it a hole (PunchHole|KeepSize) or zeros (ZeroRange), cuts it out of the file
// (CollapseRange) or puts a hole of that length before off (InsertRange; see
// inode.shift). ENOSPC: nothing was allocated. Ranges of many thousand blocks go
// in several transactions, each atomic; parts of blocks are zeroed in place.
func (n *Node) Fallocate(mode uint32, off, length int64) error {
	if err := n.writable(off, length); err != nil {
		return err
	}
	if length == 0 {
		return unix.EINVAL
	}
	in := n.in
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.finishTruncate(); err != nil {
		return err
	}
	switch mode {
	case 0, KeepSize:
		return in.allocate(off, length, mode == 0, false)
	case PunchHole | KeepSize:
		return in.punch(off, length)
	case ZeroRange, ZeroRange | KeepSize:
		return in.allocate(off, length, mode == ZeroRange, true)
	case CollapseRange, InsertRange:
		return in.shift(off, length, mode == InsertRange)
	}
	return unix.EOPNOTSUPP
}

// inner is the range of whole blocks in [off, off+length); empty when first
// is not below end.
func inner(off, length int64) (first, end int64) {
	return layout.RoundUp(off, layout.BlockSize) / layout.BlockSize, (off + length) / layout.BlockSize
}

// allocate gives every hole in the range unwritten blocks. With zero, blocks
// that are written become unwritten, and parts of blocks are zeroed in place.
func (in *inode) allocate(off, length int64, grow, zero bool) error {
	plan, err := in.plan(blocksOf(off, length))
	if err != nil {
		return err
	}
	if err := in.mayAllocate(plan, off, length, grow, zero); err != nil {
		return err
	}
	if grow {
		if err := in.growTail(off + length); err != nil {
			return err
		}
	}
	fresh := plan.holes()
	f := filling{}
	if zero {
		if err := in.ownEdges(off, length); err != nil {
			return err
		}
		if lo, hi := inner(off, length); lo < hi {
			if err := in.takeAll(lo, hi); err != nil {
				return err
			}
		}
		if plan, err = in.plan(blocksOf(off, length)); err != nil {
			return err
		}
		fresh, f.zero = plan.fresh, within(plan.written, off, length)
	}
	if f.fresh, err = in.reserveMoves(fresh, plan.goal); err != nil {
		return err
	}
	defer f.cancel(in.fs)
	if zero {
		if err := in.zeroEdges(off, length); err != nil {
			return err
		}
	}
	return in.fillAll(&f, func(want *layout.Inode) {
		if grow {
			want.Size = max(want.Size, off+length)
		}
		in.modified(want)
	})
}

// mayAllocate refuses what allocate would change where it must not.
func (in *inode) mayAllocate(p *plan, off, length int64, grow, zero bool) error {
	if grow {
		if err := in.mayResize(max(in.Size, off+length)); err != nil {
			return err
		}
	}
	if in.static() && off+length > layout.RoundUp(in.Size, layout.BlockSize) {
		return ErrStatic
	}
	if lo, hi := inner(off, length); zero && lo < hi {
		if err := in.mayChange(lo, hi); err != nil {
			return err
		}
	}
	return in.mayChangeAll(p.holes())
}

// reserveMoves takes blocks for pieces.
func (in *inode) reserveMoves(pieces []piece, goal int64) ([]move, error) {
	runs, err := in.fs.reserve(nil, pieces, goal)
	if err != nil {
		return nil, err
	}
	return moves(nil, pieces, runs), nil
}

// within is the parts of pieces that are whole blocks of the byte range.
func within(pieces []piece, off, length int64) (out []piece) {
	first, end := inner(off, length)
	for _, p := range pieces {
		if p = p.clip(first, end); p.count > 0 {
			out = append(out, p)
		}
	}
	return out
}

// filling is what Fallocate does to a range: what is left of it to do.
type filling struct {
	fresh []move  // holes, and what other files have, too, with the blocks that they get
	zero  []piece // blocks that become unwritten
}

// cancel gives the blocks back that no step has taken.
func (f *filling) cancel(fs *FS) {
	for _, m := range f.fresh {
		fs.cancel([]alloc.Run{m.to})
	}
}

// fillAll does it all, step by step; the last step also does finish.
func (in *inode) fillAll(f *filling, finish func(*layout.Inode)) error {
	for {
		step, last := f.cut()
		err := in.fill(&step, finish, last)
		f.fresh = append(f.fresh, step.fresh...) // those that a failed step did not take
		if err != nil || last {
			return err
		}
	}
}

// stepLeaves bounds the leaves that one transaction writes, alignedBlocks how
// many blocks go for one where leaves can be of 2 MiB: so a record takes at
// most 64 KiB for the nodes and as much for the bitmap.
const (
	stepLeaves    = 16 * layout.Fanout
	alignedBlocks = 64
)

// cut takes off what one transaction does; last when nothing is left then.
func (f *filling) cut() (step filling, last bool) {
	leaves := int64(stepLeaves)
	for leaves > 0 && len(f.fresh) > 0 {
		m := &f.fresh[0]
		per := int64(1)
		n := min(m.from.count, leaves)
		if m.from.first%layout.HugeBlocks == m.to.First%layout.HugeBlocks {
			per = alignedBlocks
			if n = min(m.from.count, leaves*per); n < m.from.count {
				n -= (m.from.first + n) % layout.HugeBlocks
			}
		}
		if n <= 0 {
			break
		}
		at := m.from.first + n
		step.fresh = append(step.fresh, move{m.from.clip(m.from.first, at), alloc.Run{First: m.to.First, Count: n}})
		m.from = m.from.clip(at, m.from.end())
		m.to = alloc.Run{First: m.to.First + n, Count: m.to.Count - n}
		if leaves -= (n + per - 1) / per; m.to.Count == 0 {
			f.fresh = f.fresh[1:]
		}
	}
	for leaves > 0 && len(f.zero) > 0 {
		p := f.zero[0]
		n := min(p.count, leaves)
		step.zero = append(step.zero, p.clip(p.first, p.first+n))
		if f.zero[0] = p.clip(p.first+n, p.end()); f.zero[0].count == 0 {
			f.zero = f.zero[1:]
		}
		leaves -= n
	}
	return step, len(f.fresh)+len(f.zero) == 0
}

// fill does one step in a transaction; the last one also does finish. On
// return step.fresh is what was not taken from the allocator.
func (in *inode) fill(step *filling, finish func(*layout.Inode), last bool) error {
	return in.fs.transact(func(u *update) error {
		want := u.edit(in)
		for len(step.fresh) > 0 {
			m := step.fresh[0]
			step.fresh = step.fresh[1:]
			if err := u.fs.blocks.Take(&u.Tx, m.to); err != nil {
				return err
			}
			if err := u.move(want, m, layout.EntryUnwritten); err != nil {
				return err
			}
			u.cuts = u.cuts || !m.from.hole()
		}
		u.cuts = u.cuts || len(step.zero) > 0
		for _, p := range step.zero {
			if err := u.mark(want, p.first, p.end(), layout.EntryUnwritten); err != nil {
				return err
			}
		}
		if last {
			finish(want)
		}
		return nil
	})
}

// edges is the parts of blocks at the ends of [off, off+length), as ranges of
// bytes, which may be empty.
func edges(off, length int64) [][2]int64 {
	first, end := inner(off, length)
	limit := off + length
	if first > end { // the range lies inside one block
		return [][2]int64{{off, limit}}
	}
	return [][2]int64{{off, min(first*layout.BlockSize, limit)}, {max(end*layout.BlockSize, off), limit}}
}

// ownEdges makes the blocks of zeroEdges this file's own.
func (in *inode) ownEdges(off, length int64) error {
	for _, part := range edges(off, length) {
		if err := in.ownPart(part[0], part[1]); err != nil {
			return err
		}
	}
	return nil
}

// zeroEdges stores zeros in the parts of the range's first and last block
// that the range covers only in part, durably.
func (in *inode) zeroEdges(off, length int64) error {
	fs := in.fs
	stored := false
	for _, part := range edges(off, length) {
		lo, hi := part[0], part[1]
		if lo >= hi {
			continue
		}
		q, err := fs.find(fs.journal.View, &in.Inode, lo/layout.BlockSize, lo/layout.BlockSize+1)
		if err != nil {
			return err
		}
		if !q.zeros() {
			at := q.block*layout.BlockSize + lo - q.first*layout.BlockSize
			if err := in.access(func() { fs.data.Zero(at, hi-lo) }, q); err != nil {
				return err
			}
			stored = true
		}
	}
	if !stored {
		return nil
	}
	in.touch()
	return fs.fenceData()
}

// takeAll takes the blocks [first, end) back from clients. Where contents are
// made durable by a system call on what is mapped, they cannot do that any more
// for what they have stored there: should the operation fail and the blocks
// stay, Commit does it.
func (in *inode) takeAll(first, end int64) error {
	fs := in.fs
	err := fs.breaker.Break(in.ino, TakeAll, alloc.Run{First: first, Count: end - first})
	if !fs.deferData {
		return err
	}
	return errors.Join(err, in.flush(first, end), fs.fenceData())
}

func (in *inode) punch(off, length int64) error {
	first, end := inner(off, length)
	if first < end {
		if err := in.mayChange(first, end); err != nil {
			return err
		}
	}
	if err := in.ownEdges(off, length); err != nil {
		return err
	}
	if first < end {
		if err := in.takeAll(first, end); err != nil {
			return err
		}
	}
	in.touch() // also where nothing is there
	if err := in.zeroEdges(off, length); err != nil {
		return err
	}
	for first < end {
		err := in.fs.transact(func(u *update) error {
			want := u.edit(in)
			in.modified(want)
			next, err := u.freeStep(want, first, end)
			first = next
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
