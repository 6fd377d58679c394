package pmemfs_test

import (
	"errors"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/lines"
	"github.com/pmemfs/pmemfs/pmem"
)

// A flush that cannot access its range is an error, without Catch and with nothing that recovers; the same instruction in a
// function that the exception table does not have is a panic.
func TestPersistFails(t *testing.T) {
	if !flushesFault(t) {
		return
	}
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		f := sized(t, fsys, "f", 8*page)
		m, err := f.Map(2*page, 16*page, kind)
		must(t, err)
		for _, f := range []func(off, n int) error{m.Persist, m.Flush} {
			for _, c := range []struct {
				off, n int
				at     int64 // of the file
			}{{6 * page, 1, 8 * page}, {10*page + 100, 8, 12*page + 64}, {16*page - 1, 1, 18*page - 64}, {0, 16 * page, 8 * page}} {
				err := f(c.off, c.n)
				wantError(t, err, unix.ENXIO, "f")
				var where *pmemfs.FaultError
				if !errors.As(err, &where) || where.Offset != c.at {
					t.Errorf("%d bytes at %d: %v, want offset %d", c.n, c.off, err, c.at)
				}
			}
			must(t, f(0, 6*page))
		}
		wantFault(t, func() { pmem.Persist(m.Bytes()[6*page:]) }, "f", 8*page, unix.ENXIO)
		must(t, m.Unmap())
		for _, f := range []func(off, n int) error{m.Persist, m.Flush, m.Sync} {
			wantError(t, f(0, page), pmemfs.ErrUnmapped, "f")
		}
	})
}

// Persist faults pages in, be there a hole or written blocks, and goes through more than one piece.
func TestPersistFaultsIn(t *testing.T) {
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		const size = 4*lines.Piece + page
		f := sized(t, fsys, "f", size)
		_, err := f.WriteAt([]byte("written"), 5*page)
		must(t, err)
		m := mapped(t, f, 0, size, kind)
		must(t, m.Persist(5*page+3, 8))
		must(t, m.Persist(9*page, 1))
		must(t, m.Flush(1, lines.Piece+1))
		must(t, m.Persist(1, size-1))
		if string(m.Bytes()[5*page:5*page+7]) != "written" || m.Bytes()[9*page] != 0 {
			t.Errorf("%q, %d", m.Bytes()[5*page:5*page+7], m.Bytes()[9*page])
		}
	})
}

// Flushes fail in several goroutines at once while the collector stops the world and stacks move.
func TestPersistFailsAmongGarbage(t *testing.T) {
	if !flushesFault(t) {
		return
	}
	defer debug.SetGCPercent(debug.SetGCPercent(5))
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		f := sized(t, fsys, "f", 8*page)
		m := mapped(t, f, 0, 64*page, kind)
		var wg sync.WaitGroup
		var failed atomic.Int64
		end := time.Now().Add(500 * time.Millisecond)
		for g := range 8 {
			wg.Go(func() {
				for i := g; failed.Load() == 0 && (i < 100 || time.Now().Before(end)); i++ {
					good, bad := i%8*page, (8+i%56)*page
					if err := deep(i%50, func() error { return m.Persist(bad+i%page, 1) }); !errors.Is(err, unix.ENXIO) {
						t.Errorf("beyond the end: %v", err)
						failed.Add(1)
					}
					if err := m.Persist(good, page); err != nil {
						t.Error(err)
						failed.Add(1)
					}
					if i%32 == 0 {
						runtime.GC()
					}
				}
			})
		}
		wg.Wait()
	})
}

// deep calls f so far down that the stack may have to grow.
func deep(n int, f func() error) error {
	var frame [256]byte
	if n == 0 {
		return f()
	}
	err := deep(n-1, f)
	runtime.KeepAlive(&frame)
	return err
}

// BenchmarkPersist has Mapping.Persist and pmem.Persist of the same memory take turns. The metrics are nanoseconds of one
// store of 8 bytes, and by how many times the one takes longer; the time of an operation is that of a turn of both.
func BenchmarkPersist(b *testing.B) {
	benchEach(b, func(b *testing.B, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		const size, turn = 1 << 20, 1000
		f := create(b, fsys, "f")
		must(b, f.Truncate(size))
		m, err := f.Map(0, size, kind|pmemfs.Populate)
		must(b, err)
		defer m.Unmap()
		mem := m.Bytes()
		mapping := func(off, n int) error { return m.Persist(off, n) }
		plain := func(off, n int) error { pmem.Persist(mem[off : off+n]); return nil }
		took := [2]time.Duration{time.Hour, time.Hour}
		for b.Loop() {
			for i, persist := range []func(off, n int) error{mapping, plain} {
				start := time.Now()
				for k := range turn {
					off := k * pmem.LineSize % size
					mem[off]++
					if err := persist(off, 8); err != nil {
						b.Fatal(err)
					}
				}
				took[i] = min(took[i], time.Since(start))
			}
		}
		b.ReportMetric(float64(took[0])/turn, "ns/Mapping.Persist")
		b.ReportMetric(float64(took[1])/turn, "ns/pmem.Persist")
		b.ReportMetric(float64(took[0])/float64(took[1]), "ratio")
	})
}
