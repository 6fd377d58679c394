package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/child"
	"github.com/pmemfs/pmemfs/internal/report"
)

// ScaleOptions are those of MeasureScale.
type ScaleOptions struct {
	Options
	Rounds int
	Short  bool          // smaller sizes
	Time   time.Duration // for each figure of throughput
}

// scaleSizes are what costs are measured against.
type scaleSizes struct {
	pools, files, maps []int64 // bytes
	entries            []int64 // of a directory, which are the files of a pool
	clients            []int64
}

func (o *ScaleOptions) sizes() scaleSizes {
	const mib, gib, tib = 1 << 20, 1 << 30, 1 << 40
	if o.Short {
		return scaleSizes{
			pools: []int64{gib, 64 * gib, 4 * tib}, files: []int64{mib, 256 * mib, 16 * gib}, maps: []int64{16 * mib, 256 * mib},
			entries: []int64{100, 1000, 10_000}, clients: []int64{1, 2, 8},
		}
	}
	return scaleSizes{
		pools:   []int64{gib, 4 * gib, 16 * gib, 64 * gib, 256 * gib, tib, 4 * tib},
		files:   []int64{mib, 16 * mib, 256 * mib, gib, 16 * gib, 256 * gib},
		maps:    []int64{16 * mib, 64 * mib, 256 * mib, gib, 4 * gib},
		entries: []int64{100, 1000, 10_000, 100_000, 1_000_000},
		clients: []int64{1, 2, 4, 8},
	}
}

// scale is one run.
type scale struct {
	ScaleOptions
	scaleSizes
	dir      string // in which everything is made
	children *child.Group
	part     *report.Part
}

// MeasureScale measures how costs grow with sizes and numbers. It leaves nothing behind, however it ends.
func MeasureScale(ctx context.Context, o ScaleOptions) (_ *report.Part, err error) {
	s := &scale{ScaleOptions: o, scaleSizes: o.sizes(), part: &report.Part{Title: "Scale"}}
	if s.dir, err = os.MkdirTemp(o.Dir, "pmemfs-bench-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	if s.children, err = child.NewGroup(); err != nil {
		return nil, err
	}
	defer s.children.Close()
	steps := []func(context.Context) error{s.poolSizes, s.entriesOfDirectory, s.fileSizes, s.frames, s.throughput}
	add, done := o.progress("sizes", int64(len(steps)))
	defer done()
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return nil, err
		}
		add(1)
	}
	return s.part, nil
}

// add adds what the rounds have found at one size.
func (s *scale) add(what, peer, unit string, figures []float64, x int64, xUnit string, durable bool) {
	row := report.NewRow(what, peer, unit, figures)
	row.X, row.XUnit, row.Durable = float64(x), xUnit, durable
	s.part.Rows = append(s.part.Rows, row)
}

// pool makes a pool of its own for something, in a new directory.
func (s *scale) pool(name string, o pmemfs.FormatOptions) (string, error) {
	pool := filepath.Join(s.dir, name)
	return pool, pmemfs.Format(pool, o)
}

// poolSizes measures mounts of pools that differ in size.
func (s *scale) poolSizes(ctx context.Context) error {
	for _, size := range s.pools {
		pool, err := s.pool(fmt.Sprintf("pool-%d", size), pmemfs.FormatOptions{Size: size})
		if err == nil {
			err = s.mounts(ctx, pool, size, "B", "pool size")
		}
		if err := errors.Join(err, os.RemoveAll(pool)); err != nil {
			return err
		}
	}
	return nil
}

// mounts measures how long it takes to open a pool that was closed, and one whose owner was killed in the middle of its work;
// and how much memory it takes to have it open.
func (s *scale) mounts(ctx context.Context, pool string, x int64, xUnit, against string) error {
	var closed, killed, heap []float64
	for range s.Rounds {
		took, bytes, err := openOnce(pool)
		if err != nil {
			return err
		}
		closed, heap = append(closed, took), append(heap, bytes)
	}
	for range max(s.Rounds/3, 1) {
		if err := s.kill(ctx, pool); err != nil {
			return err
		}
		took, _, err := openOnce(pool)
		if err != nil {
			return err
		}
		killed = append(killed, took)
	}
	what := "mount, against " + against
	s.add(what, "after it was closed", "ns", closed, x, xUnit, true)
	s.add(what, "after its owner was killed", "ns", killed, x, xUnit, true)
	s.add("memory of a mounted pool, against "+against, "pmemfs", "B", heap, x, xUnit, true)
	return nil
}

// openOnce opens a pool in this process and closes it. heap is in bytes.
func openOnce(pool string) (ns, heap float64, err error) {
	before := liveHeap()
	start := time.Now()
	fsys, err := pmemfs.Open(pool)
	ns = float64(time.Since(start))
	if err != nil {
		return 0, 0, err
	}
	heap = max(liveHeap()-before, 1)
	return ns, heap, fsys.Close()
}

func liveHeap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// untilKilled is how long a pool is worked on before its owner is killed: more than fills the log, unless time is short.
func (s *scale) untilKilled() time.Duration {
	if s.Short {
		return 100 * time.Millisecond
	}
	return time.Second
}

// kill has a process open the pool, and kills it in the middle of its work.
func (s *scale) kill(ctx context.Context, pool string) error {
	o := LoadOptions{Pool: pool, Name: fmt.Sprintf("load-%d", time.Now().UnixNano()), What: opCreate, Time: time.Hour}
	p, err := s.children.Start("the owner", nil, o.args()...)
	if err != nil {
		return err
	}
	if _, err := p.Line(ctx); err != nil {
		return err
	}
	select {
	case <-time.After(s.untilKilled()):
	case <-ctx.Done():
	}
	err = p.Alive()
	p.Kill()
	return err
}

// lookUps is how many names are looked up for a figure.
const lookUps = 2000

// entriesOfDirectory fills a directory of a pool, and one of the kernel beside it, measures look-ups and the creation of
// files as it grows, and mounts.
func (s *scale) entriesOfDirectory(ctx context.Context) error {
	most := s.entries[len(s.entries)-1]
	pool, err := s.pool("entries", pmemfs.FormatOptions{Size: 16<<10*most + 4<<30, Inodes: most + most/8 + 1000})
	if err != nil {
		return err
	}
	beside := &directory{names: &kernelNames{above: s.dir}, peer: "tmpfs"}
	kind, err := fileSystem(s.dir)
	if err != nil {
		return err
	}
	beside.peer = kind.name
	if err := beside.begin(directoryName); err != nil {
		return err
	}
	ours := &directory{peer: embeddedPool, durable: true}
	for i, n := range s.entries {
		fsys, err := pmemfs.Open(pool)
		if err != nil {
			return err
		}
		names := poolNames(fsys)
		if ours.names = names; i == 0 {
			err = names.begin(directoryName)
		} else {
			names.path = directoryName + "/"
		}
		if info := fsys.Info(); i == 0 {
			s.part.Machine = thisMachine(&info.Medium)
		}
		if err == nil {
			err = s.grow(ctx, n, ours, beside)
		}
		if err := errors.Join(err, fsys.Close()); err != nil {
			return err
		}
		if n < 1000 {
			continue
		}
		if err := s.mounts(ctx, pool, n, "files", "number of files"); err != nil {
			return err
		}
	}
	return errors.Join(os.RemoveAll(pool), os.RemoveAll(filepath.Join(s.dir, directoryName)))
}

const directoryName = "directory"

// directory is one that grows.
type directory struct {
	names
	peer    string
	durable bool
	entries int64
}

func entryName(i int64) string { return fmt.Sprintf("entry-%d", i) }

// fill makes n entries of it, and returns what the last ones have taken each, in nanoseconds.
func (d *directory) fill(ctx context.Context, n int64) (float64, error) {
	last := max(d.entries, n-lookUps)
	start := time.Now()
	for i := d.entries; i < n; i++ {
		if i == last {
			start = time.Now()
		}
		if err := d.create(entryName(i)); err != nil {
			return 0, err
		}
		if i%1000 == 0 && ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
	}
	d.entries = n
	return float64(time.Since(start)) / float64(n-last), nil
}

// grow lets directories grow to n entries, and looks some up, by turns.
func (s *scale) grow(ctx context.Context, n int64, all ...*directory) error {
	looked := make([][]float64, len(all))
	for _, d := range all {
		created, err := d.fill(ctx, n)
		if err != nil {
			return err
		}
		s.add("create a file, against entries of its directory", d.peer, "ns", []float64{created}, n, "entries", d.durable)
	}
	for range s.Rounds {
		for i, d := range all {
			list := make([]string, lookUps)
			for j := range list {
				list[j] = entryName(rand.Int64N(n))
			}
			start := time.Now()
			for _, name := range list {
				if err := d.stat(name); err != nil {
					return err
				}
			}
			looked[i] = append(looked[i], float64(time.Since(start))/lookUps)
		}
	}
	for i, d := range all {
		s.add("look-up, against entries of the directory", d.peer, "ns", looked[i], n, "entries", d.durable)
	}
	return nil
}

// firstTouches is how many pages of a file are touched for a figure.
const firstTouches = 128

// fileSizes measures first stores to random pages of holes, through a Sync mapping and through one of the kernel's.
func (s *scale) fileSizes(ctx context.Context) (err error) {
	st, err := newStage(ctx, s.Dir, pmemfs.FormatOptions{Size: 2*s.files[len(s.files)-1] + 4<<30}, "--commit", "op")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close(ctx)) }()
	if st.fsys.MapMask()&pmemfs.Sync == 0 {
		return fmt.Errorf("%s: %w", s.Dir, ErrMedium)
	}
	kind, err := fileSystem(st.dir)
	if err != nil {
		return err
	}
	for _, size := range s.files {
		var ours, beside []float64
		for range s.Rounds {
			o, err := touchPool(st.fsys, size)
			if err != nil {
				return err
			}
			b, err := touchKernel(filepath.Join(st.dir, "file"), size)
			if err != nil {
				return err
			}
			ours, beside = append(ours, o), append(beside, b)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		const what = "first store to a page of a hole, against file size"
		s.add(what, "pmemfs, Sync", "ns", ours, size, "B", true)
		s.add(what, kind.name, "ns", beside, size, "B", false)
	}
	return nil
}

// touchPool returns what a first store has taken, on average.
func touchPool(fsys *pmemfs.FS, size int64) (ns float64, err error) {
	f, err := fsys.OpenFile("file", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), fsys.Remove("file")) }()
	if err := f.Truncate(size); err != nil {
		return 0, err
	}
	m, err := f.Map(0, int(size), pmemfs.Sync)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.Unmap()) }()
	if caught := pmemfs.Catch(func() { ns = touch(m.Bytes()) }); caught != nil {
		return 0, caught
	}
	return ns, nil
}

func touchKernel(name string, size int64) (ns float64, err error) {
	f, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(name)) }()
	if err := f.Truncate(size); err != nil {
		return 0, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return 0, fmt.Errorf("mmap %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(mem)) }()
	return touch(mem), nil
}

// touch stores to pages of which no two are neighbours, in no order.
func touch(mem []byte) float64 {
	step := max(len(mem)/firstTouches, 2*smallIO)
	order := rand.Perm(len(mem) / step)
	start := time.Now()
	for _, i := range order {
		mem[i*step]++
	}
	return float64(time.Since(start)) / float64(len(order))
}

// pageRecord is what the kernel has for each page of persistent memory (struct page), in bytes.
const pageRecord = 64

// frames measures what a server remembers of what is mapped.
func (s *scale) frames(ctx context.Context) (err error) {
	largest := s.maps[len(s.maps)-1]
	st, err := newStage(ctx, s.Dir, pmemfs.FormatOptions{Size: 2*largest + 1<<30}, "--commit", "op")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close(ctx)) }()
	for _, size := range s.maps {
		for _, kind := range []struct {
			peer  string
			flags pmemfs.MapFlags
			touch bool
		}{
			{"pmemfs, Direct", pmemfs.Direct | pmemfs.Populate, false},
			{"pmemfs, Sync|Populate", pmemfs.Sync | pmemfs.Populate, false},
			{"pmemfs, Sync, every 64th page of a hole touched", pmemfs.Sync, true},
		} {
			bytes, err := s.framesOf(st.fsys, size, kind.flags, kind.touch)
			if errors.Is(err, unix.EPERM) {
				s.part.Notes = append(s.part.Notes, fmt.Sprintf("%s: %v.", kind.peer, err))
				continue
			}
			if err != nil {
				return err
			}
			s.add(framesWhat, kind.peer, "B", []float64{bytes}, size, "B", true)
		}
		s.add(framesWhat, "the kernel's, 64 B for each page of 4 KiB", "B", []float64{float64(size / smallIO * pageRecord)}, size, "B", true)
	}
	return nil
}

const framesWhat = "records of what is mapped, against its size"

func (s *scale) framesOf(fsys *pmemfs.FS, size int64, flags pmemfs.MapFlags, touched bool) (bytes float64, err error) {
	f, err := fsys.OpenFile("mapped", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), fsys.Remove("mapped")) }()
	if err := f.Truncate(size); err != nil {
		return 0, err
	}
	before, err := fsys.Stats()
	if err != nil {
		return 0, err
	}
	m, err := f.Map(0, int(size), flags)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.Unmap()) }()
	if touched {
		err = pmemfs.Catch(func() {
			for off := int64(0); off < size; off += 64 * smallIO {
				m.Bytes()[off]++
			}
		})
	}
	if err != nil {
		return 0, err
	}
	after, err := fsys.Stats()
	return float64(after.Frames.Bytes - before.Frames.Bytes), err
}
