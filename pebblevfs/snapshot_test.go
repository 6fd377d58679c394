package pebblevfs_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/pebblevfs"
)

// snapshot takes a snapshot of all but the lock, which is pinned.
func snapshot(fsys *pmemfs.FS, name string) error {
	skipped, err := fsys.Snapshot(".", name, pmemfs.SnapshotSkipSealed)
	for _, file := range skipped {
		if file != "db/LOCK" {
			return fmt.Errorf("%s is not in the snapshot", file)
		}
	}
	return err
}

// TestSnapshots takes snapshots, which take every page of the log away for a moment, during transactions. No transaction fails
// or is lost, and a snapshot has every one that was acknowledged before it was taken.
func TestSnapshots(t *testing.T) {
	each := func(t *testing.T, place string) {
		fsys := pooltest.MustOpen(t, place)
		db, err := pebble.Open("db", small(pebblevfs.New(fsys)))
		if err != nil {
			t.Fatal(err)
		}
		const transactions = 3000
		var done atomic.Uint64
		over := make(chan error, 1)
		go func() {
			for n := uint64(1); n <= transactions; n++ {
				b := db.NewBatch()
				b.Set(key(n), value(n), nil)
				b.Set(lastKey, value(n), nil)
				if err := b.Commit(pebble.Sync); err != nil {
					over <- err
					return
				}
				done.Store(n)
			}
			over <- nil
		}()
		var before uint64
		taken := 0
		for running := true; running; taken++ {
			if taken > 0 {
				if err := fsys.RemoveSnapshot(".", "last"); err != nil {
					t.Fatal(err)
				}
			}
			before = done.Load()
			if err := snapshot(fsys, "last"); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-over:
				if err != nil {
					t.Fatalf("after %d transactions: %v", done.Load(), err)
				}
				running = false
			default:
			}
		}
		t.Logf("%d snapshots, the last after %d transactions", taken, before)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := fsys.RestoreSnapshot(".", "last"); err != nil {
			t.Fatal(err)
		}
		if err := fsys.Close(); err != nil {
			t.Fatal(err)
		}
		if next := verify(t, place, int64(before)); next <= 1 {
			t.Error("the snapshot has no transaction")
		}
	}
	t.Run("embedded", func(t *testing.T) { each(t, pooltest.New(t, testPoolSize)) })
	t.Run("dialled", func(t *testing.T) {
		socket, _ := pooltest.Serve(t, pooltest.New(t, testPoolSize))
		each(t, socket)
	})
}
