package core

import (
	"context"
	"slices"
	"testing"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// checkAreas checks a pool through a read-only mount and fails the test for
// each problem. It is what every test of this package ends with.
func checkAreas(t testing.TB, meta, data medium.Area) Summary {
	t.Helper()
	sum, problems := problemsOf(t, meta, data)
	for _, p := range problems {
		t.Errorf("check: %v", p)
	}
	return sum
}

func problemsOf(t testing.TB, meta, data medium.Area) (sum Summary, problems []Problem) {
	t.Helper()
	fs, err := Mount(meta, data, Options{ReadOnly: true})
	if err != nil {
		t.Fatalf("mount for the check: %v", err)
	}
	defer fs.Close()
	sum, err = fs.Check(context.Background(), func(p Problem) {
		if !p.Note {
			problems = append(problems, p)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum, problems
}

func TestCheckCounts(t *testing.T) {
	meta, data := newAreas(t, 64<<20)
	fs := mount(t, meta, data)
	buildTree(t, fs)
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	before := slices.Clone(meta.Bytes())
	sum := checkAreas(t, meta, data)
	if !slices.Equal(before, meta.Bytes()) {
		t.Error("the check changed the meta area")
	}
	want := Summary{Files: 6, Directories: 3, Symlinks: 1, Others: 1, Names: 11, Blocks: sum.Blocks, Nodes: sum.Nodes}
	if sum != want {
		t.Errorf("summary %+v, want %+v", sum, want)
	}
	st := fs.Statfs()
	if sum.Blocks != st.Blocks-st.FreeBlocks || sum.Nodes != st.Nodes-st.FreeNodes {
		t.Errorf("%d blocks and %d nodes, the bitmaps say %d and %d", sum.Blocks, sum.Nodes, st.Blocks-st.FreeBlocks, st.Nodes-st.FreeNodes)
	}
}

// buildTree makes one of everything: /small, /sparse, /large (2 MiB leaves),
// /unwritten, /hard (= /small), /link, /fifo, /d/{deep, e/inner}, with
// extended attributes on /small and /d.
func buildTree(t testing.TB, fs *FS) {
	t.Helper()
	write := func(dir layout.Ino, name string, off int64, n int) layout.Ino {
		t.Helper()
		node := create(t, fs, dir, name)
		defer node.Close()
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(i>>8) ^ byte(i) ^ name[0]
		}
		if _, err := node.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
		return node.Ino()
	}
	small := write(layout.RootIno, "small", 0, 5000)
	write(layout.RootIno, "sparse", 5<<30, 10000)
	write(layout.RootIno, "large", 0, 5<<20)
	n := create(t, fs, layout.RootIno, "unwritten")
	if err := n.Fallocate(KeepSize, 0, 40<<10); err != nil {
		t.Fatal(err)
	}
	n.Close()
	must[Attr](t)(fs.Link(root, small, layout.RootIno, "hard"))
	must[Attr](t)(fs.Symlink(root, layout.RootIno, "link", "d/deep"))
	must[Attr](t)(fs.Create(root, layout.RootIno, "fifo", layout.ModeFIFO|0o600, 0))
	d := must[Attr](t)(fs.Create(root, layout.RootIno, "d", layout.ModeDirectory|0o755, 0)).Ino
	e := must[Attr](t)(fs.Create(root, d, "e", layout.ModeDirectory|0o700, 0)).Ino
	write(d, "deep", 100, 300)
	write(e, "inner", 0, 40<<10)
	for i, ino := range []layout.Ino{small, d} {
		if err := fs.SetXattr(root, ino, "user.a", make([]byte, 10+i*6000), 0); err != nil {
			t.Fatal(err)
		}
	}
}
