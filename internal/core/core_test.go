package core

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

var root = Cred{}

// newFS formats and mounts a pool of plain memory.
func newFS(t testing.TB, total int64) *FS {
	t.Helper()
	meta, data := newAreas(t, total)
	return mount(t, meta, data)
}

func newAreas(t testing.TB, total int64) (meta, data medium.Area) {
	t.Helper()
	metaSize, dataSize, err := Sizes(total, FormatOptions{})
	if err != nil {
		t.Fatal(err)
	}
	meta, data = medium.Memory(metaSize), medium.Memory(dataSize)
	if err := Format(meta, data, FormatOptions{Zeroed: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { checkAreas(t, meta, data) })
	return meta, data
}

func mount(t testing.TB, meta, data medium.Area) *FS {
	t.Helper()
	fs, err := Mount(meta, data, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fs.Reclaimed) // before the check of newAreas
	return fs
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func create(t testing.TB, fs *FS, dir layout.Ino, name string) *Node {
	t.Helper()
	a, err := fs.Create(root, dir, name, layout.ModeRegular|0o644, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := fs.Open(a.Ino)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWriteReadAcrossRemount(t *testing.T) {
	meta, data := newAreas(t, 64<<20)
	fs := mount(t, meta, data)
	n := create(t, fs, layout.RootIno, "file")
	r := rand.New(rand.NewPCG(1, 2))
	model := make([]byte, 0, 9<<20)
	for range 200 {
		off, length := r.IntN(8<<20), r.IntN(100<<10)
		p := make([]byte, length)
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		if off+length > len(model) {
			model = model[:off+length]
		}
		copy(model[off:], p)
		if _, err := n.WriteAt(p, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	verify := func(n *Node) {
		t.Helper()
		got := make([]byte, len(model)+1)
		c, err := n.ReadAt(got, 0)
		if c != len(model) || err != io.EOF || !bytes.Equal(got[:c], model) {
			t.Fatalf("read %d of %d bytes, %v, equal %v", c, len(model), err, bytes.Equal(got[:c], model))
		}
	}
	verify(n)
	n.Close()
	for _, clean := range []bool{false, true} {
		if clean {
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
		}
		fs = mount(t, meta, data)
		a := must[Attr](t)(fs.Resolve(root, "/file", true))
		n = must[*Node](t)(fs.Open(a.Ino))
		verify(n)
		n.Close()
	}
}

func TestBigDirectory(t *testing.T) {
	fs := newFS(t, 256<<20)
	const count = 15000
	for i := range count {
		if _, err := fs.Create(root, layout.RootIno, fmt.Sprintf("file-%d", i), layout.ModeRegular|0o600, 0); err != nil {
			t.Fatal(i, err)
		}
	}
	seen := map[string]bool{}
	for from := Cookie(0); ; {
		list, err := fs.ReadDir(root, layout.RootIno, from, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		for _, e := range list {
			if seen[e.Name] {
				t.Fatal("twice", e.Name)
			}
			seen[e.Name] = true
			from = e.Next
		}
	}
	if len(seen) != count {
		t.Fatal(len(seen))
	}
	for i := range count {
		if err := fs.Unlink(root, layout.RootIno, fmt.Sprintf("file-%d", i)); err != nil {
			t.Fatal(i, err)
		}
	}
	if free := fs.Statfs().FreeInodes; free != fs.Statfs().Inodes-int64(layout.FirstIno) {
		t.Fatal("inodes lost", free)
	}
}

func TestNamespace(t *testing.T) {
	fs := newFS(t, 64<<20)
	before := fs.Statfs()
	mkdir := func(dir layout.Ino, name string) layout.Ino {
		t.Helper()
		return must[Attr](t)(fs.Create(root, dir, name, layout.ModeDirectory|0o755, 0)).Ino
	}
	a := mkdir(layout.RootIno, "a")
	b := mkdir(a, "b")
	n := create(t, fs, b, "f")
	n.WriteAt([]byte("hello"), 0)
	if err := fs.Rename(root, layout.RootIno, "a", b, "x", 0); err != unix.EINVAL {
		t.Fatal("cycle", err)
	}
	if err := fs.Rename(root, a, "b", layout.RootIno, "c", 0); err != nil {
		t.Fatal(err)
	}
	if at := must[Attr](t)(fs.Resolve(root, "c/../c/f", true)); at.Ino != n.Ino() {
		t.Fatal(at)
	}
	if err := fs.Rmdir(root, layout.RootIno, "c"); err != unix.ENOTEMPTY {
		t.Fatal(err)
	}
	must[Attr](t)(fs.Symlink(root, a, "link", "/c/f"))
	if at := must[Attr](t)(fs.Resolve(root, "a/link", true)); at.Ino != n.Ino() {
		t.Fatal(at)
	}
	must[Attr](t)(fs.Link(root, n.Ino(), a, "hard"))
	create(t, fs, a, "victim").Close()
	if err := fs.Rename(root, a, "hard", a, "victim", 0); err != nil {
		t.Fatal(err)
	}
	for _, step := range []error{
		fs.Unlink(root, a, "victim"), fs.Unlink(root, a, "link"), fs.Unlink(root, b, "f"),
		fs.Rmdir(root, layout.RootIno, "c"), fs.Rmdir(root, layout.RootIno, "a"),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	p := make([]byte, 5)
	if _, err := n.ReadAt(p, 0); err != nil || string(p) != "hello" {
		t.Fatal("removed while open", string(p), err)
	}
	n.Close()
	after := fs.Statfs()
	if after.FreeBlocks != before.FreeBlocks || after.FreeInodes != before.FreeInodes {
		t.Fatalf("lost: %+v %+v", before, after)
	}
	if after.FreeNodes != before.FreeNodes-1 { // the root's bucket
		t.Fatalf("nodes: %d %d", before.FreeNodes, after.FreeNodes)
	}
}

func TestSpace(t *testing.T) {
	fs := newFS(t, 64<<20)
	free := fs.Statfs().FreeBlocks
	n := create(t, fs, layout.RootIno, "f")
	if err := n.Fallocate(0, 0, 8<<20); err != nil {
		t.Fatal(err)
	}
	ext := must[[]Extent](t)(n.Extents(0, 1<<40))
	if len(ext) != 1 || !ext[0].Unwritten || ext[0].Block%layout.HugeBlocks != 0 {
		t.Fatal(ext)
	}
	if _, err := n.WriteAt([]byte("x"), 3<<20); err != nil {
		t.Fatal(err)
	}
	if err := n.Fallocate(PunchHole|KeepSize, 1<<20, 4<<20); err != nil {
		t.Fatal(err)
	}
	if d, err := n.SeekData(0); err != unix.ENXIO {
		t.Fatal(d, err)
	}
	if _, err := n.WriteAt(bytes.Repeat([]byte("y"), 6<<20), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := n.Relocate(0, 8<<20); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 6<<20)
	if _, err := n.ReadAt(p, 1<<20); err != nil || bytes.Count(p, []byte("y")) != 6<<20 {
		t.Fatal(err)
	}
	if err := n.Fallocate(0, 0, 1<<30); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	for _, size := range []int64{5<<20 + 17, 4096, 0} {
		if _, err := n.SetAttr(root, SetAttr{Size: &size}); err != nil {
			t.Fatal(err)
		}
	}
	if got := fs.Statfs().FreeBlocks; got != free {
		t.Fatal(got, free)
	}
	n.Close()
}

// TestRunAround compares the run that a fault is answered with to the one that
// a look at every block gives, in files of all shapes.
func TestRunAround(t *testing.T) {
	fs := newFS(t, 64<<20)
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 30 {
		n := create(t, fs, layout.RootIno, fmt.Sprintf("f%d", round))
		blocks := int64(1 + r.IntN([]int{6, 40, 1500}[round%3]))
		size := blocks * layout.BlockSize
		must[Attr](t)(n.SetAttr(root, SetAttr{Size: &size}))
		for range 20 {
			at, count := r.Int64N(blocks), 1+r.Int64N(blocks)
			var err error
			switch count = min(count, blocks-at); r.IntN(3) {
			case 0:
				err = n.Fallocate(KeepSize, at*layout.BlockSize, count*layout.BlockSize)
			case 1:
				_, err = n.WriteAt(make([]byte, count*layout.BlockSize), at*layout.BlockSize)
			case 2:
				err = n.Fallocate(PunchHole|KeepSize, at*layout.BlockSize, max(1, count/4)*layout.BlockSize)
			}
			if err != nil {
				t.Fatal(err)
			}
			for range 10 {
				compareRun(t, n, r.Int64N(blocks), 1<<r.IntN(10))
			}
		}
		n.Close()
	}
}

func compareRun(t *testing.T, n *Node, block, window int64) {
	t.Helper()
	end := n.Attr().Size / layout.BlockSize
	at := func(b int64) piece {
		p, err := n.in.fs.find(n.in.fs.journal.View, &n.in.Inode, b, b+1)
		if err != nil {
			t.Fatal(err)
		}
		return p.clip(b, b+1).read()
	}
	want := at(block)
	lo := block / window * window
	for want.end() < min(lo+window, end) && want.joins(at(want.end())) {
		want.count++
	}
	for want.first > lo && at(want.first-1).joins(want) {
		p := at(want.first - 1)
		want = piece{p.first, want.count + 1, p.block, want.flags, false}
	}
	got, err := n.in.runAround(block, window, end)
	if err != nil || got != (Run{First: want.first, Count: want.count, Block: want.block, Writable: !want.hole()}) {
		t.Fatalf("block %d, window %d: %+v, %v; want %+v", block, window, got, err, want)
	}
}
