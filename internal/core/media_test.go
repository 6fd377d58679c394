package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/medium/mediumtest"
)

const bs = layout.BlockSize

// mediaFS is a file system on a pool in memory that is mapped from files, so that its blocks can be made bad.
type mediaFS struct {
	*FS
	t    *testing.T
	path string
	pool *medium.Pool
}

func newMediaFS(t *testing.T) *mediaFS {
	t.Helper()
	m := &mediaFS{t: t, path: filepath.Join(t.TempDir(), "pool")}
	metaSize, dataSize, err := Sizes(16<<20, FormatOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.pool = must[*medium.Pool](t)(medium.Create(m.path, metaSize, dataSize, medium.Options{}))
	t.Cleanup(func() { m.pool.Close() })
	m.pool.Data().Zero(0, dataSize) // no holes: a block that was never there cannot be lost
	if err := Format(m.pool.Meta(), m.pool.Data(), FormatOptions{Zeroed: true}); err != nil {
		t.Fatal(err)
	}
	m.FS = must[*FS](t)(Mount(m.pool.Meta(), m.pool.Data(), Options{}))
	return m
}

// file makes a file of so many blocks, each of which is filled with its number and one.
func (m *mediaFS) file(name string, blocks int) *Node {
	m.t.Helper()
	n := create(m.t, m.FS, layout.RootIno, name)
	for i := range blocks {
		must[int](m.t)(n.WriteAt(numbered(i), int64(i)*bs))
	}
	m.t.Cleanup(func() { n.Close() })
	return n
}

func numbered(block int) []byte { return bytes.Repeat([]byte{byte(block + 1)}, bs) }

// block is the block of the data area that a block of a file is.
func (m *mediaFS) block(n *Node, block int64) int64 {
	m.t.Helper()
	q, err := m.find(m.journal.View, &n.in.Inode, block, block+1)
	if err != nil || q.hole() {
		m.t.Fatalf("block %d: %+v, %v", block, q, err)
	}
	return q.at(block)
}

func (m *mediaFS) spoil(a medium.Area, block int64) {
	m.t.Helper()
	if err := mediumtest.Spoil(a.Bytes()[block*bs : (block+1)*bs]); err != nil {
		m.t.Fatal(err)
	}
}

// lose makes a block of a file bad.
func (m *mediaFS) lose(n *Node, block int64) {
	m.t.Helper()
	m.spoil(m.data, m.block(n, block))
}

// wantLost fails unless err is about a block of a file.
func wantLost(t *testing.T, what string, err error, n *Node, block int64) {
	t.Helper()
	var lost *MediaError
	if !errors.As(err, &lost) || !errors.Is(err, unix.EIO) || lost.Ino != n.Ino() || lost.Offset != block*bs {
		t.Errorf("%s: %v, want block %d of %v to be lost", what, err, block, n.Ino())
	}
}

// wantContent fails unless blocks [first, end) of the file are as file made them.
func wantContent(t *testing.T, n *Node, first, end int) {
	t.Helper()
	for i := first; i < end; i++ {
		p := make([]byte, bs)
		if _, err := n.ReadAt(p, int64(i)*bs); err != nil || !bytes.Equal(p, numbered(i)) {
			t.Errorf("block %d: %v, %d", i, err, p[0])
		}
	}
}

// wantClean fails unless a check of the whole pool finds nothing.
func (m *mediaFS) wantClean() {
	m.t.Helper()
	m.Reclaimed()
	if _, err := m.Check(context.Background(), func(p Problem) { m.t.Errorf("check: %v", p) }); err != nil {
		m.t.Error(err)
	}
}

// TestLostBlock: what reads a lost block fails and says where, what would store to a part of it fails, and both leave
// everything as it was; what needs none of its bytes works.
func TestLostBlock(t *testing.T) {
	const lost = 5
	m := newMediaFS(t)
	n := m.file("file", 10)
	other := m.file("other", 2)
	m.lose(n, lost)
	free := m.Statfs().FreeBlocks
	fail := func(what string, err error) {
		t.Helper()
		wantLost(t, what, err, n, lost)
		if got := m.Statfs().FreeBlocks; got != free {
			t.Errorf("%s: %d free blocks, were %d", what, got, free)
		}
	}
	p := make([]byte, 3*bs)
	for range 2 { // found, and known
		_, err := n.ReadAt(p, 4*bs)
		fail("read", err)
		_, err = n.WriteAt(p[:100], lost*bs+50)
		fail("write of a part", err)
		_, err = n.WriteAt(p[:bs], lost*bs-100)
		fail("write that ends in it", err)
		fail("punch of a part", n.Fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, lost*bs+1, 100))
		_, err = other.CopyRange(0, n, lost*bs+1, 100)
		fail("copy of a part", err)
		fail("fault", n.Fault(lost, false, true, 512, 1, func(Run) error { return nil }))
		fail("relocate", n.Relocate(0, 10*bs))
	}
	wantContent(t, n, 0, lost)
	wantContent(t, n, lost+1, 10)
	must[int](t)(n.WriteAt(numbered(3), 3*bs))
	if err := n.Sync(); err != nil {
		t.Error(err)
	}
	m.wantClean()
}

// TestFaultsSpareLostBlocks: what is granted around a block ends at one that is known to be bad.
func TestFaultsSpareLostBlocks(t *testing.T) {
	m := newMediaFS(t)
	n := m.file("file", 10)
	for _, lost := range []int64{2, 3, 7} {
		m.lose(n, lost)
		_, err := n.ReadAt(make([]byte, 1), lost*bs)
		wantLost(t, "read", err, n, lost)
	}
	for block, want := range map[int64]alloc.Run{0: {First: 0, Count: 2}, 1: {First: 0, Count: 2}, 5: {First: 4, Count: 3}, 9: {First: 8, Count: 2}} {
		for _, write := range []bool{false, true} {
			err := n.Fault(block, write, true, 512, 1, func(r Run) error {
				if r.First != want.First || r.Count != want.Count || r.Block != m.block(n, want.First) || r.Writable != true {
					t.Errorf("fault of block %d: %+v, want %v", block, r, want)
				}
				return nil
			})
			if err != nil {
				t.Errorf("fault of block %d: %v", block, err)
			}
		}
	}
}

// TestOverwritingHeals: a write of a whole block, be it a part of a longer one or the last one up to the end of the file,
// heals it, and what was granted of it is taken back before.
func TestOverwritingHeals(t *testing.T) {
	for name, c := range map[string]struct {
		size, off, length int64 // of the file, and of the write
	}{
		"the block":            {10 * bs, 5 * bs, bs},
		"around it":            {10 * bs, 3*bs + 7, 4 * bs},
		"to the end":           {5*bs + 100, 5 * bs, 100},
		"beyond the end":       {5*bs + 100, 5 * bs, 3 * bs},
		"all of the file":      {5*bs + 100, 0, 5*bs + 100},
		"that makes it longer": {5*bs + 100, 5 * bs, 200},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMediaFS(t)
			spy := &takes{Breaker: noBreaker{}}
			m.breaker = spy
			n := m.file("file", int((c.size+bs-1)/bs))
			if _, err := n.SetAttr(root, SetAttr{Size: &c.size}); err != nil {
				t.Fatal(err)
			}
			m.lose(n, 5)
			spy.runs = nil
			p := bytes.Repeat([]byte{99}, int(c.length))
			if _, err := n.WriteAt(p, c.off); err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(spy.runs, alloc.Run{First: 5, Count: 1}) {
				t.Errorf("taken from clients: %v", spy.runs)
			}
			got := make([]byte, c.length)
			if _, err := n.ReadAt(got, c.off); err != nil || !bytes.Equal(got, p) {
				t.Errorf("read: %v, %d", err, got[0])
			}
			wantContent(t, n, 0, int(c.off/bs))
			if err := m.FS.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// takes is a Breaker that remembers what was taken back wholly.
type takes struct {
	Breaker
	runs []alloc.Run
}

func (b *takes) Break(ino layout.Ino, what Taking, runs ...alloc.Run) error {
	if what == TakeAll {
		b.runs = append(b.runs, runs...)
	}
	return b.Breaker.Break(ino, what, runs...)
}

// TestFreeBlockIsHealed: a block that is bad when it is free, or unwritten, is healed by whoever gets it, also for a part of
// it: nobody has lost anything.
func TestFreeBlockIsHealed(t *testing.T) {
	m := newMediaFS(t)
	first := m.file("first", 1)
	for block := m.block(first, 0) + 1; block < m.sb.DataBlocks; block++ {
		m.spoil(m.data, block)
	}
	n := create(t, m.FS, layout.RootIno, "file")
	defer n.Close()
	must[int](t)(n.WriteAt([]byte("a part"), 3*bs+100))
	if err := n.Fallocate(0, 5*bs, 4*bs); err != nil {
		t.Fatal(err)
	}
	must[int](t)(n.WriteAt([]byte("of unwritten ones"), 6*bs-5))
	if err := n.Fault(8, true, true, 512, 1, func(Run) error { return nil }); err != nil {
		t.Error(err)
	}
	if err := first.Relocate(0, bs); err != nil {
		t.Error(err)
	}
	wantContent(t, first, 0, 1)
	want := make([]byte, 9*bs)
	copy(want[3*bs+100:], "a part")
	copy(want[6*bs-5:], "of unwritten ones")
	got := make([]byte, len(want))
	if _, err := n.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read: %v, equal %v", err, bytes.Equal(got, want))
	}
	m.wantClean()
}

// TestClonesOfLostBlocks: clones and snapshots share a lost block, which takes none of its bytes; to store to a part of it
// fails on both sides, and whoever overwrites all of it has a good block of its own.
func TestClonesOfLostBlocks(t *testing.T) {
	const lost = 2
	m := newMediaFS(t)
	n := m.file("file", 4)
	m.lose(n, lost)
	a, err := n.Clone(root, layout.RootIno, "clone", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	clone := must[*Node](t)(m.Open(a.Ino))
	defer clone.Close()
	if _, err := m.Snapshot(root, layout.RootIno, "snapshot", SnapshotOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Node{n, clone} {
		_, err := c.ReadAt(make([]byte, 1), lost*bs)
		wantLost(t, "read", err, c, lost)
		_, err = c.WriteAt([]byte{1}, lost*bs)
		wantLost(t, "write of a part, which copies the rest", err, c, lost)
		wantLost(t, "fault", c.Fault(lost, true, true, 512, 1, func(Run) error { return nil }), c, lost)
	}
	must[int](t)(clone.WriteAt(numbered(lost), lost*bs))
	wantContent(t, clone, 0, 4)
	_, err = n.ReadAt(make([]byte, 1), lost*bs)
	wantLost(t, "read of the other", err, n, lost)
	m.wantClean()
}

// TestDefragmentLeavesLostBlocks: what cannot be moved because a part of it is lost stays, and the rest is moved.
func TestDefragmentLeavesLostBlocks(t *testing.T) {
	m := newMediaFS(t)
	n, other := create(t, m.FS, layout.RootIno, "file"), create(t, m.FS, layout.RootIno, "other")
	defer n.Close()
	defer other.Close()
	for i := range 8 { // in turns, so that they are fragmented
		must[int](t)(n.WriteAt(numbered(i), int64(i)*bs))
		must[int](t)(other.WriteAt(numbered(i), int64(i)*bs))
	}
	m.lose(n, 3)
	_, d, err := n.Defragment(0, false)
	if err != nil || d.Bad != 8 || d.Moved != 0 {
		t.Errorf("the file with the lost block: %+v, %v", d, err)
	}
	if _, d, err = other.Defragment(0, false); err != nil || d.Moved == 0 || d.Bad != 0 {
		t.Errorf("the other one: %+v, %v", d, err)
	}
	wantContent(t, n, 0, 3)
	wantContent(t, other, 0, 8)
	m.wantClean()
}

// TestTruncateLostBlock: a file can be cut off before, in and behind a lost block, and removed.
func TestTruncateLostBlock(t *testing.T) {
	m := newMediaFS(t)
	n := m.file("file", 4)
	m.lose(n, 2)
	for _, size := range []int64{2*bs + 100, 2 * bs, 0} {
		if _, err := n.SetAttr(root, SetAttr{Size: &size}); err != nil || n.Attr().Size != size {
			t.Errorf("truncate to %d: %v, %d", size, err, n.Attr().Size)
		}
	}
	if err := m.Unlink(root, layout.RootIno, "file"); err != nil {
		t.Error(err)
	}
	m.wantClean()
}

// metaStructures are blocks of the meta area that an operation on a file needs.
func metaStructures(m *mediaFS, n *Node) map[string]int64 {
	node, _ := m.nodeOffset(layout.Node(n.in.Root[0].Number()))
	return map[string]int64{
		"inodes 0 to 15": m.sb.InodeTable.Offset / bs,
		fmt.Sprintf("node %d", n.in.Root[0].Number()): node / bs,
		"block bitmap": m.sb.BlockBitmap.Bits.Offset / bs,
		"log":          m.sb.Log.Offset/bs + 1,
	}
}

// TestBadMetadata: a bad block of any structure is an error that names it, at mount or in the operation that needs it, and
// the file system can be used as far as it does not need the block, and closed.
func TestBadMetadata(t *testing.T) {
	m := newMediaFS(t)
	n := m.file("file", 20)
	for name := range metaStructures(m, n) {
		t.Run(name, func(t *testing.T) {
			m := newMediaFS(t)
			n := m.file("file", 20)
			block, ok := metaStructures(m, n)[name]
			if !ok {
				t.Fatalf("no %s in %v", name, metaStructures(m, n))
			}
			m.spoil(m.meta, block)
			var corrupt *layout.CorruptError
			found := func(err error) bool {
				return errors.As(err, &corrupt) && corrupt.Structure == name && corrupt.Offset == block*bs && strings.Contains(err.Error(), "bad block")
			}
			met := 0
			for i, do := range []func() error{
				func() error { _, err := n.ReadAt(make([]byte, bs), 15*bs); return err },
				func() error { _, err := n.WriteAt(numbered(0), 30*bs); return err },
				func() error { _, err := m.Create(root, layout.RootIno, "new", layout.ModeRegular|0o644, 0); return err },
				func() error { _, err := m.Lookup(root, layout.RootIno, "file"); return err },
				n.Sync, n.Close, m.FS.Close,
			} {
				switch err := m.Guard(do); {
				case found(err):
					met++
				case err != nil && !errors.Is(err, unix.EIO) && !strings.Contains(err.Error(), "journal stopped"):
					t.Errorf("operation %d: %v", i, err)
				}
			}
			if met == 0 {
				t.Error("no operation has met it")
			}
			_, err := Mount(m.pool.Meta(), m.pool.Data(), Options{ReadOnly: true})
			if err != nil && !found(err) {
				t.Errorf("mount: %v", err)
			}
		})
	}
}

// TestBadCopiesOfMetadata: of what the medium has twice one may be bad.
func TestBadCopiesOfMetadata(t *testing.T) {
	for _, which := range []int64{0, 1} {
		m := newMediaFS(t)
		m.file("file", 1).Close()
		if err := m.FS.Close(); err != nil {
			t.Fatal(err)
		}
		m.spoil(m.meta, which)
		m.spoil(m.meta, layout.LogHeaderPlaces(m.sb.LogHeaders)[which]/bs)
		fs, err := Mount(m.pool.Meta(), m.pool.Data(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		n, err := fs.OpenPath(root, "file", true)
		if err != nil {
			t.Fatal(err)
		}
		wantContent(t, n, 0, 1)
		var problems []Problem
		if _, err := fs.Check(context.Background(), func(p Problem) { problems = append(problems, p) }); err != nil ||
			len(problems) != 1 || problems[0].Structure != "superblock" || problems[0].Offset != which*bs {
			t.Errorf("check: %v, %v", problems, err)
		}
		n.Close()
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
	}
	m := newMediaFS(t)
	if err := m.FS.Close(); err != nil {
		t.Fatal(err)
	}
	m.spoil(m.meta, 0)
	m.spoil(m.meta, 1)
	_, err := Mount(m.pool.Meta(), m.pool.Data(), Options{})
	var corrupt *layout.CorruptError
	if !errors.As(err, &corrupt) || corrupt.Structure != "superblock" || !strings.Contains(err.Error(), "bad block") {
		t.Errorf("mount without superblocks: %v", err)
	}
}

// TestBadBlocks: whose a bad block is: of each file that has it, of nobody, or of a structure.
func TestBadBlocks(t *testing.T) {
	m := newMediaFS(t)
	a := must[Attr](t)(m.Create(root, layout.RootIno, "dir", layout.ModeDirectory|0o755, 0))
	n := m.file("file", 6)
	if _, err := n.Clone(root, a.Ino, "clone", 0o644); err != nil {
		t.Fatal(err)
	}
	must[int](t)(n.WriteAt(numbered(4), 4*bs)) // its own again
	if err := n.Fallocate(0, 8*bs, bs); err != nil {
		t.Fatal(err)
	}
	removed := m.file("removed", 2)
	if err := m.Unlink(root, layout.RootIno, "removed"); err != nil { // and open
		t.Fatal(err)
	}
	data := func(block int64) *medium.BadBlockError {
		return &medium.BadBlockError{Area: "data", Offset: block * bs, Cause: unix.EIO}
	}
	free := m.sb.DataBlocks - 3
	got, err := m.BadBlocks(context.Background(), []*medium.BadBlockError{
		{Area: "meta", Offset: m.sb.InodeTable.Offset + bs, Cause: unix.EIO},
		data(free + 1), data(free), data(m.block(n, 1)), data(m.block(n, 2)), data(m.block(n, 4)), data(m.block(n, 8)), data(m.block(removed, 1)),
	})
	clone := must[Attr](t)(m.Resolve(root, "dir/clone", true))
	want := Media{
		Files: []BadExtent{
			{Path: "/file", Ino: n.Ino(), Offset: bs, Length: 2 * bs}, {Path: "/file", Ino: n.Ino(), Offset: 4 * bs, Length: bs},
			{Path: "/file", Ino: n.Ino(), Offset: 8 * bs, Length: bs, Unwritten: true},
			{Path: "/dir/clone", Ino: clone.Ino, Offset: bs, Length: 2 * bs},
			{Path: "/?", Ino: removed.Ino(), Offset: bs, Length: bs},
		},
		Free: []BadRun{{free * bs, 2 * bs}},
		Meta: []BadStructure{{"inodes 16 to 31", m.sb.InodeTable.Offset + bs, bs}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, want -, got +:\n%s", err, diff)
	}
	if got.Lost() != 7*bs {
		t.Errorf("%d bytes are lost", got.Lost())
	}
}
