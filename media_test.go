package pmemfs_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium/mediumtest"
	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/internal/server"
)

func init() { roles["server with bad blocks"] = badServerRole }

// badServerRole serves a pool and makes blocks of its areas bad, as it is told ("data 4096"): POOL SOCKET.
func badServerRole(args []string, in *bufio.Scanner) error {
	srv, err := server.Open(args[0], server.Options{RuntimeDir: filepath.Dir(args[1])})
	if err != nil {
		return err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	go func() {
		for in.Scan() {
			area, offset, _ := strings.Cut(in.Text(), " ")
			off, err := strconv.ParseInt(offset, 10, 64)
			if err == nil {
				err = mediumtest.SpoilFile(filepath.Join(args[0], area), off)
			}
			fmt.Println("bad:", err)
		}
		write.Close()
	}()
	return pooltest.ServeUntilEnd(srv, args[1], server.Access{GID: -1}, bufio.NewScanner(read))
}

// badMedium is a pool whose blocks can be made bad.
type badMedium struct {
	t      *testing.T
	fsys   *pmemfs.FS
	pool   string
	server *pooltest.Child // nil: embedded
	kind   pmemfs.MapFlags
}

// eachBadMedium runs a test on an embedded pool, and on one that is served by another process.
func eachBadMedium(t *testing.T, f func(t *testing.T, m *badMedium)) {
	t.Run("embedded", func(t *testing.T) {
		pool := newPool(t)
		f(t, &badMedium{t: t, fsys: openPool(t, pool), pool: pool, kind: pmemfs.Shared})
	})
	t.Run("dialled", func(t *testing.T) {
		pool := newPool(t)
		socket := filepath.Join(pooltest.Dir(t), "socket")
		c := pooltest.Start(t, "server with bad blocks", pool, socket)
		c.Expect("serving")
		f(t, &badMedium{t: t, fsys: dial(t, socket), pool: pool, server: c, kind: pmemfs.Sync})
		if _, err := os.Stat(socket); err != nil {
			t.Errorf("the server is gone: %v", err)
		}
	})
}

const badSize = 4096

// lose makes a block of a file bad for the owner of the pool and, if this process has it mapped, for itself.
func (m *badMedium) lose(f *pmemfs.File, block int64, mapped bool) {
	m.t.Helper()
	extents, err := f.Extents()
	if err != nil {
		m.t.Fatal(err)
	}
	for _, x := range extents {
		if off := block*badSize - x.Offset; off >= 0 && off < x.Length {
			m.spoil("data", x.Block*badSize+off, mapped)
			return
		}
	}
	m.t.Fatalf("block %d is in none of %v", block, extents)
}

// spoil makes a block of an area bad for the owner of the pool, and for this process if it has that mapped.
func (m *badMedium) spoil(area string, off int64, mapped bool) {
	m.t.Helper()
	if m.server == nil || mapped {
		if err := mediumtest.SpoilFile(filepath.Join(m.pool, area), off); err != nil {
			m.t.Fatal(err)
		}
	}
	if m.server != nil {
		m.server.Tell("%s %d", area, off)
		m.server.Expect("bad: <nil>")
	}
}

// wantLost fails unless an error names the file and the block that is lost.
func wantLost(t *testing.T, what string, err error, name string, block int64) {
	t.Helper()
	var lost *pmemfs.MediaError
	var path *fs.PathError
	if !errors.As(err, &lost) || !errors.Is(err, unix.EIO) || lost.Offset != block*badSize || !errors.As(err, &path) ||
		!strings.HasSuffix(path.Path, name) || !strings.Contains(err.Error(), "to heal it") {
		t.Errorf("%s: %v, want block %d of %s to be lost", what, err, block, name)
	}
}

// wantAccess fails unless the error of an access says at which byte it was.
func wantAccess(t *testing.T, what string, err error, name string, offset int64) {
	t.Helper()
	wantLost(t, what, err, name, offset/badSize)
	var access *pmemfs.FaultError
	if !errors.As(err, &access) || access.Offset != offset {
		t.Errorf("%s: %v, want an access at %d", what, err, offset)
	}
}

// newBadFile makes a file of ten blocks of ones.
func (m *badMedium) newFile(name string) *pmemfs.File {
	m.t.Helper()
	f, err := m.fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { f.Close() })
	if _, err := f.WriteAt(bytes.Repeat([]byte{1}, 10*badSize), 0); err != nil {
		m.t.Fatal(err)
	}
	return f
}

func (m *badMedium) mapFile(f *pmemfs.File, flags pmemfs.MapFlags) *pmemfs.Mapping {
	m.t.Helper()
	mapping, err := f.Map(0, 10*badSize, m.kind|flags)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { mapping.Unmap() })
	return mapping
}

func load(mapping *pmemfs.Mapping, off int64) (b byte, err error) {
	err = pmemfs.Catch(func() { b = mapping.Bytes()[off] })
	return b, err
}

// TestLostBlockOfFile: reads, writes of a part and copies of a lost block fail and name file and offset, whatever comes
// first; overwriting it heals it.
func TestLostBlockOfFile(t *testing.T) {
	eachBadMedium(t, func(t *testing.T, m *badMedium) {
		f, other := m.newFile("dir-file"), m.newFile("other")
		m.lose(f, 5, false)
		p := make([]byte, 10*badSize)
		for range 2 {
			_, err := f.ReadAt(p, 0)
			wantLost(t, "read", err, "dir-file", 5)
			_, err = f.WriteAt(p[:100], 5*badSize+100)
			wantLost(t, "write of a part", err, "dir-file", 5)
			wantLost(t, "relocate", f.Relocate(0, 10*badSize), "dir-file", 5)
			_, err = m.fsys.ReadFile("dir-file")
			wantLost(t, "read of all", err, "dir-file", 5)
			_, err = other.CopyRange(0, f, 5*badSize+1, 100)
			if !errors.As(err, new(*pmemfs.MediaError)) {
				t.Errorf("copy: %v", err)
			}
			if _, err := f.ReadAt(p[:4*badSize], 6*badSize); err != nil {
				t.Errorf("read of what is behind it: %v", err)
			}
		}
		if err := m.fsys.Clone("dir-file", "clone"); err != nil {
			t.Error(err)
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte{2}, badSize), 5*badSize); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(p, 0); err != nil || p[5*badSize] != 2 || p[4*badSize] != 1 || p[6*badSize] != 1 {
			t.Errorf("after it was overwritten: %v, %d", err, p[5*badSize])
		}
		_, err := m.fsys.ReadFile("clone")
		wantLost(t, "read of the clone", err, "clone", 5)
	})
}

// TestLostBlockOfMapping: an access to a lost block is an error that Catch returns, be it the program's own that finds out, or
// a fault that the server does not answer, and everybody sees what heals it.
func TestLostBlockOfMapping(t *testing.T) {
	eachBadMedium(t, func(t *testing.T, m *badMedium) {
		f := m.newFile("file")
		mapping := m.mapFile(f, pmemfs.Populate)
		m.lose(f, 5, true)
		for range 2 {
			_, err := load(mapping, 5*badSize+17)
			wantAccess(t, "load", err, "file", 5*badSize+17)
			wantAccess(t, "store", pmemfs.Catch(func() { mapping.Bytes()[5*badSize+30] = 3 }), "file", 5*badSize+30)
			wantAccess(t, "copy", pmemfs.Catch(func() { copy(make([]byte, 10*badSize), mapping.Bytes()) }), "file", 5*badSize)
			wantLost(t, "persist", mapping.Persist(0, 10*badSize), "file", 5)
		}
		if m.server != nil {
			again := m.mapFile(f, 0)
			_, err := load(again, 5*badSize+17)
			wantAccess(t, "fault", err, "file", 5*badSize+17)
			if b, err := load(again, 6*badSize); b != 1 || err != nil {
				t.Errorf("fault of the next block: %d, %v", b, err)
			}
		}
		if _, err := f.Map(0, 10*badSize, m.kind|pmemfs.Populate); !errors.Is(err, unix.EIO) {
			t.Errorf("a mapping that is populated: %v", err)
		}
		for _, block := range []int64{4, 6} {
			if b, err := load(mapping, block*badSize); b != 1 || err != nil {
				t.Errorf("load of block %d: %d, %v", block, b, err)
			}
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte{2}, badSize), 5*badSize); err != nil {
			t.Fatal(err)
		}
		if b, err := load(mapping, 5*badSize+17); b != 2 || err != nil {
			t.Errorf("load after it was overwritten: %d, %v", b, err)
		}
		if err := errors.Join(pmemfs.Catch(func() { mapping.Bytes()[5*badSize] = 3 }), mapping.Sync(0, 10*badSize)); err != nil {
			t.Error(err)
		}
	})
}

// TestSealedLostBlock: what is sealed cannot be healed, because who has it mapped must map it anew.
func TestSealedLostBlock(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOTHING WAS TESTED: Direct mappings take CAP_LINUX_IMMUTABLE")
	}
	eachBadMedium(t, func(t *testing.T, m *badMedium) {
		f := m.newFile("file")
		m.kind = pmemfs.Direct
		mapping := m.mapFile(f, 0)
		m.lose(f, 5, true)
		_, err := load(mapping, 5*badSize+17)
		wantAccess(t, "load", err, "file", 5*badSize+17)
		if _, err := f.WriteAt(make([]byte, badSize), 5*badSize); !errors.Is(err, pmemfs.ErrSealed) {
			t.Errorf("overwritten while it was sealed: %v", err)
		}
		if err := mapping.Unmap(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, badSize), 5*badSize); err != nil {
			t.Error(err)
		}
	})
}

// TestCutOffPool: a pool whose file is cut off under its owner does not end it.
func TestCutOffPool(t *testing.T) {
	eachBadMedium(t, func(t *testing.T, m *badMedium) {
		f := m.newFile("file")
		if err := os.Truncate(filepath.Join(m.pool, "data"), 0); err != nil {
			t.Fatal(err)
		}
		_, err := f.ReadAt(make([]byte, 1), 0)
		wantLost(t, "read", err, "file", 0)
		if _, err := f.WriteAt(make([]byte, badSize), 0); !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "cut off") {
			t.Errorf("write: %v", err)
		}
		if _, err := m.fsys.Stat("file"); err != nil {
			t.Error(err)
		}
	})
}

// TestLostMetadata: what needs a directory in a bad block fails and names the structure; what does not goes on.
func TestLostMetadata(t *testing.T) {
	eachBadMedium(t, func(t *testing.T, m *badMedium) {
		f := m.newFile("file")
		meta, err := os.ReadFile(filepath.Join(m.pool, "meta"))
		if err != nil {
			t.Fatal(err)
		}
		sb, err := layout.ReadSuperblock(meta)
		if err != nil {
			t.Fatal(err)
		}
		m.spoil("meta", sb.NodeArea.Offset, false) // of the root directory
		for range 2 {
			_, statErr := m.fsys.Stat("file")
			_, snapshotErr := m.fsys.Snapshot(".", "snapshot", 0)
			for _, err := range []error{
				statErr, snapshotErr, m.fsys.Mkdir("new", 0o700), m.fsys.Remove("file"), m.fsys.Rename("file", "other"), m.fsys.Link("file", "link"),
			} {
				if !errors.Is(err, pmemfs.ErrCorrupt) || !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "node 1") {
					t.Errorf("%v, want node 1 to be damaged", err)
				}
			}
		}
		if _, err := f.WriteAt(make([]byte, 3*badSize), 9*badSize); err != nil {
			t.Error(err)
		}
		if _, err := f.ReadAt(make([]byte, 12*badSize), 0); err != nil {
			t.Error(err)
		}
	})
}

// TestCheckMedia: every block is read, and what is bad is named by file and offset. The blocks become bad when the check has
// the pool open and has read the first of it.
func TestCheckMedia(t *testing.T) {
	pool := newPool(t)
	m := &badMedium{t: t, fsys: openPool(t, pool), pool: pool}
	if err := m.fsys.Mkdir("dir", 0o700); err != nil {
		t.Fatal(err)
	}
	extents, err := m.newFile("dir/file").Extents()
	if err != nil || len(extents) != 1 {
		t.Fatal(extents, err)
	}
	if err := m.fsys.Close(); err != nil {
		t.Fatal(err)
	}
	meta, err := os.ReadFile(filepath.Join(pool, "meta"))
	if err != nil {
		t.Fatal(err)
	}
	sb, err := layout.ReadSuperblock(meta)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		file    string
		off     int64
		want    pmemfs.BadBlocks
		problem string // that is reported on top
	}{
		"nothing": {},
		"a file": {"data", (extents[0].Block + 5) * badSize, pmemfs.BadBlocks{Media: core.Media{
			Files: []pmemfs.BadExtent{{Path: "/dir/file", Ino: 4, Offset: 5 * badSize, Length: badSize}},
		}}, ""},
		"a directory": {"meta", sb.NodeArea.Offset, pmemfs.BadBlocks{Media: core.Media{
			Meta: []pmemfs.BadStructure{{Structure: "node 1", Offset: sb.NodeArea.Offset, Length: badSize}},
		}}, "node 1"},
		"the root": {"meta", sb.InodeTable.Offset, pmemfs.BadBlocks{Media: core.Media{
			Meta: []pmemfs.BadStructure{{Structure: "meta area", Offset: sb.InodeTable.Offset, Length: badSize}},
		}}, "inodes 0 to 15"},
	} {
		t.Run(name, func(t *testing.T) {
			spoilt := c.file == ""
			var problems []string
			r, err := pmemfs.Check(t.Context(), pool, pmemfs.CheckOptions{
				Media: true, Report: func(p pmemfs.Problem) { problems = append(problems, p.Structure) },
				MediaProgress: func(done, total int64) {
					if !spoilt {
						spoilt = true
						if err := mediumtest.SpoilFile(filepath.Join(pool, c.file), c.off); err != nil {
							t.Error(err)
						}
					}
				},
			})
			if err != nil || !spoilt {
				t.Fatal(err, spoilt)
			}
			if diff := cmp.Diff(&c.want, r.Media, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			if (c.problem != "" || problems != nil) && !slices.Contains(problems, c.problem) {
				t.Errorf("problems %q, want %q", problems, c.problem)
			}
			if r.Clean() != (name == "nothing") {
				t.Errorf("clean is %v", r.Clean())
			}
		})
	}
}
