package medium

import "fmt"

// Area is the one narrow interface by which stores reach a medium. Mapped areas of a Pool, plain memory and simulated
// media implement it alike, so that whatever writes metadata can be run against a medium that records every store.
//
// Offsets and lengths are bytes from the start of the area. A range that is not wholly inside [0, Size()) panics:
// numbers that come from a medium or from another process are checked by the caller first. An empty range is allowed
// anywhere in [0, Size()] and does nothing.
//
// What is durable, and when:
//
//	Write                 after Flush of the range, then Fence
//	Stream, Zero, Copy    after Fence
//
// Only aligned 8-byte stores are atomic. Before the Fence any part of a range may or may not have reached the medium.
//
// A medium may fail to give or to take bytes: a bad block. Then the access, be it one of these methods or a load from Bytes,
// ends as Guard says, around which it must be; any part of a store may have been made.
//
// Methods may be called at the same time from several goroutines. A Fence covers the stores that its own goroutine
// made (or that happened before, by Go's memory model, and were flushed by the goroutine that made them); stores that
// overlap in time and range need a lock of the caller.
type Area interface {
	// Size is the length in bytes; it never changes.
	Size() int64
	// Bytes is the area's memory, for loads only: a store through it would be seen by nobody who counts or records.
	Bytes() []byte
	// Read copies bytes from off on to p.
	Read(off int64, p []byte)
	// Write copies p to off by cached stores: durable after Flush of the range and Fence.
	Write(off int64, p []byte)
	// Stream copies p to off past the caches: durable after Fence. For whole lines, and on amd64 for aligned
	// words, it is cheaper than Write and Flush, and the right choice for what is not read again soon.
	Stream(off int64, p []byte)
	// Zero streams n zeros to off: durable after Fence.
	Zero(off, n int64)
	// Copy streams n bytes from src to dst inside the area: durable after Fence. The ranges must not overlap (panic).
	Copy(dst, src, n int64)
	// Flush starts the write-back of every cache line that [off, off+n) touches: durable after the next Fence.
	Flush(off, n int64)
	// Fence returns when everything flushed or streamed before is durable. On a page-cache medium it is an fdatasync,
	// done only if anything was stored since the last one. An error means that stores since the last good Fence may be
	// lost, even if later calls were to succeed: it is therefore sticky.
	Fence() error
	// FirstBad is the offset of the first block of which [off, off+n) has bytes and that is known to be bad; -1: none is.
	FirstBad(off, n int64) int64
	// Heal makes the bad ones of the blocks [off, off+n) usable again. They are zeros then, durable after Fence. Who else has
	// them mapped must let go of them before. An error is a *BadBlockError: it stays bad.
	Heal(off, n int64) error
}

// checkRange panics unless [off, off+n) lies inside [0, size).
func checkRange(what string, off, n, size int64) {
	if off < 0 || n < 0 || off > size || n > size-off {
		panic(fmt.Sprintf("medium: %s of %d bytes at offset %d: out of range, the area has %d bytes", what, n, off, size))
	}
}

// checkCopy panics unless both ranges lie inside [0, size) and do not overlap.
func checkCopy(dst, src, n, size int64) {
	checkRange("copy from", src, n, size)
	checkRange("copy to", dst, n, size)
	if n > 0 && dst < src+n && src < dst+n {
		panic(fmt.Sprintf("medium: copy of %d bytes from offset %d to %d: the ranges overlap", n, src, dst))
	}
}
