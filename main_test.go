package pmemfs_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/internal/server"
)

// roles are what the test binary can run itself again as: see pooltest.Role.
var roles = map[string]pooltest.Role{"server": serverRole}

func TestMain(m *testing.M) { pooltest.Main(m, roles) }

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
	return pooltest.ServeUntilEnd(srv, args[1], access, in)
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
func serve(t testing.TB, pool string, more ...string) (socket string, c *pooltest.Child) {
	t.Helper()
	socket = filepath.Join(pooltest.Dir(t), "socket")
	c = pooltest.Start(t, "server", append([]string{pool, socket}, more...)...)
	c.Expect("serving")
	return socket, c
}

const testPoolSize = 64 << 20

// newPool formats a pool in memory.
func newPool(t testing.TB) string {
	t.Helper()
	pool := filepath.Join(pooltest.Dir(t), "pool")
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
