package pmemfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/server"
)

// TestClosedHandleForgotten: a server that was resumed by a list without a closed handle is not told of it any more: the number
// may be another file's by then.
func TestClosedHandleForgotten(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "pmemfs-closed-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	pool, socket := filepath.Join(dir, "pool"), filepath.Join(dir, "socket")
	if err := Format(pool, FormatOptions{Size: 16 << 20}); err != nil {
		t.Fatal(err)
	}
	srv, err := server.Open(pool, server.Options{RuntimeDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	l, err := server.Listen(socket, server.Access{GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, l) }()
	defer func() {
		cancel()
		if err := errors.Join(<-served, srv.Close()); err != nil {
			t.Error(err)
		}
	}()
	fsys, err := Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	f, err := fsys.OpenFile("another", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	c := fsys.t.(*connection)
	c.mu.Lock()
	c.list = 5
	c.mu.Unlock()
	for _, told := range []bool{false, true} {
		before := uint64(4)
		if told {
			before = 5
		}
		c.closed.Store(&closedHandle{f.handle, before})
		if _, err := f.Stat(); errors.Is(err, unix.EBADF) != told || !told && err != nil {
			t.Errorf("told of a handle that lists after the first %d do not have, by a link of list 5: %v", before, err)
		}
	}
}
