package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/bench"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// bench has a verb below it for each benchmark.
func (a *app) bench() *cobra.Command {
	cmd := a.command(verb{
		use: "bench BENCHMARK [flags]", short: "Measure what durable stores cost on this machine", args: [2]int{0, -1},
		long: `Each benchmark makes a pool, serves it in a process of its own, measures, and leaves nothing behind but the files
that it was asked for. "pmemfs bench BENCHMARK --help" says what it measures, and which fields its object has.

With --json: one object; see the benchmark's help.
`,
		example: `  pmemfs bench latency
  pmemfs bench latency --stores 100000 --json`,
		run: func(cmd *cobra.Command, args []string) (result, error) {
			if len(args) == 0 {
				return nil, usageError(cmd, "which benchmark: latency, ways, metadata, profile, scale, commit, mount?")
			}
			return nil, usageError(cmd, "there is no benchmark %q", args[0])
		},
	})
	cmd.AddCommand(a.benchLatency(), a.benchWays(), a.benchMetadata(), a.benchProfile(), a.benchScale(), a.benchCommit(), a.benchMount())
	return cmd
}

// reportFlags are where a benchmark writes besides standard output.
type reportFlags struct{ svg, markdown string }

func (r *reportFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.svg, "svg", "", "write a plot to this `file`")
	cmd.Flags().StringVar(&r.markdown, "markdown", "", "write a page to this `file`, with the plot if there is one")
}

// check finds out before the work is done whether its result can be written.
func (r *reportFlags) check() error {
	for _, name := range []string{r.svg, r.markdown} {
		if name == "" {
			continue
		}
		if err := unix.Access(filepath.Dir(name), unix.W_OK); err != nil {
			return unable(fmt.Errorf("write %s: %w", name, err))
		}
	}
	return nil
}

// plotAddress is the plot's, as seen from the page.
func (r *reportFlags) plotAddress() string {
	if r.svg == "" {
		return ""
	}
	if rel, err := filepath.Rel(filepath.Dir(r.markdown), r.svg); err == nil {
		return filepath.ToSlash(rel)
	}
	return r.svg
}

// page is what a benchmark has found.
type page interface {
	Markdown(w io.Writer, command, plot string)
}

// plotted is a page with a plot.
type plotted interface{ SVG(w io.Writer) error }

// write writes the files that were asked for.
func (r *reportFlags) write(cmd *cobra.Command, found page) error {
	var errs []error
	if p, ok := found.(plotted); ok && r.svg != "" {
		errs = append(errs, writeFile(r.svg, p.SVG))
	}
	if r.markdown != "" {
		errs = append(errs, writeFile(r.markdown, func(w io.Writer) error {
			found.Markdown(w, commandLine(cmd), r.plotAddress())
			return nil
		}))
	}
	return errors.Join(errs...)
}

func writeFile(name string, write func(io.Writer) error) error {
	var text strings.Builder
	if err := write(&text); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(text.String()), 0o644)
}

// commandLine is what the user has typed, or could have.
func commandLine(cmd *cobra.Command) string {
	words := []string{cmd.CommandPath()}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		value := f.Value.String()
		if list, ok := f.Value.(pflag.SliceValue); ok {
			value = strings.Join(list.GetSlice(), ",")
		}
		words = append(words, "--"+f.Name, value)
	})
	return strings.Join(words, " ")
}

func (a *app) benchLatency() *cobra.Command {
	var (
		o     bench.LatencyOptions
		files reportFlags
	)
	busy := append(bench.Disturbances(), bench.Own)
	cmd := a.command(verb{
		use: "latency [flags]", short: "Measure how long single durable stores take", args: [2]int{0, 0},
		long: `Stores 8 bytes to random cache lines of files of 32 MiB, makes each store durable (flush and fence, by
Mapping.Persist), and times each by itself, through mappings of the kinds Sync, Sync|Populate and Direct. Beside them
stand "raw", the same on a plain file mapped by mmap(2), and "clock", the same without a store: what measuring adds to
every other row. The time ends when an atomic operation after the fence is through, as nobody can know before that the
store is durable. All of them take their turns, in 200 rounds, so that what else goes on on the machine hits all alike.

First it is quiet. The mapping of kind Sync is new then, over a hole: the first store to each of its pages is a fault.
Then it is busy: another client does to files of its own what --busy says. And in the end ("own" in --busy) it relocates
the very files that are stored to, which Direct mappings refuse. --busy none leaves it at quiet.

With --json: stores (of each row in each condition), rounds, file_size (bytes), seconds; machine: cpu, cpus, kernel, go,
flush_method, medium, granularity, emulated; conditions, each with name (quiet, busy, own), done and refused (how often
the other client has done, or been refused, each operation: truncate, relocate, clone; for own by mapping) and rows, each
with mapping (clock, raw, Direct, Sync|Populate, Sync), stores, ns (times in nanoseconds: mean, p50, p99, p99_9, p99_99, max;
null when there is no such mapping), to_direct (the same, divided by Direct's), and unavailable: why there is no such
mapping.
`,
		example: `  pmemfs bench latency
  pmemfs bench latency --stores 1000000 --busy none
  pmemfs bench latency --svg latency.svg --markdown latency.md`,
		run: func(cmd *cobra.Command, _ []string) (result, error) {
			if o.Stores < 1 {
				return nil, usageError(cmd, "--stores is %d", o.Stores)
			}
			if slices.Equal(o.Busy, []string{"none"}) {
				o.Busy = nil
			}
			for _, name := range o.Busy {
				if !slices.Contains(busy, name) {
					return nil, usageError(cmd, "--busy is none or some of %s", strings.Join(busy, ", "))
				}
			}
			if err := files.check(); err != nil {
				return nil, err
			}
			if a.terminal() {
				o.Progress = a.benchProgress
			}
			r, err := bench.MeasureLatency(a.ctx, o)
			if err != nil {
				return nil, benchRemedy(err, "--dir")
			}
			return &latencyResult{r}, files.write(cmd, r)
		},
	})
	f := cmd.Flags()
	f.Int64Var(&o.Stores, "stores", 10_000_000, "of each mapping, in each condition")
	f.StringVar(&o.Dir, "dir", "/dev/shm", "make the pool below this `directory`, for example on a DAX mount")
	f.StringSliceVar(&o.Busy, "busy", busy, "what another client does meanwhile: `none` or some of these")
	files.add(cmd)
	return cmd
}

func (a *app) benchProgress(what string, total int64) (add func(int64), done func()) {
	p := a.newProgress(what, total, false)
	return p.add, p.clear
}

// benchRemedy knows what may be wrong with the place that a flag names.
func benchRemedy(err error, flag string) error {
	switch {
	case errors.Is(err, bench.ErrMedium):
		return &failure{err, exitUnable, flag + " /dev/shm, or a directory on a DAX mount"}
	case errors.Is(err, medium.ErrExists):
		return &failure{err, exitUnable, "--force, if it is a pool and what is in it may be lost"}
	}
	return err
}

type latencyResult struct{ *bench.Latency }

func (r *latencyResult) text(w io.Writer) { r.Text(w) }

// benchBusy is the life of a process that benchmarks start. It is not for people.
func (a *app) benchBusy() *cobra.Command {
	var o bench.BusyOptions
	cmd := &cobra.Command{
		Use: "bench-busy", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return bench.Busy(a.ctx, o, a.stdout) },
	}
	cmd.Flags().StringVar(&o.Socket, "socket", "", "")
	cmd.Flags().StringSliceVar(&o.Do, "do", nil, "")
	cmd.Flags().StringSliceVar(&o.Move, "move", nil, "")
	return cmd
}
