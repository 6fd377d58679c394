package pmemfs

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPidfdByNumber finds out who listens as it is done on kernels that cannot say it by a descriptor.
func TestPidfdByNumber(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ask := func() (pidfd int) {
		raw, err := conn.SyscallConn()
		if err := errors.Join(err, raw.Control(func(fd uintptr) { pidfd = pidfdByNumber(int(fd)) })); err != nil {
			t.Fatal(err)
		}
		return pidfd
	}
	pidfd := ask()
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd))
	if want := fmt.Sprintf("Pid:\t%d\n", os.Getpid()); !strings.Contains(string(text), want) {
		t.Errorf("descriptor %d is %q, %v; want %q", pidfd, text, err, want)
	}
	unix.Close(pidfd)
	accepted.Close()
	if pidfd := ask(); pidfd != -1 {
		t.Errorf("after the end of the connection: descriptor %d, want -1", pidfd)
	}
}
