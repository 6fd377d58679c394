package pmemfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/internal/server"
)

// filledFile makes a file of written blocks, each full of its number plus one.
func filledFile(t testing.TB, fsys *pmemfs.FS, name string, blocks int) *pmemfs.File {
	t.Helper()
	f := create(t, fsys, name)
	data := make([]byte, blocks*page)
	for i := range data {
		data[i] = byte(i/page + 1)
	}
	_, err := f.WriteAt(data, 0)
	must(t, err)
	return f
}

// mixedFile makes a file of 8 blocks, the last of them in part: block 3 is a hole, block 5 is unwritten.
func mixedFile(t testing.TB, fsys *pmemfs.FS, name string) *pmemfs.File {
	t.Helper()
	f := filledFile(t, fsys, name, 8)
	must(t, f.Truncate(cellLen))
	must(t, f.PunchHole(3*page, page))
	must(t, f.ZeroRange(5*page, page))
	return f
}

func contentOf(t testing.TB, f *pmemfs.File) []byte {
	t.Helper()
	fi, err := f.Stat()
	must(t, err)
	b := make([]byte, fi.Size())
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b
}

func extentsOf(t testing.TB, f *pmemfs.File) []pmemfs.Extent {
	t.Helper()
	list, err := f.Extents()
	must(t, err)
	return list
}

// wantUnfilled checks that an error says which block is not filled, and what it is.
func wantUnfilled(t *testing.T, err error, offset int64, what string) {
	t.Helper()
	var unfilled *pmemfs.UnfilledError
	want := pmemfs.UnfilledError{Offset: offset, What: what}
	if !errors.As(err, &unfilled) || !errors.Is(err, unix.EINVAL) || *unfilled != want {
		t.Errorf("got %v, want %s at %d", err, what, offset)
		return
	}
	for _, part := range []string{what, fmt.Sprint(offset), "fill"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

// wantSealedBy checks that an error names a seal.
func wantSealedBy(t *testing.T, err error, want pmemfs.SealedError) {
	t.Helper()
	var sealed *pmemfs.SealedError
	if !errors.As(err, &sealed) || *sealed != want || !errors.Is(err, pmemfs.ErrSealed) || !errors.Is(err, unix.EBUSY) ||
		errors.Is(err, pmemfs.ErrStatic) {
		t.Errorf("got %v, want %+v", err, want)
	}
}

// wantUnchanged checks that what is refused leaves no trace: the map of the file's blocks, its attributes, what is recorded.
func wantUnchanged(t *testing.T, fsys *pmemfs.FS, f *pmemfs.File, try func()) {
	t.Helper()
	type all struct {
		Extents []pmemfs.Extent
		Stat    pmemfs.Stat
		Frames  pmemfs.Frames
		Use     pmemfs.StatfsInfo
	}
	look := func() (a all) {
		var err error
		a.Extents, a.Stat, a.Frames = extentsOf(t, f), statOf(t, f), frames(t, fsys)
		a.Use, err = fsys.Statfs()
		must(t, err)
		return a
	}
	before := look()
	try()
	if after := look(); !reflect.DeepEqual(before, after) {
		t.Errorf("something has changed:\nbefore %+v\nafter  %+v", before, after)
	}
}

// A range that cannot be sealed is refused with the first block that is in the way, and nothing has happened.
func TestDirectRefused(t *testing.T) {
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		f := mixedFile(t, fsys, "f")
		r, err := fsys.OpenFile("f", os.O_RDONLY, 0)
		must(t, err)
		defer r.Close()
		wantUnchanged(t, fsys, f, func() {
			for _, c := range []struct {
				f      *pmemfs.File
				off, n int64
				flags  pmemfs.MapFlags
				offset int64
				what   string
			}{
				{f, 0, 8 * page, pmemfs.Direct, 3 * page, "a hole"},
				{f, 0, 3*page + 1, pmemfs.Direct, 3 * page, "a hole"},
				{f, 3 * page, page, pmemfs.Direct | pmemfs.Shared, 3 * page, "a hole"},
				{f, 4 * page, 4 * page, pmemfs.Direct, 5 * page, "unwritten"},
				{f, 5 * page, 1, pmemfs.Direct | pmemfs.ReadOnly, 5 * page, "unwritten"},
				{r, 0, 8 * page, pmemfs.Direct | pmemfs.ReadOnly, 3 * page, "a hole"},
				{r, 4 * page, 4 * page, pmemfs.Direct | pmemfs.ReadOnly | pmemfs.Populate, 5 * page, "unwritten"}, // cannot be filled
			} {
				_, err := c.f.Map(c.off, int(c.n), c.flags)
				wantUnfilled(t, err, c.offset, c.what)
			}
			for _, c := range [][2]int64{{6 * page, 3 * page}, {8 * page, page}, {0, 100 * page}, {1 << 30, page}} {
				for _, flags := range []pmemfs.MapFlags{pmemfs.Direct, pmemfs.Direct | pmemfs.Populate, pmemfs.Direct | pmemfs.ReadOnly} {
					_, err := f.Map(c[0], int(c[1]), flags)
					wantError(t, err, unix.ENXIO, "f")
				}
			}
			_, err = r.Map(0, page, pmemfs.Direct)
			wantError(t, err, unix.EBADF, "f")
		})
		// What is filled can be sealed, the rest of the last page included.
		for _, c := range [][2]int64{{0, 3 * page}, {4 * page, page}, {6 * page, 2 * page}, {7 * page, page - 1000}} {
			m, err := f.Map(c[0], int(c[1]), pmemfs.Direct)
			must(t, err)
			m.Bytes()[0]++
			must(t, m.Persist(0, 1))
			must(t, m.Unmap())
		}
		if got := frames(t, fsys); got.Records != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// Populate fills what Direct needs filled, and the contents stay.
func TestDirectPopulate(t *testing.T) {
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		for i, flags := range []pmemfs.MapFlags{pmemfs.Direct | pmemfs.Populate, pmemfs.Direct | pmemfs.Populate | pmemfs.ReadOnly} {
			f := mixedFile(t, fsys, fmt.Sprint("f", i))
			want := contentOf(t, f)
			m, err := f.Map(page, 6*page, flags)
			must(t, err)
			for _, e := range extentsOf(t, f) {
				if e.Block < 0 || e.Unwritten {
					t.Errorf("%+v", e)
				}
			}
			if !bytes.Equal(m.Bytes(), want[page:7*page]) || !bytes.Equal(contentOf(t, f), want) {
				t.Error("the contents have changed")
			}
			if got := frames(t, fsys); got.Seals != 1 || got.SealedBlocks != 6 || got.GrantedBlocks != 6 {
				t.Errorf("%+v", got)
			}
			must(t, m.Unmap())
		}
	})
}

// Fill, and Direct later, as two steps.
func TestFill(t *testing.T) {
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		f := mixedFile(t, fsys, "f")
		r, err := fsys.OpenFile("f", os.O_RDONLY, 0)
		must(t, err)
		defer r.Close()
		must(t, fsys.Mkdir("d", 0o700))
		d, err := fsys.OpenFile("d", os.O_RDONLY, 0)
		must(t, err)
		defer d.Close()
		wantUnchanged(t, fsys, f, func() {
			wantError(t, r.Fill(0, page), unix.EBADF, "f")
			wantError(t, d.Fill(0, page), unix.EISDIR, "d")
			for _, c := range [][2]int64{{0, 0}, {-1, page}, {0, -1}} {
				wantError(t, f.Fill(c[0], c[1]), unix.EINVAL, "f")
			}
			for _, c := range [][2]int64{{0, 9 * page}, {8 * page, 1}, {3 * page, 1 << 40}, {1 << 43, 1}} {
				wantError(t, f.Fill(c[0], c[1]), unix.ENXIO, "f")
			}
		})
		want := contentOf(t, f)
		must(t, f.Fill(3*page+17, 1)) // all of the block
		_, err = f.Map(0, 8*page, pmemfs.Direct)
		wantUnfilled(t, err, 5*page, "unwritten")
		must(t, f.Fill(0, 8*page))
		filled := extentsOf(t, f)
		must(t, f.Fill(0, cellLen))
		if again := extentsOf(t, f); !reflect.DeepEqual(filled, again) {
			t.Errorf("filled twice: %+v, %+v", filled, again)
		}
		m := mapped(t, f, 0, 8*page, pmemfs.Direct)
		if !bytes.Equal(m.Bytes()[:cellLen], want) {
			t.Error("the contents have changed")
		}
		// What there is no room for may be filled in part, but nothing is lost.
		before, err := fsys.Statfs()
		must(t, err)
		g := sized(t, fsys, "g", 2*testPoolSize)
		wantError(t, g.Fill(0, 2*testPoolSize), unix.ENOSPC, "g")
		after, err := fsys.Statfs()
		must(t, err)
		if used := statOf(t, g).Blocks; after.FreeBlocks != before.FreeBlocks-used {
			t.Errorf("%d blocks were filled; %d were free, %d are", used, before.FreeBlocks, after.FreeBlocks)
		}
		must(t, g.Truncate(page))
		must(t, g.Fill(0, page))
	})
}

// A seal holds its blocks, and nothing else of the file: the unit is the block.
func TestSealUnit(t *testing.T) {
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		f := filledFile(t, fsys, "f", 16)
		must(t, f.PunchHole(12*page, page))
		const last = 100 // bytes of block 7
		m := mapped(t, f, 4*page, 3*page+last, pmemfs.Direct)
		want := pmemfs.SealedError{PID: os.Getpid(), Handle: f.Handle(), Offset: 4 * page, Length: 4 * page}
		sealed := extentsOf(t, f)[0]
		for _, err := range []error{
			f.PunchHole(3*page, 2*page), f.PunchHole(7*page, page), f.PunchHole(7*page-1, page+1),
			f.ZeroRange(7*page, 3*page), f.ZeroRange(0, 5*page),
			f.Relocate(7*page+last, 1), f.Relocate(0, 16*page), f.Relocate(4*page, 1),
			f.Truncate(7*page + last), f.Truncate(7*page + 1), f.Truncate(8*page - 1), f.Truncate(4 * page), f.Truncate(4*page - 1),
			f.Truncate(0), fsys.Truncate("f", 5*page),
		} {
			wantSealedBy(t, err, want)
		}
		for i, err := range []error{
			f.PunchHole(8*page, page), f.PunchHole(2*page, 2*page+1), f.PunchHole(7*page+1, 2*page-1), f.PunchHole(12*page, page),
			f.ZeroRange(8*page, 2*page), f.ZeroRange(3*page, page+100), f.Relocate(0, 4*page), f.Relocate(8*page, 8*page),
			f.Allocate(0, 16*page, false), f.Fill(0, 16*page), f.Truncate(40 * page), f.Truncate(8 * page), f.Truncate(16 * page),
		} {
			if err != nil {
				t.Errorf("operation %d elsewhere: %v", i, err)
			}
		}
		if now := extentAt(t, f, 4*page); now.Block+(4*page-now.Offset)/page != sealed.Block+4 {
			t.Errorf("a sealed block has moved: %+v, %+v", sealed, now)
		}
		// Other holders come and go; one without a seal gives way, the seal stays.
		other := mapped(t, f, 0, 16*page, kind|pmemfs.Populate)
		must(t, f.PunchHole(8*page, 4*page))
		wantSealedBy(t, f.PunchHole(4*page, 8*page), want)
		if other.Bytes()[8*page] != 0 || other.Bytes()[5*page] != 6 || m.Bytes()[page] != 6 {
			t.Error("a mapping does not show the file")
		}
	})
}

// While other operations go on, no access to a sealed range fails, not even for a moment.
func TestSealUnderLoad(t *testing.T) {
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		f := filledFile(t, fsys, "f", 16)
		m := mapped(t, f, 4*page, 4*page, pmemfs.Direct)
		before := frames(t, fsys)
		var done atomic.Bool
		var storing sync.WaitGroup
		var stored uint64
		storing.Go(func() {
			err := pmemfs.Catch(func() {
				for ; !done.Load() || stored == 0; stored++ {
					counterAt(m, int(stored%4)*page).Store(stored)
				}
			})
			if err != nil {
				t.Error(err)
			}
		})
		for range 50 {
			must(t, f.Relocate(0, 4*page))
			must(t, f.PunchHole(8*page, 4*page))
			must(t, f.Truncate(12*page))
			must(t, f.Truncate(16*page))
			wantError(t, f.Truncate(6*page), pmemfs.ErrSealed, "f")
			wantError(t, f.Relocate(0, 16*page), pmemfs.ErrSealed, "f")
		}
		done.Store(true)
		storing.Wait()
		if after := frames(t, fsys); after != before {
			t.Errorf("before %+v, after %+v", before, after)
		}
		for i := range 4 {
			got, want := counterAt(m, i*page).Load(), (stored-1)-((stored-1)-uint64(i))%4
			if stored > 4 && got != want {
				t.Errorf("word %d holds %d, want %d of %d", i, got, want, stored)
			}
		}
	})
}

// All of a Direct mapping is granted when it is made, and of a populated one: no access needs the server, which is stopped.
func TestDirectNeverFaults(t *testing.T) {
	socket, srv := serve(t, newPool(t))
	fsys := dial(t, socket)
	for _, flags := range []pmemfs.MapFlags{
		pmemfs.Direct, pmemfs.Direct | pmemfs.ReadOnly, pmemfs.Sync | pmemfs.Populate,
		pmemfs.Shared | pmemfs.Populate | pmemfs.ReadOnly,
	} {
		t.Run(flags.String(), func(t *testing.T) {
			f := fragmented(t, fsys, "f", 64)
			m := mapped(t, f, 0, 64*page, flags)
			granted := frames(t, fsys)
			if granted.GrantedBlocks != 64 {
				t.Errorf("%+v", granted)
			}
			must(t, srv.Cmd.Process.Signal(unix.SIGSTOP))
			woken := time.AfterFunc(20*time.Second, func() { srv.Cmd.Process.Signal(unix.SIGCONT) })
			for at := 0; at < 64*page; at += page {
				if flags&pmemfs.ReadOnly == 0 {
					m.Bytes()[at+1]++
				}
				sink = m.Bytes()[at]
			}
			must(t, m.Persist(0, 64*page))
			if !woken.Stop() {
				t.Error("an access has waited for the server")
			}
			must(t, srv.Cmd.Process.Signal(unix.SIGCONT))
			if after := frames(t, fsys); after != granted {
				t.Errorf("before the accesses %+v, after them %+v", granted, after)
			}
		})
	}
}

// fragmented makes a file in which no two blocks that follow each other do so on the medium.
func fragmented(t testing.TB, fsys *pmemfs.FS, name string, blocks int64) *pmemfs.File {
	t.Helper()
	f, other := create(t, fsys, name), create(t, fsys, name+"-between")
	for i := range blocks {
		for _, f := range []*pmemfs.File{f, other} {
			_, err := f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, page), i*page)
			must(t, err)
		}
	}
	if n := int64(len(extentsOf(t, f))); n < blocks*3/4 {
		t.Fatalf("%d blocks are in %d pieces only", blocks, n)
	}
	return f
}

// Several processes can seal the same range; it is free when the last of them has unmapped it, or is dead.
func TestSealEnds(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	f := filledFile(t, fsys, "f", 8)
	// hold starts a client that seals blocks 1 to 4.
	hold := func(t *testing.T) (*remoteClient, pmemfs.SealedError) {
		c := startClient(t, socket)
		handle := do(t, c, order{Do: "open", Name: "f", Flags: unix.O_RDWR}).Handle
		do(t, c, order{Do: "map", Off: page, N: 4 * page, Flags: uint32(pmemfs.Direct)})
		return c, pmemfs.SealedError{PID: c.Cmd.Process.Pid, Handle: handle, Offset: page, Length: 4 * page}
	}
	t.Run("unmap", func(t *testing.T) {
		c, seal := hold(t)
		wantSealedBy(t, f.PunchHole(2*page, page), seal)
		do(t, c, order{Do: "close"}) // the file, not the mapping
		wantSealedBy(t, f.PunchHole(2*page, page), seal)
		do(t, c, order{Do: "store", N: 4 * page, Byte: 9})
		do(t, c, order{Do: "unmap"})
		must(t, f.Relocate(0, 8*page))
	})
	for name, end := range map[string]func(*remoteClient){"kill": (*remoteClient).Kill, "exit": (*remoteClient).Finish} {
		t.Run(name, func(t *testing.T) {
			c, seal := hold(t)
			wantSealedBy(t, f.PunchHole(2*page, page), seal)
			end(c)
			eventually(t, "the seal of a client that has ended is gone", func() bool { return frames(t, fsys).Records == 0 })
			must(t, f.Relocate(0, 8*page))
		})
	}
	t.Run("two", func(t *testing.T) {
		first, _ := hold(t)
		do(t, first, order{Do: "map", Map: 1, N: 8 * page, Flags: uint32(pmemfs.Direct)})
		second, seal := hold(t)
		do(t, first, order{Do: "store", Off: 2, N: 1, Byte: 111})
		do(t, second, order{Do: "compare"})
		if got := do(t, second, order{Do: "load", Off: 2, N: 1}).Data; got[0] != 111 {
			t.Error("two sealed mappings of one range show different things")
		}
		do(t, first, order{Do: "unmap"})
		wantError(t, f.PunchHole(2*page, page), pmemfs.ErrSealed, "f")
		do(t, first, order{Do: "unmap", Map: 1})
		wantSealedBy(t, f.PunchHole(2*page, page), seal)
		must(t, f.PunchHole(6*page, page)) // was sealed by the first one only
		do(t, second, order{Do: "unmap"})
		must(t, f.PunchHole(2*page, page))
	})
}

// FS.Close ends seals, as Unmap does.
func TestSealClose(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys, other := dial(t, socket), dial(t, socket)
	f := filledFile(t, other, "f", 8)
	g, err := fsys.OpenFile("f", os.O_RDWR, 0)
	must(t, err)
	_, err = g.Map(0, 8*page, pmemfs.Direct)
	must(t, err)
	wantError(t, f.Truncate(0), pmemfs.ErrSealed, "f")
	must(t, fsys.Close())
	must(t, f.Truncate(0))
}

// A sealed file that has no name any more keeps its blocks, however full the pool gets, until it is unmapped.
func TestSealOfRemovedFile(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	const blocks = 256
	must(t, filledFile(t, fsys, "f", blocks).Close())
	var clients []*remoteClient
	for range 2 {
		c := startClient(t, socket)
		do(t, c, order{Do: "open", Name: "f", Flags: unix.O_RDWR})
		do(t, c, order{Do: "map", N: blocks * page, Flags: uint32(pmemfs.Direct)})
		do(t, c, order{Do: "close"})
		clients = append(clients, c)
	}
	must(t, fsys.Remove("f"))
	filler := create(t, fsys, "filler")
	_, err := filler.ReadFrom(&repeated{0xEE})
	wantError(t, err, unix.ENOSPC, "filler")
	for round := range 2 {
		for i, c := range clients {
			for block := range int64(blocks) {
				a := do(t, c, order{Do: "load", Off: block * page, N: page})
				if want := byte(block + 1); a.Data[0] != want || bytes.Count(a.Data, a.Data[:1]) != page {
					t.Fatalf("round %d, client %d: block %d of a removed file holds %#x", round, i, block, a.Data[:16])
				}
			}
		}
		do(t, clients[round], order{Do: "store", N: page, Byte: 1})
	}
	do(t, clients[0], order{Do: "unmap"})
	_, err = filler.Write(make([]byte, page))
	wantError(t, err, unix.ENOSPC, "filler")
	clients[1].Kill()
	eventually(t, "the blocks of a removed file are free when nobody has sealed them any more", func() bool {
		st, err := fsys.Statfs()
		must(t, err)
		return st.FreeBlocks >= blocks
	})
	n, err := filler.ReadFrom(io.LimitReader(&repeated{0xEE}, blocks*page))
	if n != blocks*page || err != nil {
		t.Error(n, err)
	}
}

// repeated is one byte, without end.
type repeated struct{ b byte }

func (r *repeated) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r.b
	}
	return len(p), nil
}

// While somebody else makes holes all the time, Map either fills and seals a range or says which block is in the way.
func TestDirectPopulateAgainstPunch(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys, other := dial(t, socket), dial(t, socket)
	f := filledFile(t, fsys, "f", 8)
	g, err := other.OpenFile("f", os.O_RDWR, 0)
	must(t, err)
	var done atomic.Bool
	var punching sync.WaitGroup
	var refused, punched int
	punching.Go(func() {
		for i := int64(0); !done.Load(); i++ {
			switch err := g.PunchHole(i%8*page, page); {
			case err == nil:
				punched++
			case errors.Is(err, pmemfs.ErrSealed):
				refused++
			default:
				t.Error(err)
				return
			}
		}
	})
	sealed := 0
	for i := 0; i < 200 || sealed == 0 && i < 20000; i++ {
		m, err := f.Map(0, 8*page, pmemfs.Direct|pmemfs.Populate)
		var unfilled *pmemfs.UnfilledError
		if errors.As(err, &unfilled) {
			continue
		}
		must(t, err)
		sealed++
		list := extentsOf(t, f)
		for at := 0; at < 8*page; at += page {
			m.Bytes()[at] = byte(i)
		}
		for at, b := range contentOf(t, f) {
			if at%page == 0 && b != byte(i) {
				t.Fatalf("a store to page %d of a sealed range does not reach the file", at/page)
			}
		}
		if now := extentsOf(t, f); !reflect.DeepEqual(list, now) {
			t.Fatalf("sealed blocks have moved: %+v, %+v", list, now)
		}
		must(t, m.Unmap())
	}
	done.Store(true)
	punching.Wait()
	t.Logf("sealed %d times; %d holes made, %d refused", sealed, punched, refused)
	if sealed == 0 || punched == 0 {
		t.Error("nothing happened")
	}
}

// Static files: what freezes them, what is refused then, what is not, and that it lasts.
func TestStatic(t *testing.T) {
	pool := newPool(t)
	fsys := openPool(t, pool)
	f := mixedFile(t, fsys, "f")
	must(t, fsys.Mkdir("d", 0o755))
	d, err := fsys.OpenFile("d", os.O_RDONLY, 0)
	must(t, err)
	wantError(t, d.SetStatic(true), unix.EINVAL, "d")
	wantUnfilled(t, f.SetStatic(true), 3*page, "a hole")
	must(t, f.Fill(3*page, page))
	wantUnfilled(t, f.SetStatic(true), 5*page, "unwritten")
	must(t, f.Fill(0, cellLen))
	must(t, f.Allocate(8*page, page, true)) // beyond the end, which is frozen, too
	if statOf(t, f).Static {
		t.Error("the file is static before it was frozen")
	}
	r, err := fsys.OpenFile("f", os.O_RDONLY, 0) // enough to freeze
	must(t, err)
	must(t, r.SetStatic(true))
	must(t, f.SetStatic(true))
	empty := create(t, fsys, "empty")
	must(t, empty.SetStatic(true))
	content, extents := contentOf(t, f), extentsOf(t, f)
	must(t, fsys.Close())
	for name, reopen := range map[string]func(*testing.T) *pmemfs.FS{
		"embedded": func(t *testing.T) *pmemfs.FS { return openPool(t, pool) },
		"dialled":  func(t *testing.T) *pmemfs.FS { return dial(t, serveHere(t, pool)) },
	} {
		t.Run(name, func(t *testing.T) {
			fsys := reopen(t)
			f, err := fsys.OpenFile("f", os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			fi, err := fsys.Stat("f")
			must(t, err)
			if !fi.Sys().(*pmemfs.Stat).Static {
				t.Error("a static file is not static after the pool was opened again")
			}
			staticRefuses(t, fsys, f)
			if !bytes.Equal(contentOf(t, f), content) || !reflect.DeepEqual(extentsOf(t, f), extents) {
				t.Error("what was refused has changed the file")
			}
			must(t, fsys.Close())
		})
	}
	checkClean(t, pool)
	fsys = openPool(t, pool)
	f, err = fsys.OpenFile("f", os.O_RDWR, 0)
	must(t, err)
	must(t, fsys.Rename("f", "g"))
	must(t, f.SetStatic(false))
	must(t, f.SetStatic(false))
	must(t, f.Truncate(100*page))
	must(t, f.Truncate(0))
	must(t, f.Relocate(0, page))
	must(t, fsys.Close())
	checkClean(t, pool)
}

// staticRefuses tries everything that must be refused for the static files f, of 8 blocks, and empty.
func staticRefuses(t *testing.T, fsys *pmemfs.FS, f *pmemfs.File) {
	t.Helper()
	appender, err := fsys.OpenFile("f", os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer appender.Close()
	empty, err := fsys.OpenFile("empty", os.O_RDWR|os.O_TRUNC, 0) // which changes nothing
	must(t, err)
	defer empty.Close()
	wantUnchanged(t, fsys, f, func() {
		_, create := fsys.Create("f")
		_, truncating := fsys.OpenFile("f", os.O_RDONLY|os.O_TRUNC, 0)
		_, write := f.WriteAt([]byte("x"), cellLen)
		_, across := f.WriteAt(make([]byte, page), cellLen-100)
		_, beyond := f.WriteAt([]byte("x"), 1<<30)
		_, appending := appender.WriteString("x")
		_, first := empty.WriteString("x")
		for i, err := range []error{
			create, truncating, write, across, beyond, appending, first, fsys.WriteFile("f", nil, 0o600),
			f.Truncate(0), f.Truncate(cellLen - 1), f.Truncate(cellLen + 1), f.Truncate(8 * page), fsys.Truncate("f", 1),
			empty.Truncate(1), f.PunchHole(0, page), f.PunchHole(0, 1<<30), f.PunchHole(100*page, page), f.ZeroRange(page, page), f.ZeroRange(7*page, page),
			f.Allocate(7*page, page, false), f.Allocate(8*page, page, true), empty.Allocate(0, 1, true), empty.Allocate(0, 1, false),
			f.Relocate(0, page), f.Relocate(0, 1<<30),
		} {
			if !errors.Is(err, pmemfs.ErrStatic) || !errors.Is(err, pmemfs.ErrSealed) || !errors.Is(err, unix.EBUSY) ||
				errors.As(err, new(*pmemfs.SealedError)) {
				t.Errorf("operation %d on a static file: %v", i, err)
			}
		}
	})
	_, err = f.WriteAt([]byte("w"), 0)
	must(t, err)
	_, err = f.WriteAt([]byte{1}, 0)
	must(t, err)
	_, err = f.WriteAt(nil, 1<<30)
	must(t, err)
	must(t, f.Allocate(0, cellLen, false))
	must(t, f.Allocate(0, 8*page, true))
	must(t, f.Fill(0, 8*page))
	must(t, empty.Truncate(0))
}

// A static file may be mapped in every way, removed, and thawed under a seal, which stays.
func TestStaticMapped(t *testing.T) {
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		before, err := fsys.Statfs()
		must(t, err)
		f := filledFile(t, fsys, "f", 8)
		must(t, f.SetStatic(true))
		direct, err := f.Map(0, 4*page, pmemfs.Direct|pmemfs.Populate)
		must(t, err)
		m, err := f.Map(0, 16*page, kind) // reaches beyond the end, where nothing is
		must(t, err)
		for at := 0; at < 8*page; at += page {
			m.Bytes()[at] = byte(at/page + 100)
		}
		wantFault(t, func() { m.Bytes()[8*page] = 1 }, "f", 8*page, unix.ENXIO)
		if direct.Bytes()[3*page] != 103 {
			t.Error("two mappings of a static file differ")
		}
		unpin, err := m.Pin(4*page, 4*page)
		must(t, err)
		wantError(t, f.PunchHole(0, page), pmemfs.ErrStatic, "f")
		must(t, f.SetStatic(false))
		in := pmemfs.SealedError{PID: os.Getpid(), Handle: f.Handle(), Length: 4 * page}
		wantSealedBy(t, f.PunchHole(0, page), in)
		in.Offset, in.Pin = 4*page, true
		wantSealedBy(t, f.PunchHole(4*page, page), in)
		unpin()
		if kind != pmemfs.Shared { // without a server the mapping is filled again
			must(t, f.PunchHole(4*page, page))
			wantUnfilled(t, f.SetStatic(true), 4*page, "a hole")
		}
		must(t, direct.Unmap())
		must(t, f.PunchHole(0, page))
		must(t, f.Fill(0, 8*page))
		must(t, f.SetStatic(true))
		must(t, fsys.Remove("f")) // and f can be used on
		must(t, m.Unmap())
		wantError(t, f.Truncate(0), pmemfs.ErrStatic, "f")
		must(t, f.Close())
		after, err := fsys.Statfs()
		must(t, err)
		if after.FreeBlocks != before.FreeBlocks || after.FreeInodes != before.FreeInodes {
			t.Errorf("before %+v, after %+v", before, after)
		}
		// The inode's number may be another file's now, which is not static.
		must(t, filledFile(t, fsys, "g", 1).Truncate(0))
	})
}

// What a power cut leaves: filled blocks, static files, persisted stores through a Direct mapping; no seal, no other store.
func TestSealPowerCut(t *testing.T) {
	pool := newPool(t)
	fsys := openPool(t, pool, pmemfs.PowerCut(0))
	f := sized(t, fsys, "f", 8*page)
	must(t, f.Fill(0, 8*page))
	g := filledFile(t, fsys, "g", 8)
	must(t, g.Sync())
	must(t, g.SetStatic(true))
	m, err := f.Map(0, 8*page, pmemfs.Direct)
	must(t, err)
	for i := range 8 {
		m.Bytes()[i*page] = byte(i + 1)
		if i%2 == 0 {
			must(t, m.Persist(i*page, 1))
		}
	}
	u := sized(t, fsys, "u", 8*page)
	must(t, u.Fill(0, 8*page))
	must(t, u.Sync())
	unchecked, err := u.Map(0, 8*page, pmemfs.Unchecked)
	must(t, err)
	unchecked.Bytes()[5*page] = 55
	must(t, unchecked.Persist(5*page, 1))
	_, err = fsys.CutPower()
	must(t, err)
	fsys.Close()
	fsys = openPool(t, pool)
	for _, c := range []struct {
		name string
		want [8]byte
	}{{"f", [8]byte{1, 0, 3, 0, 5, 0, 7, 0}}, {"g", [8]byte{1, 2, 3, 4, 5, 6, 7, 8}}, {"u", [8]byte{5: 55}}} {
		data, err := fsys.ReadFile(c.name)
		must(t, err)
		for i, want := range c.want {
			if got := data[i*page]; got != want {
				t.Errorf("%s: block %d holds %d, want %d", c.name, i, got, want)
			}
		}
	}
	f, err = fsys.OpenFile("f", os.O_RDWR, 0)
	must(t, err)
	g, err = fsys.OpenFile("g", os.O_RDWR, 0)
	must(t, err)
	for _, e := range append(extentsOf(t, f), extentsOf(t, g)...) {
		if e.Block < 0 || e.Unwritten {
			t.Errorf("%+v", e)
		}
	}
	wantError(t, g.Truncate(0), pmemfs.ErrStatic, "g")
	must(t, g.SetStatic(false))
	must(t, g.Truncate(0))
	must(t, f.Truncate(0)) // its seal is gone
	must(t, fsys.Close())
	checkClean(t, pool)
}

// Who may seal and freeze: those who have CAP_LINUX_IMMUTABLE at that moment, here and not in a user namespace of their own,
// and the members of a group. Everybody may pin.
func TestSealPrivilege(t *testing.T) {
	skipUnlessRoot(t)
	pool := newPool(t)
	fsys := openPool(t, pool)
	must(t, filledFile(t, fsys, "f", 8).Chmod(0o666))
	must(t, fsys.Close())
	socket, _ := serve(t, pool, "666", "-1", serverConfig{DirectGroups: []uint32{4321, 4322}}.String())
	must(t, os.Chmod(filepath.Dir(socket), 0o755))
	everyID := []syscall.SysProcIDMap{{Size: 1<<32 - 1}}
	own := []syscall.SysProcIDMap{{Size: 1}}
	namespace := func(ids []syscall.SysProcIDMap) func(*exec.Cmd) {
		return func(c *exec.Cmd) {
			c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
		}
	}
	for _, c := range []struct {
		name    string
		prepare func(*exec.Cmd)
		what    []string
		orders  []order
		want    error
	}{
		{name: "root"},
		{name: "user", what: []string{"user=65534,65534,65534"}, want: unix.EPERM},
		{name: "member", what: []string{"user=65534,65534,4321"}},
		{name: "group", what: []string{"user=65534,4322,65534"}},
		{name: "dropped before", what: []string{clientDrops, "drop"}, want: unix.EPERM},
		{name: "dropped after", what: []string{clientDrops}, orders: []order{{Do: "drop"}}, want: unix.EPERM},
		{name: "namespace of one", prepare: namespace(own), want: unix.EPERM},
		{name: "namespace of all", prepare: namespace(everyID), want: unix.EPERM},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.prepare != nil {
				skipWithoutNamespaces(t, c.prepare)
			}
			client := startClientWith(t, c.prepare, socket, c.what...)
			do(t, client, order{Do: "open", Name: "f", Flags: unix.O_RDWR})
			for _, o := range c.orders {
				do(t, client, o)
			}
			for i, o := range []order{
				{Do: "map", Map: 1, N: 4 * page, Flags: uint32(pmemfs.Direct)},
				{Do: "map", Map: 2, N: 4 * page, Flags: uint32(pmemfs.Direct | pmemfs.ReadOnly | pmemfs.Populate)},
				{Do: "freeze"}, {Do: "thaw"}, {Do: "allow"},
			} {
				err := client.obey(o).err()
				if c.want == nil {
					must(t, err)
					continue
				}
				wantError(t, err, c.want, "f")
				wantError(t, err, c.want, "CAP_LINUX_IMMUTABLE")
				wantError(t, err, c.want, fmt.Sprintf("process %d", client.Cmd.Process.Pid))
				if i == 4 { // a handle that it could not flag is not flagged
					wantError(t, client.obey(order{Do: "map", N: page, Flags: uint32(pmemfs.Direct)}).err(), c.want, "f")
				}
			}
			do(t, client, order{Do: "map", Map: 3, N: 4 * page, Flags: uint32(pmemfs.Shared)})
			do(t, client, order{Do: "pin", Map: 3, N: 4 * page})
			client.Finish()
		})
	}
	other := dial(t, socket)
	eventually(t, "the clients are gone", func() bool { return frames(t, other).Records == 0 })
}

// skipWithoutNamespaces skips a test where the kernel makes no user namespaces.
func skipWithoutNamespaces(t *testing.T, prepare func(*exec.Cmd)) {
	t.Helper()
	cmd := exec.Command("/bin/true")
	prepare(cmd)
	if err := cmd.Run(); err != nil {
		t.Skipf("SKIPPED: no user namespaces here: %v", err)
	}
}

// A handle that somebody privileged has flagged may be used by whoever has it, and no other handle of the same file.
func TestSealAllowDirect(t *testing.T) {
	skipUnlessRoot(t)
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	filledFile(t, fsys, "f", 8)
	c := startClient(t, socket, clientDrops)
	for i := range 3 {
		do(t, c, order{Do: "open", File: i, Name: "f", Flags: unix.O_RDWR})
	}
	do(t, c, order{Do: "allow", File: 1})
	do(t, c, order{Do: "map", File: 2, N: page, Flags: uint32(pmemfs.Direct)})
	do(t, c, order{Do: "drop"})
	for i, want := range []error{unix.EPERM, nil, unix.EPERM} {
		err := c.obey(order{Do: "map", File: i, Map: i + 1, N: 4 * page, Flags: uint32(pmemfs.Direct | pmemfs.Populate)}).err()
		if want == nil {
			must(t, err)
			continue
		}
		wantError(t, err, want, "f")
	}
	wantError(t, c.obey(order{Do: "freeze", File: 1}).err(), unix.EPERM, "f") // it may map by the handle, nothing else
	wantError(t, c.obey(order{Do: "allow", File: 0}).err(), unix.EPERM, "f")
	// The flag ends with the handle, the seals do not.
	do(t, c, order{Do: "close", File: 1})
	do(t, c, order{Do: "open", File: 1, Name: "f", Flags: unix.O_RDWR})
	wantError(t, c.obey(order{Do: "map", File: 1, Map: 9, N: page, Flags: uint32(pmemfs.Direct)}).err(), unix.EPERM, "f")
	if got := frames(t, fsys); got.Seals != 2 || got.SealedBlocks != 5 {
		t.Errorf("%+v", got)
	}
}

// mapFlagsRule says what comes of each combination of flags where the mask is supported.
func mapFlagsRule(flags, mask pmemfs.MapFlags) error {
	kinds := flags & (pmemfs.Sync | pmemfs.Direct | pmemfs.Unchecked)
	switch {
	case flags&^mask != 0:
		return unix.EOPNOTSUPP
	case kinds == 0 && flags&pmemfs.Shared == 0, bits.OnesCount32(uint32(kinds)) > 1:
		return unix.EINVAL
	}
	return nil
}

// Every combination of flags, known and unknown: those that make sense are accepted, all others change nothing.
func TestStrictFlags(t *testing.T) {
	check := func(t *testing.T, fsys *pmemfs.FS, mask pmemfs.MapFlags) {
		if got := fsys.MapMask(); got != mask {
			t.Fatalf("the mask is %v, want %v", got, mask)
		}
		f := filledFile(t, fsys, "f", 4)
		holes := sized(t, fsys, "holes", 4*page)
		accepted := 0
		for _, unknown := range []pmemfs.MapFlags{0, 1 << 6, 1 << 31} {
			for flags := unknown; flags < unknown|1<<6; flags++ {
				want := mapFlagsRule(flags, mask)
				if want == nil {
					m, err := f.Map(0, 4*page, flags)
					if err != nil {
						t.Errorf("%v: %v", flags, err)
						continue
					}
					accepted++
					sink = m.Bytes()[page]
					must(t, m.Unmap())
					continue
				}
				for _, f := range []*pmemfs.File{f, holes} {
					wantUnchanged(t, fsys, f, func() {
						_, err := f.Map(0, 4*page, flags)
						wantError(t, err, want, f.Name())
						if want == unix.EOPNOTSUPP {
							wantError(t, err, want, (flags &^ mask).String())
							wantError(t, err, want, mask.String())
						}
					})
				}
			}
		}
		t.Logf("%d combinations of flags are accepted", accepted)
	}
	const all = pmemfs.Shared | pmemfs.Sync | pmemfs.Direct | pmemfs.Unchecked | pmemfs.Populate | pmemfs.ReadOnly
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		mask := all
		if kind == pmemfs.Shared {
			mask &^= pmemfs.Sync
		}
		check(t, fsys, mask)
	})
	t.Run("page cache", func(t *testing.T) {
		pool := filepath.Join(t.TempDir(), "pool")
		must(t, pmemfs.Format(pool, pmemfs.FormatOptions{Size: testPoolSize}))
		fsys := openPool(t, pool)
		if got := fsys.Info().Medium.Granularity; got != pmemfs.Page {
			t.Skipf("SKIPPED: %s is %v, not behind a page cache", pool, got)
		}
		check(t, fsys, pmemfs.Shared|pmemfs.Populate|pmemfs.ReadOnly)
		_, err := create(t, fsys, "g").Map(0, page, pmemfs.Direct)
		wantError(t, err, unix.EOPNOTSUPP, "byte-addressable")
	})
}

// What one client may have is limited; the error says what it has too much of, and how much it may have; others go on.
func TestSealLimits(t *testing.T) {
	pool := newPool(t)
	socket, _ := serve(t, pool, "600", "-1", serverConfig{Limits: server.Limits{
		Handles: 6, Mappings: 5, Grants: 12, PinnedBytes: 8 * page, SealedBytes: 10 * page,
	}}.String())
	fsys, other := dial(t, socket), dial(t, socket)
	f := filledFile(t, fsys, "f", 64)
	g, err := other.OpenFile("f", os.O_RDWR, 0)
	must(t, err)
	over := func(t *testing.T, err, want error, limit string) {
		t.Helper()
		wantError(t, err, want, "limit")
		wantError(t, err, want, "--max-"+limit)
	}
	t.Run("handles", func(t *testing.T) {
		var open []*pmemfs.File
		for range 5 {
			f, err := fsys.Open("f")
			must(t, err)
			open = append(open, f.(*pmemfs.File))
		}
		_, err := fsys.Open("f")
		over(t, err, unix.EMFILE, "handles")
		wantContent(t, other, "f", string(contentOf(t, g)))
		for _, f := range open {
			must(t, f.Close())
		}
		_, err = fsys.ReadFile("f")
		must(t, err)
	})
	t.Run("mappings", func(t *testing.T) {
		for i := range 5 {
			mapped(t, f, int64(i)*page, page, pmemfs.Sync)
		}
		wantUnchanged(t, fsys, f, func() {
			for _, flags := range []pmemfs.MapFlags{pmemfs.Sync, pmemfs.Direct, pmemfs.Unchecked | pmemfs.Populate} {
				_, err := f.Map(0, page, flags)
				over(t, err, unix.EMFILE, "mappings")
			}
		})
		mapped(t, g, 0, page, pmemfs.Sync)
	})
	t.Run("sealed", func(t *testing.T) {
		mapped(t, f, 0, 6*page, pmemfs.Direct)
		m, err := f.Map(0, 4*page, pmemfs.Direct)
		must(t, err)
		holes := sized(t, fsys, "holes", 4*page)
		wantUnchanged(t, fsys, f, func() {
			_, err := f.Map(20*page, page, pmemfs.Direct)
			over(t, err, unix.EDQUOT, "sealed")
		})
		_, err = holes.Map(0, 4*page, pmemfs.Direct|pmemfs.Populate)
		over(t, err, unix.EDQUOT, "sealed")
		must(t, f.PunchHole(20*page, page))
		mapped(t, g, 0, 10*page, pmemfs.Direct)
		must(t, m.Unmap())
		mapped(t, f, 30*page, 4*page, pmemfs.Direct)
		_, err = f.Map(40*page, 1, pmemfs.Direct)
		over(t, err, unix.EDQUOT, "sealed")
		must(t, f.Fill(0, 64*page))
	})
	t.Run("pinned", func(t *testing.T) {
		m := mapped(t, f, 0, 16*page, pmemfs.Sync)
		must(t, m.Populate(0, 16*page))
		unpin, err := m.Pin(0, 4*page)
		must(t, err)
		_, err = m.Pin(0, 4*page) // the same once more
		must(t, err)
		wantUnchanged(t, fsys, f, func() {
			_, err := m.Pin(8*page, 1)
			over(t, err, unix.EDQUOT, "pinned")
		})
		must(t, f.Relocate(8*page, page))
		_, err = mapped(t, g, 0, 8*page, pmemfs.Sync).Pin(0, 8*page)
		must(t, err)
		unpin()
		_, err = m.Pin(8*page, 4*page)
		must(t, err)
	})
	t.Run("grants", func(t *testing.T) {
		pieces := fragmented(t, fsys, "pieces", 40)
		m := mapped(t, pieces, 0, 40*page, pmemfs.Sync)
		for i := range 12 { // a run each: neither address nor place is next to that of another
			m.Bytes()[2*i*page] = 1
		}
		before := frames(t, fsys)
		over(t, pmemfs.Catch(func() { m.Bytes()[24*page+1] = 1 }), unix.EDQUOT, "grants")
		wantFault(t, func() { sink = m.Bytes()[30*page] }, "pieces", 30*page, unix.EDQUOT)
		over(t, m.Populate(0, 40*page), unix.EDQUOT, "grants")
		_, err := m.Pin(24*page, page)
		over(t, err, unix.EDQUOT, "grants")
		for _, flags := range []pmemfs.MapFlags{pmemfs.Direct, pmemfs.Sync | pmemfs.Populate} {
			_, err := pieces.Map(0, 9*page, flags)
			over(t, err, unix.EDQUOT, "grants")
		}
		if after := frames(t, fsys); after != before || after.Grants != 12 {
			t.Errorf("before %+v, after %+v", before, after)
		}
		if m.Bytes()[22*page] != 1 {
			t.Error("what was granted is gone")
		}
		theirs, err := other.OpenFile("pieces", os.O_RDWR, 0)
		must(t, err)
		m2 := mapped(t, theirs, 0, 9*page, pmemfs.Direct)
		m2.Bytes()[8*page] = 3
		// What is in one piece can be had once something else is given up.
		must(t, m.Unmap())
		mapped(t, f, 0, 64*page, pmemfs.Sync|pmemfs.Populate)
	})
}

// An idle pool has no records, however large it is and however much is in it; a mapping of a contiguous GiB costs a handful.
func TestSealFrames(t *testing.T) {
	const size = 1 << 30
	pool := filepath.Join(pooltest.Dir(t), "pool")
	must(t, pmemfs.Format(pool, pmemfs.FormatOptions{Size: size + size/4}))
	socket, _ := serve(t, pool, "600", "-1", serverConfig{Limits: server.Limits{SealedBytes: size}}.String())
	fsys := dial(t, socket)
	f := sized(t, fsys, "f", size)
	must(t, f.Fill(0, size))
	for i := range 100 {
		write(t, fsys, fmt.Sprint("file-", i), strings.Repeat("x", 3*page))
	}
	idle := frames(t, fsys)
	if idle.Records != 0 || idle.Bytes != 0 || idle.Clients != 0 || idle.GrantedBlocks != 0 {
		t.Errorf("an idle pool has %+v", idle)
	}
	for _, flags := range []pmemfs.MapFlags{pmemfs.Direct, pmemfs.Sync | pmemfs.Populate} {
		m, err := f.Map(0, size, flags)
		must(t, err)
		got := frames(t, fsys)
		if got.GrantedBlocks != size/page || got.Mappings != 1 || got.Grants > 4 || got.Records > 10 || got.Bytes > 2000 {
			t.Errorf("%v: %+v", flags, got)
		}
		if want := int64(flags&pmemfs.Direct) / int64(pmemfs.Direct); got.Seals != want || got.SealedBlocks != want*size/page {
			t.Errorf("%v: %+v", flags, got)
		}
		m.Bytes()[size-1]++
		m.Bytes()[size/2]++
		must(t, m.Unmap())
		if got := frames(t, fsys); got != idle {
			t.Errorf("after Unmap there is %+v", got)
		}
	}
}

// Stats counts clients, and each kind of record.
func TestSealStats(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys, other := dial(t, socket), dial(t, socket)
	f := filledFile(t, fsys, "f", 8)
	sealed := mapped(t, f, 0, 4*page, pmemfs.Direct)
	m := mapped(t, f, 0, 8*page, pmemfs.Sync)
	_, err := m.Pin(5*page, 2*page)
	must(t, err)
	g, err := other.OpenFile("f", os.O_RDONLY, 0)
	must(t, err)
	mapped(t, g, 0, 8*page, pmemfs.Shared|pmemfs.ReadOnly|pmemfs.Populate)
	s, err := other.Stats()
	must(t, err)
	want := pmemfs.Frames{
		Clients: 2, Files: 1, Mappings: 3, Pins: 1, Seals: 1, PinnedBlocks: 2, SealedBlocks: 4,
		Grants: s.Frames.Grants, GrantedBlocks: s.Frames.GrantedBlocks, Records: 8 + s.Frames.Grants, Bytes: s.Frames.Bytes,
	}
	if s.Clients != 2 || s.Frames != want || s.Frames.Grants < 3 || s.Frames.GrantedBlocks < 4+2+8 || s.Frames.Bytes == 0 {
		t.Errorf("%+v", s)
	}
	must(t, f.Relocate(7*page, page))
	if s, err := other.Stats(); err != nil || s.Frames.Breaks < 1 {
		t.Error(s, err)
	}
	must(t, sealed.Unmap())
}

// In a read-only session a file can be sealed, but neither filled nor frozen.
func TestSealReadOnly(t *testing.T) {
	pool := newPool(t)
	fsys := openPool(t, pool)
	must(t, filledFile(t, fsys, "f", 4).SetStatic(true))
	mixedFile(t, fsys, "mixed")
	must(t, fsys.Close())
	check := func(t *testing.T, fsys *pmemfs.FS) {
		f, err := fsys.Open("f")
		must(t, err)
		file := f.(*pmemfs.File)
		m := mapped(t, file, 0, 4*page, pmemfs.Direct|pmemfs.ReadOnly)
		if m.Bytes()[3*page] != 4 {
			t.Error(m.Bytes()[3*page])
		}
		wantFault(t, func() { m.Bytes()[1] = 1 }, "f", 1, unix.EACCES)
		wantError(t, file.SetStatic(false), unix.EROFS, "f")
		wantError(t, file.Fill(0, page), unix.EROFS, "f")
		g, err := fsys.Open("mixed")
		must(t, err)
		_, err = g.(*pmemfs.File).Map(0, 4*page, pmemfs.Direct|pmemfs.ReadOnly|pmemfs.Populate)
		wantUnfilled(t, err, 3*page, "a hole")
	}
	t.Run("embedded", func(t *testing.T) { check(t, openPool(t, pool, pmemfs.OpenReadOnly())) })
	t.Run("dialled", func(t *testing.T) {
		socket, _ := serve(t, pool)
		check(t, dial(t, socket, pmemfs.OpenReadOnly()))
	})
}
