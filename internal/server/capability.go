package server

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// capable says whether a process has CAP_LINUX_IMMUTABLE in its effective set, now and in the server's user namespace. ended
// tells whether the process is gone: asked last, it makes sure that what /proc said was said of this process, and not of a
// later one with its number. See capabilities(7), user_namespaces(7).
func capable(pid int, ended func() bool) (bool, error) {
	has, err := effective(pid, unix.CAP_LINUX_IMMUTABLE)
	if err != nil {
		return false, err
	}
	same, err := sameUserNamespace(pid)
	if err != nil {
		return false, err
	}
	if ended() {
		return false, fmt.Errorf("process %d has ended: %w", pid, unix.ESRCH)
	}
	return has && same, nil
}

// effective reads the effective capabilities from /proc/PID/status, which everybody may read.
func effective(pid, capability int) (bool, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false, fmt.Errorf("the capabilities of process %d: %w", pid, err)
	}
	for line := range bytes.Lines(status) {
		if rest, found := bytes.CutPrefix(line, []byte("CapEff:")); found {
			set, err := strconv.ParseUint(string(bytes.TrimSpace(rest)), 16, 64)
			if err != nil {
				return false, fmt.Errorf("the capabilities of process %d: %w", pid, err)
			}
			return set>>capability&1 != 0, nil
		}
	}
	return false, fmt.Errorf("the capabilities of process %d are not in its status: %w", pid, unix.EOPNOTSUPP)
}

// sameUserNamespace says whether a process is in the user namespace of this one: anybody can have every capability in a
// namespace of his own. The namespace's name may not be readable for this user; its map of users always is, and equals
// ours only if somebody who may be any user here has made it.
func sameUserNamespace(pid int) (bool, error) {
	ours, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false, err
	}
	theirs, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
	if err != nil || !bytes.Equal(ours, theirs) {
		return false, err
	}
	our, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return false, err
	}
	their, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid))
	return err != nil || our == their, nil
}
