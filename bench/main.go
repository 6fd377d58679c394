// Command bench runs every comparison of pmemfs with its peers and writes the performance page, its tables and plots.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are those of a run.
type options struct {
	pmemfs string // the command
	dir    string // in memory or on persistent memory: where pools and files are made
	short  bool
}

func run(ctx context.Context, args []string) error {
	var (
		o         options
		out, only string
		start     = time.Now()
	)
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.pmemfs, "pmemfs", "../bin/pmemfs", "the `command`")
	f.StringVar(&o.dir, "dir", "/dev/shm", "make pools below this `directory`, in memory or on a DAX mount")
	f.BoolVar(&o.short, "short", false, "fewer rounds, smaller files: to see that everything runs")
	f.StringVar(&out, "out", "../bin", "write performance.md and performance/ into this `directory`")
	f.StringVar(&only, "only", "", "measure these `sections` only, separated by commas; take the others from performance/*.json (none: all)")
	if err := f.Parse(args); err != nil {
		return err
	}
	p := page{dir: out}
	if err := os.MkdirAll(p.path(""), 0o755); err != nil {
		return err
	}
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	for _, s := range sections {
		if err := p.section(ctx, &o, s, chosen[s.name]); err != nil {
			return err
		}
	}
	if err := p.write(); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s: %d of %d targets met; %.0f s\n",
		filepath.Join(out, pageName), p.met(), len(targets), time.Since(start).Seconds())
	if len(p.failed) > 0 {
		return fmt.Errorf("%s failed", strings.Join(p.failed, ", "))
	}
	return nil
}

// choose returns the sections that are to be measured.
func choose(only string) (map[string]bool, error) {
	chosen := map[string]bool{}
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
		chosen[s.name] = only == "" && s.measure != nil
	}
	if only == "" || only == "none" {
		return chosen, nil
	}
	for name := range strings.SplitSeq(only, ",") {
		if _, known := chosen[name]; !known {
			return nil, fmt.Errorf("--only %s: the sections are %s", name, strings.Join(names, ", "))
		}
		chosen[name] = true
	}
	return chosen, nil
}
