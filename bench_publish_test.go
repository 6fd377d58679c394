package pmemfs_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
)

// What it takes to have a set of changes to a file of 64 MiB appear at once, durably: by Publish, and as everywhere else, by
// a changed copy that is synced and renamed over the file, on tmpfs and on pmemfs.
const replacedSize = 64 << 20

var changedBlocks = []int{1, 16, 256}

// benchPool serves a pool that has room for copies.
func benchPool(b *testing.B) *pmemfs.FS {
	b.Helper()
	pool := filepath.Join(pooltest.Dir(b), "pool")
	if err := pmemfs.Format(pool, pmemfs.FormatOptions{Size: 1 << 30}); err != nil {
		b.Fatal(err)
	}
	socket, _ := serve(b, pool)
	return dial(b, socket)
}

func BenchmarkPublish(b *testing.B) {
	for _, blocks := range changedBlocks {
		b.Run(fmt.Sprintf("blocks=%d", blocks), func(b *testing.B) {
			m := cloned(b, writtenFile(b, benchPool(b), "f", replacedSize/page), replacedSize)
			for i := 0; b.Loop(); i++ {
				b.StopTimer() // the first store to each block: BenchmarkFirstStoreToShared has what that takes
				for k := range blocks {
					m.Bytes()[(k*61+i)%(replacedSize/page)*page]++
				}
				b.StartTimer()
				must(b, m.Publish())
			}
		})
	}
}

// BenchmarkStoreAndPublish is BenchmarkPublish with the page faults of the stores.
func BenchmarkStoreAndPublish(b *testing.B) {
	for _, blocks := range changedBlocks {
		b.Run(fmt.Sprintf("blocks=%d", blocks), func(b *testing.B) {
			m := cloned(b, writtenFile(b, benchPool(b), "f", replacedSize/page), replacedSize)
			for i := 0; b.Loop(); i++ {
				for k := range blocks {
					m.Bytes()[(k*61+i)%(replacedSize/page)*page]++
				}
				must(b, m.Publish())
			}
		})
	}
}

// BenchmarkReplace copies, changes, syncs and renames, whatever the number of blocks.
func BenchmarkReplace(b *testing.B) {
	b.Run("tmpfs", func(b *testing.B) { benchReplaceHost(b, pooltest.Dir(b)) })
	b.Run("disk", func(b *testing.B) { benchReplaceHost(b, b.TempDir()) })
	b.Run("pmemfs", func(b *testing.B) {
		fsys := benchPool(b)
		writtenFile(b, fsys, "f", replacedSize/page)
		for b.Loop() {
			from, err := fsys.Open("f")
			must(b, err)
			to, err := fsys.Create("g")
			must(b, err)
			_, err = io.CopyBuffer(struct{ io.Writer }{to}, from, make([]byte, 1<<20))
			must(b, err)
			must(b, to.Sync())
			must(b, fsys.Rename("g", "f"))
			must(b, from.Close())
			must(b, to.Close())
		}
	})
}

func benchReplaceHost(b *testing.B, dir string) {
	name, next := filepath.Join(dir, "f"), filepath.Join(dir, "g")
	must(b, os.WriteFile(name, make([]byte, replacedSize), 0o600))
	for b.Loop() {
		from, err := os.Open(name)
		must(b, err)
		to, err := os.Create(next)
		must(b, err)
		_, err = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 1<<20))
		must(b, err)
		must(b, to.Sync())
		must(b, os.Rename(next, name))
		must(b, from.Close())
		must(b, to.Close())
		d, err := os.Open(dir)
		must(b, err)
		must(b, unix.Fsync(int(d.Fd())))
		must(b, d.Close())
	}
}

// BenchmarkFirstStoreToShared is the first store to a block that another file has, too: a page fault that copies it, at
// random places. BenchmarkFault has that of one into a hole.
func BenchmarkFirstStoreToShared(b *testing.B) {
	const blocks = replacedSize / page
	m := cloned(b, writtenFile(b, benchPool(b), "f", blocks), replacedSize)
	i := 0
	for b.Loop() {
		if i == blocks {
			b.StopTimer()
			must(b, m.Discard())
			i = 0
			b.StartTimer()
		}
		m.Bytes()[i*4099%blocks*page] = 1 // 4099 is prime: every page once, far apart
		i++
	}
}
