package pmem

// emulated reports whether QEMU translates this code (TCG): it takes flush
// instructions for nothing, so they do not fault.
func emulated() bool {
	const hypervisorLeaf, tcgt = 0x40000000, 'T' | 'C'<<8 | 'G'<<16 | 'T'<<24
	_, ebx, _, _ := cpuid(hypervisorLeaf, 0)
	return ebx == tcgt
}
