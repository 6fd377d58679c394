package core

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// cloning is the blocks of a file that another one is about to share, as far as
// that is left to do. Both inodes are locked.
type cloning struct {
	from, to   *inode
	first, end int64 // blocks of from
	at         int64 // block of to at which first comes
}

// step shares blocks until the transaction is full; where from reads as zeros to
// must have, and keeps, a hole. Clients can store to none of them any more.
func (s *cloning) step(u *update) (done bool, err error) {
	from, to := u.edit(s.from), u.edit(s.to)
	for s.first < s.end && u.Pages() < stepPages {
		p, err := u.fs.find(u.Read, from, s.first, s.end)
		if err != nil {
			return false, err
		}
		p = p.clip(s.first, s.end)
		if !p.zeros() {
			if err := u.shareWith(from, to, p, s.at); err != nil {
				return false, err
			}
		}
		s.first, s.at = p.end(), s.at+p.count
	}
	return s.first >= s.end, nil
}

// shareWith makes the blocks of a written piece of one file those of another one
// at block at.
func (u *update) shareWith(from, to *layout.Inode, p piece, at int64) error {
	if err := u.shareOnce(from, p); err != nil {
		return err
	}
	return u.mapRun(to, at, p.run(), layout.EntryShared)
}

// shareOnce marks a written piece of a file shared, and counts one more reference
// to its blocks.
func (u *update) shareOnce(in *layout.Inode, p piece) error {
	if !p.shared() {
		e := mapEdit{u: u, in: in, first: p.first, end: p.end(), quiet: true}
		e.replace = func(p piece) (int64, layout.Entry, bool) { return p.block, layout.EntryShared, false }
		if err := e.run(); err != nil {
			return err
		}
	}
	return u.share(p.run())
}

// still takes the right to store to [first, end) from clients, and makes durable
// what they have stored there: then the blocks can be shared. in.mu is held.
func (in *inode) still(first, end int64) error {
	fs := in.fs
	if first >= end || in.frozen { // nobody can store to it
		return nil
	}
	if err := in.mayChange(first, end); err != nil {
		return err
	}
	var stored []piece
	fs.breaker.Stored(in.ino, first, end-first, func(first, count int64) {
		stored = append(stored, hole(first, count))
	})
	if err := fs.breaker.Break(in.ino, TakeWrites, alloc.Run{First: first, Count: end - first}); err != nil || stored == nil {
		return err
	}
	for _, s := range stored {
		if err := in.flush(s.first, s.end()); err != nil {
			return err
		}
	}
	return fs.fenceData()
}

// flush writes back the lines of the blocks [first, end).
func (in *inode) flush(first, end int64) error {
	return in.fs.pieces(in.fs.journal.View, &in.Inode, first, end, func(p piece) error {
		if p.zeros() {
			return nil
		}
		return in.fs.flushRun(p.run())
	})
}

// Clone makes name in the directory a new file with the contents of n, the
// permission bits mode, and the owner that Create gives it. The two share their
// blocks until something is stored to one of them, which then gets a copy of the
// block. After a crash it has happened wholly or not at all.
//
// What clients have stored to n through mappings that they still have is in the
// clone, and durable when that is. Errors are those of Create, ENOSPC without free nodes, and
// ErrStatic or an error of the Breaker when blocks of n must not be shared; EINVAL
// or EISDIR when it is no regular file.
//
// Costs: as many entries of block maps as n's has, three times, in one transaction
// as long as it can hold them; a flush of each line that clients could store to.
func (n *Node) Clone(c Cred, dir layout.Ino, name string, mode uint32) (Attr, error) {
	if err := n.regular(); err != nil {
		return Attr{}, err
	}
	in := n.in
	d, err := in.fs.lockedDir(c, dir)
	if err != nil {
		return Attr{}, err
	}
	defer d.unlockPut()
	if err := in.fs.absent(&d.Inode, name); err != nil {
		return Attr{}, err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	to, err := in.clone(func(u *update) (*inode, error) {
		to, _, err := u.newInode(c, &d.Inode, layout.ModeRegular|mode&layout.ModePerm)
		return to, err
	}, func(u *update, want *layout.Inode) error {
		dw := u.edit(d)
		dw.Mtime, dw.Ctime = want.Btime, want.Btime
		return u.addName(dw, name, want.Ino, want.Mode)
	})
	if err != nil {
		return Attr{}, err
	}
	return attr(&to.Inode), nil
}

// clone makes an inode, by create, that shares all blocks of in, and lets finish
// name it. It is an orphan as long as it is not finished. in.mu is held, and nobody
// else knows of the new inode.
func (in *inode) clone(create func(*update) (*inode, error), finish func(*update, *layout.Inode) error) (to *inode, err error) {
	if err := in.finishTruncate(); err != nil {
		return nil, err
	}
	_, end := blocksOf(0, in.Size)
	return in.cloneBlocks(0, end, in.Size, create, finish)
}

// cloneBlocks is clone of the blocks [first, end), for a file of size bytes, which
// without finish stays an orphan.
func (in *inode) cloneBlocks(first, end, size int64, create func(*update) (*inode, error), finish func(*update, *layout.Inode) error) (to *inode, err error) {
	if err := in.still(first, end); err != nil {
		return nil, err
	}
	s := cloning{from: in, first: first, end: end}
	for done := false; !done; {
		err := in.fs.transact(func(u *update) (err error) {
			if s.to == nil {
				if s.to, err = create(u); err != nil {
					return err
				}
			}
			if done, err = s.step(u); err != nil {
				return err
			}
			want := u.edit(s.to)
			want.Origin = layout.Origin{Ino: in.ino, Generation: in.Generation, Block: uint64(first), Changes: in.Changes}
			if want.Size = size; !done || finish == nil {
				want.Nlink = 0
				return u.setOrphan(s.to)
			}
			if want.Nlink = 1; s.to.orphan {
				if err := u.clearOrphan(s.to); err != nil {
					return err
				}
			}
			want.Origin = in.lineage()
			want.Changes = want.Origin.Changes
			return finish(u, want)
		})
		if err != nil {
			if s.to != nil && s.to.orphan {
				in.fs.reclaimInode(s.to) // what that leaves the next mount frees
			}
			return nil, err
		}
	}
	return s.to, nil
}

// lineage is the origin of a clone of the inode: the inode; or that of which it is
// itself a clone, as long as nothing has been stored to it: so what an inode comes
// from can be found out when those in between are gone. A clone begins with the
// changes of its origin; when it still has as many its contents are the same.
func (in *inode) lineage() layout.Origin {
	if in.Origin.Ino != 0 && in.Origin.Block == 0 && in.Origin.Changes == in.Changes {
		return in.Origin
	}
	return layout.Origin{Ino: in.ino, Generation: in.Generation, Changes: in.Changes}
}

// CloneRange makes the blocks of src from byte srcOff on those of n from byte off
// on, too: length bytes, or all up to the end of src when length is 0. They replace
// what n has there, and n grows to hold them. The two may be one file.
//
// Offsets and the length are multiples of 4096; the length need not be when the
// range ends with src, and n not behind it. EINVAL: else, or when the range
// reaches beyond src, or overlaps itself. Other errors and costs are those of
// Clone; see ioctl_ficlonerange(2). It goes in steps, each atomic, one if a
// transaction can hold it: before the last one n may have zeros there, or its end.
func (n *Node) CloneRange(off int64, src *Node, srcOff, length int64) error {
	if err := n.writable(off, length); err != nil {
		return err
	}
	if err := src.regular(); err != nil {
		return err
	}
	defer lockBoth(n.in, src.in)()
	if length == 0 {
		length = max(src.in.Size-srcOff, 0)
	}
	if err := n.writable(off, length); err != nil {
		return err
	}
	return n.in.share(off, src.in, srcOff, length)
}

func (in *inode) share(off int64, src *inode, srcOff, length int64) error {
	if err := in.mayClone(off, src, srcOff, length); err != nil || length == 0 {
		return err
	}
	return in.cloneRange(off, src, srcOff, length)
}

// lockBoth locks two inodes, in the order of their numbers; they may be the same.
func lockBoth(a, b *inode) (unlock func()) { return inOrder(a, b, &a.mu, &b.mu) }

// rlockBoth is lockBoth for reading.
func rlockBoth(a, b *inode) (unlock func()) { return inOrder(a, b, a.mu.RLocker(), b.mu.RLocker()) }

func inOrder(a, b *inode, first, second sync.Locker) (unlock func()) {
	if a.ino > b.ino {
		first, second = second, first
	}
	first.Lock()
	if a == b {
		return first.Unlock
	}
	second.Lock()
	return func() { second.Unlock(); first.Unlock() }
}

// mayClone checks the range of CloneRange.
func (in *inode) mayClone(off int64, src *inode, srcOff, length int64) error {
	whole := length%layout.BlockSize == 0 || srcOff+length == src.Size && off+length >= in.Size
	overlap := in == src && off < srcOff+length && srcOff < off+length
	switch {
	case off%layout.BlockSize != 0 || srcOff%layout.BlockSize != 0 || srcOff < 0 || !whole || overlap:
		return unix.EINVAL
	case srcOff > src.Size || length > src.Size-srcOff:
		return unix.EINVAL
	case length == 0:
		return nil
	}
	if err := in.mayResize(max(in.Size, off+length)); err != nil {
		return err
	}
	first, end := blocksOf(off, length)
	return in.mayChange(first, end)
}

func (in *inode) cloneRange(off int64, src *inode, srcOff, length int64) error {
	for _, f := range []*inode{in, src} {
		if err := f.finishTruncate(); err != nil {
			return err
		}
	}
	s := cloning{from: src, to: in, at: off / layout.BlockSize}
	s.first, s.end = blocksOf(srcOff, length)
	if err := src.still(s.first, s.end); err != nil {
		return err
	}
	freed, end := blocksOf(off, length)
	if err := in.takeAll(freed, end); err != nil {
		return err
	}
	if off > in.Size {
		if err := in.growTail(off); err != nil {
			return err
		}
	}
	for done := false; !done; {
		err := in.fs.transact(func(u *update) (err error) {
			want := u.edit(in)
			in.modified(want)
			u.cuts = true
			if freed, err = u.freeStep(want, freed, end); err != nil || freed < end {
				return err
			}
			u.frees = false
			done, err = s.step(u)
			// Nothing that is written may lie behind the end.
			want.Size = max(want.Size, off+min(length, s.first*layout.BlockSize-srcOff))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
