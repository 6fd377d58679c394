//go:build amd64 || arm64

package fault

// The functions below are all that the signal entries call besides each other. sync/atomic and syscall are instrumented
// under -race, and the race detector must not be entered on a signal stack; hence own ones. All are sequentially
// consistent where it matters: loads acquire, stores release, the others are full barriers.

//go:noescape
func load32(p *uint32) uint32

//go:noescape
func load64(p *uint64) uint64

//go:noescape
func store32(p *uint32, v uint32)

//go:noescape
func store64(p *uint64, v uint64)

// add32 adds and returns the new value.
//
//go:noescape
func add32(p *uint32, delta uint32) uint32

// swap32 stores v and returns the old value.
//
//go:noescape
func swap32(p *uint32, v uint32) uint32

//go:noescape
func cas32(p *uint32, old, v uint32) bool

// pause tells the CPU that the caller polls memory.
func pause()

// systemCall enters the kernel without telling the Go scheduler. It returns what the kernel returns: -errno on failure.
func systemCall(number, a1, a2, a3, a4, a5, a6 uintptr) uintptr

// faultEntryAddress and breakEntryAddress are the addresses of the signal entries. (A Go reference to an assembly
// function would be the address of its ABI wrapper.)
func faultEntryAddress() uintptr
func breakEntryAddress() uintptr
