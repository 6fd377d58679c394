package fusefs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// TestLikeHost makes random system calls, by several users, in a mount and in a directory of the host's file system, and
// compares what they return and what they leave: names, attributes, which times have changed, and contents.
func TestLikeHost(t *testing.T) {
	m := newMount(t, "256M")
	oracle := hostDir(t)
	users := []*user{newUser(t, 0, 0), newUser(t, 1001, 2001, 2002), newUser(t, 1002, 2002)}
	duration := 5 * time.Second
	if *long {
		duration = 5 * time.Minute
	}
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	deep := strings.Repeat("deep/", 12) // for links to ".."
	for _, dir := range []string{m.dir, oracle} {
		if err := os.MkdirAll(filepath.Join(dir, deep), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for start, n := time.Now(), 0; time.Since(start) < duration; n++ {
		ours, theirs := filepath.Join(m.dir, deep, fmt.Sprint("run-", n)), filepath.Join(oracle, deep, fmt.Sprint("run-", n))
		compareRun(t, r, users, ours, theirs, 300)
		if t.Failed() {
			return
		}
		for _, dir := range []string{ours, theirs} {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func compareRun(t *testing.T, r *rand.Rand, users []*user, ours, theirs string, steps int) {
	for _, dir := range []string{ours, theirs} {
		if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	var history []string
	before := [2]map[string]facts{tree(t, ours), tree(t, theirs)}
	for range steps {
		c := drawCall(r)
		u := users[r.IntN(len(users))]
		if r.IntN(3) == 0 {
			u = users[0]
		}
		history = append(history, fmt.Sprintf("user %d: %s", u.uid, c.text))
		got := u.do(func() error { return c.do(ours) })
		want := u.do(func() error { return c.do(theirs) })
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the mount returns %v, the host %v", got, want)
		}
		after := [2]map[string]facts{tree(t, ours), tree(t, theirs)}
		if diff := cmp.Diff(changes(before[1], after[1]), changes(before[0], after[0]), cmpopts.IgnoreUnexported(facts{})); diff != "" {
			t.Errorf("the host has (-), the mount has (+):\n%s", diff)
		}
		if t.Failed() {
			t.Logf("after\n%s", strings.Join(history[max(0, len(history)-25):], "\n"))
			return
		}
		before = after
	}
}

// facts are what is compared of a file.
type facts struct {
	Mode, Nlink, UID, GID uint32
	Rdev                  uint64
	Size                  int64 // of other than directories
	Target, Content       string
	Xattrs                string
	Changed, Modified     bool // its times, by the last call

	ctime, mtime unix.Timespec
	ino          uint64
}

// tree looks at everything below a directory.
func tree(t *testing.T, dir string) map[string]facts {
	t.Helper()
	all := map[string]facts{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		f, err := look(path)
		all[name] = f
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func look(path string) (f facts, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return f, err
	}
	f = facts{
		Mode: st.Mode, Nlink: uint32(st.Nlink), UID: st.Uid, GID: st.Gid, Rdev: uint64(st.Rdev), Size: st.Size, ctime: st.Ctim, mtime: st.Mtim, ino: st.Ino,
	}
	buf := make([]byte, 4096)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		f.Size = 0
	case unix.S_IFLNK:
		f.Target, err = os.Readlink(path)
	case unix.S_IFREG:
		var b []byte
		b, err = os.ReadFile(path)
		f.Content = string(b)
	}
	if n, listErr := unix.Llistxattr(path, buf); listErr == nil {
		var names []string
		for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
			if name == "" {
				continue
			}
			value := make([]byte, 4096)
			n, err := unix.Lgetxattr(path, name, value)
			if err != nil {
				return f, err
			}
			names = append(names, fmt.Sprintf("%s=%x", name, value[:n]))
		}
		f.Xattrs = strings.Join(sorted(names), " ")
	}
	return f, err
}

// changes is what is there after a call, with which times the call has changed.
func changes(before, after map[string]facts) map[string]facts {
	was := map[uint64]facts{}
	for _, f := range before {
		was[f.ino] = f
	}
	out := map[string]facts{}
	for name, f := range after {
		if old, ok := was[f.ino]; ok && old.Mode&unix.S_IFMT == f.Mode&unix.S_IFMT {
			f.Changed, f.Modified = old.ctime != f.ctime, old.mtime != f.mtime
		}
		f.ctime, f.mtime, f.ino = unix.Timespec{}, unix.Timespec{}, 0
		out[name] = f
	}
	return out
}

// call is a system call, or a few that belong together, on files below a directory.
type call struct {
	text string
	do   func(dir string) error
}
