package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/crash"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// smallAreas is a pool with a log of 1 MiB and as little else as there can be.
func smallAreas(t testing.TB) (meta, data medium.Area) {
	t.Helper()
	o := FormatOptions{Inodes: layout.ChunkUnits, Nodes: layout.ChunkUnits, LogBytes: layout.MinLog, Zeroed: true}
	blocks := int64(4 * layout.ChunkUnits)
	meta, data = medium.Memory(arrange(0, blocks, o).MetaSize), medium.Memory(blocks*layout.BlockSize)
	data.Write(0, bytes.Repeat([]byte("stale\xff\xfe\xfd"), int(data.Size()/8))) // never to be seen
	if err := Format(meta, data, o); err != nil {
		t.Fatal(err)
	}
	return meta, data
}

// powerCut runs one operation on a recording medium and looks at the images
// that a power cut in it may leave.
type powerCut struct {
	op      operation
	settled bool                          // nothing before the operation waits for its flush
	mount   Options                       // what it runs with; with Stage it is followed by a commit
	before  func(*opTree)                 // what is done first, without cuts; nil: nothing
	wrap    func(medium.Area) medium.Area // between the program and the meta area; nil: nothing
	data    func(medium.Area) medium.Area // the same for the data area
	opts    crash.Options
	deep    int // every so many images is used further: replayed with cuts, changed, emptied

	states   []treeState
	failures []string
	images   int
}

func through(wrap func(medium.Area) medium.Area, a medium.Area) medium.Area {
	if wrap == nil {
		return a
	}
	return wrap(a)
}

func (p *powerCut) run(t testing.TB) crash.Stats {
	t.Helper()
	r := crash.Record(smallAreas(t))
	meta, data := r.Area(0), r.Area(1)
	o := prepare(t, meta, data)
	if p.before != nil {
		p.before(o)
	}
	if p.settled || p.mount.Stage {
		o.reopen(t, meta, data, p.mount)
	}
	o.fs.meta, o.fs.data = through(p.wrap, meta), through(p.data, data)
	if p.wrap != nil || p.data != nil {
		o.reopen(t, o.fs.meta, o.fs.data, p.mount)
	}
	o.states = []treeState{snapshot(o.fs)}
	p.opts.From = r.Now()
	if err := p.op.run(o); err != nil {
		t.Fatalf("%s: %v", p.op.name, err)
	}
	if err := o.fs.Commit(); p.mount.Stage && err != nil {
		t.Fatalf("%s, commit: %v", p.op.name, err)
	}
	p.opts.To = r.Now()
	if !strings.HasSuffix(p.op.name, "close") {
		o.step() // else the last step is the last state
	}
	p.states = o.states
	stats, err := r.Images(p.opts, p.look)
	if err != nil && !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	return stats
}

// reopen closes the pool, which makes everything durable in its place, and
// mounts it again.
func (o *opTree) reopen(t testing.TB, meta, data medium.Area, options Options) {
	t.Helper()
	nodes := []**Node{&o.big, &o.mapped, &o.open, &o.shared, &o.bits}
	for _, n := range nodes {
		(*n).Close()
	}
	if err := o.fs.Close(); err != nil {
		t.Fatal(err)
	}
	options.Now = clock()
	fs, err := Mount(meta, data, options)
	if err != nil {
		t.Fatal(err)
	}
	o.fs = fs
	for _, n := range nodes {
		*n = must[*Node](t)(fs.Open((*n).Ino()))
	}
}

// fewer makes few images of each operation with the race detector, which is ten times slower: nothing in these tests runs
// at the same time as something else. With -short, too.
func fewer(o crash.Options) crash.Options {
	if raceDetector || testing.Short() {
		o.Exhaustive, o.Samples, o.Lines = 8, 1, 1
	}
	return o
}

// wantImages fails if a test has looked at less than it does at least, or, with fewer, at less than a tenth of that.
func wantImages(t *testing.T, images, least int64) {
	t.Helper()
	if raceDetector || testing.Short() {
		least /= 10
	}
	if images < least {
		t.Errorf("only %d images: the test does not look at what it should", images)
	}
}

var errEnough = errors.New("enough failures")

func (p *powerCut) look(m *crash.Image) error {
	p.images++
	fail := func(format string, args ...any) {
		p.failures = append(p.failures, fmt.Sprintf("%s, %v: %s", p.op.name, m, fmt.Sprintf(format, args...)))
	}
	state, err := readOnly(m.Areas)
	switch {
	case err != nil:
		fail("%v", err)
	case !state.matches(p.op.kind, p.states, m.Last):
		fail("neither the state before nor after (done: %v), differs from the nearest by\n%s", m.Last, state.diff(p.states))
	case p.deep > 0 && p.images%p.deep == 1:
		if err := useFurther(m.Clone(), state); err != nil {
			fail("%v", err)
		}
		if err := cutReplay(m.Clone(), state); err != nil {
			fail("%v", err)
		}
	}
	if len(p.failures) >= 3 {
		return errEnough
	}
	return nil
}

// readOnly mounts an image, checks it and reads it.
func readOnly(areas []medium.Area) (treeState, error) {
	fs, err := Mount(areas[0], areas[1], Options{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	defer fs.Close()
	if err := checkMounted(fs); err != nil {
		return nil, err
	}
	return snapshot(fs), nil
}

func checkMounted(fs *FS) error {
	var problems []string
	_, err := fs.Check(context.Background(), func(p Problem) {
		if !p.Note {
			problems = append(problems, p.String())
		}
	})
	if len(problems) > 0 {
		return fmt.Errorf("check: %s", strings.Join(problems, "\n\t"))
	}
	return err
}

// useFurther mounts an image for writing, makes a file in each directory, and
// then removes everything: nothing may be lost.
func useFurther(areas []medium.Area, want treeState) error {
	fs, err := Mount(areas[0], areas[1], Options{Now: clock()})
	if err != nil {
		return fmt.Errorf("mount for writing: %w", err)
	}
	fs.Reclaimed()
	if got := snapshot(fs); !got.without(noBlocks).equal(want.without(noBlocks)) {
		return fmt.Errorf("mounted for writing it differs:\n%s", got.diff([]treeState{want}))
	}
	for path, f := range want {
		if f.Attr.Mode&layout.ModeType == layout.ModeDirectory && !frozen(fs, f.Attr.Ino) {
			if _, err := fs.Create(root, f.Attr.Ino, "after the cut", layout.ModeRegular|0o600, 0); err != nil {
				return fmt.Errorf("create in %s: %w", path, err)
			}
		}
	}
	if err := checkMounted(fs); err != nil {
		return err
	}
	if err := removeAll(fs, layout.RootIno); err != nil {
		return err
	}
	if err := checkMounted(fs); err != nil {
		return fmt.Errorf("when all is removed: %w", err)
	}
	if st := fs.Statfs(); st.FreeBlocks != st.Blocks || st.FreeInodes != st.Inodes-int64(layout.FirstIno) {
		return fmt.Errorf("when all is removed %d blocks and %d inodes are in use", st.Blocks-st.FreeBlocks, st.Inodes-st.FreeInodes)
	}
	return fs.Close()
}

// frozen reports whether an inode is part of a read-only snapshot.
func frozen(fs *FS, ino layout.Ino) bool {
	return fs.Access(root, ino, CanWrite) == unix.EROFS
}

func removeAll(fs *FS, dir layout.Ino) error {
	for {
		list, err := fs.ReadDir(root, dir, 0, 100)
		if err != nil || len(list) == 0 {
			return err
		}
		for _, e := range list {
			remove := fs.Unlink
			if frozen(fs, e.Ino) {
				remove = func(c Cred, dir layout.Ino, name string) error {
					above, err := fs.Lookup(c, dir, "..")
					if err != nil {
						return err
					}
					return fs.RemoveSnapshot(c, above.Ino, name)
				}
			} else if e.Type == layout.ModeDirectory {
				remove = fs.Rmdir
				if err := removeAll(fs, e.Ino); err != nil {
					return err
				}
			}
			if err := remove(root, dir, e.Name); err != nil {
				return fmt.Errorf("remove %q: %w", e.Name, err)
			}
		}
	}
}

// cutReplay mounts an image for writing and cuts the power in that.
func cutReplay(areas []medium.Area, want treeState) error {
	r := crash.Record(areas...)
	fs, err := Mount(r.Area(0), r.Area(1), Options{Now: clock()})
	if err != nil {
		return fmt.Errorf("mount for writing: %w", err)
	}
	fs.Reclaimed()
	_, err = r.Images(crash.Options{Exhaustive: 16, Samples: 4, Lines: 4}, func(m *crash.Image) error {
		got, err := readOnly(m.Areas)
		if err == nil && !got.without(noBlocks).equal(want.without(noBlocks)) {
			err = fmt.Errorf("differs:\n%s", got.diff([]treeState{want}))
		}
		if err != nil {
			return fmt.Errorf("power cut in replay, %v: %w", m, err)
		}
		return nil
	})
	return err
}

func seedOf(name string) uint64 {
	h := fnv.New64()
	h.Write([]byte(name))
	return h.Sum64()
}

// TestPowerCut cuts the power in every operation, at every instant.
func TestPowerCut(t *testing.T) {
	var epochs, exhaustive, images atomic.Int64
	t.Run("operations", func(t *testing.T) {
		for i, op := range slices.Concat(operations(), longOperations) {
			if raceDetector && i%8 != 0 {
				continue // ten times slower, and nothing here runs at the same time
			}
			t.Run(op.name, func(t *testing.T) {
				t.Parallel()
				for _, settled := range []bool{true, false} {
					p := powerCut{op: op, settled: settled, deep: 61, opts: fewer(crash.Options{
						Exhaustive: 512, Samples: 24, Lines: 24, Seed: seedOf(op.name),
					})}
					if op.kind == several {
						p.deep, p.opts.Samples, p.opts.Lines = 31, min(p.opts.Samples, 3), min(p.opts.Lines, 3)
					}
					stats := p.run(t)
					for _, f := range p.failures {
						t.Error(f)
					}
					epochs.Add(int64(stats.Epochs))
					exhaustive.Add(int64(stats.Exhaustive))
					images.Add(int64(p.images))
				}
			})
		}
	})
	t.Logf("%d epochs, %d of them exhaustively, %d images", epochs.Load(), exhaustive.Load(), images.Load())
	wantImages(t, images.Load(), 500)
}

// faulty is a medium that breaks its promises.
type faulty struct {
	medium.Area
	noFlush bool
	noFence func() bool // asked at each fence
}

func (f faulty) Flush(off, n int64) {
	if !f.noFlush {
		f.Area.Flush(off, n)
	}
}

func (f faulty) Fence() error {
	if f.noFence != nil && f.noFence() {
		return nil
	}
	return f.Area.Fence()
}

// TestPowerCutFindsFaults shows that TestPowerCut can fail: with each promise
// that is broken it does.
func TestPowerCutFindsFaults(t *testing.T) {
	if raceDetector {
		t.Skip("too slow, and nothing here runs at the same time")
	}
	always := func() bool { return true }
	for _, tc := range []struct {
		name       string
		op         string
		meta, data func() faulty // nil: a good one
	}{
		{"no fence before a transaction is applied", "create", func() faulty { return faulty{noFence: always} }, nil},
		{"no fence before a transaction is applied", "rename over file", func() faulty { return faulty{noFence: always} }, nil},
		{"no fence behind new data", "append a block", nil, func() faulty { return faulty{noFence: always} }},
		{"no fence behind new data", "write to unwritten", nil, func() faulty { return faulty{noFence: always} }},
		{"no fence behind moved data", "relocate", nil, func() faulty { return faulty{noFence: always} }},
		{"no fence behind zeros", "write fault on unwritten", nil, func() faulty { return faulty{noFence: always} }},
		{"no fence behind zeros", "fill unwritten", nil, func() faulty { return faulty{noFence: always} }},
		{"no fence behind zeros", "fill in steps", nil, func() faulty { return faulty{noFence: always} }},
		{"no fence before a transaction is applied", "set static", func() faulty { return faulty{noFence: always} }, nil},
		{"no fence behind data in place", "write 4 KiB in place", nil, func() faulty { return faulty{noFence: always} }},
		{"places not flushed when the log is trimmed", "trim the log", func() faulty { return faulty{noFlush: true} }, nil},
		{"places not flushed when the pool is closed", "create and close", func() faulty { return faulty{noFlush: true} }, nil},
		{"no fence before the log header", "create and close", func() faulty { return faulty{noFence: nth(2)} }, nil},
		{"no fence between the log headers", "create and close", func() faulty { return faulty{noFence: nth(3)} }, nil},
	} {
		t.Run(tc.name+"/"+tc.op, func(t *testing.T) {
			p := powerCut{settled: true, opts: crash.Options{Exhaustive: 64, Samples: 32, Lines: 8}}
			for _, op := range slices.Concat(operations(), longOperations, []operation{createAndClose}) {
				if op.name == tc.op {
					p.op = op
				}
			}
			if p.op.run == nil {
				t.Fatalf("no operation %q", tc.op)
			}
			if p.op.kind == several {
				p.opts.Samples, p.opts.Lines = 4, 4
			}
			p.run(t)
			if len(p.failures) > 0 {
				t.Fatalf("fails on a good medium: %s", p.failures[0])
			}
			if tc.meta != nil {
				p.wrap = func(a medium.Area) medium.Area { f := tc.meta(); f.Area = a; return f }
			}
			if tc.data != nil {
				p.data = func(a medium.Area) medium.Area { f := tc.data(); f.Area = a; return f }
			}
			p.run(t)
			if len(p.failures) == 0 {
				t.Errorf("%d images, and none shows it", p.images)
			}
		})
	}
}

// nth is true for the n-th fence of a mount, counted from 1. Mounting takes
// three: the replayed places and two log headers.
func nth(n int) func() bool {
	count := -3
	return func() bool { count++; return count == n }
}

var createAndClose = operation{"create and close", several, 0, func(o *opTree) error {
	if err := o.create(o.a, "new", layout.ModeRegular); err != nil {
		return err
	}
	o.step()
	err := o.fs.Close()
	return err
}}

// TestGrantedIsDurable cuts the power while a fault is still busy with what comes after the grant: what the client has stored and
// flushed by then is there. It fails when the block is granted before its record is durable.
func TestGrantedIsDurable(t *testing.T) {
	for name, prepare := range map[string]func(fs *FS, n *Node) error{
		"hole":      func(*FS, *Node) error { return nil },
		"unwritten": func(_ *FS, n *Node) error { return n.Fallocate(0, 0, 4*page) },
		"shared": func(fs *FS, n *Node) error {
			_, err := n.WriteAt(make([]byte, 4*page), 0)
			return errors.Join(err, create(t, fs, layout.RootIno, "clone").CloneRange(0, n, 0, 0))
		},
	} {
		for _, stage := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", staged ", stage), func(t *testing.T) {
				r := crash.Record(smallAreas(t))
				fs := must[*FS](t)(Mount(r.Area(0), r.Area(1), Options{Stage: stage}))
				n := create(t, fs, layout.RootIno, "f")
				size := int64(4 * page)
				must[Attr](t)(n.SetAttr(root, SetAttr{Size: &size}))
				if err := prepare(fs, n); err != nil {
					t.Fatal(err)
				}
				var from crash.Mark
				err := n.Fault(2, true, true, 512, 1, func(got Run) error {
					at := (got.Block + 2 - got.First) * page
					r.Area(1).Write(at, []byte("stored"))
					r.Area(1).Flush(at, 6)
					from = r.Now() + 1
					return r.Area(1).Fence()
				})
				if err != nil {
					t.Fatal(err)
				}
				stats, err := r.Images(crash.Options{From: from}, func(m *crash.Image) error {
					areas := m.Clone()
					fs := must[*FS](t)(Mount(areas[0], areas[1], Options{}))
					defer fs.Close()
					n := must[*Node](t)(fs.OpenPath(root, "f", false))
					defer n.Close()
					b := make([]byte, 6)
					if _, err := n.ReadAt(b, 2*page); err != nil || string(b) != "stored" {
						return fmt.Errorf("%v: %q, %v", m, b, err)
					}
					return nil
				})
				if err != nil || stats.Images == 0 {
					t.Error(stats.Images, err)
				}
			})
		}
	}
}
