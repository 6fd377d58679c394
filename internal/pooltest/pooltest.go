// Package pooltest is what tests of programs that use pools share: pools in memory, and the test binary run again as a server
// or as a program that can be killed.
package pooltest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/rerun"
	"github.com/pmemfs/pmemfs/internal/server"
)

// RoleVariable says as what the test binary runs: a server or a client program.
const RoleVariable = "PMEMFS_TEST_ROLE"

// Role is a program that the test binary can be. It gets its arguments, and talks to the test over standard input and output,
// a line at a time.
type Role = func(args []string, in *bufio.Scanner) error

// Main is what TestMain calls. Among roles there is "server": POOL SOCKET, if not another one is given.
func Main(m *testing.M, roles map[string]Role) {
	name := os.Getenv(RoleVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	time.AfterFunc(2*time.Minute, func() { // nothing that a test starts may outlive it for long
		stacks := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "%s: not over after two minutes\n%s\n", name, stacks[:runtime.Stack(stacks, true)])
		os.Exit(3)
	})
	role := roles[name]
	if role == nil && name == "server" {
		role = serve
	}
	if err := role(os.Args[1:], bufio.NewScanner(os.Stdin)); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(args []string, in *bufio.Scanner) error {
	srv, err := server.Open(args[0], server.Options{Wait: 5 * time.Second, RuntimeDir: filepath.Dir(args[1])})
	if err != nil {
		return err
	}
	return ServeUntilEnd(srv, args[1], server.Access{GID: -1}, in)
}

// ServeUntilEnd listens, says so, serves until the input ends, and closes the server.
func ServeUntilEnd(srv *server.Server, socket string, access server.Access, in *bufio.Scanner) error {
	l, err := server.Listen(socket, access)
	if err != nil {
		return errors.Join(err, srv.Close())
	}
	fmt.Println("serving")
	if err := srv.Serve(UntilEnd(in), l); err != nil {
		return err
	}
	return srv.Close()
}

// UntilEnd returns a context that is over when the input ends.
func UntilEnd(in *bufio.Scanner) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for in.Scan() {
		}
		cancel()
	}()
	return ctx
}

// CutPowerAtEnd cuts the power of a pool that was opened with pmemfs.PowerCut, and ends the program, when the input ends.
func CutPowerAtEnd(fsys *pmemfs.FS, in *bufio.Scanner) {
	go func() {
		<-UntilEnd(in).Done()
		if _, err := fsys.CutPower(); err != nil && !errors.Is(err, pmemfs.ErrServerGone) {
			fmt.Fprintln(os.Stderr, "cut the power:", err)
		}
		os.Exit(0)
	}()
}

// PowerCut is the option of a program that has perhaps got a seed as its last argument.
func PowerCut(seed ...string) (opts []pmemfs.Option, err error) {
	for _, text := range seed {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, err
		}
		opts = append(opts, pmemfs.PowerCut(n))
	}
	return opts, nil
}

// Child is a process that plays a role.
type Child struct {
	Cmd *exec.Cmd
	In  io.WriteCloser
	Out *bufio.Scanner
	T   testing.TB
}

// Start starts the test binary in a role. It is killed when the test is over.
func Start(t testing.TB, role string, args ...string) *Child {
	t.Helper()
	return StartWith(t, nil, role, args...)
}

// StartWith is Start of a command that prepare, unless nil, has changed.
func StartWith(t testing.TB, prepare func(*exec.Cmd), role string, args ...string) *Child {
	t.Helper()
	c := &Child{T: t, Cmd: rerun.Self(args...)}
	c.Cmd.Env = append(os.Environ(), RoleVariable+"="+role)
	c.Cmd.Stderr = os.Stderr
	if prepare != nil {
		prepare(c.Cmd)
	}
	var err error
	if c.In, err = c.Cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.Cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Out = bufio.NewScanner(out)
	if err := c.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Kill)
	return c
}

// Line returns the next line that the child prints, which it must.
func (c *Child) Line() string {
	c.T.Helper()
	if !c.Out.Scan() {
		c.T.Fatalf("the child has ended: %v", c.Cmd.Wait())
	}
	return c.Out.Text()
}

// Expect waits for a line of the child.
func (c *Child) Expect(want string) {
	c.T.Helper()
	if got := c.Line(); got != want {
		c.T.Fatalf("the child says %q, want %q", got, want)
	}
}

// Tell sends the child a line.
func (c *Child) Tell(format string, args ...any) {
	c.T.Helper()
	if _, err := fmt.Fprintf(c.In, format+"\n", args...); err != nil {
		c.T.Fatal(err)
	}
}

// Acknowledged reads the numbers that a program prints, of what it has made durable, until it has ended, and returns the
// last. In the middle, after count lines, which there must be, it calls end.
func (c *Child) Acknowledged(count int, end func()) (last int64) {
	c.T.Helper()
	for i := 0; ; i++ {
		if !c.Out.Scan() {
			if i < count {
				c.T.Fatalf("the program has ended after %d lines", i)
			}
			return last
		}
		if n, err := strconv.ParseInt(c.Out.Text(), 10, 64); err == nil { // else it was killed while it printed the line
			last = n
		}
		if i == count {
			end()
		}
	}
}

// Signal kills the process as a crash would, and does not wait: what it has printed can still be read.
func (c *Child) Signal() { c.Cmd.Process.Kill() }

// Kill kills the process, and waits for its end.
func (c *Child) Kill() {
	c.Cmd.Process.Kill()
	c.Cmd.Wait()
}

// CloseInput tells the child that it is time to end.
func (c *Child) CloseInput() { c.In.Close() }

// Finish closes the child's input and waits for its good end.
func (c *Child) Finish() {
	c.T.Helper()
	c.CloseInput()
	for c.Out.Scan() {
		c.T.Errorf("the child says %q when it should have finished", c.Out.Text())
	}
	if err := c.Cmd.Wait(); err != nil {
		c.T.Error(err)
	}
}

// Dir is a directory in memory, for as long as the test.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pmemfs-"+strings.ReplaceAll(t.Name(), "/", "-"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// New formats a pool of size bytes in memory.
func New(t testing.TB, size int64) (pool string) {
	t.Helper()
	pool = filepath.Join(Dir(t), "pool")
	if err := pmemfs.Format(pool, pmemfs.FormatOptions{Size: size}); err != nil {
		t.Fatal(err)
	}
	return pool
}

// Serve has a process of its own serve a pool.
func Serve(t testing.TB, pool string) (socket string, c *Child) {
	t.Helper()
	socket = filepath.Join(Dir(t), "socket")
	c = Start(t, "server", pool, socket)
	c.Expect("serving")
	return socket, c
}

// Open opens a pool, or dials the server of a socket.
func Open(place string, opts ...pmemfs.Option) (*pmemfs.FS, error) {
	if st, err := os.Stat(place); err == nil && !st.IsDir() {
		return pmemfs.Dial(place, opts...)
	}
	return pmemfs.Open(place, opts...)
}

// MustOpen is Open for as long as the test.
func MustOpen(t testing.TB, place string, opts ...pmemfs.Option) *pmemfs.FS {
	t.Helper()
	fsys, err := Open(place, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() })
	return fsys
}

// Check fails the test if a pool that nobody uses is damaged.
func Check(t testing.TB, pool string) {
	t.Helper()
	r, err := pmemfs.Check(context.Background(), pool, pmemfs.CheckOptions{
		Report: func(p pmemfs.Problem) { t.Logf("check: %+v", p) }, Wait: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Clean() {
		t.Errorf("%d problems in %s", r.Problems, pool)
	}
}

// Each runs a test on an embedded pool, and as a client of a server of one.
func Each(t *testing.T, size int64, f func(t *testing.T, fsys *pmemfs.FS)) {
	t.Run("embedded", func(t *testing.T) { f(t, MustOpen(t, New(t, size))) })
	t.Run("dialled", func(t *testing.T) {
		socket, _ := Serve(t, New(t, size))
		f(t, MustOpen(t, socket))
	})
}
