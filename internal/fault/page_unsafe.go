package fault

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const sharedSize = int(unsafe.Sizeof(sharedPage{}))

// makePageFile makes the memfd. Its size is sealed, so that no client can shrink it.
func makePageFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("pmemfs-fault-page", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "pmemfs-fault-page")
	if err := file.Truncate(int64(sharedSize)); err != nil {
		file.Close()
		return nil, err
	}
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		file.Close()
		return nil, os.NewSyscallError("fcntl F_ADD_SEALS", err)
	}
	return file, nil
}

// createPageFile makes a page that has a name. Its memory is allocated here: that it is missing must not be found out
// by SIGBUS.
func createPageFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Fallocate(int(file.Fd()), 0, 0, int64(sharedSize)); err != nil {
		file.Close()
		os.Remove(path)
		return nil, &os.PathError{Op: "fallocate", Path: path, Err: err}
	}
	return file, nil
}

var errVersions = errors.New("fault page: client and server are of different versions")

// mapPage maps a fault page that has been made here or in another process.
func mapPage(file *os.File) (*sharedPage, []byte, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	if info.Size() != int64(sharedSize) {
		return nil, nil, fmt.Errorf("is %d bytes long, not %d: client and server are of different versions", info.Size(), sharedSize)
	}
	b, err := unix.Mmap(int(file.Fd()), 0, sharedSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, os.NewSyscallError("mmap", err)
	}
	return (*sharedPage)(unsafe.Pointer(&b[0])), b, nil
}

const (
	futexOpWait = 0 // FUTEX_WAIT, shared between processes
	futexOpWake = 1 // FUTEX_WAKE
	everyone    = 1<<31 - 1
)

// futexWait sleeps while *word is value, and reports whether that was for all of timeout. It may return early for any
// reason.
func futexWait(word *uint32, value uint32, timeout time.Duration) bool {
	limit := unix.NsecToTimespec(int64(timeout))
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexOpWait, uintptr(value),
		uintptr(unsafe.Pointer(&limit)), 0, 0)
	return errno == unix.ETIMEDOUT
}

// contains reports whether an address lies in the memory of the page.
func (p *Page) contains(address uintptr) bool {
	start := uintptr(unsafe.Pointer(p.shared))
	return start <= address && address < start+uintptr(len(p.region))
}

// futexWake wakes everybody who sleeps on word.
func futexWake(word *uint32) {
	unix.Syscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexOpWake, everyone)
}

// Where in the file words are.
const (
	closedOffset    = int64(unsafe.Offsetof(sharedPage{}.closed))
	takeoversOffset = int64(unsafe.Offsetof(sharedPage{}.takeovers))
)

// currentCPU is the CPU that this thread runs on at the moment, -1 if the kernel does not say so.
func currentCPU() int {
	var cpu uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		return -1
	}
	return int(cpu)
}
