package core

import (
	"bytes"
	"errors"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// truncate sets the size, and what apply changes besides. Shrinking takes
// back what was granted beyond the new end; the blocks are freed in the same
// transaction when they are few, and in further ones when they are many (after
// a crash mount goes on with that).
func (in *inode) truncate(size int64, apply func(*layout.Inode)) error {
	if err := in.finishTruncate(); err != nil {
		return err
	}
	if err := in.mayResize(size); err != nil {
		return err
	}
	if size >= in.Size {
		return in.extend(size, apply)
	}
	fs := in.fs
	_, keep := blocksOf(0, size)
	_, end := blocksOf(0, in.Size)
	if err := in.ownPart(size, min(in.Size, layout.RoundUp(size, layout.BlockSize))); err != nil {
		return err
	}
	if err := fs.breaker.Break(in.ino, TakeAll, alloc.Run{First: keep, Count: end - keep}); err != nil {
		return err
	}
	u, err := fs.begin()
	if err != nil {
		return err
	}
	defer u.Abort()
	u.cuts = true
	want := u.edit(in)
	apply(want)
	want.Size = size
	in.modified(want)
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
		in.tailLeft = true
		if err := fs.freeTail(in, at); err != nil {
			return err
		}
	}
	// What the last block still holds behind the end is cleared for those who
	// have it mapped. It need not last: it is done again before the file grows.
	return in.clearTail()
}

// clearTail makes what is read in the last block behind the end of the file
// zeros.
func (in *inode) clearTail() error {
	q, at, n, err := in.tail(layout.RoundUp(in.Size, layout.BlockSize))
	if err != nil || n == 0 {
		return err
	}
	p := make([]byte, n)
	if err := in.access(func() { in.fs.data.Read(at, p) }, q); errors.As(err, new(*MediaError)) {
		return nil // nobody reads there, and when the block is healed it is zeros
	} else if err != nil || len(bytes.Trim(p, "\x00")) == 0 {
		return err
	}
	if err := in.settleCut(); err != nil {
		return err
	}
	if err := in.access(func() { in.fs.data.Zero(at, n) }, q); err != nil {
		return err
	}
	return in.fs.fenceData()
}

// finishTruncate frees what a truncate that a crash interrupted left behind
// the end, before anything is put there.
func (in *inode) finishTruncate() error {
	if !in.tailLeft {
		return nil
	}
	_, end := blocksOf(0, in.Size)
	return in.fs.freeTail(in, end)
}

// growTail makes the bytes from the end of the file up to offset to zeros,
// durable, where blocks are there already.
func (in *inode) growTail(to int64) error {
	if err := in.ownPart(in.Size, min(to, layout.RoundUp(in.Size, layout.BlockSize))); err != nil {
		return err
	}
	if err := in.settleCut(); err != nil {
		return err
	}
	stored, err := in.zeroTail(to)
	if err != nil || !stored {
		return err
	}
	return in.fs.fenceData()
}

func (in *inode) extend(size int64, apply func(*layout.Inode)) error {
	if err := in.growTail(size); err != nil {
		return err
	}
	return in.setAttr(func(want *layout.Inode) {
		apply(want)
		want.Size = size
		want.Mtime = in.fs.now()
	})
}

// freeTail frees the blocks from first on, step by step: it ends a truncate. A
// file that has a name is no orphan then. in.mu is held.
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
	in.tailLeft = false
	return nil
}
