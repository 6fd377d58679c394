package core

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/crash"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// variedTree makes a tree with everything that there is in a directory "t".
func variedTree(t testing.TB, fs *FS) (dir layout.Ino) {
	t.Helper()
	dir = must[Attr](t)(fs.Create(root, layout.RootIno, "t", layout.ModeDirectory|0o751, 0)).Ino
	sub := must[Attr](t)(fs.Create(Cred{UID: 7, GID: 8}.as(t, fs, dir), dir, "sub", layout.ModeDirectory|0o2770, 0)).Ino
	n := create(t, fs, dir, "f")
	defer n.Close()
	must[int](t)(n.WriteAt(bytes.Repeat([]byte("contents"), 3000), 100))
	if err := n.Fallocate(KeepSize, 1<<20, 5<<20); err != nil {
		t.Fatal(err)
	}
	big := create(t, fs, sub, "big")
	defer big.Close()
	must[int](t)(big.WriteAt(bytes.Repeat([]byte("big"), 1<<20), 4096*7))
	must[Attr](t)(fs.Link(root, n.Ino(), sub, "hard"))
	must[Attr](t)(fs.Symlink(root, sub, "link", strings.Repeat("../f", 500)))
	must[Attr](t)(fs.Create(root, sub, "fifo", layout.ModeFIFO|0o600, 0))
	must[Attr](t)(fs.Create(root, sub, "dev", layout.ModeChar|0o600, 0x1234))
	must[Attr](t)(fs.Create(root, sub, "empty", layout.ModeDirectory|0o700, 0))
	uid, mode, time := uint32(42), uint32(0o4755), int64(12345)
	must[Attr](t)(fs.SetAttr(root, n.Ino(), SetAttr{UID: &uid, Mode: &mode, Atime: &time, Mtime: &time}))
	for _, ino := range []layout.Ino{dir, n.Ino(), sub} {
		if err := fs.SetXattr(root, ino, "user.long", bytes.Repeat([]byte{byte(ino)}, 9000), 0); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// as lets everybody write to a directory, and returns the credential.
func (c Cred) as(t testing.TB, fs *FS, dir layout.Ino) Cred {
	mode := uint32(0o777)
	must[Attr](t)(fs.SetAttr(root, dir, SetAttr{Mode: &mode}))
	return c
}

// under is the state of a tree, by path from it, without what a clone has of its own:
// numbers, and of the first directory the time when it was made.
func under(fs *FS, dir layout.Ino) treeState {
	s := treeState{}
	s.add(fs, "/", dir)
	out := treeState{}
	for path, f := range s {
		if path == "/"+SnapshotsName || strings.HasPrefix(path, "/"+SnapshotsName+"/") {
			continue
		}
		f.Attr.Ino, f.Attr.Generation = 0, 0
		if f.Attr.Mode&layout.ModeType == layout.ModeRegular {
			f.Attr.Blocks = int64(len(f.Blocks)) // without unwritten ones
		}
		if path == "/" {
			f.Attr = Attr{Mode: f.Attr.Mode, UID: f.Attr.UID, GID: f.Attr.GID}
		}
		out[path] = f
	}
	return out
}

func snapshotDir(t testing.TB, fs *FS, dir layout.Ino, name string) layout.Ino {
	t.Helper()
	snapshots := must[Attr](t)(fs.Lookup(root, dir, SnapshotsName))
	return must[Attr](t)(fs.Lookup(root, snapshots.Ino, name)).Ino
}

func takeSnapshot(t testing.TB, fs *FS, dir layout.Ino, name string, o SnapshotOptions) layout.Ino {
	t.Helper()
	must[[]string](t)(fs.Snapshot(root, dir, name, o))
	return snapshotDir(t, fs, dir, name)
}

// TestSnapshotKeepsAll compares a snapshot with what it was taken of, changes all of
// that, remounts, and removes the snapshot again.
func TestSnapshotKeepsAll(t *testing.T) {
	meta, data := newAreas(t, 64<<20)
	fs := mount(t, meta, data)
	before := fs.Statfs()
	dir := variedTree(t, fs)
	want := under(fs, dir)
	used := fs.Statfs()
	for _, o := range []SnapshotOptions{{}, {Writable: true}} {
		s := takeSnapshot(t, fs, dir, fmt.Sprint("writable-", o.Writable), o)
		if got := under(fs, s); !got.equal(want) {
			t.Errorf("%+v: the snapshot differs:\n%s", o, got.diff([]treeState{want}))
		}
	}
	if now := fs.Statfs(); now.FreeBlocks != used.FreeBlocks {
		t.Errorf("two snapshots took %d blocks", used.FreeBlocks-now.FreeBlocks)
	}
	hard := must[Attr](t)(fs.Lookup(root, snapshotDir(t, fs, dir, "writable-true"), "f"))
	if hard.Nlink != 2 {
		t.Errorf("a file with two names in the tree has %d links in the snapshot", hard.Nlink)
	}
	list := must[[]DirEntry](t)(fs.ReadDir(root, dir, 0, 100))
	for _, e := range list {
		if e.Name == SnapshotsName {
			continue
		}
		if e.Type == layout.ModeDirectory {
			if err := removeAll(fs, e.Ino); err != nil {
				t.Fatal(err)
			}
			if err := fs.Rmdir(root, dir, e.Name); err != nil {
				t.Fatal(err)
			}
			continue
		}
		n := must[*Node](t)(fs.Open(e.Ino))
		must[int](t)(n.WriteAt(bytes.Repeat([]byte("other"), 5000), 0))
		n.Close()
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	fs = mount(t, meta, data)
	for _, name := range []string{"writable-false", "writable-true"} {
		if got := under(fs, snapshotDir(t, fs, dir, name)); !got.equal(want) {
			t.Errorf("%s: the snapshot has changed:\n%s", name, got.diff([]treeState{want}))
		}
	}
	infos := must[[]SnapshotInfo](t)(fs.Snapshots(root, dir))
	if len(infos) != 2 || infos[0].Name != "writable-false" || !infos[0].ReadOnly || infos[1].ReadOnly || infos[0].Files != 6 {
		t.Errorf("listed as %+v", infos)
	}
	for _, i := range infos {
		if err := fs.RemoveSnapshot(root, dir, i.Name); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeAll(fs, layout.RootIno); err != nil {
		t.Fatal(err)
	}
	if now := fs.Statfs(); now.FreeInodes != before.FreeInodes || now.FreeBlocks != before.FreeBlocks {
		t.Errorf("when all is removed %d inodes and %d blocks are left", before.FreeInodes-now.FreeInodes, before.FreeBlocks-now.FreeBlocks)
	}
}

// TestSnapshotReadOnly tries to change a read-only snapshot in every way there is.
func TestSnapshotReadOnly(t *testing.T) {
	fs := newFS(t, 64<<20)
	dir := variedTree(t, fs)
	s := takeSnapshot(t, fs, dir, "s", SnapshotOptions{})
	want := under(fs, s)
	f := must[Attr](t)(fs.Lookup(root, s, "f")).Ino
	snapshots := must[Attr](t)(fs.Lookup(root, dir, SnapshotsName)).Ino
	n := must[*Node](t)(fs.Open(f))
	defer n.Close()
	live := must[*Node](t)(fs.Open(must[Attr](t)(fs.Lookup(root, dir, "f")).Ino))
	defer live.Close()
	size, mode := int64(10), uint32(0o777)
	second := func(_ any, err error) error { return err }
	for what, change := range map[string]func() error{
		"write":     func() error { return second(n.WriteAt([]byte("x"), 0)) },
		"append":    func() error { _, _, err := n.Append([]byte("x")); return err },
		"truncate":  func() error { return second(fs.SetAttr(root, f, SetAttr{Size: &size})) },
		"allocate":  func() error { return n.Fallocate(0, 0, 1<<20) },
		"punch":     func() error { return n.Fallocate(PunchHole|KeepSize, 0, 4096) },
		"relocate":  func() error { return n.Relocate(0, 4096) },
		"fill":      func() error { return n.Fill(0, 4096) },
		"clone to":  func() error { return n.CloneRange(0, live, 0, 4096) },
		"fault":     func() error { return n.Fault(0, true, true, 1, 1, func(Run) error { return nil }) },
		"static":    func() error { return n.SetStatic(true) },
		"chmod":     func() error { return second(fs.SetAttr(root, f, SetAttr{Mode: &mode})) },
		"chmod dir": func() error { return second(fs.SetAttr(root, s, SetAttr{Mode: &mode})) },
		"setxattr":  func() error { return fs.SetXattr(root, f, "user.x", nil, 0) },
		"rmxattr":   func() error { return fs.RemoveXattr(root, f, "user.long") },
		"link":      func() error { return second(fs.Link(root, f, dir, "new")) },
		"create":    func() error { return second(fs.Create(root, s, "new", layout.ModeRegular|0o600, 0)) },
		"symlink":   func() error { return second(fs.Symlink(root, s, "new", "x")) },
		"clone in":  func() error { return second(live.Clone(root, s, "new", 0o600)) },
		"unlink":    func() error { return fs.Unlink(root, s, "f") },
		"rmdir":     func() error { return fs.Rmdir(root, snapshots, "s") },
		"rename":    func() error { return fs.Rename(root, s, "f", s, "g", 0) },
		"move out":  func() error { return fs.Rename(root, snapshots, "s", dir, "s", 0) },
		"move onto": func() error { return fs.Rename(root, dir, "sub", snapshots, "s", 0) },
		"move in":   func() error { return fs.Rename(root, dir, "f", s, "new", 0) },
		"exchange":  func() error { return fs.Rename(root, snapshots, "s", dir, "sub", RenameExchange) },
		"snapshot":  func() error { return second(fs.Snapshot(root, s, "x", SnapshotOptions{})) },
		"access":    func() error { return fs.Access(root, f, CanWrite) },
	} {
		if err := change(); err != unix.EROFS {
			t.Errorf("%s: %v, want EROFS", what, err)
		}
	}
	if got := under(fs, s); !got.equal(want) {
		t.Errorf("the snapshot has changed:\n%s", got.diff([]treeState{want}))
	}
	// What only reads works, and so do clones of it.
	if err := n.Fault(0, false, true, 16, 1, func(r Run) error {
		if r.Writable || r.Block < 0 {
			t.Errorf("a read is granted %+v", r)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	a := must[Attr](t)(n.Clone(root, dir, "from snapshot", 0o600))
	c := must[*Node](t)(fs.Open(a.Ino))
	defer c.Close()
	must[int](t)(c.WriteAt([]byte("changed"), 0))
	if got := under(fs, s); !got.equal(want) {
		t.Errorf("a clone has changed the snapshot:\n%s", got.diff([]treeState{want}))
	}
}

// TestSnapshotRefused looks at what Snapshot and RemoveSnapshot do not do, and that
// nothing has changed then.
func TestSnapshotRefused(t *testing.T) {
	meta, data := newAreas(t, 64<<20)
	fs := mount(t, meta, data)
	dir := variedTree(t, fs)
	frozenFile := create(t, fs, dir, "frozen")
	defer frozenFile.Close()
	must[int](t)(frozenFile.WriteAt(make([]byte, 4096), 0))
	must[Attr](t)(fs.Link(root, frozenFile.Ino(), snapshotParent(t, fs, dir, "sub"), "frozen, too"))
	if err := frozenFile.SetStatic(true); err != nil {
		t.Fatal(err)
	}
	before := snapshot(fs)
	used := fs.Statfs()
	_, err := fs.Snapshot(root, dir, "s", SnapshotOptions{})
	var p *FileError
	if !errors.As(err, &p) || p.Path != "frozen" && p.Path != "sub/frozen, too" || !errors.Is(err, ErrStatic) {
		t.Errorf("with a static file: %v", err)
	}
	for _, tc := range []struct {
		c    Cred
		dir  layout.Ino
		name string
		want error
	}{
		{Cred{UID: 7}, dir, "s", unix.EPERM},
		{root, frozenFile.Ino(), "s", unix.ENOTDIR},
		{root, dir, "a/b", unix.EINVAL},
		{root, dir, "..", unix.EINVAL},
		{root, dir, strings.Repeat("x", 256), unix.ENAMETOOLONG},
	} {
		if _, err := fs.Snapshot(tc.c, tc.dir, tc.name, SnapshotOptions{SkipSealed: true}); !errors.Is(err, tc.want) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	if err := fs.RemoveSnapshot(root, dir, "s"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("removing what is not there: %v", err)
	}
	if got := snapshot(fs); !got.equal(before) || fs.Statfs() != used {
		t.Errorf("refused, and something has changed: %+v, %+v\n%s", used, fs.Statfs(), got.diff([]treeState{before}))
	}
	skipped := must[[]string](t)(fs.Snapshot(root, dir, "s", SnapshotOptions{SkipSealed: true}))
	if !slices.Equal(skipped, []string{"frozen", "sub/frozen, too"}) {
		t.Errorf("skipped %q", skipped)
	}
	want := under(fs, dir)
	delete(want, "/frozen")
	delete(want, "/sub/frozen, too")
	if got := under(fs, snapshotDir(t, fs, dir, "s")); !got.without(noSize).equal(want.without(noSize)) {
		t.Errorf("with a file skipped:\n%s", got.diff([]treeState{want}))
	}
	if _, err := fs.Snapshot(root, dir, "s", SnapshotOptions{SkipSealed: true}); err != unix.EEXIST {
		t.Errorf("a second one of the name: %v", err)
	}
	plain := must[Attr](t)(fs.Lookup(root, dir, SnapshotsName)).Ino
	must[Attr](t)(fs.Create(root, plain, "plain", layout.ModeDirectory|0o700, 0))
	if err := fs.RemoveSnapshot(root, dir, "plain"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("removing a directory that is no snapshot: %v", err)
	}

	// One with snapshots of its own stays until they are removed.
	w := takeSnapshot(t, fs, dir, "w", SnapshotOptions{Writable: true, SkipSealed: true})
	sub := snapshotParent(t, fs, w, "sub")
	takeSnapshot(t, fs, sub, "inner", SnapshotOptions{})
	if err := fs.RemoveSnapshot(root, dir, "w"); !errors.Is(err, unix.ENOTEMPTY) || !errors.As(err, &p) || p.Path != ".snapshots/w/sub/.snapshots" {
		t.Errorf("removing one with a snapshot in it: %v", err)
	}
	if err := errors.Join(fs.RemoveSnapshot(root, sub, "inner"), fs.RemoveSnapshot(root, dir, "w")); err != nil {
		t.Error(err)
	}
}

func noSize(a *Attr) { a.Size = 0 }

func snapshotParent(t testing.TB, fs *FS, dir layout.Ino, name string) layout.Ino {
	t.Helper()
	return must[Attr](t)(fs.Lookup(root, dir, name)).Ino
}

// TestSnapshotOpenFiles removes a snapshot of which files and directories are open.
func TestSnapshotOpenFiles(t *testing.T) {
	meta, data := newAreas(t, 64<<20)
	fs := mount(t, meta, data)
	dir := variedTree(t, fs)
	s := takeSnapshot(t, fs, dir, "s", SnapshotOptions{})
	f := must[*Node](t)(fs.Open(must[Attr](t)(fs.Lookup(root, s, "f")).Ino))
	sub := must[*Node](t)(fs.Open(must[Attr](t)(fs.Lookup(root, s, "sub")).Ino))
	want := survivorOf(t, f)
	if err := fs.RemoveSnapshot(root, dir, "s"); err != nil {
		t.Fatal(err)
	}
	want.compare(t, f)
	if list, err := fs.ReadDir(root, sub.Ino(), 0, 10); err != nil || len(list) != 0 {
		t.Errorf("the open directory has %v, %v", list, err)
	}
	top := takeSnapshot(t, fs, dir, "open", SnapshotOptions{})
	held := must[*Node](t)(fs.Open(top))
	if err := fs.RemoveSnapshot(root, dir, "open"); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*Node{f, sub, held} {
		n.Close()
	}
	if err := checkMounted(fs); err != nil {
		t.Error(err)
	}
	if err := removeAll(fs, layout.RootIno); err != nil {
		t.Fatal(err)
	}
	if st := fs.Statfs(); st.FreeInodes != st.Inodes-int64(layout.FirstIno) {
		t.Errorf("%d inodes are left", st.Inodes-int64(layout.FirstIno)-st.FreeInodes)
	}
}

// areasWith is a pool with a log of 1 MiB, 16 chunks of blocks, and as many chunks of
// inodes and nodes.
func areasWith(t testing.TB, inodes, nodes int64) (meta, data medium.Area) {
	t.Helper()
	o := FormatOptions{Inodes: inodes * layout.ChunkUnits, Nodes: nodes * layout.ChunkUnits, LogBytes: layout.MinLog, Zeroed: true}
	blocks := int64(16 * layout.ChunkUnits)
	meta, data = medium.Memory(arrange(0, blocks, o).MetaSize), medium.Memory(blocks*layout.BlockSize)
	if err := Format(meta, data, o); err != nil {
		t.Fatal(err)
	}
	return meta, data
}

// TestSnapshotNoSpace takes snapshots until nodes or inodes are used up: the last one
// leaves nothing.
func TestSnapshotNoSpace(t *testing.T) {
	meta, data := areasWith(t, 1, 1)
	fs := mount(t, meta, data)
	dir := variedTree(t, fs)
	for i := 0; ; i++ {
		before, used := snapshot(fs), fs.Statfs()
		_, err := fs.Snapshot(root, dir, fmt.Sprint("s", i), SnapshotOptions{Writable: i%2 == 0})
		if err == nil {
			continue
		}
		if !errors.Is(err, unix.ENOSPC) || i < 3 {
			t.Fatalf("snapshot %d: %v", i, err)
		}
		if got, now := snapshot(fs), fs.Statfs(); !got.equal(before) || now.FreeNodes != used.FreeNodes || now.FreeInodes != used.FreeInodes {
			t.Errorf("a failed snapshot has left something: %+v, %+v\n%s", used, now, got.diff([]treeState{before}))
		}
		break
	}
	if err := checkMounted(fs); err != nil {
		t.Error(err)
	}
	if err := removeAll(fs, layout.RootIno); err != nil {
		t.Fatal(err)
	}
	if err := checkMounted(fs); err != nil {
		t.Error(err)
	}
}

// snapshotOperations are those on which TestSnapshotPowerCut cuts the power.
var snapshotOperations = []operation{
	{"snapshot of all", several, 0, func(o *opTree) error {
		_, err := o.fs.Snapshot(root, layout.RootIno, "s", SnapshotOptions{})
		return err
	}},
	{"snapshot of a directory, writable, twice", several, 0, func(o *opTree) error {
		for _, name := range []string{"one", "two"} {
			if _, err := o.fs.Snapshot(root, o.b, name, SnapshotOptions{Writable: true}); err != nil {
				return err
			}
			o.step()
		}
		_, err := o.shared.WriteAt([]byte("behind them"), 5000)
		return err
	}},
	{"remove a snapshot", several, 0, func(o *opTree) error {
		if _, err := o.fs.Snapshot(root, layout.RootIno, "s", SnapshotOptions{}); err != nil {
			return err
		}
		o.step()
		return o.fs.RemoveSnapshot(root, layout.RootIno, "s")
	}},
	{"restore a snapshot", several, 0, func(o *opTree) error {
		if _, err := o.fs.Snapshot(root, layout.RootIno, "s", SnapshotOptions{}); err != nil {
			return err
		}
		o.step()
		if err := o.rename(o.a, "sub", o.b, "moved", 0); err != nil {
			return err
		}
		o.step()
		if err := o.fs.Unlink(root, o.a, "f"); err != nil {
			return err
		}
		o.step()
		return o.fs.RestoreSnapshot(root, layout.RootIno, "s")
	}},
	{"restore a writable snapshot of a directory", several, 0, func(o *opTree) error {
		if _, err := o.fs.Snapshot(root, o.b, "s", SnapshotOptions{Writable: true}); err != nil {
			return err
		}
		o.step()
		if err := o.fs.RestoreSnapshot(root, o.b, "s"); err != nil {
			return err
		}
		o.step()
		return o.fs.RemoveSnapshot(root, o.b, "s")
	}},
	{"snapshot and remove in steps", several, 0, func(o *opTree) error {
		for _, ino := range []layout.Ino{o.f, o.open.Ino(), o.sub, o.b, o.big.Ino()} {
			if err := o.fs.SetXattr(root, ino, "user.long", bytes.Repeat([]byte("long"), 15<<10), 0); err != nil {
				return err
			}
			o.step()
		}
		before := o.fs.Stats().Journal.Transactions
		if _, err := o.fs.Snapshot(root, layout.RootIno, "s", SnapshotOptions{}); err != nil {
			return err
		}
		made := o.fs.Stats().Journal.Transactions
		o.step()
		err := o.fs.RemoveSnapshot(root, layout.RootIno, "s")
		if removed := o.fs.Stats().Journal.Transactions; err == nil && (made-before < 4 || removed-made < 4) {
			return fmt.Errorf("in %d and %d transactions: too few for this test", made-before, removed-made)
		}
		return err
	}},
}

// TestSnapshotPowerCut cuts the power at every instant of making, restoring and
// removing snapshots.
func TestSnapshotPowerCut(t *testing.T) {
	var images atomic.Int64
	t.Run("operations", func(t *testing.T) {
		for _, op := range snapshotOperations {
			for _, mode := range []Options{{}, {Stage: true}} {
				t.Run(fmt.Sprint(op.name, mode.Stage), func(t *testing.T) {
					t.Parallel()
					p := powerCut{op: op, settled: true, mount: mode, deep: 13, opts: crash.Options{
						Exhaustive: 64, Samples: 6, Lines: 6, Seed: seedOf(op.name),
					}}
					if raceDetector || testing.Short() || strings.HasSuffix(op.name, "in steps") {
						p.deep, p.opts.Exhaustive, p.opts.Samples, p.opts.Lines = 41, 8, 1, 1
					}
					p.run(t)
					for _, f := range p.failures {
						t.Error(f)
					}
					images.Add(int64(p.images))
				})
			}
		}
	})
	t.Logf("%d images", images.Load())
	wantImages(t, images.Load(), 50)
}

// TestSnapshotRestore changes a tree in many ways, with files open, and restores it.
func TestSnapshotRestore(t *testing.T) {
	for _, writable := range []bool{false, true} {
		meta, data := newAreas(t, 64<<20)
		fs := mount(t, meta, data)
		dir := variedTree(t, fs)
		if err := fs.RemoveXattr(root, dir, "user.long"); err != nil {
			t.Fatal(err)
		}
		want := under(fs, dir)
		takeSnapshot(t, fs, dir, "s", SnapshotOptions{Writable: writable})
		f := must[*Node](t)(fs.Open(snapshotParent(t, fs, dir, "f")))
		sub := snapshotParent(t, fs, dir, "sub")
		must[int](t)(f.WriteAt([]byte("after the snapshot"), 5000))
		mode := uint32(0o700)
		must[Attr](t)(fs.SetAttr(root, dir, SetAttr{Mode: &mode}))
		kept := create(t, fs, sub, "static")
		must[int](t)(kept.WriteAt(bytes.Repeat([]byte("static"), 5000), 0))
		for _, err := range []error{
			kept.SetStatic(true),
			fs.SetXattr(root, dir, "user.new", []byte("new"), 0),
			fs.Unlink(root, sub, "fifo"),
			fs.Rename(root, dir, "f", sub, "moved", 0),
			fs.Rename(root, sub, "empty", dir, "empty", 0),
			fs.Rename(root, dir, "sub", dir, "renamed", 0),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		must[Attr](t)(fs.Create(root, dir, "sub", layout.ModeRegular|0o600, 0))
		open := []survivor{survivorOf(t, f), survivorOf(t, kept)}
		if err := fs.RestoreSnapshot(root, dir, "s"); err != nil {
			t.Fatal(err)
		}
		open[0].compare(t, f)
		open[1].compare(t, kept)
		if f.Attr().Nlink != 0 || kept.Attr().Nlink != 0 {
			t.Error("files of before have names")
		}
		if got := under(fs, dir); !got.equal(want) {
			t.Errorf("restored it differs:\n%s", got.diff([]treeState{want}))
		}
		if changes := must[[]SnapshotChange](t)(fs.SnapshotDiff(root, dir, "s", "")); len(changes) != 0 {
			t.Errorf("restored it differs by %+v", changes)
		}
		f.Close()
		kept.Close()
		again := must[*Node](t)(fs.Open(snapshotParent(t, fs, dir, "f")))
		must[int](t)(again.WriteAt([]byte("it can be changed"), 0))
		again.Close()
		if err := errors.Join(checkMounted(fs), fs.RestoreSnapshot(root, dir, "s"), checkMounted(fs)); err != nil {
			t.Error(err)
		}
		if got := under(fs, dir); !got.equal(want) {
			t.Errorf("restored again it differs:\n%s", got.diff([]treeState{want}))
		}
		if err := errors.Join(fs.RemoveSnapshot(root, dir, "s"), removeAll(fs, layout.RootIno)); err != nil {
			t.Fatal(err)
		}
		if st := fs.Statfs(); st.FreeInodes != st.Inodes-int64(layout.FirstIno) || st.FreeBlocks != st.Blocks {
			t.Errorf("%d inodes and %d blocks are left", st.Inodes-int64(layout.FirstIno)-st.FreeInodes, st.Blocks-st.FreeBlocks)
		}
	}
}

// TestSnapshotRestoreRefused has snapshots of a directory below, which a restore would
// remove, and more names than a record can hold.
func TestSnapshotRestoreRefused(t *testing.T) {
	meta, data := areasWith(t, 128, 8)
	fs := mount(t, meta, data)
	dir := variedTree(t, fs)
	takeSnapshot(t, fs, dir, "s", SnapshotOptions{})
	sub := snapshotParent(t, fs, dir, "sub")
	takeSnapshot(t, fs, sub, "inner", SnapshotOptions{})
	before := snapshot(fs)
	err := fs.RestoreSnapshot(root, dir, "s")
	var p *FileError
	if !errors.Is(err, unix.ENOTEMPTY) || !errors.As(err, &p) || p.Path != "sub/.snapshots" {
		t.Errorf("with a snapshot of a directory below: %v", err)
	}
	if err := fs.RestoreSnapshot(root, dir, "none"); err != unix.ENOENT {
		t.Errorf("restoring what is not there: %v", err)
	}
	if err := fs.RestoreSnapshot(Cred{UID: 7}, dir, "s"); err != unix.EPERM {
		t.Errorf("by somebody else: %v", err)
	}
	if got := snapshot(fs); !got.equal(before) {
		t.Errorf("refused, and something has changed:\n%s", got.diff([]treeState{before}))
	}
	if err := fs.RemoveSnapshot(root, sub, "inner"); err != nil {
		t.Fatal(err)
	}
	fits, names := 0, 0
	for ; ; names++ {
		must[Attr](t)(fs.Create(root, dir, fmt.Sprint("a file with a name ", names), layout.ModeRegular|0o600, 0))
		if names%500 != 0 {
			continue
		}
		used := fs.Statfs()
		err := fs.RestoreSnapshot(root, dir, "s")
		if errors.Is(err, unix.EFBIG) {
			if now := fs.Statfs(); now.FreeInodes != used.FreeInodes || now.FreeNodes != used.FreeNodes {
				t.Errorf("refused, and it has left %+v of %+v", now, used)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		fits = names
		for i := range names {
			must[Attr](t)(fs.Create(root, dir, fmt.Sprint("a file with a name ", i), layout.ModeRegular|0o600, 0))
		}
	}
	t.Logf("%d names can be exchanged, %d cannot, with a log of 1 MiB", fits, names)
	if fits < 500 {
		t.Error("too few names can be exchanged")
	}
	if err := checkMounted(fs); err != nil {
		t.Error(err)
	}
}

// TestSnapshotDiff makes one change of each kind.
func TestSnapshotDiff(t *testing.T) {
	fs := newFS(t, 64<<20)
	dir := variedTree(t, fs)
	takeSnapshot(t, fs, dir, "s", SnapshotOptions{})
	diff := func(other string) (out []string) {
		t.Helper()
		for _, c := range must[[]SnapshotChange](t)(fs.SnapshotDiff(root, dir, "s", other)) {
			s := c.Path
			for what, yes := range map[string]bool{" added": c.Added, " removed": c.Removed, " attributes": c.Attributes} {
				if yes {
					s += what
				}
			}
			if c.From != "" {
				s += " from " + c.From
			}
			if c.Contents {
				s += fmt.Sprint(" ", c.Ranges)
			}
			out = append(out, s)
		}
		return out
	}
	if got := diff(""); got != nil {
		t.Errorf("nothing has changed, but %q", got)
	}
	sub := snapshotParent(t, fs, dir, "sub")
	big := must[*Node](t)(fs.Open(snapshotParent(t, fs, sub, "big")))
	defer big.Close()
	must[int](t)(big.WriteAt([]byte("x"), 4096*100))
	must[int](t)(big.WriteAt([]byte("x"), 4096*101))
	must[int](t)(big.WriteAt([]byte("x"), 4096*300+17))
	must[int](t)(big.WriteAt([]byte("x"), 4<<20)) // behind the end, which was at 7*4096+3<<20
	mode := uint32(0o604)
	must[Attr](t)(fs.SetAttr(root, snapshotParent(t, fs, sub, "dev"), SetAttr{Mode: &mode}))
	for _, err := range []error{
		fs.Rename(root, dir, "sub", dir, "renamed", 0),
		fs.Rename(root, sub, "fifo", dir, "fifo", 0),
		fs.Unlink(root, sub, "link"),
		fs.Rename(root, dir, "f", dir, "f.1", 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	must[Attr](t)(fs.Create(root, dir, "f", layout.ModeRegular|0o600, 0))
	must[Attr](t)(fs.Symlink(root, sub, "link", "elsewhere"))
	want := []string{
		"f added", "f.1 from f", "fifo from sub/fifo",
		"renamed from sub", "renamed/big [{409600 8192} {1228800 4096} {3174400 1019905}]", "renamed/dev attributes",
		"renamed/link []",
	}
	if got := diff(""); !slices.Equal(got, want) {
		t.Errorf("until now:\n%q\nwant\n%q", got, want)
	}
	takeSnapshot(t, fs, dir, "later", SnapshotOptions{})
	if err := fs.Unlink(root, dir, "f.1"); err != nil {
		t.Fatal(err)
	}
	if got := diff("later"); !slices.Equal(got, want) {
		t.Errorf("until a later snapshot:\n%q\nwant\n%q", got, want)
	}
	// What comes from a snapshot is still known when that is restored and changed.
	if err := fs.RestoreSnapshot(root, dir, "s"); err != nil {
		t.Fatal(err)
	}
	n := must[*Node](t)(fs.Open(snapshotParent(t, fs, dir, "f")))
	must[int](t)(n.WriteAt([]byte("x"), 0))
	n.Close()
	if err := fs.Rename(root, dir, "f", dir, "g", 0); err != nil {
		t.Fatal(err)
	}
	if got, want := diff(""), []string{"g from f [{0 4096}]", "sub/hard [{0 4096}]"}; !slices.Equal(got, want) {
		t.Errorf("after a restore %q, want %q", got, want)
	}
	if _, err := fs.SnapshotDiff(Cred{UID: 7}, dir, "s", ""); err != unix.EPERM {
		t.Errorf("by somebody else: %v", err)
	}
}

// TestSnapshotConcurrent does everything at the same time: nobody waits for ever, and
// each snapshot has what one instant of each file's writer has left.
func TestSnapshotConcurrent(t *testing.T) {
	meta, data := newAreas(t, 64<<20)
	fs := mount(t, meta, data)
	dirs := []layout.Ino{layout.RootIno}
	for _, name := range []string{"a", "b", "c"} {
		dirs = append(dirs, must[Attr](t)(fs.Create(root, dirs[len(dirs)/2], name, layout.ModeDirectory|0o755, 0)).Ino)
	}
	expected := []error{unix.ENOENT, unix.EEXIST, unix.ENOTEMPTY, unix.EINVAL, unix.ENOSPC, unix.ENOTDIR, unix.EISDIR, unix.EBUSY, unix.EROFS, unix.EPERM}
	var all sync.WaitGroup
	var done, taken, restored atomic.Int64
	stop := time.Now().Add(2 * time.Second)
	for i := range 6 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 5))
			name := func() string { return fmt.Sprint("file-", r.IntN(6)) }
			dir := func() layout.Ino { return dirs[r.IntN(len(dirs))] }
			for time.Now().Before(stop) {
				var err error
				switch op := r.IntN(40); {
				case op < 8:
					_, err = fs.Create(root, dir(), name(), layout.ModeRegular|0o600, 0)
				case op < 12:
					err = fs.Unlink(root, dir(), name())
				case op < 18:
					err = fs.Rename(root, dir(), name(), dir(), name(), uint32(r.IntN(2))*RenameExchange)
				case op < 20:
					err = fs.Rename(root, dir(), "c", dir(), "c", 0)
				case op < 30:
					err = writeSame(fs, dir(), name(), byte(op))
				case op < 32:
					var a Attr
					if a, err = fs.Lookup(root, dir(), name()); err == nil {
						_, err = fs.Link(root, a.Ino, dir(), name())
					}
				case op < 36:
					if _, err = fs.Snapshot(root, dir(), fmt.Sprint("s", r.IntN(4)), SnapshotOptions{Writable: r.IntN(2) == 0}); err == nil {
						taken.Add(1)
					}
				case op < 38:
					err = fs.RemoveSnapshot(root, dir(), fmt.Sprint("s", r.IntN(4)))
				case op == 38 && i == 0: // what it replaces, directories too, the others go on to use
					if err = fs.RestoreSnapshot(root, dirs[2], fmt.Sprint("s", r.IntN(4))); err == nil {
						restored.Add(1)
					}
				case op == 39:
					_, err = fs.SnapshotDiff(root, dir(), fmt.Sprint("s", r.IntN(4)), "")
				}
				if err != nil && !slices.ContainsFunc(expected, func(want error) bool { return errors.Is(err, want) }) {
					t.Errorf("%v", err)
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	t.Logf("%d operations, %d snapshots, %d restores", done.Load(), taken.Load(), restored.Load())
	if err := checkMounted(fs); err != nil {
		t.Error(err)
	}
	for path, f := range snapshot(fs) {
		if !strings.Contains(path, "file-") || f.Blocks[0] == "" || strings.Trim(f.Blocks[0], f.Blocks[0][:1]) == "" {
			continue
		}
		t.Errorf("%s has what no instant has left", path)
	}
	if taken.Load() == 0 {
		t.Error("no snapshot was taken")
	}
}

// writeSame fills the first block of a file with one byte.
func writeSame(fs *FS, dir layout.Ino, name string, b byte) error {
	a, err := fs.Lookup(root, dir, name)
	if err != nil {
		return err
	}
	n, err := fs.Open(a.Ino)
	if err != nil {
		return err
	}
	defer n.Close()
	_, err = n.WriteAt(bytes.Repeat([]byte{b + 'A'}, layout.BlockSize), 0)
	return err
}

// TestSnapshotModel changes a tree at random and takes, compares, restores and removes
// snapshots, of which the test remembers what they are.
func TestSnapshotModel(t *testing.T) {
	seeds := 20
	if raceDetector || testing.Short() {
		seeds = 8
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			meta, data := newAreas(t, 64<<20)
			m := &snapshotModel{t: t, fs: mount(t, meta, data), r: rand.New(rand.NewPCG(seed, 1)), taken: map[string]treeState{}}
			m.dir = must[Attr](t)(m.fs.Create(root, layout.RootIno, "dir", layout.ModeDirectory|0o755, 0)).Ino
			for step := range 150 {
				m.step(step)
				if step%10 == 0 {
					m.look()
				}
				if t.Failed() {
					t.Fatalf("in step %d", step)
				}
			}
			if err := checkMounted(m.fs); err != nil {
				t.Error(err)
			}
			if err := errors.Join(m.fs.Close(), func() error { fs, err := Mount(meta, data, Options{}); m.fs = fs; return err }()); err != nil {
				t.Fatal(err)
			}
			m.look()
			if err := removeAll(m.fs, layout.RootIno); err != nil {
				t.Fatal(err)
			}
			if st := m.fs.Statfs(); st.FreeBlocks != st.Blocks || st.FreeInodes != st.Inodes-int64(layout.FirstIno) {
				t.Errorf("when all is removed %d blocks and %d inodes are in use", st.Blocks-st.FreeBlocks, st.Inodes-st.FreeInodes)
			}
		})
	}
}

type snapshotModel struct {
	t     *testing.T
	fs    *FS
	r     *rand.Rand
	dir   layout.Ino
	taken map[string]treeState
	names []string
}

// any picks a path of the tree, "" if it is of no use.
func (m *snapshotModel) any(kind uint32) (a Attr, parent layout.Ino, name string) {
	var all []string
	for p, f := range under(m.fs, m.dir) {
		if p != "/" && f.Attr.Mode&layout.ModeType == kind {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		return a, m.dir, ""
	}
	slices.Sort(all)
	p := "/dir" + all[m.r.IntN(len(all))]
	a = must[Attr](m.t)(m.fs.Resolve(root, p, false))
	parent, name, err := m.fs.ResolveParent(root, p)
	if err != nil {
		m.t.Fatal(err)
	}
	return a, parent, name
}

func (m *snapshotModel) step(step int) {
	t, fs := m.t, m.fs
	file, dir, name := m.any(layout.ModeRegular)
	sub, above, _ := m.any(layout.ModeDirectory)
	if sub.Ino == 0 {
		sub.Ino = m.dir
	}
	fresh := fmt.Sprint("n", step)
	var err error
	switch op := m.r.IntN(20); {
	case op < 3 || name == "":
		_, err = fs.Create(root, sub.Ino, fresh, layout.ModeRegular|0o640, 0)
	case op < 4:
		_, err = fs.Create(root, sub.Ino, fresh, layout.ModeDirectory|0o750, 0)
	case op < 9:
		m.change(file.Ino)
	case op < 10:
		err = fs.Rename(root, dir, name, sub.Ino, fresh, 0)
	case op < 11 && sub.Ino != m.dir:
		_, _, name := m.any(layout.ModeDirectory)
		if err = fs.Rename(root, above, name, m.dir, fresh, 0); err == unix.ENOENT {
			err = nil
		}
	case op < 12:
		err = fs.Unlink(root, dir, name)
	case op < 13:
		_, err = fs.Link(root, file.Ino, sub.Ino, fresh)
	case op < 14:
		n := must[*Node](t)(fs.Open(file.Ino))
		_, err = n.Clone(root, sub.Ino, fresh, 0o640)
		n.Close()
	case op < 15:
		err = fs.SetXattr(root, file.Ino, "user.x", []byte(fresh), 0)
	case op < 18:
		m.names, m.taken[fresh] = append(m.names, fresh), under(fs, m.dir)
		takeSnapshot(t, fs, m.dir, fresh, SnapshotOptions{Writable: op == 15})
	case op < 19 && len(m.names) > 0:
		err = fs.RestoreSnapshot(root, m.dir, m.names[m.r.IntN(len(m.names))])
	case len(m.names) > 3:
		i := m.r.IntN(len(m.names))
		err = fs.RemoveSnapshot(root, m.dir, m.names[i])
		delete(m.taken, m.names[i])
		m.names = slices.Delete(m.names, i, i+1)
	}
	if err != nil {
		t.Errorf("%v", err)
	}
}

// change changes the contents of a file.
func (m *snapshotModel) change(ino layout.Ino) {
	n := must[*Node](m.t)(m.fs.Open(ino))
	defer n.Close()
	off, length := int64(m.r.IntN(200_000)), int64(1+m.r.IntN(20_000))
	var err error
	switch m.r.IntN(6) {
	case 0:
		_, err = m.fs.SetAttr(root, ino, SetAttr{Size: &off})
	case 1:
		err = n.Fallocate(PunchHole|KeepSize, off, length)
	case 2:
		err = n.Fallocate(0, off, length)
	default:
		p := make([]byte, length)
		for i := range p {
			p[i] = byte(m.r.Uint32())
		}
		_, err = n.WriteAt(p, off)
	}
	if err != nil {
		m.t.Error(err)
	}
}

// look verifies all snapshots, and what is said to have changed between each and
// another one, or now.
func (m *snapshotModel) look() {
	now := under(m.fs, m.dir)
	for i, name := range m.names {
		got := under(m.fs, snapshotDir(m.t, m.fs, m.dir, name))
		if want := m.taken[name]; !got.equal(want) {
			m.t.Errorf("snapshot %s has changed:\n%s", name, got.diff([]treeState{want}))
		}
		to, other := now, ""
		if i%2 == 1 {
			other = m.names[i-1]
			to = m.taken[other]
		}
		changes, err := m.fs.SnapshotDiff(root, m.dir, name, other)
		if err != nil {
			m.t.Fatal(err)
		}
		if err := explains(changes, got, to); err != nil {
			m.t.Errorf("from %s to %q: %v", name, other, err)
		}
	}
}

// explains reports what differs between two states and is not among the changes, or is
// among them and does not.
func explains(changes []SnapshotChange, from, to treeState) error {
	byPath, removed := map[string]SnapshotChange{}, map[string]bool{}
	for _, c := range changes {
		if c.Removed {
			removed[path.Join("/", c.Path)] = true
		} else {
			byPath[path.Join("/", c.Path)] = c
		}
	}
	var before func(p string) string
	before = func(p string) string {
		c := byPath[p]
		switch {
		case p == "/":
			return p
		case c.Added:
			return ""
		case c.From != "":
			return path.Join("/", c.From)
		}
		if above := before(path.Dir(p)); above != "" {
			return path.Join(above, path.Base(p))
		}
		return ""
	}
	for p, f := range to {
		was := before(p)
		old, there := from[was]
		c := byPath[p]
		if c.Added {
			continue
		}
		if !there || removed[was] {
			return fmt.Errorf("%s: it should have been %q", p, was)
		}
		delete(from, was)
		a, b := f.Attr, old.Attr
		if (a.Mode != b.Mode || f.Xattrs != old.Xattrs) && !c.Attributes {
			return fmt.Errorf("%s: other attributes", p)
		}
		if a.Mode&layout.ModeType == layout.ModeRegular {
			if err := inRanges(c.Ranges, f, old); err != nil {
				return fmt.Errorf("%s, which was %s: %w", p, was, err)
			}
		}
	}
	for p := range from {
		if !removed[p] {
			return fmt.Errorf("%s is gone", p)
		}
	}
	return nil
}

// inRanges reports a byte that differs outside of the ranges.
func inRanges(ranges []Range, f, old fileState) error {
	inside := func(off int64) bool {
		return slices.ContainsFunc(ranges, func(r Range) bool { return off >= r.Off && off < r.Off+r.Len })
	}
	for block := range union(f.Blocks, old.Blocks) {
		a, b := []byte(zeroBlock), []byte(zeroBlock)
		if s := f.Blocks[block]; s != "" {
			a = []byte(s)
		}
		if s := old.Blocks[block]; s != "" {
			b = []byte(s)
		}
		for i := range a {
			if off := block*layout.BlockSize + int64(i); a[i] != b[i] && !inside(off) {
				return fmt.Errorf("byte %d differs, ranges %v", off, ranges)
			}
		}
	}
	if f.Attr.Size != old.Attr.Size && !inside(min(f.Attr.Size, old.Attr.Size)) {
		return fmt.Errorf("%d bytes, it had %d, ranges %v", f.Attr.Size, old.Attr.Size, ranges)
	}
	return nil
}

// TestSnapshotCheck checks a tree without a name, as it is while a snapshot is made or
// removed, and damages it.
func TestSnapshotCheck(t *testing.T) {
	fs := newFS(t, 64<<20)
	dir := variedTree(t, fs)
	top, _, _, err := fs.cloneTree(must[*inode](t)(fs.get(dir)), "", layout.FlagReadOnly, false)
	if err != nil {
		t.Fatal(err)
	}
	check := func() (found string) {
		sum := must[Summary](t)(fs.Check(t.Context(), func(p Problem) { found += p.String() + "\n" }))
		if sum.Orphans > 1 {
			t.Errorf("%d orphans", sum.Orphans)
		}
		return found
	}
	if found := check(); found != "" {
		t.Errorf("intact: %s", found)
	}
	sub := must[Attr](t)(fs.Lookup(root, top.ino, "sub"))
	in := must[*inode](t)(fs.get(sub.Ino))
	damaged := func(what, want string, in *inode, damage, undo func(u *update) error) {
		t.Helper()
		if err := fs.transact(damage); err != nil {
			t.Fatal(err)
		}
		if found := check(); !strings.Contains(found, want) {
			t.Errorf("%s: %q", what, found)
		}
		if err := fs.transact(undo); err != nil {
			t.Fatal(err)
		}
	}
	set := func(in *inode, change func(want *layout.Inode)) func(*update) error {
		return func(u *update) error { change(u.edit(in)); return nil }
	}
	damaged("no orphan bit", "link count", top, func(u *update) error { return u.clearOrphan(top) }, func(u *update) error { return u.setOrphan(top) })
	damaged("another parent", "whose parent is", in, set(in, func(w *layout.Inode) { w.Parent = dir }), set(in, func(w *layout.Inode) { w.Parent = top.ino }))
	damaged("no links", "link count", in, set(in, func(w *layout.Inode) { w.Nlink = 0 }), set(in, func(w *layout.Inode) { w.Nlink = sub.Nlink }))
	damaged("too few names", "stand in the directory", top, set(top, func(w *layout.Inode) { w.Size-- }), set(top, func(w *layout.Inode) { w.Size++ }))
	in.put()
	if found := check(); found != "" {
		t.Errorf("mended: %s", found)
	}
	top.put()
	if st := fs.Statfs(); check() != "" || st.FreeInodes != st.Inodes-int64(layout.FirstIno)-8 {
		t.Errorf("given up: %+v, %s", st, check())
	}
}

// TestSnapshotPublish takes snapshots while two files get the same contents by Publish,
// again and again: no snapshot has one without the other.
func TestSnapshotPublish(t *testing.T) {
	fs := newFS(t, 64<<20)
	var clones []*Node
	for _, name := range []string{"a", "b"} {
		n := create(t, fs, layout.RootIno, name)
		defer n.Close()
		must[int](t)(n.WriteAt(make([]byte, 8*layout.BlockSize), 0))
		c := must[*Node](t)(n.Private(0, 8*layout.BlockSize, false))
		defer c.Close()
		clones = append(clones, c)
	}
	var all sync.WaitGroup
	var stop atomic.Bool
	var published atomic.Int64
	all.Go(func() {
		for ; !stop.Load() && !t.Failed(); published.Add(1) {
			n := published.Load()
			for _, c := range clones {
				if _, err := c.WriteAt([]byte{byte(n + 1)}, n%8*layout.BlockSize); err != nil {
					t.Error(err)
				}
			}
			if err := Publish(clones...); err != nil {
				t.Error(err)
			}
		}
	})
	for i := 0; i < 200 || published.Load() < 10 && !t.Failed(); i++ {
		s := takeSnapshot(t, fs, layout.RootIno, "s", SnapshotOptions{})
		state := under(fs, s)
		if a, b := state["/a"].Blocks, state["/b"].Blocks; !maps.Equal(a, b) {
			t.Error("one file has what the other has not")
		}
		if err := fs.RemoveSnapshot(root, layout.RootIno, "s"); err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	all.Wait()
}
