package core

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// fragmented makes a file of blocks that do not lie one behind the other, in the
// given order of writing. Each of its words is its offset.
func fragmented(t *testing.T, fs *FS, name string, order []int64) *Node {
	t.Helper()
	n, between := create(t, fs, layout.RootIno, name), create(t, fs, layout.RootIno, name+" between")
	defer between.Close()
	b := make([]byte, page)
	for _, block := range order {
		for i := int64(0); i < page; i += 8 {
			binary.LittleEndian.PutUint64(b[i:], uint64(block*page+i))
		}
		must[int](t)(n.WriteAt(b, block*page))
		must[int](t)(between.WriteAt(b, block*page))
	}
	return n
}

// upTo is the blocks from 0 to n.
func upTo(n int64) (order []int64) {
	for i := range n {
		order = append(order, i)
	}
	return order
}

func wantNumbered(t *testing.T, n *Node, order []int64) {
	t.Helper()
	b := make([]byte, page)
	for _, block := range order {
		if _, err := n.ReadAt(b, block*page); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		for i := int64(0); i < page; i += 8 {
			if got := binary.LittleEndian.Uint64(b[i:]); got != uint64(block*page+i) {
				t.Fatalf("byte %d holds %d", block*page+i, got)
			}
		}
	}
}

// defragAll defragments a file, and returns all that was found and done, and how
// many steps that took.
func defragAll(t *testing.T, n *Node, look bool) (d Defragmentation, steps int) {
	t.Helper()
	for off := int64(0); off >= 0; steps++ {
		next, s, err := n.Defragment(off, look)
		if err != nil {
			t.Fatal(err)
		}
		if s.Moved > layout.HugeBlocks && !look {
			t.Errorf("one step has moved %d blocks", s.Moved)
		}
		d.Add(s)
		off = next
	}
	return d, steps
}

func wantDefrag(t *testing.T, n *Node, want Defragmentation) {
	t.Helper()
	for _, look := range []bool{true, false} {
		before := must[[]Extent](t)(n.Extents(0, layout.MaxFileSize))
		if d, _ := defragAll(t, n, look); d != want {
			t.Errorf("look %v: %+v, want %+v", look, d, want)
		}
		if after := must[[]Extent](t)(n.Extents(0, layout.MaxFileSize)); look && len(before) != len(after) {
			t.Error("the file was changed, though it was only to be looked at")
		}
	}
}

// found is what Defragment finds.
func found(blocks, extents, small, large int64) Fragmentation {
	return Fragmentation{Blocks: blocks, Extents: extents, Leaves4K: small, Leaves2M: large}
}

func TestDefragment(t *testing.T) {
	fs := newFS(t, 64<<20)
	// Two whole windows, and 100 blocks.
	order := upTo(2*512 + 100)
	n := fragmented(t, fs, "f", order)
	wantDefrag(t, n, Defragmentation{Before: found(1124, 1124, 1124, 0), Moved: 1124, Merged: 2})
	wantNumbered(t, n, order)
	d, _ := defragAll(t, n, false)
	if d.Moved+d.Merged != 0 || d.Before.Extents > 2 || d.Before.Leaves2M != 2 || d.Before.Leaves4K != 100 {
		t.Errorf("when it was done: %+v", d)
	}
	// Holes and small files: what lies between two holes is made contiguous.
	holes := []int64{3, 4, 5, 9, 10, 600, 601, 602}
	n = fragmented(t, fs, "holes", holes)
	wantDefrag(t, n, Defragmentation{Before: found(8, 8, 8, 0), Moved: 8})
	wantDefrag(t, n, Defragmentation{Before: found(8, 3, 8, 0)})
	wantNumbered(t, n, holes)
	n = fragmented(t, fs, "small", upTo(3))
	wantDefrag(t, n, Defragmentation{Before: found(3, 3, 3, 0), Moved: 3})
	wantNumbered(t, n, upTo(3))
	// A hole of any size costs a step or two.
	huge := create(t, fs, layout.RootIno, "huge")
	must[int](t)(huge.WriteAt([]byte("end"), layout.MaxFileSize-5000))
	if _, steps := defragAll(t, huge, false); steps > 200 {
		t.Errorf("a file of holes took %d steps", steps)
	}
	wantClean(t, fs)
}

func wantClean(t *testing.T, fs *FS) {
	t.Helper()
	meta, data := fs.meta, fs.data
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if err := checkMounted(must[*FS](t)(Mount(meta, data, Options{ReadOnly: true}))); err != nil {
		t.Error(err)
	}
}

// What is contiguous is moved only for a leaf, and what one leaf can stand for is
// not moved at all.
func TestDefragmentMerges(t *testing.T) {
	fs := newFS(t, 64<<20)
	pad := create(t, fs, layout.RootIno, "pad")
	must[int](t)(pad.WriteAt(make([]byte, 5*page), 0))
	n := create(t, fs, layout.RootIno, "f")
	for i := range int64(1024) { // one behind the other, but not aligned
		must[int](t)(n.WriteAt(bytes.Repeat([]byte{byte(i)}, page), i*page))
	}
	d, _ := defragAll(t, n, true)
	if d.Before.Extents != 1 || d.Before.Leaves4K != 1024 {
		t.Fatalf("%+v", d)
	}
	if d.Moved != 1024 || d.Merged != 2 {
		t.Errorf("%+v", d)
	}
	d, _ = defragAll(t, n, false)
	if d.Moved != 1024 || d.Merged != 2 {
		t.Errorf("%+v", d)
	}
	wantDefrag(t, n, Defragmentation{Before: found(1024, 1, 0, 2)})
	// Half of a leaf is unshared in place, and shared no more: the leaf comes back without a move.
	before := must[[]Extent](t)(n.Extents(0, 1<<30))
	must[int](t)(n.WriteAt([]byte("x"), 0))
	clone := must[Attr](t)(n.Clone(root, layout.RootIno, "clone", 0o600))
	if err := fs.Unlink(root, layout.RootIno, "clone"); err != nil || clone.Size != 1024*page {
		t.Fatal(err)
	}
	must[int](t)(n.WriteAt(make([]byte, 100*page), 0)) // claims the blocks one by one
	must[int](t)(n.WriteAt(make([]byte, 412*page), 100*page))
	d, _ = defragAll(t, n, false)
	if after := must[[]Extent](t)(n.Extents(0, 1<<30)); d.Moved != 0 || d.Merged != 1 || after[0].Block != before[0].Block {
		t.Errorf("%+v, %+v, %+v", d, before, after)
	}
	wantClean(t, fs)
}

// What is sealed, static or shared stays where it is, and is counted.
func TestDefragmentLeaves(t *testing.T) {
	fs := newFS(t, 64<<20)
	order := upTo(3 * 512)
	n := fragmented(t, fs, "f", order)
	s := &sealer{first: 600, end: 601}
	fs.breaker = s
	wantDefrag(t, n, Defragmentation{Before: found(1536, 1536, 1536, 0), Moved: 1024, Merged: 2, Sealed: 512})
	fs.breaker = noBreaker{}
	wantDefrag(t, n, Defragmentation{Before: found(1536, 514, 512, 2), Moved: 512, Merged: 1})
	wantNumbered(t, n, order)

	few := fragmented(t, fs, "few", upTo(20))
	if err := few.SetStatic(true); err != nil {
		t.Fatal(err)
	}
	wantDefrag(t, few, Defragmentation{Before: found(20, 20, 20, 0), Static: 20})
	if err := few.SetStatic(false); err != nil {
		t.Fatal(err)
	}
	must[Attr](t)(few.Clone(root, layout.RootIno, "clone", 0o600))
	must[int](t)(few.WriteAt(make([]byte, 3*page), 5*page))
	wantDefrag(t, few, Defragmentation{Before: found(20, 18, 20, 0), Shared: 17})
	wantClean(t, fs)
}

// To move blocks is no change: a clone of the file can be published afterwards.
func TestDefragmentBesideClone(t *testing.T) {
	fs := newFS(t, 64<<20)
	file, between := create(t, fs, layout.RootIno, "f"), create(t, fs, layout.RootIno, "between")
	must[int](t)(file.WriteAt(make([]byte, 100), 0))
	for i := range int64(20) { // unwritten: zeros, which a clone has without a block
		for _, n := range []*Node{file, between} {
			if err := n.Fallocate(0, i*page, page); err != nil {
				t.Fatal(err)
			}
		}
	}
	clone := must[*Node](t)(file.Private(0, 20*page, false))
	defer clone.Close()
	d, _ := defragAll(t, file, false)
	if d.Moved != 19 || d.Shared != 0 {
		t.Errorf("%+v", d)
	}
	if err := file.Relocate(5*page, 3*page); err != nil {
		t.Fatal(err)
	}
	must[int](t)(clone.WriteAt([]byte("published"), 7*page))
	if err := Publish(clone); err != nil {
		t.Error(err)
	}
	b := make([]byte, 9)
	if _, err := file.ReadAt(b, 7*page); string(b) != "published" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// Without room for it a file stays as it is.
func TestDefragmentFull(t *testing.T) {
	fs := newFS(t, 16<<20)
	order := upTo(512 + 5)
	n := fragmented(t, fs, "f", order)
	rest := create(t, fs, layout.RootIno, "rest")
	for b, off := make([]byte, 16*page), int64(0); ; off += int64(len(b)) {
		if _, err := rest.WriteAt(b, off); err == unix.ENOSPC {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	d, _ := defragAll(t, n, false)
	if d.NoSpace != 512 && d.NoSpace != 517 || d.Merged != 0 || d.Moved+d.NoSpace != 517 {
		t.Errorf("%+v", d)
	}
	wantNumbered(t, n, order)
	if free := fs.Statfs().FreeBlocks; free > 16 {
		t.Errorf("%d blocks are free", free)
	}
	wantClean(t, fs)
}
