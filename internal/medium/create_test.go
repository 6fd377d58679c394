package medium

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestCreateInWhatIsThere(t *testing.T) {
	write := func(names ...string) func(string) error {
		return func(dir string) (err error) {
			for _, name := range names {
				err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte("old"), 0o600))
			}
			return err
		}
	}
	tests := []struct {
		name          string
		make          func(dir string) error
		plain, forced error
		says          string
	}{
		{"an empty directory", write(), nil, nil, ""},
		{"a new file system", func(dir string) error { return os.Mkdir(dir+"/lost+found", 0o700) }, nil, nil, ""},
		{"a pool", write("meta", "data"), ErrExists, nil, "a pool's files are there"},
		{"half a pool", write("data"), ErrExists, nil, "a pool's files are there"},
		{"a pool and more", write("meta", "data", "notes"), ErrExists, nil, "a pool's files are there"},
		{"something else", write("notes"), ErrExists, ErrExists, `not a pool ("notes" is in it)`},
		{"a file", func(dir string) error { return errors.Join(os.Remove(dir), write("")(dir)) }, ErrExists, ErrExists, "neither a directory"},
	}
	for _, test := range tests {
		for force, want := range map[bool]error{false: test.plain, true: test.forced} {
			path := filepath.Join(t.TempDir(), "pool")
			if err := errors.Join(os.Mkdir(path, 0o755), test.make(path)); err != nil {
				t.Fatal(err)
			}
			before := listing(t, path)
			p, err := Create(path, pageSize, pageSize, Options{Force: force})
			if want == nil {
				if err != nil {
					t.Errorf("%s, force %v: %v", test.name, force, err)
					continue
				}
				if p.Meta().Bytes()[0] != 0 || p.Data().Size() != pageSize {
					t.Errorf("%s, force %v: the old content is still there", test.name, force)
				}
				p.Close()
				continue
			}
			if !errors.Is(err, want) || !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s, force %v: %v", test.name, force, err)
			}
			if after := listing(t, path); after != before {
				t.Errorf("%s, force %v: the refused Create has changed %q to %q", test.name, force, before, after)
			}
		}
	}
}

// listing is everything below a path, with what is in the files.
func listing(t *testing.T, path string) string {
	var b strings.Builder
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		b.WriteString(name + " ")
		if err == nil && d.Type().IsRegular() {
			text, err := os.ReadFile(name)
			b.WriteString(string(text) + " ")
			return err
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return b.String()
}

func TestCreateRefusesSizes(t *testing.T) {
	for _, sizes := range [][2]int64{{0, pageSize}, {pageSize, 0}, {-pageSize, pageSize}, {pageSize + 1, pageSize}, {pageSize, 100}} {
		path := filepath.Join(t.TempDir(), "pool")
		if _, err := Create(path, sizes[0], sizes[1], Options{}); !errors.Is(err, unix.EINVAL) {
			t.Errorf("sizes %v: %v", sizes, err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("sizes %v: something was left behind", sizes)
		}
	}
	if _, err := Create(filepath.Join(t.TempDir(), "no/pool"), pageSize, pageSize, Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no parent: %v", err)
	}
	if _, err := Create(filepath.Join(t.TempDir(), "pool"), pageSize, pageSize, Options{ReadOnly: true}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("read-only: %v", err)
	}
}

// TestPreallocate: what is to be allocated is, and on fsdax written.
func TestPreallocate(t *testing.T) {
	for place, dir := range places(t) {
		for _, preallocate := range []bool{false, true} {
			t.Run(fmt.Sprint(place, ", preallocate ", preallocate), func(t *testing.T) {
				testPreallocate(t, filepath.Join(dir(t), "pool"), preallocate)
			})
		}
	}
}

func testPreallocate(t *testing.T, path string, preallocate bool) {
	sizes := map[string]int64{metaName: pageSize, dataName: 5<<20 + pageSize}
	var told []int64
	p, err := Create(path, sizes[metaName], sizes[dataName], Options{Preallocate: preallocate, Progress: func(done, total int64) error {
		told = append(told, done, total)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	dax := p.Report().Kind == "fsdax"
	for name, size := range sizes {
		f, err := os.Open(filepath.Join(path, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if used := st.Sys().(*syscall.Stat_t).Blocks * 512; (used >= size) != (preallocate || dax) {
			t.Errorf("%s has %d bytes, %d allocated", name, size, used)
		}
		if dax && (unwritten(t, f) == 0) != preallocate {
			t.Errorf("%s has %d bytes that were not written", name, unwritten(t, f))
		}
	}
	total := sizes[metaName] + sizes[dataName]
	switch written := dax && preallocate; {
	case written && (len(told) < 8 || told[len(told)-2] != total || told[len(told)-1] != total):
		t.Errorf("told of %d of %d bytes", told, total)
	case !written && told != nil:
		t.Errorf("told of %d bytes", told)
	}
}

// unwritten is how many bytes of a file are allocated and not written, as far as its first 64 extents tell: see fiemap.h.
func unwritten(t *testing.T, f *os.File) (n int64) {
	var q struct {
		start, length                  uint64
		flags, mapped, count, reserved uint32
		extents                        [64]struct {
			logical, physical, length, _, _ uint64
			flags, _, _, _                  uint32
		}
	}
	q.length, q.flags, q.count = math.MaxInt64, 1, uint32(len(q.extents)) // FIEMAP_FLAG_SYNC
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0xc020660b, uintptr(unsafe.Pointer(&q))); errno != 0 {
		t.Fatalf("FS_IOC_FIEMAP: %v", errno)
	}
	for _, e := range q.extents[:q.mapped] {
		if e.flags&0x800 != 0 { // FIEMAP_EXTENT_UNWRITTEN
			n += int64(e.length)
		}
	}
	return n
}

// TestWrite: blocks of a file that were allocated are written, and whoever does not want that any more has it end.
func TestWrite(t *testing.T) {
	const size = 5<<20 + pageSize
	f, err := os.Create(filepath.Join(mounted(t, "ext4", 16<<20), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(f.Truncate(size), allocate(f, size)); err != nil {
		t.Fatal(err)
	}
	if n := unwritten(t, f); n < size {
		t.Fatalf("%d bytes are unwritten, want %d", n, size)
	}
	stop := errors.New("stop")
	c := creation{dataSize: size, o: Options{Progress: func(int64, int64) error { return stop }}}
	if err := c.write(f, size); err != stop {
		t.Errorf("write: %v, want %v", err, stop)
	}
	c.o.Progress = nil
	if err := errors.Join(c.write(f, size), f.Sync()); err != nil {
		t.Fatal(err)
	}
	if n := unwritten(t, f); n != 0 {
		t.Errorf("%d bytes are unwritten", n)
	}
	if st, err := f.Stat(); err != nil || st.Size() != size {
		t.Errorf("%d bytes, want %d: %v", st.Size(), size, err)
	}
}

// TestFullFileSystem: what cannot be allocated leaves nothing behind, and the space is free again.
func TestFullFileSystem(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			dir := mounted(t, kind, 8<<20)
			path := filepath.Join(dir, "pool")
			old, err := Create(path, pageSize, pageSize, Options{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = Create(filepath.Join(dir, "other"), pageSize, 64<<20, Options{Preallocate: true})
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("Create: %v, want ENOSPC", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "other")); err == nil {
				t.Error("a failed Create leaves its directory behind")
			}
			// Overwriting cannot be taken back, but no half of a pool stays. A pool in use is not touched.
			if _, err := Create(path, pageSize, 64<<20, Options{Preallocate: true, Force: true}); !errors.Is(err, ErrInUse) {
				t.Errorf("Create over a pool in use: %v", err)
			}
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := Create(path, pageSize, 64<<20, Options{Preallocate: true, Force: true}); !errors.Is(err, unix.ENOSPC) {
				t.Errorf("Create: %v, want ENOSPC", err)
			}
			if got := listing(t, path); got != path+" " {
				t.Errorf("left behind: %q", got)
			}
			p, err := Create(path, pageSize, 4<<20, Options{Preallocate: true})
			if err != nil {
				t.Fatalf("the space is not free again: %v", err)
			}
			p.Close()
		})
	}
}
