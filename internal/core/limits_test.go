package core

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// TestFullPool fills a tiny pool in every way there is. When it is full
// nothing is half done, and everything can be removed again.
func TestFullPool(t *testing.T) {
	for name, fill := range map[string]func(fs *FS, dir layout.Ino, i int) error{
		"blocks": func(fs *FS, dir layout.Ino, i int) error {
			return fillFile(fs, dir, i, func(n *Node) error {
				_, err := n.WriteAt(make([]byte, 100_000), int64(i%3)*5000)
				return err
			})
		},
		"one file": func(fs *FS, dir layout.Ino, i int) error {
			a, err := fs.Lookup(root, dir, "file")
			if err == unix.ENOENT {
				a, err = fs.Create(root, dir, "file", layout.ModeRegular, 0)
			}
			if err != nil {
				return err
			}
			n, err := fs.Open(a.Ino)
			if err != nil {
				return err
			}
			defer n.Close()
			_, err = n.WriteAt(make([]byte, 3<<20+100), int64(i)*(3<<20))
			return err
		},
		"fallocate": func(fs *FS, dir layout.Ino, i int) error {
			return fillFile(fs, dir, i, func(n *Node) error { return n.Fallocate(0, 0, 3<<20) })
		},
		"faults": func(fs *FS, dir layout.Ino, i int) error {
			return fillFile(fs, dir, i, func(n *Node) error {
				size := int64(1 << 30)
				if _, err := n.in.fs.SetAttr(root, n.Ino(), SetAttr{Size: &size}); err != nil {
					return err
				}
				return n.Fault(int64(i)*100, true, true, 512, 100, func(Run) error { return nil })
			})
		},
		"nodes": func(fs *FS, dir layout.Ino, i int) error {
			return fillFile(fs, dir, i, func(n *Node) error {
				_, err := n.WriteAt([]byte("far"), 1<<43)
				return err
			})
		},
		"inodes": func(fs *FS, dir layout.Ino, i int) error {
			_, err := fs.Create(root, dir, fmt.Sprint(i), layout.ModeFIFO, 0)
			return err
		},
		"directories": func(fs *FS, dir layout.Ino, i int) error {
			a, err := fs.Create(root, dir, fmt.Sprint(i), layout.ModeDirectory|0o700, 0)
			if err == nil {
				_, err = fs.Create(root, a.Ino, "child", layout.ModeSocket, 0)
			}
			return err
		},
		"names": func(fs *FS, dir layout.Ino, i int) error {
			a, err := fs.Lookup(root, dir, "file")
			if err == unix.ENOENT {
				a, err = fs.Create(root, dir, "file", layout.ModeRegular, 0)
			}
			if err == nil {
				_, err = fs.Link(root, a.Ino, dir, fmt.Sprintf("%0250d", i))
			}
			return err
		},
		"attributes": func(fs *FS, dir layout.Ino, i int) error {
			return fillFile(fs, dir, i, func(n *Node) error {
				return fs.SetXattr(root, n.Ino(), "user.big", make([]byte, 60_000), 0)
			})
		},
		"links": func(fs *FS, dir layout.Ino, i int) error {
			_, err := fs.Symlink(root, dir, fmt.Sprint(i), strings.Repeat("t", 4000))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			meta, data := smallAreas(t)
			fs := mount(t, meta, data)
			fillAndEmpty(t, fs, fill)
			checkAreas(t, meta, data)
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func fillFile(fs *FS, dir layout.Ino, i int, fill func(*Node) error) error {
	a, err := fs.Create(root, dir, fmt.Sprint(i), layout.ModeRegular, 0)
	if err != nil {
		return err
	}
	n, err := fs.Open(a.Ino)
	if err != nil {
		return err
	}
	defer n.Close()
	return fill(n)
}

func fillAndEmpty(t *testing.T, fs *FS, fill func(fs *FS, dir layout.Ino, i int) error) {
	t.Helper()
	dir := must[Attr](t)(fs.Create(root, layout.RootIno, "dir", layout.ModeDirectory|0o755, 0)).Ino
	empty := fs.Statfs()
	for round := range 2 {
		err := error(nil)
		i := 0
		for ; err == nil; i++ {
			before := fs.Statfs()
			if err = fill(fs, dir, i); err != nil {
				after := fs.Statfs()
				if d := before.FreeBlocks - after.FreeBlocks; d < 0 || d > 3<<20/page {
					t.Errorf("the operation that failed took %d blocks", d)
				}
			}
		}
		if !errors.Is(err, unix.ENOSPC) || i < 3 {
			t.Fatalf("round %d: filling failed with %v after %d", round, err, i)
		}
		for range 3 { // it stays full, and whole
			if err := fill(fs, dir, i); err == nil {
				break
			}
			i++
		}
		if err := checkMounted(fs); err != nil {
			t.Fatalf("full: %v", err)
		}
		if err := removeAll(fs, dir); err != nil {
			t.Fatalf("empty it again: %v", err)
		}
		got := fs.Statfs()
		// The directory keeps the nodes that its names took.
		if got.FreeBlocks != empty.FreeBlocks || got.FreeInodes != empty.FreeInodes {
			t.Fatalf("round %d: %d blocks, %d inodes free, before %d and %d", round,
				got.FreeBlocks, got.FreeInodes, empty.FreeBlocks, empty.FreeInodes)
		}
	}
	if err := fs.Rmdir(root, layout.RootIno, "dir"); err != nil {
		t.Fatal(err)
	}
	if got := fs.Statfs(); got.FreeNodes != got.Nodes-1 {
		t.Errorf("%d nodes in use, want only the root's bucket", got.Nodes-got.FreeNodes)
	}
}

// TestShrinkWithoutNodes cuts large leaves, which takes nodes, when all nodes
// are in use that others may have.
func TestShrinkWithoutNodes(t *testing.T) {
	const huge = layout.HugeBlocks * page
	meta, data := smallAreas(t)
	fs := mount(t, meta, data)
	n := create(t, fs, layout.RootIno, "large")
	defer n.Close()
	if err := n.Fallocate(0, 0, 3*huge); err != nil {
		t.Fatal(err)
	}
	if got := leaves(t, n); got != [3]int{0, 3, 0} {
		t.Fatal(got)
	}
	takeNode := func(i int) error {
		return fillFile(fs, layout.RootIno, i, func(n *Node) error {
			_, err := n.WriteAt([]byte("far"), 100*page)
			return err
		})
	}
	var err error
	for i := 0; err == nil && i < layout.ChunkUnits; i++ {
		err = takeNode(i)
	}
	if free := fs.Statfs().FreeNodes; !errors.Is(err, unix.ENOSPC) || free == 0 || fs.Statfs().FreeBlocks == 0 {
		t.Fatalf("%v, %+v", err, fs.Statfs())
	}
	free := fs.Statfs().FreeBlocks
	if err := n.Fallocate(PunchHole|KeepSize, 5*page, huge); err != nil {
		t.Errorf("punch over the edge of two leaves: %v", err)
	}
	size := int64(2*huge + 9*page)
	if _, err := n.SetAttr(root, SetAttr{Size: &size}); err != nil {
		t.Errorf("truncate to the middle of a leaf: %v", err)
	}
	if got := fs.Statfs().FreeBlocks; got != free+2*layout.HugeBlocks-9 {
		t.Errorf("%d free, before %d", got, free)
	}
	if err := takeNode(layout.ChunkUnits); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a write got a node that is kept: %v", err)
	}
}

// TestLongNames fills directories with names of the greatest length, so that
// buckets split often and nodes come between.
func TestLongNames(t *testing.T) {
	meta, data := newAreas(t, 128<<20)
	fs := mount(t, meta, data)
	dir := must[Attr](t)(fs.Create(root, layout.RootIno, "dir", layout.ModeDirectory|0o755, 0)).Ino
	const count = 4000
	name := func(i int) string { return fmt.Sprintf("%0*d", layout.MaxName, i) }
	for i := range count {
		must[Attr](t)(fs.Create(root, dir, name(i), layout.ModeFIFO, 0))
	}
	if _, err := fs.Create(root, dir, name(0)+"x", layout.ModeFIFO, 0); err != unix.ENAMETOOLONG {
		t.Errorf("a name of 256 bytes: %v", err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	fs = mount(t, meta, data)
	perm := rand.New(rand.NewPCG(3, 4)).Perm(count)
	for _, i := range perm[:count/2] {
		if err := fs.Unlink(root, dir, name(i)); err != nil {
			t.Fatal(err)
		}
	}
	for at, i := range perm {
		if _, err := fs.Lookup(root, dir, name(i)); (err == nil) != (at >= count/2) {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if n := len(must[[]DirEntry](t)(fs.ReadDir(root, dir, 0, 2*count))); n != count/2 {
		t.Errorf("%d names, want %d", n, count/2)
	}
}

// TestReadDirUnderChange reads a directory a few names at a time while others
// come and go: names that stay are returned exactly once.
func TestReadDirUnderChange(t *testing.T) {
	fs := newFS(t, 256<<20)
	dir := must[Attr](t)(fs.Create(root, layout.RootIno, "dir", layout.ModeDirectory|0o755, 0)).Ino
	make := func(name string) { must[Attr](t)(fs.Create(root, dir, name, layout.ModeFIFO, 0)) }
	for i := range 500 {
		make(fmt.Sprintf("stays-%d", i))
		make(fmt.Sprintf("goes-%d", i))
	}
	seen := map[string]int{}
	round := 0
	for from := Cookie(0); ; round++ {
		list := must[[]DirEntry](t)(fs.ReadDir(root, dir, from, 7))
		if len(list) == 0 {
			break
		}
		for _, e := range list {
			seen[e.Name]++
			from = e.Next
		}
		for i := range 5 {
			make(fmt.Sprintf("comes-%d-%d", round, i))
		}
		fs.Unlink(root, dir, fmt.Sprintf("goes-%d", round))
		if round > 10_000 {
			t.Fatal("does not end")
		}
	}
	for name, n := range seen {
		if n > 1 {
			t.Errorf("%s returned %d times", name, n)
		}
	}
	for i := range 500 {
		if name := fmt.Sprintf("stays-%d", i); seen[name] != 1 {
			t.Errorf("%s returned %d times", name, seen[name])
		}
	}
}

// TestLargeOffsets writes at the edges of every level of a block map, up to
// the last byte of the longest file.
func TestLargeOffsets(t *testing.T) {
	meta, data := newAreas(t, 64<<20)
	fs := mount(t, meta, data)
	n := create(t, fs, layout.RootIno, "f")
	var offsets []int64
	for _, edge := range []int64{8 * page, 512 * page, 8 * 512 * page, 1 << 30, 8 << 30, 512 << 30, 4 << 40, layout.MaxFileSize} {
		offsets = append(offsets, edge-5)
		if edge < layout.MaxFileSize {
			offsets = append(offsets, edge, edge+page-2)
		}
	}
	text := func(off int64) []byte { return fmt.Appendf(nil, "%05x", off>>3&0xfffff) }
	for _, off := range offsets {
		if _, err := n.WriteAt(text(off), off); err != nil {
			t.Fatalf("write at %#x: %v", off, err)
		}
	}
	for _, off := range []int64{layout.MaxFileSize, layout.MaxFileSize - 4} {
		if _, err := n.WriteAt(text(0), off); err != unix.EFBIG {
			t.Errorf("write at %#x: %v, want EFBIG", off, err)
		}
	}
	n.Close()
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	fs = mount(t, meta, data)
	n = must[*Node](t)(fs.Open(must[Attr](t)(fs.Resolve(root, "f", true)).Ino))
	defer n.Close()
	if size := n.Attr().Size; size != layout.MaxFileSize {
		t.Errorf("size %#x", size)
	}
	for _, off := range offsets {
		got := make([]byte, 15)
		if _, err := n.ReadAt(got[:5], off); err != nil || !bytes.Equal(got[:5], text(off)) {
			t.Errorf("read at %#x: %q, %v", off, got[:5], err)
		}
		if k, err := n.ReadAt(got, off+2*page); err == nil && !bytes.Equal(got, make([]byte, 15)) || err != nil && err != io.EOF {
			t.Errorf("read of a hole at %#x: %q, %v", off+2*page, got[:k], err)
		}
	}
	for at, i := int64(0), 0; ; i++ { // every extent is found by seeking
		off, err := n.SeekData(at)
		if err == unix.ENXIO {
			break
		}
		if at, err = n.SeekHole(off); err != nil || at <= off || i > len(offsets) {
			t.Fatalf("hole behind %#x: %#x, %v", off, at, err)
		}
	}
	before := fs.Statfs().FreeBlocks
	for _, size := range []int64{layout.MaxFileSize - 1, 512<<30 - 5, 7 * page, 0} {
		if _, err := fs.SetAttr(root, n.Ino(), SetAttr{Size: &size}); err != nil {
			t.Fatal(err)
		}
	}
	if a := n.Attr(); a.Blocks != 0 || fs.Statfs().FreeBlocks <= before {
		t.Errorf("%+v after truncate to nothing", a)
	}
}

// TestConcurrent does random operations from several goroutines, renames of
// directories across directories among them: no deadlock, and what is left is
// whole.
func TestConcurrent(t *testing.T) {
	meta, data := newAreas(t, 64<<20)
	fs := mount(t, meta, data)
	var dirs []layout.Ino
	for _, path := range []string{"a", "b", "c"} {
		dirs = append(dirs, must[Attr](t)(fs.Create(root, layout.RootIno, path, layout.ModeDirectory|0o755, 0)).Ino)
	}
	dirs = append(dirs, layout.RootIno)
	deadlocked := time.AfterFunc(50*time.Second, func() { panic("deadlock") })
	defer deadlocked.Stop()
	var wg sync.WaitGroup
	for g := range uint64(8) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(g, 1))
			for range 600 {
				if err := randomOperation(fs, r, dirs); err != nil {
					t.Errorf("%v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := checkMounted(fs); err != nil {
		t.Error(err)
	}
	if err := removeAll(fs, layout.RootIno); err != nil {
		t.Error(err)
	}
	if st := fs.Statfs(); st.FreeBlocks != st.Blocks || st.FreeInodes != st.Inodes-int64(layout.FirstIno) || len(fs.cache) != 1 {
		t.Errorf("left: %+v, %d inodes in memory besides the root", st, len(fs.cache)-1)
	}
}

// randomOperation returns errors that no order of the operations explains.
func randomOperation(fs *FS, r *rand.Rand, dirs []layout.Ino) error {
	dir, other := dirs[r.IntN(len(dirs))], dirs[r.IntN(len(dirs))]
	name, second := fmt.Sprint("n", r.IntN(6)), fmt.Sprint("n", r.IntN(6))
	// A directory that is a child of dir now, to work deeper in the tree.
	if a, err := fs.Lookup(root, dir, second); err == nil && a.Mode&layout.ModeType == layout.ModeDirectory && r.IntN(2) == 0 {
		dir = a.Ino
	}
	var err error
	switch r.IntN(12) {
	case 0, 1:
		_, err = fs.Create(root, dir, name, layout.ModeRegular|0o600, 0)
	case 2, 3:
		_, err = fs.Create(root, dir, name, layout.ModeDirectory|0o700, 0)
	case 4:
		err = fs.Unlink(root, dir, name)
	case 5:
		err = fs.Rmdir(root, dir, name)
	case 6, 7, 8:
		err = fs.Rename(root, dir, name, other, second, uint32(r.IntN(3)))
	case 9:
		var list []DirEntry
		if list, err = fs.ReadDir(root, dir, 0, 100); err == nil {
			for _, e := range list {
				if _, err := fs.GetAttr(e.Ino); err != nil && err != unix.ENOENT {
					return fmt.Errorf("stat %s: %w", e.Name, err)
				}
			}
		}
	default:
		err = randomContent(fs, r, dir, name, other, second)
	}
	for _, fine := range []error{unix.ENOENT, unix.EEXIST, unix.EISDIR, unix.ENOTDIR, unix.ENOTEMPTY, unix.EINVAL, unix.EPERM, unix.ENODATA} {
		if err == fine {
			return nil
		}
	}
	return err
}

func randomContent(fs *FS, r *rand.Rand, dir layout.Ino, name string, other layout.Ino, second string) error {
	a, err := fs.Lookup(root, dir, name)
	if err != nil {
		return err
	}
	if r.IntN(3) == 0 {
		_, err := fs.Link(root, a.Ino, other, second)
		return err
	}
	if err := fs.SetXattr(root, a.Ino, "user.x", make([]byte, r.IntN(9000)), 0); err != nil {
		return err
	}
	n, err := fs.Open(a.Ino)
	if err != nil {
		return err
	}
	defer n.Close()
	if a.Mode&layout.ModeType != layout.ModeRegular {
		return nil
	}
	p := bytes.Repeat([]byte{byte(a.Ino)}, r.IntN(30_000))
	off := int64(r.IntN(1 << 20))
	if _, err := n.WriteAt(p, off); err != nil {
		return err
	}
	got := make([]byte, 1<<16)
	k, err := n.ReadAt(got, off)
	if err != nil && err != io.EOF {
		return err
	}
	for _, b := range got[:k] {
		if b != 0 && b != byte(a.Ino) {
			return fmt.Errorf("%v holds %#x, which only another file has", a.Ino, b)
		}
	}
	size := int64(r.IntN(1 << 20))
	if _, err := fs.SetAttr(root, a.Ino, SetAttr{Size: &size}); err != nil {
		return err
	}
	return n.Fallocate(PunchHole|KeepSize, int64(r.IntN(1<<20)), 1+int64(r.IntN(1<<18)))
}

// TestInterruptedTruncate uses a file again before mount has got round to
// freeing what an interrupted truncate left behind its end: nothing of it
// comes back.
func TestInterruptedTruncate(t *testing.T) {
	for name, use := range map[string]func(fs *FS, n *Node) error{
		"write": func(fs *FS, n *Node) error {
			_, err := n.WriteAt([]byte("x"), 100*layout.HugeBlocks*page)
			return err
		},
		"append": func(fs *FS, n *Node) error { _, _, err := n.Append(make([]byte, 3*page)); return err },
		"truncate": func(fs *FS, n *Node) error {
			size := int64(1 << 40)
			_, err := fs.SetAttr(root, n.Ino(), SetAttr{Size: &size})
			return err
		},
		"fallocate": func(fs *FS, n *Node) error { return n.Fallocate(0, 0, 60*layout.HugeBlocks*page) },
		"freeze":    func(fs *FS, n *Node) error { return errors.Join(n.SetStatic(true), n.SetStatic(false)) },
		"unlink":    func(fs *FS, n *Node) error { return fs.Unlink(root, layout.RootIno, "f") },
		"write when it has no name": func(fs *FS, n *Node) error {
			err := fs.Unlink(root, layout.RootIno, "f")
			must[int](t)(n.WriteAt([]byte("x"), 100*layout.HugeBlocks*page))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			meta, data := newAreas(t, 512<<20)
			fs := mount(t, meta, data)
			n := create(t, fs, layout.RootIno, "f")
			for i := range int64(60) { // a node each: more than one step frees
				must[int](t)(n.WriteAt([]byte("stale"), i*layout.HugeBlocks*page))
			}
			interruptTruncate(t, fs, n.in)
			n.Close()
			fs = must[*FS](t)(Mount(meta, data, Options{HoldOrphans: true}))
			n = must[*Node](t)(fs.Open(n.Ino()))
			if err := use(fs, n); err != nil {
				t.Fatal(err)
			}
			for i := range int64(60) {
				got := make([]byte, 5)
				if _, err := n.ReadAt(got, i*layout.HugeBlocks*page); err != nil && err != io.EOF || string(got) == "stale" {
					t.Fatalf("block %d: %q, %v", i*layout.HugeBlocks, got, err)
				}
			}
			n.Close()
			fs.Reclaim()
			fs.Reclaimed()
			if sum := checkAreas(t, meta, data); sum.Orphans != 0 {
				t.Errorf("%+v", sum)
			}
		})
	}
}

// interruptTruncate does the first step of a truncate to nothing.
func interruptTruncate(t *testing.T, fs *FS, in *inode) {
	t.Helper()
	in.mu.Lock()
	defer in.mu.Unlock()
	err := fs.transact(func(u *update) error {
		want := u.edit(in)
		want.Size = 0
		at, err := u.freeStep(want, 0, mapEnd)
		if at >= mapEnd {
			t.Fatal("one step frees it all: nothing is interrupted")
		}
		if err == nil {
			err = u.setOrphan(in)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	in.unsettled.Store(false) // what follows a crash does not see it
}
