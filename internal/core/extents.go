package core

import (
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

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
			Unwritten: p.unwritten(), Shared: p.shared(),
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
