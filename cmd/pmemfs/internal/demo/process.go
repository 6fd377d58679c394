package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a child of the demo.
type process struct {
	name   string
	cmd    *exec.Cmd
	stdout io.Reader
	stderr tail
	ended  chan struct{} // closed when it has ended
	err    error         // valid once ended is closed
}

// launcher starts processes. They are killed by the kernel when the thread that has started them ends, which must
// therefore be one that ends with this process.
type launcher struct {
	self  string
	start chan func()
	mu    sync.Mutex
	all   []*process // protected by mu
}

func newLauncher() (*launcher, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	l := &launcher{self: self, start: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for f := range l.start {
			f()
		}
	}()
	return l, nil
}

// launch starts this program with other arguments. files become its descriptors from 3 on.
func (l *launcher) launch(name string, files []*os.File, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(l.self, args...), ended: make(chan struct{})}
	p.cmd.Stderr = &p.stderr
	p.cmd.ExtraFiles = files
	p.cmd.WaitDelay = time.Second
	// A group of its own: Ctrl-C is for the demo, which ends its processes itself.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.stdout = write, read
	started := make(chan error)
	l.start <- func() { started <- p.cmd.Start() }
	err = errors.Join(<-started, write.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), read.Close())
	}
	l.mu.Lock()
	l.all = append(l.all, p)
	l.mu.Unlock()
	go func() {
		p.err = p.cmd.Wait()
		read.Close()
		close(p.ended)
	}()
	return p, nil
}

// close kills what still runs.
func (l *launcher) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.all {
		p.kill()
	}
	close(l.start)
}

// kill is SIGKILL, and waits for the end.
func (p *process) kill() {
	p.cmd.Process.Kill() // an error: it has ended
	<-p.ended
}

// terminate asks the process to end, and waits.
func (p *process) terminate(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return p.wait(ctx)
}

// wait waits for a good end.
func (p *process) wait(ctx context.Context) error {
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

// alive returns an error if the process has ended by itself.
func (p *process) alive() error {
	select {
	case <-p.ended:
		return p.failure()
	default:
		return nil
	}
}

// failure says how the process has ended. ended is closed.
func (p *process) failure() error {
	state := "ended"
	if p.err != nil {
		state = p.err.Error()
	}
	if text := p.stderr.String(); text != "" {
		return fmt.Errorf("%s: %s: %s", p.name, state, text)
	}
	return fmt.Errorf("%s: %s", p.name, state)
}

// ready waits for the process to print a line.
func (p *process) ready(ctx context.Context) (string, error) {
	line := make(chan string, 1)
	go func() {
		text, err := bufio.NewReader(p.stdout).ReadString('\n')
		if err == nil {
			line <- strings.TrimSpace(text)
		}
	}()
	select {
	case text := <-line:
		return text, nil
	case <-p.ended:
		return "", p.failure()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-time.After(patience):
		return "", fmt.Errorf("%s was not ready within %v", p.name, patience)
	}
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
