package sqlitevfs_test

import (
	"fmt"
	"testing"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
)

// snapshot takes a snapshot of all but the lock, which is pinned.
func snapshot(fsys *pmemfs.FS, name string) error {
	skipped, err := fsys.Snapshot(".", name, pmemfs.SnapshotSkipSealed)
	for _, file := range skipped {
		if file != "test.db-lock" {
			return fmt.Errorf("%s is not in the snapshot", file)
		}
	}
	return err
}

// TestSnapshots takes snapshots, which take every page of the files away for a moment, during transactions. No transaction
// fails or is lost, and a snapshot has every one that was acknowledged before it was taken.
func TestSnapshots(t *testing.T) {
	each := func(t *testing.T, place, mode string) {
		fsys, db, err := open(place, mode)
		if err != nil {
			t.Fatal(err)
		}
		stop, over := make(chan struct{}), make(chan error, 1)
		go func() {
			for taken := 0; ; taken++ {
				select {
				case <-stop:
					over <- nil
					return
				default:
				}
				if err := snapshot(fsys, fmt.Sprint(taken)); err != nil {
					over <- err
					return
				}
				if err := fsys.RemoveSnapshot(".", fmt.Sprint(taken)); err != nil {
					over <- err
					return
				}
			}
		}()
		const transactions = 300
		for n := 1; n <= transactions; n++ {
			if err := db.Exec(insert(n)); err != nil {
				t.Fatalf("transaction %d: %v", n, err)
			}
		}
		close(stop)
		if err := <-over; err != nil {
			t.Fatal(err)
		}
		if err := snapshot(fsys, "kept"); err != nil {
			t.Fatal(err)
		}
		if err := db.Exec("DELETE FROM t"); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := fsys.RestoreSnapshot(".", "kept"); err != nil {
			t.Fatal(err)
		}
		if err := fsys.Close(); err != nil {
			t.Fatal(err)
		}
		verify(t, place, mode, transactions)
	}
	for _, mode := range modes {
		t.Run(mode+" embedded", func(t *testing.T) { each(t, pooltest.New(t, testPoolSize), mode) })
		t.Run(mode+" dialled", func(t *testing.T) {
			socket, _ := pooltest.Serve(t, pooltest.New(t, testPoolSize))
			each(t, socket, mode)
		})
	}
}
