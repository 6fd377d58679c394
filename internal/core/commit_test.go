package core

import (
	"bytes"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// diskArea is an area behind a page cache: what is stored, or flushed, is dirty until a fence that began after it. A fence with
// nothing dirty does nothing.
type diskArea struct {
	medium.Area
	dirty   atomic.Bool
	clients atomic.Bool          // clients have stored by their mappings what no fence has made durable
	gate    atomic.Pointer[gate] // nil: fences are not held up
}

// gate holds a fence up.
type gate struct{ reached, open chan struct{} }

func (a *diskArea) Stream(off int64, p []byte) { a.Area.Stream(off, p); a.dirty.Store(true) }
func (a *diskArea) Write(off int64, p []byte)  { a.Area.Write(off, p); a.dirty.Store(true) }
func (a *diskArea) Zero(off, n int64)          { a.Area.Zero(off, n); a.dirty.Store(true) }
func (a *diskArea) Copy(dst, src, n int64)     { a.Area.Copy(dst, src, n); a.dirty.Store(true) }
func (a *diskArea) Flush(off, n int64)         { a.Area.Flush(off, n); a.dirty.Store(true) }

func (a *diskArea) Fence() error {
	if a.dirty.Swap(false) {
		a.clients.Store(false)
	}
	if g := a.gate.Swap(nil); g != nil {
		close(g.reached)
		<-g.open
	}
	return a.Area.Fence()
}

// newDisk mounts a pool on a disk, as a server does.
func newDisk(t *testing.T, b Breaker) (fs *FS, meta, data *diskArea) {
	t.Helper()
	m, d := newAreas(t, 32<<20)
	meta, data = &diskArea{Area: m}, &diskArea{Area: d}
	fs = must[*FS](t)(Mount(meta, data, Options{Stage: true, Defer: true, Breaker: b}))
	t.Cleanup(func() {
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
	})
	return fs, meta, data
}

// waitIn waits until so many goroutines are in a function, as a stack names it.
func waitIn(function string, count int) {
	stacks := make([]byte, 1<<20)
	for strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "\n"+function+"(") < count {
		runtime.Gosched()
	}
}

// TestCommitAfterBarrier: a write in place is durable after Commit, also when others are committing meanwhile and have made
// contents durable before it. It fails when Commit relies on the barrier of somebody else's group.
func TestCommitAfterBarrier(t *testing.T) {
	fs, meta, data := newDisk(t, nil)
	n := create(t, fs, layout.RootIno, "written in place")
	defer n.Close()
	must[int](t)(n.WriteAt(make([]byte, page), 0))
	if err := fs.Commit(); err != nil {
		t.Fatal(err)
	}
	create(t, fs, layout.RootIno, "staged").Close()
	g := &gate{reached: make(chan struct{}), open: make(chan struct{})}
	meta.gate.Store(g)
	var all sync.WaitGroup
	commit := func() {
		if err := fs.Commit(); err != nil {
			t.Error(err)
		}
	}
	all.Go(commit)
	<-g.reached // the barrier is passed, the log is being fenced
	must[int](t)(n.WriteAt(bytes.Repeat([]byte{1}, page), 0))
	all.Go(commit)
	waitIn("github.com/pmemfs/pmemfs/internal/journal.(*Journal).Commit", 2)
	close(g.open)
	all.Wait()
	if data.dirty.Load() {
		t.Error("a write that was made after the barrier is not durable after Commit")
	}
}

// storing is a client that has stored to what is taken back from it.
type storing struct {
	noBreaker
	data *diskArea
}

func (b *storing) Break(_ layout.Ino, what Taking, _ ...alloc.Run) error {
	if what == TakeAll {
		b.data.clients.Store(true)
	}
	return nil
}

// TestTakenBackIsCommitted: what a client has stored to blocks that it has lost, and that stay because the operation fails, is
// durable after Sync: the client has nothing any more that it could make durable by a system call. It fails when
// nobody flushes the blocks.
func TestTakenBackIsCommitted(t *testing.T) {
	b := &storing{}
	fs, _, data := newDisk(t, b)
	b.data = data
	n := create(t, fs, layout.RootIno, "f")
	defer n.Close()
	must[int](t)(n.WriteAt(make([]byte, 8*page), 0))
	rest := create(t, fs, layout.RootIno, "rest")
	defer rest.Close()
	for size := fs.Statfs().FreeBlocks; size > 0; size = fs.Statfs().FreeBlocks {
		if err := rest.Fallocate(KeepSize, 0, rest.Attr().Blocks*page+size*page); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Sync(); err != nil || data.dirty.Load() {
		t.Fatal("what was written is not durable after Sync:", err)
	}
	if err := n.Relocate(0, 8*page); err != unix.ENOSPC {
		t.Fatal(err)
	}
	if err := n.Sync(); err != nil || data.clients.Load() {
		t.Error("stores to blocks that were taken back are not durable after Sync:", err)
	}
}

// TestReadFaultStaged: what was granted to a load through a Sync mapping can be stored to, and was perhaps stored to before it was
// moved, only if the metadata that finds it is durable. It fails when a read fault is answered with what is only staged.
func TestReadFaultStaged(t *testing.T) {
	for _, disk := range []bool{false, true} {
		m, d := newAreas(t, 32<<20)
		fs := must[*FS](t)(Mount(m, d, Options{Stage: true, Defer: disk}))
		n := create(t, fs, layout.RootIno, "f")
		must[int](t)(n.WriteAt(make([]byte, page), 0))
		fault := func(what string, write, durable bool) {
			t.Helper()
			err := n.Fault(0, write, durable, 512, 1, func(r Run) error {
				if settled := fs.journal.DurableLSN() == fs.journal.HeadLSN(); settled != durable || !r.Writable {
					t.Errorf("%s, on a disk %v: durable %v, writable %v", what, disk, settled, r.Writable)
				}
				return nil
			})
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		fault("load from Shared", false, false)
		fault("load from Sync", false, true)
		fault("store to Sync", true, true)
		n.Close()
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestNewFilesAreStaged: files that are made and written, each opened again in between, as a server does, need no commits of
// their own; one that was cut short does, before something is stored where it had contents.
func TestNewFilesAreStaged(t *testing.T) {
	meta, data := smallAreas(t)
	fs, err := Mount(meta, data, Options{Stage: true})
	if err != nil {
		t.Fatal(err)
	}
	write := func(ino layout.Ino, n int) {
		f := must[*Node](t)(fs.Open(ino))
		defer f.Close()
		must[int](t)(f.WriteAt(make([]byte, n), 0))
	}
	before := fs.Stats().Journal.Commits
	var last layout.Ino
	for _, name := range []string{"a", "b", "c", "d"} {
		last = must[Attr](t)(fs.Create(root, layout.RootIno, name, layout.ModeRegular|0o644, 0)).Ino
		write(last, 100)
	}
	if n := fs.Stats().Journal.Commits - before; n != 0 {
		t.Errorf("%d commits", n)
	}
	size := int64(10)
	must[Attr](t)(fs.SetAttr(root, last, SetAttr{Size: &size}))
	write(last, 200)
	if n := fs.Stats().Journal.Commits - before; n != 1 {
		t.Errorf("%d commits for a file that was cut short", n)
	}
}
