package pmemfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

// A program that stores durably, without a system call, to a pool that "pmemfs serve" owns.
func Example() {
	fsys, err := pmemfs.Dial("/run/pmemfs/pool.sock")
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()
	f, err := fsys.OpenFile("orders.log", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 30); err != nil { // a hole: blocks come with the first store to them
		log.Fatal(err)
	}
	m, err := f.Map(0, 1<<30, pmemfs.Sync)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Unmap()
	n := copy(m.Bytes(), "order 1")
	if err := m.Persist(0, n); err != nil { // flush and fence; now it is durable, and so is what finds it
		log.Fatal(err)
	}
}

// An embedded pool: made, used and closed by one program.
func ExampleOpen() {
	dir, err := os.MkdirTemp("/dev/shm", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	pool := filepath.Join(dir, "pool")
	if err := pmemfs.Format(pool, pmemfs.FormatOptions{Size: 64 << 20}); err != nil {
		log.Fatal(err)
	}
	fsys, err := pmemfs.Open(pool)
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()
	if err := fsys.MkdirAll("letters/2024", 0o755); err != nil {
		log.Fatal(err)
	}
	if err := fsys.WriteFile("letters/2024/first", []byte("Dear reader"), 0o644); err != nil {
		log.Fatal(err)
	}
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		fmt.Println(name)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(fsys.MapMask())
	// Output:
	// .
	// letters
	// letters/2024
	// letters/2024/first
	// Shared|Direct|Unchecked|Populate|ReadOnly
}

// A file may be truncated while it is mapped. The access that fails comes back as an error.
func ExampleCatch() {
	dir, err := os.MkdirTemp("/dev/shm", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	pool := filepath.Join(dir, "pool")
	if err := pmemfs.Format(pool, pmemfs.FormatOptions{Size: 64 << 20}); err != nil {
		log.Fatal(err)
	}
	fsys, err := pmemfs.Open(pool)
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()
	f, err := fsys.Create("table")
	if err != nil {
		log.Fatal(err)
	}
	if err := f.Truncate(8192); err != nil {
		log.Fatal(err)
	}
	m, err := f.Map(0, 8192, pmemfs.Shared)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Unmap()
	if err := fsys.Truncate("table", 4096); err != nil {
		log.Fatal(err)
	}
	err = pmemfs.Catch(func() { m.Bytes()[5000] = 1 })
	var where *pmemfs.FaultError
	fmt.Println(errors.As(err, &where), where.Offset, errors.Is(err, unix.ENXIO))
	// Output: true 5000 true
}

// What a directory was at an instant, what has changed since, and the way back.
func ExampleFS_Snapshot() {
	dir, err := os.MkdirTemp("/dev/shm", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	pool := filepath.Join(dir, "pool")
	if err := pmemfs.Format(pool, pmemfs.FormatOptions{Size: 64 << 20}); err != nil {
		log.Fatal(err)
	}
	fsys, err := pmemfs.Open(pool)
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()
	if err := fsys.WriteFile("plan", []byte("first draft"), 0o600); err != nil {
		log.Fatal(err)
	}
	if _, err := fsys.Snapshot(".", "monday", 0); err != nil {
		log.Fatal(err)
	}
	if err := errors.Join(fsys.WriteFile("plan", []byte("worse"), 0), fsys.WriteFile("notes", nil, 0o600)); err != nil {
		log.Fatal(err)
	}
	changes, err := fsys.SnapshotDiff(".", "monday", "")
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range changes {
		fmt.Println(c.Path, "added:", c.Added, "contents:", c.Ranges)
	}
	if err := fsys.RestoreSnapshot(".", "monday"); err != nil {
		log.Fatal(err)
	}
	plan, err := fsys.ReadFile("plan")
	fmt.Println(string(plan), err)
	// Output:
	// notes added: true contents: []
	// plan added: false contents: [{0 11}]
	// first draft <nil>
}
