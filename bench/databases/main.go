// Command databases measures durable transactions of databases: Pebble and SQLite on pmemfs, and the same, bbolt, LMDB and
// Badger on tmpfs and on ext4. It prints a report.Part, as JSON or as tables.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == "serve" {
		exit(serve(os.Args[2], os.Args[3]))
	}
	var (
		o             options
		asJSON, short bool
		only, profile string
	)
	flag.BoolVar(&asJSON, "json", false, "print JSON")
	flag.BoolVar(&short, "short", false, "5 rounds of 100 ms instead of 15 of 400 ms")
	flag.StringVar(&o.dir, "dir", "/dev/shm", "make pools and files below this `directory`, in memory or on a DAX mount")
	flag.StringVar(&o.disk, "disk", os.TempDir(), "make an ext4 on a loop device over a file below this `directory`")
	flag.StringVar(&only, "only", "", "measure those only whose name contains this `text`")
	flag.StringVar(&profile, "profile", "", "write a CPU profile to this `file`")
	flag.Parse()
	o.rounds, o.turn = 15, 400*time.Millisecond
	if short {
		o.rounds, o.turn = 5, 100*time.Millisecond
	}
	o.chosen = func(name string) bool { return strings.Contains(name, only) }
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	exit(profiled(profile, func() error {
		part, err := measure(ctx, o)
		if err != nil {
			return err
		}
		if asJSON {
			e := json.NewEncoder(os.Stdout)
			e.SetIndent("", "\t")
			return e.Encode(part)
		}
		part.Text(os.Stdout)
		return nil
	}))
}

// exit ends the program: 2 says that it cannot be measured here.
func exit(err error) {
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, errUnavailable):
		fmt.Fprintln(os.Stderr, "databases:", err)
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "databases:", err)
	os.Exit(1)
}

func profiled(file string, f func() error) error {
	if file == "" {
		return f()
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := pprof.StartCPUProfile(out); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return f()
}
