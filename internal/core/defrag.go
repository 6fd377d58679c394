package core

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// Fragmentation says how a file, or a part of it, lies on the medium. Its JSON form
// is stable.
type Fragmentation struct {
	Blocks   int64 `json:"blocks"`    // that are allocated
	Extents  int64 `json:"extents"`   // runs of them that are contiguous, in the file and on the medium
	Leaves4K int64 `json:"leaves_4k"` // entries of the block map that stand for 4 KiB
	Leaves2M int64 `json:"leaves_2m"` // for 2 MiB
	Leaves1G int64 `json:"leaves_1g"` // for 1 GiB
}

// Defragmentation is what Defragment has found and done. What it leaves where it is
// would lie better elsewhere. Its JSON form is stable.
type Defragmentation struct {
	Before  Fragmentation `json:"before"`
	Moved   int64         `json:"moved_blocks"`
	Merged  int64         `json:"merged_leaves"` // of 2 MiB, that stand for what took 512 entries of 4 KiB
	Shared  int64         `json:"left_shared"`   // blocks that are marked shared
	Sealed  int64         `json:"left_sealed"`   // blocks that are sealed or pinned
	Static  int64         `json:"left_static"`   // blocks of a static file
	NoSpace int64         `json:"left_no_space"` // blocks for which there is no better place
	Bad     int64         `json:"left_bad"`      // blocks that would have moved together with a bad one
}

// Add adds what a further step has found and done.
func (d *Defragmentation) Add(s Defragmentation) {
	for _, n := range []struct{ to, by *int64 }{
		{&d.Before.Blocks, &s.Before.Blocks}, {&d.Before.Extents, &s.Before.Extents},
		{&d.Before.Leaves4K, &s.Before.Leaves4K}, {&d.Before.Leaves2M, &s.Before.Leaves2M}, {&d.Before.Leaves1G, &s.Before.Leaves1G},
		{&d.Moved, &s.Moved}, {&d.Merged, &s.Merged},
		{&d.Shared, &s.Shared}, {&d.Sealed, &s.Sealed}, {&d.Static, &s.Static}, {&d.NoSpace, &s.NoSpace}, {&d.Bad, &s.Bad},
	} {
		*n.to += *n.by
	}
}

// defragment is a step of Defragment. in.mu is held.
type defragment struct {
	in   *inode
	look bool // change nothing, and count what would be done
	Defragmentation
}

// defragWindows is how many windows of 2 MiB one step looks at, while the inode is
// locked.
const defragWindows = 64

// Defragment makes what lies in 2 MiB of the file contiguous, where it is
// not: in an aligned chunk, for which one leaf can stand, when all of the 2
// MiB are allocated. It looks for that from byte off on, changes one such
// window, and returns where to go on, -1 at the end of the file. With look it
// changes nothing, and counts what would be done as if there were room for
// all of it.
//
// A window that is contiguous, and aligned if a leaf can stand for it, is not
// moved. What is sealed, pinned, static or shared is left alone, and counted.
// Contents stay as they are; what clients were granted of blocks that move is
// taken back, so that the next access faults and finds the new place. An
// error of the Breaker ends the step with nothing changed.
//
// Costs: where there is nothing to do a look at the entries of the block map;
// for what moves its copy, a fence, and a transaction.
func (n *Node) Defragment(off int64, look bool) (next int64, d Defragmentation, err error) {
	if look {
		err = n.regular()
	} else {
		err = n.writable(off, 0)
	}
	if err == nil && (off < 0 || off%(layout.HugeBlocks*layout.BlockSize) != 0) {
		err = unix.EINVAL
	}
	if err != nil {
		return 0, d, err
	}
	n.in.mu.Lock()
	defer n.in.mu.Unlock()
	s := defragment{in: n.in, look: look}
	at, err := s.run(off / layout.BlockSize)
	if at < 0 || err != nil {
		return -1, s.Defragmentation, err
	}
	return at * layout.BlockSize, s.Defragmentation, nil
}

// run looks at windows from block at on until one was changed.
func (s *defragment) run(at int64) (next int64, err error) {
	fs, in := s.in.fs, &s.in.Inode
	_, limit := blocksOf(0, in.Size)
	for range defragWindows {
		if at >= limit {
			return -1, nil
		}
		found, err := fs.locate(fs.journal.View, in, at)
		if err != nil {
			return 0, err
		}
		if found.level > 0 || found.hole() && found.end() >= limit {
			if err := s.leaf(found, limit); err != nil {
				return 0, err
			}
			at = found.end()
			continue
		}
		end := at + layout.HugeBlocks
		changed, err := s.window(at, min(end, limit))
		if at = end; changed || err != nil {
			return at, err
		}
	}
	return at, nil
}

// leaf counts a large leaf, or a hole that is as large.
func (s *defragment) leaf(found spot, limit int64) error {
	if found.hole() {
		return nil
	}
	s.Before.Blocks += min(found.end(), limit) - found.first
	if found.level == 1 {
		s.Before.Leaves2M++
	} else {
		s.Before.Leaves1G++
	}
	return s.extent(found.piece)
}

// extent counts an extent that begins with a piece, unless it begins before.
func (s *defragment) extent(p piece) error {
	if p.first > 0 {
		before, err := s.in.fs.locate(s.in.fs.journal.View, &s.in.Inode, p.first-1)
		if err != nil || !before.hole() && before.at(p.first) == p.block {
			return err
		}
	}
	s.Before.Extents++
	return nil
}

// segment is pieces that follow each other in the file without a hole; either all
// or none of them are shared.
type segment struct {
	pieces []piece
	runs   int // contiguous ones on the medium
}

func (g segment) first() int64 { return g.pieces[0].first }
func (g segment) end() int64   { return g.pieces[len(g.pieces)-1].end() }
func (g segment) count() int64 { return g.end() - g.first() }
func (g segment) whole() bool  { return g.count() == layout.HugeBlocks }
func (g segment) shared() bool { return g.pieces[0].shared() }

// good says that the segment lies as it should.
func (g segment) good() bool {
	return g.runs == 1 && (!g.whole() || g.pieces[0].block%layout.HugeBlocks == 0)
}

// merges says that one leaf can stand for the segment, where it lies as it should.
func (g segment) merges() bool {
	flags := g.pieces[0].flags
	for _, p := range g.pieces {
		if p.flags != flags {
			return false
		}
	}
	return g.whole()
}

// segments takes what is allocated in [first, end) apart.
func (in *inode) segments(first, end int64) (list []segment, err error) {
	err = in.fs.pieces(in.fs.journal.View, &in.Inode, first, end, func(p piece) error {
		if p.hole() {
			return nil
		}
		n := len(list)
		if n == 0 || list[n-1].end() != p.first || list[n-1].shared() != p.shared() {
			list = append(list, segment{[]piece{p}, 1})
			return nil
		}
		g := &list[n-1]
		if last := g.pieces[len(g.pieces)-1]; last.at(p.first) != p.block {
			g.runs++
		}
		g.pieces = append(g.pieces, p)
		return nil
	})
	return list, err
}

// window looks at [first, end), for which leaves of 4 KiB stand.
func (s *defragment) window(first, end int64) (changed bool, err error) {
	list, err := s.in.segments(first, end)
	if err != nil {
		return false, err
	}
	for _, g := range list {
		s.Before.Blocks += g.count()
		s.Before.Leaves4K += g.count()
		s.Before.Extents += int64(g.runs) - 1
		if err := s.extent(g.pieces[0]); err != nil {
			return false, err
		}
	}
	for _, g := range list {
		did, err := s.segment(g)
		if err != nil {
			return changed, err
		}
		changed = changed || did
	}
	return changed, nil
}

// segment moves a segment to where it lies better, if it may be moved and there is
// such a place, or lets one leaf stand for it.
func (s *defragment) segment(g segment) (changed bool, err error) {
	if g.good() && (!g.merges() || g.shared()) {
		return false, nil
	}
	if g.shared() {
		s.Shared += g.count()
		return false, nil
	}
	switch err := s.in.mayChange(g.first(), g.end()); {
	case err == ErrStatic:
		s.Static += g.count()
		return false, nil
	case err != nil:
		s.Sealed += g.count()
		return false, nil
	}
	merged := g.merges()
	switch {
	case s.look:
	case g.good():
		err = s.in.mergeLeaf(g)
	default:
		var aligned bool
		aligned, err = s.in.improve(g)
		merged = merged && aligned
	}
	if errors.Is(err, unix.ENOSPC) {
		s.NoSpace += g.count()
		return false, nil
	}
	if errors.As(err, new(*MediaError)) {
		s.Bad += g.count()
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !g.good() {
		s.Moved += g.count()
	}
	if merged {
		s.Merged++
	}
	return !s.look, nil
}

// mergeLeaf lets one leaf stand for a segment that lies as it should.
func (in *inode) mergeLeaf(g segment) error {
	return in.fs.transact(func(u *update) error { return u.merge(u.edit(in), g.first(), g.end()) })
}

// improve moves a segment to where it lies better; aligned says that this is one
// chunk. ENOSPC: there is no such place.
func (in *inode) improve(g segment) (aligned bool, err error) {
	runs, err := in.betterPlace(g)
	if err != nil {
		return false, err
	}
	if err := in.takeAll(g.first(), g.end()); err != nil {
		in.fs.cancel(runs)
		return false, err
	}
	err = in.moveTo(g.pieces, runs, func(u *update, want *layout.Inode) error { return u.merge(want, g.first(), g.end()) })
	return isChunk(runs), err
}

// isChunk says that a leaf of 2 MiB can stand for the blocks of runs, if they are as
// many.
func isChunk(runs []alloc.Run) bool { return len(runs) == 1 && runs[0].First%layout.HugeBlocks == 0 }

// betterPlace reserves blocks that are in fewer runs than those of a segment, or in a
// chunk for which a leaf can stand, best behind those that come before it in the
// file. ENOSPC: there are none.
func (in *inode) betterPlace(g segment) ([]alloc.Run, error) {
	goal := int64(-1)
	if g.whole() && g.first() > 0 {
		before, err := in.fs.locate(in.fs.journal.View, &in.Inode, g.first()-1)
		if err != nil {
			return nil, err
		}
		if !before.hole() {
			goal = before.at(g.first())
		}
	}
	runs, err := in.fs.reserve(nil, []piece{hole(g.first(), g.count())}, goal)
	if err != nil {
		return nil, err
	}
	if len(runs) < g.runs || g.whole() && isChunk(runs) {
		return runs, nil
	}
	in.fs.cancel(runs)
	return nil, unix.ENOSPC
}
