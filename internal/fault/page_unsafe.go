package fault

import (
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const sharedSize = int(unsafe.Sizeof(sharedPage{}))

// makePageFile makes the memfd. Its size is sealed: a client that could shrink it would kill the server with SIGBUS.
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

// mapPage maps a fault page that makePageFile has made, here or in another process.
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

// futexWait sleeps while *word is value, at most timeout (0: for ever). It may return early for any reason.
func futexWait(word *uint32, value uint32, timeout time.Duration) {
	var limit *unix.Timespec
	if timeout > 0 {
		ts := unix.NsecToTimespec(int64(timeout))
		limit = &ts
	}
	unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexOpWait, uintptr(value), uintptr(unsafe.Pointer(limit)), 0, 0)
}

// futexWake wakes everybody who sleeps on word.
func futexWake(word *uint32) {
	unix.Syscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexOpWake, everyone)
}
