//go:build amd64 || (arm64 && linux)

package lines

import "runtime"

// Fence executes SFENCE (amd64: earlier stores, streaming stores, CLWB and CLFLUSHOPT of this CPU come before later ones)
// or DSB SY (arm64: earlier loads, stores and cache maintenance of this CPU are complete before anything later starts).
//
//go:noescape
func Fence()

// Flush writes the lines of [p, p+n) back, n > 0, any alignment. On amd64, CLWB and CLFLUSHOPT are ordered only after stores
// to the same line, and by fences and locked instructions; CLFLUSH with other CLFLUSHes and with stores, too. On arm64 it
// comes after all stores that this CPU has made or seen, and waits for the lines, with ThenFence and without.
//
//go:noescape
func Flush(p *byte, n uintptr, how How)

// TryFlush is Flush, but when a line cannot be accessed it returns the line's address: what came before may have been written
// back, and there was no fence. Otherwise it returns 0. That takes a handler of signals that knows Guard; without one, and
// for faults that it resolves or leaves alone, TryFlush is as Flush.
//
//go:noescape
func TryFlush(p *byte, n uintptr, how How) (failed uintptr)

// addresses are those of the functions themselves. (A Go reference to an assembly function would be the address of its ABI
// wrapper.)
func addresses() (try, landing uintptr)

// Guard returns the exception table, which has one line: when an instruction at start <= pc < end faults, landing is where to
// go on, with all other registers as they were.
func Guard() (start, end, landing uintptr) {
	start, landing = addresses()
	for end = start; ; end++ {
		if f := runtime.FuncForPC(end); f == nil || f.Entry() != start {
			return start, end, landing
		}
	}
}
