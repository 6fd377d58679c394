package core

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// copyStep is how many bytes CopyRange copies at a time, while both inodes are
// locked.
const copyStep = 1 << 20

// CopyRange gives n from byte off on what src has from byte srcOff on: length
// bytes at most, and not beyond the end of src. It returns how many those were, 0
// at the end of src: at will fewer than asked for, so that others have their turn.
// The two may be one file, whose ranges may not overlap.
//
// Where both offsets lie alike in their blocks it shares whole blocks, as
// CloneRange does, unless blocks of one of them must not be shared. All else it
// copies: then holes become zeros, and the errors and the cost are those of
// WriteAt. See copy_file_range(2).
func (n *Node) CopyRange(off int64, src *Node, srcOff, length int64) (int64, error) {
	if err := n.writable(off, 0); err != nil {
		return 0, err
	}
	if err := src.regular(); err != nil {
		return 0, err
	}
	if srcOff < 0 || length < 0 {
		return 0, unix.EINVAL
	}
	defer lockBoth(n.in, src.in)()
	length = min(length, max(src.in.Size-srcOff, 0))
	switch {
	case n.in == src.in && off < srcOff+length && srcOff < off+length:
		return 0, unix.EINVAL
	case off+length > layout.MaxFileSize:
		return 0, unix.EFBIG
	case length == 0:
		return 0, nil
	}
	return n.in.copyPart(off, src.in, srcOff, length)
}

// copyPart shares what can be shared at the beginning of a range, or copies what
// comes before that.
func (in *inode) copyPart(off int64, src *inode, srcOff, length int64) (int64, error) {
	if off%layout.BlockSize == srcOff%layout.BlockSize {
		if head := -off & (layout.BlockSize - 1); head > 0 {
			length = min(length, head)
		} else if whole := in.sharable(off, src, srcOff, length); whole > 0 {
			err := in.share(off, src, srcOff, whole)
			if err == nil {
				return whole, nil
			}
			if !errors.Is(err, unix.EBUSY) { // else blocks are sealed, or a client does not give them up
				return 0, err
			}
		}
	}
	p := make([]byte, min(length, copyStep))
	if err := src.read(p, srcOff); err != nil {
		return 0, err
	}
	written, err := in.writeAll(p, off)
	if written > 0 {
		err = nil // who comes back for the rest gets it then
	}
	return int64(written), err
}

// sharable is how much of a range that begins with a block is whole blocks, or the
// last one of both files.
func (in *inode) sharable(off int64, src *inode, srcOff, length int64) int64 {
	if srcOff+length == src.Size && off+length >= in.Size {
		return length
	}
	return length / layout.BlockSize * layout.BlockSize
}
