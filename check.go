package pmemfs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// Problem is one thing that Check found wrong. Its JSON form is stable.
type Problem = core.Problem

// CheckSummary counts what Check saw. Its JSON form is stable.
type CheckSummary = core.Summary

// CheckOptions for Check. The zero value checks and only counts.
type CheckOptions struct {
	// Report is called for each problem as it is found.
	Report func(Problem)
	// Progress is called now and then.
	Progress func(done, total int64)
	// Wait is how long an owner of the pool that is about to go is waited for.
	Wait time.Duration
}

// CheckResult is what Check found. Its JSON form is stable.
type CheckResult struct {
	Pool  string `json:"pool"`
	UUID  string `json:"uuid"`
	Label string `json:"label"`
	CheckSummary
	Seconds float64 `json:"seconds"`
}

// Clean reports whether nothing is damaged. Notes, states that a power cut may leave and the next mount mends, are
// no damage.
func (r CheckResult) Clean() bool { return r.Problems == 0 }

// Check verifies every structure of a pool that nobody owns, and every reference between them: checksums, reachability,
// link counts, block maps, directories, and that the bitmaps say exactly what is in use. It changes nothing; what the
// journal would replay is replayed in memory.
//
// A pool that is too damaged to be opened (no superblock, a damaged record in the journal, no root directory) is
// reported as one problem. An error means that the check could not be made: there is no pool, it is in use, it may not
// be read, or ctx was cancelled.
func Check(ctx context.Context, pool string, o CheckOptions) (CheckResult, error) {
	start := time.Now()
	r, err := check(ctx, pool, o)
	r.Pool, r.Seconds = pool, time.Since(start).Seconds()
	return r, pathError("check", pool, err)
}

func check(ctx context.Context, pool string, o CheckOptions) (r CheckResult, err error) {
	damaged := func(err error) bool {
		p, ok := core.AsProblem(err)
		if ok {
			r.Problems++
			if o.Report != nil {
				o.Report(p)
			}
		}
		return ok
	}
	p, err := medium.Open(pool, medium.Options{ReadOnly: true, Wait: o.Wait, MetaSize: core.MetaSize})
	if err != nil {
		if damaged(err) { // of a device, whose superblock says where the meta area ends
			err = nil
		}
		return r, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	fs, err := core.Mount(p.Meta(), p.Data(), core.Options{ReadOnly: true})
	if err != nil {
		if damaged(err) {
			return r, nil
		}
		return r, fmt.Errorf("mount: %w", err)
	}
	st := fs.Statfs()
	r.UUID, r.Label = st.UUID, st.Label
	r.CheckSummary, err = fs.CheckWith(ctx, core.CheckOptions{Report: o.Report, Progress: o.Progress})
	return r, errors.Join(err, fs.Close())
}
