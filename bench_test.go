package pmemfs_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
)

// benchEach runs a benchmark on an embedded pool and on one that a server in another process serves.
func benchEach(b *testing.B, f func(b *testing.B, fsys *pmemfs.FS, kind pmemfs.MapFlags)) {
	b.Run("embedded", func(b *testing.B) { f(b, openPool(b, newPool(b)), pmemfs.Shared) })
	b.Run("dialled", func(b *testing.B) {
		socket, _ := serve(b, newPool(b))
		f(b, dial(b, socket), pmemfs.Sync)
	})
}

func BenchmarkStat(b *testing.B) {
	benchEach(b, func(b *testing.B, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		must(b, fsys.WriteFile("f", nil, 0o600))
		for b.Loop() {
			if _, err := fsys.Stat("f"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkWrite4K(b *testing.B) {
	benchEach(b, func(b *testing.B, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		f := create(b, fsys, "f")
		p := make([]byte, page)
		for b.Loop() {
			if _, err := f.WriteAt(p, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A store to a page that is granted, made durable.
func BenchmarkDurableStore(b *testing.B) {
	benchEach(b, func(b *testing.B, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		f := create(b, fsys, "f")
		must(b, f.Truncate(1<<20))
		m, err := f.Map(0, 1<<20, kind|pmemfs.Populate)
		must(b, err)
		defer m.Unmap()
		for i := 0; b.Loop(); i++ {
			off := i * 64 % (1 << 20)
			m.Bytes()[off] = byte(i)
			if err := m.Persist(off, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// The first store to a page in a hole: a page fault that allocates, at random places, so that nothing is granted ahead.
func BenchmarkFault(b *testing.B) {
	socket, _ := serve(b, newPool(b))
	fsys := dial(b, socket)
	const size = 32 << 20
	f, err := fsys.OpenFile("f", os.O_RDWR|os.O_CREATE, 0o600)
	must(b, err)
	defer f.Close()
	must(b, f.Truncate(size))
	m, err := f.Map(0, size, pmemfs.Sync)
	must(b, err)
	defer m.Unmap()
	i := 0
	for b.Loop() {
		if i == size/page {
			b.StopTimer()
			must(b, f.PunchHole(0, size))
			i = 0
			b.StartTimer()
		}
		m.Bytes()[i*4099%(size/page)*page] = 1 // 4099 is prime: every page once, far apart
		i++
	}
}

// What a second version of a file of 1 GiB costs: a clone, or a copy that is synced and renamed; and what the first store to
// a block costs while a clone has it, too, at random places.
func BenchmarkClone(b *testing.B) {
	const size = 1 << 30
	pool := filepath.Join(pooltest.Dir(b), "pool")
	must(b, pmemfs.Format(pool, pmemfs.FormatOptions{Size: 3 << 30}))
	socket, _ := serve(b, pool)
	fsys := dial(b, socket)
	f := create(b, fsys, "f")
	must(b, errors.Join(f.Truncate(size), f.Fill(0, size)))
	b.Run("clone", func(b *testing.B) {
		for b.Loop() {
			must(b, f.Clone("new"))
			b.StopTimer()
			must(b, fsys.Remove("new"))
			b.StartTimer()
		}
	})
	b.Run("copy", func(b *testing.B) {
		for b.Loop() {
			g, err := fsys.OpenFile("temporary", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
			must(b, err)
			_, err = f.Seek(0, io.SeekStart)
			must(b, err)
			if n, err := f.WriteTo(g); n != size || err != nil {
				b.Fatal(n, err)
			}
			must(b, errors.Join(g.Sync(), g.Close(), fsys.Rename("temporary", "new")))
			b.StopTimer()
			must(b, fsys.Remove("new"))
			b.StartTimer()
		}
	})
	b.Run("copy on the host", func(b *testing.B) { copyOnHost(b, filepath.Dir(pool), size) })
	for _, flags := range []pmemfs.MapFlags{pmemfs.Sync, pmemfs.Sync | pmemfs.Populate} {
		b.Run("first-store/"+flags.String(), func(b *testing.B) { firstStores(b, fsys, f, size, flags) })
	}
}

// copyOnHost copies, syncs and renames a file of the memory file system that the pool is on.
func copyOnHost(b *testing.B, dir string, size int64) {
	name, temporary := filepath.Join(dir, "f"), filepath.Join(dir, "temporary")
	f, err := os.Create(name)
	must(b, err)
	defer f.Close()
	piece := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(piece)) {
		_, err := f.WriteAt(piece, off)
		must(b, err)
	}
	for b.Loop() {
		g, err := os.Create(temporary)
		must(b, err)
		_, err = f.Seek(0, io.SeekStart)
		must(b, err)
		if n, err := io.Copy(g, f); n != size || err != nil { // copy_file_range(2)
			b.Fatal(n, err)
		}
		must(b, errors.Join(g.Sync(), g.Close(), os.Rename(temporary, filepath.Join(dir, "new"))))
	}
}

var errNoMoreBlocks = errors.New("there are no more blocks that nobody has stored to")

// firstStores stores to blocks that a clone has, too.
func firstStores(b *testing.B, fsys *pmemfs.FS, f *pmemfs.File, size int, flags pmemfs.MapFlags) {
	m, err := f.Map(0, size, flags)
	must(b, err)
	defer m.Unmap()
	must(b, f.Clone("clone"))
	for i := 0; b.Loop(); i++ {
		if i == size/page {
			b.Fatal(errNoMoreBlocks)
		}
		off := i * 4099 % (size / page) * page // 4099 is prime: every page once, far apart
		m.Bytes()[off]++
		if err := m.Persist(off, 1); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	must(b, fsys.Remove("clone"))
}

// The same by reflinks of the host's file systems, in the directories that PMEMFS_REFLINK_PLACES lists, divided by colons: a
// clone, and the first store to a block of a mapping of the file, made durable, while a clone has it, too.
func BenchmarkReflink(b *testing.B) {
	const size = 1 << 30
	places := filepath.SplitList(os.Getenv("PMEMFS_REFLINK_PLACES"))
	if places == nil {
		b.Skip("PMEMFS_REFLINK_PLACES names no directories")
	}
	for _, place := range places {
		f, err := os.OpenFile(filepath.Join(place, "f"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		must(b, err)
		defer f.Close()
		for piece, off := make([]byte, 1<<20), int64(0); off < size; off += int64(len(piece)) {
			_, err := f.WriteAt(piece, off)
			must(b, err)
		}
		must(b, f.Sync())
		clone := func(b *testing.B) *os.File {
			g, err := os.Create(filepath.Join(place, "new"))
			must(b, err)
			must(b, unix.IoctlFileClone(int(g.Fd()), int(f.Fd())))
			return g
		}
		b.Run("clone"+place, func(b *testing.B) {
			for b.Loop() {
				g := clone(b)
				must(b, errors.Join(g.Sync(), g.Close()))
				b.StopTimer()
				must(b, os.Remove(g.Name()))
				b.StartTimer()
			}
		})
		b.Run("first-store"+place, func(b *testing.B) {
			m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			must(b, err)
			defer unix.Munmap(m)
			must(b, clone(b).Close())
			for i := 0; b.Loop(); i++ {
				if i == size/page {
					b.Fatal(errNoMoreBlocks)
				}
				off := i * 4099 % (size / page) * page
				m[off]++
				must(b, unix.Msync(m[off:off+page], unix.MS_SYNC))
			}
		})
	}
}
