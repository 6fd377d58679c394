package main

import (
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/bench"
	"github.com/pmemfs/pmemfs/internal/report"
)

// compareFlags are those of benchmarks that compare pmemfs with file systems of the kernel.
type compareFlags struct {
	o     *bench.CompareOptions
	short bool
}

func (c *compareFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.o.Dir, "pool", "/dev/shm", "make the pools below this directory, or on this device: `PLACE`")
	f.StringArrayVar(&c.o.Dirs, "dir", nil, "compare with the file system of this `directory`; may be repeated (default: /dev/shm)")
	f.StringArrayVar(&c.o.Ext4, "ext4", nil, "compare with an ext4 with a journal on a loop device over a file in this `directory`; may be repeated; as root (default without --dir: /dev/shm and "+os.TempDir()+")")
	f.IntVar(&c.o.Rounds, "rounds", 25, "in how many (`N`) rounds all take their turns")
	f.DurationVar(&c.o.Time, "time", 20*time.Millisecond, "that each figure may take in a round: so many operations are done")
	f.BoolVar(&c.short, "short", false, "a fifth of the time in a fifth of the rounds")
	f.BoolVar(&c.o.Force, "force", false, "overwrite a pool that is on the device")
}

// check fills in what depends on other flags.
func (c *compareFlags) check(a *app, cmd *cobra.Command) error {
	if c.o.Rounds < 1 || c.o.Time < time.Millisecond {
		return usageError(cmd, "--rounds must be 1 or more, --time 1ms or more")
	}
	if len(c.o.Dirs)+len(c.o.Ext4) == 0 {
		c.o.Dirs, c.o.Ext4 = []string{"/dev/shm"}, []string{"/dev/shm", os.TempDir()}
	}
	if c.short {
		c.o.Rounds, c.o.Time = max(c.o.Rounds/5, 1), c.o.Time/5
	}
	if a.terminal() {
		c.o.Progress = a.benchProgress
	}
	return nil
}

// partFields are what the objects of comparisons have, for their help.
const partFields = `With --json: title; machine: cpu, cpus, kernel, go, flush_method, medium, granularity, emulated; rows, each with what (is
done), peer (that does it), unit (ns), median, q1, q3 (of the rounds: each stands for the mean of its operations, or for the
median of those that are timed one by one), limit (median of raw), ratio (median to limit), durable (it is
when the operation returns), note; notes: what could not be measured.
`

type partResult struct{ *report.Part }

func (r *partResult) text(w io.Writer) { r.Text(w) }
