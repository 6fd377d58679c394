package progress

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// size is the length of a page's file in bytes.
const size = int64(unsafe.Sizeof(words{}))

// Make makes a page in memory of its own, and a descriptor by which others can map it read-only, which the caller closes. They
// cannot change the page, nor cut it off, in other ways either.
func Make() (*Page, *os.File, error) {
	fd, err := unix.MemfdCreate("pmemfs-progress", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "pmemfs-progress")
	defer file.Close()
	p, err := Create(file)
	if err != nil {
		return nil, nil, err
	}
	// Anybody can open by /proc what he has a descriptor of, also for writing.
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, nil, os.NewSyscallError("fcntl F_ADD_SEALS", err)
	}
	shared, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	return p, shared, err
}

// Create makes the page of a server over a file, which is made as long as need be. What an earlier server has left there
// goes on to hold for clients that still have it: at worst something looks pending that is not.
func Create(file *os.File) (*Page, error) {
	if err := file.Truncate(size); err != nil {
		return nil, fmt.Errorf("progress page: %w", err)
	}
	p, err := mapFile(file, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return nil, err
	}
	for i := range p.words.slots {
		p.words.slots[i].times.Store(0)
	}
	return p, nil
}

// Open maps the page of somebody else's server, for Pending only.
func Open(file *os.File) (*Page, error) {
	st, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() < size {
		return nil, fmt.Errorf("progress page: %w", errors.New("client and server are of different versions"))
	}
	return mapFile(file, unix.PROT_READ)
}

// mapFile maps a page, for as long as it is in use.
func mapFile(file *os.File, prot int) (*Page, error) {
	b, err := unix.Mmap(int(file.Fd()), 0, int(size), prot, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	p := &Page{words: (*words)(unsafe.Pointer(&b[0]))}
	runtime.AddCleanup(p, func(b []byte) { unix.Munmap(b) }, b)
	return p, nil
}
