package mediumtest

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NeedAddress skips a test where SIGBUS does not come with the address of the access, by which it is told whose memory is
// gone. User emulation of QEMU leaves it out of the machine context, where Go looks for it on arm64.
func NeedAddress(t testing.TB) {
	t.Helper()
	mem := mapped(t)
	if err := Spoil(mem); err != nil {
		t.Fatal(err)
	}
	if got, want := addressOf(func() { mem[0] = 1 }), uintptr(unsafe.Pointer(&mem[0])); got != want {
		t.Skipf("SKIPPED: SIGBUS does not tell the address of the access: it says %#x, not %#x (an emulator of this CPU?)", got, want)
	}
}

// mapped is a page of a file, until the test ends.
func mapped(t testing.TB) []byte {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "page"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(pageSize); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(int(file.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(mem) })
	return mem
}

// addressOf returns where an access of f has failed, as Go knows it.
func addressOf(f func()) (address uintptr) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if e, ok := recover().(interface{ Addr() uintptr }); ok {
			address = e.Addr()
		}
	}()
	f()
	return 0
}
