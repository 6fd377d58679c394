// Package child runs this program again with other arguments: servers and clients need processes of their own.
package child

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/pmemfs/pmemfs/internal/rerun"
)

// patience is how long a child may take to say something or to end.
const patience = 30 * time.Second

// Group is the children of this process. The kernel kills them when the thread that has started them ends, which must
// therefore be one that ends with this process: all are started by the goroutine that is locked to it.
type Group struct {
	start chan func()
	mu    sync.Mutex
	all   []*Process // protected by mu
}

// NewGroup returns a group without children. It must be closed.
func NewGroup() (*Group, error) {
	if err := rerun.Self().Err; err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	g := &Group{start: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for f := range g.start {
			f()
		}
	}()
	return g, nil
}

// Close kills the children that still run, and waits for their end.
func (g *Group) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.all {
		p.Kill()
	}
	close(g.start)
}

// Process is a child.
type Process struct {
	name   string
	cmd    *exec.Cmd
	lines  chan string // of its standard output; closed at its end
	stderr tail
	ended  chan struct{} // closed when it has ended
	err    error         // valid once ended is closed
}

// Start starts this program. name is for people. files become its descriptors from 3 on. What it writes to standard output
// must be few lines, for Line.
func (g *Group) Start(name string, files []*os.File, args ...string) (*Process, error) {
	p := &Process{
		name: name, cmd: rerun.Self(args...), lines: make(chan string, 4), ended: make(chan struct{}),
	}
	p.cmd.Stderr = &p.stderr
	p.cmd.ExtraFiles = files
	p.cmd.WaitDelay = time.Second
	// A group of its own: Ctrl-C is for this process, which ends its children itself.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout = write
	started := make(chan error)
	g.start <- func() { started <- p.cmd.Start() }
	if err := errors.Join(<-started, write.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), read.Close())
	}
	g.mu.Lock()
	g.all = append(g.all, p)
	g.mu.Unlock()
	go p.read(read)
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

func (p *Process) read(from *os.File) {
	defer from.Close()
	defer close(p.lines)
	for s := bufio.NewScanner(from); s.Scan(); {
		p.lines <- s.Text()
	}
}

// Line returns the next line that the child prints, and waits for it.
func (p *Process) Line(ctx context.Context) (string, error) {
	select {
	case line, ok := <-p.lines:
		if ok {
			return line, nil
		}
		if err := p.Wait(ctx); err != nil {
			return "", err
		}
		return "", p.failure()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-time.After(patience):
		return "", fmt.Errorf("%s said nothing for %v", p.name, patience)
	}
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the child as a crash would, and waits for its end.
func (p *Process) Kill() {
	p.cmd.Process.Kill() // an error: it has ended
	<-p.ended
}

// Terminate asks the child to end, and waits until it has done so, which must be a good end.
func (p *Process) Terminate(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return p.Wait(ctx)
}

// Wait waits for a good end.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.ended:
		if p.err != nil {
			return p.failure()
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(patience):
		return fmt.Errorf("%s did not end within %v", p.name, patience)
	}
}

// Alive returns an error if the child has ended.
func (p *Process) Alive() error {
	select {
	case <-p.ended:
		return p.failure()
	default:
		return nil
	}
}

// failure says how the child has ended. ended is closed.
func (p *Process) failure() error {
	state := "it has ended"
	if p.err != nil {
		state = p.err.Error()
	}
	if text := p.stderr.String(); text != "" {
		return fmt.Errorf("%s: %s: %s", p.name, state, text)
	}
	return fmt.Errorf("%s: %s", p.name, state)
}

// tail keeps the last of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte // protected by mu
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const most = 4096
	t.buf = append(t.buf, p...)
	t.buf = t.buf[max(0, len(t.buf)-most):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}
