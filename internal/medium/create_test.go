package medium

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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

func TestPreallocate(t *testing.T) {
	for _, preallocate := range []bool{false, true} {
		path := filepath.Join(disk(t), "pool")
		p, err := Create(path, pageSize, 1<<20, Options{Preallocate: preallocate})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		for name, size := range map[string]int64{metaName: pageSize, dataName: 1 << 20} {
			st, err := os.Stat(filepath.Join(path, name))
			if err != nil {
				t.Fatal(err)
			}
			if used := st.Sys().(*syscall.Stat_t).Blocks * 512; (used >= size) != preallocate {
				t.Errorf("preallocate %v: %s has %d bytes, %d allocated", preallocate, name, size, used)
			}
		}
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
