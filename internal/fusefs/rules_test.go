package fusefs_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"
)

// rule is what must hold in a directory of any file system, by POSIX or the manual pages of Linux.
type rule struct {
	name  string
	check func(t *testing.T, dir string)
}

// TestRules checks each rule in a mount, and on the host: a rule that the host breaks is none.
func TestRules(t *testing.T) {
	m := newMount(t, "256M")
	host := hostDir(t)
	for _, r := range rules {
		for _, on := range []struct{ name, dir string }{{"mount", m.dir}, {"host", host}} {
			t.Run(r.name+"/"+on.name, func(t *testing.T) {
				dir := filepath.Join(on.dir, strings.ReplaceAll(r.name, " ", "-"))
				if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
					t.Fatal(err)
				}
				r.check(t, dir)
			})
		}
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func create(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode))
}

var rules = []rule{
	{"unlinked but open", func(t *testing.T, dir string) {
		path := filepath.Join(dir, "a")
		f, err := os.Create(path)
		must(t, err)
		defer f.Close()
		p, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		must(t, err, f.Truncate(4096), os.Remove(path))
		copy(p, "mapped")
		must(t, unix.Msync(p, unix.MS_SYNC), unix.Munmap(p))
		b := make([]byte, 6)
		_, err = f.ReadAt(b, 0)
		st, statErr := f.Stat()
		if err != nil || string(b) != "mapped" || statErr != nil || st.Sys().(*syscall.Stat_t).Nlink != 0 {
			t.Error(string(b), err, st, statErr)
		}
		must(t, f.Chmod(0o640), f.Truncate(10), f.Sync())
		_, err = os.Stat(path)
		wantErr(t, "stat", err, unix.ENOENT)
	}},
	{"removed while it is somebody's directory", func(t *testing.T, dir string) {
		path := filepath.Join(dir, "d")
		must(t, os.Mkdir(path, 0o755))
		must(t, opened(path, unix.O_PATH|unix.O_DIRECTORY, 0, func(fd int) error {
			must(t, os.Remove(path))
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil || st.Nlink != 0 {
				t.Errorf("%d links, %v", st.Nlink, err)
			}
			_, err := unix.Openat(fd, "new", unix.O_CREAT|unix.O_WRONLY, 0o600)
			wantErr(t, "create in it", err, unix.ENOENT)
			return nil
		}))
	}},
	{"fifos sockets and devices", func(t *testing.T, dir string) {
		fifo := filepath.Join(dir, "fifo")
		must(t, unix.Mkfifo(fifo, 0o600))
		must(t, opened(fifo, unix.O_RDWR, 0, func(fd int) error {
			_, err := unix.Write(fd, []byte("x"))
			must(t, err, os.Remove(fifo))
			n, err := unix.Read(fd, make([]byte, 4))
			if n != 1 {
				t.Error(n)
			}
			var st unix.Stat_t
			return errors.Join(err, unix.Fstat(fd, &st))
		}))
		must(t, opened(dir, unix.O_DIRECTORY, 0, func(fd int) error {
			socket := fmt.Sprintf("/proc/self/fd/%d/socket", fd) // an address has room for 107 bytes
			l, err := net.Listen("unix", socket)
			must(t, err)
			defer l.Close()
			c, err := net.Dial("unix", socket)
			must(t, err)
			return c.Close()
		}))
		null := filepath.Join(dir, "null")
		must(t, unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		var st unix.Stat_t
		must(t, unix.Stat(null, &st))
		if st.Rdev != unix.Mkdev(1, 3) {
			t.Errorf("device %#x", st.Rdev)
		}
		must(t, os.WriteFile(null, []byte("gone"), 0))
	}},
	{"running programs", func(t *testing.T, dir string) {
		script, program := filepath.Join(dir, "script"), filepath.Join(dir, "program")
		create(t, script, "#!/bin/sh\nexit 7\n", 0o755)
		if err := exec.Command(script).Run(); err == nil || err.Error() != "exit status 7" {
			t.Error(err)
		}
		b, err := os.ReadFile("/bin/sleep")
		must(t, err, os.WriteFile(program, b, 0o700))
		cmd := exec.Command(program, "30")
		must(t, cmd.Start())
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
		wantErr(t, "write to a program that runs", opened(program, unix.O_WRONLY, 0, func(int) error { return nil }), unix.ETXTBSY)
		wantErr(t, "truncate", unix.Truncate(program, 0), unix.ETXTBSY)
		create(t, filepath.Join(dir, "plain"), "text", 0o644)
		wantErr(t, "exec without permission", exec.Command(filepath.Join(dir, "plain")).Run(), unix.EACCES)
		must(t, opened(filepath.Join(dir, "script"), unix.O_WRONLY, 0, func(int) error {
			wantErr(t, "exec of what is open for writing", exec.Command(script).Run(), unix.ETXTBSY)
			return nil
		}))
	}},
	{"links in circles and long names", func(t *testing.T, dir string) {
		a := filepath.Join(dir, "a")
		must(t, os.Symlink("b", a), os.Symlink("a", filepath.Join(dir, "b")))
		_, err := os.Stat(a)
		wantErr(t, "a circle", err, unix.ELOOP)
		wantErr(t, "O_NOFOLLOW", opened(a, unix.O_RDONLY|unix.O_NOFOLLOW, 0, func(int) error { return nil }), unix.ELOOP)
		wantErr(t, "O_EXCL", opened(a, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600, func(int) error { return nil }), unix.EEXIST)
		for n, want := range map[int]error{255: nil, 256: unix.ENAMETOOLONG, 1024: unix.ENAMETOOLONG, 1025: unix.ENAMETOOLONG} {
			wantErr(t, fmt.Sprint(n, " bytes"), os.Mkdir(filepath.Join(dir, strings.Repeat("n", n)), 0o755), want)
		}
		must(t, os.Symlink(strings.Repeat("t", 4000), filepath.Join(dir, "long")))
		wantErr(t, "a target of 4096 bytes", os.Symlink(strings.Repeat("t", 4096), filepath.Join(dir, "longer")), unix.ENAMETOOLONG)
	}},
	{"a directory that changes while it is read", func(t *testing.T, dir string) {
		const n = 3000
		name := func(i int) string { return filepath.Join(dir, fmt.Sprint("name-", i)) }
		for i := range n {
			must(t, unix.Mknod(name(i), unix.S_IFREG|0o600, 0))
		}
		d, err := os.Open(dir)
		must(t, err)
		defer d.Close()
		seen := map[string]int{}
		for i := 0; ; i++ {
			names, err := d.Readdirnames(100)
			if err != nil {
				break
			}
			for _, s := range names {
				seen[s]++
			}
			if 10*i+9 < n { // those that end with 7 go, others come
				must(t, os.Remove(name(10*i+7)), os.WriteFile(filepath.Join(dir, fmt.Sprint("new-", i)), nil, 0o600))
			}
		}
		for i := range n {
			if s := filepath.Base(name(i)); i%10 != 7 && seen[s] != 1 {
				t.Errorf("%s was returned %d times", s, seen[s])
			}
		}
	}},
	{"large offsets", func(t *testing.T, dir string) {
		must(t, opened(filepath.Join(dir, "a"), unix.O_CREAT|unix.O_RDWR, 0o600, func(fd int) error {
			const far = 5 << 40
			_, err := unix.Pwrite(fd, []byte("far"), far)
			must(t, err)
			if at, err := unix.Seek(fd, 1, unix.SEEK_DATA); err != nil || at > far || at < far-1<<20 {
				t.Errorf("data at %d, %v", at, err)
			}
			if at, err := unix.Seek(fd, 0, unix.SEEK_HOLE); err != nil || at != 0 {
				t.Errorf("a hole at %d, %v", at, err)
			}
			_, err = unix.Seek(fd, far+3, unix.SEEK_DATA)
			wantErr(t, "data behind the end", err, unix.ENXIO)
			b := make([]byte, 5)
			n, err := unix.Pread(fd, b, far-2)
			if n != 5 || err != nil || string(b) != "\x00\x00far" {
				t.Errorf("%q, %v", b[:n], err)
			}
			wantErr(t, "beyond every file system", unix.Ftruncate(fd, math.MaxInt64), unix.EFBIG)
			var st unix.Stat_t
			must(t, unix.Fstat(fd, &st))
			if st.Blocks > 100 {
				t.Errorf("%d blocks", st.Blocks)
			}
			return nil
		}))
	}},
	{"the time of birth", func(t *testing.T, dir string) {
		path := filepath.Join(dir, "a")
		before := time.Now().Add(-time.Second)
		create(t, path, "text", 0o600)
		must(t, os.Chtimes(path, time.Unix(1, 0), time.Unix(2, 0)))
		var st unix.Statx_t
		must(t, unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st))
		birth := time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))
		if st.Mask&unix.STATX_BTIME == 0 || birth.Before(before) || birth.After(time.Now().Add(time.Second)) || st.Mtime.Sec != 2 {
			t.Errorf("%v, %+v", birth, st)
		}
	}},
	{"record locks", func(t *testing.T, dir string) {
		path := filepath.Join(dir, "a")
		create(t, path, "text", 0o600)
		must(t, opened(path, unix.O_RDWR, 0, func(a int) error {
			return opened(path, unix.O_RDWR, 0, func(b int) error {
				lock := &unix.Flock_t{Type: unix.F_WRLCK, Start: 1, Len: 2}
				must(t, unix.FcntlFlock(uintptr(a), unix.F_OFD_SETLK, lock))
				wantErr(t, "the same range", unix.FcntlFlock(uintptr(b), unix.F_OFD_SETLK, lock), unix.EAGAIN)
				must(t, unix.FcntlFlock(uintptr(b), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 3}))
				must(t, unix.Flock(a, unix.LOCK_EX))
				wantErr(t, "flock", unix.Flock(b, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
				return unix.Flock(a, unix.LOCK_UN)
			})
		}))
		if _, err := exec.LookPath("python3"); err == nil { // fcntl's locks are a process's
			sh(t, dir, `python3 - <<'P'
import fcntl, os
f = open("a", "r+"); fcntl.lockf(f, fcntl.LOCK_EX)
if os.fork() == 0:
    try: fcntl.lockf(open("a", "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB); os._exit(1)
    except OSError: os._exit(0)
assert os.wait()[1] == 0
P`)
		}
	}},
	{"groups", func(t *testing.T, dir string) {
		member, other := newUser(t, 3001, 3001, 3002, 3003), newUser(t, 3009, 3009)
		shared := filepath.Join(dir, "shared")
		must(t, os.Mkdir(shared, 0o755), os.Chown(shared, 0, 3003), os.Chmod(shared, 0o770|os.ModeSetgid))
		path := filepath.Join(shared, "a")
		must(t, member.do(func() error {
			return opened(path, unix.O_CREAT|unix.O_WRONLY, 0o640, func(int) error { return nil })
		}))
		var st unix.Stat_t
		must(t, unix.Stat(path, &st))
		if st.Uid != 3001 || st.Gid != 3003 || st.Mode&0o777 != 0o640 {
			t.Errorf("%+v", st)
		}
		wantErr(t, "who is no member", other.do(func() error { return unix.Stat(path, &st) }), unix.EACCES)
		wantErr(t, "a group that is not his", member.do(func() error { return unix.Chown(path, -1, 3009) }), unix.EPERM)
		must(t, member.do(func() error { return unix.Chown(path, -1, 3002) }))
		must(t, os.Mkdir(filepath.Join(dir, "sticky"), 0o755), os.Chmod(filepath.Join(dir, "sticky"), 0o777|os.ModeSticky))
		his := filepath.Join(dir, "sticky", "his")
		must(t, member.do(func() error { return unix.Mknod(his, unix.S_IFREG|0o666, 0) }))
		wantErr(t, "sticky", other.do(func() error { return unix.Unlink(his) }), unix.EPERM)
		wantErr(t, "sticky", other.do(func() error { return unix.Rename(his, his+"2") }), unix.EPERM)
		must(t, member.do(func() error { return unix.Unlink(his) }))
	}},
	{"who an ACL lets in", func(t *testing.T, dir string) {
		named, other := newUser(t, 1002, 1002), newUser(t, 1003, 1003)
		path := filepath.Join(dir, "a")
		create(t, path, "text", 0o600)
		must(t, unix.Setxattr(path, "system.posix_acl_access", aclOf(6, 6, 0, 4, 0), 0)) // what the mask leaves of rw is r
		read := func() error { return opened(path, unix.O_RDONLY, 0, func(int) error { return nil }) }
		write := func() error { return opened(path, unix.O_WRONLY, 0, func(int) error { return nil }) }
		must(t, named.do(read))
		wantErr(t, "beyond the mask", named.do(write), unix.EACCES)
		wantErr(t, "who is not named", other.do(read), unix.EACCES)
		must(t, os.Chmod(path, 0o660)) // the group's bits are the mask
		must(t, named.do(write))
		under := filepath.Join(dir, "d")
		must(t, os.Mkdir(under, 0o755), unix.Setxattr(under, "system.posix_acl_default", aclOf(7, 7, 5, 7, 0), 0))
		unix.Umask(0o077) // which a default ACL takes the place of
		err := os.WriteFile(filepath.Join(under, "b"), nil, 0o666)
		unix.Umask(0o022)
		st, statErr := os.Stat(filepath.Join(under, "b"))
		must(t, err, statErr)
		if st.Mode() != 0o660 {
			t.Errorf("mode %v", st.Mode())
		}
	}},
	{"chown of nothing", func(t *testing.T, dir string) {
		path := filepath.Join(dir, "a")
		create(t, path, "text", 0o755|os.ModeSetuid)
		var before, after unix.Stat_t
		must(t, unix.Stat(path, &before))
		time.Sleep(10 * time.Millisecond)
		must(t, os.Chown(path, -1, -1), unix.Stat(path, &after))
		if after.Mode != unix.S_IFREG|0o755 || after.Ctim == before.Ctim || after.Mtim != before.Mtim {
			t.Errorf("%+v\n%+v", before, after)
		}
	}},
	{"who writes drops privileges", func(t *testing.T, dir string) {
		path := filepath.Join(dir, "a")
		writer := newUser(t, 3001, 3001)
		for name, write := range map[string]func(fd int) error{
			"write":     func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err },
			"truncate":  func(fd int) error { return unix.Ftruncate(fd, 1) },
			"fallocate": func(fd int) error { return unix.Fallocate(fd, 0, 0, 8192) },
		} {
			create(t, path, "text", 0o777|os.ModeSetuid|os.ModeSetgid)
			must(t, writer.do(func() error { return opened(path, unix.O_WRONLY, 0, write) }))
			if st, err := os.Stat(path); err != nil || st.Mode() != 0o777 {
				t.Errorf("after %s by somebody else: %v, %v", name, st.Mode(), err)
			}
			create(t, path, "text", 0o777|os.ModeSetuid)
			must(t, opened(path, unix.O_WRONLY, 0, write))
			if st, err := os.Stat(path); err != nil || st.Mode() != 0o777|os.ModeSetuid {
				t.Errorf("after %s by root: %v, %v", name, st.Mode(), err)
			}
		}
	}},
}

// TestStatic: a static file is shown as one, and what it refuses is ETXTBSY.
func TestStatic(t *testing.T) {
	m := newMount(t, "64M")
	path := filepath.Join(m.dir, "a")
	create(t, path, strings.Repeat("x", 8192), 0o600)
	flags := func(set int) int {
		t.Helper()
		var got int
		must(t, opened(path, unix.O_RDONLY, 0, func(fd int) (err error) {
			if set >= 0 {
				must(t, unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, set))
			}
			got, err = unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
			return err
		}))
		return got
	}
	const noCow = 0x00800000
	if got := flags(-1); got != 0 {
		t.Errorf("flags %#x", got)
	}
	if got := flags(noCow); got != noCow {
		t.Errorf("flags %#x of a static file", got)
	}
	wantErr(t, "truncate", unix.Truncate(path, 0), unix.ETXTBSY)
	wantErr(t, "O_TRUNC", opened(path, unix.O_WRONLY|unix.O_TRUNC, 0, func(int) error { return nil }), unix.ETXTBSY)
	wantErr(t, "a hole", opened(path, unix.O_WRONLY, 0, func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
	}), unix.ETXTBSY)
	must(t, opened(path, unix.O_WRONLY, 0, func(fd int) error {
		_, err := unix.Pwrite(fd, []byte("y"), 5000)
		return err
	}))
	if got := flags(0); got != 0 {
		t.Errorf("flags %#x", got)
	}
	must(t, unix.Truncate(path, 100))
}

// TestCopyShares: copy_file_range takes no blocks for what it copies whole, and the copies do not change with each other.
func TestCopyShares(t *testing.T) {
	m := newMount(t, "64M")
	const size = 8 << 20
	from, to := filepath.Join(m.dir, "from"), filepath.Join(m.dir, "to")
	create(t, from, strings.Repeat("0123456789abcdef", size/16)+"end", 0o600)
	free := func() uint64 {
		var st unix.Statfs_t
		must(t, unix.Statfs(m.dir, &st))
		return st.Bfree
	}
	before := free()
	must(t, opened(from, unix.O_RDONLY, 0, func(a int) error {
		return opened(to, unix.O_CREAT|unix.O_RDWR, 0o600, func(b int) error {
			for left := size + 3; left > 0; {
				n, err := unix.CopyFileRange(a, nil, b, nil, left, 0)
				if err != nil || n == 0 {
					return fmt.Errorf("%d bytes left: %w", left, errors.Join(err, unix.EIO))
				}
				left -= n
			}
			return nil
		})
	}))
	if used := before - free(); used > 16 {
		t.Errorf("the copy of %d blocks took %d", size/4096, used)
	}
	must(t, opened(to, unix.O_WRONLY, 0, func(fd int) error { _, err := unix.Pwrite(fd, []byte("changed"), 4090); return err }))
	a, errA := os.ReadFile(from)
	b, errB := os.ReadFile(to)
	must(t, errA, errB)
	if string(a) != strings.Repeat("0123456789abcdef", size/16)+"end" || string(b) != string(a[:4090])+"changed"+string(a[4097:]) {
		t.Error("the files are not what they should be")
	}
}

// TestExtents asks where a file lies, by struct fiemap in an ioctl whose number counts the extents.
func TestExtents(t *testing.T) {
	m := newMount(t, "64M")
	path := filepath.Join(m.dir, "a")
	must(t, opened(path, unix.O_CREAT|unix.O_RDWR, 0o600, func(fd int) error {
		_, err := unix.Pwrite(fd, []byte("x"), 5<<20)
		must(t, err, unix.Fallocate(fd, 0, 1<<20, 8192))
		b := make([]byte, 32+4*56)
		ne := binary.NativeEndian
		ne.PutUint64(b[8:], math.MaxInt64)
		ne.PutUint32(b[24:], 4)
		number := 0xc000660b | uint(len(b))<<16
		must(t, ioctl(fd, number, b))
		first, second := b[32:], b[32+56:]
		if ne.Uint32(b[20:]) != 2 || ne.Uint64(first) != 1<<20 || ne.Uint64(first[16:]) != 8192 || ne.Uint32(first[40:]) != 0x800 ||
			ne.Uint64(second) != 5<<20 || ne.Uint64(second[16:]) != 4096 || ne.Uint32(second[40:]) != 1 {
			t.Errorf("% x", b)
		}
		return nil
	}))
}

// TestFull: what was removed can be used again at once, and until then nothing can be written.
func TestFull(t *testing.T) {
	m := newMount(t, "32M")
	path := filepath.Join(m.dir, "full")
	block := make([]byte, 1<<20)
	var free uint64
	for i := range 5 {
		var st unix.Statfs_t
		must(t, unix.Statfs(m.dir, &st))
		if i == 0 {
			free = st.Bfree
		} else if st.Bfree != free {
			t.Errorf("%d blocks are free, %d were", st.Bfree, free)
		}
		written := 0
		err := opened(path, unix.O_CREAT|unix.O_WRONLY, 0o600, func(fd int) error {
			for {
				n, err := unix.Write(fd, block)
				if err != nil {
					return err
				}
				written += n
			}
		})
		wantErr(t, "a full pool", err, unix.ENOSPC)
		if written < 16<<20 {
			t.Fatalf("round %d: %d bytes", i, written)
		}
		must(t, os.Remove(path))
	}
}

// TestPosix runs the tests that go-fuse has for its own file systems.
func TestPosix(t *testing.T) {
	for _, socket := range []bool{false, true} {
		var flags []string
		if socket {
			dir := memoryDir(t)
			flags = []string{"--socket", filepath.Join(dir, "socket"), "--runtime-dir", dir}
		}
		m := newMount(t, "256M", flags...)
		for name, check := range posixtest.All {
			if name == "FcntlFlockLocksFile" {
				continue // locks of one process do not conflict, whichever descriptor they were taken by: fcntl(2)
			}
			t.Run(fmt.Sprintf("%s/others may come: %v", name, socket), func(t *testing.T) {
				dir := filepath.Join(m.dir, name)
				must(t, os.Mkdir(dir, 0o755))
				check(t, dir)
			})
		}
	}
}
