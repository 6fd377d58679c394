package demo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

const treeName = "tree" // where the tree goes

// imported is a file of the tree.
type imported struct {
	name string // in the pool
	size int64
	hash [sha256.Size]byte
}

// importTree copies the tree through the socket, and reads every byte back.
func (d *demo) importTree(ctx context.Context) error {
	workers := 2 * runtime.GOMAXPROCS(0)
	if d.result.Granularity == pmemfs.Page.String() {
		workers = 32 // that wait for the disk, which makes the operations of several durable at a time
	}
	d.log("importing %s through the socket, %d files at a time", d.result.Tree, workers)
	return d.use(func(fsys *pmemfs.FS) error {
		start := time.Now()
		files, _ := tree.Size(ctx, tree.Host{}, d.result.Tree)
		add, done := d.progress("import", files)
		var failed error
		c := &tree.Copier{
			From: tree.Host{}, To: tree.Pool{FS: fsys}, Workers: workers,
			Copied: func(files, _ int64) { add(files) },
			Failed: func(err error) { failed = err },
		}
		err := c.Copy(ctx, d.result.Tree, treeName)
		done()
		if err == nil {
			err = failed
		}
		if err != nil {
			return err
		}
		n := c.Counts()
		d.log("imported %d files, %d directories, %d MiB in %.1f s", n.Files, n.Directories, n.Bytes>>20, time.Since(start).Seconds())
		return d.verifyTree(ctx, fsys, workers)
	})
}

// verifyTree compares the tree in the pool with the original: contents by SHA-256, modes, times.
func (d *demo) verifyTree(ctx context.Context, fsys *pmemfs.FS, workers int) error {
	start := time.Now()
	if err := d.listTree(fsys); err != nil {
		return err
	}
	add, done := d.progress("verify", int64(len(d.imported)))
	defer done()
	err := each(ctx, workers, d.imported, func(f *imported) error {
		defer add(1)
		original := filepath.Join(d.result.Tree, f.name[len(treeName):])
		source, err := tree.Host{}.Open(original)
		if err != nil {
			return err
		}
		defer source.Close()
		if f.hash, f.size, err = hash(source); err != nil {
			return err
		}
		copied, size, err := hashIn(fsys, f.name)
		if err != nil {
			return err
		}
		if copied != f.hash || size != f.size {
			return fmt.Errorf("%s: the copy differs from %s", f.name, original)
		}
		return sameAttributes(fsys, f.name, original)
	})
	if err != nil {
		return err
	}
	for _, f := range d.imported {
		d.result.Bytes += f.size
	}
	d.result.Files = int64(len(d.imported))
	done()
	d.log("read back %d bytes in %d files through the socket: all equal (SHA-256, modes, times), in %.1f s",
		d.result.Bytes, d.result.Files, time.Since(start).Seconds())
	return nil
}

// listTree lists the files that were imported. The original's files must be the same, and all of them there.
func (d *demo) listTree(fsys *pmemfs.FS) error {
	want := 0
	err := filepath.WalkDir(d.result.Tree, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			want++
		}
		return err
	})
	if err != nil {
		return err
	}
	d.imported = nil
	err = fs.WalkDir(fsys, treeName, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			d.imported = append(d.imported, imported{name: name})
		}
		return err
	})
	if err == nil && len(d.imported) != want {
		err = fmt.Errorf("the tree has %d files, the pool %d of them", want, len(d.imported))
	}
	return err
}

func sameAttributes(fsys *pmemfs.FS, name, original string) error {
	want, err := tree.Host{}.Lstat(original)
	if err != nil {
		return err
	}
	got, err := fsys.Lstat(name)
	if err != nil {
		return err
	}
	if got.Mode() != want.Mode() || !got.ModTime().Equal(want.ModTime()) {
		return fmt.Errorf("%s has mode %v and time %v, its original %v and %v", name, got.Mode(), got.ModTime(), want.Mode(), want.ModTime())
	}
	return nil
}

// buffers are for hash: one for each file would keep the garbage collector busy.
var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// hash returns the SHA-256 and the length of all that can be read.
func hash(r io.ReaderAt) (sum [sha256.Size]byte, size int64, err error) {
	h := sha256.New()
	buf := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := r.ReadAt(buf[:], size)
		h.Write(buf[:n]) // never fails
		size += int64(n)
		if errors.Is(err, io.EOF) {
			h.Sum(sum[:0])
			return sum, size, nil
		}
		if err != nil {
			return sum, size, err
		}
	}
}

func hashIn(fsys *pmemfs.FS, name string) (sum [sha256.Size]byte, size int64, err error) {
	f, err := tree.Pool{FS: fsys}.Open(name)
	if err != nil {
		return sum, 0, err
	}
	defer f.Close()
	return hash(f)
}

// each calls f for all files, by several goroutines, until the first error.
func each(ctx context.Context, workers int, files []imported, f func(*imported) error) error {
	var (
		next  atomic.Int64
		group sync.WaitGroup
		once  sync.Once
		first error
	)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range workers {
		group.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(files) {
					return
				}
				if err := f(&files[i]); err != nil {
					once.Do(func() { first = err })
					cancel()
				}
			}
		})
	}
	group.Wait()
	if first == nil && int(next.Load()) < len(files) {
		return context.Cause(ctx)
	}
	return first
}

// readBack opens the pool in this process, without a server, and reads everything: every acknowledged record, and the
// imported tree once more.
func (d *demo) readBack(ctx context.Context) error {
	fsys, err := pmemfs.Open(d.pool, pmemfs.OpenReadOnly(), pmemfs.Wait(patience))
	if err != nil {
		return err
	}
	defer fsys.Close()
	var there uint64
	for i := range d.scale.writers {
		p, err := find(fsys, i)
		if err != nil {
			return err
		}
		acked := d.shared.at(i, acknowledged).Load()
		if p.sequence < acked {
			d.log("LOST: %s has %d records, %d were acknowledged", path.Join(d.pool, writerDir(i)), p.sequence, acked)
			d.result.Lost += int64(acked - p.sequence)
		}
		there += min(p.sequence, acked)
	}
	d.log("read back %d of %d acknowledged records: %d lost", there, d.result.Acknowledged, d.result.Lost)
	var differ atomic.Int64
	err = each(ctx, runtime.GOMAXPROCS(0), d.imported, func(f *imported) error {
		sum, size, err := hashIn(fsys, f.name)
		if err != nil || sum != f.hash || size != f.size {
			d.log("DIFFERS: %s %v", f.name, err)
			differ.Add(1)
		}
		return nil
	})
	d.result.FilesDiffer = differ.Load()
	d.log("read back the imported tree once more: %d of %d files differ", d.result.FilesDiffer, d.result.Files)
	return err
}
