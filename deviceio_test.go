package pmemfs_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
)

func init() {
	roles["mover"] = moverRole
	roles["copier"] = copierRole
}

// numbered is bytes of which each aligned 8 tell where they are; none are zeros.
func numbered(n int) []byte {
	p := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], uint64(i)|1<<63)
	}
	return p[:n]
}

// sector is what O_DIRECT needs in directDir.
type sector int

// directDir is a folder where O_DIRECT reaches a device.
func directDir(t testing.TB) (string, sector) {
	t.Helper()
	dir := t.TempDir()
	f, err := os.OpenFile(filepath.Join(dir, "probe"), os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o600)
	if err != nil {
		t.Skipf("NOT TESTED: no O_DIRECT in %s (%v): set TMPDIR to a folder on a disk", dir, err)
	}
	defer f.Close()
	var st unix.Statx_t
	must(t, unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st))
	if st.Dio_offset_align == 0 {
		t.Skipf("NOT TESTED: O_DIRECT in %s reaches no device, or the kernel does not say how: set TMPDIR to a folder on a disk", dir)
	}
	return dir, sector(st.Dio_offset_align)
}

func openOS(t testing.TB, name string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, flags, 0o600)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func osFile(t testing.TB, name string, content []byte, flags int) *os.File {
	t.Helper()
	must(t, os.WriteFile(name, content, 0o600))
	return openOS(t, name, flags)
}

func seek(t testing.TB, f io.Seeker, off int64) {
	t.Helper()
	_, err := f.Seek(off, io.SeekStart)
	must(t, err)
}

func wantPosition(t testing.TB, f io.Seeker, want int64) {
	t.Helper()
	if at, err := f.Seek(0, io.SeekCurrent); at != want || err != nil {
		t.Errorf("the position is %d, %v, want %d", at, err, want)
	}
}

func wantFile(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(name)
	must(t, err)
	wantSame(t, name, got, want)
}

func wantSame(t *testing.T, name string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	t.Errorf("%s: %d bytes, want %d; different from byte %d on", name, len(got), len(want), at)
}

// A file with holes, at odd positions, to files and to what is not one, compared with a slice.
func TestWriteTo(t *testing.T) {
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		const size = 19<<20 + 777
		model := numbered(size)
		f := create(t, fsys, "f")
		_, err := f.Write(model)
		must(t, err)
		for _, hole := range [][2]int64{{9 << 20, page}, {11 << 20, 300 << 10}, {12<<20 + page, 1 << 20}, {13<<20 + 3*page, 1 << 20}} {
			must(t, f.PunchHole(hole[0], hole[1]))
			clear(model[hole[0] : hole[0]+hole[1]])
		}
		name := filepath.Join(pooltest.Dir(t), "target")
		for _, pos := range []int64{
			0, 1, page - 1, page, 8<<20 - 100, 8 << 20, 9<<20 - 5, 13<<20 + 17, size - 700000, size - page, size - 1, size, size + 5,
		} {
			want := model[min(pos, size):]
			end := max(pos, size)
			w := openOS(t, name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
			seek(t, f, pos)
			if n, err := f.WriteTo(w); n != int64(len(want)) || err != nil {
				t.Errorf("from %d: %d, %v", pos, n, err)
			}
			wantFile(t, name, want)
			wantPosition(t, f, end)
			must(t, w.Close())
			seek(t, f, pos)
			var buf bytes.Buffer
			if n, err := f.WriteTo(&buf); n != int64(len(want)) || err != nil {
				t.Errorf("from %d to a buffer: %d, %v", pos, n, err)
			}
			wantSame(t, "buffer", buf.Bytes(), want)
		}
	})
}

// To O_DIRECT targets whole sectors are written, and what cannot be is explained.
func TestWriteToDirect(t *testing.T) {
	dir, sector := directDir(t)
	name := filepath.Join(dir, "target")
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		model := numbered(17<<20 + 5*int(sector) + 100)
		f := create(t, fsys, "f")
		_, err := f.Write(model)
		must(t, err)
		const flags = os.O_RDWR | os.O_CREATE | os.O_TRUNC
		for _, pos := range []int64{0, 100, int64(sector), page, 8<<20 - 100, 9<<20 + 1} {
			w := openOS(t, name, flags|unix.O_DIRECT)
			seek(t, f, pos)
			n, err := f.WriteTo(w)
			rest := (int64(len(model)) - pos) % int64(sector)
			if rest == 0 {
				must(t, err)
			} else {
				wantError(t, err, unix.EINVAL, name)
				wantError(t, err, unix.EINVAL, fmt.Sprintf("multiples of %d", sector))
				wantError(t, err, unix.EINVAL, fmt.Sprintf("%d bytes remain", rest))
			}
			if n != int64(len(model))-pos-rest {
				t.Errorf("from %d: %d bytes were written, want all but %d of %d", pos, n, rest, int64(len(model))-pos)
			}
			wantPosition(t, f, int64(len(model))-rest)
			// The remedy that the error names.
			plain := openOS(t, name, os.O_WRONLY|os.O_APPEND)
			if n, err := f.WriteTo(plain); n != rest || err != nil {
				t.Error(n, err)
			}
			wantFile(t, name, model[pos:])
		}

		w := openOS(t, name, flags|unix.O_DIRECT)
		seek(t, w, 100)
		seek(t, f, 0)
		n, err := f.WriteTo(w)
		wantError(t, err, unix.EINVAL, "its position is 100")
		if n != 0 || strings.Contains(err.Error(), "remain") {
			t.Errorf("%d, %v", n, err)
		}
		wantPosition(t, f, 0)
		must(t, os.WriteFile(name, []byte("odd"), 0o600))
		w = openOS(t, name, os.O_WRONLY|os.O_APPEND|unix.O_DIRECT)
		_, err = f.WriteTo(w)
		wantError(t, err, unix.EINVAL, "its position is 3")
	})
}

// From files and memory, whole or limited, to odd positions of files that are there or not, compared with a slice.
func TestReadFrom(t *testing.T) {
	const size = 10<<20 + 777
	source := numbered(size)
	plain := osFile(t, filepath.Join(pooltest.Dir(t), "source"), source, os.O_RDONLY)
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		for _, before := range []int{0, 5, 9<<20 + 3, 20 << 20} {
			for i, pos := range []int64{0, 1, page, 8<<20 - 600000, 9<<20 + 3} {
				model := bytes.Repeat([]byte{0xee}, before)
				f := create(t, fsys, "f")
				_, err := f.Write(model)
				must(t, err)
				for j, n := range []int64{size, 1<<20 + 5, 9<<20 - pos%page, 100} {
					model = overwrite(model, source[:n], pos)
					r := []io.Reader{plain, bytes.NewReader(source), struct{ io.Reader }{plain}}[(i+j)%3]
					seek(t, plain, 0)
					seek(t, f, pos)
					if got, err := f.ReadFrom(io.LimitReader(r, n)); got != n || err != nil {
						t.Errorf("%d bytes from %T to %d: %d, %v", n, r, pos, got, err)
					}
					wantPosition(t, f, pos+n)
				}
				seek(t, plain, 3)
				if got, err := f.ReadFrom(plain); got != size-3 || err != nil {
					t.Error(got, err)
				}
				model = overwrite(model, source[3:], pos+100)
				wantContent(t, fsys, "f", string(model))
				must(t, f.Close())
			}
		}
	})
}

// overwrite puts p at off of model, which gets longer.
func overwrite(model, p []byte, off int64) []byte {
	if n := off + int64(len(p)); n > int64(len(model)) {
		model = append(model, make([]byte, n-int64(len(model)))...)
	}
	copy(model[off:], p)
	return model
}

func TestReadFromDirect(t *testing.T) {
	dir, sector := directDir(t)
	source := numbered(17<<20 + 3*int(sector) + 100)
	r := osFile(t, filepath.Join(dir, "source"), source, os.O_RDONLY|unix.O_DIRECT)
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		for _, pos := range []int64{0, 1, int64(sector), page, 8 << 20} {
			for _, from := range []int64{0, int64(sector), 16 << 20} {
				f := create(t, fsys, "f")
				seek(t, f, pos)
				seek(t, r, from)
				n, err := f.ReadFrom(r)
				if n != int64(len(source))-from || err != nil {
					t.Errorf("from %d to %d: %d, %v", from, pos, n, err)
				}
				wantContent(t, fsys, "f", string(overwrite(nil, source[from:], pos)))
				must(t, f.Close())
			}
		}

		f := create(t, fsys, "f")
		seek(t, r, 100)
		n, err := f.ReadFrom(r)
		wantError(t, err, unix.EINVAL, "its position is 100")
		if n != 0 {
			t.Error(n)
		}
		seek(t, r, 0)
		n, err = f.ReadFrom(io.LimitReader(r, 9<<20+7))
		wantError(t, err, unix.EINVAL, "7 bytes remain")
		if n != 9<<20 {
			t.Error(n)
		}
		wantContent(t, fsys, "f", string(source[:9<<20]))
	})
}

// Between the pool and other files no byte of a file's data goes through the connection.
func TestNoBounce(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	dir, _ := directDir(t)
	data := numbered(20 << 20)
	source := osFile(t, filepath.Join(dir, "source"), data, os.O_RDONLY|unix.O_DIRECT)
	target := openOS(t, filepath.Join(dir, "target"), os.O_WRONLY|os.O_CREATE|unix.O_DIRECT)
	count := fsys.CountData()
	f, g := create(t, fsys, "f"), create(t, fsys, "g")
	for _, c := range []struct {
		to   io.ReaderFrom
		from io.Reader
	}{{f, source}, {g, bytes.NewReader(data)}} {
		if n, err := c.to.ReadFrom(c.from); n != int64(len(data)) || err != nil {
			t.Error(n, err)
		}
	}
	seek(t, f, 0)
	if n, err := f.WriteTo(target); n != int64(len(data)) || err != nil {
		t.Error(n, err)
	}
	seek(t, f, 0)
	seek(t, g, 1)
	if n, err := io.Copy(g, f); n != int64(len(data)) || err != nil {
		t.Error(n, err)
	}
	readOnly := dial(t, socket, pmemfs.OpenReadOnly())
	count2 := readOnly.CountData()
	h, err := readOnly.OpenFile("f", os.O_RDONLY, 0)
	must(t, err)
	defer h.Close()
	seek(t, target, 0)
	if n, err := h.WriteTo(target); n != int64(len(data)) || err != nil {
		t.Error(n, err)
	}
	if r, w := count.Read.Load()+count2.Read.Load(), count.Written.Load(); r != 0 || w != 0 {
		t.Errorf("%d bytes were read and %d written by messages", r, w)
	}
	wantFile(t, target.Name(), data)
	wantContent(t, fsys, "g", string(append(data[:1:1], data...)))
	if count.Read.Load() == 0 {
		t.Error("nothing is counted")
	}
}

// Where files cannot be filled through a mapping they are written, and what refuses a write refuses this.
func TestReadFromWritten(t *testing.T) {
	const size = 2<<20 + 5
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		data := numbered(size)
		source := osFile(t, filepath.Join(pooltest.Dir(t), "source"), data, os.O_RDONLY)
		read := func(f *pmemfs.File, want int64) error {
			t.Helper()
			seek(t, source, 0)
			n, err := f.ReadFrom(source)
			if n != want {
				t.Errorf("%d bytes, %v, want %d", n, err, want)
			}
			return err
		}
		open := func(name string, flags int) *pmemfs.File {
			f, err := fsys.OpenFile(name, flags, 0o600)
			must(t, err)
			t.Cleanup(func() { f.Close() })
			return f
		}
		must(t, read(open("append", os.O_RDWR|os.O_CREATE|os.O_APPEND), size))
		must(t, read(open("append", os.O_RDWR|os.O_APPEND), size))
		wantContent(t, fsys, "append", string(data)+string(data))
		must(t, read(open("write-only", os.O_WRONLY|os.O_CREATE), size))
		wantContent(t, fsys, "write-only", string(data))
		wantError(t, read(open("append", os.O_RDONLY), 0), unix.EBADF, "append")

		// What somebody has pinned can be overwritten.
		pinned := open("pinned", os.O_RDWR|os.O_CREATE)
		must(t, pinned.Truncate(size))
		m := mapped(t, pinned, 0, size, kind)
		_, err := m.Pin(0, size)
		must(t, err)
		must(t, read(pinned, size))
		wantSame(t, "pinned", m.Bytes(), data)

		// So can what is sealed or static; but a static file does not grow.
		sealed := open("sealed", os.O_RDWR|os.O_CREATE)
		must(t, sealed.Truncate(size))
		direct := mapDirect(t, sealed, size)
		must(t, read(sealed, size))
		wantSame(t, "sealed", direct.Bytes(), data)
		must(t, direct.Unmap())
		must(t, sealed.SetStatic(true))
		clear(data)
		must(t, os.WriteFile(source.Name(), data, 0o600))
		seek(t, sealed, 0)
		must(t, read(sealed, size))
		wantContent(t, fsys, "sealed", string(data))
		seek(t, sealed, 1<<20)
		wantError(t, read(sealed, 1<<20), pmemfs.ErrStatic, "sealed")
		wantContent(t, fsys, "sealed", string(data))
		must(t, sealed.SetStatic(false))

		// A pool that has not enough room takes what fits.
		full := open("full", os.O_RDWR|os.O_CREATE)
		st, err := fsys.Statfs()
		must(t, err)
		must(t, open("fill", os.O_RDWR|os.O_CREATE).Allocate(0, st.FreeBlocks*page-1<<20, false))
		seek(t, source, 0)
		n, err := full.ReadFrom(source)
		wantError(t, err, unix.ENOSPC, "full")
		if n == 0 || n >= size {
			t.Error(n)
		}
		wantContent(t, fsys, "full", string(data[:n]))
	})
}

// A source that fails or ends early leaves the file as long as what was read.
func TestReadFromFails(t *testing.T) {
	data := numbered(9 << 20)
	name := filepath.Join(pooltest.Dir(t), "source")
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	for _, size := range []int64{0, 3, 20 << 20} {
		f := sized(t, fsys, "f", size)
		seek(t, f, 2<<20)
		n, err := f.ReadFrom(osFile(t, name, data, os.O_WRONLY))
		wantError(t, err, unix.EBADF, name)
		if fi, err := f.Stat(); n != 0 || err != nil || fi.Size() != size {
			t.Error(n, fi.Size(), err)
		}
		wantPosition(t, f, 2<<20)
	}
	for i := range 20 {
		source := osFile(t, name, data, os.O_RDWR)
		var cut sync.WaitGroup
		cut.Go(func() { must(t, source.Truncate(int64(i)*300000)) })
		f := create(t, fsys, "f")
		n, err := f.ReadFrom(source)
		must(t, err)
		cut.Wait()
		wantPosition(t, f, n)
		got, err := fsys.ReadFile("f")
		must(t, err)
		// A cut takes pages away while they are read: it shows zeros behind it, as to any reader.
		if int64(len(got)) != n || n < min(int64(i)*300000, int64(len(data))) {
			t.Fatalf("%d bytes were read, the file has %d", n, len(got))
		}
		wantSame(t, "f", got[:int64(i)*300000], data[:int64(i)*300000])
	}
}

// failing is a target with a descriptor that takes so much and then fails.
type failing struct {
	*os.File
	room int
}

var errFull = errors.New("full")

func (w *failing) Write(p []byte) (int, error) {
	n := min(len(p), w.room)
	w.room -= n
	n, err := w.File.Write(p[:n])
	if err == nil && n < len(p) {
		err = errFull
	}
	return n, err
}

// silent takes less than it is given and does not say so.
type silent struct{ *os.File }

func (silent) Write(p []byte) (int, error) { return len(p) - 1, nil }

// A target that fails gets the rest of the file the next time.
func TestWriteToFails(t *testing.T) {
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		data := numbered(10<<20 + 9)
		f := create(t, fsys, "f")
		_, err := f.Write(data)
		must(t, err)
		for _, room := range []int{0, 1, 100000, 8 << 20, 9<<20 + 1} {
			name := filepath.Join(pooltest.Dir(t), "target")
			w := openOS(t, name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
			seek(t, f, 0)
			if n, err := f.WriteTo(&failing{w, room}); n != int64(room) || err != errFull {
				t.Errorf("%d bytes, %v, want %d", n, err, room)
			}
			wantPosition(t, f, int64(room))
			if n, err := f.WriteTo(w); n != int64(len(data)-room) || err != nil {
				t.Error(n, err)
			}
			wantFile(t, name, data)
		}
		seek(t, f, 0)
		if n, err := f.WriteTo(silent{openOS(t, os.DevNull, os.O_WRONLY)}); n != 1<<20-1 || err != io.ErrShortWrite {
			t.Error(n, err)
		}
		if n, err := f.WriteTo(silent{openOS(t, filepath.Join(t.TempDir(), "x"), os.O_WRONLY|os.O_CREATE)}); n != 8<<20-1 || err != io.ErrShortWrite {
			t.Error(n, err)
		}
	})
}

// waiting is a target that has a function called in the middle of each write.
type waiting struct {
	*os.File
	meanwhile func(p []byte)
}

func (w *waiting) Write(p []byte) (int, error) {
	n, err := w.File.Write(p[:len(p)/2])
	if err != nil {
		return n, err
	}
	w.meanwhile(p)
	m, err := w.File.Write(p[n:])
	return n + m, err
}

// While a target has a window, its blocks stay: only the window's, and only so long. A writer that may take its time is
// not handed any.
func TestWriteToPins(t *testing.T) {
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		const size = 10 << 20
		data := numbered(size)
		f := create(t, fsys, "f")
		_, err := f.Write(data)
		must(t, err)
		seek(t, f, 0)
		name := filepath.Join(pooltest.Dir(t), "target")
		windows := 0
		_, err = f.WriteTo(&waiting{openOS(t, name, os.O_WRONLY|os.O_CREATE), func(p []byte) {
			if windows++; windows == 2 {
				must(t, f.Relocate(0, 8<<20))
				wantError(t, f.Relocate(8<<20, 2<<20), pmemfs.ErrSealed, "f")
				return
			}
			wantError(t, f.Relocate(0, 8<<20), pmemfs.ErrSealed, "f")
			wantError(t, f.Truncate(5), pmemfs.ErrSealed, fmt.Sprint(os.Getpid()))
			must(t, f.Relocate(8<<20, 2<<20))
			_, err := f.WriteAt([]byte("in place"), 7<<20)
			must(t, err)
		}})
		must(t, err)
		must(t, f.Relocate(0, size))
		copy(data[7<<20:], "in place")
		wantFile(t, name, data)

		r, w, err := os.Pipe()
		must(t, err)
		defer r.Close()
		seek(t, f, 0)
		var copying sync.WaitGroup
		copying.Go(func() {
			if n, err := f.WriteTo(w); n != size || err != nil {
				t.Error(n, err)
			}
			w.Close()
		})
		got := make([]byte, 10)
		_, err = io.ReadFull(r, got)
		must(t, err) // now WriteTo waits for the rest to be read
		must(t, f.Relocate(0, size))
		rest, err := io.ReadAll(r)
		must(t, err)
		wantSame(t, "pipe", append(got, rest...), data)
		copying.Wait()
	})
}

// moverRole relocates a file until its input ends and says how often it could and could not: SOCKET FILE LENGTH.
func moverRole(args []string, in *bufio.Scanner) error {
	fsys, f, err := dialFile(args[0], args[1])
	if err != nil {
		return err
	}
	defer fsys.Close()
	var size, moved int
	if _, err := fmt.Sscan(args[2], &size); err != nil {
		return err
	}
	over := pooltest.UntilEnd(in)
	fmt.Println("moving")
	for {
		switch err := f.Relocate(0, int64(size)); {
		case err == nil:
			moved++
		case !errors.Is(err, unix.EBUSY): // pinned, as a rule
			return err
		}
		select {
		case <-over.Done():
			fmt.Println("moved", moved > 0)
			return nil
		default:
		}
	}
}

// While another process moves the file about, transfers lose nothing.
func TestTransfersWhileRelocated(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	const size = 10<<20 + 4321
	data := numbered(size)
	name := filepath.Join(pooltest.Dir(t), "other")
	f := create(t, fsys, "f")
	must(t, f.Truncate(size))
	mover := pooltest.Start(t, "mover", socket, "f", fmt.Sprint(size))
	mover.Expect("moving")
	for i := range 12 {
		for j := range data {
			data[j] += byte(i)
		}
		source := osFile(t, name, data, os.O_RDONLY)
		seek(t, f, 0)
		if n, err := f.ReadFrom(source); n != size || err != nil {
			t.Fatal(n, err)
		}
		seek(t, f, 0)
		target := openOS(t, name, os.O_WRONLY|os.O_TRUNC)
		if n, err := f.WriteTo(target); n != size || err != nil {
			t.Fatal(n, err)
		}
		wantFile(t, name, data)
	}
	must(t, mover.In.Close())
	mover.Expect("moved true")
	mover.Finish()
}

// Several goroutines share one file's position: each byte goes to one of them.
func TestWriteToShared(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	const size = 40 << 20
	f := create(t, fsys, "f")
	_, err := f.Write(numbered(size))
	must(t, err)
	seek(t, f, 0)
	var all sync.WaitGroup
	var mu sync.Mutex
	seen := map[uint64]bool{}
	dir := pooltest.Dir(t)
	for i := range 4 {
		name := filepath.Join(dir, fmt.Sprint(i))
		w := openOS(t, name, os.O_WRONLY|os.O_CREATE)
		all.Go(func() {
			if _, err := f.WriteTo(w); err != nil {
				t.Error(err)
			}
			got, err := os.ReadFile(name)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for at := 0; at < len(got); at += page {
				seen[binary.LittleEndian.Uint64(got[at:])] = true
			}
		})
	}
	all.Wait()
	if len(seen) != size/page {
		t.Errorf("%d of %d pages were written", len(seen), size/page)
	}
}

// More transfers at a time than a client may pin blocks for are all served.
func TestManyTransfers(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	const transfers = 40
	data := numbered(9 << 20)
	write(t, fsys, "f", string(data))
	want := sha256.Sum256(data)
	dir := pooltest.Dir(t)
	var inside, all sync.WaitGroup
	inside.Add(transfers)
	for i := range transfers {
		f, err := fsys.OpenFile("f", os.O_RDONLY, 0)
		must(t, err)
		defer f.Close()
		name := filepath.Join(dir, fmt.Sprint(i))
		first := true
		w := &waiting{openOS(t, name, os.O_WRONLY|os.O_CREATE), func([]byte) {
			if first { // until all have a window, or a copy
				inside.Done()
				inside.Wait()
			}
			first = false
		}}
		all.Go(func() {
			if n, err := f.WriteTo(w); n != int64(len(data)) || err != nil {
				t.Error(n, err)
			}
			if got, err := os.ReadFile(name); err != nil || sha256.Sum256(got) != want {
				t.Error(name, "is something else", err)
			}
		})
	}
	all.Wait()
}

// FS.Close waits for windows: their addresses are not given to anybody else while somebody writes from them.
func TestCloseDuringTransfer(t *testing.T) {
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		data := numbered(8 << 20)
		f := create(t, fsys, "f")
		_, err := f.Write(data)
		must(t, err)
		seek(t, f, 0)
		name := filepath.Join(pooltest.Dir(t), "target")
		closed := make(chan error, 1)
		n, err := f.WriteTo(&waiting{openOS(t, name, os.O_WRONLY|os.O_CREATE), func([]byte) {
			go func() { closed <- fsys.Close() }()
			select {
			case err := <-closed:
				closed <- err
				t.Error("Close did not wait for the window")
			case <-time.After(50 * time.Millisecond): // it may come later: nothing is wrong then
			}
		}})
		must(t, <-closed)
		if n != int64(len(data)) {
			t.Error(n)
		}
		if err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
		wantFile(t, name, data)
		if _, err := f.WriteTo(openOS(t, name, os.O_WRONLY)); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
}

// A server that dies in the middle of a window is an error, whether it is this program or the kernel who meets it first.
func TestServerDiesDuringTransfer(t *testing.T) {
	for _, loads := range []bool{false, true} {
		socket, srv := serve(t, newPool(t))
		fsys := dial(t, socket, pmemfs.Reconnect(0))
		f := create(t, fsys, "f")
		_, err := f.Write(numbered(8 << 20))
		must(t, err)
		seek(t, f, 0)
		target := openOS(t, filepath.Join(pooltest.Dir(t), "target"), os.O_WRONLY|os.O_CREATE)
		_, err = f.WriteTo(&waiting{target, func(p []byte) {
			srv.Kill()
			_, err := f.Stat()
			wantError(t, err, pmemfs.ErrServerGone, "f")
			if loads {
				sink += p[len(p)-1]
			}
		}})
		wantError(t, err, pmemfs.ErrServerGone, "f")
	}
}

// What ReadFrom has returned as written survives a power cut.
func TestReadFromDurable(t *testing.T) {
	dir, _ := directDir(t)
	pool := newPool(t)
	data := numbered(9<<20 + 100)
	source := osFile(t, filepath.Join(dir, "source"), data, os.O_RDONLY|unix.O_DIRECT)
	fsys := openPool(t, pool, pmemfs.PowerCut(rand.Uint64()))
	f := create(t, fsys, "f")
	if n, err := f.ReadFrom(source); n != int64(len(data)) || err != nil {
		t.Fatal(n, err)
	}
	_, err := fsys.CutPower()
	must(t, err)
	must(t, fsys.Close())
	wantContent(t, openPool(t, pool), "f", string(data))
}

// Behind a page cache transfers are mapped as well, and as durable.
func TestTransfersPageCache(t *testing.T) {
	dir, _ := directDir(t)
	pool := filepath.Join(dir, "pool")
	must(t, pmemfs.Format(pool, pmemfs.FormatOptions{Size: testPoolSize}))
	data := numbered(9<<20 + 5)
	source := osFile(t, filepath.Join(dir, "source"), data, os.O_RDONLY|unix.O_DIRECT)
	check := func(t *testing.T, fsys *pmemfs.FS) {
		f := create(t, fsys, "f")
		seek(t, source, 0)
		if n, err := f.ReadFrom(source); n != int64(len(data)) || err != nil {
			t.Fatal(n, err)
		}
		seek(t, f, 0)
		target := openOS(t, filepath.Join(dir, "target"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
		if n, err := f.WriteTo(target); n != int64(len(data)) || err != nil {
			t.Fatal(n, err)
		}
		wantFile(t, target.Name(), data)
	}
	t.Run("dialled", func(t *testing.T) {
		socket, srv := serve(t, pool)
		fsys := dial(t, socket)
		count := fsys.CountData()
		check(t, fsys)
		if r, w := count.Read.Load(), count.Written.Load(); r != 0 || w != 5 { // a part of a sector is copied
			t.Errorf("%d bytes were read and %d written by messages", r, w)
		}
		srv.Finish()
	})
	t.Run("embedded", func(t *testing.T) { check(t, openPool(t, pool)) })
	wantContent(t, openPool(t, pool), "f", string(data))
}

// copierRole copies a file into the pool, over and over: SOCKET FILE SOURCE.
func copierRole(args []string, _ *bufio.Scanner) error {
	fsys, err := pmemfs.Dial(args[0])
	if err != nil {
		return err
	}
	for {
		f, err := fsys.Create(args[1])
		if err != nil {
			return err
		}
		source, err := os.Open(args[2])
		if err != nil {
			return err
		}
		if _, err := f.ReadFrom(source); err != nil {
			return err
		}
		if err := errors.Join(source.Close(), f.Close()); err != nil {
			return err
		}
		fmt.Println("copied")
	}
}

// A client that is killed in the middle of ReadFrom leaves whole windows and one that is zeros where it was not filled.
func TestReadFromKilled(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	data := numbered(20 << 20)
	source := osFile(t, filepath.Join(pooltest.Dir(t), "source"), data, os.O_RDONLY)
	for range 10 {
		c := pooltest.Start(t, "copier", socket, "f", source.Name())
		c.Expect("copied")
		eventually(t, "it is in the middle", func() bool { // the size changes window by window
			fi, err := fsys.Stat("f")
			must(t, err)
			return 0 < fi.Size() && fi.Size() < int64(len(data))
		})
		c.Kill()
		got, err := fsys.ReadFile("f")
		must(t, err)
		if len(got) > len(data) {
			t.Fatal(len(got))
		}
		whole := max(0, (len(got)-1)/(8<<20)*(8<<20))
		wantSame(t, "f", got[:whole], data[:whole])
		for at := whole; at < len(got); at += 8 {
			if word := got[at : at+8]; !bytes.Equal(word, data[at:at+8]) && !bytes.Equal(word, make([]byte, 8)) {
				t.Fatalf("byte %d holds %x", at, word)
			}
		}
	}
}

// What a transfer takes with mapped windows and by messages: where they meet is where windows begin.
func BenchmarkTransfer(b *testing.B) {
	benchEach(b, func(b *testing.B, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		dir, _ := directDir(b)
		name := filepath.Join(dir, "other")
		for _, size := range []int{256 << 10, 512 << 10, 1 << 20, 4 << 20, 16 << 20} {
			f := create(b, fsys, "f")
			_, err := f.Write(numbered(size))
			must(b, err)
			for _, flag := range []int{0, unix.O_DIRECT} {
				other := openOS(b, name, os.O_RDWR|os.O_CREATE|flag)
				for _, c := range []struct {
					what     string
					transfer func() (int64, error)
				}{
					{"WriteTo", func() (int64, error) { return f.WriteTo(other) }},
					{"WriteTo/copied", func() (int64, error) { return f.WriteTo(struct{ io.Writer }{other}) }},
					{"ReadFrom", func() (int64, error) { return f.ReadFrom(other) }},
					{"ReadFrom/copied", func() (int64, error) { return f.ReadFrom(struct{ io.Reader }{other}) }},
				} {
					b.Run(fmt.Sprintf("%s/direct=%t/%dK", c.what, flag != 0, size>>10), func(b *testing.B) {
						b.SetBytes(int64(size))
						for b.Loop() {
							seek(b, f, 0)
							seek(b, other, 0)
							if n, err := c.transfer(); n != int64(size) || err != nil {
								b.Fatal(n, err)
							}
						}
					})
				}
			}
			must(b, os.Remove(name))
		}
	})
}
