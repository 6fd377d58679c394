package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

// needMount skips a test where nothing can be mounted.
func needMount(t *testing.T) {
	t.Helper()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skipf("SKIPPED: %v (modprobe fuse; in a container, give it the device)", err)
	} else {
		f.Close()
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root mounts without a helper")
	}
}

// mountPool mounts a pool or a socket, and returns the process and the directory.
func mountPool(t *testing.T, source string, flags ...string) (*served, string) {
	t.Helper()
	needMount(t)
	dir := t.TempDir()
	s := &served{t: t}
	s.cmd = command(append([]string{"mount", source, dir, "--runtime-dir", memoryDir(t)}, flags...)...)
	s.cmd.Stderr = &s.stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		unix.Unmount(dir, unix.MNT_DETACH)
	})
	s.ready = readReady(t, out)
	return s, dir
}

func isMounted(t *testing.T, dir string) bool {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(mounts, []byte(" "+dir+" fuse.pmemfs "))
}

// TestMount: a pool is mounted when the mount says so, and closed cleanly however it ends.
func TestMount(t *testing.T) {
	pool := newPool(t)
	for name, end := range map[string]func(*served, string) error{
		"umount":  func(_ *served, dir string) error { return unix.Unmount(dir, 0) },
		"SIGINT":  func(s *served, _ string) error { return s.cmd.Process.Signal(os.Interrupt) },
		"SIGTERM": func(s *served, _ string) error { return s.cmd.Process.Signal(syscall.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := mountPool(t, pool, "--json")
			object := parse(t, s.ready)
			documented(t, "mount", object)
			if object["dir"] != dir || object["source"] != pool || !isMounted(t, dir) {
				t.Error(object)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
				t.Error(err)
			}
			if err := end(s, dir); err != nil {
				t.Fatal(err)
			}
			if err := s.cmd.Wait(); err != nil || s.stderr.Len() > 0 {
				t.Errorf("%v\n%s", err, s.stderr.String())
			}
			if isMounted(t, dir) {
				t.Error("it is still mounted")
			}
			if got := ok(t, "cat", pool, name); got != name {
				t.Errorf("the pool has %q", got)
			}
			if out := ok(t, "check", pool); !strings.Contains(out, "clean") {
				t.Error(out)
			}
		})
	}
}

// TestMountInUse: a file that is open when the mount is told to end stays usable, and the mount ends with it.
func TestMountInUse(t *testing.T) {
	pool := newPool(t)
	s, dir := mountPool(t, pool)
	f, err := os.Create(filepath.Join(dir, "open"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); isMounted(t, dir); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is still there for others")
		}
	}
	if _, err := f.WriteString("text"); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := s.cmd.Wait(); err != nil || !strings.Contains(s.stderr.String(), "is in use") {
		t.Errorf("%v\n%s", err, s.stderr.String())
	}
	if got := ok(t, "cat", pool, "open"); got != "text" {
		t.Errorf("the pool has %q", got)
	}
}

// TestMountInBackground: the command returns when the mount is ready; by the name of mount(8)'s helper it does so, too,
// with flags among the options.
func TestMountInBackground(t *testing.T) {
	needMount(t)
	pool, dir := newPool(t), t.TempDir()
	socket := filepath.Join(memoryDir(t), "socket")
	helper := command(pool, dir, "-s", "-o", "rw,defaults,_netdev,x-systemd.automount,allow_other,socket="+socket, "-t", "pmemfs")
	helper.Args[0] = "/sbin/mount.pmemfs"
	for name, cmd := range map[string]*exec.Cmd{"background": command("mount", pool, dir, "--background", "--json"), "helper": helper} {
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		o := execute(t, cmd)
		if o.code != exitOK || o.stderr != "" || !isMounted(t, dir) {
			t.Fatalf("%s: exit code %d\n%s%s", name, o.code, o.stdout, o.stderr)
		}
		if name == "background" {
			parse(t, o.stdout)
		} else if got := ok(t, "info", socket); !strings.Contains(got, pool) {
			t.Error(got)
		}
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); run(t, "info", pool).code != exitOK; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the mount in the background does not end")
			}
		}
	}
	fails(t, exitUnable, []string{"no such file", "mkdir"}, "mount", pool, filepath.Join(dir, "missing"))
	fails(t, exitUnable, []string{"no such file", "mkdir"}, "mount", pool, filepath.Join(dir, "missing"), "--background")
	fails(t, exitUnable, []string{"behind -o"}, "mount", pool, dir, "-o", "nonsense")
	fails(t, exitUnable, []string{"commit policy"}, "mount", pool, dir, "-o", "commit=nonsense")
}

// TestMountKilled: what a mount whose process is killed leaves behind is in nobody's way, and nothing is lost.
func TestMountKilled(t *testing.T) {
	pool := newPool(t)
	s, dir := mountPool(t, pool)
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory of a dead mount can be used")
	}
	again := command("mount", pool, dir, "--background")
	if o := execute(t, again); o.code != exitOK {
		t.Fatal(o.stderr)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "a")); string(got) != "text" {
		t.Errorf("%q, %v", got, err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Error(err)
	}
}

// TestMountBesideClients: programs that use the pool directly and those that use the mount see each other's changes at once,
// whoever owns the pool.
func TestMountBesideClients(t *testing.T) {
	pool := newPool(t)
	socket := filepath.Join(memoryDir(t), "socket")
	t.Run("the mount owns it", func(t *testing.T) {
		_, dir := mountPool(t, pool, "--socket", socket)
		besideClients(t, dir, socket)
	})
	t.Run("a server owns it", func(t *testing.T) {
		s := startServer(t, newPool(t))
		_, dir := mountPool(t, s.socket)
		besideClients(t, dir, s.socket)
	})
}

func besideClients(t *testing.T, dir, socket string) {
	on := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	reads := func(name, want string) {
		t.Helper()
		if got, err := os.ReadFile(on(name)); string(got) != want || err != nil {
			t.Fatalf("the mount reads %q from %s, not %q: %v", got, name, want, err)
		}
	}
	must(os.Mkdir(on("d"), 0o700))
	must(os.WriteFile(on("d/a"), []byte("first"), 0o600))
	early, err := os.OpenFile(on("d/a"), os.O_RDWR, 0) // when the kernel may still cache
	must(err)
	defer early.Close()
	reads("d/a", "first")
	if _, err := os.Stat(on("d/later")); err == nil {
		t.Fatal("what is not there")
	}
	fsys, err := pmemfs.Dial(socket)
	must(err)
	f, err := fsys.OpenFile("d/a", os.O_RDWR, 0)
	must(err)
	m, err := f.Map(0, 4096, pmemfs.Shared)
	must(err)
	b := make([]byte, 5)
	for i, text := range []string{"store", "again", "third"} {
		copy(m.Bytes(), text) // nobody is told
		reads("d/a", text)
		if _, err := early.ReadAt(b, 0); string(b) != text || err != nil {
			t.Fatalf("an open file reads %q: %v", b, err)
		}
		_, err := early.WriteAt([]byte{byte('0' + i)}, 4)
		must(err)
		if got := m.Bytes()[4]; got != byte('0'+i) {
			t.Fatalf("the mapping has %q", got)
		}
	}
	must(fsys.WriteFile("d/later", []byte("x"), 0o600))
	reads("d/later", "x")
	must(fsys.Rename("d/later", "d/moved"))
	if _, err := os.Stat(on("d/later")); err == nil {
		t.Error("the old name is still there")
	}
	reads("d/moved", "x")
	must(fsys.Truncate("d/moved", 1<<20))
	must(fsys.Chmod("d/moved", 0o640))
	if st, err := os.Stat(on("d/moved")); err != nil || st.Size() != 1<<20 || st.Mode() != 0o640 {
		t.Error(st, err)
	}
	must(os.Remove(on("d/moved")))
	if _, err := fsys.Stat("d/moved"); err == nil {
		t.Error("the client sees what the mount has removed")
	}
	must(fsys.Remove("d/a"))
	if entries, err := os.ReadDir(on("d")); len(entries) > 0 || err != nil {
		t.Error(entries, err)
	}
	if _, err := early.ReadAt(b, 0); err != nil {
		t.Error("a file that is open:", err)
	}
	must(m.Unmap())
	must(f.Close())
	must(fsys.Close())
	must(os.WriteFile(on("alone"), []byte("again"), 0o600))
	reads("alone", "again")
}

// TestMountOptions: settings get to the kernel.
func TestMountOptions(t *testing.T) {
	pool := newPool(t)
	put(t, pool, "a", "text")
	_, dir := mountPool(t, pool, "-o", "ro,noexec", "-o", "allow_other")
	if err := os.WriteFile(filepath.Join(dir, "b"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Error(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, " "+dir+" ") && (!strings.Contains(line, "ro,") || !strings.Contains(line, "noexec") || !strings.Contains(line, "allow_other")) {
			t.Error(line)
		}
	}
}

// TestMountSurvivesServer: a mount by way of a socket goes on with the next server, with what is open in it.
func TestMountSurvivesServer(t *testing.T) {
	pool := newPool(t)
	s := startServer(t, pool)
	_, dir := mountPool(t, s.socket)
	name := filepath.Join(dir, "a")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("before"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(name); err != nil { // it lives by being open only
		t.Fatal(err)
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	again := command("serve", pool, "--socket", s.socket, "--runtime-dir", filepath.Dir(s.socket))
	out, err := again.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Process.Kill(); again.Wait() })
	readReady(t, out)
	b := make([]byte, 6)
	if _, err := f.ReadAt(b, 0); string(b) != "before" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := f.WriteAt([]byte("after "), 0); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(name, []byte("new"), 0o600); err != nil {
		t.Error(err)
	}
}
