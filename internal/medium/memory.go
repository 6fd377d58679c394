package medium

// memory is an Area of plain Go memory. It is durable nowhere, so that Flush and Fence have nothing to do.
type memory []byte

// Memory returns an Area of size zero bytes in this process's own memory: for tests, and for checks that work on a
// copy. Nothing in it is durable.
func Memory(size int64) Area {
	return make(memory, size)
}

func (m memory) Size() int64   { return int64(len(m)) }
func (m memory) Bytes() []byte { return m }

func (m memory) Read(off int64, p []byte) {
	checkRange("read", off, int64(len(p)), m.Size())
	copy(p, m[off:])
}

func (m memory) Write(off int64, p []byte) {
	checkRange("write", off, int64(len(p)), m.Size())
	copy(m[off:], p)
}

func (m memory) Stream(off int64, p []byte) {
	checkRange("stream", off, int64(len(p)), m.Size())
	copy(m[off:], p)
}

func (m memory) Zero(off, n int64) {
	checkRange("zero", off, n, m.Size())
	clear(m[off : off+n])
}

func (m memory) Copy(dst, src, n int64) {
	checkCopy(dst, src, n, m.Size())
	copy(m[dst:dst+n], m[src:src+n])
}

func (m memory) Flush(off, n int64) {
	checkRange("flush", off, n, m.Size())
}

func (m memory) Fence() error { return nil }

func (m memory) FirstBad(int64, int64) int64 { return -1 }
func (m memory) Heal(int64, int64) error     { return nil }
