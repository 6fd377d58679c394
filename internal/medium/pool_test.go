package medium

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/rerun"
)

// tmpfs returns a fresh directory on a tmpfs.
func tmpfs(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pmemfs-medium-")
	if err != nil {
		t.Skipf("SKIPPED, NOTHING WAS TESTED: no tmpfs at /dev/shm: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if name := fileSystemOf(t, dir); name != "tmpfs" {
		t.Skipf("SKIPPED, NOTHING WAS TESTED: /dev/shm is %s", name)
	}
	return dir
}

// disk returns a fresh directory on a file system with a page cache.
func disk(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if name := fileSystemOf(t, dir); name == "tmpfs" || name == "ramfs" {
		t.Skipf("SKIPPED, NOTHING WAS TESTED: the directory for temporary files is on %s; set TMPDIR to one on a disk", name)
	}
	return dir
}

func fileSystemOf(t testing.TB, dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return fileSystems[uint32(st.Type)]
}

// mounted makes a file system of its own for the test, which only root can; kind is "tmpfs" or "ext4", on a loop device.
func mounted(t testing.TB, kind string, size int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOTHING WAS TESTED: only root can mount")
	}
	dir := t.TempDir()
	run := func(name string, args ...string) {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED, NOTHING WAS TESTED: %s %v: %v: %s", name, args, err, out)
		}
	}
	if kind == "tmpfs" {
		run("mount", "-t", "tmpfs", "-o", "size="+strconv.FormatInt(size, 10), "tmpfs", dir)
	} else {
		image := filepath.Join(t.TempDir(), "image")
		if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
			t.Fatal(err)
		}
		run("mkfs."+kind, "-q", image)
		run("mount", "-o", "loop", image, dir)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// newPool makes a pool in dir, closes it and returns its path.
func newPool(t testing.TB, dir string, metaSize, dataSize int64) string {
	t.Helper()
	path := filepath.Join(dir, "pool")
	p, err := Create(path, metaSize, dataSize, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// places are directories on every kind of medium that this machine has. PMEMFS_TEST_PLACES adds some, for example
// mounted fsdax file systems; they are separated by colons.
func places(t *testing.T) map[string]func(testing.TB) string {
	all := map[string]func(testing.TB) string{
		"tmpfs": tmpfs,
		"disk":  disk,
		"loop":  func(t testing.TB) string { return mounted(t, "ext4", 16<<20) },
	}
	for _, place := range filepath.SplitList(os.Getenv("PMEMFS_TEST_PLACES")) {
		all["place "+place] = func(t testing.TB) string {
			dir, err := os.MkdirTemp(place, "pmemfs-medium-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			return dir
		}
	}
	return all
}

func TestCreateStoreReopen(t *testing.T) {
	for name, place := range places(t) {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(place(t), "pool")
			p, err := Create(path, 3*pageSize, 5*pageSize, Options{})
			if err != nil {
				t.Fatal(err)
			}
			checkModes(t, path)
			if !bytes.Equal(p.Data().Bytes(), make([]byte, 5*pageSize)) || p.Meta().Size() != 3*pageSize {
				t.Error("new areas are not zeros of the size asked for")
			}
			p.Meta().Write(pageSize-3, []byte("in meta"))
			p.Meta().Flush(pageSize-3, 7)
			p.Data().Stream(5*pageSize-7, []byte("in data"))
			if err := errors.Join(p.Meta().Fence(), p.Data().Fence(), p.Close()); err != nil {
				t.Fatal(err)
			}
			for _, readOnly := range []bool{false, true} {
				p, err := Open(path, Options{ReadOnly: readOnly})
				if err != nil {
					t.Fatal(err)
				}
				meta, data := p.Meta().Bytes()[pageSize-3:pageSize+4], p.Data().Bytes()[5*pageSize-7:]
				if string(meta) != "in meta" || string(data) != "in data" {
					t.Errorf("read-only %v: found %q, %q", readOnly, meta, data)
				}
				checkReport(t, p, readOnly)
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			}
			checkNothingMapped(t, path)
		})
	}
}

func checkModes(t *testing.T, path string) {
	for name, want := range map[string]fs.FileMode{"": 0o700 | fs.ModeDir, metaName: 0o600, dataName: 0o600} {
		if st, err := os.Stat(filepath.Join(path, name)); err != nil || st.Mode() != want {
			t.Errorf("mode of %q: %v, %v; want %v", name, st.Mode(), err, want)
		}
	}
}

// checkReport checks what must hold of a report on any medium, and that the kernel agrees about the mapping flags.
func checkReport(t *testing.T, p *Pool, readOnly bool) {
	r := p.Report()
	if r.Granularity != r.Domain.Granularity() || r.Emulated != (r.Domain == DomainVolatile) || r.ReadOnly != readOnly ||
		r.MetaSize != p.Meta().Size() || r.DataSize != p.Data().Size() {
		t.Errorf("report %+v", r)
	}
	text := evidenceText(r.Evidence)
	for _, part := range []string{"file system of meta: " + r.FileSystem, "file system of data: " + r.FileSystem, "MAP_SYNC", "conclusion for data"} {
		if !strings.Contains(text, part) {
			t.Errorf("the evidence does not say %q:\n%s", part, text)
		}
	}
	for i, e := range r.Evidence {
		if slices.Contains(r.Evidence[:i], e) {
			t.Errorf("the evidence says twice: %s", e)
		}
	}
	wantKind := map[string]Domain{"tmpfs": DomainVolatile, "page-cache": DomainPageCache, "fsdax": r.Domain}
	if d, ok := wantKind[r.Kind]; !ok || d != r.Domain {
		t.Errorf("kind %q in domain %v", r.Kind, r.Domain)
	}
	if loud := strings.Contains(text, "VOLATILE"); loud != r.Emulated {
		t.Errorf("emulated %v, evidence:\n%s", r.Emulated, text)
	}
	f, err := p.ClientFile(true, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	base, flags, align := p.ClientMapping()
	mem, err := unix.Mmap(int(f.Fd()), base, pageSize, unix.PROT_READ, flags)
	if err != nil {
		t.Fatalf("mmap with the flags of ClientMapping: %v", err)
	}
	if err := unix.Munmap(mem); err != nil {
		t.Error(err)
	}
	if (flags&unix.MAP_SYNC != 0) != r.MapSync || align != r.Alignment {
		t.Errorf("flags %#x, align %d; the report says %v, %d", flags, align, r.MapSync, r.Alignment)
	}
}

// checkNothingMapped checks that this process has neither mappings nor descriptors of the pool.
func checkNothingMapped(t *testing.T, path string) {
	t.Helper()
	for line := range linesOf("/proc/self/maps") {
		if strings.Contains(line, path+"/") {
			t.Errorf("still mapped: %s", line)
		}
	}
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && (target == path || strings.HasPrefix(target, path+"/")) {
			t.Errorf("still open: %s", target)
		}
	}
}

func TestOpenWhatIsNotAPool(t *testing.T) {
	tests := []struct {
		name  string
		make  func(dir string) error
		kind  error
		errno error
		says  string
	}{
		{"nothing", func(dir string) error { return os.Remove(dir) }, ErrNoPool, fs.ErrNotExist, "no such file"},
		{"an empty directory", func(string) error { return nil }, ErrNoPool, unix.ENOENT, "no file named meta"},
		{"no data", func(dir string) error { return os.WriteFile(dir+"/meta", make([]byte, pageSize), 0o600) }, ErrNoPool, unix.ENOENT, "no file named data"},
		{"a file", func(dir string) error { return errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600)) }, ErrNotPool, unix.EINVAL, "neither a directory"},
		{"meta is a directory", func(dir string) error { return os.Mkdir(dir+"/meta", 0o700) }, ErrNotPool, unix.EINVAL, "not a regular file"},
		{"meta is a link", func(dir string) error { return os.Symlink("data", dir+"/meta") }, ErrNotPool, unix.EINVAL, "symbolic link"},
		{"meta is a FIFO", func(dir string) error { return unix.Mkfifo(dir+"/meta", 0o600) }, ErrNotPool, unix.EINVAL, "not a regular file"},
		{"data is empty", func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/meta", make([]byte, pageSize), 0o600), os.WriteFile(dir+"/data", nil, 0o600))
		}, ErrNotPool, unix.EINVAL, "data has 0 bytes"},
		{"meta was cut off", func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/meta", make([]byte, pageSize+1), 0o600), os.WriteFile(dir+"/data", make([]byte, pageSize), 0o600))
		}, ErrNotPool, unix.EINVAL, "meta has 4097 bytes"},
	}
	for _, test := range tests {
		for _, readOnly := range []bool{false, true} {
			path := filepath.Join(t.TempDir(), "pool")
			if err := errors.Join(os.Mkdir(path, 0o700), test.make(path)); err != nil {
				t.Fatal(err)
			}
			_, err := Open(path, Options{ReadOnly: readOnly})
			if !errors.Is(err, test.kind) || !errors.Is(err, test.errno) {
				t.Errorf("%s, read-only %v: %v, want %v and %v", test.name, readOnly, err, test.kind, test.errno)
				continue
			}
			if !strings.HasPrefix(err.Error(), path+" ") || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: %q does not name the path and say %q", test.name, err, test.says)
			}
			checkNothingMapped(t, path)
		}
	}
}

// TestDeviceWithLargePages uses a file for the device. The meta area takes whole pages of it, whatever is in it.
func TestDeviceWithLargePages(t *testing.T) {
	const align, size = 2 << 20, 16 << 20
	path := filepath.Join(tmpfs(t), "device")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	said := int64(0)
	open := func() (p *Pool, err error) {
		p = &Pool{path: path, device: true}
		if p.metaFile, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
		p.dataFile = p.metaFile
		t.Cleanup(func() { p.Close() })
		return p, p.mapDevice(finding{kind: "devdax", align: align, size: size}, Options{MetaSize: func([]byte) (int64, error) {
			if said == 0 {
				return 0, errors.New("nothing is there")
			}
			return said, nil
		}})
	}
	if _, err := open(); !errors.Is(err, ErrNoPool) {
		t.Errorf("an empty device: %v, want ErrNoPool", err)
	}
	for _, said = range []int64{pageSize, 3*align + pageSize, 4 * align, size - align} {
		p, err := open()
		if err != nil {
			t.Errorf("%d bytes of meta: %v", said, err)
			continue
		}
		meta := (said + align - 1) / align * align
		if base, _, _ := p.ClientMapping(); base != meta || p.Meta().Size() != meta || p.Data().Size() != size-meta {
			t.Errorf("%d bytes of meta: %d, then %d of data at %d; want %d, %d", said, p.Meta().Size(), p.Data().Size(), base, meta, size-meta)
		}
	}
	for _, said = range []int64{-1, size - align + 1, size, 1<<63 - 1} {
		if _, err := open(); !errors.Is(err, ErrNotPool) {
			t.Errorf("%d bytes of meta: %v, want ErrNotPool", said, err)
		}
	}
	if err := os.WriteFile(path, []byte("something"), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Truncate(path, size)
	said = 0
	if _, err := open(); errors.Is(err, ErrNoPool) || err == nil {
		t.Errorf("a device with something else: %v, want what MetaSize says", err)
	}
}

// TestCutOffAreaIsShorter: which size is right is the superblock's to say.
func TestCutOffAreaIsShorter(t *testing.T) {
	path := newPool(t, t.TempDir(), 4*pageSize, 4*pageSize)
	if err := os.Truncate(filepath.Join(path, dataName), pageSize); err != nil {
		t.Fatal(err)
	}
	p, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Meta().Size() != 4*pageSize || p.Data().Size() != pageSize {
		t.Errorf("sizes %d, %d", p.Meta().Size(), p.Data().Size())
	}
}

func TestRequireIsCheckedByOpenAndCreate(t *testing.T) {
	for _, test := range []struct {
		place func(testing.TB) string
		fails []Granularity
		works []Granularity
	}{
		{tmpfs, []Granularity{Byte}, []Granularity{AnyGranularity, CacheLine, Page}},
		{disk, []Granularity{Byte, CacheLine}, []Granularity{AnyGranularity, Page}},
	} {
		path := filepath.Join(test.place(t), "pool")
		for _, g := range test.fails {
			_, err := Create(path, pageSize, pageSize, Options{Require: g})
			var e *Error
			if !errors.Is(err, ErrGranularity) || !errors.As(err, &e) || e.Path != path || !strings.Contains(evidenceText(e.Evidence), "MAP_SYNC") {
				t.Errorf("Create, %v required: %v", g, err)
			}
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a refused Create leaves %s behind: %v", path, err)
			}
		}
		p, err := Create(path, pageSize, pageSize, Options{Require: test.works[0]})
		if err != nil {
			t.Fatal(err)
		}
		p.Close()
		for _, g := range test.fails {
			if _, err := Open(path, Options{Require: g}); !errors.Is(err, ErrGranularity) {
				t.Errorf("Open, %v required: %v", g, err)
			}
		}
		for _, g := range test.works {
			if p, err := Open(path, Options{Require: g}); err != nil {
				t.Errorf("Open, %v required: %v", g, err)
			} else {
				p.Close()
			}
		}
	}
}

func TestExamineBesideAnOwner(t *testing.T) {
	path := filepath.Join(disk(t), "pool")
	p, err := Create(path, pageSize, 2*pageSize, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	got, err := Examine(path)
	if err != nil {
		t.Fatal(err)
	}
	want := p.Report()
	if got.Domain != want.Domain || got.DataSize != want.DataSize || got.MetaSize != want.MetaSize || evidenceText(got.Evidence) != evidenceText(want.Evidence) {
		t.Errorf("Examine: %+v\nthe owner's report: %+v", got, want)
	}
	if _, err := Examine(t.TempDir()); !errors.Is(err, ErrNoPool) {
		t.Errorf("Examine of an empty directory: %v", err)
	}
}

func TestClientFile(t *testing.T) {
	path := newPool(t, tmpfs(t), pageSize, pageSize)
	p, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	// The pool is found by its descriptor even after its name has gone to something else.
	if err := os.Rename(filepath.Join(path, dataName), filepath.Join(path, "moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, dataName), make([]byte, pageSize), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{true, false} {
		f, err := p.ClientFile(readOnly, -1)
		if err != nil {
			t.Fatal(err)
		}
		p.Data().Write(0, []byte("seen by clients"))
		got := make([]byte, 15)
		if _, err := f.ReadAt(got, 0); err != nil || string(got) != "seen by clients" {
			t.Errorf("the client reads %q, %v", got, err)
		}
		mem, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if readOnly != errors.Is(err, unix.EACCES) {
			t.Errorf("read-only %v: mapped to be written: %v", readOnly, err)
		}
		if err == nil {
			unix.Munmap(mem)
		}
		f.Close()
	}
	p.Close()
	if err := os.Rename(filepath.Join(path, "moved"), filepath.Join(path, dataName)); err != nil {
		t.Fatal(err)
	}
	if p, err = Open(path, Options{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.ClientFile(false, -1); !errors.Is(err, unix.EROFS) {
		t.Errorf("a writable client of a read-only pool: %v", err)
	}
}

func TestTerabyteIsSparse(t *testing.T) {
	path := filepath.Join(tmpfs(t), "pool")
	p, err := Create(path, pageSize, 1<<40, Options{})
	if errors.Is(err, unix.ENOMEM) && rerun.Emulated() {
		t.Skipf("SKIPPED: the emulator of this CPU has no terabyte of addresses: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, off := range []int64{0, 1 << 31, 1<<32 - 4, 1<<40 - 8} {
		p.Data().Write(off, []byte("8 bytes!"))
		if got := p.Data().Bytes()[off : off+8]; string(got) != "8 bytes!" {
			t.Errorf("at %d: %q", off, got)
		}
	}
	st, err := os.Stat(filepath.Join(path, dataName))
	if err != nil {
		t.Fatal(err)
	}
	if used := st.Sys().(*syscall.Stat_t).Blocks * 512; st.Size() != 1<<40 || used > 64<<20 {
		t.Errorf("%d bytes, of which %d are allocated", st.Size(), used)
	}
}

// TestStreamOfMoreThan2GiB would catch lengths kept in 32 bits. The source is an untouched mapping, which costs nothing.
func TestStreamOfMoreThan2GiB(t *testing.T) {
	const n = 1<<31 + pageSize
	if testing.Short() {
		t.Skip("takes 2 GiB of memory")
	}
	dir := tmpfs(t)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free < 3*n {
		t.Skipf("SKIPPED, NOTHING WAS TESTED: takes 2 GiB of memory, and the tmpfs has %d bytes left", free)
	}
	src, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(src)
	marks := []int{0, 1<<31 - 1, 1 << 31, n - 1}
	for _, i := range marks {
		src[i] = 'm'
	}
	p, err := Create(filepath.Join(dir, "pool"), pageSize, n+pageSize, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.Data().Stream(1, src)
	for _, i := range marks {
		if got := p.Data().Bytes()[i+1]; got != 'm' {
			t.Errorf("byte %d was not copied: %q", i, got)
		}
	}
	p.Data().Zero(1, n)
	for _, i := range marks {
		if got := p.Data().Bytes()[i+1]; got != 0 {
			t.Errorf("byte %d was not zeroed: %q", i, got)
		}
	}
}
