package pmem

import (
	"fmt"
	"testing"
)

// benchSize is larger than the second-level cache, smaller than the third:
// the lines that a benchmark goes through are not always near.
const benchSize = 64 << 20

// reportLines reports how many lines an operation touches. Call it after the loop,
// which forgets earlier metrics.
func reportLines(b *testing.B, perOp int) {
	b.ReportMetric(float64(perOp), "lines/op")
}

// touched returns mapped memory whose pages are all there.
func touched(b *testing.B, n int) []byte {
	p := mapShared(b, n)
	for i := 0; i < n; i += pageSize {
		p[i] = 1
	}
	return p
}

// BenchmarkPersistLine is one store made durable by itself, with each flush
// method.
func BenchmarkPersistLine(b *testing.B) {
	for _, f := range flushMethods() {
		if !f.supported {
			continue
		}
		b.Run(f.name, func(b *testing.B) {
			use(b, f.name, "")
			p := touched(b, 1<<20)
			for i := 0; b.Loop(); i++ {
				off := i * LineSize % len(p)
				p[off]++
				Persist(p[off : off+8])
			}
			reportLines(b, 1)
		})
	}
}

// BenchmarkFlushGrouped is the same store and flush, but one Fence for many.
func BenchmarkFlushGrouped(b *testing.B) {
	for _, group := range []int{4, 16, 64} {
		b.Run(fmt.Sprint(group), func(b *testing.B) {
			p := touched(b, 1<<20)
			for i := 0; b.Loop(); i++ {
				for j := range group {
					off := (i*group + j) * LineSize % len(p)
					p[off]++
					Flush(p[off : off+8])
				}
				Fence()
			}
			reportLines(b, group)
		})
	}
}

// BenchmarkFence has nothing to wait for.
func BenchmarkFence(b *testing.B) {
	for b.Loop() {
		Fence()
	}
}

var copySizes = []struct {
	name string
	size int
}{{"64", 64}, {"128", 128}, {"256", 256}, {"512", 512}, {"4Ki", 4 << 10}, {"2Mi", 2 << 20}}

// benchmarkSizes runs f on one range after the other.
func benchmarkSizes(b *testing.B, f func(dst, src []byte)) {
	for _, s := range copySizes {
		b.Run(s.name, func(b *testing.B) {
			p, src := touched(b, benchSize), touched(b, s.size)
			for i := 0; b.Loop(); i++ {
				off := i * s.size % len(p)
				f(p[off:off+s.size], src)
			}
			reportLines(b, s.size/LineSize)
		})
	}
}

// BenchmarkCopy is a streaming copy made durable, with each stream method.
func BenchmarkCopy(b *testing.B) {
	for _, s := range streamMethods() {
		if s.supported {
			b.Run(s.name, func(b *testing.B) {
				use(b, "", s.name)
				benchmarkSizes(b, func(dst, src []byte) { Copy(dst, src); Fence() })
			})
		}
	}
}

// BenchmarkZero is streaming zeros made durable.
func BenchmarkZero(b *testing.B) {
	benchmarkSizes(b, func(dst, _ []byte) { Zero(dst); Fence() })
}

// BenchmarkCachedCopy is the other way to a durable copy: through the cache.
func BenchmarkCachedCopy(b *testing.B) {
	benchmarkSizes(b, func(dst, src []byte) { copy(dst, src); Persist(dst) })
}

// BenchmarkPlainCopy makes nothing durable: what a copy costs by itself.
func BenchmarkPlainCopy(b *testing.B) {
	benchmarkSizes(b, func(dst, src []byte) { copy(dst, src) })
}

// BenchmarkCopyUnaligned has a line's part at both ends.
func BenchmarkCopyUnaligned(b *testing.B) {
	for _, size := range []int{8, 24, 200} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			p, src := touched(b, benchSize), make([]byte, size)
			for i := 0; b.Loop(); i++ {
				off := i*512%benchSize + 40
				Copy(p[off:off+size], src)
				Fence()
			}
			reportLines(b, (40+size+LineSize-1)/LineSize)
		})
	}
}
