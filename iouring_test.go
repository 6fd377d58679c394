package pmemfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

// A device reads a sealed mapping by itself: it is registered with io_uring once, and from then on no system call looks up,
// pins or copies anything. The seal is what makes that right: nobody can give the blocks to another file meanwhile.
func Example_ioUring() {
	fsys, err := pmemfs.Dial("/run/pmemfs/pool.sock")
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()
	f, err := fsys.OpenFile("table", os.O_RDWR, 0)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	m, err := f.Map(0, 64<<20, pmemfs.Direct|pmemfs.Populate)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Unmap() // after everything that the device does: see the order of these calls

	target, err := os.OpenFile("/backup/table", os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o600)
	if err != nil {
		log.Fatal(err)
	}
	defer target.Close()
	r, err := newRing(m.Bytes())
	if err != nil {
		log.Fatal(err)
	}
	defer r.close()
	if err := r.transfer(opWriteFixed, target, len(m.Bytes())); err != nil {
		log.Fatal(err)
	}
}

// Where a sealed mapping lies on the medium.
func ExampleMapping_Extents() {
	fsys, err := pmemfs.Dial("/run/pmemfs/pool.sock")
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()
	f, err := fsys.OpenFile("table", os.O_RDWR, 0)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	m, err := f.Map(0, 64<<20, pmemfs.Direct|pmemfs.Populate)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Unmap()
	extents, err := m.Extents()
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range extents {
		fmt.Printf("%d bytes from %d on: at byte %d of %s\n", e.Length, e.Offset, e.DeviceOffset, fsys.Info().Medium.Path)
	}
}

// ring is an io_uring with one registered buffer: see io_uring(7). It is used by one goroutine.
type ring struct {
	fd          int
	rings, sqes []byte
	buffer      []byte
	params      ringParams
	toSubmit    uint32
}

// ringParams is struct io_uring_params.
type ringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFd uint32
	_                                                                      [3]uint32
	sq                                                                     struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

// submission is struct io_uring_sqe, completion struct io_uring_cqe.
type (
	submission struct {
		opcode, flags   uint8
		ioprio          uint16
		fd              int32
		offset, address uint64
		length, rwFlags uint32
		userData        uint64
		buffer          uint16
		personality     uint16
		_               int32
		_               [2]uint64
	}
	completion struct {
		userData uint64
		result   int32
		flags    uint32
	}
)

const (
	opReadFixed  = 4
	opWriteFixed = 5

	registerBuffers   = 0
	unregisterBuffers = 1
	enterGetEvents    = 1

	offsetRings = 0
	offsetSqes  = 0x10000000
)

// newRing makes a ring and registers the memory. The kernel pins its pages for as long as it is registered, for reading and
// writing: the mapping must be writable.
func newRing(buffer []byte) (*ring, error) {
	r := &ring{buffer: buffer}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&r.params)), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("io_uring_setup", errno)
	}
	r.fd = int(fd)
	size := max(r.params.sq.array+r.params.sqEntries*4, r.params.cq.cqes+r.params.cqEntries*uint32(unsafe.Sizeof(completion{})))
	var err error
	if r.rings, err = unix.Mmap(r.fd, offsetRings, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		r.sqes, err = unix.Mmap(r.fd, offsetSqes, int(r.params.sqEntries)*int(unsafe.Sizeof(submission{})),
			unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err == nil {
		list := unix.Iovec{Base: &buffer[0]}
		list.SetLen(len(buffer))
		err = r.register(registerBuffers, unsafe.Pointer(&list), 1)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(r.fd))
	}
	return r, nil
}

func (r *ring) register(what uintptr, list unsafe.Pointer, n uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), what, uintptr(list), n, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("io_uring_register", errno)
	}
	return nil
}

// close unregisters the buffer, and only then may it be unmapped. Closing the descriptor alone would let go of it some time
// later.
func (r *ring) close() error {
	return errors.Join(r.register(unregisterBuffers, nil, 0), unix.Munmap(r.sqes), unix.Munmap(r.rings), unix.Close(r.fd))
}

func (r *ring) word(at uint32) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&r.rings[at])) }

// transferUnit is what one request moves.
const transferUnit = 1 << 20

// transfer moves the first n bytes of the buffer to the beginning of a file, or from there, as many requests at a time as the
// ring has room for.
func (r *ring) transfer(op uint8, file *os.File, n int) error {
	for at := 0; at < n; {
		first := at
		for count := uint32(0); count < r.params.sqEntries && at < n; count++ {
			part := min(transferUnit, n-at)
			r.queue(submission{
				opcode: op, fd: int32(file.Fd()), offset: uint64(at), address: uint64(uintptr(unsafe.Pointer(&r.buffer[at]))),
				length: uint32(part), userData: uint64(part),
			})
			at += part
		}
		if err := r.wait(); err != nil {
			return fmt.Errorf("between %d and %d: %w", first, at, err)
		}
	}
	return nil
}

// queue puts a request into the ring, which has room.
func (r *ring) queue(s submission) {
	tail := r.word(r.params.sq.tail)
	slot := tail.Load() & r.word(r.params.sq.mask).Load()
	*(*submission)(unsafe.Pointer(&r.sqes[uintptr(slot)*unsafe.Sizeof(s)])) = s
	r.word(r.params.sq.array + slot*4).Store(slot)
	tail.Add(1)
	r.toSubmit++
}

// wait submits what is queued and waits until all of it is over, whatever becomes of it: memory that a device may still write
// to must not be let go of.
func (r *ring) wait() error {
	var failed error
	for pending := r.toSubmit; pending > 0; {
		submitted, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.toSubmit), 1, enterGetEvents, 0, 0)
		if errno != 0 && errno != unix.EINTR && errno != unix.EAGAIN && errno != unix.EBUSY {
			return os.NewSyscallError("io_uring_enter", errno)
		}
		if errno == 0 {
			r.toSubmit -= uint32(submitted)
		}
		head := r.word(r.params.cq.head)
		for ; head.Load() != r.word(r.params.cq.tail).Load(); head.Add(1) {
			slot := head.Load() & r.word(r.params.cq.mask).Load()
			c := (*completion)(unsafe.Pointer(&r.rings[r.params.cq.cqes+slot*uint32(unsafe.Sizeof(completion{}))]))
			pending--
			switch {
			case c.result < 0:
				failed = unix.Errno(-c.result)
			case uint64(c.result) != c.userData:
				failed = io.ErrUnexpectedEOF
			}
		}
	}
	return failed
}

// mapDirect seals a whole file.
func mapDirect(t *testing.T, f *pmemfs.File, n int) *pmemfs.Mapping {
	t.Helper()
	m, err := f.Map(0, n, pmemfs.Direct|pmemfs.Populate)
	if errors.Is(err, unix.EPERM) {
		t.Skipf("NOT TESTED: %v: run the tests as root", err)
	}
	must(t, err)
	return m
}

// A sealed mapping is a fixed buffer of io_uring: written to a device, and read from one.
func TestDirectIoUring(t *testing.T) {
	dir, _ := directDir(t)
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		const size = 12 << 20
		f := create(t, fsys, "f")
		data := numbered(size)
		_, err := f.Write(data)
		must(t, err)
		m := mapDirect(t, f, size)
		defer m.Unmap()
		r, err := newRing(m.Bytes())
		switch {
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
			t.Skipf("NOT TESTED: %v: this kernel or container has no io_uring: set /proc/sys/kernel/io_uring_disabled to 0, and "+
				"allow the io_uring system calls in the seccomp profile", err)
		case errors.Is(err, unix.ENOMEM):
			t.Skipf("NOT TESTED: %v: raise the limit on locked memory (ulimit -l) to %d KiB", err, size>>10)
		}
		must(t, err)
		name := filepath.Join(dir, "target")
		target := openOS(t, name, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_DIRECT)
		must(t, r.transfer(opWriteFixed, target, size))
		wantFile(t, name, data)
		wantError(t, f.Relocate(0, size), pmemfs.ErrSealed, "f")

		for i := range data {
			data[i] ^= 0x55
		}
		must(t, os.WriteFile(name, data, 0o600))
		must(t, r.transfer(opReadFixed, target, size))
		must(t, m.Persist(0, size)) // the device may have stored to the CPU's caches
		must(t, r.close())
		must(t, m.Unmap())
		must(t, f.Relocate(0, size))
		wantContent(t, fsys, "f", string(data))
	})
}

// A sealed mapping can be handed to the kernel without a pin, for any part of it, at any time.
func TestDirectIO(t *testing.T) {
	dir, sector := directDir(t)
	eachMapped(t, func(t *testing.T, fsys *pmemfs.FS, _ pmemfs.MapFlags) {
		const size = 4 << 20
		f := create(t, fsys, "f")
		data := numbered(size)
		_, err := f.Write(data)
		must(t, err)
		m := mapDirect(t, f, size)
		defer m.Unmap()
		must(t, f.Close())
		must(t, fsys.Remove("f"))
		name := filepath.Join(dir, "target")
		target := openOS(t, name, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_DIRECT)
		for at := size - int(sector); at >= 0; at -= 512 << 10 {
			end := min(at+512<<10, size)
			if n, err := target.WriteAt(m.Bytes()[at:end], int64(at)); n != end-at || err != nil {
				t.Fatal(at, n, err)
			}
		}
		got, err := os.ReadFile(name)
		must(t, err)
		first := (size - int(sector)) % (512 << 10)
		wantSame(t, name, got[first:], data[first:])

		clear(data)
		copy(data, "from the device")
		must(t, os.WriteFile(name, data, 0o600))
		if n, err := target.ReadAt(m.Bytes(), 0); n != size || err != nil {
			t.Fatal(n, err)
		}
		must(t, m.Persist(0, size))
		wantSame(t, "mapping", m.Bytes(), data)
	})
}

// What a sealed mapping shows is at its extents in the pool's data, wherever the file's blocks are and whatever becomes
// of its name.
func TestMappingExtents(t *testing.T) {
	pool := newPool(t)
	socket, _ := serve(t, pool)
	check := func(t *testing.T, fsys *pmemfs.FS) {
		const pages = 64
		f := create(t, fsys, "f")
		data := numbered(pages * page)
		_, err := f.Write(data)
		must(t, err)
		for _, i := range []int64{40, 3, 17, 18, 5} {
			must(t, f.Relocate(i*page, page))
		}
		blocks, err := f.Extents()
		must(t, err)
		const from, length = 2 * page, 50*page + 5
		m, err := f.Map(from, length, pmemfs.Direct|pmemfs.Populate)
		if errors.Is(err, unix.EPERM) {
			t.Skipf("NOT TESTED: %v: run the tests as root", err)
		}
		must(t, err)
		defer m.Unmap()
		must(t, f.Close())
		must(t, fsys.Remove("f"))
		list, err := m.Extents()
		must(t, err)
		if len(list) < 8 {
			t.Errorf("%d extents", len(list))
		}
		medium := openOS(t, filepath.Join(fsys.Info().Medium.Path, "data"), os.O_RDONLY)
		var next int64
		for _, e := range list {
			got := make([]byte, e.Length)
			_, err := medium.ReadAt(got, e.DeviceOffset)
			must(t, err)
			if e.Offset != next || !bytes.Equal(got, m.Bytes()[e.Offset:][:e.Length]) || !bytes.Equal(got, data[from+e.Offset:][:e.Length]) {
				t.Errorf("%+v: something else is there, or it does not begin at %d", e, next)
			}
			next += e.Length
			for _, b := range blocks {
				if in := from + e.Offset - b.Offset; 0 <= in && in < b.Length && e.DeviceOffset != b.Block*page+in {
					t.Errorf("%+v is not at its block, which %+v says", e, b)
				}
			}
		}
		if next != length {
			t.Errorf("%d bytes, want %d", next, length)
		}
		must(t, m.Unmap())
		_, err = m.Extents()
		wantError(t, err, pmemfs.ErrUnmapped, "f")
		g := sized(t, fsys, "g", page)
		_, err = mapped(t, g, 0, page, pmemfs.Shared|pmemfs.Populate).Extents()
		wantError(t, err, unix.EINVAL, "File.Extents")
	}
	t.Run("dialled", func(t *testing.T) { check(t, dial(t, socket)) })
	t.Run("embedded", func(t *testing.T) { check(t, openPool(t, newPool(t))) })
}
