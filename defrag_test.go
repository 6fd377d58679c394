package pmemfs_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
)

// inPieces is what a fragmented file holds.
func inPieces(blocks int) []byte {
	b := make([]byte, blocks*page)
	for i := range b {
		b[i] = byte(i/page + 1)
	}
	return b
}

func defragment(t testing.TB, f *pmemfs.File, o pmemfs.DefragOptions) pmemfs.Defragmentation {
	t.Helper()
	d, err := f.Defragment(t.Context(), o)
	must(t, err)
	return d
}

// A file is made contiguous, with what has it mapped; what is pinned is left alone until it is not any more.
func TestDefragment(t *testing.T) {
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, kind pmemfs.MapFlags) {
		const pages = 2*512 + 7
		f := fragmented(t, fsys, "f", pages)
		before, err := f.Extents()
		must(t, err)
		want := pmemfs.Defragmentation{
			Before: pmemfs.Fragmentation{Blocks: pages, Extents: pages, Leaves4K: pages}, Moved: pages, Merged: 2,
		}
		if got := defragment(t, reopen(t, fsys, "f", os.O_RDONLY), pmemfs.DefragOptions{DryRun: true}); got != want {
			t.Errorf("%+v", got)
		}
		if after, err := f.Extents(); err != nil || len(after) != len(before) {
			t.Error("a dry run has changed something: ", err)
		}
		m := mapped(t, f, 0, pages*page, kind|pmemfs.Populate)
		m.Bytes()[5] = 55
		unpin, err := m.Pin(600*page, 1)
		must(t, err)
		var progress []int64
		got := defragment(t, f, pmemfs.DefragOptions{Progress: func(off int64) { progress = append(progress, off) }})
		want.Moved, want.Merged, want.Sealed = pages-512, 1, 512
		if got != want || len(progress) < 1 || progress[0] != 512*page {
			t.Errorf("%+v, by steps that ended at %d", got, progress)
		}
		unpin()
		got = defragment(t, f, pmemfs.DefragOptions{})
		if got.Moved != 512 || got.Merged != 1 || got.Before.Leaves2M != 1 {
			t.Errorf("%+v", got)
		}
		got = defragment(t, f, pmemfs.DefragOptions{})
		if got.Moved+got.Merged != 0 || got.Before.Leaves2M != 2 || got.Before.Leaves4K != 7 || got.Before.Extents > 3 {
			t.Errorf("when it was done: %+v", got)
		}
		m.Bytes()[700*page] = 77
		content := inPieces(pages)
		content[5], content[700*page] = 55, 77
		wantBytes(t, f, content)

		must(t, f.Clone("clone"))
		clone := reopen(t, fsys, "clone", os.O_RDWR)
		if got := defragment(t, clone, pmemfs.DefragOptions{}); got.Moved+got.Merged+got.Shared != 0 {
			t.Errorf("of a clone: %+v", got) // it is contiguous
		}
		// Who wants it to end ends it between two steps.
		g := fragmented(t, fsys, "g", 2*512)
		ctx, cancel := context.WithCancel(t.Context())
		got, err = g.Defragment(ctx, pmemfs.DefragOptions{Progress: func(int64) { cancel() }})
		wantError(t, err, context.Canceled, "g")
		if got.Moved != 512 || got.Merged != 1 {
			t.Errorf("one step: %+v", got)
		}
		if got := defragment(t, g, pmemfs.DefragOptions{}); got.Moved != 512 || got.Merged != 1 || got.Before.Leaves2M != 1 {
			t.Errorf("the other step: %+v", got)
		}
		wantBytes(t, g, inPieces(2*512))
		_, err = reopen(t, fsys, "f", os.O_RDONLY).Defragment(t.Context(), pmemfs.DefragOptions{})
		wantError(t, err, unix.EBADF, "f")
		_, err = reopen(t, fsys, ".", os.O_RDONLY).Defragment(t.Context(), pmemfs.DefragOptions{DryRun: true})
		wantError(t, err, unix.EISDIR, ".")
	})
}

// While several processes count in shared pages, this one makes the file contiguous, and scatters it again: no count is lost.
func TestDefragmentUnderStores(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	const pages, counters, counts, clients = 3 * 512, 16, 400000, 3
	f := fragmented(t, fsys, "f", pages)
	at := func(counter, client int) int { return counter*(pages/counters)*page + 64*(client+1) }
	begun := func(counter, client int) uint64 {
		return binary.LittleEndian.Uint64(inPieces(pages)[at(counter, client):])
	}
	var children []*pooltest.Child
	for range clients {
		c := pooltest.Start(t, "mapper", socket, "f", strconv.Itoa(pages*page))
		c.Expect("mapped")
		children = append(children, c)
	}
	for i, c := range children {
		for p := range counters {
			c.Tell("count %d %d", at(p, i), counts)
		}
	}
	var done atomic.Bool
	var moving sync.WaitGroup
	var moved, merged int64
	moving.Go(func() {
		for r := rand.New(rand.NewPCG(1, 2)); !done.Load(); {
			d, err := f.Defragment(t.Context(), pmemfs.DefragOptions{})
			moved, merged = moved+d.Moved, merged+d.Merged
			for range 20 {
				err = errors.Join(err, f.Relocate(r.Int64N(pages)*page, page))
			}
			if err != nil || d.NoSpace+d.Sealed != 0 {
				t.Errorf("%+v, %v", d, err)
				return
			}
		}
	})
	for _, c := range children {
		for range counters {
			c.Expect("counted")
		}
		c.Finish()
	}
	done.Store(true)
	moving.Wait()
	if moved < pages || merged < pages/512 {
		t.Errorf("%d blocks were moved, %d leaves made", moved, merged)
	}
	m := mapped(t, f, 0, pages*page, pmemfs.Sync)
	for p := range counters {
		for i := range clients {
			if got := counterAt(m, at(p, i)).Load() - begun(p, i); got != counts {
				t.Errorf("counter %d of client %d: %d counts, want %d", p, i, got, counts)
			}
		}
	}
	t.Logf("%d blocks were moved while %d stores were made", moved, clients*counters*counts)
}
