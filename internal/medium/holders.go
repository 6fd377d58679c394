package medium

import (
	"bufio"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Naming the processes that hold a lock or a mapping is a service to the reader of an error: what /proc does not show
// to this user, or in this PID namespace, is left out. What the kernel shows:
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
		pids = describers(func(line string) bool {
			_, ok := parseLock(line, kind, id, shared)
			_, slot := parseSlot(line, id)
			return ok && !slot
		})
	}
	return sorted(pids)
}

// pids returns who is in the way: has a descriptor with a flock or the lock of a slot that is not taken over, or maps
// data without being taken over. /proc/locks is of no use here: it would name the dead owner who took the locks, or
// whoever has its pid now.
func (s *survivors) pids(data *os.File) []int {
	id, ok := idOf(data)
	if !ok {
		return nil
	}
	pids := describers(func(line string) bool {
		if _, ok := parseLock(line, "FLOCK", id, true); ok {
			return s.slotless
		}
		slot, ok := parseSlot(line, id)
		return ok && slices.Contains(s.inWay, slot) || !ok && s.foreign && overSlots(line, id)
	})
	takenOver := slices.Collect(maps.Values(s.adopted))
	for _, pid := range mappers(id) {
		if !slices.Contains(takenOver, pid) {
			pids = append(pids, pid)
		}
	}
	return sorted(pids)
}

// describers returns who has a descriptor whose description has a lock that matches, as a line of /proc/locks.
func describers(match func(line string) bool) []int {
	var pids []int
	eachProcess(func(pid int, dir string) {
		infos, _ := filepath.Glob(dir + "/fdinfo/*")
		for _, info := range infos {
			for line := range linesOf(info) {
				if lock, found := strings.CutPrefix(line, "lock:"); found && match(lock) {
					pids = append(pids, pid)
				}
			}
		}
	})
	return pids
}

// parseSlot reads a line such as "1: OFDLCK ADVISORY  READ -1 00:1b:2 4611686018427387904 4611686018427387904".
func parseSlot(line string, id fileID) (slot int, ok bool) {
	first, last := parseBytes(line, "OFDLCK", id)
	if first != last || first < slotBase || first >= slotBase+MaxSlots {
		return 0, false
	}
	return int(first - slotBase), true
}

// overSlots says whether a lock of bytes includes one that is a slot's.
func overSlots(line string, id fileID) bool {
	for _, kind := range []string{"OFDLCK", "POSIX"} {
		if first, last := parseBytes(line, kind, id); first < slotBase+MaxSlots && last >= slotBase {
			return true
		}
	}
	return false
}

// parseBytes returns the first and the last byte that a lock of a kind is on; -1 when it is no such lock.
func parseBytes(line, kind string, id fileID) (first, last int64) {
	f := strings.Fields(line)
	if _, ok := parseLock(line, kind, id, true); !ok || len(f) < 8 {
		return -1, -1
	}
	first, err := strconv.ParseInt(f[6], 10, 64)
	last = math.MaxInt64
	if err == nil && f[7] != "EOF" {
		last, err = strconv.ParseInt(f[7], 10, 64)
	}
	if err != nil {
		return -1, -1
	}
	return first, last
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
