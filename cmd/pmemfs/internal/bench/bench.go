// Package bench measures what pmemfs costs, beside what the machine itself costs, so that anybody can do it again. Each
// benchmark is a file and has a function that returns what it has found; stages, tables and plots are shared.
package bench

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/child"
	"github.com/pmemfs/pmemfs/internal/report"
)

// ErrMedium says that a medium does not have what is to be measured.
var ErrMedium = errors.New("stores to this medium become durable by a system call only: there is nothing to measure")

// Options are common to all benchmarks.
type Options struct {
	Dir string // where a pool is made, in a directory of its own that is removed in the end; or a device, which it takes
	// Progress shows how far something of total units has come; nil: nobody is watching.
	Progress func(what string, total int64) (add func(int64), done func())
}

func (o *Options) progress(what string, total int64) (add func(int64), done func()) {
	if o.Progress == nil {
		return func(int64) {}, func() {}
	}
	return o.Progress(what, total)
}

// stage is where a benchmark takes place: a pool, its server in a process of its own, and a connection to it.
type stage struct {
	dir      string
	runtime  string // the server's runtime directory, in memory wherever dir is
	socket   string
	children *child.Group
	server   *child.Process
	fsys     *pmemfs.FS
}

// newStage makes a pool below dir, or on the device that dir is, and serves it, with more flags if there are any.
func newStage(ctx context.Context, dir string, o pmemfs.FormatOptions, serve ...string) (_ *stage, err error) {
	s := &stage{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(ctx))
		}
	}()
	pool := dir
	if isDevice(dir) {
		dir = "/dev/shm"
	}
	if s.dir, err = os.MkdirTemp(dir, "pmemfs-bench-"); err != nil {
		return nil, err
	}
	if pool == dir {
		pool = filepath.Join(s.dir, "pool")
	}
	if s.runtime, err = os.MkdirTemp("/dev/shm", "pmemfs-bench-runtime-"); err != nil {
		return nil, err
	}
	s.socket = filepath.Join(s.dir, "socket")
	o.Label = "bench"
	if err := pmemfs.Format(pool, o); err != nil {
		return nil, err
	}
	if s.children, err = child.NewGroup(); err != nil {
		return nil, err
	}
	args := append([]string{"serve", pool, "--socket", s.socket, "--runtime-dir", s.runtime}, serve...)
	if s.server, err = s.children.Start("the server", nil, args...); err != nil {
		return nil, err
	}
	if _, err := s.server.Line(ctx); err != nil {
		return nil, err
	}
	// A benchmark whose server has died is void: there is nothing to wait for.
	if s.fsys, err = pmemfs.Dial(s.socket, pmemfs.Wait(10*time.Second), pmemfs.Reconnect(0)); err != nil {
		return nil, err
	}
	return s, nil
}

// isDevice says whether a pool takes all of it.
func isDevice(place string) bool {
	st, err := os.Stat(place)
	return err == nil && st.Mode()&fs.ModeCharDevice != 0
}

// close ends everything and leaves nothing behind. The server must end well, unless the user wants an end at once.
func (s *stage) close(ctx context.Context) error {
	var errs []error
	if s.fsys != nil {
		errs = append(errs, s.fsys.Close())
	}
	if s.fsys != nil && ctx.Err() == nil {
		errs = append(errs, s.server.Terminate(ctx))
	}
	if s.children != nil {
		s.children.Close()
	}
	for _, dir := range []string{s.dir, s.runtime} {
		if dir != "" {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

// thisMachine is this one, with the medium of a pool.
func thisMachine(med *pmemfs.MediumReport) report.Machine {
	m := report.ThisMachine()
	m.Medium, m.Granularity, m.Emulated = med.Kind, med.Granularity.String(), med.Emulated
	return m
}
