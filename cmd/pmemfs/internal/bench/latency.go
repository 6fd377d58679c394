package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/child"
	"github.com/pmemfs/pmemfs/internal/report"
	"github.com/pmemfs/pmemfs/pmem"
)

const (
	latencyFile = 32 << 20 // bytes of each file that is stored to: more than caches of address translations reach
	// latencyRounds is in how many parts the stores are done. In each everything is measured, so that what else goes on
	// on the machine hits all alike.
	latencyRounds = 200
	storeSize     = 8                // bytes
	longest       = time.Minute      // that a histogram has room for
	heapLimit     = int64(512 << 20) // bytes; the collector is off below it
	direct        = "Direct"         // what the others are compared with
	clockReading  = "clock"
)

// Own stands among the disturbances of LatencyOptions for moving the very files that are stored to.
const Own = "own"

// LatencyOptions say what to measure.
type LatencyOptions struct {
	Options
	Stores int64    // of each mapping in each condition
	Busy   []string // what the other client does: names of Disturbances, and Own
}

// Latency is what a single durable store takes. Its JSON names are a contract with scripts.
type Latency struct {
	Machine    report.Machine `json:"machine"`
	Stores     int64          `json:"stores"`
	Rounds     int            `json:"rounds"`
	FileSize   int64          `json:"file_size"`
	Conditions []*Condition   `json:"conditions"`
	Seconds    float64        `json:"seconds"`
}

// Condition is what goes on while stores are measured.
type Condition struct {
	Name string `json:"name"` // quiet, busy, own
	Done
	Rows []*Row `json:"rows"`

	busy BusyOptions
}

// Row is a mapping in a condition.
type Row struct {
	Mapping string `json:"mapping"`
	Stores  int64  `json:"stores"`
	Times   *Times `json:"ns"`        // nil: it could not be made
	Ratio   *Times `json:"to_direct"` // Times divided by Direct's; nil: one of them is missing, or it is no store
	Why     string `json:"unavailable,omitempty"`

	hist *hdrhistogram.Histogram
}

// Times are those of one row, in nanoseconds, with three significant digits.
type Times struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	P4   float64 `json:"p99_99"`
	Max  float64 `json:"max"`
}

func newTimes(h *hdrhistogram.Histogram) *Times {
	at := func(percentile float64) float64 { return float64(h.ValueAtPercentile(percentile)) }
	return &Times{h.Mean(), at(50), at(99), at(99.9), at(99.99), float64(h.Max())}
}

func (t *Times) all() []float64 { return []float64{t.Mean, t.P50, t.P99, t.P999, t.P4, t.Max} }

func (t *Times) over(u *Times) *Times {
	return &Times{t.Mean / u.Mean, t.P50 / u.P50, t.P99 / u.P99, t.P999 / u.P999, t.P4 / u.P4, t.Max / u.Max}
}

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(longest), 3) }

// target is something that is measured. batch measures it n times.
type target struct {
	name  string
	why   string // there is no such mapping
	batch func(h *hdrhistogram.Histogram, n int64) error
}

// latency is one run.
type latency struct {
	LatencyOptions
	*stage
	targets []*target
	result  *Latency
	done    func(int64) // tells of progress
}

// MeasureLatency measures what single durable stores take. It leaves nothing behind, however it ends.
func MeasureLatency(ctx context.Context, o LatencyOptions) (_ *Latency, err error) {
	start := time.Now()
	s, err := newStage(ctx, o.Dir, pmemfs.FormatOptions{Size: 16*latencyFile + busyFiles*4*busyFileSize})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	med := s.fsys.Info().Medium
	if s.fsys.MapMask()&pmemfs.Sync == 0 {
		return nil, fmt.Errorf("%s is a %s medium: %w", o.Dir, med.Kind, ErrMedium)
	}
	l := &latency{LatencyOptions: o, stage: s, result: &Latency{
		Machine: thisMachine(&med), Stores: o.Stores, Rounds: int(min(latencyRounds, o.Stores)), FileSize: latencyFile,
	}}
	if err := l.makeTargets(&med); err != nil {
		return nil, err
	}
	if err := l.measure(ctx); err != nil {
		return nil, err
	}
	l.result.Seconds = time.Since(start).Seconds()
	return l.result, nil
}

// makeTargets makes everything that is measured. What is mapped Sync and not populated was never accessed when the
// measuring begins.
func (l *latency) makeTargets(med *pmemfs.MediumReport) error {
	plain, err := rawTarget(l.Dir, filepath.Join(l.dir, raw), med)
	if err != nil {
		return err
	}
	l.targets = []*target{{name: clockReading, batch: clockBatch}, plain}
	kinds := []pmemfs.MapFlags{pmemfs.Direct | pmemfs.Populate, pmemfs.Sync | pmemfs.Populate, pmemfs.Sync}
	for _, flags := range kinds {
		t, err := l.mapped(flags)
		if err != nil {
			return err
		}
		l.targets = append(l.targets, t)
	}
	return nil
}

// rawTarget is memory of the medium, mapped without a file system of ours in between. It is unmapped by the end of the
// process, as nothing of a run is worth keeping.
func rawTarget(place, name string, med *pmemfs.MediumReport) (*target, error) {
	f, err := newPlainFile(place, name, latencyFile)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping lives on
	mem, err := f.mmap(unix.MAP_SHARED | unix.MAP_POPULATE)
	if err != nil {
		return nil, err
	}
	persist := persistOn(med)
	return &target{name: raw, batch: storeBatch(mem, func(off, n int) error { persist(mem[off : off+n]); return nil })}, nil
}

// mapped is a new file of the pool, which consists of a hole, and is named as the mapping of it.
func (l *latency) mapped(flags pmemfs.MapFlags) (*target, error) {
	t := &target{name: flags.String()}
	if flags&pmemfs.Direct != 0 {
		t.name = direct // Populate only fills the hole: all pages of such a mapping are granted in any case
	}
	f, err := l.fsys.OpenFile(t.name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping lives on
	if err := f.Truncate(latencyFile); err != nil {
		return nil, err
	}
	m, err := f.Map(0, latencyFile, flags)
	if t.name == direct && errors.Is(err, unix.EPERM) {
		t.why = err.Error() // this process has not the privilege
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	t.batch = storeBatch(m.Bytes(), m.Persist)
	return t, nil
}

// epoch is what times are measured from: a reading of the clock relative to it is one call.
var epoch = time.Now()

// settled is counted up before the second reading of the clock: an atomic operation waits until the fence before it is
// through, as everything does by which a program can tell others that its store is durable. The reading alone does not.
var settled atomic.Uint64

// storeBatch returns what stores to random lines of memory, of which there must be a power of two, and has each made
// durable, timed by itself.
func storeBatch(mem []byte, persist func(off, n int) error) func(*hdrhistogram.Histogram, int64) error {
	random := rand.New(rand.NewPCG(1, 2))
	mask := uint64(len(mem)/pmem.LineSize - 1)
	return func(h *hdrhistogram.Histogram, n int64) error {
		for i := range n {
			choice := random.Uint64()
			start := time.Since(epoch)
			// The place follows from the reading: a CPU that knew it before could fetch the line before.
			off := int((choice + uint64(start)) & mask * pmem.LineSize)
			binary.LittleEndian.PutUint64(mem[off:], uint64(i))
			err := persist(off, storeSize)
			settled.Add(1)
			took := time.Since(epoch) - start
			if err != nil {
				return err
			}
			if err := h.RecordValue(int64(took)); err != nil {
				return err
			}
		}
		return nil
	}
}

// clockBatch is the same without a store.
func clockBatch(h *hdrhistogram.Histogram, n int64) error {
	for range n {
		start := time.Since(epoch)
		settled.Add(1)
		took := time.Since(epoch) - start
		if err := h.RecordValue(int64(took)); err != nil {
			return err
		}
	}
	return nil
}

// conditions are those that were asked for, beside quiet.
func (l *latency) conditions() []*Condition {
	all := []*Condition{{Name: "quiet"}}
	isOwn := func(name string) bool { return name == Own }
	if others := slices.DeleteFunc(slices.Clone(l.Busy), isOwn); len(others) > 0 {
		all = append(all, &Condition{Name: "busy", busy: BusyOptions{Do: others}})
	}
	if slices.Contains(l.Busy, Own) {
		c := &Condition{Name: Own}
		for _, t := range l.targets {
			if t.name != clockReading && t.name != raw && t.batch != nil {
				c.busy.Move = append(c.busy.Move, t.name)
			}
		}
		all = append(all, c)
	}
	return all
}

// measure measures every target in every condition. Meanwhile the goroutine keeps its thread, and no garbage is
// collected.
func (l *latency) measure(ctx context.Context) error {
	conditions := l.conditions()
	for _, c := range conditions {
		c.Done = Done{map[string]int64{}, map[string]int64{}}
		for _, t := range l.targets {
			c.Rows = append(c.Rows, &Row{Mapping: t.name, Why: t.why, hist: newHistogram()})
		}
	}
	l.result.Conditions = conditions
	add, done := l.progress("stores", l.Stores*int64(len(conditions)*len(l.targets)))
	defer done()
	l.done = add
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	runtime.GC()
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(heapLimit))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	for _, c := range conditions {
		if err := l.condition(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// condition measures in one condition.
func (l *latency) condition(ctx context.Context, c *Condition) error {
	needed := []*child.Process{l.server}
	var busy *busyClient
	if c.busy.any() {
		var err error
		if busy, err = startBusy(ctx, l.stage, c.busy); err != nil {
			return err
		}
		needed = append(needed, busy.Process)
	}
	for round := range int64(l.result.Rounds) {
		n := l.Stores*(round+1)/int64(l.result.Rounds) - l.Stores*round/int64(l.result.Rounds)
		if err := l.round(ctx, c, round, n); err != nil {
			return err
		}
		for _, p := range needed {
			if err := p.Alive(); err != nil {
				return err
			}
		}
	}
	for _, r := range c.Rows {
		r.finish(c)
	}
	if busy == nil {
		return nil
	}
	d, err := busy.stop(ctx)
	if err == nil {
		c.Done = *d
	}
	return err
}

// round measures every target n times. Each round begins with another one.
func (l *latency) round(ctx context.Context, c *Condition, round, n int64) error {
	for i := range l.targets {
		i = (i + int(round)) % len(l.targets)
		t, h := l.targets[i], c.Rows[i].hist
		if t.batch != nil {
			var err error
			if caught := pmemfs.Catch(func() { err = t.batch(h, n) }); caught != nil || err != nil {
				return errors.Join(caught, err)
			}
		}
		l.done(n)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// finish computes what a row says.
func (r *Row) finish(c *Condition) {
	if r.Why != "" {
		return
	}
	r.Stores, r.Times = r.hist.TotalCount(), newTimes(r.hist)
	i := slices.IndexFunc(c.Rows, func(r *Row) bool { return r.Mapping == direct })
	if d := c.Rows[i]; d.Why == "" && r.Mapping != clockReading {
		r.Ratio = r.Times.over(newTimes(d.hist))
	}
}
