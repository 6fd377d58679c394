package medium

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Naming the processes that hold a lock or a mapping is a service to the reader of an error: what /proc does not show to
// this user, or in this PID namespace, is left out. What the kernel shows:
//
//   - /proc/locks, readable by all, has a flock's device, inode and the pid that *took* it. A description that was passed
//     on, as ClientFile's is, keeps the pid of who took the lock, even when that process is dead.
//   - open-file-description locks have pid -1 there.
//   - /proc/PID/fdinfo/N has a "lock:" line for the locks of that very description: right for both kinds, but only for
//     processes that still have the descriptor, and that this user may look into.
//   - /proc/PID/maps has device and inode of what is mapped, without descriptor.

// fileID is a file as /proc names it: device "fe:00" (hexadecimal) and inode number.
type fileID struct{ device, inode string }

func idOf(f *os.File) (fileID, bool) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileID{}, false
	}
	dev := uint64(st.Dev)
	return fileID{
		device: fmt.Sprintf("%02x:%02x", unix.Major(dev), unix.Minor(dev)),
		inode:  strconv.FormatUint(uint64(st.Ino), 10),
	}, true
}

// ownersOf returns who has the owner lock, of the kind "FLOCK" or "OFDLCK", on f. Shared locks count if shared is set.
func ownersOf(f *os.File, kind string, shared bool) []int {
	id, ok := idOf(f)
	if !ok {
		return nil
	}
	var pids []int
	if kind == "FLOCK" { // whoever took the owner lock has it: it is not passed on
		for line := range linesOf("/proc/locks") {
			if pid, ok := parseLock(line, kind, id, shared); ok && pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
	if len(pids) == 0 {
		pids = describers(id, kind, shared)
	}
	return sorted(pids)
}

// survivorsOf returns who maps f or has a descriptor with a flock on it. /proc/locks is of no use here: it would name the
// dead owner who took the locks, or whoever has its pid now.
func survivorsOf(f *os.File) []int {
	id, ok := idOf(f)
	if !ok {
		return nil
	}
	return sorted(append(describers(id, "FLOCK", true), mappers(id)...))
}

// describers returns who has a descriptor whose description has such a lock.
func describers(id fileID, kind string, shared bool) []int {
	var pids []int
	eachProcess(func(pid int, dir string) {
		infos, _ := filepath.Glob(dir + "/fdinfo/*")
		for _, info := range infos {
			for line := range linesOf(info) {
				rest, found := strings.CutPrefix(line, "lock:")
				if _, ok := parseLock(rest, kind, id, shared); found && ok {
					pids = append(pids, pid)
				}
			}
		}
	})
	return pids
}

// parseLock reads a line such as "1: FLOCK  ADVISORY  WRITE 6747 00:1b:2 0 EOF". Lines of waiters have "->" after the
// number and are not of holders.
func parseLock(line, kind string, id fileID, shared bool) (pid int, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || f[1] != kind || (f[3] != "WRITE" && !shared) || f[5] != id.device+":"+id.inode {
		return 0, false
	}
	pid, err := strconv.Atoi(f[4])
	return pid, err == nil
}

// mappers returns the processes that map the file.
func mappers(id fileID) []int {
	var pids []int
	eachProcess(func(pid int, dir string) {
		for line := range linesOf(dir + "/maps") {
			// 7f0c63c55000-7f0c63c57000 rw-s 00000000 00:1b 2    /dev/shm/pool/data
			if f := strings.Fields(line); len(f) >= 5 && f[3] == id.device && f[4] == id.inode {
				pids = append(pids, pid)
				return
			}
		}
	})
	return pids
}

// eachProcess calls visit with every process that /proc shows.
func eachProcess(visit func(pid int, dir string)) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			visit(pid, "/proc/"+e.Name())
		}
	}
}

// linesOf yields the lines of a file; nothing if it cannot be read.
func linesOf(path string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		f, err := os.Open(path)
		if err != nil {
			return
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if !yield(s.Text()) {
				return
			}
		}
	}
}

func sorted(pids []int) []int {
	slices.Sort(pids)
	return slices.Compact(pids)
}
