package pmemfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

// patterned makes a file of n bytes, in which every 8 differ.
func patterned(t testing.TB, fsys *pmemfs.FS, name string, n int) *pmemfs.File {
	t.Helper()
	f := create(t, fsys, name)
	_, err := f.WriteAt(numbered(n), 0)
	must(t, err)
	return f
}

func wantBytes(t *testing.T, f *pmemfs.File, want []byte) {
	t.Helper()
	got := make([]byte, len(want)+1)
	n, err := f.ReadAt(got, 0)
	if n != len(want) || err != io.EOF {
		t.Errorf("%s: %d bytes, %v, want %d", f.Name(), n, err, len(want))
	} else if got = got[:n]; !bytes.Equal(got, want) {
		at := 0
		for got[at] == want[at] {
			at++
		}
		t.Errorf("%s: byte %d differs", f.Name(), at)
	}
}

// sharedBytes is how much of a file is in blocks that are marked shared.
func sharedBytes(t testing.TB, f *pmemfs.File) (n int64) {
	t.Helper()
	for _, e := range extentsOf(t, f) {
		if e.Shared {
			n += e.Length
		}
	}
	return n
}

func reopen(t testing.TB, fsys *pmemfs.FS, name string, flag int) *pmemfs.File {
	t.Helper()
	f, err := fsys.OpenFile(name, flag, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// A clone has the contents of its origin, by the same blocks, until one of the two is changed.
func TestClone(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		const size = 10*page + 100
		f := patterned(t, fsys, "f", size)
		must(t, f.PunchHole(3*page, page))
		must(t, f.Chmod(0o640|fs.ModeSetuid|fs.ModeSticky))
		must(t, fsys.Setxattr("f", "user.x", []byte("y"), 0))
		must(t, fsys.Mkdir("d", 0o755))
		must(t, fsys.Symlink("f", "soft"))
		before, err := fsys.Statfs()
		must(t, err)
		want := make([]byte, size)
		_, err = f.ReadAt(want, 0)
		must(t, err)

		must(t, fsys.Clone("soft", "d/clone"))
		must(t, f.Clone("second"))
		after, err := fsys.Statfs()
		must(t, err)
		if after.FreeBlocks != before.FreeBlocks {
			t.Errorf("the clones took %d blocks", before.FreeBlocks-after.FreeBlocks)
		}
		c := reopen(t, fsys, "d/clone", os.O_RDWR)
		info, err := c.Stat()
		must(t, err)
		st := info.Sys().(*pmemfs.Stat)
		if info.Mode() != 0o640 || st.Nlink != 1 || st.Blocks != 10 || int(st.UID) != os.Geteuid() {
			t.Errorf("%v, %+v", info.Mode(), st)
		}
		if names, err := fsys.Listxattr("d/clone"); len(names) != 0 || err != nil {
			t.Error(names, err)
		}
		wantBytes(t, c, want)
		if n := sharedBytes(t, c); n != 10*page {
			t.Errorf("%d bytes are shared", n)
		}

		_, err = c.WriteAt([]byte("clone"), 5*page+7)
		must(t, err)
		_, err = f.WriteAt([]byte("file"), 7*page)
		must(t, err)
		must(t, fsys.Truncate("second", 2*page+1))
		must(t, fsys.Truncate("second", size))
		wantBytes(t, c, overwritten(5*page+7, []byte("clone"))(want))
		wantBytes(t, f, overwritten(7*page, []byte("file"))(want))
		wantBytes(t, reopen(t, fsys, "second", os.O_RDONLY), resized(size)(want[:2*page+1]))
		must(t, errors.Join(fsys.Remove("d/clone"), fsys.Remove("f"), fsys.Remove("second")))
		must(t, errors.Join(c.Close(), f.Close()))
	})
}

func TestCloneErrors(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		f := patterned(t, fsys, "f", 3*page)
		must(t, fsys.Mkdir("d", 0o755))
		must(t, fsys.Symlink("nowhere", "dangling"))
		for _, c := range []struct {
			old, new string
			want     error
		}{
			{"f", "d", fs.ErrExist}, {"f", "f", fs.ErrExist}, {"f", "dangling", fs.ErrExist}, {"none", "new", fs.ErrNotExist},
			{"dangling", "new", fs.ErrNotExist}, {"d", "new", unix.EISDIR}, {"f", "none/new", fs.ErrNotExist},
			{"f", "f/new", unix.ENOTDIR}, {"f", ".", fs.ErrExist}, {"f", "../new", fs.ErrInvalid}, {"/f", "new", fs.ErrInvalid},
		} {
			wantError(t, fsys.Clone(c.old, c.new), c.want, c.new)
		}
		wantError(t, reopen(t, fsys, "f", os.O_WRONLY).Clone("new"), unix.EBADF, "new")
		wantError(t, reopen(t, fsys, "d", os.O_RDONLY).Clone("new"), unix.EISDIR, "new")
		wantError(t, f.Clone("../new"), fs.ErrInvalid, "new")

		removed := patterned(t, fsys, "removed", 2*page)
		must(t, fsys.Remove("removed"))
		must(t, removed.Clone("again"))
		wantBytes(t, reopen(t, fsys, "again", os.O_RDONLY), numbered(2*page))
		must(t, removed.Close())
		wantError(t, removed.Clone("closed"), fs.ErrClosed, "closed")
	})
}

// The errors of ioctl_ficlonerange(2).
func TestCloneRangeErrors(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		f := patterned(t, fsys, "f", 3*page+100)
		g := patterned(t, fsys, "g", 8*page)
		for _, c := range []struct {
			to           *pmemfs.File
			off          int64
			from         *pmemfs.File
			srcOff, size int64
			want         error
		}{
			{g, 1, f, 0, page, unix.EINVAL}, {g, 0, f, 1, page, unix.EINVAL}, {g, 0, f, 0, page - 1, unix.EINVAL},
			{g, 0, f, 0, 3*page + 100, unix.EINVAL}, // the end of f, in the middle of g
			{g, 0, f, page, 4 * page, unix.EINVAL}, {g, 0, f, 8 * page, 0, unix.EINVAL}, {f, page, f, 0, 2 * page, unix.EINVAL},
			{g, -page, f, 0, page, unix.EINVAL}, {g, 0, f, -page, page, unix.EINVAL}, {g, 0, f, 0, -page, unix.EINVAL},
			{g, 1 << 62, f, 0, page, unix.EFBIG},
			{reopen(t, fsys, "g", os.O_RDONLY), 0, f, 0, page, unix.EBADF},
			{g, 0, reopen(t, fsys, "f", os.O_WRONLY), 0, page, unix.EBADF},
			{reopen(t, fsys, "g", os.O_RDWR|os.O_APPEND), 0, f, 0, page, unix.EBADF},
			{g, 0, reopen(t, fsys, ".", os.O_RDONLY), 0, page, unix.EISDIR},
		} {
			wantError(t, c.to.CloneRange(c.off, c.from, c.srcOff, c.size), c.want, c.to.Name())
		}
		wantBytes(t, f, numbered(3*page+100))
		wantBytes(t, g, numbered(8*page))
		must(t, g.CloneRange(5*page, f, 0, 3*page+100)) // at the end of both
		must(t, g.CloneRange(16*page, f, page, 0))
		must(t, g.CloneRange(0, g, 16*page, page))
		want := overwritten(5*page, numbered(3*page+100))(numbered(8 * page))
		want = overwritten(16*page, numbered(3*page + 100)[page:])(want)
		wantBytes(t, g, overwritten(0, numbered(2 * page)[page:])(want))
	})
}

// Files of two FS have no blocks in common, whoever serves them.
func TestCloneRangeAcross(t *testing.T) {
	socket := serveHere(t, newPool(t))
	one, two := dial(t, socket), dial(t, socket)
	f := patterned(t, one, "f", page)
	g := create(t, two, "g")
	wantError(t, g.CloneRange(0, f, 0, 0), unix.EXDEV, "g")
	_, err := g.CopyRange(0, f, 0, page)
	wantError(t, err, unix.EXDEV, "g")
}

// Who may not write may not clone; who came with a file has no names.
func TestCloneRefused(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	f := patterned(t, fsys, "f", 4*page)
	look := dial(t, socket, pmemfs.OpenReadOnly())
	wantError(t, look.Clone("f", "new"), unix.EROFS, "new")
	wantError(t, reopen(t, look, "f", os.O_RDONLY).Clone("new"), unix.EROFS, "new")
	exported, err := f.Export()
	must(t, err)
	defer exported.Close()
	g, err := pmemfs.Import(exported)
	must(t, err)
	defer g.Close()
	wantError(t, g.Clone("new"), unix.EACCES, "new")
	must(t, g.CloneRange(page, g, 3*page, page))
	if n, err := g.CopyRange(0, g, 2*page+5, 7); n != 7 || err != nil {
		t.Error(n, err)
	}
	want := overwritten(page, numbered(4 * page)[3*page:])(numbered(4 * page))
	wantBytes(t, f, overwritten(0, want[2*page+5:][:7])(want))
}

// CopyRange copies what was asked for, however the ranges lie, and shares the blocks that lie alike.
func TestCopyRange(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		const size = 3<<20 + 123
		f := patterned(t, fsys, "f", size)
		for _, c := range []struct {
			off, srcOff, n int64
			shared         int64 // bytes
		}{
			{0, 0, size, size/page*page + page}, {0, 0, size + 1, size/page*page + page}, {0, 1, 4 * page, 0},
			{page + 5, 5*page + 5, 2 * page, page}, {page + 5, 5*page + 5, page - 6, 0}, {7 * page, 0, 2*page + 1, 2 * page},
			{1, size - 10, 100, 0}, {0, size, 5, 0}, {0, size + page, 5, 0}, {5, 5, 0, 0}, {12345, 54321, 2 << 20, 0},
		} {
			g := patterned(t, fsys, "g", 10*page)
			n, err := g.CopyRange(c.off, f, c.srcOff, c.n)
			want := max(min(c.n, size-c.srcOff), 0)
			if n != want || err != nil {
				t.Errorf("%+v: %d, %v", c, n, err)
				continue
			}
			from := numbered(size)[min(c.srcOff, size):][:want]
			content := numbered(10 * page)
			if want > 0 {
				content = overwritten(int(c.off), from)(content)
			}
			wantBytes(t, g, content)
			if got := sharedBytes(t, g); got != c.shared {
				t.Errorf("%+v: %d bytes are shared", c, got)
			}
		}
		_, err := f.CopyRange(100, f, 0, 101)
		wantError(t, err, unix.EINVAL, "f")
		n, err := f.CopyRange(100, f, 0, 100)
		if n != 100 || err != nil {
			t.Error(n, err)
		}
		wantBytes(t, f, overwritten(100, numbered(100))(numbered(size)))
		n, err = reopen(t, fsys, "g", os.O_RDWR|os.O_APPEND).CopyRange(0, f, 0, 1)
		wantError(t, err, unix.EBADF, "g")
		if n != 0 {
			t.Error(n)
		}
	})
}

// Random clones and copies between three files, compared with the same on bytes.
func TestCopyRangeAgainstModel(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		r := rand.New(rand.NewPCG(1, 2))
		var files []*pmemfs.File
		var models [][]byte
		for i := range 3 {
			n := (i + 1) * 5 * page
			files, models = append(files, patterned(t, fsys, fmt.Sprint(i), n)), append(models, numbered(n))
		}
		for range 500 {
			to, from := r.IntN(3), r.IntN(3)
			off, srcOff, n := r.Int64N(16*page), r.Int64N(16*page), r.Int64N(8*page)
			if r.IntN(2) == 0 {
				srcOff = srcOff/page*page + off%page
			}
			if r.IntN(2) == 0 {
				off, srcOff = off/page*page, srcOff/page*page
			}
			from64 := models[from][min(int(srcOff), len(models[from])):]
			part := slices.Clone(from64[:min(int(n), len(from64))])
			got, err := files[to].CopyRange(off, files[from], srcOff, n)
			if length := int64(len(part)); to == from && off < srcOff+length && srcOff < off+length {
				wantError(t, err, unix.EINVAL, files[to].Name())
				continue
			}
			if got != int64(len(part)) || err != nil {
				t.Fatalf("%d bytes from %d of %d to %d of %d: %d, %v", n, srcOff, from, off, to, got, err)
			}
			if len(part) > 0 {
				models[to] = overwritten(int(off), part)(models[to])
			}
			_, err = files[to].WriteAt([]byte{byte(off)}, off)
			must(t, err)
			models[to] = overwritten(int(off), []byte{byte(off)})(models[to])
			for i := range files {
				wantBytes(t, files[i], models[i])
			}
			if t.Failed() {
				t.FailNow()
			}
		}
	})
}

// A file that this process has mapped is cloned: the mapping goes on, without anybody to resolve page faults, and neither sees
// the other's stores.
func TestCloneOfMapped(t *testing.T) {
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		const pages = 16
		f := patterned(t, fsys, "f", pages*page)
		m := mapped(t, f, 0, pages*page, kind|pmemfs.Populate)
		look := mapped(t, f, 0, pages*page, pmemfs.Shared|pmemfs.ReadOnly)
		want := numbered(pages * page)
		for i := range byte(5) {
			m.Bytes()[int(i)*page+int(i)] = i // not persisted
			want[int(i)*page+int(i)] = i
			name := fmt.Sprint("clone", i)
			must(t, fsys.Clone("f", name))
			c := reopen(t, fsys, name, os.O_RDWR)
			mc := mapped(t, c, 0, pages*page, kind)
			for p := range pages {
				m.Bytes()[p*page+100]++
				mc.Bytes()[p*page+200]++
				if look.Bytes()[p*page+100] != m.Bytes()[p*page+100] {
					t.Errorf("page %d of f is not what was stored there", p)
				}
			}
			cloned := slices.Clone(want)
			for p := range pages {
				want[p*page+100]++
				cloned[p*page+200]++
			}
			wantBytes(t, f, want)
			wantBytes(t, c, cloned)
			must(t, mc.Unmap())
		}
		// And one whose blocks come from elsewhere while it is mapped.
		g := patterned(t, fsys, "g", pages*page)
		must(t, f.CloneRange(2*page, g, 8*page, 3*page))
		want = overwritten(2*page, numbered(pages * page)[8*page:][:3*page])(want)
		if !bytes.Equal(m.Bytes(), want) || !bytes.Equal(look.Bytes(), want) {
			t.Error("the mappings do not show what was cloned into the file")
		}
		m.Bytes()[3*page] = 99
		want[3*page] = 99
		wantBytes(t, f, want)
		wantBytes(t, g, numbered(pages*page))
	})
}
