package pmemfs

import (
	"errors"
	"io/fs"
	"runtime/debug"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// Catch calls f and turns an access to a mapping that could not be resolved into an error: a *fs.PathError with the
// file's name around a [FaultError] with the offset and the reason. f is left at the access, so it must release locks
// by defer. Other panics go on. It concerns the calling goroutine only: those that f starts need a Catch of their
// own. It costs some ten nanoseconds.
func Catch(f func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer recoverAccess(&err)
	f()
	return nil
}

// recoverAccess, deferred, turns the panic of an access to a mapping into an error. Other panics go on.
func recoverAccess(err *error) {
	if v := recover(); v != nil {
		if *err = accessError(v); *err == nil {
			panic(v)
		}
	}
}

// accessError returns the error for a recovered access to a mapping, nil when it was something else.
func accessError(v any) error {
	e, ok := v.(interface{ Addr() uintptr })
	if !ok {
		return nil
	}
	address := e.Addr()
	m, retired := mapped.find(address)
	if m == nil {
		return nil
	}
	return &fs.PathError{Op: "access", Path: m.name, Err: m.accessError(address, retired)}
}

// accessError is the error of an access to an address of the mapping.
func (m *Mapping) accessError(address uintptr, retired bool) error {
	offset := int64(address - m.start())
	return &FaultError{Offset: m.off + offset, Reason: m.failure(offset, retired)}
}

// failure says why an access to a byte of the mapping has failed.
func (m *Mapping) failure(offset int64, retired bool) error {
	if retired {
		return ErrUnmapped
	}
	if m.fsys.space.isGone() {
		return ErrServerGone
	}
	_, code, _ := fault.Find(m.start() + uintptr(offset))
	if code == fault.CodeOK || code == fault.CodeIO {
		// The kernel has refused the access to a page that was granted, or the server has refused to grant it.
		_, err := m.fsys.call(&wire.Request{Op: wire.OpVerify, Handle: m.id, Offset: offset})
		if errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOSPC) {
			return err
		}
	}
	if m.fsys.space.session == nil && code != fault.CodeOK {
		return codeError(code)
	}
	// Nobody was asked for the page when it was accessed, or so many accesses have failed since that this is forgotten: ask now.
	if _, err := m.populatePages(offset/blockSize, 1); err != nil {
		return err
	}
	if m.readOnly {
		return codeError(fault.CodeAccess)
	}
	return &detailed{"the page was taken back for a moment", unix.EFAULT}
}

// codeError turns the code of a page fault into an error.
func codeError(code fault.Code) error {
	var errno error
	switch code {
	case fault.CodeOK:
		return nil
	case fault.CodeServerGone:
		return ErrServerGone
	case fault.CodeBeyondEnd:
		errno = unix.ENXIO
	case fault.CodeNoSpace:
		errno = unix.ENOSPC
	case fault.CodeAccess:
		errno = unix.EACCES
	case fault.CodeNoMemory:
		errno = unix.ENOMEM
	case fault.CodeBusy:
		errno = unix.EBUSY
	case fault.CodeLimit:
		errno = unix.EDQUOT
	default:
		errno = unix.EIO
	}
	return &detailed{code.String(), errno}
}

// mapped knows the mappings of the process by address, and for a while those that there were.
//
// Invariant: the live ones do not overlap each other; a retired one that overlaps a live one is forgotten.
var mapped mappedRanges

type mappedRanges struct {
	mu      sync.Mutex
	live    map[*Mapping]struct{} // protected by mu
	retired []*Mapping            // protected by mu; the last maxRetired
}

const maxRetired = 64

func (m *Mapping) start() uintptr { return m.region.Address() }

func (m *Mapping) contains(address uintptr) bool {
	return m.start() <= address && address-m.start() < uintptr(m.pages()*blockSize)
}

func (r *mappedRanges) add(m *Mapping) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live == nil {
		r.live = map[*Mapping]struct{}{}
	}
	r.live[m] = struct{}{}
	r.retired = slices.DeleteFunc(r.retired, func(old *Mapping) bool {
		return m.contains(old.start()) || old.contains(m.start())
	})
}

func (r *mappedRanges) retire(m *Mapping) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.live, m)
	if len(r.retired) == maxRetired {
		r.retired = slices.Delete(r.retired, 0, 1)
	}
	r.retired = append(r.retired, m)
}

func (r *mappedRanges) find(address uintptr) (m *Mapping, retired bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for m := range r.live {
		if m.contains(address) {
			return m, false
		}
	}
	for _, m := range slices.Backward(r.retired) {
		if m.contains(address) {
			return m, true
		}
	}
	return nil, false
}
