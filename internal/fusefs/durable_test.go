package fusefs_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// durably are the ways to have the contents of a file, and all that finds them, durable when a call returns: see docs/mount.md.
var durably = map[string]func(path string, text []byte) error{
	"fsync": func(path string, text []byte) error { return put(path, 0, text, unix.Fsync) },
	"fdatasync": func(path string, text []byte) error {
		return put(path, 0, text, unix.Fdatasync)
	},
	"O_SYNC":  func(path string, text []byte) error { return put(path, unix.O_SYNC, text, nil) },
	"O_DSYNC": func(path string, text []byte) error { return put(path, unix.O_DSYNC, text, nil) },
	"O_DIRECT|O_DSYNC": func(path string, _ []byte) error {
		return put(path, unix.O_DIRECT|unix.O_DSYNC, whole, nil)
	},
	"RWF_DSYNC": func(path string, text []byte) error {
		return put(path, 0, nil, func(fd int) error {
			_, err := unix.Pwritev2(fd, [][]byte{text}, 0, unix.RWF_DSYNC)
			return err
		})
	},
	"msync": func(path string, text []byte) error {
		return put(path, 0, make([]byte, len(text)), func(fd int) error {
			p, err := unix.Mmap(fd, 0, len(text), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			copy(p, text)
			if err := unix.Msync(p, unix.MS_SYNC); err != nil {
				return err
			}
			return unix.Munmap(p)
		})
	},
	"fsync of another file that was changed later": func(path string, text []byte) error {
		if err := put(path, 0, text, nil); err != nil {
			return err
		}
		return put(path+"-later", 0, text, unix.Fsync)
	},
	"rename and fsync of the directory": func(path string, text []byte) error {
		if err := put(path+"-new", 0, text, unix.Fsync); err != nil {
			return err
		}
		if err := os.Rename(path+"-new", path); err != nil {
			return err
		}
		return opened(filepath.Dir(path), unix.O_DIRECTORY, 0, unix.Fsync)
	},
}

var whole = bytes.Repeat([]byte("direct! "), 512)

// put writes a new file and does something before it is closed.
func put(path string, flags int, text []byte, then func(fd int) error) error {
	return opened(path, unix.O_CREAT|unix.O_RDWR|flags, 0o600, func(fd int) error {
		if len(text) > 0 {
			if _, err := unix.Write(fd, text); err != nil {
				return err
			}
		}
		if then == nil {
			return nil
		}
		return then(fd)
	})
}

// TestDurable kills the mount after each call, with a commit policy that makes nothing durable by itself for an hour. What was
// asked for is there; what was only written is not, so that the test can tell.
func TestDurable(t *testing.T) {
	for name, write := range durably {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, "64M", "--commit", "interval=1h")
			text := fmt.Appendf(nil, "durable by %s\n", name)
			if err := write(filepath.Join(m.dir, "synced"), text); err != nil {
				t.Fatal(err)
			}
			if err := put(filepath.Join(m.dir, "written"), 0, text, nil); err != nil {
				t.Fatal(err)
			}
			m.kill()
			m.start()
			got, err := os.ReadFile(filepath.Join(m.dir, "synced"))
			if bytes.Equal(got, whole) {
				got = text
			}
			if err != nil || !bytes.Equal(got, text) {
				t.Errorf("%q, %v", got, err)
			}
			if _, err := os.Stat(filepath.Join(m.dir, "written")); err == nil {
				t.Error("what nobody has synced is there: the test shows nothing")
			}
		})
	}
}

// TestDurableAtOnce: with the commit policy op every call is durable when it returns, without being asked to be.
func TestDurableAtOnce(t *testing.T) {
	m := newMount(t, "64M", "--commit", "op")
	dir := filepath.Join(m.dir, "dir")
	for _, err := range []error{
		os.Mkdir(dir, 0o755), put(filepath.Join(dir, "a"), 0, []byte("text"), nil), os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")),
		os.Symlink("b", filepath.Join(dir, "link")), os.Chmod(filepath.Join(dir, "b"), 0o640), unix.Setxattr(filepath.Join(dir, "b"), "user.x", []byte("v"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	m.kill()
	m.start()
	got, err := os.ReadFile(filepath.Join(dir, "link"))
	st, statErr := os.Stat(filepath.Join(dir, "b"))
	value := make([]byte, 10)
	n, xattrErr := unix.Getxattr(filepath.Join(dir, "b"), "user.x", value)
	if string(got) != "text" || err != nil || statErr != nil || st.Mode() != 0o640 || xattrErr != nil || string(value[:n]) != "v" {
		t.Error(string(got), err, st, statErr, string(value[:max(n, 0)]), xattrErr)
	}
}
