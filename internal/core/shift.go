package core

import (
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// shift moves everything from byte off of the file on by length bytes, towards its
// start, over what is cut out (CollapseRange), or towards its end, behind the hole
// that is put in (InsertRange). No contents move, only the map does.
//
// Both are multiples of 4096: EINVAL, also for a range that reaches to the end of
// the file or beyond, or an offset there. It is one transaction; EFBIG when what
// is behind off has more pieces than a record can hold.
func (in *inode) shift(off, length int64, insert bool) error {
	cut := off // where what moves begins
	if !insert {
		cut += length
	}
	switch {
	case off%layout.BlockSize != 0 || length%layout.BlockSize != 0 || cut >= in.Size:
		return unix.EINVAL
	case insert && length > layout.MaxFileSize-in.Size:
		return unix.EFBIG
	}
	size, by := in.Size-length, -length/layout.BlockSize
	if insert {
		size, by = in.Size+length, -by
	}
	if in.static() {
		return ErrStatic
	}
	_, end := blocksOf(0, in.Size)
	first := off / layout.BlockSize
	if err := in.mayChange(first, end); err != nil {
		return err
	}
	if err := in.takeAll(first, end); err != nil {
		return err
	}
	var moved []piece
	err := in.fs.pieces(in.fs.journal.View, &in.Inode, cut/layout.BlockSize, mapEnd, func(p piece) error {
		if !p.hole() {
			moved = append(moved, p)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return in.fs.transact(func(u *update) error {
		want := u.edit(in)
		u.cuts = true
		want.Size = size
		in.modified(want)
		if _, _, err := u.unmap(want, cut/layout.BlockSize, mapEnd); err != nil {
			return err
		}
		if err := u.freeBlocks(want, first, mapEnd); err != nil {
			return err
		}
		for _, p := range moved {
			if err := u.mapRun(want, p.first+by, p.run(), p.flags); err != nil {
				return err
			}
		}
		return nil
	})
}
