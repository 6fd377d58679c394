package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/child"
	"github.com/pmemfs/pmemfs/internal/report"
)

// MountOptions are those of MeasureMount.
type MountOptions struct {
	Options
	Files  int   // that each round creates, looks at and removes
	Bytes  int64 // of the file that each round reads and writes, a multiple of 1 MiB
	Rounds int
}

// MountRow is what one operation takes. Its JSON names are a contract with scripts.
type MountRow struct {
	Operation   string  `json:"operation"`
	Mount       float64 `json:"mount_ns"`       // the median of the rounds' means
	Loopback    float64 `json:"loopback_ns"`    // through the loopback's process
	Passthrough float64 `json:"passthrough_ns"` // with reads and writes that the kernel does itself
	Ratio       float64 `json:"ratio"`          // mount to loopback

	// The first and third quartiles of the rounds' means.
	MountQuartiles       [2]float64 `json:"mount_quartiles_ns"`
	LoopbackQuartiles    [2]float64 `json:"loopback_quartiles_ns"`
	PassthroughQuartiles [2]float64 `json:"passthrough_quartiles_ns"`
}

// Mount is what MeasureMount has found.
type Mount struct {
	Machine report.Machine `json:"machine"`
	Files   int            `json:"files"`
	Bytes   int64          `json:"bytes"`
	Rounds  int            `json:"rounds"`
	Rows    []MountRow     `json:"rows"`
	Seconds float64        `json:"seconds"`
}

// MeasureMount compares a mount with go-fuse's loopback over a directory beside the pool. Their rounds alternate, so that what
// else goes on on the machine hits both alike.
func MeasureMount(ctx context.Context, o MountOptions) (_ *Mount, err error) {
	start := time.Now()
	s := &mountStage{}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	if err := s.open(ctx, &o); err != nil {
		return nil, err
	}
	add, done := o.progress("using the mounts", int64(o.Rounds*len(s.dirs)))
	defer done()
	times := make([]map[string][]float64, len(s.dirs))
	var operations []string
	for i := range s.dirs {
		times[i] = map[string][]float64{}
	}
	for range o.Rounds {
		for i, dir := range s.dirs {
			r := round{dir: dir, o: &o}
			if err := r.run(ctx); err != nil {
				return nil, err
			}
			operations = operations[:0]
			for _, t := range r.times {
				operations = append(operations, t.operation)
				times[i][t.operation] = append(times[i][t.operation], t.ns)
			}
			add(1)
		}
	}
	found := &Mount{Machine: s.machine, Files: o.Files, Bytes: o.Bytes, Rounds: o.Rounds}
	for _, op := range operations {
		row := MountRow{Operation: op}
		row.Mount, row.MountQuartiles = quartiles(times[0][op])
		row.Loopback, row.LoopbackQuartiles = quartiles(times[1][op])
		row.Passthrough, row.PassthroughQuartiles = quartiles(times[2][op])
		row.Ratio = row.Mount / row.Loopback
		found.Rows = append(found.Rows, row)
	}
	found.Seconds = time.Since(start).Seconds()
	return found, nil
}

func quartiles(figures []float64) (median float64, ends [2]float64) {
	row := report.NewRow("", "", "", figures)
	return row.Median, [2]float64{row.Q1, row.Q3}
}

// mountStage is three mounts, each served by a process of its own: the pool's, the loopback's, and that of a loopback with
// passthrough.
type mountStage struct {
	dir      string
	dirs     []string // where they are mounted
	children *child.Group
	served   []*child.Process
	machine  report.Machine
}

func (s *mountStage) open(ctx context.Context, o *MountOptions) (err error) {
	if s.dir, err = os.MkdirTemp(o.Dir, "pmemfs-bench-"); err != nil {
		return err
	}
	pool := filepath.Join(s.dir, "pool")
	size := 3*o.Bytes + int64(o.Files)*16<<10 + 32<<20
	// Memory that the kernel gives to tmpfs at the first touch is no part of what persistent memory costs.
	if err := pmemfs.Format(pool, pmemfs.FormatOptions{Size: size, Label: "bench", Preallocate: true}); err != nil {
		return err
	}
	fsys, err := pmemfs.Open(pool, pmemfs.OpenReadOnly())
	if err != nil {
		return err
	}
	info := fsys.Info()
	s.machine = thisMachine(&info.Medium)
	if err := fsys.Close(); err != nil {
		return err
	}
	if s.children, err = child.NewGroup(); err != nil {
		return err
	}
	for i, args := range [][]string{{"mount", pool, "-o", "allow_other"}, {"bench-loopback"}, {"bench-loopback", "--passthrough"}} {
		dir := filepath.Join(s.dir, fmt.Sprint("mount-", i))
		behind := filepath.Join(s.dir, fmt.Sprint("behind-", i))
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(behind, 0o755)); err != nil {
			return err
		}
		if i > 0 {
			args = append(args, behind)
		}
		p, err := s.children.Start(args[0], nil, append(args, dir)...)
		if err != nil {
			return err
		}
		s.served, s.dirs = append(s.served, p), append(s.dirs, dir)
		if _, err := p.Line(ctx); err != nil {
			return err
		}
	}
	return nil
}

// close unmounts everything and leaves nothing behind.
func (s *mountStage) close(ctx context.Context) error {
	var errs []error
	for i, dir := range s.dirs {
		if err := unix.Unmount(dir, 0); err != nil {
			errs = append(errs, fmt.Errorf("umount %s: %w", dir, err), unix.Unmount(dir, unix.MNT_DETACH))
		} else if ctx.Err() == nil {
			errs = append(errs, s.served[i].Wait(ctx))
		}
	}
	if s.children != nil {
		s.children.Close()
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// round does every operation in one mount.
type round struct {
	dir   string
	o     *MountOptions
	times []timed
}

type timed struct {
	operation string
	ns        float64 // of one
}

// measure times n operations.
func (r *round) measure(ctx context.Context, operation string, n int, f func(i int) error) error {
	start := time.Now()
	for i := range n {
		if err := f(i); err != nil {
			return fmt.Errorf("%s: %w", operation, err)
		}
	}
	r.times = append(r.times, timed{operation, float64(time.Since(start)) / float64(n)})
	return context.Cause(ctx)
}

func (r *round) run(ctx context.Context) error {
	steps := []func(context.Context) error{r.files, r.blocks, r.stream}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// files creates files, looks at them and removes them.
func (r *round) files(ctx context.Context) error {
	dir := filepath.Join(r.dir, "files")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	name := func(i int) string { return filepath.Join(dir, fmt.Sprint("file-", i)) }
	err := r.measure(ctx, "create", r.o.Files, func(i int) error {
		fd, err := unix.Open(name(i), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
	stat := func(i int) error {
		var st unix.Stat_t
		return unix.Lstat(name(i*7919%r.o.Files), &st)
	}
	if err == nil {
		err = r.measure(ctx, "stat", r.o.Files, stat)
	}
	if err == nil {
		err = r.measure(ctx, "stat of a name that is not there", r.o.Files, func(i int) error {
			var st unix.Stat_t
			if err := unix.Lstat(name(-1-i), &st); err != unix.ENOENT {
				return cmp.Or[error](err, unix.EEXIST)
			}
			return nil
		})
	}
	if err == nil {
		err = r.measure(ctx, "list, an entry", 1, func(int) error {
			list, err := os.ReadDir(dir)
			if err == nil && len(list) != r.o.Files {
				err = fmt.Errorf("%d entries", len(list))
			}
			return err
		})
		r.times[len(r.times)-1].ns /= float64(r.o.Files)
	}
	if err == nil {
		err = r.measure(ctx, "unlink", r.o.Files, func(i int) error { return unix.Unlink(name(i)) })
	}
	return errors.Join(err, os.Remove(dir))
}

const (
	smallIO = 4 << 10
	largeIO = 1 << 20
)

// blocks reads and writes 4 KiB at random offsets, by way of the page cache and past it.
func (r *round) blocks(ctx context.Context) error {
	name := filepath.Join(r.dir, "blocks")
	defer os.Remove(name)
	if err := os.WriteFile(name, make([]byte, r.o.Bytes), 0o644); err != nil {
		return err
	}
	buf, err := unix.Mmap(-1, 0, largeIO, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned for O_DIRECT
	if err != nil {
		return err
	}
	defer unix.Munmap(buf)
	buf = buf[:smallIO]
	count := int(r.o.Bytes / smallIO)
	offset := func(i int) int64 { return int64(i*7919%count) * smallIO }
	n := min(count, r.o.Files*2)
	for _, how := range []struct {
		name string
		flag int
	}{{"", 0}, {", O_DIRECT", unix.O_DIRECT}} {
		fd, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC|how.flag, 0)
		if err != nil {
			return err
		}
		err = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
		if err == nil {
			err = r.measure(ctx, "read 4 KiB"+how.name, n, func(i int) error { return whole(unix.Pread(fd, buf, offset(i)))(smallIO) })
		}
		if err == nil {
			err = r.measure(ctx, "write 4 KiB"+how.name, n, func(i int) error { return whole(unix.Pwrite(fd, buf, offset(i)))(smallIO) })
		}
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			return err
		}
	}
	return nil
}

func whole(n int, err error) func(want int) error {
	return func(want int) error {
		if err == nil && n != want {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
}

// stream writes and reads a file from its beginning to its end.
func (r *round) stream(ctx context.Context) error {
	name := filepath.Join(r.dir, "stream")
	defer os.Remove(name)
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, largeIO)
	n := int(r.o.Bytes / largeIO)
	at := func(i int) int64 { return int64(i) * largeIO }
	if err := r.measure(ctx, "write 1 MiB, sequential", n, func(i int) error { return whole(unix.Pwrite(fd, buf, at(i)))(largeIO) }); err != nil {
		return err
	}
	if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	return r.measure(ctx, "read 1 MiB, sequential", n, func(i int) error { return whole(unix.Pread(fd, buf, at(i)))(largeIO) })
}

func (m *Mount) table() *report.Table {
	t := &report.Table{Head: []string{"operation", "mount", "loopback", "ratio", "loopback with passthrough"}}
	for _, r := range m.Rows {
		t.Rows = append(t.Rows, []string{
			r.Operation, report.Nanoseconds(r.Mount), report.Nanoseconds(r.Loopback), fmt.Sprintf("%.2f", r.Ratio), report.Nanoseconds(r.Passthrough),
		})
	}
	return t
}

// Text writes the result for a terminal.
func (m *Mount) Text(w io.Writer) {
	fmt.Fprintf(w, "%s\n\n", m.Machine.String())
	m.table().Text(w)
}

// Markdown writes the result as a part of a page.
func (m *Mount) Markdown(w io.Writer, command, _ string) {
	fmt.Fprintf(w, "`%s`: %s. Medians of %d rounds.\n\n", command, strings.TrimSuffix(m.Machine.String(), "."), m.Rounds)
	m.table().Markdown(w)
}

// Loopback is the life of a process that has go-fuse's loopback mounted, set up as in its own example for many users (the kernel
// checks permissions, as it does for a pool's mount), until it is unmounted.
func Loopback(behind, dir string, passthrough bool, ready func()) error {
	root, err := fs.NewLoopbackRoot(behind)
	if err != nil {
		return err
	}
	second := time.Second
	o := &fs.Options{
		AttrTimeout: &second, EntryTimeout: &second, NullPermissions: true,
		MountOptions: fuse.MountOptions{
			FsName: behind, Name: "loopback", DirectMountStrict: true, AllowOther: true, Options: []string{"default_permissions"},
		},
	}
	if !passthrough {
		o.MountOptions.DisabledCapabilities = fuse.CAP_PASSTHROUGH
	}
	server, err := fs.Mount(dir, root, o)
	if err != nil {
		return err
	}
	ready()
	server.Wait()
	return nil
}
