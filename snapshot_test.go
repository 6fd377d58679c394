package pmemfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
)

func inSnapshot(dir, name, file string) string {
	return strings.TrimPrefix(dir+"/"+pmemfs.SnapshotsName+"/"+name+"/"+file, "./")
}

// TestSnapshots does everything that there is, with the root and with another directory.
func TestSnapshots(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		must(t, fsys.MkdirAll("dir/sub", 0o755))
		for _, dir := range []string{".", "dir"} {
			t.Run(dir, func(t *testing.T) { testSnapshots(t, fsys, dir) })
		}
	})
}

func testSnapshots(t *testing.T, fsys *pmemfs.FS, dir string) {
	in := func(name string) string { return strings.TrimPrefix(dir+"/"+name, "./") }
	must(t, fsys.MkdirAll(in("sub"), 0o755))
	content := bytes.Repeat([]byte("before "), 5000)
	must(t, fsys.WriteFile(in("sub/f"), content, 0o640))
	must(t, fsys.WriteFile(in("old"), []byte("old"), 0o640))
	if list, err := fsys.Snapshots(dir); err != nil || len(list) != 0 {
		t.Errorf("before the first one: %v, %v", list, err)
	}
	before := time.Now()
	for name, flags := range map[string]pmemfs.SnapshotFlags{"ro": 0, "rw": pmemfs.SnapshotWritable} {
		skipped, err := fsys.Snapshot(dir, name, flags)
		if err != nil || len(skipped) != 0 {
			t.Fatal(skipped, err)
		}
	}
	changed := bytes.Clone(content)
	copy(changed[10_000:], "after")
	must(t, fsys.WriteFile(in("sub/f"), changed, 0))
	must(t, fsys.Rename(in("old"), in("new")))
	must(t, fsys.Chmod(in("new"), 0o600))
	must(t, fsys.WriteFile(in("added"), nil, 0o600))
	for _, name := range []string{"ro", "rw"} {
		got, err := fsys.ReadFile(inSnapshot(dir, name, "sub/f"))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	_, err := fsys.OpenFile(inSnapshot(dir, "ro", "sub/f"), os.O_RDWR, 0)
	wantErrno(t, "open for writing", err, unix.EROFS)
	wantErrno(t, "create", fsys.WriteFile(inSnapshot(dir, "ro", "x"), nil, 0o600), unix.EROFS)
	wantErrno(t, "remove", fsys.RemoveAll(inSnapshot(dir, "ro", "sub")), unix.EROFS)
	must(t, fsys.WriteFile(inSnapshot(dir, "rw", "x"), nil, 0o600))

	list, err := fsys.Snapshots(dir)
	must(t, err)
	if len(list) != 2 || list[0].Time.Before(before.Add(-time.Second)) || list[0].ReadOnly == list[1].ReadOnly {
		t.Errorf("listed as %+v", list)
	}
	changes, err := fsys.SnapshotDiff(dir, "ro", "")
	must(t, err)
	text := fmt.Sprintf("%+v", changes)
	for _, want := range []string{"Path:added", "From:old", "Path:new", "Path:sub/f", "Contents:true"} {
		if !strings.Contains(text, want) || len(changes) != 3 {
			t.Errorf("%s is not in %s", want, text)
		}
	}
	changes, err = fsys.SnapshotDiff(dir, "ro", "rw")
	if must(t, err); len(changes) != 1 || !changes[0].Added || changes[0].Path != "x" {
		t.Errorf("between the snapshots: %+v", changes)
	}
	must(t, fsys.RestoreSnapshot(dir, "ro"))
	if changes, err := fsys.SnapshotDiff(dir, "ro", ""); err != nil || len(changes) != 0 {
		t.Errorf("when it is restored: %+v, %v", changes, err)
	}
	for _, name := range []string{"ro", "rw"} {
		must(t, fsys.RemoveSnapshot(dir, name))
	}
	must(t, fsys.Remove(in(pmemfs.SnapshotsName)))
	for what, err := range map[string]error{
		"restore": fsys.RestoreSnapshot(dir, "ro"), "remove": fsys.RemoveSnapshot(dir, "ro"),
	} {
		wantErrno(t, what, err, unix.ENOENT)
	}
	_, err = fsys.Snapshot(in("sub/f"), "x", 0)
	wantErrno(t, "a snapshot of a file", err, unix.ENOTDIR)
	_, err = fsys.Snapshot(dir, "a/b", 0)
	wantErrno(t, "a bad name", err, unix.EINVAL)
	_, err = fsys.Snapshot(dir, "x", 1<<20)
	wantErrno(t, "bad flags", err, unix.EINVAL)
}

func wantErrno(t *testing.T, what string, err error, want unix.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// TestSnapshotManyPaths has an answer that does not fit into a message.
func TestSnapshotManyPaths(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		deep := strings.Repeat("d", 250)
		for range 3 {
			deep += "/" + strings.Repeat("d", 250)
		}
		must(t, fsys.MkdirAll(deep, 0o700))
		_, err := fsys.Snapshot(".", "s", 0)
		must(t, err)
		for i := range 1500 {
			must(t, fsys.WriteFile(fmt.Sprintf("%s/%d", deep, i), nil, 0o600))
		}
		changes, err := fsys.SnapshotDiff(".", "s", "")
		if must(t, err); len(changes) != 1500 {
			t.Errorf("%d changes", len(changes))
		}
	})
}

// TestSnapshotHeld takes a snapshot while another process has sealed or pinned a block, does not give up its right to store, or
// just maps.
func TestSnapshotHeld(t *testing.T) {
	d := newDynasty(t)
	fsys := dial(t, d.socket)
	must(t, fsys.MkdirAll("dir/sub", 0o755))
	f := ready(t, fsys, "dir/sub/f", 4)
	must(t, f.Close())
	must(t, fsys.WriteFile("dir/other", []byte("other"), 0o600))
	refused := func(what string, matches func(error) bool) {
		t.Helper()
		_, err := fsys.Snapshot("dir", "s", 0)
		var p *fs.PathError
		if !errors.As(err, &p) || p.Path != "dir/sub/f" || !matches(err) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := fsys.Stat("dir/" + pmemfs.SnapshotsName); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: something is left: %v", what, err)
		}
	}
	c := d.launch()
	giveOrders(c, "open dir/sub/f", "map dir/sub/f.sync 4", "store dir/sub/f.sync 1 7", "pin dir/sub/f.sync 2 1")
	bySeal := func(err error) bool {
		var sealed *pmemfs.SealedError
		return errors.As(err, &sealed) && sealed.PID == pidOf(c) && errors.Is(err, unix.EBUSY)
	}
	refused("pinned", bySeal)
	skipped, err := fsys.Snapshot("dir", "without", pmemfs.SnapshotSkipSealed)
	if must(t, err); !slices.Equal(skipped, []string{"sub/f"}) {
		t.Errorf("skipped %q", skipped)
	}
	if _, err := fsys.Stat(inSnapshot("dir", "without", "sub/f")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was skipped is there: %v", err)
	}
	must(t, fsys.RemoveSnapshot("dir", "without"))
	must(t, fsys.Remove("dir/"+pmemfs.SnapshotsName))
	giveOrders(c, "unpin dir/sub/f.sync", "store dir/sub/f.sync 1 8")

	stopChild(t, c)
	refused("stopped", func(err error) bool { return errors.Is(err, unix.EBUSY) })
	must(t, c.Cmd.Process.Signal(unix.SIGCONT))
	eventually(t, "a snapshot can be taken again", func() bool {
		_, err := fsys.Snapshot("dir", "s", 0)
		return err == nil
	})
	giveOrders(c, "store dir/sub/f.sync 1 9")
	got, err := fsys.ReadFile(inSnapshot("dir", "s", "sub/f"))
	if must(t, err); got[page] != 8 {
		t.Errorf("the snapshot has %d, want what was stored before it", got[page])
	}
	// A mapping of the snapshot's file shows what is there, to another process, too.
	reader := d.launch()
	if answer := answerOf(reader, "open %s", inSnapshot("dir", "s", "sub/f")); !strings.Contains(answer, "read-only file system") {
		t.Errorf("opening a file of it for writing: %s", answer)
	}
	s, err := fsys.OpenFile(inSnapshot("dir", "s", "sub/f"), os.O_RDONLY, 0)
	must(t, err)
	m, err := s.Map(0, 4*page, pmemfs.Shared|pmemfs.ReadOnly)
	must(t, err)
	giveOrders(c, "store dir/sub/f.sync 2 1")
	if m.Bytes()[page] != 8 || m.Bytes()[2*page] != 0 {
		t.Error("a mapping of the snapshot shows what was stored later")
	}
	if got := answerOf(c, "load dir/sub/f.sync 1"); got != "9" {
		t.Errorf("the file has %s", got)
	}
	must(t, errors.Join(m.Unmap(), s.Close()))
	for _, c := range []*pooltest.Child{c, reader} {
		c.Finish()
	}
	must(t, fsys.Close())
	d.finish()
}

// TestSnapshotStores stores through a mapping before and after a snapshot.
func TestSnapshotStores(t *testing.T) {
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		m, err := sized(t, fsys, "f", 8*page).Map(0, 8*page, kind)
		must(t, err)
		m.Bytes()[page] = 1
		_, err = fsys.Snapshot(".", "s", 0)
		must(t, err)
		m.Bytes()[page], m.Bytes()[3*page] = 2, 3
		for name, want := range map[string][2]byte{inSnapshot(".", "s", "f"): {1, 0}, "f": {2, 3}} {
			if b, err := fsys.ReadFile(name); err != nil || b[page] != want[0] || b[3*page] != want[1] {
				t.Errorf("%s: %d and %d, want %v, %v", name, b[page], b[3*page], want, err)
			}
		}
		must(t, m.Unmap())
	})
}

// BenchmarkFirstStoreAfterSnapshot stores to a page that a snapshot shares, and to one that is the file's own and granted: each
// durably.
func BenchmarkFirstStoreAfterSnapshot(b *testing.B) {
	const pages = 1 << 12
	store := func(b *testing.B, step int, before func(fsys *pmemfs.FS)) {
		fsys := benchPool(b)
		m, err := writtenFile(b, fsys, "f", pages).Map(0, pages*page, pmemfs.Sync|pmemfs.Populate)
		must(b, err)
		i := 0
		for b.Loop() {
			if i%pages == 0 {
				b.StopTimer()
				before(fsys)
				b.StartTimer()
			}
			at := i * step % pages * page
			m.Bytes()[at]++
			must(b, m.Persist(at, 1))
			i++
		}
	}
	again := func(fsys *pmemfs.FS) {
		fsys.RemoveSnapshot(".", "s") // the first time there is none
		_, err := fsys.Snapshot(".", "s", 0)
		must(b, err)
	}
	b.Run("random", func(b *testing.B) { store(b, 4099, again) }) // prime: every page once, far apart
	b.Run("sequential", func(b *testing.B) { store(b, 1, again) })
	b.Run("own", func(b *testing.B) { store(b, 4099, func(*pmemfs.FS) {}) })
}

// BenchmarkSnapshotMapped takes snapshots of a file of 64 MiB that another process maps and has stored to in many places, which
// takes as many breaks as it has such files: one.
func BenchmarkSnapshotMapped(b *testing.B) {
	fsys := benchPool(b)
	m, err := writtenFile(b, fsys, "f", replacedSize/page).Map(0, replacedSize, pmemfs.Sync|pmemfs.Populate)
	must(b, err)
	for b.Loop() {
		b.StopTimer()
		for i := range 64 {
			m.Bytes()[i*200*page]++
		}
		b.StartTimer()
		_, err := fsys.Snapshot(".", "s", 0)
		must(b, err)
		b.StopTimer()
		must(b, fsys.RemoveSnapshot(".", "s"))
		b.StartTimer()
	}
}
