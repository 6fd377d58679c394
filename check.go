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

// BadBlocks is what Check has found on the medium, and whose it is. Its JSON form is stable.
type BadBlocks struct {
	core.Media
	// Unknown is bad blocks of the data area of a pool that is too damaged to tell whose they are.
	Unknown []BadRun `json:"unknown,omitempty"`
	// Listed is what the kernel lists as bad of the device that holds the pool, and which need not be the pool's.
	Listed []BadRange `json:"listed,omitempty"`
}

// What bad blocks are: parts of files, of the data area and of the meta area, and lines of the kernel's lists. Their JSON
// forms are stable.
type (
	BadExtent    = core.BadExtent
	BadRun       = core.BadRun
	BadStructure = core.BadStructure
	BadRange     = medium.BadRange
)

// CheckOptions for Check. The zero value checks and only counts.
type CheckOptions struct {
	// Media has every block of the pool read, too.
	Media bool
	// MediaProgress is called now and then while that is done, which comes first. Bytes.
	MediaProgress func(done, total int64)
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
	Seconds float64    `json:"seconds"`
	Media   *BadBlocks `json:"media,omitempty"` // nil: it was not asked for
}

// Clean reports whether nothing is damaged. Notes, states that a power cut may leave and the next mount mends, are
// no damage, nor are bad blocks that are free or unwritten.
func (r CheckResult) Clean() bool { return r.Problems == 0 && r.Media.Lost() == 0 }

// Check verifies every structure of a pool that nobody owns, and every reference between them: checksums, reachability,
// link counts, block maps, directories, and that the bitmaps say exactly what is in use. It changes nothing; what the
// journal would replay is replayed in memory.
//
// With Media it reads every block of the medium, but for holes of the pool's files, and says whose the bad ones are.
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
	var bad []*medium.BadBlockError
	if o.Media {
		r.Media = &BadBlocks{Media: core.NoMedia()}
		r.Media.Listed, err = p.Scan(ctx, medium.ScanOptions{
			Found: func(b *medium.BadBlockError) { bad = append(bad, b) }, Progress: o.MediaProgress,
		})
		if err != nil {
			return r, fmt.Errorf("read the medium: %w", err)
		}
	}
	fs, err := core.Mount(p.Meta(), p.Data(), core.Options{ReadOnly: true})
	if err != nil {
		if damaged(err) {
			r.Media.unknown(bad)
			return r, nil
		}
		return r, fmt.Errorf("mount: %w", err)
	}
	defer func() { err = errors.Join(err, fs.Close()) }()
	st := fs.Statfs()
	r.UUID, r.Label = st.UUID, st.Label
	r.CheckSummary, err = fs.CheckWith(ctx, core.CheckOptions{Report: o.Report, Progress: o.Progress})
	if err == nil && o.Media {
		r.Media.Media, err = fs.BadBlocks(ctx, bad)
	}
	return r, err
}

// Lost is how many bytes of files and metadata are lost, and of the data area when it is unknown whose they are.
func (b *BadBlocks) Lost() (n int64) {
	if b == nil {
		return 0
	}
	for _, x := range b.Unknown {
		n += x.Length
	}
	return n + b.Media.Lost()
}

// unknown lists bad blocks of a pool that cannot be mounted. Those of the meta area are why, or come on top.
func (b *BadBlocks) unknown(bad []*medium.BadBlockError) {
	for _, e := range bad {
		if e.Meta() {
			b.Meta = append(b.Meta, BadStructure{Structure: "meta area", Offset: e.Offset, Length: blockSize})
		} else {
			b.Unknown = append(b.Unknown, BadRun{Offset: e.Offset, Length: blockSize})
		}
	}
}
