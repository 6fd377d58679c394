package core

import (
	"iter"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// plan is what a write into a range of blocks has to change. All lists are in
// the order of the file.
//
// Invariant: a plan and its lists belong to the operation that has made it, until
// release; nobody else keeps them.
type plan struct {
	fresh     []piece // that need blocks: holes, and what other files have, too
	unwritten []piece
	written   []piece // that are stored to in place
	sole      []piece // of written: that have the flag shared, see inode.claim
	goal      int64   // where new blocks would best lie, -1: anywhere

	runs  []alloc.Run // reserved for fresh
	moves []move      // of fresh to these
	taken []alloc.Run // what is being taken from clients

	grant   func(Run) error // see materialise; nil: nobody waits for the blocks
	granted bool            // grant was called, and returned refused
	refused error
	durable func() // calls grant; made once
}

// plans is memory for plans that were released: a write makes one each time.
var plans = sync.Pool{New: func() any {
	p := new(plan)
	p.durable = func() { p.granted, p.refused = true, p.grant(p.made()) }
	return p
}}

func (p *plan) release() {
	p.grant, p.granted, p.refused = nil, false, nil
	plans.Put(p)
}

// made is the run that begins with the first of the new contents.
func (p *plan) made() Run {
	r := Run{Writable: true, Made: true}
	for m := range p.targets() {
		switch {
		case r.Count == 0:
			r.First, r.Block, r.Count = m.from.first, m.to.First, m.to.Count
		case m.from.first == r.First+r.Count && m.to.First == r.Block+r.Count:
			r.Count += m.to.Count
		}
	}
	return r
}

func (in *inode) plan(first, end int64) (*plan, error) {
	p := newPlan()
	err := in.fs.pieces(in.fs.journal.View, &in.Inode, first, end, func(q piece) error { return p.add(in.fs, q) })
	return p.complete(in, first, err)
}

// planPiece is plan for the range of one piece, which find has returned.
func (in *inode) planPiece(q piece) (*plan, error) {
	p := newPlan()
	return p.complete(in, q.first, p.add(in.fs, q))
}

func newPlan() *plan {
	p := plans.Get().(*plan)
	p.fresh, p.unwritten, p.written, p.sole = p.fresh[:0], p.unwritten[:0], p.written[:0], p.sole[:0]
	p.runs, p.moves, p.goal = p.runs[:0], p.moves[:0], -1
	return p
}

// complete sets the goal of a plan that has all pieces from first on, or releases it
// if err says that it has not.
func (p *plan) complete(in *inode, first int64, err error) (*plan, error) {
	if err == nil && len(p.fresh) > 0 && first > 0 {
		var before piece
		before, err = in.fs.find(in.fs.journal.View, &in.Inode, first-1, first)
		if err == nil && !before.hole() {
			p.goal = before.at(first)
		}
	}
	if err != nil {
		p.release()
		return nil, err
	}
	return p, nil
}

// add puts the next piece of the range into the lists that it belongs to.
func (p *plan) add(fs *FS, q piece) error {
	switch {
	case q.hole():
		p.fresh = append(p.fresh, q)
	case q.unwritten():
		p.unwritten = append(p.unwritten, q)
	case q.shared():
		shared, sole, err := fs.divide(q)
		p.fresh, p.sole = append(p.fresh, shared...), append(p.sole, sole...)
		p.written = append(p.written, sole...)
		return err
	default:
		p.written = append(p.written, q)
	}
	return nil
}

// inPlace reports whether a write needs nothing but to store.
func (p *plan) inPlace() bool { return len(p.fresh)+len(p.unwritten) == 0 }

// changes is the pieces of which the map changes.
func (p *plan) changes() iter.Seq[piece] {
	return func(yield func(piece) bool) {
		for _, list := range [2][]piece{p.unwritten, p.fresh} {
			for _, q := range list {
				if !yield(q) {
					return
				}
			}
		}
	}
}

// holes is those of fresh that have no blocks.
func (p *plan) holes() (out []piece) {
	for _, q := range p.fresh {
		if q.hole() {
			out = append(out, q)
		}
	}
	return out
}

// targets is where the new contents of the pieces go that are not written in place,
// once blocks are reserved.
func (p *plan) targets() iter.Seq[move] {
	return func(yield func(move) bool) {
		for _, m := range p.moves {
			if !yield(m) {
				return
			}
		}
		for _, q := range p.unwritten {
			if !yield(move{q, q.run()}) {
				return
			}
		}
	}
}

// reserve takes blocks for the pieces that need some, before the data is stored.
func (p *plan) reserve(fs *FS) (err error) {
	p.runs, err = fs.reserve(p.runs, p.fresh, p.goal)
	if err == nil {
		p.moves = moves(p.moves, p.fresh, p.runs)
	}
	return err
}

// reserve takes blocks for pieces and appends them to runs, which is empty.
func (fs *FS) reserve(runs []alloc.Run, pieces []piece, goal int64) ([]alloc.Run, error) {
	if len(pieces) == 0 {
		return runs, nil
	}
	reserve := func() error {
		at := goal
		err := portions(pieces, func(n int64) (err error) {
			if runs, err = fs.blocks.Reserve(runs, n, at); err == nil {
				at = runs[len(runs)-1].End()
			}
			return err
		})
		if err != nil {
			fs.blocks.Cancel(runs...)
			runs = runs[:0]
		}
		return err
	}
	err := fs.journal.Locked(reserve)
	if err == unix.ENOSPC && fs.stage { // what was freed can be had when that is durable
		if err = fs.Commit(); err == nil {
			err = fs.journal.Locked(reserve)
		}
	}
	return runs, err
}

// portions calls fn with how many blocks to reserve at once for pieces. What of them
// a leaf of 2 MiB can map is reserved for itself, so that it gets blocks that are
// aligned as it is.
func portions(pieces []piece, fn func(count int64) error) error {
	var rest int64
	for _, h := range pieces {
		first, end := layout.RoundUp(h.first, layout.HugeBlocks), h.end()/layout.HugeBlocks*layout.HugeBlocks
		if first >= end {
			rest += h.count
			continue
		}
		if before := rest + first - h.first; before > 0 {
			if err := fn(before); err != nil {
				return err
			}
		}
		if err := fn(end - first); err != nil {
			return err
		}
		rest = h.end() - end
	}
	if rest == 0 {
		return nil
	}
	return fn(rest)
}

// cancel makes reserved runs free again. Bad blocks, which could not be healed,
// stay reserved: nobody gets them before the next mount.
func (fs *FS) cancel(runs []alloc.Run) {
	fs.journal.Locked(func() error { fs.blocks.Cancel(fs.good(runs)...); return nil })
}

// breakPlan takes from clients what they see where the plan changes the map: zeros,
// and blocks that the file gives up for copies of its own.
func (in *inode) breakPlan(p *plan) error {
	for _, what := range [2]Taking{TakeAll, TakeZeros} {
		p.taken = p.taken[:0]
		for q := range p.changes() {
			if q.zeros() == (what == TakeZeros) {
				p.taken = append(p.taken, alloc.Run{First: q.first, Count: q.count})
			}
		}
		if len(p.taken) == 0 {
			continue
		}
		if err := in.fs.breaker.Break(in.ino, what, p.taken...); err != nil {
			return err
		}
	}
	return nil
}

// commitPlan makes the plan's blocks reachable, in the transaction that finish
// completes. What was reserved is taken, or free again when it fails.
func (in *inode) commitPlan(p *plan, finish func(u *update, want *layout.Inode) error) error {
	u, err := in.fs.begin()
	if err != nil {
		in.fs.cancel(p.runs)
		return err
	}
	defer u.Abort()
	want := u.edit(in)
	if err := u.fs.blocks.Take(&u.Tx, p.runs...); err != nil {
		return err
	}
	for _, m := range p.moves {
		if err := u.move(want, m, 0); err != nil {
			return err
		}
	}
	for _, q := range p.unwritten {
		if err := u.mark(want, q.first, q.end(), 0); err != nil {
			return err
		}
	}
	if err := finish(u, want); err != nil {
		return err
	}
	return u.commit()
}
