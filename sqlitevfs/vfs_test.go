package sqlitevfs_test

import (
	"bufio"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/sqlitevfs"
)

// readerRole says what came of opening a database: PLACE.
func readerRole(args []string, _ *bufio.Scanner) error {
	fsys, db, err := open(args[0], "wal")
	switch {
	case errors.Is(err, sqlite3.BUSY):
		fmt.Println("busy")
		return nil
	case err != nil:
		return err
	}
	fmt.Println("open")
	return errors.Join(db.Close(), fsys.Close())
}

// TestProcesses: a second process is refused as long as a first has the database open.
func TestProcesses(t *testing.T) {
	socket, _ := pooltest.Serve(t, pooltest.New(t, testPoolSize))
	fsys, db, err := open(socket, "wal")
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	other := pooltest.Start(t, "reader", socket)
	other.Expect("busy")
	other.Finish()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	other = pooltest.Start(t, "reader", socket)
	other.Expect("open")
	other.Finish()
}

// TestConnections: several connections of one process write and read at the same time, and none loses anything; the file is
// as long as the database when the last is closed.
func TestConnections(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			pooltest.Each(t, testPoolSize, func(t *testing.T, fsys *pmemfs.FS) {
				sqlitevfs.Register("pmemfs", fsys)
				defer vfs.Unregister("pmemfs")
				const workers, rows = 3, 40
				name := "file:/test.db?vfs=pmemfs&_pragma=busy_timeout(20000)"
				first, err := sqlite3.Open(name)
				if err == nil {
					err = first.Exec("PRAGMA journal_mode=" + mode + "; CREATE TABLE t (worker, n, s)")
				}
				if err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				for w := range workers {
					wg.Go(func() {
						db, err := sqlite3.Open(name)
						if err != nil {
							t.Error(err)
							return
						}
						for n := range rows {
							err = errors.Join(err, db.Exec(fmt.Sprintf("BEGIN IMMEDIATE; INSERT INTO t VALUES (%d, %d, hex(randomblob(500))); COMMIT", w, n)))
							if have, numberErr := number(db, fmt.Sprint("SELECT count(*) FROM t WHERE worker=", w)); have != int64(n+1) || numberErr != nil {
								t.Errorf("worker %d has written %d rows, and finds %d (%v)", w, n+1, have, numberErr)
							}
						}
						if err := errors.Join(err, db.Close()); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if n, err := number(first, "SELECT count(*) FROM t"); n != workers*rows || err != nil {
					t.Errorf("%d rows (%v), want %d", n, err, workers*rows)
				}
				pages, err := number(first, "PRAGMA page_count")
				if err := errors.Join(err, first.Close()); err != nil {
					t.Fatal(err)
				}
				fi, err := fsys.Stat("test.db")
				if err != nil || fi.Size() != pages*4096 {
					t.Errorf("the file is %v bytes long (%v), the database %d pages", fi.Size(), err, pages)
				}
			})
		})
	}
}

// TestShrinks: what a VACUUM cuts off is gone, and reads as zeros when the file grows again.
func TestShrinks(t *testing.T) {
	pooltest.Each(t, testPoolSize, func(t *testing.T, fsys *pmemfs.FS) {
		sqlitevfs.Register("pmemfs", fsys)
		defer vfs.Unregister("pmemfs")
		for _, mode := range modes {
			db, err := sqlite3.Open("file:/" + mode + ".db?vfs=pmemfs")
			if err != nil {
				t.Fatal(err)
			}
			fill := "INSERT INTO t WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c WHERE x<2000) SELECT randomblob(3000) FROM c;"
			for range 2 {
				err = errors.Join(err, db.Exec("PRAGMA journal_mode="+mode+"; CREATE TABLE IF NOT EXISTS t (b);"+fill+
					"DELETE FROM t; VACUUM; PRAGMA wal_checkpoint(truncate);"+fill))
			}
			n, numberErr := number(db, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check<>'ok'")
			if err := errors.Join(err, numberErr, db.Close()); err != nil || n != 0 {
				t.Errorf("%s: %v, %d problems", mode, err, n)
			}
		}
	})
}

// TestFull: a pool without room is SQLITE_FULL, and the database stays in order.
func TestFull(t *testing.T) {
	fsys, db, err := open(pooltest.New(t, 16<<20), "wal")
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; err == nil && n < 100; n++ {
		err = db.Exec(fmt.Sprintf("INSERT INTO t VALUES (%d, hex(randomblob(300000)))", n))
	}
	if !errors.Is(err, sqlite3.FULL) {
		t.Errorf("a pool of 16 MiB took 60 MB: %v", err)
	}
	if n, err := number(db, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check<>'ok'"); n != 0 || err != nil {
		t.Errorf("%d problems (%v)", n, err)
	}
	if err := errors.Join(db.Close(), fsys.Close()); err != nil {
		t.Error(err)
	}
}
