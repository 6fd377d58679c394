package medium

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// BadBlockError says that the medium does not give, or does not take, the bytes of a block. It matches EIO; ENOSPC where the
// file system that holds the pool has no room for a block that its sparse file lacks.
type BadBlockError struct {
	Area   string // "meta" or "data"
	Offset int64  // of the block in the area, bytes, a multiple of 4096
	Cause  error  // what the kernel says of it
}

func (e *BadBlockError) Error() string {
	return fmt.Sprintf("bad block at %s offset %#x: %v", e.Area, e.Offset, e.Cause)
}

func (e *BadBlockError) Unwrap() error { return e.Cause }

// Meta says that the block is in the meta area.
func (e *BadBlockError) Meta() bool { return e.Area == metaName }

// Guard calls f and turns an access to an area that the medium refuses into a *BadBlockError: the kernel answers such a
// load or store by SIGBUS, which would end the process. The block is remembered, so that nobody touches it again before it
// is healed. f is left at the access, so it must release locks by defer. Other panics go on. It concerns the calling
// goroutine only: those that f starts need a Guard of their own.
//
// Costs some tens of nanoseconds, and no system call.
func Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch v := recover().(type) {
		case nil:
		case *BadBlockError:
			err = v
		case interface{ Addr() uintptr }:
			a, off := areas.find(v.Addr())
			if a == nil {
				panic(v)
			}
			err = a.found(off)
		default:
			panic(v)
		}
	}()
	return f()
}

// areas knows the mapped areas of the process by address.
var areas mappedAreas

type mappedAreas struct {
	mu   sync.Mutex
	list []*mapped // protected by mu
}

func (m *mappedAreas) add(a *mapped) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, a)
}

func (m *mappedAreas) remove(a *mapped) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = slices.DeleteFunc(m.list, func(b *mapped) bool { return a == b })
}

func (m *mappedAreas) find(address uintptr) (a *mapped, off int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.list {
		if start := a.address(); start <= address && address-start < uintptr(len(a.mem)) {
			return a, int64(address - start)
		}
	}
	return nil, 0
}

// badBlocks is the blocks of an area that are known to be bad. It is volatile: who opens the pool next finds out anew.
type badBlocks struct {
	count atomic.Int64 // of them: where there are none nobody looks further
	mu    sync.Mutex
	cause map[int64]error // by number of the block; protected by mu
}

func (b *badBlocks) add(block int64, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause == nil {
		b.cause = map[int64]error{}
	}
	b.cause[block] = cause
	b.count.Store(int64(len(b.cause)))
}

func (b *badBlocks) remove(block int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.cause, block)
	b.count.Store(int64(len(b.cause)))
}

// in returns those of which a range has bytes, ascending.
func (b *badBlocks) in(off, n int64) (list []int64) {
	if n == 0 || b.count.Load() == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for block := range b.cause {
		if off/pageSize <= block && block <= (off+n-1)/pageSize {
			list = append(list, block)
		}
	}
	slices.Sort(list)
	return list
}

func (b *badBlocks) error(area string, block int64) *BadBlockError {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &BadBlockError{Area: area, Offset: block * pageSize, Cause: b.cause[block]}
}

// FirstBad is the offset of the first block of which a range has bytes and that is known to be bad; -1: there is none.
func (a *mapped) FirstBad(off, n int64) int64 {
	checkRange("look for bad blocks", off, n, a.Size())
	if list := a.bad.in(off, n); list != nil {
		return list[0] * pageSize
	}
	return -1
}

// refuse panics, for Guard, before an access to a block that is known to be bad.
func (a *mapped) refuse(off, n int64) {
	if list := a.bad.in(off, n); list != nil {
		panic(a.bad.error(a.name, list[0]))
	}
}

// found makes the error of an access that the kernel has refused, and remembers the block if it is bad.
func (a *mapped) found(off int64) error {
	block := off / pageSize
	err := &BadBlockError{Area: a.name, Offset: block * pageSize, Cause: a.ask(block * pageSize)}
	if !errors.Is(err, unix.ENOSPC) {
		a.bad.add(block, err.Cause)
	}
	return err
}

// ask asks the kernel why it has refused an access to a block. read(2) never raises a signal.
func (a *mapped) ask(off int64) error {
	n, err := unix.Pread(int(a.file.Fd()), make([]byte, pageSize), a.base+off)
	switch {
	case err != nil && !errors.Is(err, unix.EINVAL): // which device-DAX returns for any read
		return kind{fmt.Errorf("the medium has lost it (read: %w)", err), unix.EIO}
	case err == nil && n < pageSize:
		return kind{fmt.Errorf("%s ends before it: it was cut off", a.file.Name()), unix.EIO}
	case err == nil && isHole(a.file, a.base+off):
		return kind{fmt.Errorf("%s has a hole there, and its file system has no room for a block", a.file.Name()), unix.ENOSPC}
	}
	return kind{errors.New("the medium has lost it (SIGBUS)"), unix.EIO}
}

// isHole says whether a block of a file has never been stored to.
func isHole(f *os.File, off int64) bool {
	data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	return errors.Is(err, unix.ENXIO) || err == nil && data >= off+pageSize
}

// Heal makes those of the blocks of a range usable that are known to be bad: what they held is lost, they are zeros, durable
// after Fence. The range is whole blocks. Who else has such a block mapped must let go of it before and map it anew
// afterwards. An error is a *BadBlockError, and the block stays bad: where the medium cannot be healed from here.
//
// The kernel clears an error of the medium when all of the block is written by write(2), not by stores; memory that it has
// given up must be freed first.
func (a *mapped) Heal(off, n int64) error {
	checkRange("heal", off, n, a.Size())
	for _, block := range a.bad.in(off, n) {
		if err := a.heal(block * pageSize); err != nil {
			cause := kind{fmt.Errorf("it cannot be healed: %w", err), unix.EIO}
			return &BadBlockError{Area: a.name, Offset: block * pageSize, Cause: cause}
		}
		a.bad.remove(block)
		a.stored()
	}
	return nil
}

func (a *mapped) heal(off int64) error {
	st, err := a.file.Stat()
	switch {
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("device-DAX has no write(2): clear it by \"ndctl clear-errors\", with the pool closed (%w)", unix.EOPNOTSUPP)
	case st.Size() < a.base+off+pageSize: // to make it longer would turn what is lost before the block into zeros
		return fmt.Errorf("%s was cut off", a.file.Name())
	}
	if err := a.overwrite(off); err != nil {
		punched := unix.Fallocate(int(a.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, a.base+off, pageSize)
		if punched != nil {
			return err
		}
		if err := a.overwrite(off); err != nil {
			return err
		}
	}
	if err := a.remap(off); err != nil {
		return err
	}
	return Guard(func() error {
		touch(a.mem[off : off+pageSize])
		return nil
	})
}

// overwrite writes zeros to a block by write(2).
func (a *mapped) overwrite(off int64) error {
	n, err := unix.Pwrite(int(a.file.Fd()), make([]byte, pageSize), a.base+off)
	if err == nil && n < pageSize {
		err = unix.EIO
	}
	return err
}

// touch loads a word of each cache line.
//
//go:noinline
func touch(p []byte) (sum byte) {
	for i := 0; i < len(p); i += lineSize {
		sum += p[i]
	}
	return sum
}

// Readable returns a copy of a range of whole blocks, with zeros for those that are bad: for structures that the medium has
// twice. err is about the first bad one.
func Readable(a Area, off, n int64) (p []byte, err error) {
	p = make([]byte, n)
	for at := int64(0); at < n; at += pageSize {
		bad := Guard(func() error {
			a.Read(off+at, p[at:min(at+pageSize, n)])
			return nil
		})
		if err == nil {
			err = bad
		}
	}
	return p, err
}
