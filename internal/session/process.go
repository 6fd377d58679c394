package session

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// place is where process numbers mean what they do here.
type place struct {
	boot      [16]byte // which boot of the machine
	namespace uint64   // of process numbers
}

// here is the place of this process.
var here = sync.OnceValues(func() (p place, err error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return p, err
	}
	n, err := hex.Decode(p.boot[:], []byte(strings.ReplaceAll(strings.TrimSpace(string(id[:min(len(id), 40)])), "-", "")))
	if err != nil || n != len(p.boot) {
		return p, fmt.Errorf("/proc/sys/kernel/random/boot_id holds %q", id)
	}
	st, err := os.Stat("/proc/self/ns/pid")
	if err != nil {
		return p, err
	}
	p.namespace = st.Sys().(*syscall.Stat_t).Ino // what package os always gives on Linux
	return p, nil
})

// startTime returns when a process began, in clock ticks since boot: with its number it is told from a later process
// that has got the same number.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStart(stat)
}

// parseStart reads field 22 of /proc/PID/stat. The second is the name in brackets, in which there can be anything.
func parseStart(stat []byte) (uint64, error) {
	const state, start = 3, 22
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= start-state {
		return 0, fmt.Errorf("/proc/PID/stat holds %q", stat)
	}
	return strconv.ParseUint(string(fields[start-state]), 10, 64)
}

// Process returns a descriptor (pidfd_open(2)) of the client's process, for the caller to close. ESRCH: it has ended.
func (c *Client) Process() (pidfd int, err error) {
	now, err := here()
	if err != nil {
		return -1, err
	}
	if now != c.at {
		if now.boot == c.at.boot {
			return -1, fmt.Errorf("process %d is of another PID namespace: %w", c.PID, unix.EXDEV)
		}
		return -1, fmt.Errorf("process %d is of an earlier boot: %w", c.PID, unix.ESRCH)
	}
	if pidfd, err = unix.PidfdOpen(c.PID, 0); err != nil {
		return -1, fmt.Errorf("process %d: %w", c.PID, err)
	}
	if err := c.check(pidfd); err != nil {
		unix.Close(pidfd)
		return -1, err
	}
	return pidfd, nil
}

// check makes sure that a descriptor is of the client's process, which has not ended.
func (c *Client) check(pidfd int) error {
	start, startErr := startTime(c.PID)
	// Asked last: as long as the process has not ended, its number is nobody else's.
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	switch {
	case err != nil:
		return os.NewSyscallError("poll", err)
	case n == 1:
		return fmt.Errorf("process %d has ended: %w", c.PID, unix.ESRCH)
	case startErr != nil:
		return startErr
	case start != c.start:
		return fmt.Errorf("process %d has ended, and its number is another's: %w", c.PID, unix.ESRCH)
	}
	return nil
}
