package core

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// dirCheck checks one directory.
type dirCheck struct {
	inodeCheck
	names, subdirs int64
}

// directory checks a directory's tree and its names.
func (c *checker) directory(in *layout.Inode, info *inodeInfo) {
	_, at := c.slot(in.Ino)
	d := &dirCheck{inodeCheck: inodeCheck{c: c, in: in, info: info, at: at}}
	d.entry(in.Root[0], at+layout.InodeRoot, dirLevels, 0)
	for _, e := range in.Root[1:] {
		if e != 0 {
			d.problem("inode", at, "a directory has entries beside the first")
			break
		}
	}
	d.fields()
	d.xattrs()
	d.counts()
	if in.Height != 0 {
		d.problem("inode", at, "a directory of height %d", in.Height)
	}
	if in.Size != d.names {
		d.problem("inode", at, "%d names, but %d stand in the directory", in.Size, d.names)
	}
	if in.Nlink != 0 && int64(in.Nlink) != 2+d.subdirs {
		d.problem("inode", at, "link count %d, but the directory holds %d directories", in.Nlink, d.subdirs)
	}
}

// entry checks what an entry leads to, and returns how many entries in a row
// lead to the same: more than one for a bucket with a short prefix, 0 when
// the bucket is damaged.
func (d *dirCheck) entry(e layout.Entry, off int64, level int, hash uint64) (same int64) {
	if err := e.Verify(dirPlace(d.in.Ino, level, hash), off); err != nil {
		d.c.damage(d.in.Ino, err)
		return 1
	}
	switch {
	case e == 0:
		if level < dirLevels && d.in.Nlink > 0 { // those of a removed directory go one by one
			d.problem("directory node", off, "empty entry")
		}
	case e.Leaf() && e.Flags()&leafFlags != 0:
		d.problem("directory node", off, "flags %#x", uint64(e.Flags()))
	case e.Leaf():
		return d.bucket(layout.Node(e.Number()), off, level, hash)
	case level == 0:
		d.problem("directory node", off, "node at level 0")
	default:
		d.node(layout.Node(e.Number()), off, level, hash)
	}
	return 1
}

func (d *dirCheck) node(n layout.Node, from int64, level int, hash uint64) {
	node, ok := d.claim("directory node", n, from)
	if !ok {
		return
	}
	at := func(i int64) int64 { return node + i*layout.WordSize }
	under := func(i int64) uint64 { return hash + uint64(i)<<dirShift(level-1) }
	for i := int64(0); i < layout.Fanout; {
		e := word(d.c.fs.journal.View, at(i))
		same := d.entry(e, at(i), level-1, under(i))
		if same == 0 { // damaged: not reported again for each entry that leads to it
			for i++; i < layout.Fanout && word(d.c.fs.journal.View, at(i)).Number() == e.Number(); i++ {
			}
			continue
		}
		end := min(i+same, layout.Fanout)
		for i++; i < end; i++ {
			want := layout.MakeEntry(layout.EntryLeaf, e.Number(), dirPlace(d.in.Ino, level-1, under(i)))
			if got := word(d.c.fs.journal.View, at(i)); got != want {
				d.problem("directory node", at(i), "entry %#x, it should lead to the bucket in node %d", uint64(got), e.Number())
			}
		}
	}
}

// bucket checks a bucket and its names, and returns how many entries of level
// must lead to it.
func (d *dirCheck) bucket(n layout.Node, from int64, level int, hash uint64) (same int64) {
	at, ok := d.claim("directory node", n, from)
	if !ok {
		return 0
	}
	b, err := layout.OpenBucket(d.c.fs.journal.View(at, layout.BlockSize), d.in.Ino, hash, at)
	if err != nil {
		d.c.damage(d.in.Ino, err)
		return 0
	}
	open := layout.HashBits - b.Depth() // bits of the hash that the prefix leaves open
	if !fits(b, level) || b.Prefix() != hash {
		d.problem("directory bucket", at, "prefix %#x of %d bits, reached at level %d for %#x", b.Prefix(), b.Depth(), level, hash)
		return 0
	}
	d.slots(b, at)
	return 1 << (open - dirShift(level))
}

func (d *dirCheck) slots(b layout.Bucket, at int64) {
	slots, err := b.Slots(at)
	if err != nil {
		d.c.damage(d.in.Ino, err)
		return
	}
	slices.SortFunc(slots, func(a, b layout.Slot) int {
		return cmp.Or(cmp.Compare(a.Hash, b.Hash), cmp.Compare(a.Name, b.Name))
	})
	for i, s := range slots {
		d.names++
		d.c.sum.Names++
		if i > 0 && slots[i-1].Name == s.Name {
			d.problem("directory bucket", at, "name %q stands in it twice", s.Name)
		}
		if d.c.fs.hash(s.Name) != s.Hash {
			d.problem("directory bucket", at, "name %q has the hash %#x of another", s.Name, s.Hash)
		}
		d.child(s, at)
	}
}

// child checks the inode that a name leads to.
func (d *dirCheck) child(s layout.Slot, at int64) {
	info := d.c.info(s.Ino)
	if info == nil {
		d.problem("directory bucket", at, "name %q leads to %v, which is free", s.Name, s.Ino)
		return
	}
	info.links++
	info.parent = d.in.Ino
	raw, offset := d.c.slot(s.Ino)
	in, err := layout.DecodeInode(raw, s.Ino, offset)
	if err != nil {
		if uint32(s.Type)<<12 == layout.ModeDirectory {
			d.subdirs++ // the inode's damage is reported once
		}
		return
	}
	if uint32(s.Type)<<12 != in.Type() {
		d.problem("directory bucket", at, "name %q has type %#o, its inode %#o", s.Name, uint32(s.Type)<<12, in.Type())
	}
	if in.Type() == layout.ModeDirectory {
		d.subdirs++
		if in.Parent != d.in.Ino {
			d.problem("directory bucket", at, "name %q leads to %v, whose parent is %v", s.Name, s.Ino, in.Parent)
		}
	}
}

// connect checks that a directory's parents lead to the root. Each directory
// is passed once: what was seen to be connected, or reported, ends the walk.
func (c *checker) connect(ino layout.Ino) {
	var way []*inodeInfo
	for at := ino; at != layout.RootIno; {
		info := c.info(at)
		if info == nil || info.connected {
			break
		}
		info.connected = true
		way = append(way, info)
		raw, offset := c.slot(at)
		in, err := layout.DecodeInode(raw, at, offset)
		if err != nil || in.Nlink == 0 || in.Type() != layout.ModeDirectory {
			break
		}
		if next := c.info(in.Parent); next != nil && next.connected && slices.Contains(way, next) {
			c.problem(Problem{
				Structure: "directory", Ino: ino, Where: "?", Offset: -1,
				Text: fmt.Sprintf("is its own ancestor, or below one that is: %v", in.Parent),
			})
			break
		}
		at = in.Parent
	}
}

// path is the path of an inode, as far as it can be found out; "?" stands for
// what cannot.
func (c *checker) path(ino layout.Ino) string {
	const deepest = 64
	var names []string
	for len(names) < deepest && ino != layout.RootIno {
		parent, name := c.nameOf(ino)
		names = append(names, name)
		if parent == 0 {
			break
		}
		ino = parent
	}
	slices.Reverse(names)
	return "/" + strings.Join(names, "/")
}

// nameOf finds a name of an inode in the directory that leads to it.
func (c *checker) nameOf(ino layout.Ino) (parent layout.Ino, name string) {
	info := c.info(ino)
	raw, at := c.slot(ino)
	if info != nil {
		parent = info.parent
	}
	if in, err := layout.DecodeInode(raw, ino, at); err == nil && parent == 0 {
		parent = in.Parent
	}
	if c.info(parent) == nil {
		return 0, "?"
	}
	raw, at = c.slot(parent)
	dir, err := layout.DecodeInode(raw, parent, at)
	if err != nil || dir.Type() != layout.ModeDirectory {
		return 0, "?"
	}
	for from, found := Cookie(0), true; found; {
		list, err := c.fs.readDir(c.fs.journal.View, &dir, from, 1000)
		for _, e := range list {
			if e.Ino == ino {
				return parent, e.Name
			}
			from = e.Next
		}
		found = err == nil && len(list) > 0
	}
	return parent, "?"
}
