package core

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/pmemfs/pmemfs/internal/crash"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// TestPowerCutPageCache cuts the power in every operation on a disk, where
// pages are written back at any time and fences are those of one file.
func TestPowerCutPageCache(t *testing.T) {
	var epochs, images atomic.Int64
	t.Run("operations", func(t *testing.T) {
		for i, op := range slices.Concat(operations(), []operation{createAndClose}) {
			if raceDetector && i%4 != 0 {
				continue // see fewer
			}
			t.Run(op.name, func(t *testing.T) {
				t.Parallel()
				for _, settled := range []bool{true, false} {
					p := powerCut{op: op, settled: settled, opts: fewer(crash.Options{
						Model: crash.PageCache, Exhaustive: 64, Samples: 12, Lines: 12, Seed: seedOf(op.name),
					})}
					if op.kind == several {
						p.opts.Samples, p.opts.Lines = min(p.opts.Samples, 3), min(p.opts.Lines, 3)
					}
					stats := p.run(t)
					for _, f := range p.failures {
						t.Error(f)
					}
					epochs.Add(int64(stats.Epochs))
					images.Add(int64(p.images))
				}
			})
		}
	})
	t.Logf("%d epochs, %d images", epochs.Load(), images.Load())
	wantImages(t, images.Load(), 500)
}

// TestPowerCutStaged cuts the power in operations of several transactions where
// they are staged, and in the commit behind them, in memory and on a disk: what
// is left is what was there after one of the steps.
func TestPowerCutStaged(t *testing.T) {
	var images atomic.Int64
	t.Run("operations", func(t *testing.T) {
		for _, op := range longOperations {
			for _, onDisk := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, on disk %v", op.name, onDisk), func(t *testing.T) {
					t.Parallel()
					p := powerCut{op: op, mount: Options{Stage: true, Defer: onDisk}, deep: 31, opts: fewer(crash.Options{
						Exhaustive: 64, Samples: 3, Lines: 3, Seed: seedOf(op.name),
					})}
					if onDisk {
						p.opts.Model = crash.PageCache
					}
					p.run(t)
					for _, f := range p.failures {
						t.Error(f)
					}
					images.Add(int64(p.images))
				})
			}
		}
	})
	t.Logf("%d images", images.Load())
	wantImages(t, images.Load(), 100)
}

// TestPowerCutPageCacheFindsFaults: without the fdatasync of either file an
// image shows it, and without the flushes, which do nothing there, none does.
func TestPowerCutPageCacheFindsFaults(t *testing.T) {
	always := func() bool { return true }
	for _, tc := range []struct {
		op         string
		meta, data *faulty
		found      bool
	}{
		{op: "create", meta: &faulty{noFence: always}, found: true},
		{op: "append a block", data: &faulty{noFence: always}, found: true},
		{op: "relocate", data: &faulty{noFence: always}, found: true},
		{op: "write 4 KiB in place", data: &faulty{noFence: always}, found: true},
		{op: "create", meta: &faulty{noFlush: true}, data: &faulty{noFlush: true}},
		{op: "relocate", meta: &faulty{noFlush: true}, data: &faulty{noFlush: true}},
	} {
		t.Run(tc.op, func(t *testing.T) {
			p := powerCut{settled: true, opts: crash.Options{Model: crash.PageCache, Exhaustive: 64, Samples: 32, Lines: 8}}
			at := slices.IndexFunc(operations(), func(op operation) bool { return op.name == tc.op })
			if at < 0 {
				t.Fatalf("no operation %q", tc.op)
			}
			p.op = operations()[at]
			if tc.meta != nil {
				p.wrap = tc.meta.around
			}
			if tc.data != nil {
				p.data = tc.data.around
			}
			p.run(t)
			if found := len(p.failures) > 0; found != tc.found {
				t.Errorf("%d images, failures: %q", p.images, p.failures)
			}
		})
	}
}

func (f *faulty) around(a medium.Area) medium.Area { return faulty{a, f.noFlush, f.noFence} }

// TestPowerCutPageCacheInReplay cuts the power on a disk, and again while what is left is mounted: the second cut changes
// nothing of what the first has left.
func TestPowerCutPageCacheInReplay(t *testing.T) {
	r := crash.Record(smallAreas(t))
	o := prepare(t, r.Area(0), r.Area(1))
	from := r.Now()
	for _, op := range operations() {
		if op.name == "rename over file" || op.name == "append a block" || op.name == "unlink one of two names" {
			if err := op.run(o); err != nil {
				t.Fatal(err)
			}
		}
	}
	first, second := 0, 0
	few := crash.Options{Model: crash.PageCache, From: from, Exhaustive: 8, Samples: 2, Lines: 2}
	_, err := r.Images(few, func(m *crash.Image) error {
		if first++; testing.Short() && first%4 != 0 {
			return nil
		}
		want, err := readOnly(m.Areas)
		if err != nil {
			return fmt.Errorf("%v: %w", m, err)
		}
		replay := crash.Record(m.Clone()...)
		fs, err := Mount(replay.Area(0), replay.Area(1), Options{Now: clock()})
		if err != nil {
			return fmt.Errorf("%v: mount for writing: %w", m, err)
		}
		fs.Reclaimed()
		_, err = replay.Images(crash.Options{Model: crash.PageCache, Exhaustive: 8, Samples: 2, Lines: 2}, func(again *crash.Image) error {
			second++
			got, err := readOnly(again.Areas)
			if err == nil && !got.without(noBlocks).equal(want.without(noBlocks)) {
				err = fmt.Errorf("differs:\n%s", got.diff([]treeState{want}))
			}
			if err != nil {
				return fmt.Errorf("%v, and in its replay %v: %w", m, again, err)
			}
			return nil
		})
		return err
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d images, %d of their replays", first, second)
	if first < 10 || second < 2*first/4 {
		t.Error("the test does not look at what it should")
	}
}
