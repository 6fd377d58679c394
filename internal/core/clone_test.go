package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/crash"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// scattered writes count blocks that need a node each.
func scattered(t testing.TB, n *Node, count int) {
	t.Helper()
	for i := range int64(count) {
		must[int](t)(n.WriteAt(bytes.Repeat([]byte{byte('a' + i%26)}, page), i*layout.HugeBlocks*page))
	}
}

// longClones take several transactions: the file open as /a/open has more nodes
// than one can change.
var longClones = []operation{
	{"clone in steps", metadata, 0, func(o *opTree) error {
		_, err := o.open.Clone(root, o.b, "new", 0o600)
		return err
	}},
	{"clone a private one in steps", metadata, 0, func(o *opTree) error {
		n, err := o.open.Private(0, o.open.Attr().Size, false)
		if err == nil {
			n.Close()
		}
		return err
	}},
}

// TestClonePowerCut cuts the power in every step of long clones. What is not done
// then is reclaimed, and no block is lost.
func TestClonePowerCut(t *testing.T) {
	for _, stage := range []Options{{}, {Stage: true}} {
		for _, op := range longClones {
			t.Run(fmt.Sprintf("%s, staged %v", op.name, stage.Stage), func(t *testing.T) {
				p := powerCut{op: op, settled: true, mount: stage, deep: 13, opts: fewer(crash.Options{
					Exhaustive: 64, Samples: 6, Lines: 6, Seed: seedOf(op.name),
				})}
				p.before = func(o *opTree) { scattered(t, o.open, 2*stepPages+3) }
				stats := p.run(t)
				for _, f := range p.failures {
					t.Error(f)
				}
				if !stage.Stage && stats.Epochs < 3 {
					t.Errorf("%+v: not in several transactions", stats)
				}
			})
		}
	}
}

// TestCloneRangePowerCut cuts the power in every step of clones of long ranges: each
// block is what it was, zeros, or the source's, and none lies behind the end.
func TestCloneRangePowerCut(t *testing.T) {
	const huge, blocks = layout.HugeBlocks * page, 2*stepPages + 3
	for name, old := range map[string]int{"behind the end": 0, "over others": blocks} {
		t.Run(name, func(t *testing.T) {
			r := crash.Record(smallAreas(t))
			fs := must[*FS](t)(Mount(r.Area(0), r.Area(1), Options{}))
			src, to := create(t, fs, layout.RootIno, "src"), create(t, fs, layout.RootIno, "to")
			scattered(t, src, blocks)
			for i := range int64(old) {
				must[int](t)(to.WriteAt(bytes.Repeat([]byte("o"), page), i*huge))
			}
			from := r.Now()
			if err := to.CloneRange(0, src, 0, 0); err != nil {
				t.Fatal(err)
			}
			partly, images := 0, 0
			look := func(m *crash.Image) error {
				images++
				fs := must[*FS](t)(Mount(m.Areas[0], m.Areas[1], Options{ReadOnly: true}))
				defer fs.Close()
				if err := checkMounted(fs); err != nil {
					t.Errorf("%v: %v", m, err)
					return errEnough
				}
				n := must[*Node](t)(fs.OpenPath(root, "to", false))
				defer n.Close()
				come, gone := 0, 0
				for i := range int64(blocks) {
					b := make([]byte, page)
					if _, err := n.ReadAt(b, i*huge); err != nil && err != io.EOF {
						t.Fatal(err)
					}
					switch {
					case bytes.Equal(b, bytes.Repeat([]byte{byte('a' + i%26)}, page)):
						come++
					case b[0] == 0:
						gone++
						fallthrough
					case b[0] == 'o':
						if !bytes.Equal(b, bytes.Repeat(b[:1], page)) {
							t.Errorf("%v: block %d is torn", m, i)
						}
					default:
						t.Errorf("%v: block %d begins with %q", m, i, b[0])
					}
				}
				if come > 0 && come < blocks {
					partly++
				}
				if m.Last && come < blocks {
					t.Errorf("%v: %d of %d blocks when it is done", m, come, blocks)
				}
				return nil
			}
			opts := crash.Options{From: from, To: r.Now(), Exhaustive: 32, Samples: 6, Lines: 6, Seed: 1}
			if _, err := r.Images(opts, look); err != nil && err != errEnough {
				t.Fatal(err)
			}
			if partly == 0 {
				t.Errorf("none of %d images in the middle", images)
			}
		})
	}
}

// TestCloneWithoutNodes runs out of nodes in the middle of clones: nothing is left
// of them, and all goes on.
func TestCloneWithoutNodes(t *testing.T) {
	meta, data := smallAreas(t)
	fs := mount(t, meta, data)
	n, to := create(t, fs, layout.RootIno, "scattered"), create(t, fs, layout.RootIno, "to")
	defer n.Close()
	defer to.Close()
	scattered(t, n, 100)
	must[int](t)(to.WriteAt(bytes.Repeat([]byte("old"), 3*page), 0))
	before := content(t, n)
	var err error
	taken := 0
	for ; err == nil && fs.Statfs().FreeNodes > keptNodes+60; taken++ {
		err = fillFile(fs, layout.RootIno, taken, func(n *Node) error {
			_, err := n.WriteAt([]byte("far"), 100*page)
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	fs.Lookup(root, layout.RootIno, "clone") // so that no bucket is split later
	free := fs.Statfs()
	for name, clone := range map[string]func() error{
		"clone": func() error { _, err := n.Clone(root, layout.RootIno, "clone", 0o600); return err },
		"private": func() error {
			p, err := n.Private(0, n.Attr().Size, true)
			if err == nil {
				p.Close()
			}
			return err
		},
	} {
		if err := clone(); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("%s: %v", name, err)
		}
		if got := fs.Statfs(); got.FreeBlocks != free.FreeBlocks || got.FreeInodes != free.FreeInodes || got.FreeNodes != free.FreeNodes {
			t.Errorf("%s: free %+v, before %+v", name, got, free)
		}
		if err := checkMounted(fs); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A range that comes in part stays so, but what is there is whole.
	if err := to.CloneRange(4*page, n, 0, 0); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("range: %v", err)
	}
	if err := checkMounted(fs); err != nil {
		t.Errorf("range: %v", err)
	}
	// What has failed has changed no contents, and all goes on.
	if !bytes.Equal(content(t, n), before) {
		t.Error("the source has changed")
	}
	must[int](t)(n.WriteAt([]byte("mine again"), 0))
	size := int64(0)
	must[Attr](t)(to.SetAttr(root, SetAttr{Size: &size}))
	for i := range taken {
		if err := fs.Unlink(root, layout.RootIno, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	must[Attr](t)(n.Clone(root, layout.RootIno, "clone", 0o600))
	if err := checkMounted(fs); err != nil {
		t.Error(err)
	}
}

// TestUnshareWithoutBlocks: stores to what is shared take blocks; without any they
// fail and change nothing, and work again when the other file has gone.
func TestUnshareWithoutBlocks(t *testing.T) {
	meta, data := smallAreas(t)
	fs := mount(t, meta, data)
	n := create(t, fs, layout.RootIno, "f")
	defer n.Close()
	must[int](t)(n.WriteAt(bytes.Repeat([]byte("0123456789abcdef"), 4*page/16), 0))
	before := content(t, n)
	must[Attr](t)(n.Clone(root, layout.RootIno, "twin", 0o600))
	full := create(t, fs, layout.RootIno, "full")
	defer full.Close()
	if err := full.Fallocate(0, 0, fs.Statfs().FreeBlocks*page); err != nil {
		t.Fatal(err)
	}
	size := int64(2*page + 5)
	for name, do := range map[string]func() error{
		"write":    func() error { _, err := n.WriteAt([]byte("x"), page); return err },
		"fault":    func() error { return store(n, 0, []byte("x")) },
		"fill":     func() error { return n.Fill(0, 3*page) },
		"punch":    func() error { return n.Fallocate(PunchHole|KeepSize, 5, 100) },
		"zero":     func() error { return n.Fallocate(ZeroRange, 5, 3*page) },
		"truncate": func() error { _, err := n.SetAttr(root, SetAttr{Size: &size}); return err },
	} {
		if err := do(); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(content(t, n), before) {
			t.Errorf("%s: it has changed something", name)
		}
	}
	if err := fs.Unlink(root, layout.RootIno, "twin"); err != nil {
		t.Fatal(err)
	}
	must[int](t)(n.WriteAt([]byte("x"), page))
	if err := store(n, 0, []byte("x")); err != nil {
		t.Error(err)
	}
	if err := checkMounted(fs); err != nil {
		t.Error(err)
	}
}

// count is the reference count of a file's block.
func count(t *testing.T, n *Node, block int64) int64 {
	t.Helper()
	fs := n.in.fs
	p := must[piece](t)(fs.find(fs.journal.View, &n.in.Inode, block, block+1))
	c := must[piece](t)(fs.find(fs.journal.View, &fs.counts, p.at(block), p.at(block)+1))
	return max(c.block, 0)
}

// TestCloneOfClones has five files share blocks, one cloned from the other, and
// others share parts of them, at other places and twice in one file.
func TestCloneOfClones(t *testing.T) {
	fs := newFS(t, 64<<20)
	const blocks = 600 // over the edge of a leaf of 2 MiB
	files := []*Node{create(t, fs, layout.RootIno, "0")}
	want := [][]byte{bytes.Repeat([]byte("contents"), blocks*page/8)}
	must[int](t)(files[0].WriteAt(want[0], 0))
	for i := 1; i < 5; i++ {
		must[Attr](t)(files[i-1].Clone(root, layout.RootIno, fmt.Sprint(i), 0o600))
		files = append(files, must[*Node](t)(fs.OpenPath(root, fmt.Sprint(i), false)))
		want = append(want, bytes.Clone(want[0]))
		if got := count(t, files[0], 5); got != int64(i) {
			t.Errorf("with %d clones the count is %d", i, got)
		}
	}
	if err := files[1].CloneRange(0, files[1], 300*page, 7*page); err != nil {
		t.Fatal(err)
	}
	if got := []int64{count(t, files[0], 0), count(t, files[0], 300), count(t, files[0], 307)}; !slices.Equal(got, []int64{3, 5, 4}) {
		t.Errorf("counts %d", got)
	}
	used := fs.Statfs().FreeBlocks
	for i, n := range files {
		text := fmt.Sprint("only in ", i)
		must[int](t)(n.WriteAt([]byte(text), int64(i)*100*page+page-3))
		copy(want[i][i*100*page+page-3:], text)
	}
	if got := used - fs.Statfs().FreeBlocks; got != 10 {
		t.Errorf("%d blocks for 10 that are stored to", got)
	}
	for i, n := range files {
		if !bytes.Equal(content(t, n), want[i]) {
			t.Errorf("%d is not what it should be", i)
		}
	}
	for _, i := range []int{3, 0, 4, 1, 2} {
		if err := checkMounted(fs); err != nil {
			t.Errorf("before %d is removed: %v", i, err)
		}
		if err := fs.Unlink(root, layout.RootIno, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		files[i].Close()
	}
	if st := fs.Statfs(); st.FreeBlocks != st.Blocks || fs.counts.Nodes != 0 || fs.counts.Root != ([rootFanout]layout.Entry{}) {
		t.Errorf("left: %+v, counts %+v", st, fs.counts)
	}
}

// holder is a Breaker with a seal, which reports what clients can store to.
type holder struct {
	sealer
	stored []alloc.Run
	taken  []Taking
}

func (h *holder) Stored(_ layout.Ino, first, count int64, fn func(first, count int64)) {
	for _, r := range h.stored {
		if lo, hi := max(r.First, first), min(r.End(), first+count); lo < hi {
			fn(lo, hi-lo)
		}
	}
}

func (h *holder) Break(ino layout.Ino, what Taking, runs ...alloc.Run) error {
	h.taken = append(h.taken, what)
	return h.sealer.Break(ino, what, runs...)
}

// TestCloneSealed: blocks that are sealed do not become shared, and nothing has
// changed; the others of the file do.
func TestCloneSealed(t *testing.T) {
	meta, data := newAreas(t, 32<<20)
	h := &holder{}
	fs := must[*FS](t)(Mount(meta, data, Options{Breaker: h}))
	n, to := create(t, fs, layout.RootIno, "sealed"), create(t, fs, layout.RootIno, "to")
	defer n.Close()
	defer to.Close()
	for _, f := range []*Node{n, to} {
		must[int](t)(f.WriteAt(bytes.Repeat([]byte("x"), 10*page), 0))
	}
	h.first, h.end, h.taken = 3, 5, nil
	before := [][]byte{slices.Clone(meta.Bytes()), slices.Clone(data.Bytes())}
	for name, do := range map[string]func() error{
		"clone":                 func() error { _, err := n.Clone(root, layout.RootIno, "new", 0o600); return err },
		"clone the range":       func() error { return to.CloneRange(20*page, n, 4*page, 3*page) },
		"clone onto the range":  func() error { return n.CloneRange(2*page, to, 6*page, 2*page) },
		"clone within the file": func() error { return n.CloneRange(20*page, n, 0, 4*page) },
		"private":               func() error { _, err := n.Private(0, 4*page, false); return err },
	} {
		if err := do(); !errors.Is(err, errSealed) {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(before[0], meta.Bytes()) || !bytes.Equal(before[1], data.Bytes()) || h.taken != nil {
			t.Errorf("%s: it has changed something, taken %v", name, h.taken)
		}
	}
	for name, do := range map[string]func() error{
		"clone another range":  func() error { return to.CloneRange(20*page, n, 5*page, 3*page) },
		"clone beside it":      func() error { return n.CloneRange(0, to, 6*page, 3*page) },
		"a private one beside": func() error { p, err := n.Private(5*page, 5*page, false); p.Close(); return err },
	} {
		if err := do(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCloneFlushes: what clients can store to is flushed before it is shared, and
// nothing else; without such blocks there is nothing to wait for.
func TestCloneFlushes(t *testing.T) {
	meta, d := newAreas(t, 32<<20)
	data := medium.Counting(d)
	h := &holder{}
	fs := must[*FS](t)(Mount(meta, data, Options{Breaker: h}))
	n := create(t, fs, layout.RootIno, "f")
	defer n.Close()
	to := create(t, fs, layout.RootIno, "to")
	defer to.Close()
	must[int](t)(n.WriteAt(bytes.Repeat([]byte("x"), 10*page), 0))
	must[int](t)(n.WriteAt(bytes.Repeat([]byte("x"), 10*page), 20*page)) // behind a hole
	const perBlock = page / layout.LineSize
	names := 0
	clone := func() error {
		names++
		_, err := n.Clone(root, layout.RootIno, fmt.Sprint("clone", names), 0o600)
		return err
	}
	for _, c := range []struct {
		name   string
		stored []alloc.Run
		do     func() error
		blocks int64
	}{
		{"nobody has it", nil, clone, 0},
		{"two runs", []alloc.Run{{First: 2, Count: 3}, {First: 9, Count: 1}}, clone, 4},
		{"with a hole", []alloc.Run{{First: 8, Count: 14}}, clone, 4},
		{"a range", []alloc.Run{{First: 0, Count: 30}}, func() error { return to.CloneRange(0, n, 3*page, 2*page) }, 2},
		{"beside the range", []alloc.Run{{First: 5, Count: 2}}, func() error { return to.CloneRange(0, n, 3*page, 2*page) }, 0},
	} {
		h.stored, h.taken = c.stored, nil
		data.Reset()
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		want := medium.Counts{FlushedLines: c.blocks * perBlock}
		if c.blocks > 0 {
			want.Fences = 1
		}
		if got := data.Counts(); got != want {
			t.Errorf("%s: %+v, want %+v", c.name, got, want)
		}
		if len(h.taken) == 0 || h.taken[0] != TakeWrites {
			t.Errorf("%s: taken %v", c.name, h.taken)
		}
	}
}

// TestCloneCosts: a clone costs what the map of the file does, whatever it maps.
func TestCloneCosts(t *testing.T) {
	const huge = layout.HugeBlocks * page
	m, d := newAreas(t, 1<<30+128<<20)
	meta, data := medium.Counting(m), medium.Counting(d)
	fs := mount(t, meta, data)
	cost := func(name string, size int64) int64 {
		t.Helper()
		n := create(t, fs, layout.RootIno, name)
		defer n.Close()
		if err := n.Fallocate(0, 0, size); err != nil {
			t.Fatal(err)
		}
		err := fs.transact(func(u *update) error { return u.mark(u.edit(n.in), 0, size/page, 0) })
		if err != nil {
			t.Fatal(err)
		}
		l := leaves(t, n)
		meta.Reset()
		data.Reset()
		must[Attr](t)(n.Clone(root, layout.RootIno, name+" cloned", 0o600))
		got := meta.Counts()
		if got.Fences != 1 || data.Counts() != (medium.Counts{}) {
			t.Errorf("%s: %+v, of the data area %+v", name, got, data.Counts())
		}
		t.Logf("%s: leaves %v, %d lines", name, l, got.StreamedLines)
		entries := int64(l[0] + l[1] + l[2])
		const perEntry, rest = 3 * 2 * layout.WordSize, 4096 // an entry with its place in the log, in three maps
		if most := (entries*perEntry + 3*page + rest) / layout.LineSize; got.StreamedLines > most {
			t.Errorf("%s: %d lines for %d entries, at most %d", name, got.StreamedLines, entries, most)
		}
		for _, name := range []string{name, name + " cloned"} {
			if err := fs.Unlink(root, layout.RootIno, name); err != nil {
				t.Fatal(err)
			}
		}
		return got.StreamedLines
	}
	small, large := cost("2 MiB", huge), cost("1 GiB", 512*huge)
	if large > 512*small/8 {
		t.Errorf("%d lines for 1 GiB, %d for 2 MiB", large, small)
	}
}

// TestChangesOfSize: as long as the source's changes are what the clone has noted,
// both have the same contents; a size is a part of that, also where holes come and
// go.
func TestChangesOfSize(t *testing.T) {
	fs := newFS(t, 32<<20)
	for name, do := range map[string]func(n, other *Node) error{
		"shrink over a hole":     func(n, _ *Node) error { return fs.truncated(n, 10*page) },
		"shrink within a hole":   func(n, _ *Node) error { return fs.truncated(n, 20*page-1) },
		"grow":                   func(n, _ *Node) error { return fs.truncated(n, 20*page+1) },
		"grow over unwritten":    func(n, _ *Node) error { return n.Fallocate(0, 20*page, page) },
		"zero behind the end":    func(n, _ *Node) error { return n.Fallocate(ZeroRange, 20*page, page) },
		"clone a hole behind it": func(n, other *Node) error { return n.CloneRange(22*page, other, 0, 2*page) },
	} {
		n, other := create(t, fs, layout.RootIno, name), create(t, fs, layout.RootIno, name+", other")
		must[int](t)(n.WriteAt([]byte("x"), 0))
		if err := errors.Join(fs.truncated(n, 20*page), n.Fallocate(KeepSize, 20*page, page), fs.truncated(other, 5*page)); err != nil {
			t.Fatal(err)
		}
		a := must[Attr](t)(n.Clone(root, layout.RootIno, name+", clone", 0o600))
		clone := must[*Node](t)(fs.Open(a.Ino))
		if clone.in.Origin.Changes != n.in.Changes {
			t.Errorf("%s: cloned at %d, of %d", name, clone.in.Origin.Changes, n.in.Changes)
		}
		if err := do(n, other); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if clone.in.Origin.Changes == n.in.Changes {
			t.Errorf("%s: is no change", name)
		}
		for _, f := range []*Node{n, other, clone} {
			f.Close()
		}
	}
}

// TestConcurrentClones clones files, writes to them and removes them from several
// goroutines: each file has one letter only, and no block is lost.
func TestConcurrentClones(t *testing.T) {
	fs := newFS(t, 64<<20)
	const names, rounds = 6, 150
	name := func(r *rand.Rand) string { return fmt.Sprint("file", r.IntN(names)) }
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(g, 7))
			for range rounds {
				if err := cloneSomething(fs, r, name(r), name(r)); err != nil {
					t.Error(err)
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
	if st := fs.Statfs(); st.FreeBlocks != st.Blocks || st.FreeInodes != st.Inodes-int64(layout.FirstIno) || fs.counts.Blocks != 0 {
		t.Errorf("left: %+v, counts of %d blocks", st, fs.counts.Blocks)
	}
}

// cloneSomething returns errors that no order of the operations explains. Every
// byte of a block is the same: who copies a block does not see half a write.
func cloneSomething(fs *FS, r *rand.Rand, name, other string) error {
	n, err := fs.OpenPath(root, name, false)
	if errors.Is(err, unix.ENOENT) {
		_, err = fs.Create(root, layout.RootIno, name, layout.ModeRegular|0o600, 0)
		return allow(err, unix.EEXIST)
	}
	if err != nil {
		return err
	}
	defer n.Close()
	block := int64(r.IntN(20))
	switch r.IntN(7) {
	case 0:
		return allow(fs.Unlink(root, layout.RootIno, name), unix.ENOENT)
	case 1, 2:
		_, err := n.WriteAt(bytes.Repeat([]byte{byte('a' + r.IntN(26))}, 3*page), block*page)
		return err
	case 3:
		_, err := n.Clone(root, layout.RootIno, other, 0o600)
		return allow(err, unix.EEXIST)
	case 4:
		m, err := fs.OpenPath(root, other, false)
		if err != nil {
			return allow(err, unix.ENOENT)
		}
		defer m.Close()
		return allow(n.CloneRange(block*page, m, int64(r.IntN(10))*page, 4*page), unix.EINVAL) // shorter than that, or overlapping
	case 5:
		return allow(publishSomething(n, r), unix.ENXIO, unix.ESTALE)
	}
	p := make([]byte, page)
	if _, err := n.ReadAt(p, block*page); err != nil {
		return allow(err, io.EOF)
	}
	if !bytes.Equal(p, bytes.Repeat(p[:1], page)) {
		return fmt.Errorf("block %d of %s is of several writes", block, name)
	}
	return nil
}

func publishSomething(n *Node, r *rand.Rand) error {
	c, err := n.Private(0, 2*page, r.IntN(2) == 0)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.WriteAt(bytes.Repeat([]byte{byte('A' + r.IntN(26))}, page), page); err != nil {
		return err
	}
	return Publish(c)
}

// allow is err, unless it is one of those.
func allow(err error, those ...error) error {
	for _, a := range those {
		if errors.Is(err, a) {
			return nil
		}
	}
	return err
}

// FuzzCounts gives blocks of an image other reference counts, and leaves of files
// other flags, all in entries that are right for their place: check finds a count
// that is wrong, and whatever is done then, there is no panic.
func FuzzCounts(f *testing.F) {
	f.Add([]byte{})
	for block := range byte(12) {
		f.Add([]byte{0, block, 0, 0, 0, block, 2, 0, 1, block, 0, 3})
		f.Add([]byte{0, block, 0, 5})
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) > 4*64 {
			return
		}
		meta, data := builtImage().areas()
		fs := must[*FS](t)(Mount(meta, data, Options{HoldOrphans: true}))
		counts, flags := fs.miscount(t, input)
		if err := fs.journal.Close(); err != nil {
			t.Fatal(err)
		}
		fs = must[*FS](t)(Mount(meta, data, Options{ReadOnly: true}))
		sum, err := fs.CheckWith(context.Background(), CheckOptions{Report: func(p Problem) {
			if p.Structure == "checker" {
				t.Error(p)
			}
		}})
		if err != nil || !flags && counts != (sum.Problems > 0) {
			t.Errorf("%d problems, %v; counts wrong %v", sum.Problems, err, counts)
		}
		exercise(must[*FS](t)(Mount(meta, data, Options{})))
	})
}

// miscount applies a fuzzer's input: commands of 4 bytes, what, block, a high part
// of that, value. It reports whether counts, and flags, are not what they were.
func (fs *FS) miscount(t *testing.T, input []byte) (counts, flags bool) {
	var files []*Node
	for ino := layout.FirstIno; ino < 24; ino++ {
		if n, err := fs.Open(ino); err == nil && n.regular() == nil {
			files = append(files, n)
			defer n.Close()
		}
	}
	pieces := func(in *layout.Inode) (out []piece) {
		fs.pieces(fs.journal.View, in, 0, fs.sb.DataBlocks, func(p piece) error {
			out = append(out, p)
			return nil
		})
		return out
	}
	before := pieces(&fs.counts)
	for ; len(input) >= 4; input = input[4:] {
		block, value := int64(input[1])+int64(input[2]%8)<<8, int64(input[3])
		err := fs.transact(func(u *update) error {
			if input[0]%2 == 0 {
				e := mapEdit{u: u, in: u.editCounts(), first: block, end: block + 1, fill: value > 0, quiet: true}
				e.replace = func(piece) (int64, layout.Entry, bool) { return value - map[bool]int64{true: 1}[value == 0], 0, false }
				return e.run()
			}
			flags = true
			n := files[int(value)%len(files)]
			return u.mark(u.edit(n.in), block, block+1, layout.Entry(input[3])&leafFlags)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return !slices.Equal(before, pieces(&fs.counts)), flags
}
