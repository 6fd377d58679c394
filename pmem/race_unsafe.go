//go:build race

package pmem

import (
	"runtime"
	"unsafe"
)

// The race detector does not see the accesses of assembly. It ignores
// addresses outside the Go heap, so mapped memory may be given to it.

func raceRead(p unsafe.Pointer, n uintptr)  { runtime.RaceReadRange(p, int(n)) }
func raceWrite(p unsafe.Pointer, n uintptr) { runtime.RaceWriteRange(p, int(n)) }
