package fusefs_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// long has the tests of programs run for as long as they need to find rare faults: make mount-test.
var long = flag.Bool("long", false, "run the long form of the tests")

// seedFlag has random tests do again what a failed one has logged.
var seedFlag = flag.Uint64("seed", 0, "of random tests; 0: another one each time")

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if commandDir != "" {
		os.RemoveAll(commandDir)
	}
	os.Exit(code)
}

var commandDir string

// command builds the command, which the tests mount with: a mount must be a process of its own, that can be killed and does not
// wait for itself.
var command = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pmemfs-fusefs-")
	if err != nil {
		return "", err
	}
	commandDir = dir
	args := []string{"build", "-o", filepath.Join(dir, "pmemfs")}
	if raceEnabled {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "../../cmd/pmemfs")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return filepath.Join(dir, "pmemfs"), nil
})

// pmemfs runs the command.
func pmemfs(t testing.TB, args ...string) string {
	t.Helper()
	self, err := command()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(self, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("pmemfs %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// mount is a pool that is mounted by a process of its own.
type mount struct {
	t      testing.TB
	pool   string
	dir    string
	flags  []string
	cmd    *exec.Cmd
	stderr bytes.Buffer
}

func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pmemfs-fusefs-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // for other users
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// hostDir is a directory of the host's file system, which does as Linux does. On tmpfs two changes within a few milliseconds
// can have the same time.
func hostDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "pmemfs-fusefs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Type != unix.EXT4_SUPER_MAGIC && st.Type != unix.XFS_SUPER_MAGIC {
		t.Skipf("SKIPPED: %s is neither on ext4 nor on XFS, which the mount is compared with", dir)
	}
	return dir
}

// newMount makes a pool of a size such as "1G" and mounts it, with more flags of the verb if there are any.
func newMount(t testing.TB, size string, flags ...string) *mount {
	t.Helper()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skipf("SKIPPED: nothing can be mounted: %v (modprobe fuse; in a container, give it the device)", err)
	} else {
		f.Close()
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the tests of mounts take root")
	}
	dir := memoryDir(t)
	m := &mount{t: t, pool: filepath.Join(dir, "pool"), dir: filepath.Join(dir, "mount"), flags: flags}
	pmemfs(t, "mkfs", m.pool, "--size", size)
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m.start()
	t.Cleanup(func() {
		if m.cmd != nil {
			m.stop()
		}
	})
	return m
}

// start mounts the pool, and returns when it is ready.
func (m *mount) start() {
	m.t.Helper()
	self, err := command()
	if err != nil {
		m.t.Fatal(err)
	}
	m.stderr.Reset()
	m.cmd = exec.Command(self, append([]string{"mount", m.pool, m.dir, "-o", "allow_other,dev,suid"}, m.flags...)...)
	m.cmd.Stderr = &m.stderr
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		m.cmd.Wait()
		m.t.Fatalf("the mount is not ready: %s", m.stderr.String())
	}
	go io.Copy(io.Discard, out)
}

// stop unmounts the pool, and expects that to go well and the pool to be sound.
func (m *mount) stop() {
	m.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Unmount(m.dir, 0)
		if err == nil {
			break
		}
		if err != unix.EBUSY || time.Now().After(deadline) { // somebody is still ending
			m.t.Errorf("umount: %v", err)
			unix.Unmount(m.dir, unix.MNT_DETACH)
			m.cmd.Process.Kill()
			break
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || bytes.Contains(mounts, []byte(" "+m.dir+" ")) {
		m.t.Errorf("there is another mount below: %v", err)
		unix.Unmount(m.dir, unix.MNT_DETACH)
	}
	if err := m.cmd.Wait(); err != nil || m.stderr.Len() > 0 {
		m.t.Errorf("the mount ended with %v\n%s", err, m.stderr.String())
	}
	m.cmd = nil
	if out := pmemfs(m.t, "check", m.pool); !strings.Contains(out, "clean") {
		m.t.Error(out)
	}
}

// kill ends the mount's process as a crash would. What is left of the mount stays, as it would.
func (m *mount) kill() {
	m.t.Helper()
	m.cmd.Process.Kill()
	m.cmd.Wait()
	m.cmd = nil
}

// user is a thread with an identity of its own, on which calls are made.
type user struct {
	uid, gid uint32
	groups   []uint32
	calls    chan func()
}

// newUser starts the thread. It ends with the test.
func newUser(t testing.TB, uid, gid uint32, groups ...uint32) *user {
	u := &user{uid: uid, gid: gid, groups: groups, calls: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ready <- u.become()
		for f := range u.calls {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(u.calls) })
	return u
}

// become changes the thread's identity, by system calls that concern no other thread.
func (u *user) become() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // an umask of its own
		return err
	}
	unix.Umask(0)
	if err := setGroups(u.groups); err != nil {
		return err
	}
	for _, call := range []struct{ number, id uintptr }{{unix.SYS_SETRESGID, uintptr(u.gid)}, {unix.SYS_SETRESUID, uintptr(u.uid)}} {
		if _, _, errno := unix.RawSyscall(call.number, call.id, call.id, call.id); errno != 0 {
			return errno
		}
	}
	return nil
}

// do makes a call as the user.
func (u *user) do(f func() error) error {
	done := make(chan error)
	u.calls <- func() { done <- f() }
	return <-done
}
