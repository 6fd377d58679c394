package fault

// sigContext is the kernel's struct ucontext (arch/arm64/include/uapi/asm/sigcontext.h and asm-generic/ucontext.h).
type sigContext struct {
	_        [40]byte  // uc_flags, uc_link, uc_stack
	_        [128]byte // uc_sigmask and what is reserved for it to grow
	_        [8]byte   // the machine context is aligned to 16 bytes
	_        uint64    // fault address
	_        [31]uint64
	_        [2]uint64 // sp, pc
	_        uint64    // pstate
	_        [8]byte   // alignment of what follows
	reserved [512]uint64
}

const (
	esrMagic         = 0x45535201
	esrClassShift    = 26
	esrClassMask     = 0x3f
	esrDataAbortUser = 0x24
	esrWriteNotRead  = 1 << 6 // WnR
	esrCacheMaint    = 1 << 8 // CM: a cache maintenance instruction, for which WnR is always set
)

// dataFault says whether the context is of a load or store that faulted, and whether it was a store: from the exception
// syndrome, which the kernel puts as one of several records {magic, size uint32} into the reserved area of the context
// of every fault. The records end with magic 0.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (c *sigContext) dataFault() (write, ok bool) {
	i := uint64(0)
	for i < uint64(len(c.reserved))-1 {
		magic, size := uint32(c.reserved[i]), uint32(c.reserved[i]>>32)
		if magic == esrMagic {
			esr := c.reserved[i+1]
			ok = esr>>esrClassShift&esrClassMask == esrDataAbortUser
			return esr&esrWriteNotRead != 0 && esr&esrCacheMaint == 0, ok
		}
		if magic == 0 || size < 8 {
			break
		}
		i += uint64(size / 8)
	}
	return false, false
}
