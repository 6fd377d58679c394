package core

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// operation is one operation on the tree that prepare makes, for tests that
// look at each operation: what it costs, what a power cut in it leaves.
type operation struct {
	name string
	kind opKind
	// lines is what an inPlace operation streams to the data area.
	lines int64
	run   func(o *opTree) error
}

type opKind uint8

const (
	metadata opKind = iota // one transaction: exactly one fence
	newData                // data is stored and fenced before the transaction
	inPlace                // data over existing blocks: the lines and one fence, no transaction
	mixed                  // both at once: not atomic for the bytes in place
	nothing                // stores nothing
	several                // more than one transaction: states between them, see opTree.step
)

// opTree is a mounted pool with this tree:
//
//	/a/f      5000 bytes, an extended attribute    /a/hard  the same file
//	/a/sub/g  empty                                /a/open  200 bytes, held open
//	/b/big    3 blocks, 4 unwritten ones behind the end; held open
//	/b/map    blocks 0..1 and 20..29 written, 5..8 unwritten; held open
//	/b/link   symbolic link                        /b/empty empty directory
//	/b/shared 4 blocks that /b/twin has, too; held open
//	/b/bits   4 blocks that lie one by one; held open
type opTree struct {
	fs          *FS
	a, b, sub   layout.Ino
	f           layout.Ino
	big, mapped *Node // /b/big, /b/map
	open        *Node // /a/open
	shared      *Node // /b/shared
	bits        *Node // /b/bits
	scratch     [layout.BlockSize * 4]byte
	states      []treeState // that a power cut may leave; see step
}

// clock ticks a second a look: costs do not depend on the time of day.
func clock() func() int64 {
	now := int64(1_700_000_000_000_000_000)
	return func() int64 { now += 1_000_000_000; return now }
}

func prepare(t testing.TB, meta, data medium.Area) *opTree {
	t.Helper()
	fs, err := Mount(meta, data, Options{Now: clock()})
	if err != nil {
		t.Fatal(err)
	}
	o := &opTree{fs: fs}
	dir := func(parent layout.Ino, name string) layout.Ino {
		return must[Attr](t)(fs.Create(root, parent, name, layout.ModeDirectory|0o755, 0)).Ino
	}
	file := func(parent layout.Ino, name string, n int) *Node {
		node := create(t, fs, parent, name)
		if n > 0 {
			must[int](t)(node.WriteAt(bytes.Repeat([]byte(name+"-old-"), n)[:n], 0))
		}
		return node
	}
	for i := range o.scratch {
		o.scratch[i] = byte('A' + i/8%26)
	}
	o.a, o.b = dir(layout.RootIno, "a"), dir(layout.RootIno, "b")
	o.sub = dir(o.a, "sub")
	dir(o.b, "empty")
	f := file(o.a, "f", 5000)
	o.f = f.Ino()
	f.Close()
	must[Attr](t)(fs.Link(root, o.f, o.a, "hard"))
	file(o.sub, "g", 0).Close()
	o.open, o.big, o.mapped = file(o.a, "open", 200), file(o.b, "big", 3*layout.BlockSize), file(o.b, "map", 2*layout.BlockSize)
	must[Attr](t)(fs.Symlink(root, o.b, "link", "../a/f"))
	o.shared = file(o.b, "shared", 4*layout.BlockSize)
	must[Attr](t)(o.shared.Clone(root, o.b, "twin", 0o600))
	must[int](t)(o.mapped.WriteAt(bytes.Repeat([]byte("map-old-"), 10*512), 20*layout.BlockSize))
	for _, err := range []error{
		fs.SetXattr(root, o.f, "user.x", []byte("old"), 0),
		o.big.Fallocate(KeepSize, 3*layout.BlockSize, 4*layout.BlockSize),
		o.mapped.Fallocate(KeepSize, 5*layout.BlockSize, 4*layout.BlockSize),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	o.bits = file(o.b, "bits", 0)
	between := file(o.b, "between", 0)
	for i := range int64(4) {
		must[int](t)(o.bits.WriteAt(o.scratch[:page], i*page))
		must[int](t)(between.WriteAt(o.scratch[:page], i*page))
	}
	between.Close()
	return o
}

func (o *opTree) create(dir layout.Ino, name string, mode uint32) error {
	_, err := o.fs.Create(root, dir, name, mode|0o644, 0)
	return err
}

func (o *opTree) rename(from layout.Ino, old string, to layout.Ino, name string, flags uint32) error {
	return o.fs.Rename(root, from, old, to, name, flags)
}

func (o *opTree) write(n *Node, off, length int64) error {
	_, err := n.WriteAt(o.scratch[:length], off)
	return err
}

func (o *opTree) set(ino layout.Ino, s SetAttr) error {
	_, err := o.fs.SetAttr(root, ino, s)
	return err
}

func (o *opTree) truncate(n *Node, size int64) error { return o.set(n.Ino(), SetAttr{Size: &size}) }

func (o *opTree) fault(n *Node, block int64, write bool) error {
	return n.Fault(block, write, true, 512, 4, func(r Run) error {
		if block < r.First || block >= r.First+r.Count || write && !r.Writable {
			return fmt.Errorf("fault at block %d granted %+v", block, r)
		}
		return nil
	})
}

func (o *opTree) copyRange(n *Node, off int64, src *Node, srcOff, length int64) error {
	copied, err := n.CopyRange(off, src, srcOff, length)
	if err == nil && copied != length {
		err = fmt.Errorf("%d bytes were copied, not %d", copied, length)
	}
	return err
}

// defragment defragments a file whose size is one window at most.
func (o *opTree) defragment(n *Node, moved, merged int64) error {
	next, d, err := n.Defragment(0, false)
	if err == nil && (next > 0 && n.Attr().Size > next || d.Moved != moved || d.Merged != merged) {
		err = fmt.Errorf("%d, %+v, want %d blocks moved and %d leaves merged", next, d, moved, merged)
	}
	return err
}

const page = layout.BlockSize

var namespaceOperations = []operation{
	{"create", metadata, 0, func(o *opTree) error { return o.create(o.a, "new", layout.ModeRegular) }},
	{"create first in directory", metadata, 0, func(o *opTree) error {
		dir, err := o.fs.Lookup(root, o.b, "empty")
		if err != nil {
			return err
		}
		return o.create(dir.Ino, "new", layout.ModeRegular)
	}},
	{"mkdir", metadata, 0, func(o *opTree) error { return o.create(o.a, "new", layout.ModeDirectory) }},
	{"mkfifo", metadata, 0, func(o *opTree) error { return o.create(o.a, "new", layout.ModeFIFO) }},
	{"symlink", metadata, 0, func(o *opTree) error {
		_, err := o.fs.Symlink(root, o.a, "new", "some/where")
		return err
	}},
	{"link", metadata, 0, func(o *opTree) error {
		_, err := o.fs.Link(root, o.f, o.b, "new")
		return err
	}},
	{"create unnamed", metadata, 0, func(o *opTree) error {
		_, err := o.fs.CreateUnnamed(root, o.a, 0o600)
		return err
	}},
	{"link unnamed", several, 0, func(o *opTree) error {
		n, err := o.fs.CreateUnnamed(root, o.a, 0o600)
		if err != nil {
			return err
		}
		o.step()
		if _, err := n.WriteAt([]byte("text"), 0); err != nil {
			return err
		}
		o.step()
		_, err = o.fs.Link(Cred{Checked: true}, n.Ino(), o.b, "new")
		return err
	}},
	{"set ACL", metadata, 0, func(o *opTree) error { return o.fs.SetXattr(root, o.f, xattrACL, testACL, 0) }},
	{"create under a default ACL", several, 0, func(o *opTree) error {
		if err := o.fs.SetXattr(root, o.a, xattrDefaultACL, testACL, 0); err != nil {
			return err
		}
		o.step()
		return o.create(o.a, "new", layout.ModeDirectory)
	}},
	{"chmod with an ACL", several, 0, func(o *opTree) error {
		if err := o.fs.SetXattr(root, o.f, xattrACL, testACL, 0); err != nil {
			return err
		}
		o.step()
		_, err := o.fs.SetAttr(root, o.f, SetAttr{Mode: new(uint32)})
		return err
	}},
	{"unlink empty file", metadata, 0, func(o *opTree) error { return o.fs.Unlink(root, o.sub, "g") }},
	{"unlink one of two names", metadata, 0, func(o *opTree) error { return o.fs.Unlink(root, o.a, "hard") }},
	{"unlink open file", metadata, 0, func(o *opTree) error { return o.fs.Unlink(root, o.a, "open") }},
	{"unlink symlink", metadata, 0, func(o *opTree) error { return o.fs.Unlink(root, o.b, "link") }},
	{"unlink file with blocks", metadata, 0, func(o *opTree) error {
		o.mapped.Close()
		return o.fs.Unlink(root, o.b, "map")
	}},
	{"rmdir", metadata, 0, func(o *opTree) error { return o.fs.Rmdir(root, o.b, "empty") }},
	{"rename", metadata, 0, func(o *opTree) error { return o.rename(o.a, "f", o.a, "new", 0) }},
	{"rename to other directory", metadata, 0, func(o *opTree) error { return o.rename(o.a, "f", o.b, "new", 0) }},
	{"rename directory", metadata, 0, func(o *opTree) error { return o.rename(o.a, "sub", o.b, "new", 0) }},
	{"rename over file", metadata, 0, func(o *opTree) error { return o.rename(o.a, "f", o.sub, "g", 0) }},
	{"rename over open file", metadata, 0, func(o *opTree) error { return o.rename(o.a, "f", o.a, "open", 0) }},
	{"rename over empty directory", metadata, 0, func(o *opTree) error { return o.rename(o.a, "sub", o.b, "empty", 0) }},
	{"exchange files", metadata, 0, func(o *opTree) error { return o.rename(o.a, "f", o.sub, "g", RenameExchange) }},
	{"exchange file and directory", metadata, 0, func(o *opTree) error { return o.rename(o.a, "sub", o.b, "link", RenameExchange) }},
	{"chmod", metadata, 0, func(o *opTree) error { mode := uint32(0o600); return o.set(o.f, SetAttr{Mode: &mode}) }},
	{"chown", metadata, 0, func(o *opTree) error { id := uint32(7); return o.set(o.f, SetAttr{UID: &id, GID: &id}) }},
	{"utimes", metadata, 0, func(o *opTree) error { at := int64(1); return o.set(o.f, SetAttr{Atime: &at, Mtime: &at}) }},
	{"set xattr", metadata, 0, func(o *opTree) error { return o.fs.SetXattr(root, o.sub, "user.new", []byte("value"), 0) }},
	{"replace xattr", metadata, 0, func(o *opTree) error {
		return o.fs.SetXattr(root, o.f, "user.x", o.scratch[:6000], unix.XATTR_REPLACE)
	}},
	{"remove xattr", metadata, 0, func(o *opTree) error { return o.fs.RemoveXattr(root, o.f, "user.x") }},
}

var dataOperations = []operation{
	{"write 64 B in place", inPlace, 1, func(o *opTree) error { return o.write(o.big, page+128, 64) }},
	{"write 4 KiB in place", inPlace, 64, func(o *opTree) error { return o.write(o.big, page, page) }},
	{"write 8 B across lines in place", inPlace, 2, func(o *opTree) error { return o.write(o.big, 60, 8) }},
	{"write 12 KiB in place", inPlace, 192, func(o *opTree) error { return o.write(o.big, 0, 3*page) }},
	{"append in last block", newData, 0, func(o *opTree) error {
		_, _, err := o.open.Append(o.scratch[:64])
		return err
	}},
	{"append a block", newData, 0, func(o *opTree) error {
		_, _, err := o.big.Append(o.scratch[:page])
		return err
	}},
	{"write to hole", newData, 0, func(o *opTree) error { return o.write(o.mapped, 12*page+100, 100) }},
	{"write to unwritten", newData, 0, func(o *opTree) error { return o.write(o.mapped, 6*page+100, 100) }},
	{"write over block and hole", mixed, 0, func(o *opTree) error { return o.write(o.mapped, page+100, 2*page) }},
	{"write far behind the end", newData, 0, func(o *opTree) error { return o.write(o.mapped, 1<<33, 100) }},
	{"fallocate", newData, 0, func(o *opTree) error { return o.open.Fallocate(0, page, 10*page) }},
	{"fallocate keep size", metadata, 0, func(o *opTree) error { return o.open.Fallocate(KeepSize, page, 10*page) }},
	{"fallocate over holes", metadata, 0, func(o *opTree) error { return o.mapped.Fallocate(0, 0, 40*page) }},
	{"fallocate 4 MiB", newData, 0, func(o *opTree) error { return o.open.Fallocate(0, 2<<20, 4<<20) }},
	{"punch blocks", metadata, 0, func(o *opTree) error { return o.mapped.Fallocate(PunchHole|KeepSize, page, 22*page) }},
	{"punch part of a block", inPlace, 2, func(o *opTree) error { return o.mapped.Fallocate(PunchHole|KeepSize, 100, 64) }},
	{"punch with parts of blocks", mixed, 0, func(o *opTree) error { return o.mapped.Fallocate(PunchHole|KeepSize, 100, 22*page) }},
	{"zero range", metadata, 0, func(o *opTree) error { return o.mapped.Fallocate(ZeroRange, page, 22*page) }},
	{"zero range behind the end", metadata, 0, func(o *opTree) error { return o.mapped.Fallocate(ZeroRange, page, 40*page) }},
	{"zero range with parts of blocks", mixed, 0, func(o *opTree) error { return o.mapped.Fallocate(ZeroRange, 100, 22*page) }},
	{"truncate to blocks", metadata, 0, func(o *opTree) error { return o.truncate(o.mapped, 22*page) }},
	{"truncate to part of a block", newData, 0, func(o *opTree) error { return o.truncate(o.mapped, 22*page+100) }},
	{"truncate to nothing", metadata, 0, func(o *opTree) error { return o.truncate(o.mapped, 0) }},
	{"truncate longer", newData, 0, func(o *opTree) error { return o.truncate(o.open, 1<<30) }},
	{"relocate", newData, 0, func(o *opTree) error { return o.mapped.Relocate(0, 100*page) }},
	{"fill holes", newData, 0, func(o *opTree) error { return o.mapped.Fill(10*page, 10*page) }},
	{"fill unwritten", newData, 0, func(o *opTree) error { return o.mapped.Fill(5*page, 4*page) }},
	{"fill all", newData, 0, func(o *opTree) error { return o.mapped.Fill(100, 29*page) }},
	{"fill written", nothing, 0, func(o *opTree) error { return o.mapped.Fill(20*page, 10*page) }},
	{"set static", metadata, 0, func(o *opTree) error { return o.big.SetStatic(true) }},
	{"set static again", nothing, 0, func(o *opTree) error { return o.big.SetStatic(false) }},
	{"read fault on hole", nothing, 0, func(o *opTree) error { return o.fault(o.mapped, 3, false) }},
	{"read fault on written", nothing, 0, func(o *opTree) error { return o.fault(o.mapped, 21, false) }},
	{"write fault on hole", newData, 0, func(o *opTree) error { return o.fault(o.mapped, 11, true) }},
	{"write fault on unwritten", newData, 0, func(o *opTree) error { return o.fault(o.mapped, 6, true) }},
	{"write fault on written", nothing, 0, func(o *opTree) error { return o.fault(o.mapped, 21, true) }},
	{"clone", metadata, 0, func(o *opTree) error {
		_, err := o.mapped.Clone(root, o.a, "new", 0o600)
		return err
	}},
	{"clone again", metadata, 0, func(o *opTree) error {
		_, err := o.shared.Clone(root, o.a, "new", 0o600)
		return err
	}},
	{"clone range", metadata, 0, func(o *opTree) error { return o.big.CloneRange(page, o.shared, 0, 2*page) }},
	{"clone range behind the end", metadata, 0, func(o *opTree) error { return o.big.CloneRange(20*page, o.mapped, 0, 0) }},
	{"clone range within a file", metadata, 0, func(o *opTree) error { return o.mapped.CloneRange(page, o.mapped, 21*page, 3*page) }},
	{"collapse range", metadata, 0, func(o *opTree) error { return o.mapped.Fallocate(CollapseRange, page, 20*page) }},
	{"insert range", metadata, 0, func(o *opTree) error { return o.mapped.Fallocate(InsertRange, page, 3*page) }},
	{"collapse shared", metadata, 0, func(o *opTree) error { return o.shared.Fallocate(CollapseRange, 0, 2*page) }},
	{"copy range that is shared", metadata, 0, func(o *opTree) error { return o.copyRange(o.big, page, o.shared, page, 2*page) }},
	{"copy range in place", inPlace, 2, func(o *opTree) error { return o.copyRange(o.big, page+10, o.mapped, 7, 100) }},
	{"copy range behind the end", newData, 0, func(o *opTree) error { return o.copyRange(o.open, 200, o.mapped, 1, 2*page-1) }},
	{"write to shared", newData, 0, func(o *opTree) error { return o.write(o.shared, page+100, 100) }},
	{"write over shared", newData, 0, func(o *opTree) error { return o.write(o.shared, page, 2*page) }},
	{"write fault on shared", newData, 0, func(o *opTree) error { return o.fault(o.shared, 1, true) }},
	{"fill shared", newData, 0, func(o *opTree) error { return o.shared.Fill(0, 4*page) }},
	{"punch shared", metadata, 0, func(o *opTree) error { return o.shared.Fallocate(PunchHole|KeepSize, page, page) }},
	{"zero shared", metadata, 0, func(o *opTree) error { return o.shared.Fallocate(ZeroRange, 0, 3*page) }},
	{"truncate shared", metadata, 0, func(o *opTree) error { return o.truncate(o.shared, page) }},
	{"unlink shared", metadata, 0, func(o *opTree) error { return o.fs.Unlink(root, o.b, "twin") }},
	{"defragment", newData, 0, func(o *opTree) error { return o.defragment(o.bits, 4, 0) }},
	{"defragment what is contiguous", nothing, 0, func(o *opTree) error { return o.defragment(o.big, 0, 0) }},
	{"relocate shared", nothing, 0, func(o *opTree) error { return o.shared.Relocate(0, 4*page) }},
}

// longOperations take several transactions.
var longOperations = []operation{
	{"remove open file with its last reference", several, 0, func(o *opTree) error {
		err := o.fs.Unlink(root, o.a, "open")
		o.step()
		o.open.Close()
		return err
	}},
	{"truncate in steps", several, 0, func(o *opTree) error {
		if err := o.scatter(o.open); err != nil {
			return err
		}
		return o.truncate(o.open, 0)
	}},
	{"remove in steps", several, 0, func(o *opTree) error {
		if err := o.scatter(o.open); err != nil {
			return err
		}
		o.open.Close()
		return o.fs.Unlink(root, o.a, "open")
	}},
	{"fill in steps", several, 0, func(o *opTree) error {
		now := o.fs.now() // the same in all steps, so that they look alike
		o.fs.now = func() int64 { return now }
		if err := o.truncate(o.open, 5<<20); err != nil {
			return err
		}
		o.step()
		now++
		return o.open.Fill(0, 5<<20)
	}},
	{"defragment to a leaf", several, 0, func(o *opTree) error {
		now := o.fs.now() // the same in all steps, so that they look alike
		o.fs.now = func() int64 { return now }
		if err := o.truncate(o.open, 2<<20); err != nil {
			return err
		}
		o.step()
		now++
		for _, off := range []int64{1 << 20, 0} { // the second half comes to lie before the first
			if err := o.open.Fill(off, 1<<20); err != nil {
				return err
			}
			o.step()
		}
		return o.defragment(o.open, 512, 1)
	}},
	{"set and clear static", several, 0, func(o *opTree) error {
		if err := o.big.SetStatic(true); err != nil {
			return err
		}
		o.step()
		return o.big.SetStatic(false)
	}},
	{"trim the log", several, 0, func(o *opTree) error {
		for i := range 18 { // more than the log holds
			if err := o.fs.SetXattr(root, o.f, "user.x", bytes.Repeat([]byte{byte('a' + i)}, 63<<10), 0); err != nil {
				return err
			}
			o.step()
		}
		return nil
	}},
	{"close", several, 0, func(o *opTree) error { return o.fs.Close() }},
	{"open again", several, 0, func(o *opTree) error {
		if err := o.fs.Close(); err != nil {
			return err
		}
		fs, err := Mount(o.fs.meta, o.fs.data, Options{Now: clock()})
		if err != nil {
			return err
		}
		_, err = fs.Create(root, o.b, "again", layout.ModeRegular, 0)
		o.fs = fs
		return err
	}},
}

// scatter writes blocks that need a node each.
func (o *opTree) scatter(n *Node) error {
	for i := range int64(stepPages + 8) {
		if err := o.write(n, (i+1)*layout.HugeBlocks*page, 8); err != nil {
			return err
		}
		o.step()
	}
	return nil
}

// step notes that the present state is one that a power cut may leave.
func (o *opTree) step() {
	if o.states != nil {
		o.states = append(o.states, snapshot(o.fs))
	}
}

func operations() []operation {
	return append(append([]operation(nil), namespaceOperations...), dataOperations...)
}
