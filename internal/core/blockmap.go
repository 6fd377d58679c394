package core

import (
	"encoding/binary"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// The block map of a file is a radix tree like a page table: eight entries in
// the inode, 512 in each node, leaves of 4 KiB, 2 MiB and 1 GiB. The reference
// counts of blocks are such a map, too, whose leaves hold counts: see refs.go.

// piece is a run of file blocks that are mapped alike: to consecutive blocks
// with the same flags, to the same count, or to nothing.
type piece struct {
	first, count int64
	block        int64 // of first, -1: a hole
	flags        layout.Entry
	counts       bool // block is a count, that of each of them
}

func (p piece) end() int64      { return p.first + p.count }
func (p piece) hole() bool      { return p.block < 0 }
func (p piece) unwritten() bool { return p.flags&layout.EntryUnwritten != 0 }

func (p piece) shared() bool { return p.flags&layout.EntryShared != 0 }

// zeros reports whether the piece reads as zeros.
func (p piece) zeros() bool { return p.hole() || p.unwritten() }

// at is what block n of the file is mapped to, as far as the piece tells.
func (p piece) at(n int64) int64 {
	if p.hole() || p.counts {
		return p.block
	}
	return p.block + n - p.first
}

// run is the blocks that a piece maps to.
func (p piece) run() alloc.Run { return alloc.Run{First: p.block, Count: p.count} }

// clip is the part of the piece in [first, end).
func (p piece) clip(first, end int64) piece {
	lo, hi := max(p.first, first), min(p.end(), end)
	return piece{lo, hi - lo, p.at(lo), p.flags, p.counts}
}

// joins reports whether q continues p.
func (p piece) joins(q piece) bool {
	return p.end() == q.first && p.flags == q.flags && p.at(q.first) == q.block
}

const (
	leafFlags  = layout.EntryUnwritten | layout.EntryShared
	mapEnd     = int64(1) << 45 // lies behind every block of every map
	rootFanout = layout.RootEntries
)

type view func(off, n int64) []byte

func word(v view, off int64) layout.Entry {
	return layout.Entry(binary.LittleEndian.Uint64(v(off, layout.WordSize)))
}

// find returns the piece that covers block, as far as the entries of one node
// tell, at least up to and at most a little beyond end.
func (fs *FS) find(v view, in *layout.Inode, block, end int64) (piece, error) {
	s, err := fs.locate(v, in, block)
	for off := s.off + layout.WordSize; err == nil && s.off >= 0 && off%layout.BlockSize != 0 && s.end() < end; off += layout.WordSize {
		var q piece
		var ok bool
		if q, ok, err = fs.neighbour(v, in.Ino, s.level, s.end(), off); !ok || !s.joins(q) {
			break
		}
		s.count += q.count
	}
	return s.piece, err
}

// findBack is find in the other direction: it returns the piece that ends with
// block, at least down to and at most a little below first.
func (fs *FS) findBack(v view, in *layout.Inode, block, first int64) (piece, error) {
	s, err := fs.locate(v, in, block)
	if s.end() > block+1 {
		s.piece = s.clip(s.first, block+1)
	}
	span := layout.Span(s.level)
	for off := s.off; err == nil && off > 0 && off%layout.BlockSize != 0 && s.first > first; {
		off -= layout.WordSize
		var q piece
		var ok bool
		if q, ok, err = fs.neighbour(v, in.Ino, s.level, s.first-span, off); !ok || !q.joins(s.piece) {
			break
		}
		q.count += s.count
		s.piece = q
	}
	return s.piece, err
}

// spot is a piece and where the entry that tells it stands.
type spot struct {
	piece
	level int
	off   int64 // -1: in the inode
}

// locate walks to the entry that maps block.
func (fs *FS) locate(v view, in *layout.Inode, block int64) (spot, error) {
	level := int(in.Height)
	span := layout.Span(level)
	if block >= rootFanout*span {
		return spot{hole(rootFanout*span, mapEnd-rootFanout*span), level, -1}, nil
	}
	entry, off := in.Root[block/span], int64(-1)
	for {
		p, err := fs.piece(in.Ino, entry, level, block/span*span, off)
		if err != nil || !entry.Table() {
			return spot{p, level, off}, err
		}
		node, err := fs.nodeOffset(layout.Node(entry.Number()))
		if err != nil {
			return spot{}, err
		}
		level--
		span = layout.Span(level)
		off = node + block/span%layout.Fanout*layout.WordSize
		entry = word(v, off)
	}
}

// neighbour is the piece of another entry of a node; not ok when a node is
// under it.
func (fs *FS) neighbour(v view, ino layout.Ino, level int, base, off int64) (p piece, ok bool, err error) {
	e := word(v, off)
	p, err = fs.piece(ino, e, level, base, off)
	return p, err == nil && !e.Table(), err
}

// piece verifies an entry and decodes it; what a node is under is a hole here.
func (fs *FS) piece(ino layout.Ino, e layout.Entry, level int, base, off int64) (piece, error) {
	if err := e.Verify(layout.Place{Ino: ino, Level: level, Position: uint64(base)}, off); err != nil {
		return piece{}, err
	}
	if e.Leaf() {
		return fs.leaf(ino, e, base, layout.Span(level), off)
	}
	return hole(base, layout.Span(level)), nil
}

func hole(first, count int64) piece { return piece{first: first, count: count, block: -1} }

// leaf checks that a leaf's blocks exist, or that a count is one.
func (fs *FS) leaf(ino layout.Ino, e layout.Entry, base, span, off int64) (piece, error) {
	p := piece{base, span, int64(e.Number()), e & leafFlags, ino == layout.CountsIno}
	switch {
	case p.counts && (p.flags != 0 || p.block == 0 || base+span > fs.sb.DataBlocks):
		return p, layout.Corrupt("reference count", off, "%d of blocks %d to %d, flags %#x", p.block, base, base+span, uint64(p.flags))
	case !p.counts && (p.block+span > fs.sb.DataBlocks || p.block%span != 0):
		return p, layout.Corrupt("map entry", off, "blocks %d to %d are out of range", p.block, p.block+span)
	}
	return p, nil
}

// pieces calls fn for the maximal pieces of [first, end), in order.
func (fs *FS) pieces(v view, in *layout.Inode, first, end int64, fn func(piece) error) error {
	var last piece
	for at := first; at < end; {
		p, err := fs.find(v, in, at, end)
		if err != nil {
			return err
		}
		p = p.clip(first, end)
		at = p.end()
		switch {
		case last.count == 0:
			last = p
		case last.joins(p):
			last.count += p.count
		default:
			if err := fn(last); err != nil {
				return err
			}
			last = p
		}
	}
	if last.count == 0 {
		return nil
	}
	return fn(last)
}

// mapEdit replaces the leaves and holes in a range of a file's block map.
type mapEdit struct {
	u          *update
	in         *layout.Inode // what the transaction will make of it
	first, end int64
	fill       bool // holes are replaced, too
	quiet      bool // contents stay as they are, and so do those who look for changes: see layout.Inode
	// replace is asked for each leaf or hole that lies wholly in the range. It
	// returns what becomes of it (block -1: a hole), or divide when it needs
	// the parts one by one. Blocks that leave the map are the caller's.
	replace func(p piece) (block int64, flags layout.Entry, divide bool)
}

// run applies the edit.
func (e *mapEdit) run() error {
	if e.fill {
		if err := e.grow(); err != nil {
			return err
		}
	}
	if err := e.roots(e.entry); err != nil {
		return err
	}
	if e.in.Root == ([rootFanout]layout.Entry{}) {
		e.in.Height = 0
	}
	if !e.quiet && !e.u.quiet {
		e.in.Changes++
		e.u.noteEdit(e.in, e.first, e.end)
	}
	return nil
}

// edit returns what an entry becomes. off is where the entry is, -1 in the inode.
type edit func(old layout.Entry, off int64, level int, base int64) (layout.Entry, error)

// roots edits the entries of the inode that map something of the range.
func (e *mapEdit) roots(to edit) error {
	level := int(e.in.Height)
	span := layout.Span(level)
	for i, old := range e.in.Root {
		if base := int64(i) * span; base < e.end && base+span > e.first {
			entry, err := to(old, -1, level, base)
			if err != nil {
				return err
			}
			e.in.Root[i] = entry
		}
	}
	return nil
}

// children edits the entries of a node that map something of the range, and reports whether any of them is there then.
// level and base are the node's.
func (e *mapEdit) children(node int64, level int, base int64, to edit) (some bool, err error) {
	span := layout.Span(level - 1)
	first := max(e.first-base, 0) / span
	end := min((e.end-base+span-1)/span, layout.Fanout)
	for i := first; i < end; i++ {
		off := node + i*layout.WordSize
		old := word(e.u.Read, off)
		entry, err := to(old, off, level-1, base+i*span)
		if err != nil {
			return false, err
		}
		if entry != old {
			e.set(off, entry)
		}
		some = some || entry != 0
	}
	return some, nil
}

// grow raises the map until it covers the range.
func (e *mapEdit) grow() error {
	for e.end > rootFanout*layout.Span(int(e.in.Height)) {
		old := e.in.Root
		e.in.Height++
		e.in.Root = [rootFanout]layout.Entry{}
		if old == e.in.Root {
			continue
		}
		node, off, err := e.u.newNode(e.in)
		if err != nil {
			return err
		}
		for i, entry := range old {
			e.set(off+int64(i)*layout.WordSize, entry)
		}
		e.in.Root[0] = layout.MakeEntry(0, uint64(node), e.place(int(e.in.Height), 0))
	}
	return nil
}

func (e *mapEdit) place(level int, base int64) layout.Place {
	return layout.Place{Ino: e.in.Ino, Level: level, Position: uint64(base)}
}

func (e *mapEdit) set(off int64, entry layout.Entry) {
	e.u.WriteWord(off, uint64(entry))
}

// entry edits what lies under one entry and returns what it becomes.
func (e *mapEdit) entry(old layout.Entry, off int64, level int, base int64) (layout.Entry, error) {
	if err := old.Verify(e.place(level, base), off); err != nil {
		return 0, err
	}
	if old.Table() {
		node, err := e.u.fs.nodeOffset(layout.Node(old.Number()))
		if err != nil {
			return 0, err
		}
		return e.node(old, node, level, base)
	}
	if old == 0 && !e.fill {
		return 0, nil
	}
	span := layout.Span(level)
	p := hole(base, span)
	if old != 0 {
		var err error
		if p, err = e.u.fs.leaf(e.in.Ino, old, base, span, off); err != nil {
			return 0, err
		}
	}
	if e.first <= base && base+span <= e.end {
		block, flags, divide := e.replace(p)
		if !divide {
			return e.leaf(p, block, flags, level), nil
		}
	}
	node, at, err := e.u.newNode(e.in)
	if err != nil {
		return 0, err
	}
	if !p.hole() {
		e.split(p, at, level-1)
	}
	return e.node(layout.MakeEntry(0, uint64(node), e.place(level, base)), at, level, base)
}

// leaf makes the entry that replaces p, and keeps the count of blocks.
func (e *mapEdit) leaf(p piece, block int64, flags layout.Entry, level int) layout.Entry {
	if !p.hole() {
		e.in.Blocks -= p.count
	}
	if block < 0 {
		return 0
	}
	e.in.Blocks += p.count
	return layout.MakeEntry(flags|layout.EntryLeaf, uint64(block), e.place(level, p.first))
}

// split fills a new node with the 512 leaves that a larger leaf stood for.
func (e *mapEdit) split(p piece, node int64, level int) {
	var b [layout.BlockSize]byte
	span := layout.Span(level)
	for i := range int64(layout.Fanout) {
		first := p.first + i*span
		entry := layout.MakeEntry(p.flags|layout.EntryLeaf, uint64(p.at(first)), e.place(level, first))
		binary.LittleEndian.PutUint64(b[i*layout.WordSize:], uint64(entry))
	}
	e.u.Write(node, b[:])
}

// node edits the entries of a node; a node that becomes empty is freed.
func (e *mapEdit) node(self layout.Entry, node int64, level int, base int64) (layout.Entry, error) {
	if some, err := e.children(node, level, base, e.entry); err != nil || some {
		return self, err
	}
	for _, b := range e.u.Read(node, layout.BlockSize) {
		if b != 0 {
			return self, nil
		}
	}
	return 0, e.u.freeNode(e.in, layout.Node(self.Number()))
}

// move is a piece and the run it goes to, of the same length.
type move struct {
	from piece
	to   alloc.Run
}

// moves gives pieces, in order, the blocks of runs, in order, and appends that to
// out; both have the same count in all.
func moves(out []move, pieces []piece, runs []alloc.Run) []move {
	i, used := 0, int64(0)
	for _, p := range pieces {
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

// move maps a piece to blocks that were taken, in place of those that it had,
// which go if no other file has them.
func (u *update) move(in *layout.Inode, m move, flags layout.Entry) error {
	if err := u.mapRun(in, m.from.first, m.to, flags); err != nil {
		return err
	}
	switch {
	case m.from.hole():
		return nil
	case !m.from.shared():
		return u.fs.blocks.Release(&u.Tx, m.from.run())
	}
	free, err := u.drop(m.from.run(), nil)
	if err != nil {
		return err
	}
	return u.fs.blocks.Release(&u.Tx, free...)
}

// mapRun maps file blocks from first on to a run of blocks, with the largest
// leaves that both are aligned to.
func (u *update) mapRun(in *layout.Inode, first int64, run alloc.Run, flags layout.Entry) error {
	e := mapEdit{u: u, in: in, first: first, end: first + run.Count, fill: true}
	e.replace = func(p piece) (int64, layout.Entry, bool) {
		block := run.First + p.first - first
		return block, flags, p.count > layout.GiantBlock || block%p.count != 0
	}
	return e.run()
}

// unmap makes [first, end) a hole and returns the runs that were mapped: those
// of the file alone, and those that others may have, too.
func (u *update) unmap(in *layout.Inode, first, end int64) (own, shared []alloc.Run, err error) {
	e := mapEdit{u: u, in: in, first: first, end: end}
	e.replace = func(p piece) (int64, layout.Entry, bool) {
		if p.shared() {
			shared = appendRun(shared, p.run())
		} else {
			own = appendRun(own, p.run())
		}
		return -1, 0, false
	}
	err = e.run()
	return own, shared, err
}

// appendRun adds a run, or lengthens the last one.
func appendRun(runs []alloc.Run, r alloc.Run) []alloc.Run {
	if n := len(runs); n > 0 && runs[n-1].End() == r.First {
		runs[n-1].Count += r.Count
		return runs
	}
	return append(runs, r)
}

// mark gives the blocks mapped in [first, end) other flags.
func (u *update) mark(in *layout.Inode, first, end int64, flags layout.Entry) error {
	e := mapEdit{u: u, in: in, first: first, end: end}
	e.replace = func(p piece) (int64, layout.Entry, bool) { return p.block, flags, false }
	return e.run()
}

// merge replaces nodes over [first, end) by a leaf where all that they map is
// one run, aligned and with the same flags.
func (u *update) merge(in *layout.Inode, first, end int64) error {
	e := mapEdit{u: u, in: in, first: first, end: end}
	return e.roots(e.merge)
}

// merge returns what an entry becomes.
func (e *mapEdit) merge(old layout.Entry, off int64, level int, base int64) (layout.Entry, error) {
	if err := old.Verify(e.place(level, base), off); err != nil || !old.Table() {
		return old, err
	}
	node, err := e.u.fs.nodeOffset(layout.Node(old.Number()))
	if err != nil {
		return 0, err
	}
	if _, err := e.children(node, level, base, e.merge); err != nil {
		return 0, err
	}
	p, whole, err := e.whole(node, level, base)
	if err != nil || !whole {
		return old, err
	}
	leaf := layout.MakeEntry(p.flags|layout.EntryLeaf, uint64(p.block), e.place(level, base))
	return leaf, e.u.freeNode(e.in, layout.Node(old.Number()))
}

// whole reports whether one leaf could stand for a node, and for what piece.
func (e *mapEdit) whole(node int64, level int, base int64) (p piece, ok bool, err error) {
	if level > layout.MaxLeafLevel {
		return p, false, nil
	}
	span := layout.Span(level - 1)
	for i := range int64(layout.Fanout) {
		q, ok, err := e.u.fs.neighbour(e.u.Read, e.in.Ino, level-1, base+i*span, node+i*layout.WordSize)
		switch {
		case err != nil || !ok || q.hole() || i > 0 && !p.joins(q):
			return p, false, err
		case i == 0:
			p = q
		default:
			p.count += q.count
		}
	}
	return p, p.counts || p.block%p.count == 0, nil
}

// freeBlocks makes [first, end) a hole and frees its blocks, as far as no other
// file has them.
func (u *update) freeBlocks(in *layout.Inode, first, end int64) error {
	free, shared, err := u.unmap(in, first, end)
	if err != nil {
		return err
	}
	for _, r := range shared {
		if free, err = u.drop(r, free); err != nil {
			return err
		}
	}
	return u.fs.blocks.Release(&u.Tx, free...)
}

// stepPages is how many blocks of metadata a step of a long operation changes
// before it commits: far below what a record can hold, even when each of the
// last node's blocks lies in a bitmap line of its own.
const stepPages = 32

// freeStep frees blocks from first on until the step is full and returns how
// far it came; end when it is done.
func (u *update) freeStep(in *layout.Inode, first, end int64) (int64, error) {
	u.frees = true
	if in.Root == ([rootFanout]layout.Entry{}) {
		return end, nil
	}
	for first < end && u.Pages() < stepPages {
		p, err := u.fs.find(u.Read, in, first, min(end, first+layout.HugeBlocks))
		if err != nil {
			return first, err
		}
		if p.hole() {
			first = min(p.end(), end)
			continue
		}
		// A whole 2 MiB of small leaves at a time, or one large leaf.
		next := min(max(layout.RoundUp(first+1, layout.HugeBlocks), p.end()), end)
		if err := u.freeBlocks(in, first, next); err != nil {
			return first, err
		}
		first = next
	}
	return first, nil
}
