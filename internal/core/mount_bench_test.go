package core

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// BenchmarkMount mounts a sparse pool of 1 TiB on tmpfs that was not closed,
// with the log as full as it gets: with 1,000 and with 100,000 files. The time
// must not depend on their number, and stay under 100 ms.
func BenchmarkMount(b *testing.B) {
	const shm = "/dev/shm"
	if st, err := os.Stat(shm); err != nil || !st.IsDir() {
		b.Skipf("no %s: this needs a tmpfs for a sparse pool of 1 TiB: %v", shm, err)
	}
	for _, files := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			dir, err := os.MkdirTemp(shm, "pmemfs-bench")
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(dir)
			pool := filepath.Join(dir, "pool")
			makeLargePool(b, pool, files)
			var cpu time.Duration // of the mounts alone: what a busy machine does not change
			for b.Loop() {
				p, err := medium.Open(pool, medium.Options{})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				crashed := logOf(b, p) // what a mount changes there is put back
				b.StartTimer()
				before := cpuTime()
				fs, err := Mount(p.Meta(), p.Data(), Options{})
				if err != nil {
					b.Fatal(err)
				}
				cpu += cpuTime() - before
				b.StopTimer()
				fs.Reclaimed()
				crashed()
				if err := p.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}

func cpuTime() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func makeLargePool(b *testing.B, pool string, files int) {
	metaSize, dataSize, err := Sizes(1<<40, FormatOptions{})
	if err != nil {
		b.Fatal(err)
	}
	p, err := medium.Create(pool, metaSize, dataSize, medium.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	if err := Format(p.Meta(), p.Data(), FormatOptions{Zeroed: true}); err != nil {
		b.Fatal(err)
	}
	fs, err := Mount(p.Meta(), p.Data(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	makeFiles(b, fs, files)
	// Fill the log with many small records, to where it would be trimmed: of as
	// many inodes in each case, because the log is what a mount reads.
	r := rand.New(rand.NewPCG(5, 6))
	start := fs.journal.DurableLSN()
	for st := fs.Statfs(); fs.journal.DurableLSN()-start < uint64(st.LogBytes) || st.LogUsed < st.LogBytes*7/10; st = fs.Statfs() {
		mode := uint32(r.IntN(0o777))
		if _, err := fs.SetAttr(root, layout.FirstIno+layout.Ino(r.IntN(1000)), SetAttr{Mode: &mode}); err != nil {
			b.Fatal(err)
		}
	}
}

func makeFiles(b testing.TB, fs *FS, files int) {
	var dir layout.Ino
	for i := range files {
		if i%1000 == 0 {
			dir = must[Attr](b)(fs.Create(root, layout.RootIno, fmt.Sprintf("dir-%d", i/1000), layout.ModeDirectory|0o755, 0)).Ino
		}
		n := create(b, fs, dir, fmt.Sprintf("file-%d", i))
		must[int](b)(n.WriteAt([]byte("content"), 0))
		n.Close()
	}
}

// logOf saves the log's headers and returns what puts them back.
func logOf(b *testing.B, p *medium.Pool) func() {
	sb, err := layout.ReadSuperblock(p.Meta().Bytes())
	if err != nil {
		b.Fatal(err)
	}
	r := sb.LogHeaders
	saved := append([]byte(nil), p.Meta().Bytes()[r.Offset:r.End()]...)
	return func() {
		p.Meta().Stream(r.Offset, saved)
		p.Meta().Fence()
	}
}

// TestCheckLargePool checks a sparse pool of 1 TiB with many files: in
// seconds, and in memory that does not grow with the pool.
func TestCheckLargePool(t *testing.T) {
	const shm = "/dev/shm"
	if st, err := os.Stat(shm); err != nil || !st.IsDir() {
		t.Skipf("no %s: this needs a tmpfs for a sparse pool of 1 TiB: %v", shm, err)
	}
	dir, err := os.MkdirTemp(shm, "pmemfs-test")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	metaSize, dataSize := must2(Sizes(1<<40, FormatOptions{}))(t)
	p := must[*medium.Pool](t)(medium.Create(filepath.Join(dir, "pool"), metaSize, dataSize, medium.Options{}))
	defer p.Close()
	if err := Format(p.Meta(), p.Data(), FormatOptions{Zeroed: true}); err != nil {
		t.Fatal(err)
	}
	fs := mount(t, p.Meta(), p.Data())
	const files = 20_000
	makeFiles(t, fs, files)
	start := time.Now()
	if sum := checkAreas(t, p.Meta(), p.Data()); sum.Files != files {
		t.Errorf("%+v", sum)
	}
	t.Logf("%d files checked in %v", files, time.Since(start))
}

func must2[A, B any](a A, b B, err error) func(t testing.TB) (A, B) {
	return func(t testing.TB) (A, B) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	}
}
