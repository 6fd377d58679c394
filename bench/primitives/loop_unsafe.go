package primitives

import (
	"fmt"
	"math/bits"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/pmem"
)

// loop is the same as libpmem.c's.
type loop struct {
	medium, source []byte
	random         uint64
}

func newLoop(medium []byte) (*loop, error) {
	const access, how = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANON | unix.MAP_POPULATE
	source, err := unix.Mmap(-1, 0, sourceSize, access, how)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", sourceSize, err)
	}
	for i := range source {
		source[i] = 'p'
	}
	return &loop{medium, source, 88172645463325252}, nil
}

func (l *loop) run(o operation, n int) (time.Duration, error) {
	do := l.persist
	if o.name == "copy" {
		do = l.copy
	}
	step := (o.size + pmem.LineSize - 1) / pmem.LineSize * pmem.LineSize
	places := uint64(o.region / step)
	start := time.Now()
	for i := range n {
		l.random ^= l.random << 13
		l.random ^= l.random >> 7
		l.random ^= l.random << 17
		place, _ := bits.Mul64(l.random, places)
		at := int(place) * step
		do(l.medium[at:at+o.size], uint64(i))
	}
	return time.Since(start), nil
}

func (l *loop) persist(p []byte, v uint64) {
	b := unsafe.Pointer(unsafe.SliceData(p))
	for i := 0; i < len(p); i += pmem.LineSize {
		*(*uint64)(unsafe.Add(b, i)) = v
	}
	pmem.Persist(p)
}

func (l *loop) copy(p []byte, _ uint64) {
	pmem.Copy(p, l.source)
	pmem.Fence()
}
