package pebblevfs_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/pebblevfs"
)

// lockerRole says whether it has the lock of a name, and keeps it until its input ends: SOCKET NAME.
func lockerRole(args []string, in *bufio.Scanner) error {
	fsys, err := pmemfs.Dial(args[0])
	if err != nil {
		return err
	}
	l, err := pebblevfs.New(fsys).Lock(args[1])
	switch {
	case errors.Is(err, pebblevfs.ErrLocked):
		fmt.Println("refused")
		return nil
	case err != nil:
		return err
	}
	fmt.Println("locked")
	for in.Scan() {
	}
	return errors.Join(l.Close(), fsys.Close())
}

func TestLock(t *testing.T) {
	pooltest.Each(t, testPoolSize, func(t *testing.T, fsys *pmemfs.FS) {
		v := pebblevfs.New(fsys)
		for range 3 {
			l, err := v.Lock("/LOCK")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pebblevfs.New(fsys).Lock("LOCK"); !errors.Is(err, pebblevfs.ErrLocked) {
				t.Fatalf("a second lock: %v", err)
			}
			other, err := v.Lock("OTHER")
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(l.Close(), other.Close()); err != nil {
				t.Fatal(err)
			}
			if l.Close() == nil {
				t.Error("it was unlocked twice")
			}
		}
	})
}

// TestLockProcesses: a lock excludes other processes, until it is given up or its holder is killed.
func TestLockProcesses(t *testing.T) {
	socket, _ := pooltest.Serve(t, pooltest.New(t, testPoolSize))
	v := pebblevfs.New(pooltest.MustOpen(t, socket))
	refused := func() {
		t.Helper()
		if _, err := v.Lock("LOCK"); !errors.Is(err, pebblevfs.ErrLocked) {
			t.Errorf("a second lock: %v", err)
		}
		c := pooltest.Start(t, "locker", socket, "LOCK")
		c.Expect("refused")
		c.Finish()
	}
	for _, end := range []func(*pooltest.Child){(*pooltest.Child).Finish, (*pooltest.Child).Kill} {
		c := pooltest.Start(t, "locker", socket, "LOCK")
		c.Expect("locked")
		refused()
		end(c)
		if err := locked(t, v).Close(); err != nil {
			t.Error(err)
		}
	}
	l := locked(t, v)
	refused()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// locked takes a lock whose holder has ended, which the server need not have noticed yet.
func locked(t *testing.T, v vfs.FS) io.Closer {
	t.Helper()
	l, err := v.Lock("LOCK")
	for end := time.Now().Add(10 * time.Second); errors.Is(err, pebblevfs.ErrLocked) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
		l, err = v.Lock("LOCK")
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestLockRace: of several processes that want a lock at the same moment one gets it at most, and in the end one does.
func TestLockRace(t *testing.T) {
	socket, _ := pooltest.Serve(t, pooltest.New(t, testPoolSize))
	got := 0
	for range 10 {
		var all []*pooltest.Child
		for range 4 {
			all = append(all, pooltest.Start(t, "locker", socket, "LOCK"))
		}
		holders := 0
		for _, c := range all {
			switch line := c.Line(); line {
			case "locked":
				holders++
			case "refused":
			default:
				t.Fatalf("a process says %q", line)
			}
		}
		if holders > 1 {
			t.Fatalf("%d processes have the lock", holders)
		}
		got += holders
		for _, c := range all {
			c.Finish()
		}
	}
	if got == 0 {
		t.Error("nobody ever got the lock")
	}
}
