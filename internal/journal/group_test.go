package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/medium"
)

// stage stages one word.
func stage(t failer, j *Journal, off int64, v uint64) uint64 {
	tx := begun(t, j)
	tx.Write(off, word(v))
	lsn, err := tx.Stage()
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

func value(j *Journal, off int64) uint64 { return binary.LittleEndian.Uint64(j.View(off, 8)) }

// TestStageStoresNothing: what is staged is seen at once and is nowhere on the medium; one fence makes all of it durable.
func TestStageStoresNothing(t *testing.T) {
	f := newFixture(t)
	area := medium.Counting(f.area)
	barriers := 0
	j, err := Open(area, f.sb, Options{Barrier: func() error { barriers++; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	area.Reset()
	var last uint64
	for i := range 100 {
		last = stage(t, j, f.node(i%5), uint64(i))
	}
	if c := area.Counts(); c != (medium.Counts{}) || barriers != 0 {
		t.Errorf("staging has stored: %+v, %d barriers", c, barriers)
	}
	if v := value(j, f.node(4)); v != 99 {
		t.Errorf("%d is visible", v)
	}
	if again := f.open(t); value(again, f.node(4)) != 0 {
		t.Error("what was staged only has outlived a crash")
	}
	j, err = Open(area, f.sb, Options{Barrier: func() error { barriers++; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		last = stage(t, j, f.node(i%5), uint64(i))
	}
	area.Reset()
	if err := j.Commit(last); err != nil {
		t.Fatal(err)
	}
	if c := area.Counts(); c.Fences != 1 || barriers != 1 {
		t.Errorf("a group of 100 took %d fences and %d barriers", c.Fences, barriers)
	}
	if err := j.Commit(last); err != nil || area.Counts().Fences != 1 {
		t.Error("what is durable is committed again", err)
	}
	if again := f.open(t); value(again, f.node(4)) != 99 {
		t.Error("what was committed is lost")
	}
}

// TestDurableIsNotRead: others may have the word that is told what is durable in their memory. What they do to it harms nobody
// but those who believe it.
func TestDurableIsNotRead(t *testing.T) {
	f := newFixture(t)
	var told atomic.Uint64
	j, err := Open(f.area, f.sb, Options{Durable: &told})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(10) {
		told.Store(1 << (6 * i))
		lsn := stage(t, j, f.node(1), i+1)
		told.Store(lsn) // "it is durable"
		if err := j.Commit(lsn); err != nil || told.Load() != lsn {
			t.Fatalf("%#x is durable, %#x is told, %v", lsn, told.Load(), err)
		}
		if again := f.open(t); value(again, f.node(1)) != i+1 {
			t.Fatalf("what was committed is lost: %d", i+1)
		}
		if j, err = Open(f.area, f.sb, Options{Durable: &told}); err != nil { // f.open has made the log its own
			t.Fatal(err)
		}
	}
}

// TestCommitComesAfterWhatIsStaged: a transaction that is committed at once is not durable before those staged earlier.
func TestCommitComesAfterWhatIsStaged(t *testing.T) {
	f := newFixture(t)
	j := f.open(t)
	var order []string
	tx := begun(t, j)
	tx.Write(f.node(0), word(1))
	tx.OnDone(func(bool) { order = append(order, "visible") })
	tx.OnDurable(func() { order = append(order, "durable") })
	if _, err := tx.Stage(); err != nil {
		t.Fatal(err)
	}
	order = append(order, "staged")
	write(t, j, f.node(1), 2)
	if !slices.Equal(order, []string{"visible", "staged", "durable"}) {
		t.Error(order)
	}
	again := f.open(t)
	if value(again, f.node(0)) != 1 || value(again, f.node(1)) != 2 {
		t.Error("lost")
	}
}

// TestStagedIsBounded: who stages without end commits now and then, whether the records are long or replay slowly.
func TestStagedIsBounded(t *testing.T) {
	for _, zeros := range []bool{false, true} {
		t.Run(fmt.Sprint(zeros), func(t *testing.T) {
			f := newFixture(t)
			j := f.open(t)
			for i := range 2000 {
				tx := begun(t, j)
				if zeros {
					tx.Zero(f.node(i % 500))
				} else {
					tx.Write(f.node(i%500), make([]byte, block))
					tx.Write(f.node(i%500), word(uint64(i)))
				}
				if _, err := tx.Stage(); err != nil {
					t.Fatal(err)
				}
				if j.staged.work > j.maxStaged()+2*block {
					t.Fatalf("%d bytes of work are staged", j.staged.work)
				}
			}
			if s := j.Stats(); s.UsedBytes > s.SizeBytes {
				t.Errorf("%d of %d bytes are used", s.UsedBytes, s.SizeBytes)
			}
		})
	}
}

// TestFailedGroup: when the medium fails, everybody whose transaction was in the group is told, and nothing goes on.
func TestFailedGroup(t *testing.T) {
	f := newFixture(t)
	area := &failing{Area: f.area}
	j, err := Open(area, f.sb, Options{})
	if err != nil {
		t.Fatal(err)
	}
	lsn := stage(t, j, f.node(0), 1)
	area.fail = true
	for range 2 {
		if err := j.Commit(lsn); !errors.Is(err, unix.EIO) {
			t.Errorf("commit: %v", err)
		}
	}
	if _, err := begin(j); !errors.Is(err, unix.EIO) {
		t.Errorf("begin: %v", err)
	}
}

// TestGroups has many stage, commit and read at the same time: who has committed finds his own after a crash, and the
// fences are shared.
func TestGroups(t *testing.T) {
	const writers, rounds = 8, 300
	f := newFixture(t)
	area := medium.Counting(f.area)
	j, err := Open(area, f.sb, Options{})
	if err != nil {
		t.Fatal(err)
	}
	area.Reset()
	var commits atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			at := f.node(w/2) + int64(w%2)*64 // two writers to a page
			for i := uint64(1); i <= rounds; i++ {
				lsn := stage(t, j, at, i)
				if v := value(j, at); v != i {
					t.Errorf("writer %d sees %d instead of %d", w, v, i)
				}
				if i%3 == 0 {
					if err := j.Commit(lsn); err != nil {
						t.Error(err)
					}
					commits.Add(1)
					if j.DurableLSN() < lsn {
						t.Error("committed and not durable")
					}
				}
			}
			tx, err := begin(j)
			if err != nil {
				t.Error(err)
				return
			}
			tx.Write(at, word(1e6))
			if _, err := tx.Commit(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := area.Counts().Fences; n > commits.Load()+writers+10 {
		t.Errorf("%d fences for %d commits", n, commits.Load())
	}
	again := f.open(t)
	for w := range writers {
		if v := value(again, f.node(w/2)+int64(w%2)*64); v != 1e6 {
			t.Errorf("writer %d finds %d", w, v)
		}
	}
}
