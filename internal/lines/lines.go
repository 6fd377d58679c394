// Package lines has the CPU's instructions that write cache lines back, and a form of them that fails in place of
// faulting.
//
// # The exception table
//
// A program that flushes memory which may not be accessible would need what catches a panic: two deferred calls, and more
// instructions than the flush itself. The kernel has the same problem where it copies from and to its users, and solves it
// by a table of the instructions that may fault and of where to go on then. So here: TryFlush is that one instruction
// sequence, and Guard tells what handles signals (internal/fault) where it lies and where to go on. It must not be preempted
// on the way, nor grow a stack, and it has no frame, so that the address where it goes on finds everything as it was.
package lines

// Size is the unit, in bytes and of the addresses, in which Flush and TryFlush write back.
const Size = 64

// Piece is the most that one call should be given, in bytes. Assembly is not preemptible: without a bound, the flush of a
// gigabyte would hold up the garbage collector for a tenth of a second.
const Piece = 256 << 10

// How says by which instruction lines are written back, and whether a fence follows: it is a method or, with ThenFence, both.
type How uint32

// ThenFence has a fence follow the last line.
const ThenFence How = 1

// The methods; see pmem for which CPU has which.
const (
	CLWB       How          = iota << 1 // amd64: may keep the line cached
	CLFLUSHOPT                          // amd64: evicts it
	CLFLUSH                             // amd64: evicts it, one after the other
	CVAP       = CLWB                   // arm64: to the point of persistence
	CVAC       = CLFLUSHOPT             // arm64: to the point of coherency
	None       = CLWB                   // other CPUs: nothing is written back
)

// Chosen is the method that package pmem has chosen. It is set before code of packages that import pmem runs.
var Chosen How
