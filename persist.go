package pmemfs

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/lines"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// A mapping's way says by one load how its stores become durable: below wayFence, by the instruction that lines.How names,
// else
const (
	wayFence      uint32 = 1<<8 + iota // by a fence: caches are in the persistence domain
	waySystemCall                      // by msync: there is a page cache
	wayNone                            // not any more: it is unmapped. Set once, for good
	wayPowerCut   uint32 = 1 << 9      // added to the others: power cuts are emulated, and the server is told of each flush
)

// wayOfMedium is how it is until the mapping is unmapped.
func (m *Mapping) wayOfMedium() uint32 {
	way := uint32(lines.Chosen)
	switch m.granularity() {
	case Byte:
		way = wayFence
	case CacheLine:
	default:
		way = waySystemCall
	}
	if m.fsys.info.Medium.PowerCut {
		way |= wayPowerCut
	}
	return way
}

// Persist flushes the lines of a range and fences: with a Sync mapping its stores are durable on return. No system
// call. EOPNOTSUPP: the medium lies behind a page cache, where only [Mapping.Sync] makes stores durable. Pages of the
// range that are not granted are faulted in; a *FaultError says why that failed.
//
// It costs what [pmem.Persist] does: one flush of each line, one fence. This is all that stands between a program and its
// flush, and it must stay cheap.
func (m *Mapping) Persist(off, n int) error {
	if how, ok := m.piece(off, n); ok && lines.TryFlush(&m.data[off], uintptr(n), how|lines.ThenFence) == 0 {
		return nil
	}
	return m.flush("persist", off, n, lines.ThenFence)
}

// piece says how to flush a range, if that is all there is to do and one call does it. What that call fails at is done again
// by flush, for the error.
func (m *Mapping) piece(off, n int) (how lines.How, ok bool) {
	way := m.way.Load()
	return lines.How(way), way < wayFence && uint(n-1) < lines.Piece && off|(len(m.data)-n-off) >= 0
}

// Flush starts the write-back of the lines of a range; they are durable after the next Fence by the same goroutine,
// which must not have yielded its thread in between: no channel, lock, or system call. Errors are those of Persist.
func (m *Mapping) Flush(off, n int) error {
	if how, ok := m.piece(off, n); ok && lines.TryFlush(&m.data[off], uintptr(n), how) == 0 {
		return nil
	}
	return m.flush("flush", off, n, 0)
}

// flush is Flush, and with lines.ThenFence it is Persist. Where power cuts are emulated, what touches the memory is the
// same, and then the server, who cannot see it, is told.
func (m *Mapping) flush(op string, off, n int, fence lines.How) error {
	way := m.way.Load()
	p, err := m.part(off, n)
	if err == nil {
		err = m.flushPart(p, way&^wayPowerCut, fence)
	}
	if err == nil && way&wayPowerCut != 0 {
		err = m.tell(off, n, fence)
	}
	return pathError(op, m.name, err)
}

// flushPart flushes in pieces.
func (m *Mapping) flushPart(p []byte, way uint32, fence lines.How) error {
	if way == waySystemCall {
		return errPageCache
	}
	for ; way < wayFence && len(p) > 0; p = p[min(len(p), lines.Piece):] {
		if failed := lines.TryFlush(&p[0], uintptr(min(len(p), lines.Piece)), lines.How(way)); failed != 0 {
			return m.accessError(failed, m.way.Load() == wayNone)
		}
	}
	if fence != 0 {
		lines.Fence()
	}
	return nil
}

var errPageCache error = &detailed{"the medium lies behind a page cache: use Sync", unix.EOPNOTSUPP}

// Fence makes everything that was flushed before durable.
func (m *Mapping) Fence() {
	if m.way.Load()&wayPowerCut != 0 {
		m.tell(0, 0, lines.ThenFence) // an error: the power was cut, and the mapping is gone
	}
	lines.Fence()
}

// Sync makes the stores to a range durable, with the metadata that finds them, on every medium and with every kind of
// mapping. On byte-addressable media it flushes the lines, fences, and looks into the page in which the server says what
// is pending of each file: it makes no system call when nothing is, and one request when something is. Behind a page
// cache it is an msync(2) of the range, and a request for what is pending.
func (m *Mapping) Sync(off, n int) error {
	pageCache := m.way.Load()&^wayPowerCut == waySystemCall
	if !pageCache {
		if err := m.Persist(off, n); err != nil || m.fsys.settled(m.ino) {
			return err
		}
	}
	p, err := m.part(off, n)
	if err == nil && pageCache && n > 0 {
		err = m.writeBack(off, len(p))
	}
	if err == nil {
		_, err = m.fsys.call(&wire.Request{Op: wire.OpMapSync, Handle: m.id, Offset: int64(off), Length: int64(n)})
	}
	return pathError("sync", m.name, err)
}

// writeBack has the kernel write the dirty pages of a range to the medium.
func (m *Mapping) writeBack(off, n int) error {
	first := off / blockSize * blockSize
	end := min((off+n+blockSize-1)/blockSize*blockSize, len(m.region.Bytes()))
	return os.NewSyscallError("msync", unix.Msync(m.region.Bytes()[first:end], unix.MS_SYNC))
}
