package core

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/crash"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// store does what a program does with a mapping: a write fault, and cached stores
// that it does not flush.
func store(n *Node, off int64, p []byte) error {
	for len(p) > 0 {
		k := min(int64(len(p)), page-off%page)
		err := n.Fault(off/page, true, true, 512, 1, func(r Run) error {
			n.in.fs.data.Write((r.Block+off/page-r.First)*page+off%page, p[:k])
			return nil
		})
		if err != nil {
			return err
		}
		p, off = p[k:], off+k
	}
	return nil
}

func content(t *testing.T, n *Node) []byte {
	t.Helper()
	p := make([]byte, n.Attr().Size)
	if _, err := n.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// published is a file of so many blocks, each full of its letter, and a private clone.
func published(t *testing.T, fs *FS, name string, blocks int) (file, clone *Node, want []byte) {
	t.Helper()
	for i := range blocks {
		want = append(want, bytes.Repeat([]byte{byte('a' + i%26)}, page)...)
	}
	file = create(t, fs, layout.RootIno, name)
	must[int](t)(file.WriteAt(want, 0))
	clone = must[*Node](t)(file.Private(0, int64(len(want)), false))
	t.Cleanup(func() { clone.Close(); file.Close() })
	return file, clone, want
}

func TestPublish(t *testing.T) {
	fs := newFS(t, 64<<20)
	file, clone, want := published(t, fs, "f", 20)
	other, second, otherWant := published(t, fs, "g", 5)
	same := func(what string) {
		t.Helper()
		for _, c := range []struct {
			n    *Node
			want []byte
		}{{file, want}, {other, otherWant}} {
			if !bytes.Equal(content(t, c.n), c.want) {
				t.Errorf("%s: a file is not what it should be", what)
			}
		}
		if err := checkMounted(fs); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	change := func(n *Node, want []byte, off int64, text string) {
		t.Helper()
		if err := store(n, off, []byte(text)); err != nil {
			t.Fatal(err)
		}
		copy(want[off:], text)
	}
	for round := range 3 {
		after, otherAfter := bytes.Clone(want), bytes.Clone(otherWant)
		change(clone, after, 2*page+100, fmt.Sprintf("round %d", round))
		change(clone, after, 7*page-3, "across")
		change(second, otherAfter, 9, fmt.Sprintf("other %d", round))
		same("before")
		want, otherWant = after, otherAfter
		if err := Publish(clone, second); err != nil {
			t.Fatal(err)
		}
		same("published")
		if !bytes.Equal(content(t, clone), want) {
			t.Error("the clone is not what the file is")
		}
	}
	if err := Publish(clone); err != nil {
		t.Errorf("nothing to publish: %v", err)
	}
	// A snapshot of before keeps what it has.
	must[Attr](t)(file.Clone(root, layout.RootIno, "kept", 0o600))
	kept := must[*Node](t)(fs.OpenPath(root, "kept", false))
	defer kept.Close()
	old := bytes.Clone(want)
	change(clone, want, page, "news")
	if err := Publish(clone); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, kept), old) {
		t.Error("a clone of before has changed")
	}
	same("with a clone of before")
	if err := store(clone, 0, []byte("dropped")); err != nil {
		t.Fatal(err)
	}
	if err := clone.Discard(); err != nil || !bytes.Equal(content(t, clone), want) {
		t.Errorf("discarded: %v", err)
	}
	same("discarded")
}

// TestPublishConflict has the file change, each way there is, in a block that the
// clone has changed and in another one.
func TestPublishConflict(t *testing.T) {
	ways := map[string]func(n *Node, off int64) error{
		"write":       func(n *Node, off int64) error { _, err := n.WriteAt([]byte("new"), off+5); return err },
		"store":       func(n *Node, off int64) error { return store(n, off+5, []byte("new")) },
		"punch":       func(n *Node, off int64) error { return n.Fallocate(PunchHole|KeepSize, off, page) },
		"punch in":    func(n *Node, off int64) error { return n.Fallocate(PunchHole|KeepSize, off+8, 100) },
		"zero":        func(n *Node, off int64) error { return n.Fallocate(ZeroRange|KeepSize, off, page) },
		"truncate":    func(n *Node, off int64) error { return n.in.fs.truncated(n, off) },
		"truncate in": func(n *Node, off int64) error { return n.in.fs.truncated(n, off+100) },
		"clone":       func(n *Node, off int64) error { return n.CloneRange(off, n, off-page, page) },
		"publish": func(n *Node, off int64) error {
			clone, err := n.Private(off, page, false)
			if err != nil {
				return err
			}
			defer clone.Close()
			return errors.Join(store(clone, 50, []byte("other")), Publish(clone))
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			fs := newFS(t, 64<<20)
			file, clone, _ := published(t, fs, "f", 10)
			if err := errors.Join(store(clone, 3*page, []byte("mine")), way(file, 7*page)); err != nil {
				t.Fatal(err)
			}
			var conflict *ConflictError
			if err := Publish(clone); !errors.As(err, &conflict) || conflict.Off != 7*page || !errors.Is(err, unix.ESTALE) {
				t.Fatalf("%v, want a conflict at block 7", err)
			}
			want := content(t, file)
			copy(want[3*page:], "mine")
			if err := merged(clone); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(content(t, file), want) {
				t.Error("merged: not both changes")
			}
			got := content(t, clone)
			if n := min(len(want), len(got)); !bytes.Equal(got[:n], want[:n]) || len(bytes.Trim(got[n:], "\x00")) > 0 {
				t.Error("the clone does not follow what was merged")
			}
			// In the same block.
			if err := errors.Join(store(clone, 2*page, []byte("mine")), way(file, 2*page)); err != nil {
				t.Fatal(err)
			}
			want = content(t, file)
			if err := merged(clone); !errors.As(err, &conflict) || conflict.Off != 2*page {
				t.Fatalf("%v, want a conflict at block 2", err)
			}
			if !bytes.Equal(content(t, file), want) {
				t.Error("a conflict has changed the file")
			}
			if err := clone.Discard(); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(store(clone, page, []byte("again")), Publish(clone)); err != nil {
				t.Errorf("after Discard: %v", err)
			}
			if err := checkMounted(fs); err != nil {
				t.Error(err)
			}
		})
	}
}

// merged publishes a clone as one that merges.
func merged(clone *Node) error {
	clone.in.private.merge = true
	defer func() { clone.in.private.merge = false }()
	return Publish(clone)
}

// truncated sets the size and then gives the file its old one.
func (fs *FS) truncated(n *Node, size int64) error {
	_, err := n.SetAttr(root, SetAttr{Size: &size})
	return err
}

// TestPublishBeside has the file change outside of the clone's range.
func TestPublishBeside(t *testing.T) {
	fs := newFS(t, 64<<20)
	file, whole, want := published(t, fs, "f", 10)
	whole.Close()
	clone := must[*Node](t)(file.Private(2*page, 3*page, false))
	defer clone.Close()
	must[int](t)(file.WriteAt([]byte("before"), page))
	must[int](t)(file.WriteAt([]byte("behind"), 5*page))
	copy(want[page:], "before")
	copy(want[5*page:], "behind")
	if err := errors.Join(store(clone, 0, []byte("mine")), Publish(clone)); err != nil {
		t.Fatal(err)
	}
	copy(want[2*page:], "mine")
	if !bytes.Equal(content(t, file), want) {
		t.Error("not what was published")
	}
}

func TestPublishRefused(t *testing.T) {
	fs := newFS(t, 64<<20)
	file, clone, _ := published(t, fs, "f", 4)
	for what, err := range map[string]error{
		"not at a block":      func() error { _, err := file.Private(5, page, false); return err }(),
		"nothing":             func() error { _, err := file.Private(0, 0, false); return err }(),
		"no clone":            Publish(file),
		"twice":               Publish(clone, clone),
		"discard of no clone": file.Discard(),
	} {
		if err != unix.EINVAL {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := file.Private(0, 5*page, false); err != unix.ENXIO {
		t.Errorf("beyond the end: %v", err)
	}
	second := must[*Node](t)(file.Private(0, page, false))
	defer second.Close()
	if err := Publish(clone, second); err != unix.EINVAL {
		t.Errorf("two of one file: %v", err)
	}
	if err := store(clone, 0, []byte("mine")); err != nil {
		t.Fatal(err)
	}
	want := content(t, file)
	s := &sealer{first: 0, end: 1}
	fs.breaker = s
	if err := Publish(clone); !errors.Is(err, errSealed) || s.breaks != 0 {
		t.Errorf("sealed: %v, %d breaks", err, s.breaks)
	}
	fs.breaker = noBreaker{}
	if err := errors.Join(file.Fill(0, 4*page), file.SetStatic(true)); err != nil {
		t.Fatal(err)
	}
	var conflict *ConflictError
	if err := Publish(clone); !errors.As(err, &conflict) {
		t.Errorf("filled: %v", err) // its blocks may have been stored to
	}
	if !bytes.Equal(content(t, file), want) {
		t.Error("what was refused has changed the file")
	}
}

// TestPublishTooLong publishes more than a record can hold, and then less.
func TestPublishTooLong(t *testing.T) {
	const blocks = 10_000
	meta, data := newAreas(t, 128<<20)
	if err := Format(meta, data, FormatOptions{LogBytes: layout.MinLog}); err != nil {
		t.Fatal(err)
	}
	fs := must[*FS](t)(Mount(meta, data, Options{}))
	file := create(t, fs, layout.RootIno, "f")
	defer file.Close()
	p := make([]byte, page)
	for i := range int64(blocks) { // every other one, so that none are next to each other
		must[int](t)(file.WriteAt(p, 2*i*page))
	}
	clone := must[*Node](t)(file.Private(0, 2*(blocks-1)*page+page, false))
	defer clone.Close()
	order := rand.New(rand.NewPCG(1, 2)).Perm(blocks)
	for _, i := range order {
		if err := store(clone, 2*int64(i)*page, []byte("much")); err != nil {
			t.Fatal(err)
		}
	}
	free := fs.Statfs().FreeBlocks
	if err := Publish(clone); !errors.Is(err, unix.EFBIG) {
		t.Fatalf("%v, want EFBIG", err)
	}
	if _, err := file.ReadAt(p, 0); err != nil || p[0] != 0 || fs.Statfs().FreeBlocks != free {
		t.Errorf("after it was refused: %v, %q", err, p[:4])
	}
	if err := clone.Discard(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(store(clone, 0, []byte("less")), Publish(clone), checkMounted(fs)); err != nil {
		t.Error(err)
	}
}

// TestPublishAdopted loses the memory of what has changed, as a server does that is
// killed.
func TestPublishAdopted(t *testing.T) {
	for _, touched := range []bool{false, true} {
		meta, data := newAreas(t, 64<<20)
		fs := must[*FS](t)(Mount(meta, data, Options{}))
		file, clone, want := published(t, fs, "f", 10)
		if err := store(clone, 3*page, []byte("mine")); err != nil {
			t.Fatal(err)
		}
		copy(want[3*page:], "mine")
		if touched {
			must[int](t)(file.WriteAt([]byte("beside"), 5*page))
		}
		a := clone.Attr()
		fs = must[*FS](t)(Mount(meta, data, Options{HoldOrphans: true}))
		file = must[*Node](t)(fs.OpenPath(root, "f", false))
		clone = must[*Node](t)(fs.Adopt(a.Ino, a.Generation))
		if err := clone.Reattach(false); err != nil {
			t.Fatal(err)
		}
		fs.Reclaim()
		fs.Reclaimed()
		var conflict *ConflictError
		switch err := Publish(clone); {
		case touched && !errors.As(err, &conflict):
			t.Errorf("the file has changed: %v", err)
		case !touched && (err != nil || !bytes.Equal(content(t, file), want)):
			t.Errorf("not published: %v", err)
		}
		clone.Close()
		file.Close()
		if st := fs.Statfs(); st.Inodes-st.FreeInodes != int64(layout.FirstIno)+1 {
			t.Errorf("%d inodes are in use", st.Inodes-st.FreeInodes)
		}
		if err := checkMounted(fs); err != nil {
			t.Error(err)
		}
	}
}

var publishOperations = []operation{
	{"publish", several, 0, func(o *opTree) error {
		return o.publish(false, o.mapped, 20*page, map[int64]int64{20: 100, 22: page, 25: 9})
	}},
	{"publish to holes", several, 0, func(o *opTree) error {
		return o.publish(false, o.mapped, 0, map[int64]int64{3: 100, 6: page, 1: 9, 21: 2 * page})
	}},
	{"publish merged", several, 0, func(o *opTree) error {
		return o.publish(true, o.mapped, 20*page, map[int64]int64{20: 100, 22: page})
	}},
	{"publish to several files", several, 0, func(o *opTree) error {
		var clones []*Node
		for _, n := range []*Node{o.mapped, o.shared, o.big} {
			clone, err := n.Private(0, 2*page, false)
			if err == nil {
				err = store(clone, page-100, o.scratch[:200])
			}
			if err != nil {
				return err
			}
			clones = append(clones, clone)
		}
		return Publish(clones...)
	}},
	{"discard", several, 0, func(o *opTree) error {
		clone, err := o.mapped.Private(0, 25*page, false)
		if err != nil {
			return err
		}
		return errors.Join(store(clone, page, o.scratch[:9000]), clone.Discard())
	}},
}

// publish stores to blocks of a clone of n's from off on, so many bytes of each, and
// publishes them.
func (o *opTree) publish(merge bool, n *Node, off int64, blocks map[int64]int64) error {
	clone, err := n.Private(off, n.Attr().Size-off, merge)
	if err != nil {
		return err
	}
	for block, length := range blocks {
		if err := store(clone, block*page-off, o.scratch[:length]); err != nil {
			return err
		}
	}
	if merge {
		if err := o.write(n, 27*page, 100); err != nil {
			return err
		}
		o.step()
	}
	return Publish(clone)
}

// TestPublishPowerCut cuts the power at every instant of them: all that is
// published is there, or nothing.
func TestPublishPowerCut(t *testing.T) {
	for _, stage := range []Options{{}, {Stage: true}, {Stage: true, Defer: true}} {
		for _, op := range publishOperations {
			t.Run(fmt.Sprintf("%s, staged %v, on a disk %v", op.name, stage.Stage, stage.Defer), func(t *testing.T) {
				p := powerCut{op: op, settled: true, mount: stage, deep: 31, opts: fewer(crash.Options{
					Exhaustive: 64, Samples: 8, Lines: 16, Seed: seedOf(op.name),
				})}
				if stage.Defer {
					p.opts.Model = crash.PageCache
				}
				p.run(t)
				for _, f := range p.failures {
					t.Error(f)
				}
				wantImages(t, int64(p.images), 20)
			})
		}
	}
}
