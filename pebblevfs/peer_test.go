package pebblevfs_test

import (
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/pebblevfs"
)

// TestPeerVFS runs what Pebble's own test of its vfs package runs, from the file that it has for that, and expects the
// output which that file says.
func TestPeerVFS(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cockroachdb/pebble/v2").Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(strings.TrimSpace(string(dir)), "vfs", "testdata", "vfs")
	pooltest.Each(t, testPoolSize, func(t *testing.T, fsys *pmemfs.FS) {
		script := &vfsScript{FS: pebblevfs.New(fsys), out: new(strings.Builder)}
		datadriven.RunTest(t, file, func(t *testing.T, d *datadriven.TestData) string {
			script.out.Reset()
			for _, arg := range d.CmdArgs {
				script.linkErr = map[string]error{
					"ErrExist": oserror.ErrExist, "ErrNotExist": oserror.ErrNotExist, "ErrPermission": oserror.ErrPermission,
				}[arg.Vals[0]]
				if script.linkErr == nil {
					script.linkErr = fmt.Errorf("%s", arg.Vals[0])
				}
			}
			for line := range strings.SplitSeq(d.Input, "\n") {
				script.run(strings.Fields(line))
			}
			return script.out.String()
		})
	})
}

// vfsScript is a vfs.FS that logs operations and what they return.
type vfsScript struct {
	vfs.FS
	out     *strings.Builder
	linkErr error
}

func (s *vfsScript) run(words []string) {
	name := func(i int) string { return words[i] }
	none := vfs.WriteCategoryUnspecified
	switch words[0] {
	case "clone":
		to := s
		var opts []vfs.CloneOption
		for _, w := range words[3:] {
			switch w {
			case "mem":
				to = &vfsScript{FS: vfs.NewMem(), out: s.out}
			case "link":
				opts = append(opts, vfs.CloneTryLink)
			case "sync":
				opts = append(opts, vfs.CloneSync)
			}
		}
		vfs.Clone(s, to, name(1), name(2), opts...)
	case "create":
		f, _ := s.Create(name(1), none)
		f.Close()
	case "link":
		s.Link(name(1), name(2))
	case "link-or-copy":
		vfs.LinkOrCopy(s, name(1), name(2))
	case "reuseForWrite":
		s.ReuseForWrite(name(1), name(2), none)
	case "list":
		list, _ := s.List(name(1))
		slices.Sort(list)
		for _, n := range list {
			fmt.Fprintln(s.out, n)
		}
	case "mkdir":
		s.MkdirAll(name(1), 0o755)
	case "remove":
		s.Remove(name(1))
	case "remove-all":
		s.RemoveAll(name(1))
	}
}

func (s *vfsScript) log(format, what string, err error) {
	for _, e := range []struct {
		is    func(error) bool
		plain error
	}{{oserror.IsExist, oserror.ErrExist}, {oserror.IsNotExist, oserror.ErrNotExist}, {oserror.IsPermission, oserror.ErrPermission}} {
		if e.is(err) {
			err = e.plain
			break
		}
	}
	fmt.Fprintf(s.out, "%s: %s [%v]\n", format, what, err)
}

func (s *vfsScript) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.Create(name, c)
	s.log("create", name, err)
	return &scriptFile{f, s.PathBase(name), s}, err
}

func (s *vfsScript) Link(from, to string) error {
	err := s.linkErr
	if err == nil {
		err = s.FS.Link(from, to)
	}
	s.log("link", from+" -> "+to, err)
	return err
}

func (s *vfsScript) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.ReuseForWrite(from, to, c)
	s.log("reuseForWrite", from+" -> "+to, err)
	return f, err
}

func (s *vfsScript) MkdirAll(dir string, perm fs.FileMode) error {
	err := s.FS.MkdirAll(dir, perm)
	s.log("mkdir", dir, err)
	return err
}

func (s *vfsScript) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := s.FS.Open(name, opts...)
	s.log("open", name, err)
	return &scriptFile{f, name, s}, err
}

func (s *vfsScript) Remove(name string) error {
	err := s.FS.Remove(name)
	s.log("remove", name, err)
	return err
}

func (s *vfsScript) RemoveAll(name string) error {
	err := s.FS.RemoveAll(name)
	s.log("remove-all", name, err)
	return err
}

type scriptFile struct {
	vfs.File
	name string
	s    *vfsScript
}

func (f *scriptFile) Close() error {
	err := f.File.Close()
	f.s.log("close", f.name, err)
	return err
}

func (f *scriptFile) Sync() error {
	err := f.File.Sync()
	f.s.log("sync", f.name, err)
	return err
}
