package pebblevfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/pebblevfs"
)

// kind is what an error is to a caller of the vfs package.
func kind(err error) string {
	switch {
	case err == nil:
		return "nil"
	case errors.Is(err, io.EOF):
		return "EOF"
	case oserror.IsNotExist(err):
		return "not exist"
	case oserror.IsExist(err):
		return "exist"
	}
	return "another"
}

// side is a file system that is compared, and the files that are open on it.
type side struct {
	vfs.FS
	root string
	open map[string]vfs.File
}

func (s *side) path(name string) string { return s.PathJoin(s.root, name) }

// replace closes what is open under a name.
func (s *side) replace(name string, f vfs.File, err error) string {
	if old := s.open[name]; old != nil {
		old.Close()
	}
	delete(s.open, name)
	if err == nil {
		s.open[name] = f
	}
	return kind(err)
}

// everything is what is in a directory and all below.
func (s *side) everything(dir string) string {
	list, err := s.List(s.path(dir))
	slices.Sort(list)
	out := fmt.Sprintln(dir, list, kind(err))
	for _, name := range list {
		name = s.PathJoin(dir, name)
		fi, err := s.Stat(s.path(name))
		if err != nil {
			return out + kind(err)
		}
		if fi.IsDir() {
			out += s.everything(name)
			continue
		}
		f, err := s.FS.Open(s.path(name))
		if err != nil {
			return out + kind(err)
		}
		text, err := io.ReadAll(f)
		f.Close()
		out += fmt.Sprintf("%s %x %v\n", name, text, kind(err))
	}
	return out
}

// TestLikeDefault: random operations have the outcome that they have on vfs.Default.
func TestLikeDefault(t *testing.T) {
	pooltest.Each(t, testPoolSize, func(t *testing.T, fsys *pmemfs.FS) {
		round, dir := 0, pooltest.Dir(t)
		rapid.Check(t, func(t *rapid.T) {
			round++
			sides := []*side{
				{FS: vfs.Default, root: filepath.Join(dir, fmt.Sprint(round)), open: map[string]vfs.File{}},
				{FS: pebblevfs.New(fsys), root: fmt.Sprint("/round", round), open: map[string]vfs.File{}},
			}
			defer func() {
				for _, s := range sides {
					for name := range s.open {
						s.replace(name, nil, io.EOF)
					}
					s.FS.RemoveAll(s.root)
				}
			}()
			same := func(what string, f func(*side) string) {
				want, got := f(sides[0]), f(sides[1])
				if got != want {
					t.Fatalf("%s:\n%s\nwant\n%s", what, got, want)
				}
			}
			same("mkdir", func(s *side) string { return kind(s.MkdirAll(s.root, 0o755)) })
			names := rapid.SampledFrom([]string{"a", "b", "c", "d/a", "d/e/b", "d", "d/e"})
			categories := rapid.SampledFrom([]vfs.DiskWriteCategory{"pebble-wal", vfs.WriteCategoryUnspecified})
			on := func(action func(name string, s *side, f vfs.File) string) func(*rapid.T) {
				return func(t *rapid.T) {
					name := names.Draw(t, "name")
					same(name, func(s *side) string {
						f := s.open[name]
						if f == nil {
							return "not open"
						}
						return action(name, s, f)
					})
				}
			}
			t.Repeat(map[string]func(*rapid.T){
				"": func(*rapid.T) {
					// A log that is being written is longer than it says.
					if len(sides[0].open) == 0 {
						same("contents", func(s *side) string { return s.everything(".") })
					}
				},
				"mkdir": func(t *rapid.T) {
					name := names.Draw(t, "name")
					same("mkdir", func(s *side) string { return fmt.Sprint(s.MkdirAll(s.path(name), 0o755) == nil) })
				},
				"create": func(t *rapid.T) {
					name, c := names.Draw(t, "name"), categories.Draw(t, "category")
					same("create", func(s *side) string {
						f, err := s.Create(s.path(name), c)
						return s.replace(name, f, err)
					})
				},
				"reuse": func(t *rapid.T) {
					from, to, c := names.Draw(t, "from"), names.Draw(t, "to"), categories.Draw(t, "category")
					same("reuse", func(s *side) string {
						for name := range s.open { // a log that is reused is open nowhere, under no name that it ever had
							s.replace(name, nil, io.EOF)
						}
						for _, name := range []string{from, to} {
							if fi, err := s.Stat(s.path(name)); err == nil && fi.IsDir() {
								return "a directory"
							}
						}
						f, err := s.ReuseForWrite(s.path(from), s.path(to), c)
						return s.replace(to, f, err)
					})
				},
				"rename": func(t *rapid.T) {
					from, to := names.Draw(t, "from"), names.Draw(t, "to")
					same("rename", func(s *side) string {
						if fi, err := s.Stat(s.path(to)); err == nil && fi.IsDir() {
							return "a directory" // which os.Rename refuses, and rename(2) replaces if it is empty
						}
						return fmt.Sprint(s.Rename(s.path(from), s.path(to)) == nil)
					})
				},
				"link": func(t *rapid.T) {
					from, to := names.Draw(t, "from"), names.Draw(t, "to")
					same("link", func(s *side) string { return fmt.Sprint(s.Link(s.path(from), s.path(to)) == nil) })
				},
				"remove": func(t *rapid.T) {
					name := names.Draw(t, "name")
					same("remove", func(s *side) string { return kind(s.Remove(s.path(name))) })
				},
				"remove all": func(t *rapid.T) {
					name := names.Draw(t, "name")
					same("remove all", func(s *side) string { return kind(s.FS.RemoveAll(s.path(name))) })
				},
				"write": func(t *rapid.T) {
					data := bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, rapid.SampledFrom([]int{1, 7, 100, 4096, 70000}).Draw(t, "length"))
					on(func(name string, s *side, f vfs.File) string {
						n, err := f.Write(slices.Clone(data))
						return fmt.Sprint(n, kind(err))
					})(t)
				},
				"read at": func(t *rapid.T) {
					off, n := rapid.Int64Range(0, 80000).Draw(t, "offset"), rapid.IntRange(0, 5000).Draw(t, "length")
					on(func(name string, s *side, f vfs.File) string {
						p := make([]byte, n)
						n, err := f.ReadAt(p, off)
						return fmt.Sprintf("%d %x %s", n, p[:n], kind(err))
					})(t)
				},
				"stat": on(func(name string, s *side, f vfs.File) string {
					fi, err := f.Stat()
					return fmt.Sprint(fi.Size(), fi.IsDir(), kind(err))
				}),
				"sync": on(func(name string, s *side, f vfs.File) string {
					_, err := f.SyncTo(1)
					return kind(errors.Join(err, f.Sync(), f.SyncData()))
				}),
				"close": on(func(name string, s *side, f vfs.File) string { return s.replace(name, nil, io.EOF) }),
			})
		})
	})
}
