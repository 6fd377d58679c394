package medium

import (
	"errors"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// pageCacheArea is an area in the page-cache domain whose fdatasync the test makes.
func pageCacheArea(size int, sync func() error) *mapped {
	return &mapped{mem: make([]byte, size), domain: DomainPageCache, sync: sync}
}

func TestFenceSyncsOnlyAfterStores(t *testing.T) {
	syncs := 0
	a := pageCacheArea(pageSize, func() error { syncs++; return nil })
	steps := []struct {
		name string
		do   func()
		want int
	}{
		{"nothing", func() {}, 0},
		{"a write", func() { a.Write(0, []byte{1}) }, 1},
		{"nothing since", func() {}, 0},
		{"a stream", func() { a.Stream(0, []byte{1}) }, 1},
		{"zeros", func() { a.Zero(0, 1) }, 1},
		{"a copy", func() { a.Copy(64, 0, 1) }, 1},
		{"a flush: somebody else has stored", func() { a.Flush(0, 64) }, 1},
		{"many stores", func() { a.Write(0, []byte{1}); a.Zero(8, 8); a.Flush(0, 16) }, 1},
	}
	for _, s := range steps {
		syncs = 0
		s.do()
		if err := a.Fence(); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		if syncs != s.want {
			t.Errorf("%s: %d fdatasyncs, want %d", s.name, syncs, s.want)
		}
	}
}

func TestFailedFenceIsSticky(t *testing.T) {
	fail, syncs := error(unix.EIO), 0
	a := pageCacheArea(pageSize, func() error { syncs++; return fail })
	a.Write(0, []byte{1})
	if err := a.Fence(); !errors.Is(err, unix.EIO) {
		t.Fatalf("fence: %v", err)
	}
	fail = nil
	for range 2 {
		if err := a.Fence(); !errors.Is(err, unix.EIO) {
			t.Errorf("later fence without stores: %v", err)
		}
		a.Write(0, []byte{2})
	}
	if syncs != 1 {
		t.Errorf("%d fdatasyncs, want 1: after a failure another one proves nothing", syncs)
	}
}

// TestConcurrentFences checks what Fence promises each goroutine: an fdatasync began after its own stores. The stand-in
// for the medium copies what is there when the fdatasync begins.
func TestConcurrentFences(t *testing.T) {
	const workers, rounds = 8, 400
	var durable [workers]atomic.Uint32
	var counters [workers]atomic.Uint32
	a := pageCacheArea(pageSize, nil)
	a.sync = func() error {
		for i := range counters {
			durable[i].Store(counters[i].Load())
		}
		return nil
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for n := uint32(1); n <= rounds; n++ {
				counters[w].Store(n) // the store itself, made by another mapping, say
				a.Flush(int64(w)*64, 64)
				if err := a.Fence(); err != nil {
					t.Error(err)
				}
				if got := durable[w].Load(); got < n {
					t.Errorf("worker %d: after the fence of store %d only store %d is durable", w, n, got)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestFlushDomains(t *testing.T) {
	for d := Domain(0); d < domains; d++ {
		a := &mapped{mem: make([]byte, pageSize), domain: d, sync: func() error { return nil }}
		a.Write(10, []byte("store"))
		a.Flush(10, 5)
		if err := a.Fence(); err != nil || string(a.Bytes()[10:15]) != "store" {
			t.Errorf("%v: %q, %v", d, a.Bytes()[10:15], err)
		}
	}
}

func TestReadOnlyAreaRefusesStores(t *testing.T) {
	path := newPool(t, tmpfs(t), pageSize, pageSize)
	p, err := Open(path, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for name, f := range map[string]func(){
		"Write":  func() { p.Data().Write(0, []byte{1}) },
		"Stream": func() { p.Data().Stream(0, []byte{1}) },
		"Zero":   func() { p.Meta().Zero(0, 1) },
		"Copy":   func() { p.Meta().Copy(0, 64, 1) },
	} {
		if text := panicOf(f); !strings.Contains(text, "read-only") {
			t.Errorf("%s: panic %q", name, text)
		}
	}
	// And behind the interface's back the hardware refuses.
	text := panicOf(func() {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		p.Data().Bytes()[0] = 1
	})
	if !strings.Contains(text, "fault") && !strings.Contains(text, "invalid memory address") {
		t.Errorf("a plain store: panic %q", text)
	}
	if p.Data().Flush(0, 64); p.Data().Fence() != nil {
		t.Error("flush and fence of a read-only area fail")
	}
}

func TestUseAfterClosePanics(t *testing.T) {
	p, err := Open(newPool(t, tmpfs(t), pageSize, pageSize), Options{})
	if err != nil {
		t.Fatal(err)
	}
	area := p.Data()
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Fatal(err)
	}
	if text := panicOf(func() { area.Write(0, []byte{1}) }); !strings.Contains(text, "out of range") {
		t.Errorf("panic %q", text)
	}
	if _, err := p.ClientFile(true, -1); err == nil {
		t.Error("ClientFile of a closed pool")
	}
}
