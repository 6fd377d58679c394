package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/rerun"
	"github.com/pmemfs/pmemfs/internal/server"
)

// The names of places.
const (
	embeddedName = "pmemfs embedded"
	servedName   = "pmemfs served"
	tmpfsName    = "tmpfs"
	ext4Name     = "ext4"
)

// place is where a database can be: a directory of the kernel's, or a pool.
type place struct {
	name    string
	dir     string
	fsys    *pmemfs.FS // nil: the directory
	durable bool
}

// places are all places, and how to undo them.
type places struct {
	list []*place
	undo []func() error
}

const poolSize = 2 << 30

func newPlaces(ctx context.Context, o options) (_ *places, notes []string, err error) {
	p := &places{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	dir, err := os.MkdirTemp(o.dir, "pmemfs-databases-")
	if err != nil {
		return nil, nil, err
	}
	p.undo = append(p.undo, func() error { return os.RemoveAll(dir) })
	for _, name := range []string{embeddedName, servedName} {
		if err := p.addPool(name, filepath.Join(dir, name)); err != nil {
			return nil, nil, err
		}
	}
	memory, err := os.MkdirTemp("/dev/shm", "pmemfs-databases-tmpfs-")
	if err != nil {
		return nil, nil, err
	}
	p.undo = append(p.undo, func() error { return os.RemoveAll(memory) })
	p.list = append(p.list, &place{name: tmpfsName, dir: memory})
	if err := p.addExt4(ctx, o.disk); errors.Is(err, errUnavailable) {
		notes = append(notes, fmt.Sprintf("ext4: %v", err))
	} else if err != nil {
		return nil, nil, err
	}
	return p, notes, nil
}

func (p *places) close() error {
	var errs []error
	for _, f := range slices.Backward(p.undo) {
		errs = append(errs, f())
	}
	p.undo = nil
	return errors.Join(errs...)
}

func (p *places) medium() (kind, granularity string, emulated bool) {
	m := p.list[0].fsys.Info().Medium
	return fmt.Sprint(m.Kind), m.Granularity.String(), m.Emulated
}

// addPool makes a pool, whose memory is allocated: on persistent memory it always is.
func (p *places) addPool(name, pool string) error {
	if err := pmemfs.Format(pool, pmemfs.FormatOptions{Size: poolSize, Preallocate: true}); err != nil {
		return err
	}
	var fsys *pmemfs.FS
	var err error
	if name == servedName {
		var stop func() error
		socket := pool + ".sock"
		if stop, err = startServer(pool, socket); err != nil {
			return err
		}
		p.undo = append(p.undo, stop)
		fsys, err = pmemfs.Dial(socket)
	} else {
		fsys, err = pmemfs.Open(pool)
	}
	if err != nil {
		return err
	}
	p.undo = append(p.undo, fsys.Close)
	p.list = append(p.list, &place{name: name, fsys: fsys, durable: true})
	return nil
}

// startServer serves a pool in a process of its own, until stop is called.
func startServer(pool, socket string) (stop func() error, err error) {
	c := rerun.Self("serve", pool, socket)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	stop = func() error { return errors.Join(in.Close(), c.Wait()) }
	if _, err := out.Read(make([]byte, 1)); err != nil {
		return nil, errors.Join(fmt.Errorf("the server did not start: %w", err), stop())
	}
	return stop, nil
}

// serve is the life of the server's process: it ends when its input does.
func serve(pool, socket string) error {
	srv, err := server.Open(pool, server.Options{})
	if err != nil {
		return err
	}
	l, err := server.Listen(socket, server.Access{GID: -1})
	if err != nil {
		return errors.Join(err, srv.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	fmt.Println("serving")
	return errors.Join(srv.Serve(ctx, l), srv.Close())
}

// addExt4 mounts an ext4 with a journal, on a loop device over a file on a disk, with the settings that mkfs and mount choose.
func (p *places) addExt4(ctx context.Context, disk string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: a loop device takes root", errUnavailable)
	}
	dir, err := os.MkdirTemp(disk, "pmemfs-databases-ext4-")
	if err != nil {
		return err
	}
	p.undo = append(p.undo, func() error { return os.RemoveAll(dir) })
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "mount")
	err = errors.Join(os.Mkdir(mount, 0o700), os.WriteFile(image, nil, 0o600), allocate(image, poolSize))
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", image},
		{"mount", "-o", "loop", image, mount},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %v: %w: %s", errUnavailable, args, err, bytes.TrimSpace(out))
		}
	}
	p.undo = append(p.undo, func() error { return unix.Unmount(mount, 0) })
	p.list = append(p.list, &place{name: ext4Name, dir: mount, durable: true})
	return nil
}

// allocate lays a file out, so that the file system below allocates nothing while another one is measured on it.
func allocate(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Close())
}
