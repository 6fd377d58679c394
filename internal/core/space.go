package core

import (
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// truncate sets the size, and what apply changes besides. Shrinking takes
// back what was granted beyond the new end; the blocks are freed in the same
// transaction when they are few, and in further ones when they are many (after
// a crash mount goes on with that).
func (in *inode) truncate(size int64, apply func(*layout.Inode)) error {
	if size >= in.Size {
		return in.extend(size, apply)
	}
	fs := in.fs
	_, keep := blocksOf(0, size)
	_, end := blocksOf(0, in.Size)
	if err := fs.breaker.Break(in.ino, keep, end-keep, TakeAll); err != nil {
		return err
	}
	u, err := fs.begin()
	if err != nil {
		return err
	}
	defer u.Abort()
	want := u.edit(in)
	apply(want)
	want.Size = size
	want.Mtime = fs.now()
	want.Ctime = want.Mtime
	at, err := u.freeStep(want, keep, mapEnd)
	if err != nil {
		return err
	}
	if at < mapEnd {
		if err := u.setOrphan(in); err != nil {
			return err
		}
	}
	if err := u.commit(); err != nil {
		return err
	}
	if at < mapEnd {
		if err := fs.freeTail(in, at); err != nil {
			return err
		}
	}
	return in.clearTail()
}

// clearTail zeroes what a shrunken file's last block still holds behind the
// end, for those who have it mapped. It need not be durable: zeroTail does it
// again before the file grows.
func (in *inode) clearTail() error {
	size := in.Size
	if err := in.zeroTail(layout.RoundUp(size, layout.BlockSize)); err != nil {
		return err
	}
	return in.fs.data.Fence()
}

func (in *inode) extend(size int64, apply func(*layout.Inode)) error {
	if size > in.Size {
		if err := in.zeroTail(size); err != nil {
			return err
		}
		if err := in.fs.data.Fence(); err != nil {
			return err
		}
	}
	return in.setAttr(func(want *layout.Inode) {
		apply(want)
		want.Size = size
		want.Mtime = in.fs.now()
	})
}

// freeTail frees the blocks from first on, step by step, and then clears the
// orphan bit of a file that stays. in.mu is held.
func (fs *FS) freeTail(in *inode, first int64) error {
	for done := false; !done; {
		err := fs.transact(func(u *update) error {
			want := u.edit(in)
			next, err := u.freeStep(want, first, mapEnd)
			if err != nil {
				return err
			}
			first, done = next, next >= mapEnd
			if done && in.orphan && want.Nlink > 0 {
				return u.clearOrphan(in)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// transact runs fn in a transaction and commits it.
func (fs *FS) transact(fn func(*update) error) error {
	u, err := fs.begin()
	if err != nil {
		return err
	}
	defer u.Abort()
	if err := fn(u); err != nil {
		return err
	}
	return u.commit()
}

// Modes of Fallocate, as in fallocate(2).
const (
	KeepSize  = unix.FALLOC_FL_KEEP_SIZE
	PunchHole = unix.FALLOC_FL_PUNCH_HOLE
	ZeroRange = unix.FALLOC_FL_ZERO_RANGE
)

// Fallocate allocates [off, off+length) unwritten (mode 0 or KeepSize), makes
// it a hole (PunchHole|KeepSize) or zeros (ZeroRange). ENOSPC: nothing was
// allocated. Very long ranges go in several transactions, each atomic.
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
	switch mode {
	case 0, KeepSize:
		return in.allocate(off, length, mode == 0)
	case PunchHole | KeepSize:
		return in.punch(off, length)
	case ZeroRange, ZeroRange | KeepSize:
		return in.zeroRange(off, length, mode == ZeroRange)
	}
	return unix.EOPNOTSUPP
}

// allocate gives every hole in the range unwritten blocks.
func (in *inode) allocate(off, length int64, grow bool) error {
	fs := in.fs
	first, end := blocksOf(off, length)
	plan, err := in.plan(first, end)
	if err != nil {
		return err
	}
	runs, err := fs.reserve(plan.holes, plan.goal)
	if err != nil {
		return err
	}
	for _, h := range plan.holes {
		for h.count > 0 {
			run := alloc.Run{First: runs[0].First, Count: min(h.count, runs[0].Count, stepRun(h.first, runs[0].First))}
			if err := fs.allocateStep(in, h.first, run); err != nil {
				runs[0] = alloc.Run{First: run.End(), Count: runs[0].End() - run.End()}
				if runs[0].Count == 0 {
					runs = runs[1:]
				}
				fs.cancel(runs)
				return err
			}
			h.first, h.count = h.first+run.Count, h.count-run.Count
			if runs[0].First, runs[0].Count = run.End(), runs[0].Count-run.Count; runs[0].Count == 0 {
				runs = runs[1:]
			}
		}
	}
	if grow && off+length > in.Size {
		return in.extend(off+length, func(*layout.Inode) {})
	}
	return in.setAttr(func(*layout.Inode) {})
}

// stepRun bounds how much of a run one transaction maps: a few nodes when the
// leaves are 4 KiB, far more when they can be 2 MiB.
func stepRun(first, block int64) int64 {
	if first%layout.HugeBlocks == block%layout.HugeBlocks {
		return 2 * layout.GiantBlock
	}
	return 16 * layout.HugeBlocks
}

func (fs *FS) allocateStep(in *inode, first int64, run alloc.Run) error {
	u, err := fs.begin()
	if err != nil {
		fs.cancel([]alloc.Run{run})
		return err
	}
	defer u.Abort()
	if err := fs.blocks.Take(u.Tx, run); err != nil {
		return err
	}
	if err := u.mapRun(u.edit(in), first, run, layout.EntryUnwritten); err != nil {
		return err
	}
	return u.commit()
}

// edges stores zeros in the parts of the range's first and last block that
// the range covers only in part, fenced, and returns the whole blocks between.
func (in *inode) edges(off, length int64) (first, end int64, err error) {
	fs := in.fs
	first = layout.RoundUp(off, layout.BlockSize) / layout.BlockSize
	end = (off + length) / layout.BlockSize
	parts := [][2]int64{{off, min(first*layout.BlockSize, off+length)}, {max(end*layout.BlockSize, off), off + length}}
	if first > end {
		parts, end = parts[:1], first
		parts[0][1] = off + length
	}
	for _, part := range parts {
		lo, hi := part[0], part[1]
		if lo >= hi {
			continue
		}
		q, err := fs.find(fs.journal.View, &in.Inode, lo/layout.BlockSize, 0)
		if err != nil {
			return 0, 0, err
		}
		if !q.zeros() {
			fs.data.Zero(q.block*layout.BlockSize+lo-q.first*layout.BlockSize, hi-lo)
		}
	}
	return first, end, fs.data.Fence()
}

func (in *inode) punch(off, length int64) error {
	first, end, err := in.edges(off, length)
	if err != nil {
		return err
	}
	in.touch()
	if first >= end {
		return nil
	}
	if err := in.fs.breaker.Break(in.ino, first, end-first, TakeAll); err != nil {
		return err
	}
	for first < end {
		err := in.fs.transact(func(u *update) error {
			want := u.edit(in)
			want.Mtime, want.Ctime = in.Mtime, in.Ctime
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

// zeroRange makes whole blocks unwritten, and allocates holes.
func (in *inode) zeroRange(off, length int64, grow bool) error {
	first, end, err := in.edges(off, length)
	if err != nil {
		return err
	}
	in.touch()
	if first < end {
		if err := in.fs.breaker.Break(in.ino, first, end-first, TakeAll); err != nil {
			return err
		}
	}
	for first < end {
		step := min(end, first+stepRun(first, first+1))
		err := in.fs.transact(func(u *update) error {
			return u.mark(u.edit(in), first, step, layout.EntryUnwritten)
		})
		if err != nil {
			return err
		}
		first = step
	}
	return in.allocate(off, length, grow)
}

// Relocate moves the blocks of [off, off+length) to newly allocated ones,
// contiguous first, 512 at a time, each step atomic. Holes stay holes. What
// was granted in the range is taken back; the next access faults and finds
// the new place. ENOSPC: what could not be moved stays where it is.
func (n *Node) Relocate(off, length int64) error {
	if err := n.writable(off, length); err != nil {
		return err
	}
	in := n.in
	in.mu.Lock()
	defer in.mu.Unlock()
	first, end := blocksOf(off, min(length, max(0, layout.RoundUp(in.Size, layout.BlockSize)-off)))
	if first >= end {
		return nil
	}
	if err := in.fs.breaker.Break(in.ino, first, end-first, TakeAll); err != nil {
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
		if !p.hole() {
			old = append(old, p)
		}
		return nil
	})
	if err != nil || len(old) == 0 {
		return err
	}
	runs, err := fs.reserve(old, -1)
	if err != nil {
		return err
	}
	moved := moves(old, runs)
	for _, m := range moved {
		if !m.from.unwritten() {
			fs.data.Copy(m.to.First*layout.BlockSize, m.from.block*layout.BlockSize, m.from.count*layout.BlockSize)
		}
	}
	if err := fs.data.Fence(); err != nil {
		fs.cancel(runs)
		return err
	}
	u, err := fs.begin()
	if err != nil {
		fs.cancel(runs)
		return err
	}
	defer u.Abort()
	want := u.edit(in)
	if err := fs.blocks.Take(u.Tx, runs...); err != nil {
		return err
	}
	for _, m := range moved {
		if err := u.freeBlocks(want, m.from.first, m.from.end()); err != nil {
			return err
		}
		if err := u.mapRun(want, m.from.first, m.to, m.from.flags); err != nil {
			return err
		}
	}
	return u.commit()
}

// move is a piece and the run it goes to, of the same length.
type move struct {
	from piece
	to   alloc.Run
}

func moves(old []piece, runs []alloc.Run) []move {
	var out []move
	i, used := 0, int64(0)
	for _, p := range old {
		for p.count > 0 {
			n := min(p.count, runs[i].Count-used)
			out = append(out, move{p.clip(p.first, p.first+n), alloc.Run{First: runs[i].First + used, Count: n}})
			p = p.clip(p.first+n, p.end())
			if used += n; used == runs[i].Count {
				i, used = i+1, 0
			}
		}
	}
	return out
}

// Extent is a run of a file as it lies on the medium.
type Extent struct {
	Off, Len          int64 // bytes in the file, multiples of 4096
	Block             int64 // first block of the data area, -1: a hole
	Unwritten, Shared bool
}

// Extents returns the extents of [off, off+length), holes included.
func (n *Node) Extents(off, length int64) ([]Extent, error) {
	if err := n.regular(); err != nil {
		return nil, err
	}
	if off < 0 || length < 0 || off > layout.MaxFileSize {
		return nil, unix.EINVAL
	}
	in := n.in
	in.mu.RLock()
	defer in.mu.RUnlock()
	var out []Extent
	first, end := blocksOf(off, min(length, layout.MaxFileSize-off))
	_, last := blocksOf(0, in.Size)
	err := in.fs.pieces(in.fs.journal.View, &in.Inode, first, min(end, last), func(p piece) error {
		out = append(out, Extent{
			Off: p.first * layout.BlockSize, Len: p.count * layout.BlockSize, Block: p.block,
			Unwritten: p.unwritten(), Shared: p.flags&layout.EntryShared != 0,
		})
		return nil
	})
	return out, err
}

// SeekData returns the first offset from off on where data is, SeekHole where
// a hole (or the end) is. ENXIO beyond the end of the file, or without data.
func (n *Node) SeekData(off int64) (int64, error) { return n.seek(off, false) }
func (n *Node) SeekHole(off int64) (int64, error) { return n.seek(off, true) }

func (n *Node) seek(off int64, hole bool) (int64, error) {
	if err := n.regular(); err != nil {
		return 0, err
	}
	in := n.in
	in.mu.RLock()
	defer in.mu.RUnlock()
	if off < 0 || off >= in.Size {
		return 0, unix.ENXIO
	}
	_, end := blocksOf(0, in.Size)
	for at := off / layout.BlockSize; at < end; {
		p, err := in.fs.find(in.fs.journal.View, &in.Inode, at, end)
		if err != nil {
			return 0, err
		}
		if p.zeros() == hole {
			return max(off, p.first*layout.BlockSize), nil
		}
		at = p.end()
	}
	if hole {
		return in.Size, nil
	}
	return 0, unix.ENXIO
}
