package fault

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/lines"
)

// breakSignal is a real-time signal, which the Go runtime handles by default by doing nothing. It is part of the
// protocol between client and server.
const breakSignal = 61

// BreakSignal is the signal that a server sends to a client for a break.
func BreakSignal() int { return breakSignal }

// sigAction is the kernel's struct sigaction (not libc's).
type sigAction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64 // bit n-1: signal n
}

const (
	saSigInfo = 0x4
	saOnStack = 0x08000000
)

var install struct {
	once sync.Once
	err  error
}

// Install puts the signal entries in place: once for the process, and for ever. Afterwards SIGSEGV outside of all ranges
// is handled as before, as is SIGBUS, but for what lines.TryFlush does. It fails where there are no entries (other than
// amd64 and arm64), where the page size is not PageSize, and where the present handlers are not the Go runtime's. It is
// called by NewClient.
func Install() error {
	install.once.Do(func() { install.err = installEntries() })
	return install.err
}

func installEntries() error {
	if faultEntryAddress() == 0 {
		return fmt.Errorf("page faults cannot be handled on %s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	if n := os.Getpagesize(); n != PageSize {
		return fmt.Errorf("page faults cannot be handled with pages of %d bytes: %w", n, errors.ErrUnsupported)
	}
	segv, err := signalAction(unix.SIGSEGV)
	if err != nil {
		return err
	}
	if segv.handler <= 1 || segv.flags&(saSigInfo|saOnStack) != saSigInfo|saOnStack {
		return fmt.Errorf("SIGSEGV has no handler on a signal stack (handler %#x, flags %#x)", segv.handler, segv.flags)
	}
	bus, err := signalAction(unix.SIGBUS)
	if err != nil {
		return err
	}
	if bus.handler != segv.handler {
		return fmt.Errorf("SIGBUS has another handler (%#x) than SIGSEGV (%#x)", bus.handler, segv.handler)
	}
	before, err := signalAction(breakSignal)
	if err != nil {
		return err
	}
	// SIG_DFL is what the Go runtime leaves when it has been told to (c-archive); anything else belongs to somebody.
	if before.handler != segv.handler && before.handler != 0 {
		return fmt.Errorf("signal %d, needed for breaks, is already in use", breakSignal)
	}
	goFaultHandler = segv.handler
	guard.start, guard.end, guard.landing = lines.Guard()
	spinRounds, yieldRounds = pollRounds()
	forBreak := segv // the runtime's flags (signal stack, restart of system calls), restorer and mask of everything
	forBreak.handler = breakEntryAddress()
	if err := setSignalAction(breakSignal, forBreak); err != nil {
		return err
	}
	segv.handler, bus.handler = faultEntryAddress(), faultEntryAddress()
	segv.mask &^= 1 << (breakSignal - 1) // a thread that waits for its fault must be able to give back pages
	return errors.Join(setSignalAction(unix.SIGSEGV, segv), setSignalAction(unix.SIGBUS, bus))
}

// checkInstalled reports what has taken the entries' place since Install.
func checkInstalled() error {
	entries := map[unix.Signal]uintptr{
		unix.SIGSEGV: faultEntryAddress(), unix.SIGBUS: faultEntryAddress(), breakSignal: breakEntryAddress(),
	}
	for signal, entry := range entries {
		now, err := signalAction(signal)
		if err != nil {
			return err
		}
		if now.handler != entry {
			return fmt.Errorf("the handler of signal %d, needed for mappings, has been replaced (os/signal.Ignore?)", int(signal))
		}
	}
	return nil
}

func signalAction(signal unix.Signal) (sigAction, error) {
	var a sigAction
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(signal), 0, uintptr(unsafe.Pointer(&a)), 8, 0, 0)
	if errno != 0 {
		return a, os.NewSyscallError("rt_sigaction", errno)
	}
	return a, nil
}

func setSignalAction(signal unix.Signal, a sigAction) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(signal), uintptr(unsafe.Pointer(&a)), 0, 8, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("rt_sigaction", errno)
	}
	return nil
}
