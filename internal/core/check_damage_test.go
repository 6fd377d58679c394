package core

import (
	"context"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// damageCase breaks one rule by a transaction whose checksums are all right:
// as a mistake of the program would.
type damageCase struct {
	name   string
	damage func(d *damager)
	want   string // in one of the problems
}

// damager builds the transaction.
type damager struct {
	t  *testing.T
	fs *FS
	u  *update
}

// inode is the inode at a path, edited by the transaction.
func (d *damager) inode(path string) *layout.Inode {
	d.t.Helper()
	a := must[Attr](d.t)(d.fs.Resolve(root, path, false))
	in := must[*inode](d.t)(d.fs.get(a.Ino))
	d.t.Cleanup(in.put)
	return d.u.edit(in)
}

func (d *damager) check(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// slot changes the entry of a name and seals the bucket.
func (d *damager) slot(dir, name string, change func(b []byte)) {
	d.t.Helper()
	in := d.inode(dir)
	s, ok, err := d.fs.findBucket(d.u.Read, in, d.fs.hash(name))
	slot, found := s.bucket.Find(d.fs.hash(name), name)
	if err != nil || !ok || !found {
		d.t.Fatal(name, ok, found, err)
	}
	b := layout.Bucket{Bytes: d.u.Edit(s.at, layout.BlockSize)}
	at := strings.Index(string(b.Bytes), string(binary.LittleEndian.AppendUint64(nil, slot.Hash)))
	change(b.Bytes[at:])
	b.Seal()
}

// entry is the word that maps a block of a file, with its place.
func (d *damager) entry(path string, block int64) (e layout.Entry, off int64, at layout.Place) {
	in := d.inode(path)
	if in.Height != 1 {
		d.t.Fatalf("%s has height %d", path, in.Height)
	}
	node, err := d.fs.nodeOffset(layout.Node(in.Root[block/layout.Fanout].Number()))
	d.check(err)
	off = node + block%layout.Fanout*layout.WordSize
	return word(d.u.Read, off), off, layout.Place{Ino: in.Ino, Position: uint64(block)}
}

func (d *damager) setEntry(off int64, e layout.Entry) {
	d.u.Write(off, binary.LittleEndian.AppendUint64(nil, uint64(e)))
}

var damageCases = []damageCase{
	{"link count too high", func(d *damager) { d.inode("a/sub/g").Nlink++ }, "link count 2, but 1 names"},
	{"link count too low", func(d *damager) { d.inode("a/f").Nlink-- }, "link count 1, but 2 names"},
	{"link count of a directory", func(d *damager) { d.inode("a").Nlink++ }, "link count 4, but the directory holds 1"},
	{"no links, no orphan", func(d *damager) { d.inode("a/sub/g").Nlink = 0 }, "no orphan bit"},
	{"name lost", func(d *damager) { d.check(d.u.removeName(d.inode("a/sub"), "g")) }, "no name leads to it"},
	{"directory lost", func(d *damager) { d.check(d.u.removeName(d.inode("a"), "sub")) }, "no name leads to it"},
	{"size of a directory", func(d *damager) { d.inode("a").Size++ }, "5 names, but 4 stand"},
	{"parent", func(d *damager) { d.inode("a/sub").Parent = layout.RootIno }, "whose parent is inode 1"},
	{"name to a free inode", func(d *damager) {
		d.slot("b", "link", func(b []byte) { binary.LittleEndian.PutUint64(b[8:], 400) })
	}, "which is free"},
	{"type in a name", func(d *damager) { d.slot("b", "link", func(b []byte) { b[16] = 8 }) }, "has type"},
	{"name under a wrong hash", func(d *damager) { d.slot("b", "link", func(b []byte) { b[18] = 'X' }) }, "has the hash"},
	{"name twice", func(d *damager) {
		in := d.inode("b")
		d.check(d.u.addName(in, "link", d.inode("b/link").Ino, layout.ModeSymlink))
		d.inode("b/link").Nlink++
	}, "twice"},
	{"directory of two names", func(d *damager) {
		d.check(d.u.addName(d.inode("b"), "second", d.inode("a/sub").Ino, layout.ModeDirectory))
		d.inode("b").Nlink++
	}, "2 names lead to a directory"},
	{"cycle", func(d *damager) {
		sub := d.inode("a/sub")
		a := d.inode("a")
		d.check(d.u.removeName(d.inode("/"), "a"))
		d.inode("/").Nlink--
		d.check(d.u.addName(sub, "a", a.Ino, layout.ModeDirectory))
		a.Parent = sub.Ino
		sub.Nlink++
	}, "its own ancestor"},
	{"blocks", func(d *damager) { d.inode("b/map").Blocks++ }, "blocks, but it maps"},
	{"nodes", func(d *damager) { d.inode("b/map").Nodes++ }, "nodes, but it refers to"},
	{"block lost", func(d *damager) {
		runs, err := d.fs.blocks.Reserve(nil, 3, -1)
		d.check(err)
		d.check(d.fs.blocks.Take(&d.u.Tx, runs...))
	}, "nothing refers to them"},
	{"block free", func(d *damager) {
		e, _, _ := d.entry("b/map", 20)
		d.check(d.fs.blocks.Release(&d.u.Tx, alloc.Run{First: int64(e.Number()), Count: 1}))
	}, "free in the bitmap, but in use"},
	{"block twice", func(d *damager) {
		e, _, _ := d.entry("b/map", 20)
		_, off, at := d.entry("b/map", 21)
		d.setEntry(off, layout.MakeEntry(layout.EntryLeaf, e.Number(), at))
	}, "which something else maps, too"},
	{"block out of range", func(d *damager) {
		_, off, at := d.entry("b/map", 21)
		d.setEntry(off, layout.MakeEntry(layout.EntryLeaf, 1<<39, at))
	}, "out of range"},
	{"entry of another place", func(d *damager) {
		e, _, _ := d.entry("b/map", 20)
		_, off, _ := d.entry("b/map", 21)
		d.setEntry(off, e)
	}, "check does not match"},
	{"written blocks behind the end", func(d *damager) { d.inode("b/map").Size = 22 * page }, "8 written blocks behind the end"},
	{"static with a hole", func(d *damager) { d.inode("b/map").Flags = layout.FlagStatic }, "static, but block 2 of 30"},
	{"static and unwritten", func(d *damager) {
		in := d.inode("b/big")
		in.Flags, in.Size = layout.FlagStatic, 4*page
	}, "static, but block 3 of 4"},
	{"static and shared", func(d *damager) {
		in := d.inode("a/f")
		in.Flags = layout.FlagStatic
		in.Root[1] = layout.MakeEntry(in.Root[1].Flags()|layout.EntryShared, in.Root[1].Number(), layout.Place{Ino: in.Ino, Position: 1})
	}, "static, but block 1 of 2"},
	{"shared by nobody else", func(d *damager) {
		in := d.inode("a/f")
		in.Root[0] = layout.MakeEntry(in.Root[0].Flags()|layout.EntryShared, in.Root[0].Number(), layout.Place{Ino: in.Ino})
		d.check(d.u.share(alloc.Run{First: int64(in.Root[0].Number()), Count: 1}))
	}, "1, but 1 files share them"},
	{"a count too high", func(d *damager) {
		d.check(d.u.share(alloc.Run{First: int64(d.inode("b/shared").Root[0].Number()), Count: 1}))
	}, "2, but 2 files share them"},
	{"a count too low", func(d *damager) {
		_, err := d.u.drop(alloc.Run{First: int64(d.inode("b/shared").Root[0].Number()), Count: 4}, nil)
		d.check(err)
	}, "0, but 2 files share them"},
	{"a count of free blocks", func(d *damager) { d.check(d.u.share(alloc.Run{First: 1000, Count: 1})) }, "1, but 0 files share them"},
	{"shared in one file only", func(d *damager) {
		in := d.inode("b/shared")
		in.Root[0] = layout.MakeEntry(layout.EntryLeaf, in.Root[0].Number(), layout.Place{Ino: in.Ino})
	}, "marked shared in one file, and another one has it as its own"},
	{"shared and unwritten", func(d *damager) {
		in := d.inode("b/shared")
		in.Root[0] = layout.MakeEntry(in.Root[0].Flags()|layout.EntryUnwritten, in.Root[0].Number(), layout.Place{Ino: in.Ino})
	}, "both shared and unwritten"},
	{"counts in a file", func(d *damager) { d.u.editCounts().Nlink = 2 }, "not one of reference counts"},
	{"counts that are no map", func(d *damager) { d.u.editCounts().Root[0] ^= 1 << 20 }, "check does not match"},
	{"empty node", func(d *damager) {
		_, off, _ := d.entry("b/map", 0)
		d.u.Zero(off / page * page)
	}, "is empty"},
	{"node lost", func(d *damager) {
		runs, err := d.fs.nodes.Reserve(nil, 1, -1)
		d.check(err)
		d.check(d.fs.nodes.Take(&d.u.Tx, runs...))
	}, "nothing refers to them"},
	{"node twice", func(d *damager) { d.inode("a/sub").Xattrs = d.inode("a/f").Xattrs }, "which something else refers to, too"},
	{"blob of another", func(d *damager) {
		d.inode("a/sub").Xattrs, d.inode("a/f").Xattrs = d.inode("a/f").Xattrs, 0
	}, "belongs to inode"},
	{"attributes out of order", func(d *damager) {
		in := d.inode("a/f")
		d.check(d.u.freeBlob(in, in.Xattrs))
		var err error
		in.Xattrs, err = d.u.writeBlob(in, encodeXattrs([]xattr{{"user.b", nil}, {"user.a", nil}}))
		d.check(err)
	}, "stands before"},
	{"size of a target", func(d *damager) { d.inode("b/link").Size++ }, "target of 6 bytes, size 7"},
	{"file with a parent", func(d *damager) { d.inode("a/f").Parent = 1 }, "has a parent"},
	{"inode used, slot free", func(d *damager) {
		runs, err := d.fs.inodes.Reserve(nil, 1, -1)
		d.check(err)
		d.check(d.fs.inodes.Take(&d.u.Tx, runs...))
	}, "its slot is free"},
	{"inode free, slot used", func(d *damager) {
		ino := d.inode("a/sub/g").Ino
		d.check(d.fs.inodes.Release(&d.u.Tx, alloc.Run{First: int64(ino), Count: 1}))
	}, "free in the bitmap, but its slot is not"},
	{"orphan with a name", func(d *damager) {
		runs, err := d.fs.orphans.Reserve(nil, 1, int64(d.inode("b/link").Ino))
		d.check(err)
		d.check(d.fs.orphans.Take(&d.u.Tx, runs...))
	}, "an inode that has a name"},
	{"orphan that is free", func(d *damager) {
		runs, err := d.fs.orphans.Reserve(nil, 1, 300)
		d.check(err)
		d.check(d.fs.orphans.Take(&d.u.Tx, runs...))
	}, "is in it, but free"},
	{"chunk count", func(d *damager) {
		off := d.fs.sb.BlockBitmap.Chunks.Offset
		d.u.Edit(off, layout.WordSize)[0]++
	}, "bits are set"},
	{"bits of a free chunk", func(d *damager) {
		d.u.Edit(d.fs.sb.BlockBitmap.Bits.Offset+3*layout.LineSize, layout.WordSize)[0]++
	}, "checksum does not match"},
}

// TestCheckFindsDamage breaks every rule that Check verifies.
func TestCheckFindsDamage(t *testing.T) {
	for _, c := range damageCases {
		t.Run(c.name, func(t *testing.T) {
			meta, data := smallAreas(t)
			o := prepare(t, meta, data)
			d := &damager{t: t, fs: o.fs}
			// Paths are looked up first: a transaction holds the builder's lock.
			for _, path := range []string{"/", "a", "b", "a/sub", "a/f", "a/sub/g", "b/map", "b/big", "b/link"} {
				in := must[*inode](t)(o.fs.get(must[Attr](t)(o.fs.Resolve(root, path, false)).Ino))
				defer in.put()
			}
			u, err := o.fs.begin()
			if err != nil {
				t.Fatal(err)
			}
			d.u = u
			c.damage(d)
			if err := u.commit(); err != nil {
				t.Fatal(err)
			}
			fs := must[*FS](t)(Mount(meta, data, Options{ReadOnly: true}))
			var problems []string
			sum, err := fs.Check(context.Background(), func(p Problem) { problems = append(problems, p.String()) })
			if err != nil || sum.Problems != int64(len(problems)) {
				t.Errorf("%+v, %v, %d reported", sum, err, len(problems))
			}
			if all := strings.Join(problems, "\n"); !strings.Contains(all, c.want) {
				t.Errorf("no problem says %q:\n%s", c.want, all)
			}
			if len(problems) > 6 {
				t.Errorf("one mistake gives %d problems:\n%s", len(problems), strings.Join(problems, "\n"))
			}
		})
	}
}
