package pmem

import (
	"unsafe"

	"github.com/pmemfs/pmemfs/internal/lines"
)

// LineSize is the unit, in bytes, in which caches write back: Flush(p) writes
// back every aligned LineSize bytes that p touches. CPUs with smaller lines
// are served by flushing each of them; on CPUs with larger lines more than
// asked for is written back, which is harmless.
const LineSize = lines.Size

// wordSize is the size in bytes of the largest store that no medium tears.
const wordSize = 8

// Flush starts the write-back of every cache line that p touches, and keeps
// the lines in the cache where the CPU can (CLWB, DC CVAP). The bytes of p are
// durable when the next Fence returns, not before. p needs no alignment; an
// empty p does nothing.
//
// Flush is ordered after earlier stores to the same lines. It is not ordered
// with stores or flushes of other lines: without a Fence between them, two
// flushed lines may reach the medium in either order, or one alone.
func Flush(p []byte) {
	if len(p) == 0 {
		return
	}
	flush(unsafe.Pointer(unsafe.SliceData(p)), uintptr(len(p)))
}

// Fence makes durable what this goroutine flushed, or stored with Copy or
// Zero, on whichever CPU it did so: all of it reaches the persistence domain
// before any later store, system call or other effect that somebody else can
// see. Later loads may run ahead.
//
// It does the same for what other goroutines flushed, if a channel, mutex or
// atomic says that they returned from Flush, Copy or Zero before Fence is called.
func Fence() {
	lines.Fence()
}

// Persist makes p durable: Flush(p), then Fence.
func Persist(p []byte) {
	if n := uintptr(len(p)); n-1 < lines.Piece {
		lines.Flush(unsafe.SliceData(p), n, chosen.how|lines.ThenFence)
		return
	}
	Flush(p)
	Fence()
}

// Copy copies min(len(dst), len(src)) bytes from src to dst by streaming
// stores and returns that number. The bytes are durable when the next Fence
// returns; no Flush is needed. Whole lines of dst bypass the cache, and so do
// aligned words at its start or end where the CPU can (amd64); the parts of
// lines that start or end within a word are stored through the cache and flushed.
//
// An aligned 8-byte word of dst that is wholly inside the copied range is
// stored at once: neither another CPU nor a medium after a power cut finds it
// half old, half new. Words, and lines, may reach the medium in any order until
// the Fence. Other goroutines see the bytes as after any copy, once a channel,
// mutex or atomic orders them; another process that merely polls may see the
// words in any order until the Fence.
//
// dst and src may have any alignment. Copy panics if they overlap in memory.
func Copy(dst, src []byte) int {
	n := uintptr(min(len(dst), len(src)))
	if n == 0 {
		return 0
	}
	d, s := unsafe.Pointer(unsafe.SliceData(dst)), unsafe.Pointer(unsafe.SliceData(src))
	if uintptr(d) < uintptr(s)+n && uintptr(s) < uintptr(d)+n {
		panic("pmem: Copy of overlapping ranges")
	}
	raceRead(s, n)
	raceWrite(d, n)
	head, body := split(d, n)
	if head != 0 {
		copyEdge(d, s, head)
	}
	// Pieces bound the time for which the goroutine cannot be preempted.
	for off := head; off < head+body; off += streamPiece {
		m := min(streamPiece, head+body-off)
		copyLines(unsafe.Add(d, off), unsafe.Add(s, off), m)
	}
	if tail := n - head - body; tail != 0 {
		copyEdge(unsafe.Add(d, head+body), unsafe.Add(s, head+body), tail)
	}
	return int(n)
}

// Zero stores zeros over dst by streaming stores. It gives the guarantees that
// Copy gives: durable when the next Fence returns, aligned words never torn.
func Zero(dst []byte) {
	n := uintptr(len(dst))
	if n == 0 {
		return
	}
	d := unsafe.Pointer(unsafe.SliceData(dst))
	raceWrite(d, n)
	head, body := split(d, n)
	if head != 0 {
		zeroEdge(d, head)
	}
	for off := head; off < head+body; off += streamPiece {
		zeroLines(unsafe.Add(d, off), min(streamPiece, head+body-off))
	}
	if tail := n - head - body; tail != 0 {
		zeroEdge(unsafe.Add(d, head+body), tail)
	}
}

// split divides n bytes at d into a head that ends at the first line boundary
// (0 when d is aligned), a body of whole lines, and a tail, which is the rest.
func split(d unsafe.Pointer, n uintptr) (head, body uintptr) {
	head = min(-uintptr(d)%LineSize, n)
	return head, (n - head) &^ (LineSize - 1)
}

// flush calls the chosen flush method. n > 0.
func flush(p unsafe.Pointer, n uintptr) {
	for ; n > lines.Piece; n -= lines.Piece {
		lines.Flush((*byte)(p), lines.Piece, chosen.how)
		p = unsafe.Add(p, lines.Piece)
	}
	lines.Flush((*byte)(p), n, chosen.how)
}

// copyLines stores n bytes, whole lines at an aligned d. n > 0.
func copyLines(d, s unsafe.Pointer, n uintptr) {
	chosen.stream.copyLines((*byte)(hide(d)), (*byte)(hide(s)), n)
	if chosen.stream.cleans {
		lines.Flush((*byte)(d), n, chosen.how)
	}
}

// zeroLines is copyLines for zeros.
func zeroLines(d unsafe.Pointer, n uintptr) {
	chosen.stream.zeroLines((*byte)(hide(d)), n)
	if chosen.stream.cleans {
		lines.Flush((*byte)(d), n, chosen.how)
	}
}

// copyEdge stores a part of a line. n > 0.
func copyEdge(d, s unsafe.Pointer, n uintptr) {
	if stream := chosen.stream.copyWords; stream != nil && wholeWords(d, n) {
		stream((*byte)(hide(d)), (*byte)(hide(s)), n)
		return
	}
	storeWords(d, s, n)
	flush(d, n)
}

// zeroEdge is copyEdge for zeros.
func zeroEdge(d unsafe.Pointer, n uintptr) {
	if stream := chosen.stream.zeroWords; stream != nil && wholeWords(d, n) {
		stream((*byte)(hide(d)), n)
		return
	}
	zeroWords(d, n)
	flush(d, n)
}

// wholeWords reports whether n bytes at d are aligned words.
func wholeWords(d unsafe.Pointer, n uintptr) bool {
	return (uintptr(d)|n)%wordSize == 0
}

// hide returns p, unseen by escape analysis. The methods are go:noescape
// functions, but the compiler forgets that in a call through a variable, and
// would move every caller's buffer to the heap. The result is a pointer, so a
// growing stack adjusts it; between the two conversions no stack can move.
func hide(p unsafe.Pointer) unsafe.Pointer {
	x := uintptr(p)
	return *(*unsafe.Pointer)(unsafe.Pointer(&x))
}

// storeWords copies n bytes through the cache, every aligned word of d that
// is wholly inside by one store. (memmove does not promise that: it copies
// short runs by unaligned, overlapping stores.)
func storeWords(d, s unsafe.Pointer, n uintptr) {
	i := uintptr(0)
	for ; i < n && (uintptr(d)+i)%wordSize != 0; i++ {
		*(*byte)(unsafe.Add(d, i)) = *(*byte)(unsafe.Add(s, i))
	}
	for ; i+wordSize <= n; i += wordSize {
		*(*uint64)(unsafe.Add(d, i)) = *(*uint64)(unsafe.Add(s, i))
	}
	for ; i < n; i++ {
		*(*byte)(unsafe.Add(d, i)) = *(*byte)(unsafe.Add(s, i))
	}
}

// zeroWords is storeWords for zeros.
func zeroWords(d unsafe.Pointer, n uintptr) {
	i := uintptr(0)
	for ; i < n && (uintptr(d)+i)%wordSize != 0; i++ {
		*(*byte)(unsafe.Add(d, i)) = 0
	}
	for ; i+wordSize <= n; i += wordSize {
		*(*uint64)(unsafe.Add(d, i)) = 0
	}
	for ; i < n; i++ {
		*(*byte)(unsafe.Add(d, i)) = 0
	}
}
