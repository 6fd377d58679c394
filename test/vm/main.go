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
	"syscall"
	"time"
)

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ", ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	var (
		commands, programs list
		media, persistence string
	)
	flag.Var(&commands, "run", "a `COMMAND` to run in the guest, for its shell; may be repeated")
	flag.Var(&programs, "add", "a `PROGRAM` of the host to put into the guest's path, with its libraries; may be repeated")
	flag.StringVar(&media, "media", "", "a `DIRECTORY` for the files behind the media, which are used again; empty: made for this run")
	flag.StringVar(&persistence, "persistence", "mem-ctrl", "what the platform says of the persistence domain: mem-ctrl, cpu, or nothing")
	flag.Parse()
	if len(commands) == 0 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: go run ./test/vm -run COMMAND …; see go doc ./test/vm")
		flag.PrintDefaults()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := runCommands(ctx, commands, programs, media, persistence)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// runCommands runs the commands in a guest until one fails, and returns its exit code.
func runCommands(ctx context.Context, commands, programs []string, media, persistence string) (code int, err error) {
	dir, err := os.MkdirTemp("", "pmemfs-vm-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if media == "" {
		media = dir
	}
	c, err := newConfig(ctx, dir, programs)
	if err != nil {
		return 0, err
	}
	c.media, c.persistence = media, persistence
	fresh, err := makeBacking(media)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	m, err := boot(ctx, c)
	if err != nil {
		return 0, withConsole(err, c.console)
	}
	defer m.kill()
	prepare := []string{"guest", "prepare"}
	if fresh {
		prepare = append(prepare, "format")
	}
	if code, err := m.run(ctx, os.Stderr, os.Stderr, prepare...); err != nil || code != 0 {
		return code, withConsole(errors.Join(fmt.Errorf("prepare: exit code %d", code), err), c.console)
	}
	fmt.Fprintf(os.Stderr, "vm: the guest was ready after %.1f s\n", time.Since(start).Seconds())
	for _, line := range commands {
		if code, err := m.run(ctx, os.Stdout, os.Stderr, "sh", "-c", line); err != nil || code != 0 {
			return code, err
		}
	}
	return 0, nil
}

// withConsole adds what the guest's kernel said.
func withConsole(err error, console string) error {
	text, _ := os.ReadFile(console)
	return fmt.Errorf("%w\n%s", err, text)
}

// newConfig fetches and builds what a machine needs; the files are made in dir.
func newConfig(ctx context.Context, dir string, programs []string) (c config, err error) {
	accel, why, err := accelerator()
	if err != nil {
		return c, err
	}
	c.accel = accel
	fmt.Fprintf(os.Stderr, "vm: accelerator %s: %s\n", accel, why)
	cache, err := cacheDir()
	if err != nil {
		return c, err
	}
	if err := installTools(ctx); err != nil {
		return c, err
	}
	if c.kernel, err = findKernel(ctx, cache); err != nil {
		return c, err
	}
	c.console = filepath.Join(dir, "console")
	c.initramfs, err = buildInitramfs(ctx, dir, cache, c.kernel, programs)
	return c, err
}
