package core

import (
	"cmp"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// A private clone is an orphan that shares a range of a file's blocks, for a
// program that stores to it and then publishes all that it has stored at once.
//
// Since all blocks are shared when the clone is made, nothing can be stored to
// either of the two without a change of its map first: so who looks for those
// changes knows what differs, block by block.

// private is what a private clone knows of the file that it is one of.
//
// Invariant: blocks of the clone that are not in changed, and whose place in the
// file is not in touched, are the file's. changed is protected by the lock of the
// clone, touched by that of the file; both count from the clone's first block.
type private struct {
	of           *inode // a reference
	merge        bool   // changes of both are no conflict but where they are of one block
	first, count int64  // blocks of the file
	changed      *unitSet
	touched      *unitSet
}

// mapChange is a range of an inode's map that a transaction changes.
type mapChange struct {
	in         *inode
	first, end int64
}

// noteEdit has those who look for changes of an inode's map told when the
// transaction has committed.
func (u *update) noteEdit(want *layout.Inode, first, end int64) {
	for _, e := range u.inodes {
		if &e.want == want && (e.in.private != nil || e.in.privates != nil) {
			u.edits = append(u.edits, mapChange{e.in, first, end})
		}
	}
}

// note tells them. in.mu is held.
func (in *inode) note(first, end int64) {
	if p := in.private; p != nil {
		p.add(p.changed, first, end)
	}
	for _, p := range in.privates {
		p.add(p.touched, first-p.first, end-p.first)
	}
}

func (p *private) add(s *unitSet, first, end int64) {
	if first, end = max(first, 0), min(end, p.count); first < end {
		s.add(first, end-first)
	}
}

// reset makes both sets empty.
func (p *private) reset() { p.changed, p.touched = newUnitSet(p.count), newUnitSet(p.count) }

// detach ends the look for changes of the file, when the clone is gone.
func (p *private) detach() {
	if p == nil {
		return
	}
	p.of.mu.Lock()
	p.of.privates = slices.DeleteFunc(p.of.privates, func(q *private) bool { return q == p })
	p.of.mu.Unlock()
	p.of.put()
}

// ConflictError says that what a private clone was made of has changed since. It
// matches ESTALE.
type ConflictError struct {
	Ino layout.Ino // of the file
	Off int64      // byte of it where the first such block begins
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("the file's block at %d has changed since it was cloned", e.Off)
}
func (e *ConflictError) Unwrap() error { return unix.ESTALE }

// Private makes a private clone of the blocks that [off, off+length) touches, to be
// mapped, and published from by Publish. It has no name, and goes with its last
// Node. With merge the file may change meanwhile in blocks that the clone does not.
// off is a multiple of 4096: EINVAL; ENXIO when the range reaches beyond the block
// with the last byte of the file. Other errors and costs are those of Clone.
func (n *Node) Private(off, length int64, merge bool) (*Node, error) {
	if err := n.writable(off, length); err != nil {
		return nil, err
	}
	if off%layout.BlockSize != 0 {
		return nil, unix.EINVAL
	}
	in := n.in
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.finishTruncate(); err != nil {
		return nil, err
	}
	first, end, err := in.inside(off, length)
	if err != nil {
		return nil, err
	}
	to, err := in.cloneBlocks(first, end, length, func(u *update) (*inode, error) {
		to, _, err := u.newInode(Cred{UID: in.UID, GID: in.GID}, &layout.Inode{}, layout.ModeRegular|0o600)
		return to, err
	}, nil)
	if err != nil {
		return nil, err
	}
	in.fs.adoptNew(to)
	in.hold()
	to.attach(in, merge)
	return &Node{in: to}, nil
}

// attach begins the look for changes of the file. Both are locked, or nobody else
// has the clone yet.
func (in *inode) attach(of *inode, merge bool) {
	_, count := blocksOf(0, in.Size)
	in.private = &private{of: of, merge: merge, first: int64(in.Origin.Block), count: count}
	in.private.reset()
	of.privates = append(of.privates, in.private)
}

// Reattach makes a Node that was adopted a private clone again, which it was before
// a crash of this process. What it has changed since it was cloned its map says;
// whether the file has changed is known for the file as a whole only. Without the
// file Publish fails with ESTALE.
func (n *Node) Reattach(merge bool) error {
	in := n.in
	of, err := in.fs.get(in.Origin.Ino)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer lockBoth(in, of)()
	if in.private != nil || of.Generation != in.Origin.Generation || of.gone || of.kind != layout.ModeRegular {
		defer of.put()
		return nil
	}
	in.attach(of, merge)
	p := in.private
	if of.Changes != in.Origin.Changes {
		p.add(p.touched, 0, p.count)
	}
	return in.fs.pieces(in.fs.journal.View, &in.Inode, 0, p.count, func(q piece) error {
		if !q.hole() && !q.shared() {
			p.add(p.changed, q.first, q.end())
		}
		return nil
	})
}

// publication is one clone of a Publish, and what of it goes into its file.
type publication struct {
	clone  *inode
	pieces []piece
	stale  *unitSet // what the file has changed beside that
}

// Publish makes everything that was stored to private clones, each of another file,
// the contents of these files, all at once: whoever reads or maps them sees nothing
// of it before, and all of it after; after a crash it has happened wholly or not at
// all; it is durable on return. The clones go on as clones of what the files are
// now.
//
// A *ConflictError: a file has changed in a clone's range since that was made or
// last published; of a clone that merges only when it has in a block that the clone
// has changed, too; else what both have changed comes together. Nothing has changed
// then, nor with ErrStatic, an error of the Breaker, or EFBIG, when the changes
// are more than a record of the log can hold. EINVAL when a Node is no private
// clone, or two are of one file.
//
// Costs: for each changed block a flush of its lines, and what it takes to break the
// grants; two fences; one transaction.
func Publish(clones ...*Node) error {
	fs, list, unlock, err := lockAll(clones)
	if err != nil {
		return err
	}
	defer unlock()
	for _, p := range list {
		if err := p.prepare(); err != nil {
			return err
		}
	}
	for _, p := range list {
		if err := p.take(); err != nil {
			return err
		}
	}
	if err := fs.fenceData(); err != nil {
		return err
	}
	err = fs.transact(func(u *update) error {
		for _, p := range list {
			if err := u.publish(p); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range list {
		p.settle()
	}
	return fs.commitTo(list[0].clone.metaLSN)
}

// lockAll locks private clones and their files, in the order of their numbers.
func lockAll(clones []*Node) (fs *FS, list []*publication, unlock func(), err error) {
	var all []*inode
	for _, n := range clones {
		p := n.in.private
		if p == nil {
			return nil, nil, nil, unix.EINVAL
		}
		fs = n.in.fs
		list = append(list, &publication{clone: n.in})
		all = append(all, n.in, p.of)
	}
	slices.SortFunc(all, func(a, b *inode) int { return cmp.Compare(a.ino, b.ino) })
	if n := len(all); n == 0 || len(slices.Compact(slices.Clone(all))) < n || fs.readOnly {
		return nil, nil, nil, unix.EINVAL
	}
	for _, in := range all {
		in.mu.Lock()
	}
	return fs, list, func() {
		for _, in := range all {
			in.mu.Unlock()
		}
	}, nil
}

// prepare finds out what is to be published, and whether it may be.
func (p *publication) prepare() error {
	c, file := p.clone.private, p.clone.private.of
	if file.gone {
		return unix.ESTALE
	}
	if err := file.finishTruncate(); err != nil {
		return err
	}
	first := int64(-1)
	if c.merge {
		first = c.changed.common(c.touched)
	} else {
		first = c.touched.first()
	}
	if first >= 0 {
		return &ConflictError{Ino: file.ino, Off: (c.first + first) * layout.BlockSize}
	}
	p.stale = c.touched
	return c.changed.runs(func(r alloc.Run) error {
		return p.clone.fs.pieces(p.clone.fs.journal.View, &p.clone.Inode, r.First, r.End(), func(q piece) error {
			if q.zeros() || q.shared() {
				return nil
			}
			p.pieces = append(p.pieces, q)
			return file.mayChange(c.first+q.first, c.first+q.end())
		})
	})
}

// take takes from clients what they could store to, and what they see of the file
// where it changes, and writes back what was stored. After it has failed the
// program faults, and goes on.
func (p *publication) take() error {
	c, fs := p.clone.private, p.clone.fs
	if p.pieces == nil {
		return nil
	}
	var here, there []alloc.Run
	for _, q := range p.pieces {
		here = append(here, alloc.Run{First: q.first, Count: q.count})
		there = append(there, alloc.Run{First: c.first + q.first, Count: q.count})
	}
	if err := fs.breaker.Break(p.clone.ino, TakeWrites, here...); err != nil {
		return err
	}
	if err := fs.breaker.Break(c.of.ino, TakeAll, there...); err != nil {
		return err
	}
	for _, q := range p.pieces {
		if err := fs.flushRun(q.run()); err != nil {
			return err
		}
	}
	return nil
}

// publish maps the pieces into the file, too.
func (u *update) publish(p *publication) error {
	c := p.clone.private
	clone, file := u.edit(p.clone), u.edit(c.of)
	for _, q := range p.pieces {
		if err := u.exchange(file, c.first+q.first, q.run()); err != nil {
			return err
		}
		if err := u.shareOnce(clone, q); err != nil {
			return err
		}
	}
	if p.pieces != nil {
		c.of.modified(file)
	}
	u.OnDone(func(committed bool) {
		if committed { // what changes now is no change that the clone does not have
			c.touched = newUnitSet(c.count)
		}
	})
	if p.stale.first() < 0 {
		clone.Origin.Changes = file.Changes
	}
	return nil
}

// exchange maps blocks that another file has in place of those that a file has from
// block at on.
func (u *update) exchange(file *layout.Inode, at int64, to alloc.Run) error {
	var old []piece
	err := u.fs.pieces(u.Read, file, at, at+to.Count, func(p piece) error {
		old = append(old, p)
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range moves(nil, old, []alloc.Run{to}) {
		if err := u.move(file, m, layout.EntryShared); err != nil {
			return err
		}
	}
	return nil
}

// settle brings the clone to what its file is now. Where that fails it stays
// behind, and the next Publish finds a conflict.
func (p *publication) settle() {
	c := p.clone.private
	c.reset()
	if err := p.clone.follow(p.stale); err != nil {
		p.stale.runs(func(r alloc.Run) error {
			c.add(c.touched, r.First, r.End())
			return nil
		})
	}
}

// follow makes blocks of a private clone those of its file again. Both are locked.
func (in *inode) follow(blocks *unitSet) error {
	p, size := in.private, in.Size
	if blocks.first() < 0 {
		return nil
	}
	err := blocks.runs(func(r alloc.Run) error {
		return in.cloneRange(r.First*layout.BlockSize, p.of, (p.first+r.First)*layout.BlockSize, r.Count*layout.BlockSize)
	})
	if err != nil {
		return err
	}
	p.reset()
	return in.fs.transact(func(u *update) error {
		want := u.edit(in)
		want.Size, want.Origin.Changes = size, p.of.Changes
		return nil
	})
}

// Discard drops what was stored to a private clone, which then is one of what its
// file is now. EINVAL when it is no private clone.
func (n *Node) Discard() error {
	_, list, unlock, err := lockAll([]*Node{n})
	if err != nil {
		return err
	}
	defer unlock()
	in := list[0].clone
	both := newUnitSet(in.private.count)
	for _, s := range []*unitSet{in.private.changed, in.private.touched} {
		s.runs(func(r alloc.Run) error {
			both.add(r.First, r.Count)
			return nil
		})
	}
	return in.follow(both)
}
