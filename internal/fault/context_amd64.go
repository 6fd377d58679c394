package fault

// sigContext is the kernel's struct ucontext (arch/x86/include/asm/sigcontext.h) up to the last word needed here.
type sigContext struct {
	_         [40]byte   // uc_flags, uc_link, uc_stack
	_         [16]uint64 // r8 to r15, di, si, bp, bx, dx, ax, cx, sp
	pc        uintptr    // of the instruction that faulted
	_         [2]uint64  // flags, segments
	errorCode uint64     // pushed by the CPU, see the PF bits
	trap      uint64     // exception number
}

const (
	trapPageFault = 14
	pfWrite       = 1 << 1 // the access was a store
	pfInstruction = 1 << 4 // the access was an instruction fetch
)

// dataFault says whether the context is of a load or store that faulted, and whether it was a store.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (c *sigContext) dataFault() (write, ok bool) {
	return c.errorCode&pfWrite != 0, c.trap == trapPageFault && c.errorCode&pfInstruction == 0
}
