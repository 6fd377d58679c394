package main

import (
	"bufio"
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed lmdb.c.txt
var lmdbSource string

// lmdb is LMDB in a C program, which is compiled where a C compiler and the library are.
type lmdb struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func openLMDB(p *place) (database, error) {
	compiler, err := exec.LookPath("gcc")
	if err != nil {
		return nil, fmt.Errorf("%w: %w (apt-get install gcc)", errUnavailable, err)
	}
	dir, err := os.MkdirTemp("", "pmemfs-databases-lmdb-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "lmdb")
	c := exec.Command(compiler, "-O2", "-o", program, "-x", "c", "-", "-llmdb")
	c.Stdin = strings.NewReader(lmdbSource)
	if out, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %w: %s (apt-get install liblmdb-dev)", errUnavailable, err, bytes.TrimSpace(out))
	}
	l := &lmdb{cmd: exec.Command(program, filepath.Join(p.dir, "lmdb.db"))}
	l.cmd.Stderr = os.Stderr
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	l.out = bufio.NewReader(out)
	return l, l.cmd.Start()
}

func (l *lmdb) run(puts int, d time.Duration) (n int, took time.Duration, err error) {
	if _, err := fmt.Fprintf(l.in, "%d %d\n", puts, d.Nanoseconds()); err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Fscanf(l.out, "%d %d\n", &n, &took); err != nil {
		return 0, 0, fmt.Errorf("the LMDB program: %w", err)
	}
	return n, took, nil
}

func (l *lmdb) close() error { return errors.Join(l.in.Close(), l.cmd.Wait()) }
