// Package demo shows what pmemfs is for, on real input and with real crashes: it imports a source tree through a
// server and verifies every byte, lets several processes append records to mapped files while it kills them and the
// server, reads back what they have acknowledged, checks the pool, and measures what a durable store costs.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/child"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// Options of the demo. Log is where it tells what it does.
type Options struct {
	Tree  string // imported; empty: the Go toolchain's own source
	Dir   string // where the pool is made: a directory, or a device; empty: in memory, or if that is too small where temporary files are
	Quick bool   // as little as shows everything once, for tests
	Log   io.Writer
	// Progress shows how far a step of total units has come; nil: nobody is watching.
	Progress func(what string, total int64) (add func(int64), done func())
}

// Result is what the demo has found. Its JSON names are a contract with scripts.
type Result struct {
	Tree        string `json:"tree"`
	Pool        string `json:"pool"` // where it was
	Kind        string `json:"medium"`
	Granularity string `json:"granularity"`
	Emulated    bool   `json:"emulated"`

	Files         int64 `json:"files"` // imported, and read back equal
	Bytes         int64 `json:"bytes"`
	Writers       int   `json:"writers"`
	WriterKills   int   `json:"writer_kills"`
	ServerKills   int   `json:"server_kills"`
	Acknowledged  int64 `json:"records_acknowledged"`
	Lost          int64 `json:"records_lost"`
	Relocations   int64 `json:"relocations"` // of blocks that a writer was storing to
	Truncations   int64 `json:"truncations"` // of a file that all writers had mapped
	Rotations     int64 `json:"rotations"`   // of a file that its writer had mapped
	Caught        int64 `json:"accesses_caught"`
	Survived      int64 `json:"writers_survived"` // how often a writer went on by itself over the death of a server
	CheckErrors   int64 `json:"check_errors"`
	FilesDiffer   int64 `json:"files_differing"` // of the tree, after everything
	RecoveryMilli int64 `json:"server_back_ms"`  // median time from the kill of a server to the next one's readiness

	Costs
	Seconds float64 `json:"seconds"`
}

// Costs are medians.
type Costs struct {
	SyncFault    *float64 `json:"sync_fault_us"`    // nil: the medium has no Sync mappings
	DurableStore *float64 `json:"durable_store_ns"` // likewise
	WriteFsync   float64  `json:"write_fsync_us"`
	SharedSync   float64  `json:"shared_sync_us"`
}

// Good says whether everything is as it must be.
func (r *Result) Good() bool { return r.Lost == 0 && r.CheckErrors == 0 && r.FilesDiffer == 0 }

// scale is how much is done.
type scale struct {
	writers int
	rounds  int
	kills   int    // of writers, in a round; then the server is killed
	burst   uint64 // records that each writer may append from one kill to the next
	records uint64 // that there must be in the end, at least
	samples int    // of each cost
}

var (
	full  = scale{writers: 4, rounds: 4, kills: 4, burst: 6000, records: 120_000, samples: 1000}
	quick = scale{writers: 2, rounds: 1, kills: 2, burst: 300, records: 1000, samples: 50}
)

// demo is one run.
type demo struct {
	Options
	scale
	start  time.Time
	dir    string
	erase  func() error // removes the pool from a device; nil: there is nothing to remove
	pool   string
	socket string

	children *child.Group
	server   *child.Process
	writers  []*child.Process
	shared   *shared
	imported []imported // what was imported
	result   *Result
}

// Run runs the demo. It leaves nothing behind, however it ends. The result is as far as it came when there is an error.
func Run(ctx context.Context, o Options) (_ *Result, err error) {
	d := &demo{Options: o, scale: full, start: time.Now(), result: &Result{}}
	if o.Quick {
		d.scale = quick
	}
	d.result.Writers = d.scale.writers
	defer func() {
		if closeErr := d.close(); err == nil {
			err = closeErr
		}
		d.result.Seconds = time.Since(d.start).Seconds()
	}()
	if d.children, err = child.NewGroup(); err != nil {
		return d.result, err
	}
	for _, step := range []func(context.Context) error{
		d.findTree, d.makePool, d.startServer, d.importTree, d.measure, d.torture, d.finish, d.checkPool, d.readBack,
	} {
		if err := step(ctx); err != nil {
			return d.result, err
		}
		if err := context.Cause(ctx); err != nil {
			return d.result, err
		}
	}
	return d.result, nil
}

// close ends all processes and removes all files.
func (d *demo) close() error {
	if d.children != nil {
		d.children.Close()
	}
	if d.shared != nil {
		d.shared.close()
	}
	var err error
	if d.erase != nil {
		err = d.erase()
	}
	if d.dir == "" {
		return err
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}

// log tells of a step, with the time since the start.
func (d *demo) log(format string, args ...any) {
	fmt.Fprintf(d.Log, "%6.1f s  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

// progress shows progress, if somebody is watching.
func (d *demo) progress(what string, total int64) (add func(int64), done func()) {
	if d.Options.Progress == nil {
		return func(int64) {}, func() {}
	}
	return d.Options.Progress(what, total)
}

// findTree finds what is to be imported.
func (d *demo) findTree(ctx context.Context) error {
	name := d.Tree
	if name == "" {
		out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
		root := strings.TrimSpace(string(out))
		if err == nil && root == "" {
			err = errors.New("it is empty")
		}
		if err != nil {
			return fmt.Errorf("find the Go source tree by go env GOROOT: %w; pmemfs demo TREE imports another", err)
		}
		name = filepath.Join(root, "src")
	}
	// The tree is copied as a whole, also when a link leads to it.
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	d.result.Tree = real
	return nil
}

// makePool makes a pool in memory or, where there is not enough, in the directory for temporary files.
func (d *demo) makePool(ctx context.Context) (err error) {
	files, bytes := tree.Size(ctx, tree.Host{}, d.result.Tree)
	need := bytes + files*4096 + 600<<20
	if d.Quick {
		need = bytes + files*4096 + 50<<20
	}
	if d.dir, err = d.makeDir(need); err != nil {
		return err
	}
	d.pool, d.socket = filepath.Join(d.dir, "pool"), filepath.Join(d.dir, "socket")
	o := pmemfs.FormatOptions{Label: "demo"}
	if isDevice(d.Dir) {
		d.pool = d.Dir
	} else {
		// Sparse, so that only what is used takes room; but on a DAX mount all of it is allocated.
		o.Size = max(need, min(4*need+4<<30, freeBytes(d.dir)/8*7)) &^ (1<<20 - 1)
	}
	if err := pmemfs.Format(d.pool, o); err != nil {
		return err
	}
	if d.pool == d.Dir {
		d.erase = func() error { return eraseDevice(d.pool) }
	}
	d.result.Pool = d.pool
	d.log("made the pool %s", d.pool)
	return nil
}

func isDevice(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode()&fs.ModeCharDevice != 0
}

// eraseDevice makes a device one without a pool.
func eraseDevice(path string) error {
	p, err := medium.Create(path, layout.SuperblockCopies*layout.BlockSize, layout.BlockSize, medium.Options{Force: true})
	if err != nil {
		return err
	}
	return p.Close()
}

// makeDir makes a directory of our own where there is room.
func (d *demo) makeDir(need int64) (string, error) {
	const pattern, memory = "pmemfs-demo-", "/dev/shm"
	switch temporary := os.TempDir(); {
	case isDevice(d.Dir):
		return os.MkdirTemp(temporary, pattern)
	case d.Dir != "":
		return os.MkdirTemp(d.Dir, pattern)
	case freeBytes(memory) >= need:
		return os.MkdirTemp(memory, pattern)
	case freeBytes(temporary) >= need:
		d.log("%s has no room for %d MiB: using %s instead", memory, need>>20, temporary)
		return os.MkdirTemp(temporary, pattern)
	default:
		return "", fmt.Errorf("neither %s nor %s has room for %d MiB; set TMPDIR to a directory that has", memory, temporary, need>>20)
	}
}

// freeBytes is how many bytes a directory has room for, 0 when it cannot be used.
func freeBytes(dir string) int64 {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || unix.Access(dir, unix.W_OK) != nil {
		return 0
	}
	return int64(st.Bavail) * st.Bsize
}

// startServer serves the pool in a process of its own.
func (d *demo) startServer(ctx context.Context) (err error) {
	first := d.server == nil
	d.server, err = d.children.Start("server", nil, "serve", d.pool, "--socket", d.socket, "--wait", patience.String(),
		"--runtime-dir", d.dir)
	if err != nil {
		return err
	}
	line, err := d.server.Line(ctx)
	if err != nil || !first {
		return err
	}
	d.log("process %d is %s", d.server.PID(), line)
	return d.use(func(fsys *pmemfs.FS) error {
		m := fsys.Info().Medium
		d.result.Kind, d.result.Granularity, d.result.Emulated = m.Kind, m.Granularity.String(), m.Emulated
		return nil
	})
}

// use connects to the server.
func (d *demo) use(f func(*pmemfs.FS) error) error {
	fsys, err := pmemfs.Dial(d.socket, pmemfs.Wait(patience))
	if err != nil {
		return err
	}
	return errors.Join(f(fsys), fsys.Close())
}

// checkPool verifies every structure.
func (d *demo) checkPool(ctx context.Context) error {
	r, err := pmemfs.Check(ctx, d.pool, pmemfs.CheckOptions{Report: func(p pmemfs.Problem) {
		if !p.Note {
			d.log("DAMAGE: %v", p)
		}
	}})
	if err != nil {
		return err
	}
	d.result.CheckErrors = r.Problems
	d.log("check: %d errors in %d files and %d directories, %d blocks", r.Problems, r.Files, r.Directories, r.Blocks)
	return nil
}
