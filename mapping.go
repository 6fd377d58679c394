package pmemfs

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// MapFlags say what a mapping promises. Flags that a pool does not support are refused, never ignored.
type MapFlags uint32

// One of Shared, Sync, Direct and Unchecked says what kind of mapping it is; Shared may stand beside each of the others, which
// include it. docs/guarantees.md compares them, operation by operation.
const (
	// Shared maps the file; stores are seen at once by everybody who maps or reads it, and are durable after
	// [Mapping.Sync]. Nothing is refused on its account, and everything that it was granted may be broken.
	Shared MapFlags = wire.MapShared
	// Sync maps the file so that the metadata that finds a block is durable before the first store to the block
	// is allowed: stores are durable after [Mapping.Persist], without a system call. Nothing is refused on its
	// account, and everything may be broken: the next access faults again. It needs a server and a
	// byte-addressable medium. See MAP_SYNC in mmap(2).
	Sync MapFlags = wire.MapSync
	// Direct maps the file and seals the blocks of the range: as long as the mapping lives they are neither moved,
	// freed nor shared. All of it is granted by Map, no access ever faults, and stores are durable after
	// [Mapping.Persist]. Operations that would change where these blocks lie, or cut the file below the mapping's
	// end, fail with [ErrSealed], in every process; the unit is the block of 4096 bytes. Everything else goes on:
	// appends, writes in place, operations on other blocks of the file, rename, chmod, remove (the blocks live on
	// until Unmap). A seal is never on the medium: it ends with Unmap or with the process.
	//
	// It needs the capability CAP_LINUX_IMMUTABLE, membership in a group that the server was given, or a handle
	// flagged by [File.AllowDirect]: EPERM; and a byte-addressable medium. The range must lie inside the file
	// (ENXIO), and each of its blocks must be written and belong to no other file: an [UnfilledError] has the first
	// that is not. With Populate, and the file open for writing, they are filled first; see also [File.Fill].
	Direct MapFlags = wire.MapDirect
	// Unchecked maps the file for a program that knows what it does: it is Shared, but the program flushes its
	// stores by [Mapping.Persist] and vouches for the metadata. What it has persisted is durable if the metadata
	// that finds the block was, because the program has filled the range and synced the file before ([File.Fill],
	// [File.Sync]); nobody checks that. Nothing is refused on its account, and everything may be broken. It needs
	// neither server nor capability, but a byte-addressable medium.
	Unchecked MapFlags = wire.MapUnchecked
	// Populate has every page of the mapping granted before Map returns, holes filled, so that no access faults,
	// except those that were taken back meanwhile; with Sync that is the latency of Direct without its refusals.
	// Pages beyond the end of the file are left out.
	Populate MapFlags = wire.MapPopulate
	// ReadOnly maps the file for loads only. The file need not be open for writing.
	ReadOnly MapFlags = wire.MapReadOnly
)

var mapFlagNames = []string{"Shared", "Sync", "Direct", "Unchecked", "Populate", "ReadOnly"}

// String returns the names of the flags, joined by "|".
func (f MapFlags) String() string {
	var names []string
	for i, name := range mapFlagNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if rest := f &^ wire.MapAll; rest != 0 {
		names = append(names, fmt.Sprintf("%#x", uint32(rest)))
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, "|")
}

// MarshalText makes the flags' names their JSON form.
func (f MapFlags) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText is the inverse of MarshalText, for flags that have names.
func (f *MapFlags) UnmarshalText(text []byte) error {
	*f = 0
	if string(text) == "none" {
		return nil
	}
next:
	for word := range strings.SplitSeq(string(text), "|") {
		for i, name := range mapFlagNames {
			if word == name {
				*f |= 1 << i
				continue next
			}
		}
		return fmt.Errorf("unknown map flag %q", word)
	}
	return nil
}

// Mapping is a range of a file in the memory of this process. Methods may be called from several goroutines at once,
// but none while Unmap runs. Offsets and lengths are bytes in the mapping and need no alignment; a range outside
// the mapping is refused with EINVAL.
//
// # Without a server
//
// In an embedded pool nobody resolves page faults: a mapping is populated when it is made. Operations of this process
// that move or replace its blocks take the pages away for a moment and give them back before they return, holes in a
// writable mapping allocated again; an access in that moment fails, as does one to pages that the file gained after
// it was mapped, until Populate is called for them.
type Mapping struct {
	fsys     *FS
	name     string
	off      int64 // byte of the file where the mapping begins
	id       uint32
	ino      uint64
	flags    MapFlags
	readOnly bool
	region   *fault.Range
	data     []byte // the region's first bytes
	unmap    sync.Once
	way      atomic.Uint32 // how stores become durable, see there
}

// Map maps n bytes of the file from byte off on, which must be a multiple of 4096; n need not be. One kind of mapping
// must be given; it needs the file open for reading and writing, or for reading with ReadOnly: EBADF. The mapping
// lives on when the file is closed, removed or renamed. EOPNOTSUPP: a flag is not supported here; the error names it
// and those that are, and nothing has changed. EINVAL: the flags contradict each other. EMFILE, EDQUOT: this process
// has as many mappings, or as much sealed, as the server allows. The range may go beyond the end of the file, but for
// Direct; an access there fails, see [Catch].
//
// A system call that is handed a page of the mapping that is not granted fails with EFAULT, because the kernel
// sends no signal there: see [Mapping.Pin]. File's own Read and Write have no such limit.
//
// The first Map of a process puts handlers for SIGSEGV, SIGBUS and one real-time signal in place, before those of the
// Go runtime, which they hand all other signals to.
func (f *File) Map(off int64, n int, flags MapFlags) (*Mapping, error) {
	m, err := f.mapRange(off, n, flags)
	return m, pathError("map", f.name, err)
}

func (f *File) mapRange(off int64, n int, flags MapFlags) (*Mapping, error) {
	if err := f.fsys.checkMapFlags(flags); err != nil {
		return nil, err
	}
	m, err := f.mapAs("map", &wire.Request{Op: wire.OpMap, Offset: off, Length: int64(n), Flags: uint32(flags)}, flags)
	if err != nil {
		return nil, err
	}
	if flags&(Populate|Direct) != 0 || f.fsys.space.session != nil {
		_, err := m.populatePages(0, m.pages())
		if err != nil && (flags&Direct != 0 || !errors.Is(err, unix.ENXIO)) {
			return nil, errors.Join(err, m.Unmap())
		}
	}
	if flags&(Populate|Direct) != 0 {
		m.prefault()
	}
	return m, nil
}

// mapAs maps what a request, which lacks the address, asks for. op is what errors call it.
func (f *File) mapAs(op string, q *wire.Request, flags MapFlags) (*Mapping, error) {
	if q.Length <= 0 {
		return nil, &detailed{fmt.Sprintf("a mapping of %d bytes", q.Length), unix.EINVAL}
	}
	if f.closed.Load() || f.fsys.closed.Load() {
		return nil, fs.ErrClosed
	}
	if err := f.fsys.hold(); err != nil { // released by Unmap
		return nil, err
	}
	region, err := f.fsys.space.reserve(q.Length)
	if err != nil {
		return nil, errors.Join(err, f.fsys.release())
	}
	q.Address = uint64(region.Address())
	r, err := f.call(op, q)
	if err != nil {
		return nil, errors.Join(err, region.Release(), f.fsys.release())
	}
	m := &Mapping{
		fsys: f.fsys, name: f.name, off: q.Offset, id: r.Handle, ino: f.ino, flags: flags, readOnly: flags&ReadOnly != 0,
		region: region, data: region.Bytes()[:q.Length:q.Length],
	}
	m.way.Store(m.wayOfMedium())
	region.Activate(m.id)
	f.fsys.space.add(m)
	mapped.add(m)
	if f.fsys.closed.Load() {
		return nil, errors.Join(fs.ErrClosed, m.Unmap())
	}
	return m, nil
}

// prefault has the kernel fill its page tables now, so that not even the first access to a page goes through it. Where it
// cannot, the first accesses are slower, and nothing else; behind a page cache it would read and dirty all of the range.
func (m *Mapping) prefault() {
	if m.granularity() > CacheLine {
		return
	}
	how := unix.MADV_POPULATE_WRITE
	if m.readOnly {
		how = unix.MADV_POPULATE_READ
	}
	unix.Madvise(m.region.Bytes(), how)
}

// checkMapFlags refuses what is unknown or unsupported here, and says why where there is more to say.
func (fsys *FS) checkMapFlags(flags MapFlags) error {
	mask := fsys.MapMask()
	refused := flags &^ mask
	if refused == 0 {
		return nil
	}
	text := fmt.Sprintf("map flags %v are not supported here, %v are", refused, mask)
	switch med := &fsys.info.Medium; {
	case mask == 0:
		text += fmt.Sprintf(": %s can only be mapped in units of %d bytes", med.Path, med.Alignment)
	case refused&Sync != 0 && fsys.space.session != nil:
		text += ": Sync needs a server, which resolves page faults"
	case refused&(Sync|Direct|Unchecked) != 0:
		text += fmt.Sprintf(": %v needs byte-addressable memory; %s is a %s medium (persistence domain %v), "+
			"where stores become durable by a system call: use Shared and Mapping.Sync (for development, pmemfs serve "+
			"--assume-persistent and AssumePersistent treat it as memory)", refused&(Sync|Direct|Unchecked), med.Path, med.Kind, med.Domain)
	}
	return &detailed{text, unix.EOPNOTSUPP}
}

// Bytes returns the mapped memory. An access that cannot be resolved panics or, without debug.SetPanicOnFault, ends
// the program: see [Catch]. It must not be used after Unmap: the addresses may be given to other memory.
func (m *Mapping) Bytes() []byte { return m.data }

func (m *Mapping) pages() int64 { return (int64(len(m.data)) + blockSize - 1) / blockSize }

// part returns a range of the mapping.
func (m *Mapping) part(off, n int) ([]byte, error) {
	switch {
	case m.way.Load() == wayNone:
		return nil, ErrUnmapped
	case off < 0 || n < 0 || off > len(m.data)-n:
		return nil, &detailed{fmt.Sprintf("range of %d bytes at %d in a mapping of %d", n, off, len(m.data)), unix.EINVAL}
	}
	return m.data[off : off+n], nil
}

// granularity is that of the medium.
func (m *Mapping) granularity() Granularity { return Granularity(m.fsys.hello.Granularity) }

// Advise changes what kind of mapping it is, from Shared to Sync or back, in the manner of madvise(2); what was granted
// stays granted. When it has become Sync, everything that was stored to it before is durable once it is flushed, as with
// a mapping that was made so. EOPNOTSUPP: Sync is not supported here; EINVAL: kind is another one, or the mapping is
// Direct or Unchecked, which it stays.
func (m *Mapping) Advise(kind MapFlags) error {
	err := m.fsys.checkMapFlags(kind)
	if err == nil {
		_, err = m.part(0, 0)
	}
	if err == nil {
		_, err = m.fsys.call(&wire.Request{Op: wire.OpAdvise, Handle: m.id, Flags: uint32(kind)})
	}
	return pathError("advise", m.name, err)
}

// Populate has every page of a range granted for loads and stores (loads only with ReadOnly), so that accesses
// do not fault until a grant is taken back. Holes are allocated. ENXIO: the range reaches beyond the file's end;
// ENOSPC: a hole could not be filled. Pages before that are granted.
func (m *Mapping) Populate(off, n int) error {
	_, err := m.part(off, n)
	if err == nil {
		err = m.populate(off, n)
	}
	return pathError("populate", m.name, err)
}

func (m *Mapping) populate(off, n int) error {
	if n == 0 {
		return nil
	}
	first := int64(off) / blockSize
	end := (int64(off) + int64(n) + blockSize - 1) / blockSize
	done, err := m.populatePages(first, end-first)
	if err != nil {
		return &FaultError{Offset: m.off + (first+done)*blockSize, Reason: err}
	}
	return nil
}

// populatePages has pages granted and mapped, and returns how many are before the first that cannot be.
func (m *Mapping) populatePages(first, count int64) (int64, error) {
	if s := m.fsys.space.session; s != nil {
		if m.fsys.space.isGone() {
			return 0, ErrServerGone // the power was cut
		}
		return s.Populate(m.id, first, count, !m.readOnly, m.region.MapRun)
	}
	done, code := m.region.Populate(first, count, !m.readOnly)
	return done, codeError(code)
}

// Pin fills and populates a range (of a ReadOnly mapping it shows holes as zeros) and keeps its grants until unpin is
// called: meanwhile operations that would take them back fail with [ErrSealed], in every process. It is meant for the time
// of a system call or a transfer that is handed the memory, and needs no privilege; how much a process may have pinned is
// limited by the server: EDQUOT. A range may be pinned several times over. Pins do not outlive the mapping; unpin may be
// called after Unmap, and more than once. ENXIO: the range reaches beyond the end of the file.
func (m *Mapping) Pin(off, n int) (unpin func(), err error) {
	_, err = m.part(off, n)
	if err == nil {
		unpin, err = m.pin(off, n)
	}
	return unpin, pathError("pin", m.name, err)
}

func (m *Mapping) pin(off, n int) (unpin func(), err error) {
	r, err := m.fsys.call(&wire.Request{Op: wire.OpPin, Handle: m.id, Offset: int64(off), Length: int64(n)})
	if err != nil {
		return nil, err
	}
	unpin = sync.OnceFunc(func() {
		// An error would say that the mapping, and the pin with it, is gone.
		m.fsys.call(&wire.Request{Op: wire.OpUnpin, Handle: m.id, Flags: r.Handle})
	})
	// What is granted under the pin stays.
	if err := m.populate(off, n); err != nil {
		unpin()
		return nil, err
	}
	return unpin, nil
}

// Unmap ends the mapping and gives its addresses back. Nothing is made durable by it. Further calls do nothing.
func (m *Mapping) Unmap() error {
	var err error
	m.unmap.Do(func() { err = m.end() })
	return pathError("unmap", m.name, err)
}

// end makes the range inaccessible, then tells the server, which forgets what it has granted and lets no break of it be
// under way any more, and only then gives the addresses back: a break could hit what is mapped there next.
func (m *Mapping) end() error {
	m.way.Store(wayNone)
	err := m.region.Retire()
	if !m.fsys.space.isGone() {
		_, callErr := m.fsys.call(&wire.Request{Op: wire.OpUnmap, Handle: m.id})
		if !errors.Is(callErr, ErrServerGone) {
			err = errors.Join(err, callErr)
		}
	}
	m.fsys.space.remove(m)
	mapped.retire(m)
	return errors.Join(err, m.region.Release(), m.fsys.release())
}
