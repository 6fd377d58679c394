//go:build race

package pmem

import (
	"runtime"
	"unsafe"
)

// The race detector does not see the accesses of assembly. It ignores
// addresses outside the Go heap, so mapped memory may be given to it. Its functions
// are not go:noescape, hence hide.

func raceRead(p unsafe.Pointer, n uintptr)  { runtime.RaceReadRange(hide(p), int(n)) }
func raceWrite(p unsafe.Pointer, n uintptr) { runtime.RaceWriteRange(hide(p), int(n)) }
