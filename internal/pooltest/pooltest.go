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
	"strings"
	"testing"
	"time"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/server"
)

const roleVariable = "PMEMFS_TEST_ROLE"

// Role is a program that the test binary can be. It gets its arguments, and talks to the test over standard input and output,
// a line at a time.
type Role func(args []string, in *bufio.Scanner) error

// Main is what TestMain calls. Besides roles there is "server": POOL SOCKET.
func Main(m *testing.M, roles map[string]Role) {
	name := os.Getenv(roleVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	time.AfterFunc(2*time.Minute, func() { // nothing that a test starts may outlive it for long
		fmt.Fprintln(os.Stderr, name+": not over after two minutes")
		os.Exit(3)
	})
	role := roles[name]
	if name == "server" {
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
	l, err := server.Listen(args[1], server.Access{GID: -1})
	if err != nil {
		return errors.Join(err, srv.Close())
	}
	fmt.Println("serving")
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for in.Scan() {
		}
		cancel()
	}()
	return errors.Join(srv.Serve(ctx, l), srv.Close())
}

// Child is a process that plays a role.
type Child struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Scanner
}

// Start starts the test binary in a role. It is killed when the test is over.
func Start(t testing.TB, role string, args ...string) *Child {
	t.Helper()
	c := &Child{t: t, cmd: exec.Command("/proc/self/exe", args...)}
	c.cmd.Env = append(os.Environ(), roleVariable+"="+role)
	c.cmd.Stderr = os.Stderr
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.in, c.out = in, bufio.NewScanner(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Kill)
	return c
}

// Line returns the next line that the child prints; ok is false when it has ended.
func (c *Child) Line() (line string, ok bool) {
	ok = c.out.Scan()
	return c.out.Text(), ok
}

// Expect waits for a line.
func (c *Child) Expect(want string) {
	c.t.Helper()
	if got, ok := c.Line(); got != want {
		c.t.Fatalf("the child says %q (%v), want %q", got, ok, want)
	}
}

// Signal kills the process as a crash would, and does not wait: what it has printed can still be read.
func (c *Child) Signal() { c.cmd.Process.Kill() }

// Kill kills the process, and waits for its end.
func (c *Child) Kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

// CloseInput tells the child that it is time to end.
func (c *Child) CloseInput() { c.in.Close() }

// Finish closes the child's input and waits for its good end.
func (c *Child) Finish() {
	c.t.Helper()
	c.CloseInput()
	if err := c.cmd.Wait(); err != nil {
		c.t.Error(err)
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
