package progress

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func file(t *testing.T, flag int, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestPending: what is staged or only in memory is pending, in every page that is mapped from the file, until it is durable.
func TestPending(t *testing.T) {
	path := filepath.Join(t.TempDir(), "progress")
	server, err := Create(file(t, os.O_RDWR|os.O_CREATE, path))
	if err != nil {
		t.Fatal(err)
	}
	client, err := Open(file(t, os.O_RDONLY, path))
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, ino uint64, want bool) {
		t.Helper()
		for _, p := range []*Page{server, client} {
			if p.Pending(ino) != want {
				t.Errorf("%s: file %d: pending %v", when, ino, !want)
			}
		}
	}
	check("at first", 7, false)
	server.Staged(7, 100)
	server.Staged(7, 50)
	check("staged", 7, true)
	check("staged", 7+slots, true) // shares the slot
	check("staged", 8, false)
	server.Durable().Store(99)
	check("durable in part", 7, true)
	server.Durable().Store(100)
	check("durable", 7, false)
	server.TimesChanged(7, 1)
	check("times", 7, true)
	server.TimesChanged(7, -1)
	check("no times", 7, false)

	server.Staged(9, 1000)
	server.TimesChanged(9, 1)
	again, err := Create(file(t, os.O_RDWR, path)) // the next server
	if err != nil {
		t.Fatal(err)
	}
	check("lost with the server", 9, true)
	again.Durable().Store(1000)
	check("its LSN has passed", 9, false)
}

func TestStagedOnlyGrows(t *testing.T) {
	p := New()
	var wg sync.WaitGroup
	for w := range uint64(4) {
		wg.Go(func() {
			for i := range uint64(10000) {
				p.Staged(1, 4*i+w)
			}
		})
	}
	wg.Wait()
	p.Durable().Store(4*9999 + 2)
	if !p.Pending(1) {
		t.Error("the greatest LSN was lost")
	}
	p.Durable().Store(4*9999 + 3)
	if p.Pending(1) {
		t.Error("nothing is pending")
	}
}

// TestMake: what is shared can be mapped for reading only, and nobody who has it can change or cut off the server's page.
func TestMake(t *testing.T) {
	p, shared, err := Make()
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	client, err := Open(shared)
	if err != nil {
		t.Fatal(err)
	}
	p.Staged(3, 1)
	if !client.Pending(3) {
		t.Error("what is staged is not seen")
	}
	if b, err := unix.Mmap(int(shared.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		unix.Munmap(b)
		t.Error("a client can map the page for writing")
	}
	again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", shared.Fd()), os.O_RDWR, 0)
	if err != nil {
		return // so much the better
	}
	defer again.Close()
	if b, err := unix.Mmap(int(again.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		unix.Munmap(b)
		t.Error("a client that opens the page again can map it for writing")
	}
	_, err = again.WriteAt([]byte{1}, 0)
	for _, err := range []error{err, again.Truncate(0), unix.Fallocate(int(again.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)} {
		if !errors.Is(err, unix.EPERM) {
			t.Error("a client that opens the page again can change it:", err)
		}
	}
	p.Staged(5, 1) // the server still can
	if !client.Pending(5) {
		t.Error("what is staged is not seen")
	}
}

func TestOpenRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "short")
	f := file(t, os.O_RDWR|os.O_CREATE, path)
	if _, err := Open(f); err == nil {
		t.Error("an empty file is a page")
	}
}

func BenchmarkPending(b *testing.B) {
	p := New()
	for b.Loop() {
		p.Pending(42)
	}
}
