package pmemfs_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
)

func init() { roles["visitor"] = visitorRole }

// visitorRole becomes another user and says what it may do: SOCKET UID GID GROUP.
func visitorRole(args []string, _ *bufio.Scanner) error {
	var id [3]int
	for i := range id {
		n, err := strconv.Atoi(args[i+1])
		if err != nil {
			return err
		}
		id[i] = n
	}
	for _, err := range []error{
		syscall.Setgroups([]int{id[2]}), syscall.Setgid(id[1]), syscall.Setuid(id[0]),
	} {
		if err != nil {
			return err
		}
	}
	fsys, err := pmemfs.Dial(args[0])
	fmt.Println("dial:", outcome(err))
	if err != nil {
		return nil
	}
	defer fsys.Close()
	_, err = fsys.ReadFile("public/read")
	fmt.Println("read:", outcome(err))
	_, err = fsys.ReadFile("secret")
	fmt.Println("secret:", outcome(err))
	fmt.Println("write:", outcome(fsys.WriteFile("public/write", []byte("x"), 0o600)))
	fmt.Println("make:", outcome(fsys.WriteFile("mine", []byte("x"), 0o600)))
	fmt.Println("group:", outcome(fsys.WriteFile("group", []byte("x"), 0o600)))
	fmt.Println("chmod:", outcome(fsys.Chmod("public/read", 0o777)))
	fmt.Println("clone:", outcome(fsys.Clone("public/read", "public/clone")))
	fmt.Println("clone a secret:", outcome(fsys.Clone("secret", "public/secret")))
	fmt.Println("make a clone:", outcome(fsys.Clone("public/read", "mine")))
	return nil
}

// outcome is the name of an error's errno.
func outcome(err error) string {
	for _, errno := range []unix.Errno{unix.EACCES, unix.EPERM, unix.EROFS} {
		if errors.Is(err, errno) {
			return unix.ErrnoName(errno)
		}
	}
	if err != nil {
		return err.Error()
	}
	return "done"
}

// Who may connect, and what the file system lets whom do. It takes root to become somebody else.
func TestOtherUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	pool := newPool(t)
	fsys, err := pmemfs.Open(pool)
	must(t, err)
	must(t, fsys.Mkdir("public", 0o777))
	write(t, fsys, "public/read", "public")
	must(t, fsys.WriteFile("secret", []byte("secret"), 0o600))
	must(t, fsys.WriteFile("group", nil, 0o660))
	must(t, fsys.Chown("group", 0, 4321))
	must(t, fsys.Close())
	full := []string{"dial: done", "read: done", "secret: EACCES", "write: done", "make: EACCES", "group: EACCES", "chmod: EPERM",
		"clone: done", "clone a secret: EACCES", "make a clone: EACCES"}
	member := []string{"dial: done", "read: done", "secret: EACCES", "write: done", "make: EACCES", "group: done", "chmod: EPERM",
		"clone: done", "clone a secret: EACCES", "make a clone: EACCES"}
	readOnly := []string{"dial: done", "read: done", "secret: EACCES", "write: EROFS", "make: EROFS", "group: EROFS", "chmod: EROFS",
		"clone: EROFS", "clone a secret: EROFS", "make a clone: EROFS"}
	for _, c := range []struct {
		mode, socketGroup, uid, gid, group string
		want                               []string
	}{
		{"600", "-1", "65534", "65534", "4321", []string{"dial: EACCES"}},
		{"666", "-1", "65534", "65534", "5", full},
		{"666", "-1", "65533", "65534", "4321", member},
		{"660", "77", "65534", "77", "5", full},
		{"660", "77", "65534", "65534", "77", full},
		{"640", "77", "65534", "65534", "77", readOnly},
		{"660", "77", "65534", "65534", "78", []string{"dial: EACCES"}},
	} {
		t.Run(fmt.Sprintf("%s-%s-%s-%s", c.mode, c.uid, c.gid, c.group), func(t *testing.T) {
			socket, srv := serve(t, pool, c.mode, c.socketGroup)
			must(t, os.Chmod(filepath.Dir(socket), 0o755))
			visitor := pooltest.Start(t, "visitor", socket, c.uid, c.gid, c.group)
			for _, want := range c.want {
				visitor.Expect(want)
			}
			visitor.Finish()
			fsys := dial(t, socket)
			if info, err := fsys.Stat("public/clone"); err == nil && fmt.Sprint(info.Sys().(*pmemfs.Stat).UID) != c.uid {
				t.Errorf("the clone belongs to user %d", info.Sys().(*pmemfs.Stat).UID)
			}
			for _, name := range []string{"public/write", "public/clone"} {
				if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
				}
			}
			must(t, fsys.Close())
			srv.Finish()
		})
	}
}
