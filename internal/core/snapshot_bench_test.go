package core

import (
	"fmt"
	"testing"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// filledTree makes files of 5 blocks, 100 in a directory.
func filledTree(b *testing.B, files int) (*FS, layout.Ino) {
	b.Helper()
	fs := newFS(b, max(64<<20, int64(files)*64<<10))
	dir := must[Attr](b)(fs.Create(root, layout.RootIno, "tree", layout.ModeDirectory|0o755, 0)).Ino
	at := dir
	for i := range files {
		if i%100 == 0 {
			at = must[Attr](b)(fs.Create(root, dir, fmt.Sprint("dir-", i), layout.ModeDirectory|0o755, 0)).Ino
		}
		n := create(b, fs, at, fmt.Sprint("file-", i))
		must[int](b)(n.WriteAt(make([]byte, 5*layout.BlockSize), 0))
		n.Close()
	}
	return fs, dir
}

// BenchmarkSnapshot takes a snapshot of files that nobody has mapped, compares it
// with what it was taken of, restores and removes it.
func BenchmarkSnapshot(b *testing.B) {
	for _, files := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprint("files=", files), func(b *testing.B) {
			fs, dir := filledTree(b, files)
			per := func(name string, op func() error) {
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					for range b.N {
						b.StopTimer()
						if name != "take" {
							takeSnapshot(b, fs, dir, "s", SnapshotOptions{})
						}
						b.StartTimer()
						if err := op(); err != nil {
							b.Fatal(err)
						}
						b.StopTimer()
						if name != "remove" {
							if err := fs.RemoveSnapshot(root, dir, "s"); err != nil {
								b.Fatal(err)
							}
						}
						b.StartTimer()
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(files), "ns/file")
				})
			}
			per("take", func() error { _, err := fs.Snapshot(root, dir, "s", SnapshotOptions{}); return err })
			per("diff", func() error { _, err := fs.SnapshotDiff(root, dir, "s", ""); return err })
			per("restore", func() error { return fs.RestoreSnapshot(root, dir, "s") })
			per("remove", func() error { return fs.RemoveSnapshot(root, dir, "s") })
		})
	}
}
