package pmemfs_test

import (
	"os"
	"testing"

	"github.com/pmemfs/pmemfs"
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
