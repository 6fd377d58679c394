package core

import (
	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// Blocks can belong to several files. How many references there are to a block
// besides the first is kept in a map like that of a file, whose positions are
// blocks of the data area: where nothing is shared it is a hole, and a run that is
// shared alike takes as few entries as it takes in a file. The map is that of
// inode CountsIno; it is protected by the journal's builder lock.
//
// Invariant: every leaf of a file that maps a block with a count has the flag
// shared. A leaf may have the flag and be the only one that is left: then a store
// in place takes it away first (see inode.claim).

// editCounts returns the map of reference counts, as the transaction wants it.
func (u *update) editCounts() *layout.Inode {
	if u.counts == nil {
		want := u.fs.counts
		u.counts = &want
		u.OnDone(func(committed bool) {
			if committed {
				u.fs.counts = want
			}
		})
	}
	return u.counts
}

// share counts one more reference to the blocks of a run.
func (u *update) share(r alloc.Run) error {
	e := mapEdit{u: u, in: u.editCounts(), first: r.First, end: r.End(), fill: true, quiet: true}
	e.replace = func(p piece) (int64, layout.Entry, bool) {
		return max(p.block, 0) + 1, 0, p.count > layout.GiantBlock
	}
	return e.run()
}

// drop takes one reference to the blocks of a run away and appends those that
// have none left to free.
func (u *update) drop(r alloc.Run, free []alloc.Run) ([]alloc.Run, error) {
	counts := u.editCounts()
	err := u.fs.pieces(u.Read, counts, r.First, r.End(), func(p piece) error {
		if p.hole() {
			free = appendRun(free, alloc.Run{First: p.first, Count: p.count})
		}
		return nil
	})
	if err != nil {
		return free, err
	}
	e := mapEdit{u: u, in: counts, first: r.First, end: r.End(), quiet: true}
	e.replace = func(p piece) (int64, layout.Entry, bool) {
		if p.block == 1 {
			return -1, 0, false
		}
		return p.block - 1, 0, false
	}
	return free, e.run()
}

// loadCounts reads the map of reference counts of a pool that is being mounted.
func (fs *FS) loadCounts() (err error) {
	off := fs.inodeOffset(layout.CountsIno)
	fs.counts, err = layout.DecodeInode(fs.journal.View(off, layout.InodeSize), layout.CountsIno, off)
	return err
}

// divide parts a piece that has the flag shared into those runs that other files
// have, too, and those that are the file's alone by now. Without a transaction the
// former may have become the latter on return; never the other way round, as long
// as the inode is locked.
func (fs *FS) divide(p piece) (shared, sole []piece, err error) {
	err = fs.journal.Locked(func() error {
		return fs.pieces(fs.journal.View, &fs.counts, p.block, p.run().End(), func(c piece) error {
			part := p.clip(p.first+c.first-p.block, p.first+c.end()-p.block)
			if c.hole() {
				sole = append(sole, part)
			} else {
				shared = append(shared, part)
			}
			return nil
		})
	})
	return shared, sole, err
}

// claim takes the flag shared away from pieces that are the file's alone, before
// something is stored there in place. That the others have gone must be durable,
// too: a crash must not bring them back with what is stored.
func (in *inode) claim(sole []piece) error {
	if len(sole) == 0 {
		return nil
	}
	err := in.fs.transact(func(u *update) error {
		want := u.edit(in)
		in.changed(want)
		for _, p := range sole {
			if err := u.mark(want, p.first, p.end(), 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return in.fs.journal.Commit(in.metaLSN)
}
