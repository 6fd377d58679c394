//go:build arm64

package fault

import "unsafe"

// sigContext is the kernel's struct ucontext (arch/arm64/include/uapi/asm/sigcontext.h and asm-generic/ucontext.h).
type sigContext struct {
	_        [40]byte  // uc_flags, uc_link, uc_stack
	_        [128]byte // uc_sigmask and what is reserved for it to grow
	_        [8]byte   // the machine context is aligned to 16 bytes
	_        uint64    // fault address
	_        [31]uint64
	_        uint64  // sp
	pc       uintptr // of the instruction that faulted
	_        uint64  // pstate
	_        [8]byte // alignment of what follows
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
// of every fault. The records end with magic 0. Emulators of Linux may leave it out; then the instruction tells.
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
	return stores(**(**uint32)(unsafe.Pointer(&c.pc)))
}

// stores decodes a load or store of the A64 instruction set (Arm ARM, C4.1, "Loads and Stores"), and says whether it
// writes memory. ok is false for other instructions, but for DC ZVA, which zeroes a line.
//
//go:nosplit
//go:norace
//go:nocheckptr
func stores(instruction uint32) (write, ok bool) {
	const zeroLine, register = 0xd50b7420, 0x1f
	if instruction&^register == zeroLine {
		return true, true
	}
	if instruction>>25&0b0101 != 0b0100 {
		return false, false
	}
	vector, load, opc := instruction&(1<<26) != 0, instruction&(1<<22) != 0, instruction>>22&3
	offset := instruction&(1<<24) != 0 // within a class: the form with an offset
	switch instruction >> 28 & 3 {
	case 0: // exclusive, ordered, compare and swap; vector structures
		swaps := !vector && instruction&(1<<21) != 0 && (instruction&(1<<23) != 0 || instruction&(1<<31) == 0)
		return swaps || !load, true
	case 1: // literal, always loads; ordered with an offset
		return offset && opc == 0, true
	case 2: // pairs
		return !load, true
	}
	if !offset && instruction&(1<<21) != 0 && instruction>>10&3 == 0 { // atomic read and write, among which a load has been put: LDAPR
		return instruction>>12&0xf != 0b1100, true
	}
	return opc == 0 || (vector && opc == 2), true
}
