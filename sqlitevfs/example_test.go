package sqlitevfs_test

import (
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"

	_ "github.com/ncruces/go-sqlite3/driver"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/sqlitevfs"
)

// An SQLite database in a pool, in WAL mode: each transaction is durable without a system call for that.
func Example() {
	dir, err := os.MkdirTemp("/dev/shm", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	pool := filepath.Join(dir, "pool")
	if err := pmemfs.Format(pool, pmemfs.FormatOptions{Size: 64 << 20}); err != nil {
		log.Fatal(err)
	}
	fsys, err := pmemfs.Open(pool) // or pmemfs.Dial(socket)
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()
	sqlitevfs.Register("pmemfs", fsys)
	db, err := sql.Open("sqlite3", "file:/orders.db?vfs=pmemfs&_pragma=journal_mode(wal)")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE TABLE orders (what); INSERT INTO orders VALUES ('three apples')"); err != nil {
		log.Fatal(err)
	}
	var what, mode string
	if err := db.QueryRow("SELECT what, (SELECT journal_mode FROM pragma_journal_mode) FROM orders").Scan(&what, &mode); err != nil {
		log.Fatal(err)
	}
	fmt.Println(what, mode)
	// Output: three apples wal
}
