package medium

import "sync/atomic"

// lineSize is the unit in which flushes and streaming stores are counted: a cache line of 64 bytes.
const lineSize = 64

// Counts is what was asked of an area. Lines are those that a range touches, so 2 bytes across an edge are 2 lines.
type Counts struct {
	WrittenBytes  int64 // bytes of cached stores (Write)
	FlushedLines  int64 // lines of Flush
	StreamedLines int64 // lines of Stream, Zero and Copy
	Fences        int64
}

// CountingArea is an Area that counts what is asked of the one below. Costs are pinned in tests by these numbers,
// because they are the same on every machine and in every run, as times are not.
type CountingArea struct {
	below                              Area
	written, flushed, streamed, fences atomic.Int64
}

// Counting returns an area that counts the calls and passes them on to a.
func Counting(a Area) *CountingArea { return &CountingArea{below: a} }

// Counts returns the numbers since the start or the last Reset.
func (c *CountingArea) Counts() Counts {
	return Counts{
		WrittenBytes:  c.written.Load(),
		FlushedLines:  c.flushed.Load(),
		StreamedLines: c.streamed.Load(),
		Fences:        c.fences.Load(),
	}
}

// Reset sets the numbers to zero.
func (c *CountingArea) Reset() {
	for _, n := range []*atomic.Int64{&c.written, &c.flushed, &c.streamed, &c.fences} {
		n.Store(0)
	}
}

// Size is that of the area below.
func (c *CountingArea) Size() int64 { return c.below.Size() }

// Bytes returns the memory of the area below: loads are not counted.
func (c *CountingArea) Bytes() []byte { return c.below.Bytes() }

// Read is not counted.
func (c *CountingArea) Read(off int64, p []byte) { c.below.Read(off, p) }

// FirstBad asks the area below.
func (c *CountingArea) FirstBad(off, n int64) int64 { return c.below.FirstBad(off, n) }

// Heal is not counted.
func (c *CountingArea) Heal(off, n int64) error { return c.below.Heal(off, n) }

// Write counts the bytes.
func (c *CountingArea) Write(off int64, p []byte) {
	c.below.Write(off, p)
	c.written.Add(int64(len(p)))
}

// Stream counts the lines touched.
func (c *CountingArea) Stream(off int64, p []byte) {
	c.below.Stream(off, p)
	c.streamed.Add(lines(off, int64(len(p))))
}

// Zero counts the lines touched, as streamed ones.
func (c *CountingArea) Zero(off, n int64) {
	c.below.Zero(off, n)
	c.streamed.Add(lines(off, n))
}

// Copy counts the lines touched at the destination, as streamed ones.
func (c *CountingArea) Copy(dst, src, n int64) {
	c.below.Copy(dst, src, n)
	c.streamed.Add(lines(dst, n))
}

// Flush counts the lines touched.
func (c *CountingArea) Flush(off, n int64) {
	c.below.Flush(off, n)
	c.flushed.Add(lines(off, n))
}

// Fence counts one, whether it succeeds or not.
func (c *CountingArea) Fence() error {
	c.fences.Add(1)
	return c.below.Fence()
}

// lines is the number of cache lines that [off, off+n) touches.
func lines(off, n int64) int64 {
	if n == 0 {
		return 0
	}
	return (off+n-1)/lineSize - off/lineSize + 1
}
