package fault

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/lines"
)

// flushMethods are those that this CPU has.
func flushMethods(t *testing.T) map[string]lines.How {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Skipf("SKIPPED, NOTHING WAS TESTED: %v", err)
	}
	methods := map[string]lines.How{"clwb": lines.CLWB, "clflushopt": lines.CLFLUSHOPT, "clflush": lines.CLFLUSH}
	if runtime.GOARCH == "arm64" {
		methods = map[string]lines.How{"dcpop": lines.CVAP, "fp": lines.CVAC} // each has FP, and CVAC
	}
	for name := range methods {
		if !strings.Contains(string(info), " "+name) {
			delete(methods, name)
		}
	}
	return methods
}

func addressOf(mem []byte) uintptr { return uintptr(unsafe.Pointer(&mem[0])) }

// A flush of memory of nobody, and of memory that a file does not have (SIGBUS), fails and says at which line. All around it
// is accessible, and what comes first is flushed without one.
func TestFlushLands(t *testing.T) {
	if err := Install(); err != nil {
		t.Skipf("SKIPPED, NOTHING WAS TESTED: %v", err)
	}
	const pages = 3
	file, err := unix.MemfdCreate("pmemfs-test", 0)
	if err == nil {
		err = unix.Ftruncate(file, PageSize)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(file)
	mem, err := unix.Mmap(-1, 0, pages*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err == nil {
		err = unix.Mprotect(mem[PageSize:2*PageSize], unix.PROT_NONE)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	cut, err := unix.Mmap(file, 0, pages*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(cut)
	for name, how := range flushMethods(t) {
		// What the table does not have panics, as ever.
		err, address := catch(func() { lines.Flush(&mem[PageSize+5], 1, how) })
		if err == nil {
			t.Skip("SKIPPED, NOTHING WAS TESTED: flushes do not fault here (an emulator?)")
		}
		if address-addressOf(mem)-PageSize > 5 {
			t.Errorf("%s: Flush: %v at %#x", name, err, address)
		}
		for _, c := range []struct {
			what      string
			mem       []byte
			off, n    int
			bad, then int // offset of the line that fails, and then of another range that is good
		}{
			{"inaccessible", mem, PageSize, 1, PageSize, 0},
			{"inaccessible", mem, PageSize + 100, 8, PageSize + 64, 2 * PageSize},
			{"inaccessible", mem, 17, pages*PageSize - 17, PageSize, 0},
			{"beyond the end", cut, PageSize + 100, 8, PageSize + 64, 0},
			{"beyond the end", cut, 1, 2*PageSize - 1, PageSize, 0},
		} {
			for _, fence := range []lines.How{0, lines.ThenFence} {
				failed := lines.TryFlush(&c.mem[c.off], uintptr(c.n), how|fence)
				if want := addressOf(c.mem) + uintptr(c.bad); failed != want {
					t.Errorf("%s, %s, %d bytes at %d: %#x, want %#x", name, c.what, c.n, c.off, failed, want)
				}
				if failed := lines.TryFlush(&c.mem[c.then], PageSize, how|fence); failed != 0 {
					t.Errorf("%s: a good page: %#x", name, failed)
				}
			}
		}
	}
	if err, address := catch(func() { sink = cut[2*PageSize] }); err == nil || address != addressOf(cut)+2*PageSize {
		t.Errorf("load beyond the end: %v at %#x", err, address)
	}
}

// Only a signal of an access, and only in the flush that may fail, has a thread go on at the landing.
func TestWhatLands(t *testing.T) {
	if err := Install(); err != nil {
		t.Skipf("SKIPPED, NOTHING WAS TESTED: %v", err)
	}
	const segv, bus = int32(unix.SIGSEGV), int32(unix.SIGBUS)
	for _, c := range []struct {
		what         string
		number, code int32
		pc           uintptr
		lands        bool
	}{
		{"SIGBUS of lost memory", bus, 4, guard.start, true},
		{"SIGBUS of a file's end", bus, 2, guard.end - 1, true},
		{"SIGSEGV of a key", segv, 4, guard.start, true},
		{"SIGSEGV of nobody's memory", segv, segvMapErr, guard.start, true},
		{"before it", bus, 2, guard.start - 1, false},
		{"behind it", bus, 2, guard.end, false},
		{"at the landing", bus, 2, guard.landing, false},
		{"news of lost memory", bus, busMceAO, guard.start, false},
		{"kill", bus, 0, guard.start, false},
		{"tgkill", segv, -6, guard.start, false},
	} {
		context := sigContext{pc: c.pc}
		want := c.pc
		if c.lands {
			want = guard.landing
		}
		if got := onFault(&sigInfo{number: c.number, code: c.code}, &context); got != c.lands || context.pc != want {
			t.Errorf("%s: %v, at %#x, want %#x", c.what, got, context.pc, want)
		}
	}
}
