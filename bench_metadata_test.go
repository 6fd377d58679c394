package pmemfs_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/pmemfs/pmemfs"
)

// benchNames is how many names the directory of a benchmark of names has beside those that it is about.
const benchNames = 2000

// benchIn runs a benchmark of names with a full directory.
func benchIn(b *testing.B, f func(b *testing.B, fsys *pmemfs.FS)) {
	benchEach(b, func(b *testing.B, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		must(b, fsys.Mkdir("d", 0o700))
		for i := range benchNames {
			must(b, create(b, fsys, fmt.Sprintf("d/file-%d", i)).Close())
		}
		f(b, fsys)
	})
}

// turnNames is how many times a benchmark does what it is about before it takes it back, which is not timed.
const turnNames = 1000

// benchBatches times batches of do, each followed by as many undo.
func benchBatches(b *testing.B, do, undo func(name string) error) {
	names := make([]string, turnNames)
	for i := range names {
		names[i] = fmt.Sprintf("d/new-%d", i)
	}
	done := 0
	for b.Loop() {
		if done == turnNames {
			b.StopTimer()
			for _, name := range names {
				must(b, undo(name))
			}
			done = 0
			b.StartTimer()
		}
		must(b, do(names[done]))
		done++
	}
}

func createClosed(fsys *pmemfs.FS) func(name string) error {
	return func(name string) error {
		f, err := fsys.Create(name)
		if err != nil {
			return err
		}
		return f.Close()
	}
}

func BenchmarkCreate(b *testing.B) {
	benchIn(b, func(b *testing.B, fsys *pmemfs.FS) { benchBatches(b, createClosed(fsys), fsys.Remove) })
}

func BenchmarkMkdir(b *testing.B) {
	benchIn(b, func(b *testing.B, fsys *pmemfs.FS) {
		benchBatches(b, func(name string) error { return fsys.Mkdir(name, 0o700) }, fsys.Remove)
	})
}

func BenchmarkRemove(b *testing.B) {
	benchIn(b, func(b *testing.B, fsys *pmemfs.FS) {
		for i := range turnNames {
			must(b, createClosed(fsys)(fmt.Sprintf("d/new-%d", i)))
		}
		benchBatches(b, fsys.Remove, createClosed(fsys))
	})
}

func BenchmarkRename(b *testing.B) {
	benchIn(b, func(b *testing.B, fsys *pmemfs.FS) {
		names := [2]string{"d/file-0", "d/renamed"}
		for i := 0; b.Loop(); i++ {
			must(b, fsys.Rename(names[i%2], names[1-i%2]))
		}
	})
}

func BenchmarkAppend4K(b *testing.B) {
	benchEach(b, func(b *testing.B, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		f := create(b, fsys, "f")
		p := make([]byte, page)
		for i := 0; b.Loop(); i++ {
			if i == 4*turnNames {
				b.StopTimer()
				_, seekErr := f.Seek(0, 0)
				must(b, errors.Join(f.Truncate(0), seekErr))
				i = 0
				b.StartTimer()
			}
			if _, err := f.Write(p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// What a request costs in which the file system itself has next to nothing to do.
func BenchmarkRequest(b *testing.B) {
	benchEach(b, func(b *testing.B, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		f := create(b, fsys, "f")
		for b.Loop() {
			if _, err := f.Stat(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
