package explore

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/pmemfs/pmemfs/internal/core"
)

// TestSequences runs every operation, and a part of the sequences of two and
// three: the short form of pmemfs crashtest.
func TestSequences(t *testing.T) {
	o := Options{
		Depth: 3, Seed: 1, Effort: Short, Every: 19, Workers: runtime.GOMAXPROCS(0),
		Violation: func(v *Violation) { t.Errorf("\n%v", v) },
	}
	if raceDetector || testing.Short() {
		o.Depth, o.Effort = 1, Effort{Exhaustive: 16, Lines: 4, Samples: 4, Deep: 20}
	}
	r, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", r)
	if r.Sequences < int64(len(Alphabet)) || r.Images < 10*r.Sequences || r.Deep == 0 || r.Replayed == 0 {
		t.Error("it does not look at what it should")
	}
}

// TestSettings runs every operation and some random sequences under each commit
// policy, on each medium.
func TestSettings(t *testing.T) {
	for _, s := range Settings {
		t.Run(s.Policy()+" on "+s.Medium(), func(t *testing.T) {
			random := int64(150)
			if raceDetector || testing.Short() {
				random = 10
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			o := Options{
				Setting: s, Depth: 1, Seed: 1, Effort: Effort{Exhaustive: 64, Lines: 6, Samples: 6, Deep: 48},
				Workers: runtime.GOMAXPROCS(0), Random: true,
				Progress: func(r Report) {
					if r.Sequences+r.Skipped >= r.Total+random {
						cancel()
					}
				},
				Violation: func(v *Violation) { t.Errorf("\n%v", v) },
			}
			r, err := Run(ctx, o)
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			t.Logf("%+v", r)
			if r.Sequences < int64(len(Alphabet))+random || r.Images < r.Sequences || r.Deep == 0 || r.Replayed == 0 {
				t.Error("it does not look at what it should")
			}
		})
	}
}

// TestStaticRefuses does every operation on files that are static: the model
// says which are refused.
func TestStaticRefuses(t *testing.T) {
	w, err := newWorker(context.Background(), &verdicts{})
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, freeze := range []string{"setstatic /a/x", "fill /a/y 0 12388\nsetstatic /a/y", "setstatic @1"} {
		for _, o := range append(Alphabet[:len(Alphabet):len(Alphabet)], refusals...) {
			c := &Case{Ops: append(parse(freeze), o), Effort: Effort{Exhaustive: 8, Lines: 2, Samples: 2}}
			found, skipped, err := w.run(c)
			if err != nil || skipped {
				t.Fatal(err, skipped)
			}
			for _, v := range found {
				t.Errorf("\n%v", v)
			}
			m := w.base.model.clone()
			for i, o := range slices.Concat(before(c.Ops), c.Ops) {
				err = m.Apply(o, i, firstTime)
			}
			if errors.Is(err, core.ErrStatic) {
				refused++
			}
		}
	}
	if refused < 30 {
		t.Errorf("%d operations were refused", refused)
	}
}

// refusals are operations of which the refusal depends on a byte.
var refusals = parse(`
	write /a/x 4990 10
	write /a/x 4990 11
	write /a/y 12380 8
	write /a/y 12380 9
	write @1 5999 1
	write @1 6000 1
	truncate /a/x 4999
	truncate /a/x 5000
	truncate /a/x 5001
	truncate /a/y 12388
	fallocate /a/x 0 5000
	fallocate /a/x 0 5001
	keepsize /a/x 0 8192
	keepsize /a/x 0 8193
	punch /a/x 1 4095
	punch /a/x 0 4096
	punch /a/x 8192 4096
	zero /a/x 1 4999
	zero /a/x 1 5000
	zerokeep /a/x 4097 4095
	zerokeep /a/x 4097 4096
	zerokeep /a/x 4096 4096
	relocate /a/x 8191 1
	relocate /a/x 8192 1
	fill /a/x 8191 1
	fill /a/x 8192 1
	fill /a/x 0 0
	store /a/x 4096 8
	store @1 5000 64
`)

// TestSameAgain: a run depends on its seed alone.
func TestSameAgain(t *testing.T) {
	var reports []Report
	for range 2 {
		r, err := Run(context.Background(), Options{Depth: 1, Seed: 3, Effort: Effort{Exhaustive: 16, Lines: 2, Samples: 2}})
		if err != nil {
			t.Fatal(err)
		}
		reports = append(reports, r)
	}
	if reports[0] != reports[1] {
		t.Errorf("%+v, and then %+v", reports[0], reports[1])
	}
}

// TestEnds: a run ends with its context, or at its deadline with random
// sequences until then, and says how far it came.
func TestEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	o := Options{Depth: 2, Effort: Short, Progress: func(r Report) {
		if r.Sequences == 5 {
			cancel()
		}
	}}
	r, err := Run(ctx, o)
	if !errors.Is(err, context.Canceled) || r.Sequences < 5 || r.Sequences+r.Skipped >= r.Total {
		t.Errorf("%+v, %v", r, err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	defer cancel()
	o = Options{
		Depth: 1, Effort: Effort{Exhaustive: 4, Lines: 1, Samples: 1}, Random: true, Deadline: time.Now().Add(time.Hour),
		Progress: func(r Report) {
			if r.Sequences == r.Total+20 {
				cancel()
			}
		},
	}
	if r, err = Run(ctx, o); !errors.Is(err, context.Canceled) || r.Sequences < r.Total+20 {
		t.Errorf("with random sequences: %+v, %v", r, err)
	}
}
