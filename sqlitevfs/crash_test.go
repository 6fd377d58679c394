package sqlitevfs_test

import (
	"bufio"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/sqlitevfs"
)

var modes = []string{"wal", "delete", "truncate", "persist"}

// open opens a database of a pool in a journal mode.
func open(place, mode string, opts ...pmemfs.Option) (*pmemfs.FS, *sqlite3.Conn, error) {
	fsys, err := pooltest.Open(place, opts...)
	if err != nil {
		return nil, nil, err
	}
	sqlitevfs.Register("pmemfs", fsys)
	db, err := sqlite3.Open("file:/test.db?vfs=pmemfs&_pragma=busy_timeout(5000)")
	if err == nil {
		err = errors.Join(db.Exec("PRAGMA synchronous=full; PRAGMA wal_autocheckpoint=50; PRAGMA journal_mode="+mode),
			db.Exec("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, s TEXT); CREATE TABLE IF NOT EXISTS last (n INTEGER)"))
	}
	if err != nil {
		return nil, nil, errors.Join(err, fsys.Close())
	}
	return fsys, db, nil
}

// number is the result of a query for one number.
func number(db *sqlite3.Conn, query string) (n int64, err error) {
	stmt, _, err := db.Prepare(query)
	if err != nil {
		return 0, err
	}
	defer stmt.Close()
	if stmt.Step() {
		n = stmt.ColumnInt64(0)
	}
	return n, stmt.Err()
}

// insert is transaction n: a row that nobody else writes, and one that all do.
func insert(n int) string {
	return fmt.Sprintf("BEGIN; INSERT INTO t VALUES (%d, '%0*d'); DELETE FROM last; INSERT INTO last VALUES (%[1]d); COMMIT", n, 50+n*n%1000, n)
}

// writerRole commits transactions and prints the number of each once it is durable: PLACE MODE [SEED]. With a seed the power
// is cut when its input ends.
func writerRole(args []string, in *bufio.Scanner) error {
	opts, err := pooltest.PowerCut(args[2:]...)
	if err != nil {
		return err
	}
	fsys, db, err := open(args[0], args[1], opts...)
	if err != nil {
		return err
	}
	pooltest.CutPowerAtEnd(fsys, in)
	n, err := number(db, "SELECT count(*) FROM t")
	if err != nil {
		return err
	}
	for n++; ; n++ {
		if err := db.Exec(insert(int(n))); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// verify expects the transactions from 1 up to some one from acknowledged on, wholly, and a database that is in order.
func verify(t *testing.T, place, mode string, acknowledged int64) {
	t.Helper()
	fsys, db, err := open(place, mode)
	for end := time.Now().Add(10 * time.Second); errors.Is(err, sqlite3.BUSY) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond) // the server may not know yet that the one before is dead, and holds its lock
		fsys, db, err = open(place, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		query string
		want  func(int64) bool
		what  string
	}{
		{"SELECT count(*) FROM t", func(n int64) bool { return n >= acknowledged }, "rows"},
		{"SELECT max(n)-count(*) FROM t", func(n int64) bool { return n == 0 }, "rows missing in between"},
		{"SELECT count(*) FROM t WHERE CAST(s AS INTEGER)<>n OR length(s)<>max(50+n*n%1000, length(n))", func(n int64) bool { return n == 0 }, "rows with other contents"},
		{"SELECT (SELECT max(n) FROM t) - (SELECT n FROM last)", func(n int64) bool { return n == 0 }, "difference between the tables"},
		{"SELECT count(*) FROM pragma_integrity_check WHERE integrity_check<>'ok'", func(n int64) bool { return n == 0 }, "problems of integrity"},
	} {
		if n, err := number(db, c.query); err != nil || !c.want(n) {
			t.Errorf("%d %s (%v); %d were acknowledged", n, c.what, err, acknowledged)
		}
	}
	if err := errors.Join(db.Close(), fsys.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestKilled kills the program in the middle of its transactions: as the owner of a pool, and as a client of a server, which
// is killed as well every other time.
func TestKilled(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode+" embedded", func(t *testing.T) {
			pool := pooltest.New(t, testPoolSize)
			for round := range 4 {
				c := pooltest.Start(t, "writer", pool, mode)
				last := c.Acknowledged(50+round*100, c.Signal)
				c.Kill()
				pooltest.Check(t, pool)
				verify(t, pool, mode, last)
			}
		})
		t.Run(mode+" dialled", func(t *testing.T) {
			pool := pooltest.New(t, testPoolSize)
			for round := range 4 {
				socket, srv := pooltest.Serve(t, pool)
				c := pooltest.Start(t, "writer", socket, mode)
				last := c.Acknowledged(50+round*50, func() {
					if round%2 == 1 {
						srv.Signal()
					}
					c.Signal()
				})
				c.Kill()
				if round%2 == 0 {
					verify(t, socket, mode, last)
				}
				srv.Kill()
				pooltest.Check(t, pool)
				verify(t, pool, mode, last)
			}
		})
	}
}

// TestPowerCut cuts the power in the middle of transactions. Of what was not durable nothing survives, or a random part.
func TestPowerCut(t *testing.T) {
	for _, mode := range modes {
		for seed := range 3 {
			t.Run(fmt.Sprint(mode, " seed ", seed), func(t *testing.T) {
				pool := pooltest.New(t, 64<<20)
				for round := range 3 {
					c := pooltest.Start(t, "writer", pool, mode, fmt.Sprint(seed*10+min(seed, 1)*round))
					last := c.Acknowledged(20+round*70, c.CloseInput)
					c.Kill()
					verify(t, pool, mode, last)
					pooltest.Check(t, pool)
				}
			})
		}
	}
}
