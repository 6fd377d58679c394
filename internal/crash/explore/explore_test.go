package explore

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"
)

// TestSequences runs every operation, and a part of the sequences of two and
// three: the short form of pmemfs crashtest.
func TestSequences(t *testing.T) {
	o := Options{
		Depth: 3, Seed: 1, Effort: Short, Every: 11, Workers: runtime.GOMAXPROCS(0),
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
