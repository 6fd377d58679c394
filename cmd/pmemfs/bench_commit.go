package main

import (
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/bench"
)

func (a *app) benchCommit() *cobra.Command {
	var (
		o        bench.CommitOptions
		markdown string
	)
	cmd := a.command(verb{
		use: "commit [flags]", short: "Compare the commit policies on memory and on disk", args: [2]int{0, 0},
		long: `Lets 1 to 32 clients append records of 256 bytes, each to a file of its own, through a server in a process of its
own: under the policies op (each append is durable when it returns) and interval (all of them are, every second), on a
byte-addressable medium (--dir) and behind a page cache (--disk). Beside operations per second it shows how many
operations one commit makes durable.

With --json: bytes (of a record), seconds; machine and disk: cpu, cpus, kernel, go, flush_method, medium, granularity,
emulated; rows, each with medium, policy, clients, operations, seconds, operations_per_second, transactions, commits.
`,
		example: `  pmemfs bench commit
  pmemfs bench commit --disk /var/tmp --clients 1,16 --time 5s`,
		run: func(cmd *cobra.Command, _ []string) (result, error) {
			for _, n := range o.Clients {
				if n < 1 || n > maxBenchClients {
					return nil, usageError(cmd, "--clients %d: it must be 1 to %d", n, maxBenchClients)
				}
			}
			if o.Time < 10*time.Millisecond {
				return nil, usageError(cmd, "--time %v is too short", o.Time)
			}
			files := reportFlags{markdown: markdown}
			if err := files.check(); err != nil {
				return nil, err
			}
			if a.terminal() {
				o.Progress = a.benchProgress
			}
			r, err := bench.MeasureCommit(a.ctx, o)
			if err != nil {
				return nil, err
			}
			return &commitResult{r}, files.write(cmd, r)
		},
	})
	f := cmd.Flags()
	f.StringVar(&o.Dir, "dir", "/dev/shm", "make one pool below this `directory`, in memory or on a DAX mount")
	f.StringVar(&o.Disk, "disk", os.TempDir(), "make the other below this `directory`, on a disk")
	f.IntSliceVar(&o.Clients, "clients", []int{1, 2, 4, 8, 16, 32}, "how many work at the same time")
	f.DurationVar(&o.Time, "time", 2*time.Second, "for each figure")
	f.StringVar(&markdown, "markdown", "", "write a part of a page to this `file`")
	return cmd
}

// maxBenchClients is far more than there are CPUs.
const maxBenchClients = 256

type commitResult struct{ *bench.Commit }

func (r *commitResult) text(w io.Writer) { r.Text(w) }
