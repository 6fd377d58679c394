package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/demo"
)

func (a *app) demo() *cobra.Command {
	var (
		quick bool
		dir   string
	)
	cmd := a.command(verb{
		use: "demo [TREE] [flags]", short: "Show what it is for, on real input and with real crashes", args: [2]int{0, 1},
		long: `Makes a pool in /dev/shm (in TMPDIR where that is too small), serves it in a process of its own, imports a tree through
the socket, by default the Go toolchain's source, and verifies every byte. Then several processes append records to
files mapped Sync and acknowledge each once it is durable, while the demo moves blocks under them, cuts off a file that
they have mapped, and kills them and the server with SIGKILL at random moments. Writers go on without noticing when the
next server takes their mappings over; behind a page cache they connect anew. In the end it checks the pool, reads back
every acknowledged record, and tells what a durable store costs in four ways. It leaves nothing behind.

Exit code 0: nothing was lost; 1: something was, or it failed.

With --json: files and bytes (imported and verified), writers, writer_kills, server_kills, records_acknowledged,
records_lost, relocations, truncations, rotations, accesses_caught, writers_survived (how often a writer went on by
itself over the death of a server), check_errors, files_differing, server_back_ms (median time from a server's kill
until the next is ready), sync_fault_us, durable_store_ns, write_fsync_us, shared_sync_us
(medians; the first two are null where the medium has no Sync mappings), tree, pool, medium, granularity, emulated,
seconds.
`,
		example: `  pmemfs demo
  pmemfs demo ~/src --json
  go run ./cmd/pmemfs demo`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			o := demo.Options{Dir: dir, Quick: quick, Log: a.stdout}
			if a.json {
				o.Log = a.stderr
			}
			if len(args) == 1 {
				o.Tree = args[0]
			}
			if a.terminal() {
				o.Progress = func(what string, total int64) (func(int64), func()) {
					p := a.newProgress(what, total, false)
					return p.add, p.clear
				}
			}
			return a.runDemo(o)
		},
	})
	cmd.Flags().StringVar(&dir, "dir", "", "make the pool below this directory, for example on a DAX mount, or on this device, which must have none")
	cmd.Flags().BoolVar(&quick, "quick", false, "do everything once only")
	cmd.Flags().MarkHidden("quick") // an error would say that there is no such flag
	return cmd
}

func (a *app) runDemo(o demo.Options) (result, error) {
	r, err := demo.Run(a.ctx, o)
	if err != nil {
		return &demoFailed{*r}, err
	}
	if !r.Good() {
		return &demoResult{*r}, fmt.Errorf("%d records were lost, %d errors were found in the pool, %d files differ", r.Lost, r.CheckErrors, r.FilesDiffer)
	}
	return &demoResult{*r}, nil
}

// demoFailed is the result of a demo that did not come to its end.
type demoFailed struct{ demo.Result }

func (*demoFailed) text(io.Writer) {}

type demoResult struct{ demo.Result }

func (r *demoResult) text(w io.Writer) {
	fmt.Fprintf(w, `
imported and verified  %d files, %d bytes
killed                 %d writers, %d servers (the next was ready after %d ms, median; %d times a writer went on by itself)
acknowledged           %d records; lost: %d
errors in the pool     %d

what a 64-byte store costs until it is durable (medians, on this machine):
`, r.Files, r.Bytes, r.WriterKills, r.ServerKills, r.RecoveryMilli, r.Survived, r.Acknowledged, r.Lost, r.CheckErrors)
	none := "    (none)"
	fault, store := none, none
	if r.SyncFault != nil && r.DurableStore != nil {
		fault, store = fmt.Sprintf("%7.1f µs", *r.SyncFault), fmt.Sprintf("%7.3f µs", *r.DurableStore/1000)
	}
	sync := "flushes the lines; no system call is needed, for this medium is byte-addressable too"
	if r.Granularity == "page" {
		sync = "a request and a write to the disk, every time: the medium lies behind a page cache"
	}
	for _, line := range [][3]string{
		{"first touch, Sync mapping", fault, "a page fault: the server allocates a block, makes that durable, and grants it; once"},
		{"store + Persist after it", store, "flushes the lines, fences: no system call, no server; what Sync mappings are for"},
		{"write + fsync", fmt.Sprintf("%7.1f µs", r.WriteFsync), "two requests to the server, every time: what it costs without mapping"},
		{"Shared mapping + Sync", fmt.Sprintf("%7.3f µs", r.SharedSync), sync},
	} {
		fmt.Fprintf(w, "  %-26s %s  %s\n", line[0], line[1], line[2])
	}
	if r.Emulated {
		fmt.Fprintln(w, "The medium is memory that emulates persistent memory: it survives the crash of processes, not of the machine.")
	}
	fmt.Fprintf(w, "%.1f s in all; nothing is left behind.\n", r.Seconds)
}

// demoWriter is the life of a process that the demo starts. It is not for people.
func (a *app) demoWriter() *cobra.Command {
	var o demo.WriterOptions
	cmd := &cobra.Command{
		Use: "demo-writer", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			o.Shared = os.NewFile(3, "acknowledgements")
			if o.Shared == nil {
				return fmt.Errorf("demo-writer: descriptor 3 is missing: it is started by pmemfs demo")
			}
			return demo.Writer(a.ctx, o)
		},
	}
	cmd.Flags().StringVar(&o.Socket, "socket", "", "")
	cmd.Flags().IntVar(&o.Index, "index", 0, "")
	cmd.Flags().IntVar(&o.Writers, "writers", 1, "")
	return cmd
}
