package pmemfs_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

const diskPoolSize = 32 << 20

// diskPool formats a pool on the file system of the temporary directory, which must be one on a disk.
func diskPool(t testing.TB) string {
	t.Helper()
	return poolOnDisk(t, t.TempDir())
}

// poolOnDisk formats a pool in a directory.
func poolOnDisk(t testing.TB, dir string) string {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	if kind := uint32(st.Type); kind == unix.TMPFS_MAGIC || kind == unix.RAMFS_MAGIC {
		t.Skipf("SKIPPED: %s is in memory; set TMPDIR to a directory on a disk", dir)
	}
	pool := filepath.Join(dir, "pool")
	must(t, pmemfs.Format(pool, pmemfs.FormatOptions{Size: diskPoolSize}))
	return pool
}

// disk is a file system.
type disk struct {
	dir   string
	image string // what it is made of: a file that stands for a disk. "": it is not known what the file system is on

	options string // of mount
	copied  bool   // the image as it was when the power was cut is beside it
}

// diskKinds are file systems with their sizes in MiB and options of mount; "" is that of the temporary directory.
var diskKinds = []struct {
	kind    string
	size    int64
	options string
}{{"", 0, ""}, {"ext4", 128, "loop"}, {"xfs", 320, "loop"}, {"btrfs", 256, "loop,commit=300"}}

// eachDisk runs a test on each kind of disk there can be here.
func eachDisk(t *testing.T, images bool, f func(t *testing.T, d *disk)) {
	for _, k := range diskKinds {
		if k.kind == "" {
			if !images {
				t.Run("temporary directory", func(t *testing.T) { f(t, &disk{dir: t.TempDir()}) })
			}
			continue
		}
		t.Run(k.kind, func(t *testing.T) { f(t, newDisk(t, k.kind, k.size<<20, k.options)) })
	}
}

// newDisk makes a file system in a file.
func newDisk(t *testing.T, kind string, size int64, options string) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can mount")
	}
	dir := t.TempDir()
	d := &disk{dir: filepath.Join(dir, "mounted"), image: filepath.Join(dir, "image"), options: options}
	must(t, os.WriteFile(d.image, nil, 0o600))
	must(t, os.Truncate(d.image, size))
	must(t, os.Mkdir(d.dir, 0o700))
	if out, err := exec.Command("mkfs."+kind, "-q", d.image).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: mkfs.%s: %v (apt-get install e2fsprogs xfsprogs btrfs-progs): %s", kind, err, out)
	}
	d.mount(t)
	t.Cleanup(func() { unix.Unmount(d.dir, unix.MNT_DETACH) }) // nothing is there when it went well
	return d
}

func (d *disk) mount(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("mount", "-o", d.options, d.image, d.dir).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: mount -o loop: %v: %s", err, out)
	}
}

// holds says whether bytes are anywhere on the disk.
func (d *disk) holds(t *testing.T, what []byte) bool {
	t.Helper()
	f, err := os.Open(d.image)
	must(t, err)
	defer f.Close()
	for at := int64(0); ; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return false
		}
		must(t, err)
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		must(t, err)
		part, err := io.ReadAll(io.NewSectionReader(f, data, hole-data))
		must(t, err)
		if bytes.Contains(part, what) {
			return true
		}
		at = hole
	}
}

// shutdown is EXT4_IOC_SHUTDOWN, which xfs and others have as well; with noLogFlush nothing is written to the disk any more from
// then on, as when its power fails: not even the file system's own journal.
const (
	shutdown   = 0x8004587d
	noLogFlush = 2
)

// cutPower cuts the power of the disk: what is not written to it by now never is.
func (d *disk) cutPower(t *testing.T) {
	t.Helper()
	f, err := os.Open(d.dir)
	must(t, err)
	defer f.Close()
	err = unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush)
	if err == unix.ENOTTY { // the disk as it is now, between two commits of the file system, is what counts
		if out, err := exec.Command("cp", "--sparse=always", d.image, d.image+".cut").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		d.copied = true
		return
	}
	if err == unix.ENOSYS {
		t.Skip("SKIPPED: the emulator of this CPU does not pass on the request that cuts a file system off")
	}
	must(t, err)
}

// powerBack mounts what is on the disk.
func (d *disk) powerBack(t *testing.T) {
	t.Helper()
	eventually(t, "nobody uses "+d.dir, func() bool { return unix.Unmount(d.dir, 0) == nil })
	if d.copied {
		must(t, os.Rename(d.image+".cut", d.image))
		d.copied = false
	}
	d.mount(t)
}

// dirtyPages is how many bytes of a mapping's memory nobody has written to the disk.
func dirtyPages(t *testing.T, m *pmemfs.Mapping) (dirty int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	must(t, err)
	start := uint64(uintptr(unsafe.Pointer(&m.Bytes()[0])))
	end := start + uint64(len(m.Bytes()))
	inside := false
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if first, last, ok := strings.Cut(words[0], "-"); ok && len(words) > 4 {
			lo, errLo := strconv.ParseUint(first, 16, 64)
			hi, errHi := strconv.ParseUint(last, 16, 64)
			must(t, errLo)
			must(t, errHi)
			inside = lo < end && start < hi
		}
		if inside && (words[0] == "Shared_Dirty:" || words[0] == "Private_Dirty:") {
			n, err := strconv.ParseInt(words[1], 10, 64)
			must(t, err)
			dirty += n << 10
		}
	}
	return dirty
}

// TestDisk uses a pool behind a page cache: what is refused and why, that Sync writes what was stored to the disk, and what a crash
// of the server leaves. It fails when Sync does not have the kernel write the pages, or does not commit what finds them.
func TestDisk(t *testing.T) {
	eachDisk(t, false, func(t *testing.T, d *disk) {
		pool := poolOnDisk(t, d.dir)
		socket, srv := serve(t, pool)
		fsys := dial(t, socket)
		info := fsys.Info()
		if info.Medium.Granularity != pmemfs.Page || info.Medium.Assumed || info.Commit.String() != "interval=1s" {
			t.Errorf("granularity %v, policy %v: %+v", info.Medium.Granularity, info.Commit, info.Medium)
		}
		f := sized(t, fsys, "f", 1<<20)
		for _, kind := range []pmemfs.MapFlags{pmemfs.Sync, pmemfs.Direct, pmemfs.Unchecked, pmemfs.Shared | pmemfs.Direct} {
			_, err := f.Map(0, page, kind)
			for _, says := range []string{
				(kind &^ pmemfs.Shared).String(), pool, "system call", "Mapping.Sync", "--assume-persistent", "persistence domain page-cache",
			} {
				wantError(t, err, unix.EOPNOTSUPP, says)
			}
		}
		_, err := pmemfs.Dial(socket, pmemfs.Require(pmemfs.CacheLine))
		wantError(t, err, unix.EOPNOTSUPP, "page-cache")

		m, err := f.Map(0, 1<<20, pmemfs.Shared)
		must(t, err)
		places := []int{0, 100*page - 10, 1<<20 - 100} // in one page, in two, and at the end
		var stored []byte
		for round := range 2 { // the second one stores without page faults, so that the server has nothing to do
			stored = fmt.Appendf(nil, "stored by process %d in round %d of %s", os.Getpid(), round, t.Name())
			for _, at := range places {
				must(t, pmemfs.Catch(func() { copy(m.Bytes()[at:], stored) }))
				wantError(t, m.Persist(at, len(stored)), unix.EOPNOTSUPP, "Sync")
				must(t, m.Sync(at, len(stored)))
				if n := dirtyPages(t, m); n > 0 {
					t.Errorf("after Sync of what was stored at %d, %d bytes are dirty", at, n)
				}
				if d.image != "" && at%page == 0 && !d.holds(t, stored) {
					t.Errorf("what was stored at %d is not on the disk after Sync", at)
				}
			}
		}
		write(t, fsys, "later", "perhaps")
		fsys = crashed(t, srv, pool, fsys)
		content, err := fsys.ReadFile("f")
		must(t, err)
		for _, at := range places {
			if !bytes.Equal(content[at:at+len(stored)], stored) {
				t.Errorf("what was stored at %d is lost: %q", at, content[at:at+len(stored)])
			}
		}
	})
}

// TestDiskPowerCut cuts the power of the disk below a pool: the file system below writes nothing any more, and is mounted anew. What
// was made durable is there, the list is what the operations up to some instant have left, and the pool is sound. It fails
// when the order of fdatasync and commit is wrong, or one is missing, so that the kernel has to have been quick to write.
func TestDiskPowerCut(t *testing.T) {
	eachDisk(t, true, func(t *testing.T, d *disk) {
		for _, policy := range []string{"op", "interval=1h", "interval=20ms"} {
			t.Run(policy, func(t *testing.T) {
				must(t, os.RemoveAll(filepath.Join(d.dir, "pool")))
				pool := poolOnDisk(t, d.dir)
				socket, srv := serveWith(t, pool, policy)
				fsys := dial(t, socket, pmemfs.Reconnect(0))
				f := sized(t, fsys, "stored", 1<<20)
				makeList(t, fsys, 0, listSync)
				m, err := f.Map(0, 1<<20, pmemfs.Shared)
				must(t, err)
				for _, what := range []string{"first", "again"} {
					must(t, pmemfs.Catch(func() { copy(m.Bytes()[300*1000:], what) }))
					must(t, m.Sync(300*1000, 5))
				}
				makeList(t, fsys, listSync, listFiles)
				if policy == "op" { // also in place, which no transaction tells of
					must(t, overwriteListed(fsys, listFiles-1))
				}
				d.cutPower(t)
				srv.Kill()
				fsys.Close() // an error: the server is gone
				d.powerBack(t)

				r, err := pmemfs.Check(t.Context(), pool, pmemfs.CheckOptions{Report: func(p pmemfs.Problem) { t.Errorf("%v", p) }})
				if err != nil || r.Problems > 0 {
					t.Fatalf("%d problems, %v", r.Problems, err)
				}
				fsys = openPool(t, pool)
				content, err := fsys.ReadFile("stored")
				if err != nil || string(content[300*1000:300*1000+5]) != "again" {
					t.Errorf("what was synced by the mapping is lost, %v", err)
				}
				want := listSync
				if policy == "op" {
					want = listFiles
				}
				if got := listed(t, fsys); got < want {
					t.Errorf("%d files are left, %d were durable", got, want)
				}
				must(t, fsys.Close())
			})
		}
	})
}

// TestDiskSyncOfWhatIsFound: what one server has written to the page cache and nobody has synced when it dies, the next one finds
// there; when that has synced the file, it outlives a power cut. It fails when a server takes what it finds for durable.
func TestDiskSyncOfWhatIsFound(t *testing.T) {
	eachDisk(t, true, func(t *testing.T, d *disk) {
		pool := poolOnDisk(t, d.dir)
		socket, srv := serveWith(t, pool, "interval=1h")
		fsys := dial(t, socket)
		write(t, fsys, "f", "durable")
		f, err := fsys.OpenFile("f", os.O_RDWR, 0)
		must(t, err)
		must(t, f.Sync())
		_, err = f.WriteAt([]byte("written"), 0) // in place
		must(t, err)
		srv.Kill()
		fsys.Close() // an error: the server is gone

		socket, srv = serveWith(t, pool, "interval=1h")
		fsys = dial(t, socket)
		wantContent(t, fsys, "f", "written")
		f, err = fsys.OpenFile("f", os.O_RDONLY, 0)
		must(t, err)
		must(t, f.Sync())
		d.cutPower(t)
		srv.Kill()
		fsys.Close()
		d.powerBack(t)
		fsys = openPool(t, pool)
		wantContent(t, fsys, "f", "written")
		must(t, fsys.Close())
	})
}

// overwriteListed writes over a file of a list in place: what it should have held all along.
func overwriteListed(fsys *pmemfs.FS, i int) error {
	f, err := openListed(fsys, i, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, content := range []string{strings.Repeat("x", len(listContent(i))), listContent(i)} {
		if _, err := f.WriteAt([]byte(content), 0); err != nil {
			return err
		}
	}
	return nil
}

// TestAssumePersistent: a disk that is assumed to be memory has what memory has, says loudly what it is, and outlives a crash of the
// server. It fails when what is assumed is not told, or is more than that.
func TestAssumePersistent(t *testing.T) {
	pool := diskPool(t)
	socket, srv := serve(t, pool, "600", "-1", serverConfig{AssumePersistent: true}.String())
	fsys := dial(t, socket, pmemfs.Reconnect(0), pmemfs.Require(pmemfs.CacheLine))
	info := fsys.Info()
	if !info.Medium.Assumed || !info.Medium.Emulated || info.Medium.Kind != "page-cache" || info.Commit != pmemfs.CommitOp {
		t.Errorf("%+v", info)
	}
	if all := fmt.Sprint(info.Medium.Evidence); !strings.Contains(all, "ALTHOUGH IT IS NOT") {
		t.Errorf("the evidence does not say what is assumed: %s", all)
	}
	f := filledFile(t, fsys, "f", 8)
	for i, kind := range []pmemfs.MapFlags{pmemfs.Sync, pmemfs.Unchecked, pmemfs.Shared} {
		m, err := f.Map(0, 8*page, kind)
		must(t, err)
		must(t, pmemfs.Catch(func() { m.Bytes()[i*page] = 'x' }))
		must(t, m.Persist(i*page, 1))
		must(t, m.Sync(0, 8*page))
	}
	fsys = crashed(t, srv, pool, fsys)
	if fsys.Info().Medium.Assumed {
		t.Error("what was assumed has outlived the server")
	}
	content, err := fsys.ReadFile("f")
	must(t, err)
	for i := range 3 {
		if content[i*page] != 'x' {
			t.Errorf("the store by mapping %d is lost", i)
		}
	}
	must(t, fsys.Close())

	fsys = openPool(t, pool, pmemfs.AssumePersistent())
	f, err = fsys.OpenFile("f", os.O_RDWR, 0)
	must(t, err)
	m := mapped(t, f, 0, page, pmemfs.Unchecked)
	m.Bytes()[0] = 'y'
	must(t, m.Persist(0, 1))
	if info := fsys.Info(); !info.Medium.Assumed {
		t.Errorf("%+v", info)
	}
}

// TestAssumePersistentElsewhere: it is refused where it means nothing, and changes nothing where it is not needed.
func TestAssumePersistentElsewhere(t *testing.T) {
	pool := newPool(t)
	fsys := openPool(t, pool, pmemfs.AssumePersistent())
	if m := fsys.Info().Medium; m.Assumed || m.Kind != "tmpfs" || !strings.Contains(fmt.Sprint(m.Evidence), "not needed") {
		t.Errorf("%+v", m)
	}
	must(t, fsys.Close())
	_, err := pmemfs.Open(pool, pmemfs.AssumePersistent(), pmemfs.PowerCut(0))
	wantError(t, err, unix.EINVAL, "nothing to assume")
	_, err = pmemfs.Dial(serveHere(t, pool), pmemfs.AssumePersistent())
	wantError(t, err, unix.EINVAL, "AssumePersistent is for Open")
}
