package medium

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/pmem"
)

// mapped is an area that is mapped from a file or device.
//
// Invariants: mem is mapped, shared, until close, and nil afterwards, so that a late call panics by its range check. In
// the page-cache domain every store that returned and is not covered by a good fdatasync has dirty set or an fdatasync
// under way that began after the store: stores set dirty only after they have stored, and Fence clears it before it
// syncs. (Set before the store, it could be cleared by another goroutine's Fence, whose fdatasync misses the store.)
// That goes for stores of an earlier owner, too, which everybody sees in the page cache: it is set at first.
type mapped struct {
	name     string // "meta" or "data": for errors
	mem      []byte
	file     *os.File // immutable, as are base and flags: where and how mem is mapped
	base     int64
	flags    int
	domain   Domain
	readOnly bool
	sync     func() error // fdatasync of the file; a field so that tests can make it fail
	bad      badBlocks

	dirty   atomic.Bool
	fenceMu sync.Mutex // held during fdatasync: who waits for it mostly finds the work done
	failed  error      // protected by fenceMu; set once
}

// mapArea maps n bytes of f at off, which the area keeps using. MAP_NORESERVE has no place here: shared mappings of files are never charged.
func mapArea(name string, f *os.File, off, n int64, d finding, readOnly bool) (*mapped, error) {
	if int64(int(n)) != n {
		return nil, fmt.Errorf("map %d bytes of %s: too large for the address space of this platform", n, f.Name())
	}
	a := &mapped{
		name: name, file: f, base: off, flags: d.mapFlags(), domain: d.domain, readOnly: readOnly,
		sync: func() error { return fdatasync(f) },
	}
	var err error
	if a.mem, err = unix.Mmap(int(f.Fd()), off, int(n), a.prot(), a.flags); err != nil {
		return nil, fmt.Errorf("map %d bytes of %s at offset %d: %w", n, f.Name(), off, err)
	}
	a.dirty.Store(d.domain == DomainPageCache && !readOnly)
	areas.add(a)
	return a, nil
}

// prot is how the area's memory is protected.
func (a *mapped) prot() int {
	if a.readOnly {
		return unix.PROT_READ
	}
	return unix.PROT_READ | unix.PROT_WRITE
}

func fdatasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (a *mapped) close() error {
	if a == nil || a.mem == nil {
		return nil
	}
	areas.remove(a)
	mem := a.mem
	a.mem = nil
	return unix.Munmap(mem)
}

func (a *mapped) Size() int64   { return int64(len(a.mem)) }
func (a *mapped) Bytes() []byte { return a.mem }

func (a *mapped) Read(off int64, p []byte) {
	checkRange("read", off, int64(len(p)), a.Size())
	a.refuse(off, int64(len(p)))
	copy(p, a.mem[off:])
}

// store checks a range that is about to be stored to, and returns it.
func (a *mapped) store(what string, off, n int64) []byte {
	if a.readOnly {
		panic("medium: " + what + " in an area that was opened read-only")
	}
	checkRange(what, off, n, a.Size())
	a.refuse(off, n)
	return a.mem[off : off+n]
}

func (a *mapped) Write(off int64, p []byte) {
	copy(a.store("write", off, int64(len(p))), p)
	a.stored()
}

func (a *mapped) Stream(off int64, p []byte) {
	dst := a.store("stream", off, int64(len(p)))
	if a.domain == DomainPageCache {
		copy(dst, p) // the kernel reads the bytes back soon: they may as well be in the caches
	} else {
		pmem.Copy(dst, p)
	}
	a.stored()
}

func (a *mapped) Zero(off, n int64) {
	dst := a.store("zero", off, n)
	if a.domain == DomainPageCache {
		clear(dst)
	} else {
		pmem.Zero(dst)
	}
	a.stored()
}

func (a *mapped) Copy(dst, src, n int64) {
	checkCopy(dst, src, n, a.Size())
	a.refuse(src, n)
	a.Stream(dst, a.mem[src:src+n])
}

// Flush of a page-cache area says that somebody has stored there: a program that maps the same bytes, perhaps, of
// which this area would not know.
func (a *mapped) Flush(off, n int64) {
	checkRange("flush", off, n, a.Size())
	a.refuse(off, n)
	switch a.domain {
	case DomainCPUCache: // the caches are durable already
	case DomainPageCache:
		a.stored()
	default:
		pmem.Flush(a.mem[off : off+n])
	}
}

func (a *mapped) stored() {
	// The load keeps the line shared among CPUs while it is set already, which is the common case.
	if a.domain == DomainPageCache && !a.dirty.Load() {
		a.dirty.Store(true)
	}
}

func (a *mapped) Fence() error {
	if a.domain != DomainPageCache {
		pmem.Fence()
		return nil
	}
	a.fenceMu.Lock()
	defer a.fenceMu.Unlock()
	if a.failed != nil || !a.dirty.Swap(false) {
		return a.failed
	}
	if err := a.sync(); err != nil {
		// The kernel reports a failed write-back once and then marks the pages clean: the next fdatasync would succeed
		// without them. So the area never claims durability again.
		a.failed = fmt.Errorf("fdatasync: %w (stores before it may be lost; the pool must be opened again)", err)
	}
	return a.failed
}
