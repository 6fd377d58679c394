package pmemfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError checks that an error matches, and that it says where.
func wantError(t *testing.T, err, want error, name string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	} else if !strings.Contains(err.Error(), name) {
		t.Errorf("%q does not name %q", err, name)
	}
}

func write(t *testing.T, fsys *pmemfs.FS, name, content string) {
	t.Helper()
	must(t, fsys.WriteFile(name, []byte(content), 0o644))
}

func wantContent(t *testing.T, fsys *pmemfs.FS, name, want string) {
	t.Helper()
	got, err := fsys.ReadFile(name)
	if err != nil {
		t.Error(err)
	} else if string(got) != want {
		t.Errorf("%s holds %.60q, want %.60q", name, got, want)
	}
}

func create(t testing.TB, fsys *pmemfs.FS, name string) *pmemfs.File {
	t.Helper()
	f, err := fsys.Create(name)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestFS(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		must(t, fsys.MkdirAll("a/b/c", 0o755))
		write(t, fsys, "a/b/c/file", "deep")
		write(t, fsys, "hello", "hello, world")
		write(t, fsys, "empty", "")
		write(t, fsys, "large", strings.Repeat("0123456789abcdef", 300))
		must(t, fsys.Symlink("a/b", "link"))
		must(t, fsys.Symlink("../../../hello", "a/b/c/up"))
		for i := range 300 {
			write(t, fsys, fmt.Sprintf("a/many-%03d", i), "x")
		}
		if err := fstest.TestFS(fsys, "a/b/c/file", "hello", "empty", "large", "a/many-299", "link"); err != nil {
			t.Error(err)
		}
	})
}

func TestReadAndWrite(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		f := create(t, fsys, "f")
		n, err := f.WriteString("hello")
		if n != 5 || err != nil {
			t.Fatal(n, err)
		}
		_, err = f.WriteAt([]byte("J"), 0)
		must(t, err)
		if at, err := f.Seek(1, io.SeekStart); at != 1 || err != nil {
			t.Fatal(at, err)
		}
		b := make([]byte, 10)
		if n, err := f.Read(b); n != 4 || err != nil || string(b[:n]) != "ello" {
			t.Errorf("%q, %v", b[:n], err)
		}
		if n, err := f.Read(b); n != 0 || err != io.EOF {
			t.Error(n, err)
		}
		if n, err := f.ReadAt(b, 1); n != 4 || err != io.EOF {
			t.Error(n, err)
		}
		if n, err := f.ReadAt(b[:4], 1); n != 4 || err != nil {
			t.Error(n, err)
		}
		if n, err := f.ReadAt(b, 100); n != 0 || err != io.EOF {
			t.Error(n, err)
		}
		if at, err := f.Seek(-2, io.SeekEnd); at != 3 || err != nil {
			t.Error(at, err)
		}
		if n, err := f.Write(nil); n != 0 || err != nil {
			t.Error(n, err)
		}
		if at, err := f.Seek(0, io.SeekCurrent); at != 3 || err != nil {
			t.Error(at, err)
		}
		_, err = f.Seek(-1, io.SeekStart)
		wantError(t, err, unix.EINVAL, "f")
		_, err = f.ReadAt(b, -1)
		wantError(t, err, unix.EINVAL, "f")
		wantContent(t, fsys, "f", "Jello")
		must(t, f.Sync())
		must(t, f.Close())
		wantError(t, f.Close(), fs.ErrClosed, "f")
		_, err = f.Read(b)
		wantError(t, err, fs.ErrClosed, "f")
	})
}

// Data larger than a message goes through in parts, by every way there is.
func TestLargeData(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		data := make([]byte, 5<<20+123)
		for i := range data {
			data[i] = byte(i * 7 >> 3)
		}
		f := create(t, fsys, "f")
		if n, err := f.Write(data); n != len(data) || err != nil {
			t.Fatal(n, err)
		}
		got := make([]byte, len(data))
		if n, err := f.ReadAt(got, 0); n != len(data) || (err != nil && err != io.EOF) || !bytes.Equal(got, data) {
			t.Fatal(n, err)
		}
		g := create(t, fsys, "g")
		if n, err := g.ReadFrom(bytes.NewReader(data)); n != int64(len(data)) || err != nil {
			t.Fatal(n, err)
		}
		_, err := g.Seek(0, io.SeekStart)
		must(t, err)
		var out bytes.Buffer
		if n, err := g.WriteTo(&out); n != int64(len(data)) || err != nil || !bytes.Equal(out.Bytes(), data) {
			t.Fatal(n, err)
		}
		got, err = fsys.ReadFile("g")
		if err != nil || !bytes.Equal(got, data) {
			t.Fatal(len(got), err)
		}
	})
}

func TestOpenFlags(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		write(t, fsys, "f", "old")
		must(t, fsys.Mkdir("d", 0o755))
		must(t, fsys.Symlink("f", "l"))
		must(t, fsys.Symlink("made", "dangling"))
		must(t, fsys.Symlink("loop", "loop"))
		for _, c := range []struct {
			name string
			flag int
			want error
		}{
			{"missing", os.O_RDONLY, fs.ErrNotExist},
			{"f", os.O_RDWR | os.O_CREATE | os.O_EXCL, fs.ErrExist},
			{"l", os.O_RDWR | os.O_CREATE | os.O_EXCL, fs.ErrExist},
			{"d", os.O_RDWR, unix.EISDIR},
			{"d", os.O_RDONLY | os.O_CREATE, unix.EISDIR},
			{".", os.O_RDWR | os.O_CREATE, unix.EISDIR},
			{"f", os.O_RDONLY | unix.O_DIRECTORY, unix.ENOTDIR},
			{"l", os.O_RDONLY | unix.O_NOFOLLOW, unix.ELOOP},
			{"loop", os.O_RDONLY, unix.ELOOP},
			{"loop", os.O_RDWR | os.O_CREATE, unix.ELOOP},
			{"f/x", os.O_RDONLY, unix.ENOTDIR},
			{"missing/x", os.O_RDWR | os.O_CREATE, fs.ErrNotExist},
			{"f", os.O_WRONLY | os.O_RDWR, unix.EINVAL},
			{"f", 1 << 30, unix.EINVAL},
			{"", os.O_RDONLY, fs.ErrInvalid},
			{"/f", os.O_RDONLY, fs.ErrInvalid},
			{"d/../f", os.O_RDONLY, fs.ErrInvalid},
			{"d/", os.O_RDONLY, fs.ErrInvalid},
			{strings.Repeat("n", 256), os.O_RDWR | os.O_CREATE, unix.ENAMETOOLONG},
			{strings.Repeat("n/", 3000) + "n", os.O_RDONLY, unix.ENAMETOOLONG},
		} {
			f, err := fsys.OpenFile(c.name, c.flag, 0o600)
			if err == nil {
				f.Close()
			}
			wantError(t, err, c.want, c.name)
		}
		wantContent(t, fsys, "f", "old")
		f, err := fsys.OpenFile("dangling", os.O_WRONLY|os.O_CREATE, 0o640)
		must(t, err)
		_, err = f.ReadAt(make([]byte, 1), 0)
		wantError(t, err, unix.EBADF, "dangling")
		must(t, f.Close())
		fi, err := fsys.Stat("made")
		must(t, err)
		if fi.Mode() != 0o640 {
			t.Error(fi.Mode())
		}
		r, err := fsys.OpenFile("f", os.O_RDONLY, 0)
		must(t, err)
		defer r.Close()
		_, err = r.Write([]byte("x"))
		wantError(t, err, unix.EBADF, "f")
		wantError(t, r.Truncate(0), unix.EINVAL, "f")
		w, err := fsys.OpenFile("f", os.O_WRONLY|os.O_TRUNC, 0)
		must(t, err)
		defer w.Close()
		wantContent(t, fsys, "f", "")
	})
}

// Appends of many goroutines, through handles of their own, never overlap.
func TestAppend(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		const writers, records = 8, 50
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				f, err := fsys.OpenFile("log", os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EINVAL) {
					t.Error("WriteAt with O_APPEND:", err)
				}
				for i := range records {
					if _, err := fmt.Fprintf(f, "%d %03d\n", w, i); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		data, err := fsys.ReadFile("log")
		must(t, err)
		lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
		slices.Sort(lines)
		if len(lines) != writers*records || len(slices.Compact(lines)) != len(lines) {
			t.Errorf("%d lines, want %d different ones", len(lines), writers*records)
		}
	})
}

func TestNames(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		must(t, fsys.MkdirAll("a/b/c", 0o750))
		must(t, fsys.MkdirAll("a/b/c", 0o750))
		must(t, fsys.MkdirAll(".", 0o750))
		write(t, fsys, "f", "F")
		wantError(t, fsys.MkdirAll("f/x", 0o755), unix.ENOTDIR, "f")
		wantError(t, fsys.MkdirAll("f", 0o755), unix.ENOTDIR, "f")
		wantError(t, fsys.Mkdir("a", 0o755), fs.ErrExist, "a")
		wantError(t, fsys.Mkdir(".", 0o755), fs.ErrExist, ".")
		wantError(t, fsys.Remove("a"), unix.ENOTEMPTY, "a")
		wantError(t, fsys.Remove("."), unix.EBUSY, ".")
		wantError(t, fsys.Remove("none"), fs.ErrNotExist, "none")
		must(t, fsys.Rename("f", "a/b/g"))
		wantContent(t, fsys, "a/b/g", "F")
		wantError(t, fsys.Rename("a", "a/b/c/a"), unix.EINVAL, "a/b/c/a")
		wantError(t, fsys.Rename("none", "x"), fs.ErrNotExist, "none")
		var link *os.LinkError
		if err := fsys.Rename("none", "x"); !errors.As(err, &link) || link.New != "x" {
			t.Errorf("%#v", err)
		}
		write(t, fsys, "h", "H")
		wantError(t, fsys.RenameNoReplace("h", "a/b/g"), fs.ErrExist, "a/b/g")
		must(t, fsys.Exchange("h", "a/b/g"))
		wantContent(t, fsys, "h", "F")
		wantContent(t, fsys, "a/b/g", "H")
		must(t, fsys.Rename("h", "a/b/g"))
		wantContent(t, fsys, "a/b/g", "F")
		must(t, fsys.Link("a/b/g", "again"))
		fi, err := fsys.Stat("again")
		must(t, err)
		if st := fi.Sys().(*pmemfs.Stat); st.Nlink != 2 {
			t.Errorf("%d links", st.Nlink)
		}
		wantError(t, fsys.Link("a", "dir"), unix.EPERM, "dir")
		must(t, fsys.Symlink("/a/b", "abs"))
		wantContent(t, fsys, "abs/g", "F")
		if target, err := fsys.ReadLink("abs"); target != "/a/b" || err != nil {
			t.Error(target, err)
		}
		_, err = fsys.Readlink("again")
		wantError(t, err, unix.EINVAL, "again")
		must(t, fsys.RemoveAll("a"))
		must(t, fsys.RemoveAll("a"))
		wantContent(t, fsys, "again", "F")
		_, err = fsys.Stat("abs")
		wantError(t, err, fs.ErrNotExist, "abs")
		must(t, fsys.Remove("abs"))
	})
}

// A removed file lives until it is closed; then its blocks are free again.
func TestRemoveOpenFile(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		before, err := fsys.Statfs()
		must(t, err)
		f := create(t, fsys, "f")
		_, err = f.Write(make([]byte, 1<<20))
		must(t, err)
		must(t, fsys.Remove("f"))
		_, err = f.WriteAt([]byte("still there"), 1<<19)
		must(t, err)
		b := make([]byte, 5)
		if _, err := f.ReadAt(b, 1<<19); err != nil || string(b) != "still" {
			t.Error(string(b), err)
		}
		must(t, f.Truncate(1<<18))
		must(t, f.Chmod(0o400))
		fi, err := f.Stat()
		must(t, err)
		if fi.Sys().(*pmemfs.Stat).Nlink != 0 || fi.Size() != 1<<18 || fi.Mode() != 0o400 {
			t.Error(fi)
		}
		must(t, f.Close())
		after, err := fsys.Statfs()
		must(t, err)
		if after.FreeBlocks != before.FreeBlocks || after.FreeInodes != before.FreeInodes {
			t.Errorf("before %+v, after %+v", before, after)
		}
	})
}

func TestReadDir(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		must(t, fsys.Mkdir("d", 0o755))
		const files = 2500
		for i := range files {
			f, err := fsys.Create(fmt.Sprintf("d/%04d", i))
			must(t, err)
			must(t, f.Close())
		}
		list, err := fsys.ReadDir("d")
		must(t, err)
		if len(list) != files || list[0].Name() != "0000" || list[files-1].Name() != "2499" {
			t.Errorf("%d entries", len(list))
		}
		f, err := fsys.OpenFile("d", os.O_RDONLY, 0)
		must(t, err)
		defer f.Close()
		seen := map[string]bool{}
		for {
			list, err := f.ReadDir(97)
			if err == io.EOF {
				break
			}
			must(t, err)
			for _, e := range list {
				if seen[e.Name()] {
					t.Fatal("twice:", e.Name())
				}
				seen[e.Name()] = true
			}
			must(t, fsys.Remove("d/"+list[0].Name())) // what was seen may go, the rest must not be missed
		}
		if len(seen) != files {
			t.Errorf("%d entries", len(seen))
		}
		_, err = f.Seek(0, io.SeekStart)
		must(t, err)
		list, err = f.ReadDir(-1)
		must(t, err)
		if want := files - (files+96)/97; len(list) != want {
			t.Errorf("%d entries, want %d", len(list), want)
		}
		_, err = f.Read(make([]byte, 1))
		wantError(t, err, unix.EISDIR, "d")
		_, err = fsys.ReadDir("d/" + list[0].Name())
		wantError(t, err, unix.ENOTDIR, "d/")
	})
}

func TestAttributes(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		write(t, fsys, "f", "x")
		must(t, fsys.Symlink("f", "l"))
		must(t, fsys.Chmod("l", 0o751|fs.ModeSetgid|fs.ModeSticky))
		must(t, fsys.Chown("f", 12, -1))
		must(t, fsys.Chown("f", -1, 34))
		must(t, fsys.Lchown("l", 56, 78))
		when := time.Unix(1700000000, 123456789)
		must(t, fsys.Chtimes("f", time.Time{}, when))
		must(t, fsys.Lchtimes("l", time.Time{}, when.Add(time.Hour)))
		fi, err := fsys.Stat("l")
		must(t, err)
		st := fi.Sys().(*pmemfs.Stat)
		if fi.Name() != "l" || fi.Mode() != 0o751|fs.ModeSetgid|fs.ModeSticky || st.UID != 12 || st.GID != 34 || !fi.ModTime().Equal(when) {
			t.Errorf("%v %+v", fi, st)
		}
		li, err := fsys.Lstat("l")
		must(t, err)
		st = li.Sys().(*pmemfs.Stat)
		if li.Mode().Type() != fs.ModeSymlink || st.UID != 56 || st.GID != 78 || !li.ModTime().Equal(when.Add(time.Hour)) {
			t.Errorf("%v %+v", li, st)
		}
		must(t, fsys.Truncate("l", 10000))
		if fi, err = fsys.Stat("f"); err != nil || fi.Size() != 10000 {
			t.Error(fi, err)
		}
		wantError(t, fsys.Truncate("f", -1), unix.EINVAL, "f")
		wantError(t, fsys.Truncate("f", 1<<50), unix.EFBIG, "f")
		wantError(t, fsys.Truncate(".", 0), unix.EISDIR, ".")
		wantError(t, fsys.Chmod("none", 0), fs.ErrNotExist, "none")
	})
}

func TestXattrs(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		write(t, fsys, "f", "x")
		must(t, fsys.Setxattr("f", "user.one", []byte("1"), 0))
		must(t, fsys.Setxattr("f", "user.two", []byte{0, 255}, unix.XATTR_CREATE))
		wantError(t, fsys.Setxattr("f", "user.one", nil, unix.XATTR_CREATE), fs.ErrExist, "f")
		wantError(t, fsys.Setxattr("f", "user.none", nil, unix.XATTR_REPLACE), unix.ENODATA, "f")
		wantError(t, fsys.Setxattr("f", "user.none", nil, 1<<9), unix.EINVAL, "f")
		names, err := fsys.Listxattr("f")
		slices.Sort(names)
		if err != nil || !slices.Equal(names, []string{"user.one", "user.two"}) {
			t.Error(names, err)
		}
		if v, err := fsys.Getxattr("f", "user.two"); err != nil || !bytes.Equal(v, []byte{0, 255}) {
			t.Error(v, err)
		}
		must(t, fsys.Removexattr("f", "user.two"))
		_, err = fsys.Getxattr("f", "user.two")
		wantError(t, err, unix.ENODATA, "f")
		must(t, fsys.Setxattr("f", "user.big", make([]byte, 60000), 0))
		if v, err := fsys.Getxattr("f", "user.big"); err != nil || len(v) != 60000 {
			t.Error(len(v), err)
		}
		if err := fsys.Setxattr("f", "user.huge", make([]byte, 2<<20), 0); err == nil {
			t.Error("an attribute of 2 MiB was set")
		}
	})
}

func TestSparse(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		f := create(t, fsys, "f")
		const far = 1 << 40
		_, err := f.WriteAt([]byte("far"), far)
		must(t, err)
		_, err = f.WriteAt(make([]byte, 3*4096), 8192)
		must(t, err)
		fi, err := f.Stat()
		must(t, err)
		if st := fi.Sys().(*pmemfs.Stat); fi.Size() != far+3 || st.Blocks != 4 {
			t.Errorf("%d bytes, %d blocks", fi.Size(), st.Blocks)
		}
		if at, err := f.SeekData(0); at != 8192 || err != nil {
			t.Error(at, err)
		}
		if at, err := f.SeekHole(8192); at != 5*4096 || err != nil {
			t.Error(at, err)
		}
		if at, err := f.Seek(5*4096, unix.SEEK_DATA); at != far || err != nil {
			t.Error(at, err)
		}
		_, err = f.SeekData(far + 3)
		wantError(t, err, unix.ENXIO, "f")
		extents, err := f.Extents()
		must(t, err)
		if len(extents) != 4 || extents[0].Block != -1 || extents[1].Offset != 8192 || extents[1].Length != 3*4096 || extents[3].Offset != far {
			t.Errorf("%+v", extents)
		}
		must(t, f.PunchHole(8192, 4096))
		must(t, f.Allocate(0, 4096, true))
		must(t, f.ZeroRange(4*4096, 4096))
		extents, err = f.Extents()
		must(t, err)
		if len(extents) < 5 || !extents[0].Unwritten || extents[0].Length != 4096 || extents[1].Block != -1 {
			t.Errorf("%+v", extents)
		}
		must(t, f.Truncate(8192+5000))
		must(t, f.Relocate(0, 1<<20))
		must(t, f.Allocate(0, 100000, false))
		if fi, err = f.Stat(); err != nil || fi.Size() != 100000 {
			t.Error(fi, err)
		}
		wantError(t, f.PunchHole(-1, 10), unix.EINVAL, "f")
		wantError(t, f.Allocate(0, 0, false), unix.EINVAL, "f")
	})
}

// A file in many pieces is listed whole, over several replies.
func TestManyExtents(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		f := create(t, fsys, "f")
		const pieces = 3000
		for i := range int64(pieces) {
			_, err := f.WriteAt([]byte{1}, i*8192)
			must(t, err)
		}
		extents, err := f.Extents()
		must(t, err)
		if len(extents) != 2*pieces-1 {
			t.Errorf("%d extents", len(extents))
		}
		var at int64
		for _, e := range extents {
			if e.Offset != at || e.Length <= 0 {
				t.Fatalf("%+v, want it at %d", e, at)
			}
			at += e.Length
		}
	})
}

func TestFullPool(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		st, err := fsys.Statfs()
		must(t, err)
		f := create(t, fsys, "f")
		_, err = f.ReadFrom(endless{})
		wantError(t, err, unix.ENOSPC, "f")
		wantError(t, fsys.WriteFile("g", make([]byte, 1<<20), 0o600), unix.ENOSPC, "g")
		must(t, f.Close())
		must(t, fsys.Remove("f"))
		must(t, fsys.Remove("g"))
		after, err := fsys.Statfs()
		must(t, err)
		if after.FreeBlocks != st.FreeBlocks {
			t.Errorf("%d blocks free, %d before", after.FreeBlocks, st.FreeBlocks)
		}
		write(t, fsys, "f", "room again")
	})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestReadOnly(t *testing.T) {
	pool := newPool(t)
	fsys, err := pmemfs.Open(pool)
	must(t, err)
	write(t, fsys, "f", "x")
	must(t, fsys.Close())
	check := func(t *testing.T, fsys *pmemfs.FS) {
		if !fsys.Info().ReadOnly {
			t.Error("Info does not say so")
		}
		wantContent(t, fsys, "f", "x")
		wantError(t, fsys.WriteFile("f", nil, 0o600), unix.EROFS, "f")
		wantError(t, fsys.Mkdir("d", 0o755), unix.EROFS, "d")
		wantError(t, fsys.Remove("f"), unix.EROFS, "f")
		wantError(t, fsys.Rename("f", "g"), unix.EROFS, "g")
		wantError(t, fsys.Chmod("f", 0), unix.EROFS, "f")
		wantError(t, fsys.Setxattr("f", "user.x", nil, 0), unix.EROFS, "f")
		_, err := fsys.OpenFile("f", os.O_RDWR, 0)
		wantError(t, err, unix.EROFS, "f")
	}
	t.Run("embedded", func(t *testing.T) { check(t, openPool(t, pool, pmemfs.OpenReadOnly())) })
	t.Run("dialled", func(t *testing.T) { check(t, dial(t, serveHere(t, pool), pmemfs.OpenReadOnly())) })
}

// What was done is there after the pool was closed and opened again, however it is opened.
func TestReopen(t *testing.T) {
	pool := newPool(t)
	for i := range 3 {
		fsys := openPool(t, pool)
		write(t, fsys, fmt.Sprintf("embedded-%d", i), "e")
		must(t, fsys.Close())
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			fsys := dial(t, serveHere(t, pool))
			write(t, fsys, fmt.Sprintf("dialled-%d", i), "d")
			list, err := fsys.ReadDir(".")
			if len(list) != 2*i+2 || err != nil {
				t.Error(list, err)
			}
		})
	}
	info := openPool(t, pool).Info()
	if info.Pool != pool || info.Label != "test" || info.PID != os.Getpid() || info.UUID == "" || info.Medium.Kind != "tmpfs" {
		t.Errorf("%+v", info)
	}
}

func TestUse(t *testing.T) {
	pool := newPool(t)
	fsys := openPool(t, pool)
	_, err := pmemfs.Open(pool)
	wantError(t, err, unix.EBUSY, fmt.Sprint(os.Getpid()))
	wantError(t, pmemfs.Format(pool, pmemfs.FormatOptions{}), fs.ErrExist, pool)
	_, err = pmemfs.Open(path.Join(pool, "none"))
	wantError(t, err, fs.ErrNotExist, "none")
	_, err = pmemfs.Dial(path.Join(pool, "none"))
	wantError(t, err, fs.ErrNotExist, "none")
	_, err = pmemfs.Dial(path.Join(pool, "meta"))
	wantError(t, err, unix.ECONNREFUSED, "meta")
	_, err = pmemfs.Open(pool, pmemfs.Require(pmemfs.Byte))
	if err == nil {
		t.Error("emulated memory was opened as byte-granular")
	}
	must(t, fsys.Close())
	_, err = pmemfs.Open(pool, pmemfs.Require(pmemfs.Byte))
	wantError(t, err, unix.EOPNOTSUPP, "byte")
	_, err = pmemfs.Dial(serveHere(t, pool), pmemfs.Require(pmemfs.Byte))
	wantError(t, err, unix.EOPNOTSUPP, "byte")
}
