package core

import (
	"fmt"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// inodeInfo is what a check knows of an inode in use.
type inodeInfo struct {
	used      bool
	orphan    bool       // its orphan bit is set
	connected bool       // a directory: its parents lead to the root, or that was reported
	links     uint32     // names that lead to it
	parent    layout.Ino // directory of one of them
}

type infoChunk [layout.ChunkUnits]inodeInfo

// info returns what is known of an inode, nil when it is not in use.
func (c *checker) info(ino layout.Ino) *inodeInfo {
	chunk := uint64(ino) / layout.ChunkUnits
	if chunk >= uint64(len(c.inodes)) || c.inodes[chunk] == nil {
		return nil
	}
	if info := &c.inodes[chunk][ino%layout.ChunkUnits]; info.used {
		return info
	}
	return nil
}

func (c *checker) slot(ino layout.Ino) (raw []byte, offset int64) {
	offset = c.fs.sb.InodeTable.Offset + int64(ino)*layout.InodeSize
	return c.fs.journal.View(offset, layout.InodeSize), offset
}

// eachInode calls fn for every inode in use.
func (c *checker) eachInode(fn func(ino layout.Ino, info *inodeInfo) error) error {
	for chunk, page := range c.inodes {
		for i := 0; page != nil && i < layout.ChunkUnits; i++ {
			if !page[i].used {
				continue
			}
			ino := layout.Ino(chunk*layout.ChunkUnits + i)
			if err := c.guarded(func() error { return fn(ino, &page[i]) }); err != nil {
				return err
			}
			c.progress()
		}
	}
	return nil
}

// directories checks all directories, and the slots of the inode table. It
// counts the names that lead to each inode.
func (c *checker) directories() error {
	c.freeSlots()
	return c.eachInode(func(ino layout.Ino, info *inodeInfo) error {
		raw, at := c.slot(ino)
		if layout.SlotFree(raw) {
			c.problem(Problem{Structure: "inode bitmap", Ino: ino, Offset: at, Text: "the inode is used in the bitmap, but its slot is free"})
			return nil
		}
		in, err := layout.DecodeInode(raw, ino, at)
		if err != nil {
			c.damage(ino, err)
			return nil
		}
		if in.Type() == layout.ModeDirectory {
			c.sum.Directories++
			c.directory(&in, info)
		}
		return nil
	})
}

// freeSlots reports inodes in slots that are free. Slots far from any that is
// in use are not looked at: a pool has very many.
func (c *checker) freeSlots() {
	for chunk, page := range c.inodes {
		for i := 0; page != nil && i < layout.ChunkUnits; i++ {
			ino := layout.Ino(chunk*layout.ChunkUnits + i)
			if raw, at := c.slot(ino); !page[i].used && ino != layout.CountsIno && !layout.SlotFree(raw) {
				c.problem(Problem{Structure: "inode", Offset: at, Text: fmt.Sprintf("%v is free in the bitmap, but its slot is not", ino)})
			}
		}
	}
}

// others checks everything that is not a directory, and how names lead to
// inodes.
func (c *checker) others() error {
	return c.eachInode(func(ino layout.Ino, info *inodeInfo) error {
		raw, at := c.slot(ino)
		in, err := layout.DecodeInode(raw, ino, at)
		if err != nil {
			return nil // directories reported it
		}
		w := inodeCheck{c: c, in: &in, info: info, at: at}
		w.links()
		switch in.Type() {
		case layout.ModeDirectory:
			c.connect(ino)
			return nil
		case layout.ModeRegular:
			c.sum.Files++
			w.blockMap()
		case layout.ModeSymlink:
			c.sum.Symlinks++
			w.target()
		default:
			c.sum.Others++
		}
		w.fields()
		w.xattrs()
		w.counts()
		return nil
	})
}

// inodeCheck checks one inode.
type inodeCheck struct {
	c             *checker
	in            *layout.Inode
	info          *inodeInfo
	at            int64 // offset of the inode
	blocks, nodes int64 // found so far
	behind        int64 // written blocks behind the end of the file, found so far
	behindAt      int64 // offset of the entry that maps the first of them
	filled        int64 // so many blocks from the start of a file are written and not shared
}

func (w *inodeCheck) problem(structure string, offset int64, format string, args ...any) {
	w.c.problem(Problem{Structure: structure, Ino: w.in.Ino, Offset: offset, Text: fmt.Sprintf(format, args...)})
}

// claim notes that the inode refers to a node, and returns its offset.
func (w *inodeCheck) claim(structure string, n layout.Node, from int64) (offset int64, ok bool) {
	w.nodes++
	offset, err := w.c.fs.nodeOffset(n)
	switch {
	case err != nil:
		w.problem(structure, from, "refers to node %d, which is out of range", uint64(n))
		return 0, false
	case w.c.nodes.add(int64(n)-1, 1) >= 0:
		w.problem(structure, from, "refers to node %d, which something else refers to, too", uint64(n))
		return 0, false
	}
	w.c.sum.Nodes++
	return offset, true
}

// links checks how many names lead to the inode.
func (w *inodeCheck) links() {
	in, info := w.in, w.info
	switch {
	case in.Ino == layout.RootIno:
		if info.links != 0 {
			w.problem("directory", w.at, "%d names lead to the root", info.links)
		}
		if in.Parent != layout.RootIno || info.orphan {
			w.problem("inode", w.at, "the root's parent is %v, orphan %v", in.Parent, info.orphan)
		}
	case in.Nlink == 0 && !info.orphan:
		w.problem("inode", w.at, "link count 0, but no orphan bit")
	case in.Nlink == 0 && info.links > 0:
		w.problem("inode", w.at, "link count 0, but %d names lead to it", info.links)
	case in.Nlink > 0 && info.links == 0:
		w.problem("inode", w.at, "link count %d, but no name leads to it", in.Nlink)
	case in.Type() == layout.ModeDirectory:
		if info.links > 1 {
			w.problem("inode", w.at, "%d names lead to a directory", info.links)
		}
		if in.Nlink > 0 && info.orphan {
			w.problem("orphan bitmap", -1, "a directory that has a name is in it")
		}
	case in.Nlink != info.links:
		w.problem("inode", w.at, "link count %d, but %d names lead to it", in.Nlink, info.links)
	case in.Nlink > 0 && info.orphan && in.Type() != layout.ModeRegular:
		w.problem("orphan bitmap", -1, "an inode that has a name and no blocks is in it")
	}
}

// fields checks what an inode of its type cannot have.
func (w *inodeCheck) fields() {
	in := w.in
	file, link := in.Type() == layout.ModeRegular, in.Type() == layout.ModeSymlink
	switch {
	case in.Type() != layout.ModeDirectory && in.Parent != 0:
		w.problem("inode", w.at, "has a parent, %v, but is no directory", in.Parent)
	case !link && in.Target != 0:
		w.problem("inode", w.at, "has a target, but is no symbolic link")
	case in.Type() != layout.ModeDirectory && !file && (in.Root != [rootFanout]layout.Entry{} || in.Height != 0):
		w.problem("inode", w.at, "has a block map, but is no file")
	case !file && !link && in.Type() != layout.ModeDirectory && in.Size != 0:
		w.problem("inode", w.at, "has %d bytes, but can hold none", in.Size)
	}
}

// counts compares what was found with the inode.
func (w *inodeCheck) counts() {
	if w.blocks != w.in.Blocks {
		w.problem("inode", w.at, "%d blocks, but it maps %d", w.in.Blocks, w.blocks)
	}
	if w.nodes != w.in.Nodes {
		w.problem("inode", w.at, "%d nodes, but it refers to %d", w.in.Nodes, w.nodes)
	}
}

// blob reads a chain of nodes.
func (w *inodeCheck) blob(first layout.Node) (content []byte, ok bool) {
	from, err := w.at, error(nil)
	total := -1
	for n := first; n != 0; {
		off, fresh := w.claim("blob", n, from)
		if !fresh {
			return nil, false
		}
		part, next, all, e := layout.DecodeBlob(w.c.fs.journal.View(off, layout.BlockSize), w.in.Ino, off)
		if err = e; err != nil {
			w.c.damage(w.in.Ino, err)
			return nil, false
		}
		if total < 0 {
			total = all
		}
		content = append(content, part...)
		if all != total || len(content) > total || next != 0 && len(part) != layout.BlobPayload {
			w.problem("blob", off, "%d bytes of %d, of %d in all", len(part), all, total)
			return nil, false
		}
		n, from = next, off
	}
	if first != 0 && len(content) != total {
		w.problem("blob", from, "ends after %d bytes of %d", len(content), total)
		return nil, false
	}
	return content, true
}

func (w *inodeCheck) xattrs() {
	content, ok := w.blob(w.in.Xattrs)
	if !ok {
		return
	}
	all, err := decodeXattrs(content)
	if err != nil {
		w.c.damage(w.in.Ino, err)
	}
	for i := 1; i < len(all); i++ {
		if all[i-1].name >= all[i].name {
			w.problem("extended attributes", -1, "%q stands before %q", all[i-1].name, all[i].name)
		}
	}
}

func (w *inodeCheck) target() {
	target, ok := w.blob(w.in.Target)
	if ok && w.in.Nlink > 0 && (len(target) == 0 || len(target) > layout.MaxTarget || int64(len(target)) != w.in.Size) {
		w.problem("inode", w.at, "target of %d bytes, size %d", len(target), w.in.Size)
	}
}

// blockMap checks the block map of a file.
func (w *inodeCheck) blockMap() {
	span := layout.Span(int(w.in.Height))
	for i, e := range w.in.Root {
		w.mapEntry(e, w.at+layout.InodeRoot+int64(i)*layout.WordSize, int(w.in.Height), int64(i)*span)
	}
	if w.behind > 0 {
		_, end := blocksOf(0, w.in.Size)
		w.problem("map entry", w.behindAt, "maps the first of %d written blocks behind the end of the file, which is before block %d", w.behind, end)
	}
	if _, end := blocksOf(0, w.in.Size); w.in.Flags&layout.FlagStatic != 0 && w.filled < end {
		w.problem("inode", w.at, "static, but block %d of %d is a hole, unwritten or shared", w.filled, end)
	}
}

func (w *inodeCheck) mapEntry(e layout.Entry, off int64, level int, base int64) {
	if err := e.Verify(layout.Place{Ino: w.in.Ino, Level: level, Position: uint64(base)}, off); err != nil {
		w.c.damage(w.in.Ino, err)
		return
	}
	switch {
	case e == 0:
	case e.Leaf():
		w.mapLeaf(e, off, base, layout.Span(level))
	default:
		w.mapNode(layout.Node(e.Number()), off, level, base)
	}
}

func (w *inodeCheck) mapNode(n layout.Node, from int64, level int, base int64) {
	node, ok := w.claim("map entry", n, from)
	if !ok {
		return
	}
	empty := true
	for i := range int64(layout.Fanout) {
		off := node + i*layout.WordSize
		e := word(w.c.fs.journal.View, off)
		empty = empty && e == 0
		w.mapEntry(e, off, level-1, base+i*layout.Span(level-1))
	}
	if empty {
		w.problem("map node", node, "is empty")
	}
}

func (w *inodeCheck) mapLeaf(e layout.Entry, off, base, span int64) {
	p, err := w.c.fs.leaf(w.in.Ino, e, base, span, off)
	if err != nil {
		w.c.damage(w.in.Ino, err)
		return
	}
	w.blocks += span
	if p.counts {
		w.c.sum.Shared += span * p.block
		return
	}
	w.c.sum.Blocks += span
	if p.shared() {
		w.c.shared = append(w.c.shared, p.run())
	} else if twice := w.c.blocks.add(p.block, span); twice >= 0 {
		w.problem("map entry", off, "maps block %d, which something else maps, too", twice)
	}
	if p.shared() && p.unwritten() {
		w.problem("map entry", off, "is both shared and unwritten")
	}
	if base == w.filled && p.flags == 0 {
		w.filled += span
	}
	_, end := blocksOf(0, w.in.Size)
	switch {
	case base+span > layout.MaxFileSize/layout.BlockSize:
		w.problem("map entry", off, "maps blocks from %d on, behind the longest file", base)
	case base+span > end && !p.unwritten() && !w.info.orphan:
		if w.behind == 0 {
			w.behindAt = off
		}
		w.behind += base + span - max(base, end)
	}
}
