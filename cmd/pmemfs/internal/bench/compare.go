package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/report"
)

// CompareOptions are common to the benchmarks that compare pmemfs with file systems of the kernel.
type CompareOptions struct {
	Options
	Dirs   []string // on file systems of the kernel
	Ext4   []string // where a file is made for a loop device with a journalled ext4, while it is measured
	Force  bool     // overwrite a pool that is on the device already
	Rounds int
	Time   time.Duration // that a figure may take in each round: it decides how many operations that are
}

// raw is the peer that is the limit of its group: what the machine itself takes.
const raw = "raw"

// figure is a row in the making.
type figure struct {
	what, peer, note string
	durable          bool
	took             time.Duration // by the operations of this turn
	ns               []float64     // of one operation, a round each

	// each has the operations of this turn where they are timed by themselves: their median counts, and not their mean, so
	// that what interrupts a few of them is not in it. Else it is nil.
	each *hdrhistogram.Histogram
}

// add takes an operation that was timed by itself.
func (f *figure) add(took time.Duration) error {
	f.took += took
	return f.each.RecordValue(int64(took))
}

// begin forgets the last turn.
func (f *figure) begin() {
	f.took = 0
	if f.each != nil {
		f.each.Reset()
	}
}

// end keeps what one of the n operations of this turn took.
func (f *figure) end(n int) {
	ns := float64(f.took) / float64(n)
	if f.each != nil {
		ns = float64(f.each.ValueAtPercentile(50))
	}
	f.ns = append(f.ns, ns)
}

// measure times n operations.
func (f *figure) measure(n int, do func(i int) error) error {
	start := time.Since(epoch)
	begin := start
	for i := range n {
		err := do(i)
		if f.each != nil && err == nil {
			now := time.Since(epoch)
			err = f.each.RecordValue(int64(now - begin))
			begin = now
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", f.peer, f.what, err)
		}
	}
	f.took += time.Since(epoch) - start
	return nil
}

// contestant takes its turn in each round, in which it does n operations for each of its figures. What it prepares before
// and puts right behind is in none of them.
type contestant struct {
	figures     []*figure
	least, most int // n is at least and at most
	n           int
	turn        func(n int) error
	before      func() error // what has to be done before each turn; nil: nothing
}

func newContestant(least, most int, turn func(n int) error, figures ...*figure) *contestant {
	return &contestant{figures: figures, least: min(least, most), most: most, turn: turn}
}

// warmed has a contestant begin each turn with a TLB that before fills, and end it before something else has most likely run on
// this CPU: see view.warm.
func (c *contestant) warmed(before func() error) {
	c.before, c.most = before, 1<<14
}

// run has a turn, and returns how long its operations took. An access to a mapping that fails becomes an error.
func (c *contestant) run(n int) (sum time.Duration, err error) {
	for _, f := range c.figures {
		f.begin()
	}
	if c.before != nil {
		if err := c.before(); err != nil {
			return 0, err
		}
	}
	if caught := pmemfs.Catch(func() { err = c.turn(n) }); caught != nil {
		err = caught
	}
	for _, f := range c.figures {
		sum += f.took
	}
	return sum, err
}

// calibrate chooses n, so that a turn takes about as long as it may. That warms everything up, as well.
func (c *contestant) calibrate(each time.Duration) error {
	budget := each * time.Duration(len(c.figures))
	for n := c.least; ; n = min(4*n, c.most) {
		took, err := c.run(n)
		if err != nil {
			return err
		}
		if took >= budget/4 || n == c.most {
			c.n = int(min(max(int64(n)*int64(budget)/max(int64(took), 1), int64(c.least)), int64(c.most)))
			return nil
		}
	}
}

// compare has all take their turns, in rounds of which each has an order of its own, so that what else goes on on the machine
// hits all alike, and so does what the one before leaves behind.
func compare(ctx context.Context, o *CompareOptions, what string, all []*contestant) error {
	add, done := o.progress(what, int64(len(all)*(o.Rounds+1)))
	defer done()
	for _, c := range all {
		if err := c.calibrate(o.Time); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		add(1)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range o.Rounds {
		for _, i := range random.Perm(len(all)) {
			c := all[i]
			if _, err := c.run(c.n); err != nil {
				return err
			}
			for _, f := range c.figures {
				f.end(c.n)
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			add(1)
		}
	}
	return nil
}

// rows are what was found, by what is done, each group compared with what the machine itself takes for it.
func rows(all []*contestant) []report.Row {
	var order []string
	groups := map[string][]report.Row{}
	limits := map[string]float64{}
	for _, c := range all {
		for _, f := range c.figures {
			row := report.NewRow(f.what, f.peer, "ns", f.ns)
			row.Durable, row.Note = f.durable, f.note
			if groups[f.what] == nil {
				order = append(order, f.what)
			}
			if f.peer == raw {
				limits[f.what] = row.Median
			}
			groups[f.what] = append(groups[f.what], row)
		}
	}
	var list []report.Row
	for _, what := range order {
		for _, row := range groups[what] {
			if limit := limits[what]; limit > 0 {
				row.Compare(limit)
			}
			list = append(list, row)
		}
	}
	return list
}
