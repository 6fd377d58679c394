// Package explore looks for operations after which a power cut leaves what it
// must not: it runs sequences of operations on a recording medium, makes the
// images that a power cut may leave, and compares each with a plain model of
// the file system.
package explore

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Options for Run.
type Options struct {
	Setting  Setting
	Depth    int // sequences of up to so many operations; those longer than 2 of Small only
	Seed     uint64
	Effort   Effort
	Every    int       // only one of so many sequences of more than one operation; 0: all
	Workers  int       // default 1
	Deadline time.Time // zero: none
	// Random goes on with random sequences of more operations until the deadline.
	Random   bool
	Progress func(Report) // after each sequence
	// Violation is called for each one found, one at a time; Run ends after
	// most of them.
	Violation func(*Violation)
}

const mostViolations = 20

// Report is what was done. The JSON names are a contract with scripts.
type Report struct {
	Sequences  int64 `json:"sequences"` // that were run
	Skipped    int64 `json:"skipped"`   // that a shorter one stands for
	Total      int64 `json:"total"`     // that there are
	Epochs     int64 `json:"epochs"`    // of the last operations
	Made       int64 `json:"made"`      // images, with those that are equal
	Images     int64 `json:"images"`    // distinct ones
	Deep       int64 `json:"used_further"`
	Replayed   int64 `json:"replay_images"` // of power cuts in recovery
	Violations int64 `json:"violations"`
}

func (r *Report) add(o Report) {
	r.Sequences += o.Sequences
	r.Skipped += o.Skipped
	r.Epochs += o.Epochs
	r.Made += o.Made
	r.Images += o.Images
	r.Deep += o.Deep
	r.Replayed += o.Replayed
}

// sequences calls fn for each sequence of depth operations of an alphabet.
func sequences(alphabet []Op, depth int, fn func([]Op) bool) {
	at := make([]int, depth)
	for {
		ops := make([]Op, depth)
		for i, k := range at {
			ops[i] = alphabet[k]
		}
		if !fn(ops) {
			return
		}
		i := depth - 1
		for ; i >= 0; i-- {
			if at[i]++; at[i] < len(alphabet) {
				break
			}
			at[i] = 0
		}
		if i < 0 {
			return
		}
	}
}

// endings is what follows each sequence: where operations are staged their
// records get to the medium by a commit.
func (s Setting) endings() [][]Op {
	if s.Interval {
		return [][]Op{nil, staged[:1]}
	}
	return [][]Op{nil}
}

// Sequences is how many sequences there are up to a depth.
func Sequences(s Setting, depth int) (n int64) {
	for d := 1; d <= depth; d++ {
		count := int64(len(s.endings()))
		for range d {
			count *= int64(len(s.alphabet(d)))
		}
		n += count
	}
	return n
}

// seedOf gives each sequence samples of its own that do not depend on what was
// run before.
func seedOf(seed uint64, ops []Op) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, seed, ops)
	return h.Sum64()
}

// Run runs all sequences up to a depth, shorter ones first. It ends early when
// ctx is done or the deadline has passed; the report says how far it came, and
// err is that of ctx then. Other errors mean that it could not be run.
func Run(ctx context.Context, o Options) (Report, error) {
	if !o.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, o.Deadline)
		defer cancel()
	}
	inner, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r := &run{opts: o, cases: make(chan *Case, 64), stop: stop, report: Report{Total: Sequences(o.Setting, o.Depth)}}
	var workers sync.WaitGroup
	v := &verdicts{}
	for range max(o.Workers, 1) {
		w, err := newWorker(inner, v)
		if err != nil {
			return r.report, err
		}
		workers.Go(func() { r.work(inner, w) })
	}
	r.feed(inner)
	close(r.cases)
	workers.Wait()
	if err := context.Cause(inner); err != nil && err != errEnough {
		return r.report, err
	}
	return r.report, nil
}

// run is one Run.
type run struct {
	opts  Options
	cases chan *Case
	stop  context.CancelCauseFunc

	mu     sync.Mutex
	report Report // protected by mu
}

func (r *run) feed(ctx context.Context) {
	give := func(ops []Op) bool {
		c := &Case{Ops: ops, Setting: r.opts.Setting, Effort: r.opts.Effort, Seed: seedOf(r.opts.Seed, ops)}
		select {
		case r.cases <- c:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for depth := 1; depth <= r.opts.Depth; depth++ {
		n := 0
		sequences(r.opts.Setting.alphabet(depth), depth, func(ops []Op) bool {
			n++
			if depth > 1 && r.opts.Every > 1 && n%r.opts.Every != 0 {
				return true
			}
			for _, ending := range r.opts.Setting.endings() {
				if !give(slices.Concat(ops, ending)) {
					return false
				}
			}
			return true
		})
	}
	if b, err := theBase(); err == nil && r.opts.Random {
		rng := rand.New(rand.NewPCG(r.opts.Seed, 0))
		for give(randomOps(rng, b.model, r.opts.Setting)) {
		}
	}
}

// randomOps is a sequence of 3 to 8 operations, of which all but the last
// succeed.
func randomOps(rng *rand.Rand, m *Model, s Setting) (ops []Op) {
	alphabet, endings := s.alphabet(1), s.endings()
	m = m.clone()
	for i, o := range slices.Concat(opening, privates) {
		m.Apply(o, i, firstTime)
	}
	for n := 3 + rng.IntN(6); len(ops) < n; {
		o := alphabet[rng.IntN(len(alphabet))]
		if m.Apply(o, len(ops), firstTime) == nil {
			ops = append(ops, o)
		}
	}
	return append(ops, endings[rng.IntN(len(endings))]...)
}

func (r *run) work(ctx context.Context, w *worker) {
	for c := range r.cases {
		if ctx.Err() != nil {
			continue // what is left in the channel
		}
		w.report = Report{}
		found, skipped, err := w.run(c)
		r.mu.Lock()
		r.report.add(w.report)
		if skipped {
			r.report.Skipped++
		}
		if err != nil {
			r.stop(err)
		}
		for _, v := range found {
			r.report.Violations++
			if r.opts.Violation != nil {
				r.opts.Violation(v)
			}
		}
		if r.report.Violations >= mostViolations {
			r.stop(errEnough)
		}
		if r.opts.Progress != nil {
			r.opts.Progress(r.report)
		}
		r.mu.Unlock()
	}
}

// RunCase runs one case and returns what it shows.
func RunCase(ctx context.Context, c *Case) (Report, []*Violation, error) {
	w, err := newWorker(ctx, &verdicts{})
	if err != nil {
		return Report{}, nil, err
	}
	found, skipped, err := w.run(c)
	if skipped {
		w.report.Skipped++
	}
	w.report.Total, w.report.Violations = 1, int64(len(found))
	return w.report, found, err
}
