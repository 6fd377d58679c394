package core

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// references checks the map of reference counts, compares it with the leaves that
// are marked shared, and claims their blocks.
func (c *checker) references() error {
	raw, at := c.slot(layout.CountsIno)
	in, err := layout.DecodeInode(raw, layout.CountsIno, at)
	if err != nil {
		c.damage(layout.CountsIno, err)
		return nil
	}
	if in.Type() != layout.ModeRegular || in.Nlink != 1 || in.Size != 0 || in.Flags != 0 || in.Xattrs != 0 {
		c.problem(Problem{Structure: "inode", Ino: in.Ino, Offset: at, Text: "is not one of reference counts"})
	}
	w := inodeCheck{c: c, in: &in, info: &inodeInfo{}, at: at}
	w.blockMap()
	w.counts()
	if err := c.compareCounts(&in); err != nil {
		if _, damaged := AsProblem(err); !damaged { // which blockMap has reported
			return err
		}
	}
	return c.ctx.Err()
}

// edge is where the number of leaves that map a block changes.
type edge struct {
	block int64
	by    int64
}

// compareCounts walks over the blocks that leaves are marked to share, once, and
// compares how many leaves there are with what the map says.
func (c *checker) compareCounts(in *layout.Inode) error {
	edges := make([]edge, 0, 2*len(c.shared))
	for _, r := range c.shared {
		edges = append(edges, edge{r.First, 1}, edge{r.End(), -1})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.block, b.block) })
	at, leaves := int64(0), int64(0)
	for _, e := range append(edges, edge{c.fs.sb.DataBlocks, 0}) {
		if e.block > at {
			if err := c.compareRun(in, alloc.Run{First: at, Count: e.block - at}, leaves); err != nil {
				return err
			}
			at = e.block
		}
		leaves += e.by
	}
	return nil
}

// compareRun compares the counts of a run of blocks with the number of leaves
// marked shared that map it.
func (c *checker) compareRun(in *layout.Inode, r alloc.Run, leaves int64) error {
	if leaves > 0 {
		if twice := c.blocks.add(r.First, r.Count); twice >= 0 {
			c.problem(Problem{Structure: "map entry", Offset: -1,
				Text: fmt.Sprintf("block %d is marked shared in one file, and another one has it as its own", twice)})
		}
	}
	return c.fs.pieces(c.fs.journal.View, in, r.First, r.End(), func(p piece) error {
		count := max(p.block, 0)
		if want := max(leaves-1, 0); count != want {
			c.problem(Problem{Structure: "reference count", Ino: layout.CountsIno, Offset: -1,
				Text: fmt.Sprintf("blocks %d to %d: %d, but %d files share them", p.first, p.end()-1, count, leaves)})
		}
		return nil
	})
}
