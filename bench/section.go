package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pmemfs/pmemfs/bench/primitives"
	"github.com/pmemfs/pmemfs/internal/report"
)

// section is a part of the page: text from templates/NAME.md around what a comparison has found.
type section struct {
	name string
	// measure returns the figures, as JSON objects of report.Part one after the other. nil: they come from a run of their
	// own, and are found in performance/NAME.json.
	measure func(ctx context.Context, o *options) ([]byte, error)
}

var sections = []section{
	{"primitives", measurePrimitives},
	{"ways", command("ways", "--pool")},
	{"metadata", command("metadata", "--pool")},
	{"databases", measureDatabases},
	{"profiles", command("profile", "--pool")},
	{"scale", command("scale", "--dir")},
	{"mount", mountParts},
	{"latency", latencyParts},
	{"guest", nil},
}

// errUnavailable says that a section cannot be measured here, and why. That is no failure of the run.
var errUnavailable = errors.New("not measured")

// section measures, or reads what was measured before, and keeps both. What goes wrong is told on the page.
func (p *page) section(ctx context.Context, o *options, s section, measure bool) error {
	found := &found{section: s}
	p.sections = append(p.sections, found)
	name := p.path(s.name + ".json")
	var text []byte
	var err error
	if measure {
		text, err = s.run(ctx, o)
		if err == nil {
			err = os.WriteFile(name, text, 0o644)
		}
	} else if text, err = os.ReadFile(name); errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: there is no earlier run of it", errUnavailable)
	}
	if err == nil {
		found.parts, err = decode(text)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "*** %s: %v\n", s.name, err)
		found.why = err.Error()
	}
	if err != nil && !errors.Is(err, errUnavailable) {
		p.failed = append(p.failed, s.name)
	}
	return nil
}

// run measures.
func (s section) run(ctx context.Context, o *options) ([]byte, error) {
	if s.measure == nil {
		return nil, fmt.Errorf("%w: it has a run of its own", errUnavailable)
	}
	start := time.Now()
	fmt.Fprintf(os.Stderr, "%s ...\n", s.name)
	text, err := s.measure(ctx, o)
	fmt.Fprintf(os.Stderr, "%s: %.0f s\n", s.name, time.Since(start).Seconds())
	return text, err
}

// decode reads parts that stand one after the other.
func decode(text []byte) (parts []report.Part, err error) {
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var part report.Part
		if err := d.Decode(&part); errors.Is(err, io.EOF) {
			return parts, nil
		} else if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
}

func encode(parts ...report.Part) ([]byte, error) {
	var text bytes.Buffer
	for _, part := range parts {
		e := json.NewEncoder(&text)
		e.SetIndent("", "\t")
		if err := e.Encode(part); err != nil {
			return nil, err
		}
	}
	return text.Bytes(), nil
}

// pmemfsBench runs a benchmark of the command and returns its JSON.
func pmemfsBench(ctx context.Context, o *options, args ...string) ([]byte, error) {
	return program(ctx, o.pmemfs, append([]string{"bench"}, args...)...)
}

// program returns what a program prints. One that cannot run, or says that it is unable to (exit status 2), makes a
// section unavailable.
func program(ctx context.Context, name string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = time.Minute
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return out, nil
	case !errors.As(err, &exit), exit.ExitCode() == 2:
		return nil, fmt.Errorf("%w: %s: %s", errUnavailable, strings.Join(args, " "), cmp.Or(said(out, stderr.Bytes()), err.Error()))
	}
	return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, said(out, stderr.Bytes()))
}

// said is the message of the command's error object, or what a program says otherwise.
func said(stdout, stderr []byte) string {
	var object struct{ Error struct{ Message string } }
	if json.Unmarshal(stdout, &object) == nil && object.Error.Message != "" {
		return object.Error.Message
	}
	return string(bytes.TrimSpace(stderr))
}

// command is a section that a benchmark of the command prints as it is. place is the flag that says where pools are made.
func command(name, place string) func(context.Context, *options) ([]byte, error) {
	return func(ctx context.Context, o *options) ([]byte, error) {
		args := []string{name, "--json", place, o.dir}
		if o.short {
			args = append(args, "--short")
		}
		return pmemfsBench(ctx, o, args...)
	}
}

func measurePrimitives(ctx context.Context, o *options) ([]byte, error) {
	rounds, batch := 51, 3*time.Millisecond
	if o.short {
		rounds, batch = 11, time.Millisecond
	}
	part, err := primitives.Measure(ctx, o.dir, rounds, batch)
	if errors.Is(err, primitives.ErrUnavailable) {
		return nil, fmt.Errorf("%w: %w", errUnavailable, err)
	}
	if err != nil {
		return nil, err
	}
	return encode(*part)
}

// measureDatabases builds and runs a module of its own, so that who builds this one downloads no database.
func measureDatabases(ctx context.Context, o *options) (text []byte, err error) {
	dir, err := os.MkdirTemp("", "bench-databases-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	name := filepath.Join(dir, "databases")
	if out, err := exec.CommandContext(ctx, "go", "-C", "databases", "build", "-o", name, ".").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: build databases: %w: %s", errUnavailable, err, bytes.TrimSpace(out))
	}
	args := []string{"--json", "--dir", o.dir}
	if o.short {
		args = append(args, "--short")
	}
	return program(ctx, name, args...)
}
