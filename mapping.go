package pmemfs

import (
	"fmt"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
	"github.com/pmemfs/pmemfs/pmem"
)

// MapFlags say what a mapping promises. Flags that a pool does not support are refused, never ignored.
type MapFlags uint32

const (
	// Shared maps the file; stores are seen at once by everybody who maps or reads it, and are durable after
	// [Mapping.Sync].
	Shared MapFlags = 1 << iota
	// Sync maps the file so that the metadata that finds a block is durable before the first store to the block
	// is allowed: stores are durable after [Mapping.Persist], without a system call. It needs a server and a
	// byte-addressable medium, and includes Shared.
	Sync
	// Direct maps the file and seals its block map for as long as the mapping lives.
	Direct
	// Unchecked maps the file and leaves the metadata to the program.
	Unchecked
	// Populate has every page of the mapping granted before Map returns, so that no access faults, except
	// those that were taken back meanwhile. Pages beyond the end of the file are left out.
	Populate
	// ReadOnly maps the file for loads only. The file need not be open for writing.
	ReadOnly

	knownMapFlags = 1<<iota - 1
)

var mapFlagNames = []string{"Shared", "Sync", "Direct", "Unchecked", "Populate", "ReadOnly"}

// String returns the names of the flags, joined by "|".
func (m MapFlags) String() string {
	var names []string
	for i, name := range mapFlagNames {
		if m&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if rest := m &^ knownMapFlags; rest != 0 {
		names = append(names, fmt.Sprintf("%#x", uint32(rest)))
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, "|")
}

// MarshalText makes the flags' names their JSON form.
func (m MapFlags) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// addressSpace is where the mappings of an FS live: page faults resolved by a server, or none when embedded.
type addressSpace interface {
	// reserve takes an address range without access. length is a multiple of blockSize.
	reserve(length int64) (region, error)
	// close takes every access away and ends the address space.
	close()
}

// region is the address range of one mapping.
type region interface {
	address() uint64
	bytes() []byte
	// activate lets faults in the range be sent as faults of mapping id.
	activate(id uint32)
	// mapRun maps a granted run.
	mapRun(wire.Run) error
	// reason says why the last access to page failed.
	reason(page int64) error
	// release gives the range back; the server must have forgotten the mapping.
	release() error
}

// Mapping is a range of a file in the memory of this process. Methods may be called from several goroutines at once,
// but none while Unmap runs. Offsets and lengths are bytes in the mapping and need no alignment; a range outside
// the mapping is refused with EINVAL.
type Mapping struct {
	fsys     *FS
	name     string
	off      int64 // byte of the file where the mapping begins
	id       uint32
	flags    MapFlags
	region   region
	data     []byte
	unmapped atomic.Bool
}

// Map maps n bytes of the file from byte off on, which must be a multiple of 4096; n need not be. One of Shared,
// Sync, Direct and Unchecked must be given; they need the file open for reading and writing, or for reading with
// ReadOnly. EOPNOTSUPP: a flag is not supported here; the error names it and those that are, and nothing has
// changed. The range may go beyond the end of the file; an access there fails, see [Catch].
//
// A system call that is handed a page of the mapping that is not granted fails with EFAULT, because the kernel
// sends no signal there: see [Mapping.Pin]. File's own Read and Write have no such limit.
func (f *File) Map(off int64, n int, flags MapFlags) (*Mapping, error) {
	return nil, pathError("map", f.name, unix.EOPNOTSUPP)
}

// Bytes returns the mapped memory. An access that cannot be resolved panics or, without debug.SetPanicOnFault, ends
// the program: see [Catch]. After Unmap every access fails so.
func (m *Mapping) Bytes() []byte { return m.data }

func (m *Mapping) do(op string, off, n int, f func(p []byte) error) error {
	err := error(ErrUnmapped)
	if !m.unmapped.Load() {
		if off < 0 || n < 0 || off > len(m.data)-n {
			err = &detailed{fmt.Sprintf("range %d+%d is outside the mapping of %d bytes", off, n, len(m.data)), unix.EINVAL}
		} else {
			err = f(m.data[off : off+n])
		}
	}
	return pathError(op, m.name, err)
}

// Persist flushes the lines of a range and fences: with a Sync mapping its stores are durable on return. No system
// call. EOPNOTSUPP: the medium lies behind a page cache, where only [Mapping.Sync] makes stores durable.
func (m *Mapping) Persist(off, n int) error {
	return m.do("persist", off, n, func(p []byte) error { pmem.Persist(p); return nil })
}

// Flush starts the write-back of the lines of a range; they are durable after the next Fence by the same goroutine.
func (m *Mapping) Flush(off, n int) error {
	return m.do("flush", off, n, func(p []byte) error { pmem.Flush(p); return nil })
}

// Fence makes everything flushed before durable.
func (m *Mapping) Fence() { pmem.Fence() }

// Sync makes the stores to a range durable, with the metadata that finds them, on every medium and with every kind
// of mapping.
func (m *Mapping) Sync(off, n int) error {
	return m.do("sync", off, n, func(p []byte) error { return unix.EOPNOTSUPP })
}

// Populate has every page of a range granted for loads and stores (loads only with ReadOnly), so that accesses
// do not fault until a grant is taken back. Holes are allocated. ENXIO: the range reaches beyond the file's end.
func (m *Mapping) Populate(off, n int) error {
	return m.do("populate", off, n, func(p []byte) error { return unix.EOPNOTSUPP })
}

// Pin populates a range and keeps its grants until unpin is called: meanwhile operations that would take them
// back fail with [ErrSealed], in every process. It is meant for the time of a system call or a transfer that is
// handed the memory. Pins do not outlive the mapping.
func (m *Mapping) Pin(off, n int) (unpin func(), err error) {
	return nil, pathError("pin", m.name, unix.EOPNOTSUPP)
}

// Unmap ends the mapping. Nothing is made durable by it.
func (m *Mapping) Unmap() error {
	return pathError("unmap", m.name, unix.EOPNOTSUPP)
}

// Catch calls f and turns an access to a mapping that could not be resolved into an error: a *fs.PathError with the
// file's name around a [FaultError] with the offset and the reason. Other panics go on. f is left at the access;
// it must not hold locks that it does not release by defer.
func Catch(f func()) error { f(); return nil }
