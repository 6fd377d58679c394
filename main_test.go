package pmemfs_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/rerun"
	"github.com/pmemfs/pmemfs/internal/server"
)

// The test binary runs itself again as a server or as a client program: PMEMFS_TEST_ROLE says as what.
const roleVariable = "PMEMFS_TEST_ROLE"

// roles get their arguments, and talk to the test over standard input and output, a line at a time.
var roles = map[string]func(args []string, in *bufio.Scanner) error{
	"server": serverRole,
}

func TestMain(m *testing.M) {
	name := os.Getenv(roleVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	go func() { // nothing that a test starts may outlive it for long
		time.Sleep(2 * time.Minute)
		stacks := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "%s: not over after two minutes\n%s\n", name, stacks[:runtime.Stack(stacks, true)])
		os.Exit(3)
	}()
	if err := roles[name](os.Args[1:], bufio.NewScanner(os.Stdin)); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child is a process that plays a role.
type child struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func start(t testing.TB, role string, args ...string) *child {
	return startWith(t, nil, role, args...)
}

func startWith(t testing.TB, prepare func(*exec.Cmd), role string, args ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: rerun.Self(args...)}
	c.cmd.Env = append(os.Environ(), roleVariable+"="+role)
	c.cmd.Stderr = os.Stderr
	if prepare != nil {
		prepare(c.cmd)
	}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewScanner(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	return c
}

// kill ends the process as a crash would.
func (c *child) kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

// expect waits for a line of the child.
func (c *child) expect(want string) {
	c.t.Helper()
	if got := c.line(); got != want {
		c.t.Fatalf("the child says %q, want %q", got, want)
	}
}

func (c *child) line() string {
	c.t.Helper()
	if !c.out.Scan() {
		c.t.Fatalf("the child has ended: %v", c.cmd.Wait())
	}
	return c.out.Text()
}

// tell sends the child a line.
func (c *child) tell(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.in, format+"\n", args...); err != nil {
		c.t.Fatal(err)
	}
}

// finish closes the child's input and waits for its good end.
func (c *child) finish() {
	c.t.Helper()
	c.in.Close()
	for c.out.Scan() {
		c.t.Errorf("the child says %q when it should have finished", c.out.Text())
	}
	if err := c.cmd.Wait(); err != nil {
		c.t.Error(err)
	}
}

// serverConfig is what a test can have a server do otherwise.
type serverConfig struct {
	DirectGroups     []uint32
	Limits           server.Limits
	Commit           server.CommitPolicy
	AssumePersistent bool
}

// String is the argument that gives it to a server.
func (c serverConfig) String() string {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// serverRole serves a pool until its input ends: POOL SOCKET [MODE GID [CONFIG]].
func serverRole(args []string, in *bufio.Scanner) error {
	access := server.Access{GID: -1}
	if len(args) >= 4 {
		if _, err := fmt.Sscanf(args[2]+" "+args[3], "%o %d", &access.Mode, &access.GID); err != nil {
			return err
		}
	}
	var c serverConfig
	if len(args) == 5 {
		if err := json.Unmarshal([]byte(args[4]), &c); err != nil {
			return err
		}
	}
	srv, err := server.Open(args[0], server.Options{
		Wait: 5 * time.Second, BreakTimeout: time.Second, DirectGroups: c.DirectGroups, Limits: c.Limits,
		Commit: c.Commit, AssumePersistent: c.AssumePersistent, RuntimeDir: filepath.Dir(args[1]),
	})
	if err != nil {
		return err
	}
	return serveUntilEnd(srv, args[1], access, in)
}

// serveUntilEnd listens, says so, serves until the input ends, and closes the server.
func serveUntilEnd(srv *server.Server, socket string, access server.Access, in *bufio.Scanner) error {
	l, err := server.Listen(socket, access)
	if err != nil {
		return errors.Join(err, srv.Close())
	}
	fmt.Println("serving")
	if err := srv.Serve(untilEnd(in), l); err != nil {
		return err
	}
	return srv.Close()
}

// untilEnd returns a context that is over when the input ends.
func untilEnd(in *bufio.Scanner) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for in.Scan() {
		}
		cancel()
	}()
	return ctx
}

// dialFile connects to a server and opens a file there, for a role.
func dialFile(socket, name string) (*pmemfs.FS, *pmemfs.File, error) {
	fsys, err := pmemfs.Dial(socket)
	if err != nil {
		return nil, nil, err
	}
	f, err := fsys.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, errors.Join(err, fsys.Close())
	}
	return fsys, f, nil
}

// serve runs a server in a process of its own.
func serve(t testing.TB, pool string, more ...string) (socket string, c *child) {
	t.Helper()
	socket = filepath.Join(shmDir(t), "socket")
	c = start(t, "server", append([]string{pool, socket}, more...)...)
	c.expect("serving")
	return socket, c
}

// shmDir is a directory in memory.
func shmDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pmemfs-"+strings.ReplaceAll(t.Name(), "/", "-"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

const testPoolSize = 64 << 20

// newPool formats a pool in memory.
func newPool(t testing.TB) string {
	t.Helper()
	pool := filepath.Join(shmDir(t), "pool")
	if err := pmemfs.Format(pool, pmemfs.FormatOptions{Size: testPoolSize, Label: "test"}); err != nil {
		t.Fatal(err)
	}
	return pool
}

func dial(t testing.TB, socket string, opts ...pmemfs.Option) *pmemfs.FS {
	t.Helper()
	fsys, err := pmemfs.Dial(socket, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() })
	return fsys
}

func openPool(t testing.TB, pool string, opts ...pmemfs.Option) *pmemfs.FS {
	t.Helper()
	fsys, err := pmemfs.Open(pool, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() })
	return fsys
}

// serveHere runs a server in this process, for tests that map nothing.
func serveHere(t *testing.T, pool string) string {
	t.Helper()
	srv, err := server.Open(pool, server.Options{Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "a-rather-long-name-that-does-not-fit-into-the-address-of-a-socket-together-with-its-directory")
	l, err := server.Listen(socket, server.Access{GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(socket); err == nil {
			t.Error("the server has left its socket")
		}
	})
	return socket
}

// each runs a test on an embedded pool and on one that a server in this process serves.
func each(t *testing.T, f func(t *testing.T, fsys *pmemfs.FS)) {
	t.Run("embedded", func(t *testing.T) { f(t, openPool(t, newPool(t))) })
	t.Run("dialled", func(t *testing.T) { f(t, dial(t, serveHere(t, newPool(t)))) })
}

// eachMapped is each with the server in another process, for tests that map.
func eachMapped(t *testing.T, f func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags)) {
	t.Run("embedded", func(t *testing.T) { f(t, openPool(t, newPool(t)), pmemfs.Shared) })
	t.Run("dialled", func(t *testing.T) {
		socket, _ := serve(t, newPool(t))
		f(t, dial(t, socket), pmemfs.Sync)
	})
}

// eventually waits for something that happens without anybody being told.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for range 1000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("after 10 s it is still not so that", what)
}
