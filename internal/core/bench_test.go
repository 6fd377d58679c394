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
