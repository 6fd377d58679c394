package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/bench"
)

func (a *app) benchScale() *cobra.Command {
	var o bench.ScaleOptions
	cmd := a.command(verb{
		use: "scale [flags]", short: "Measure how costs grow with sizes and numbers", args: [2]int{0, 0},
		long: `Mounts pools of 1 GiB to 4 TiB, sparse, and such with 1,000 to 1,000,000 files, after they were closed and after their
owner was killed; looks names up in directories of 100 to 1,000,000 entries; stores to pages of holes in files of 1 MiB to
256 GiB, mapped with Sync; counts the bytes that a server needs to remember what is mapped; and lets 1 to 8 processes work
at the same time. The kernel's file system below --dir does the same beside it, where it can.

With --json: title; machine: cpu, cpus, kernel, go, flush_method, medium, granularity, emulated; rows, each with what (is
measured), peer (whose it is), x (what it is measured against), x_unit (B, files, entries, clients), unit (ns, B, 1/s),
median, q1, q3 (of the rounds), durable (it is when the operation returns); notes: what could not be measured.
`,
		example: `  pmemfs bench scale --short
  pmemfs bench scale --json`,
		run: func(cmd *cobra.Command, _ []string) (result, error) {
			if o.Rounds < 1 || o.Time < 10*time.Millisecond {
				return nil, usageError(cmd, "--rounds must be 1 or more, --time 10ms or more")
			}
			if o.Short {
				o.Rounds, o.Time = max(o.Rounds/3, 1), o.Time/3
			}
			if a.terminal() {
				o.Progress = a.benchProgress
			}
			part, err := bench.MeasureScale(a.ctx, o)
			if err != nil {
				return nil, benchRemedy(err, "--dir")
			}
			return &partResult{part}, nil
		},
	})
	f := cmd.Flags()
	f.StringVar(&o.Dir, "dir", "/dev/shm", "make pools and files below this `directory`")
	f.IntVar(&o.Rounds, "rounds", 9, "how often (`N`) everything is measured; what takes long a third of it")
	f.DurationVar(&o.Time, "time", 300*time.Millisecond, "for each figure of throughput")
	f.BoolVar(&o.Short, "short", false, "smaller sizes, a third of the rounds")
	return cmd
}

// benchLoad is the life of a process that the benchmark starts. It is not for people.
func (a *app) benchLoad() *cobra.Command {
	var o bench.LoadOptions
	cmd := &cobra.Command{
		Use: "bench-load", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return bench.Load(a.ctx, o, a.stdout) },
	}
	f := cmd.Flags()
	f.StringVar(&o.Socket, "socket", "", "")
	f.StringVar(&o.Pool, "pool", "", "")
	f.StringVar(&o.Dir, "dir", "", "")
	f.StringVar(&o.Name, "name", "load", "")
	f.StringVar(&o.What, "what", "", "")
	f.BoolVar(&o.Gate, "gate", false, "")
	f.DurationVar(&o.Time, "time", time.Second, "")
	return cmd
}
