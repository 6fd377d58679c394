package pebblevfs_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/pebblevfs"
)

// A Pebble database in a pool: each commit with pebble.Sync is durable without a system call.
func Example() {
	dir, err := os.MkdirTemp("/dev/shm", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	pool := filepath.Join(dir, "pool")
	if err := pmemfs.Format(pool, pmemfs.FormatOptions{Size: 256 << 20}); err != nil {
		log.Fatal(err)
	}
	fsys, err := pmemfs.Open(pool) // or pmemfs.Dial(socket)
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()
	db, err := pebble.Open("orders", &pebble.Options{FS: pebblevfs.New(fsys)})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if err := db.Set([]byte("order 1"), []byte("three apples"), pebble.Sync); err != nil {
		log.Fatal(err)
	}
	v, closer, err := db.Get([]byte("order 1"))
	if err != nil {
		log.Fatal(err)
	}
	defer closer.Close()
	fmt.Printf("%s\n", v)
	// Output: three apples
}
