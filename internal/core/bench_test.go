package core

import (
	"fmt"
	"testing"

	"github.com/pmemfs/pmemfs/internal/layout"
)

func BenchmarkCreateUnlink(b *testing.B) {
	fs := newFS(b, 256<<20)
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprintf("file-%d", i)
		if _, err := fs.Create(root, layout.RootIno, name, layout.ModeRegular|0o600, 0); err != nil {
			b.Fatal(err)
		}
		if err := fs.Unlink(root, layout.RootIno, name); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRename renames a file to a name that is free, in one directory.
func BenchmarkRename(b *testing.B) {
	fs := newFS(b, 256<<20)
	names := [2]string{"a file", "another"}
	create(b, fs, layout.RootIno, names[0]).Close()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := fs.Rename(root, layout.RootIno, names[i%2], layout.RootIno, names[(i+1)%2], 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMkdirRmdir(b *testing.B) {
	fs := newFS(b, 256<<20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := fs.Create(root, layout.RootIno, "directory", layout.ModeDirectory|0o700, 0); err != nil {
			b.Fatal(err)
		}
		if err := fs.Rmdir(root, layout.RootIno, "directory"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	fs := newFS(b, 256<<20)
	for i := range 10000 {
		if _, err := fs.Create(root, layout.RootIno, fmt.Sprintf("file-%d", i), layout.ModeRegular|0o600, 0); err != nil {
			b.Fatal(err)
		}
	}
	for i := 0; b.Loop(); i++ {
		if _, err := fs.Lookup(root, layout.RootIno, fmt.Sprintf("file-%d", i%10000)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWrite writes 4 KiB: in place, and at the end of a growing file.
func BenchmarkWrite(b *testing.B) {
	p := make([]byte, 4096)
	for _, grow := range []bool{false, true} {
		b.Run(fmt.Sprintf("grow=%v", grow), func(b *testing.B) {
			fs := newFS(b, 1<<30)
			n := create(b, fs, layout.RootIno, "f")
			defer n.Close()
			b.SetBytes(4096)
			size := int64(0)
			for i := int64(0); b.Loop(); i++ {
				off := i % (1 << 16) * 4096
				if !grow {
					off = i % 16 * 4096
				} else if i%(1<<16) == 0 {
					n.SetAttr(root, SetAttr{Size: &size})
				}
				if _, err := n.WriteAt(p, off); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFault answers write faults: on holes, one block and 512 at a time,
// and on blocks that are written.
func BenchmarkFault(b *testing.B) {
	const blocks = 1 << 16
	for _, c := range []struct {
		name  string
		ahead int64
		hole  bool
	}{{"hole", 1, true}, {"hole-ahead-512", 512, true}, {"written", 1, false}} {
		b.Run(c.name, func(b *testing.B) {
			fs := newFS(b, 1<<30)
			n := create(b, fs, layout.RootIno, "f")
			defer n.Close()
			size, zero := int64(blocks*4096), int64(0)
			n.SetAttr(root, SetAttr{Size: &size})
			at := int64(0)
			for b.Loop() {
				if c.hole && at >= blocks {
					b.StopTimer()
					n.SetAttr(root, SetAttr{Size: &zero})
					n.SetAttr(root, SetAttr{Size: &size})
					at = 0
					b.StartTimer()
				}
				if err := n.Fault(at%blocks, true, true, 512, c.ahead, func(Run) error { return nil }); err != nil {
					b.Fatal(err)
				}
				if c.hole {
					at += c.ahead
				}
			}
		})
	}
}

// BenchmarkDefragment makes a file of 32 MiB contiguous, whose blocks lie one by one.
func BenchmarkDefragment(b *testing.B) {
	const blocks = 32 << 20 / layout.BlockSize
	fs := newFS(b, 256<<20)
	n, between := create(b, fs, layout.RootIno, "f"), create(b, fs, layout.RootIno, "between")
	p, zero := make([]byte, layout.BlockSize), int64(0)
	b.SetBytes(blocks * layout.BlockSize)
	for b.Loop() {
		b.StopTimer()
		for i := range int64(blocks) {
			n.WriteAt(p, i*layout.BlockSize)
			between.WriteAt(p, i*layout.BlockSize)
		}
		b.StartTimer()
		var moved int64
		for off := int64(0); off >= 0; {
			next, d, err := n.Defragment(off, false)
			if err != nil {
				b.Fatal(err)
			}
			off, moved = next, moved+d.Moved
		}
		b.StopTimer()
		if moved != blocks {
			b.Fatal(moved)
		}
		n.SetAttr(root, SetAttr{Size: &zero})
		between.SetAttr(root, SetAttr{Size: &zero})
		b.StartTimer()
	}
}

// BenchmarkClone clones a file whose block map has few entries, and one that has one
// for each block.
func BenchmarkClone(b *testing.B) {
	fs := newFS(b, 4<<30)
	fill := func(name string, size int64) *Node {
		n := create(b, fs, layout.RootIno, name)
		if _, err := n.SetAttr(root, SetAttr{Size: &size}); err != nil {
			b.Fatal(err)
		}
		return n
	}
	large, scattered, between := fill("2 MiB leaves", 1<<30), fill("4 KiB leaves", 0), fill("between", 0)
	if err := large.Fill(0, 1<<30); err != nil {
		b.Fatal(err)
	}
	p := make([]byte, layout.BlockSize)
	for i := range int64(128 << 20 / layout.BlockSize) {
		scattered.WriteAt(p, i*layout.BlockSize)
		between.WriteAt(p, i*layout.BlockSize)
	}
	for name, n := range map[string]*Node{"1GiB-in-large-leaves": large, "128MiB-in-32768-extents": scattered} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := n.Clone(root, layout.RootIno, "clone", 0o600); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := fs.Unlink(root, layout.RootIno, "clone"); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkPublish changes so many blocks of a private clone, far apart, and
// publishes them, with nobody to take grants from.
func BenchmarkPublish(b *testing.B) {
	for _, blocks := range []int64{1, 16, 256} {
		b.Run(fmt.Sprintf("blocks=%d", blocks), func(b *testing.B) {
			fs := newFS(b, 256<<20)
			const all = 16 << 10
			file := create(b, fs, layout.RootIno, "f")
			must[int](b)(file.WriteAt(make([]byte, all*page), 0))
			clone := must[*Node](b)(file.Private(0, all*page, false))
			b.ReportAllocs()
			for i := int64(0); b.Loop(); i++ {
				b.StopTimer()
				for k := range blocks {
					if err := store(clone, (k*61+i)%all*page, []byte("changed!")); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				if err := Publish(clone); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(blocks), "ns/block")
		})
	}
}
