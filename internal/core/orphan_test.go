package core

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/crash"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// crashed records what prepared does and returns what the server leaves when it
// dies then: all stores have arrived, nothing was closed.
func crashed(t *testing.T, prepared func(fs *FS)) []medium.Area {
	t.Helper()
	r := crash.Record(smallAreas(t))
	fs := must[*FS](t)(Mount(r.Area(0), r.Area(1), Options{}))
	prepared(fs)
	var out []medium.Area
	_, err := r.Images(crash.Options{From: r.Now(), To: r.Now()}, func(m *crash.Image) error {
		out = m.Clone()
		return nil
	})
	if err != nil || out == nil {
		t.Fatal("no image", err)
	}
	return out
}

// survivor is a file that a client has open when the server dies.
type survivor struct {
	ino        layout.Ino
	generation uint64
	content    []byte
}

func survivorOf(t *testing.T, n *Node) survivor {
	t.Helper()
	a := n.Attr()
	s := survivor{a.Ino, a.Generation, make([]byte, a.Size)}
	if _, err := n.ReadAt(s.content, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return s
}

func (s survivor) compare(t *testing.T, n *Node) {
	t.Helper()
	got := make([]byte, len(s.content)+1)
	k, err := n.ReadAt(got, 0)
	if err != io.EOF || !bytes.Equal(got[:k], s.content) {
		t.Errorf("%d bytes, %v, equal %v", k, err, bytes.Equal(got[:k], s.content))
	}
}

// TestAdopt lets a file without a name outlive the server that made it. Its
// blocks are its own until its last user closes it.
func TestAdopt(t *testing.T) {
	var removed, named, other survivor
	areas := crashed(t, func(fs *FS) {
		for name, s := range map[string]*survivor{"removed": &removed, "named": &named, "nobody's": &other} {
			n := create(t, fs, layout.RootIno, name)
			must[int](t)(n.WriteAt(bytes.Repeat([]byte(name), 20_000), 0))
			*s = survivorOf(t, n)
			if name != "named" {
				if err := fs.Unlink(root, layout.RootIno, name); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	fs := must[*FS](t)(Mount(areas[0], areas[1], Options{HoldOrphans: true}))
	fs.Reclaimed() // does not wait: nothing was begun
	before := fs.Statfs()

	// Looking at it does not free it, nor does opening it for a moment.
	if _, err := fs.Open(removed.ino); err != unix.ENOENT {
		t.Errorf("opened by its number alone: %v", err)
	}
	must[Attr](t)(fs.GetAttr(removed.ino))
	for range 2 {
		n := must[*Node](t)(fs.Adopt(removed.ino, removed.generation))
		removed.compare(t, n)
		n.Close()
	}
	for _, c := range []struct {
		ino        layout.Ino
		generation uint64
		want       error
	}{
		{removed.ino, removed.generation + 1, unix.ESTALE},
		{named.ino, named.generation - 1, unix.ESTALE},
		{400, 1, unix.ENOENT},
	} {
		if _, err := fs.Adopt(c.ino, c.generation); err != c.want {
			t.Errorf("inode %d, generation %d: %v, want %v", c.ino, c.generation, err, c.want)
		}
	}
	var corrupt *layout.CorruptError
	if _, err := fs.Adopt(1<<40, 1); !errors.As(err, &corrupt) {
		t.Errorf("an inode that cannot be: %v", err)
	}
	if got := fs.Statfs(); got != before {
		t.Errorf("%+v, before %+v", got, before)
	}

	a := must[*Node](t)(fs.Adopt(removed.ino, removed.generation))
	b := must[*Node](t)(fs.Adopt(removed.ino, removed.generation))
	n := must[*Node](t)(fs.Adopt(named.ino, named.generation))
	fs.Reclaim()
	fs.Reclaim()
	fs.Reclaimed()
	free := fs.Statfs().FreeBlocks
	if blocks := int64(len(other.content)+page-1) / page; free != before.FreeBlocks+blocks {
		t.Errorf("%d free, before %d: want the %d blocks of what nobody adopted, no others", free, before.FreeBlocks, blocks)
	}
	// All other blocks get new contents: none was the survivors'.
	filler := create(t, fs, layout.RootIno, "filler")
	for off := int64(0); ; off += page {
		if _, err := filler.WriteAt(bytes.Repeat([]byte("filler--"), page/8), off); err != nil {
			if !errors.Is(err, unix.ENOSPC) || off < (free-10)*page {
				t.Fatalf("filling up at %d of %d: %v", off, free*page, err)
			}
			break
		}
	}
	for _, node := range []*Node{a, b} {
		removed.compare(t, node)
	}
	named.compare(t, n)
	if _, err := a.WriteAt([]byte("REMOVED"), 0); err != nil {
		t.Error(err)
	}
	copy(removed.content, "REMOVED")
	a.Close()
	removed.compare(t, b)
	free = fs.Statfs().FreeBlocks
	b.Close()
	if got := fs.Statfs().FreeBlocks; got <= free {
		t.Errorf("%d free, %d before the last Node was closed", got, free)
	}
	if _, err := fs.Adopt(removed.ino, removed.generation); err != unix.ENOENT {
		t.Errorf("adopted after it was freed: %v", err)
	}
	n.Close()
	filler.Close()
	if sum := checkAreas(t, areas[0], areas[1]); sum.Orphans != 0 || sum.Files != 2 {
		t.Errorf("%+v", sum)
	}
}

// TestHoldOrphansClose closes a pool that holds orphans still: the next mount
// has them, too.
func TestHoldOrphansClose(t *testing.T) {
	var s survivor
	areas := crashed(t, func(fs *FS) {
		n := create(t, fs, layout.RootIno, "f")
		must[int](t)(n.WriteAt([]byte("content"), 0))
		s = survivorOf(t, n)
		if err := fs.Unlink(root, layout.RootIno, "f"); err != nil {
			t.Fatal(err)
		}
	})
	for range 2 {
		fs := must[*FS](t)(Mount(areas[0], areas[1], Options{HoldOrphans: true}))
		n := must[*Node](t)(fs.Adopt(s.ino, s.generation))
		s.compare(t, n)
		n.Close()
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
		fs.Reclaim() // too late, and no harm
		if sum := checkAreas(t, areas[0], areas[1]); sum.Orphans != 1 {
			t.Errorf("%+v", sum)
		}
	}
	fs := must[*FS](t)(Mount(areas[0], areas[1], Options{}))
	fs.Reclaimed()
	if _, err := fs.Adopt(s.ino, s.generation); err != unix.ENOENT {
		t.Error(err)
	}
	if sum := checkAreas(t, areas[0], areas[1]); sum.Orphans != 0 {
		t.Errorf("%+v", sum)
	}
}

// TestAdoptInterruptedTruncate adopts a file without a name of which a truncate
// was interrupted: what that cut off does not come back when the file grows.
func TestAdoptInterruptedTruncate(t *testing.T) {
	const count = stepPages + 8
	var s survivor
	areas := crashed(t, func(fs *FS) {
		n := create(t, fs, layout.RootIno, "f")
		for i := range int64(count) {
			must[int](t)(n.WriteAt([]byte("stale"), i*layout.HugeBlocks*page))
		}
		if err := fs.Unlink(root, layout.RootIno, "f"); err != nil {
			t.Fatal(err)
		}
		interruptTruncate(t, fs, n.in)
		s = survivorOf(t, n)
	})
	fs := must[*FS](t)(Mount(areas[0], areas[1], Options{HoldOrphans: true}))
	n := must[*Node](t)(fs.Adopt(s.ino, s.generation))
	size := int64(count * layout.HugeBlocks * page)
	must[Attr](t)(n.SetAttr(root, SetAttr{Size: &size}))
	for i := range int64(count) {
		got := make([]byte, 5)
		if _, err := n.ReadAt(got, i*layout.HugeBlocks*page); err != nil || string(got) != "\x00\x00\x00\x00\x00" {
			t.Fatalf("block %d: %q, %v", i*layout.HugeBlocks, got, err)
		}
	}
	fs.Reclaim()
	fs.Reclaimed()
	n.Close()
	if sum := checkAreas(t, areas[0], areas[1]); sum.Orphans != 0 || sum.Files != 0 {
		t.Errorf("%+v", sum)
	}
}
