package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs/internal/crash/explore"
)

type crashtestOptions struct {
	depth  int
	seed   uint64
	time   time.Duration
	replay string
	policy string
	medium string
}

const crashtestLong = `Sequences of operations run on a simulated medium in memory; no pool is needed and none is touched. For the last operation
of each sequence the images are made that a power cut may leave between any two fences: any part of the lines that were
not durable, torn as a medium may tear. Each image must mount, pass every check of "pmemfs check", and show the state
before or after the operation. Some are used further: the power is cut in their replay, and again in the replay after
that; then files are added and everything is removed, and nothing may be left in use.

With --policy op each operation is durable when it returns. With --policy interval operations are staged, and become durable
together, by a commit or a sync, which are operations then, too; each sequence is run as it is and followed by a commit. The
state must be one after some operation, and contain all that was made durable. With --medium page-cache it is a disk behind
the kernel's page cache, written back at any time, of which a fence is an fdatasync.

All sequences of one and of two operations are run, of three and more over a smaller set. With --time it ends after that
long, and goes on with random longer sequences when the others are done before. docs/crash.md says what is promised and
how images are chosen.

A sequence that breaks a promise is written to a small file pmemfs-crash-N.case in the current folder; --replay runs it
again, alone. Ctrl-C ends the test and prints what was done so far.

Exit code 0: no violation; 1: violations; 2: it could not be run.

With --json: depth, policy, medium, seed, sequences, skipped (that a shorter one stands for), total, epochs, made (images, with equal
ones), images (distinct ones), used_further, replay_images (power cuts in recovery), violations, complete, seconds,
images_per_second, and cases: for each violation file, operations, image and text.
`

func (a *app) crashtest() *cobra.Command {
	var o crashtestOptions
	cmd := a.command(verb{
		use: "crashtest [flags]", short: "Cut the power in every operation, at every instant", args: [2]int{0, 0},
		long: crashtestLong,
		example: `  pmemfs crashtest --depth 1
  pmemfs crashtest --depth 2 --json
  pmemfs crashtest --time 1h --seed 7
  pmemfs crashtest --depth 1 --policy interval --medium page-cache
  pmemfs crashtest --replay pmemfs-crash-1.case`,
		run: func(cmd *cobra.Command, _ []string) (result, error) {
			if o.depth < 1 || o.depth > 4 {
				return nil, usageError(cmd, "a depth of %d, it is 1 to 4", o.depth)
			}
			if o.time < 0 {
				return nil, usageError(cmd, "a time of %v", o.time)
			}
			setting, err := explore.ParseSetting(o.policy, o.medium)
			if err != nil {
				return nil, usageError(cmd, "%v", err)
			}
			if o.replay != "" {
				return a.replayCase(o.replay)
			}
			return a.runCrashtest(o, setting)
		},
	})
	f := cmd.Flags()
	f.IntVar(&o.depth, "depth", 2, "longest systematic sequences, in `operations`")
	f.Uint64Var(&o.seed, "seed", 1, "`number` that random choices follow from")
	f.DurationVar(&o.time, "time", 0, "end after this `duration`, such as 90s or 2h (default: when all sequences are done)")
	f.StringVar(&o.policy, "policy", "op", "when operations become durable: `op` (each when it returns) or interval (together, later)")
	f.StringVar(&o.medium, "medium", "cpu-cache", "what is simulated: `cpu-cache` (memory behind the CPU's caches) or page-cache (a disk)")
	f.StringVar(&o.replay, "replay", "", "run the case in this `file` instead")
	return cmd
}

type crashtestResult struct {
	Depth  int    `json:"depth,omitempty"`
	Policy string `json:"policy"`
	Medium string `json:"medium"`
	Seed   uint64 `json:"seed"`
	explore.Report
	Complete bool      `json:"complete"`
	Seconds  float64   `json:"seconds"`
	Rate     float64   `json:"images_per_second"`
	Cases    []badCase `json:"cases"`
}

type badCase struct {
	File       string   `json:"file"`
	Operations []string `json:"operations"`
	Image      string   `json:"image"`
	Text       string   `json:"text"`
}

func (a *app) runCrashtest(o crashtestOptions, s explore.Setting) (result, error) {
	r := &crashtestResult{Depth: o.depth, Policy: o.policy, Medium: o.medium, Seed: o.seed, Cases: []badCase{}}
	bar := a.newProgress("crashtest", explore.Sequences(s, o.depth), false)
	var lost error // a case that could not be written
	start := time.Now()
	e := explore.Options{
		Setting: s, Depth: o.depth, Seed: o.seed, Effort: explore.Thorough, Workers: runtime.GOMAXPROCS(0),
		Progress: func(done explore.Report) { bar.set(min(done.Sequences+done.Skipped, done.Total)) },
		Violation: func(v *explore.Violation) {
			bar.clear()
			file, err := writeCase(v)
			lost = errors.Join(lost, err)
			r.violated(a, file, v)
		},
	}
	if o.time > 0 {
		e.Deadline, e.Random = start.Add(o.time), true
	}
	var err error
	r.Report, err = explore.Run(a.ctx, e)
	bar.clear()
	r.Complete = err == nil || e.Random && errors.Is(err, context.DeadlineExceeded) && r.Sequences+r.Skipped >= r.Total
	if err != nil && !errors.Is(err, context.DeadlineExceeded) && a.ctx.Err() == nil {
		return r.finish(start), unable(err)
	}
	return r.finish(start), errors.Join(r.failed(), lost)
}

func (r *crashtestResult) violated(a *app, file string, v *explore.Violation) {
	b := badCase{File: file, Image: v.Image, Text: v.What}
	for _, op := range v.Case.Ops {
		b.Operations = append(b.Operations, op.String())
	}
	r.Cases = append(r.Cases, b)
	if !a.json {
		fmt.Fprintf(a.stdout, "VIOLATION (%s):\n%v\n", file, v)
	}
}

func (r *crashtestResult) finish(start time.Time) result {
	r.Seconds = time.Since(start).Seconds()
	r.Rate = float64(r.Images) / max(r.Seconds, 1e-9)
	return r
}

func (r *crashtestResult) failed() error {
	if r.Violations == 0 {
		return nil
	}
	err := fmt.Errorf("%s: a power cut leaves what it must not", count(r.Violations, "violation"))
	if len(r.Cases) > 0 && r.Cases[0].File != "" {
		return &failure{err, exitFailed, "pmemfs crashtest --replay " + r.Cases[0].File}
	}
	return err
}

// writeCase writes a case to a new file.
func writeCase(v *explore.Violation) (name string, err error) {
	for n := 1; ; n++ {
		name = fmt.Sprintf("pmemfs-crash-%d.case", n)
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		_, err = io.WriteString(f, v.String())
		return name, errors.Join(err, f.Close())
	}
}

func (a *app) replayCase(name string) (result, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, unable(err)
	}
	defer f.Close()
	c, err := explore.ReadCase(f)
	if err != nil {
		return nil, unable(fmt.Errorf("%s: %w", name, err))
	}
	r := &crashtestResult{
		Policy: c.Setting.Policy(), Medium: c.Setting.Medium(), Seed: c.Seed, Complete: true, Cases: []badCase{},
	}
	start := time.Now()
	report, found, err := explore.RunCase(a.ctx, c)
	r.Report = report
	if err != nil {
		return r.finish(start), unable(err)
	}
	for _, v := range found {
		r.violated(a, name, v)
	}
	return r.finish(start), r.failed()
}

func (r *crashtestResult) text(w io.Writer) {
	state := ""
	if !r.Complete {
		state = " (not complete)"
	}
	fmt.Fprintf(w, "%s of %d%s, %s, %s (%d made), %d of them used further with %s in recovery; %s; %.1f s, %.0f images/s\n",
		count(r.Sequences+r.Skipped, "sequence"), r.Total, state, count(r.Epochs, "epoch"), count(r.Images, "distinct image"), r.Made,
		r.Deep, count(r.Replayed, "image"), count(r.Violations, "violation"), r.Seconds, r.Rate)
}
