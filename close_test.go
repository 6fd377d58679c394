package pmemfs_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/server"
)

// freeBlocks is how many blocks of data are free, as a client sees it.
func freeBlocks(t *testing.T, fsys *pmemfs.FS) int64 {
	t.Helper()
	s, err := fsys.Statfs()
	must(t, err)
	return s.FreeBlocks
}

// TestCloseFrees: what a file without a name has is free, for the client that has closed it at once, for others soon.
func TestCloseFrees(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	mine, others := dial(t, socket), dial(t, socket)
	nameless := func() *pmemfs.File {
		f := create(t, mine, "f")
		_, err := f.Write(make([]byte, 64*page))
		must(t, errors.Join(err, mine.Remove("f")))
		return f
	}
	for what, next := range map[string]func(){
		"a request":           func() {},
		"a request with data": func() { must(t, mine.WriteFile("g", []byte("x"), 0o600)) },
		"one that is too long": func() {
			if err := mine.Symlink(strings.Repeat("x", 5000), "h"); !errors.Is(err, unix.EMSGSIZE) {
				t.Error(err)
			}
		},
	} {
		must(t, mine.WriteFile("g", []byte("x"), 0o600))
		before := freeBlocks(t, mine)
		f := nameless()
		if freeBlocks(t, mine) > before-64 {
			t.Error("the file has no blocks")
		}
		must(t, f.Close())
		next()
		if got := freeBlocks(t, mine); got != before {
			t.Errorf("after Close and %s %d blocks are free, %d before", what, got, before)
		}
	}
	before := freeBlocks(t, others)
	must(t, nameless().Close())
	for deadline := time.Now().Add(10 * time.Second); freeBlocks(t, others) != before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d blocks are free, %d before", freeBlocks(t, others), before)
		}
	}
}

// TestCloseMany: each of the files that are closed one after the other, without anything between, is closed.
func TestCloseMany(t *testing.T) {
	socket, _ := serve(t, newPool(t), "600", "-1", serverConfig{Limits: server.Limits{Handles: 8}}.String())
	fsys := dial(t, socket)
	for range 20 {
		var all []*pmemfs.File
		for range 8 {
			f, err := fsys.OpenFile("f", os.O_RDWR|os.O_CREATE, 0o600)
			must(t, err)
			all = append(all, f)
		}
		if _, err := fsys.Open("f"); !errors.Is(err, unix.EMFILE) {
			t.Fatal("one too many:", err)
		}
		for _, f := range all {
			must(t, f.Close())
		}
	}
}
