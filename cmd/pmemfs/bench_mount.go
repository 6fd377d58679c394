package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/bench"
)

func (a *app) benchMount() *cobra.Command {
	var (
		o        bench.MountOptions
		bytes    = size(64 << 20)
		markdown string
	)
	cmd := a.command(verb{
		use: "mount [flags]", short: "Compare a mount with the loopback of go-fuse", args: [2]int{0, 0},
		long: `Mounts a pool, and beside it the loopback file system of go-fuse, the library that both are made with, over a directory
on the same medium; each is served by a process of its own. Then it creates, looks at, lists and removes files, and reads
and writes 4 KiB and 1 MiB at a time, in both by turns. The loopback is as in go-fuse's
example, for many users. Where it can, it lets
the kernel read and write its files itself (passthrough), which no file system can whose files are not files of another
one; so it is measured without that and, for comparison, with. It takes root.

With --json: files, bytes, rounds, seconds; machine: cpu, cpus, kernel, go, flush_method, medium, granularity, emulated;
rows, each with operation, mount_ns, loopback_ns, passthrough_ns (of one operation: medians of the rounds), ratio (mount
to loopback), mount_quartiles_ns, loopback_quartiles_ns, passthrough_quartiles_ns (the first and the third).
`,
		example: `  pmemfs bench mount
  pmemfs bench mount --files 10000 --bytes 256M --json`,
		run: func(cmd *cobra.Command, _ []string) (result, error) {
			if o.Files < 1 || o.Rounds < 1 || bytes < 1<<20 || bytes%(1<<20) != 0 {
				return nil, usageError(cmd, "--files and --rounds must be 1 or more, --bytes a multiple of 1M")
			}
			files := reportFlags{markdown: markdown}
			if err := files.check(); err != nil {
				return nil, err
			}
			if a.terminal() {
				o.Progress = a.benchProgress
			}
			o.Bytes = int64(bytes)
			r, err := bench.MeasureMount(a.ctx, o)
			if err != nil {
				return nil, err
			}
			return &mountResult{r}, files.write(cmd, r)
		},
	})
	f := cmd.Flags()
	f.StringVar(&o.Dir, "dir", "/dev/shm", "make everything below this `directory`")
	f.IntVar(&o.Files, "files", 4000, "how many (`N`) files to create, look at and remove")
	f.Var(&bytes, "bytes", "how long the file is that is read and written")
	f.Lookup("bytes").DefValue = "64M"
	f.IntVar(&o.Rounds, "rounds", 7, "how often (`N`) to do it all")
	f.StringVar(&markdown, "markdown", "", "write a part of a page to this `file`")
	return cmd
}

type mountResult struct{ *bench.Mount }

func (r *mountResult) text(w io.Writer) { r.Text(w) }

// benchLoopback is the life of a process that the benchmark starts. It is not for people.
func (a *app) benchLoopback() *cobra.Command {
	var passthrough bool
	cmd := &cobra.Command{
		Use: "bench-loopback", Hidden: true, Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			return bench.Loopback(args[0], args[1], passthrough, func() { fmt.Fprintln(a.stdout, "ready") })
		},
	}
	cmd.Flags().BoolVar(&passthrough, "passthrough", false, "")
	return cmd
}
