package medium

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Create makes a pool of the given sizes (bytes, positive multiples of 4096) and opens it as its owner. Both areas are
// zero, except for the data area of a device, which is as it was found.
//
// A directory is made, with mode 0700, unless it is there and empty; its two files have mode 0600 and are sparse unless
// Options.Preallocate is set or the medium is fsdax. When Create returns, the files and their names are durable.
//
// On a device the meta area is rounded up to the device's alignment and the data area is all the rest, at least
// dataSize. See DeviceSize.
//
// What is there already is refused with ErrExists; with Options.Force a pool that nobody uses is overwritten. When
// Create fails nothing that it made is left behind; a pool that was to be overwritten is left alone unless the failure
// came after the last check (the disk is full), in which case its files are removed.
func Create(path string, metaSize, dataSize int64, o Options) (*Pool, error) {
	return realProber.create(path, metaSize, dataSize, o)
}

func (pr prober) create(path string, metaSize, dataSize int64, o Options) (_ *Pool, err error) {
	for _, n := range []int64{metaSize, dataSize} {
		if n <= 0 || n%pageSize != 0 {
			return nil, &fs.PathError{Op: "create pool", Path: path,
				Err: fmt.Errorf("%w: size of an area: %d bytes is not a positive multiple of %d", unix.EINVAL, n, pageSize)}
		}
	}
	if o.ReadOnly {
		return nil, &fs.PathError{Op: "create pool", Path: path, Err: fmt.Errorf("%w: read-only", unix.EINVAL)}
	}
	o.Adopt = nil // a pool that is overwritten takes nobody over
	c := creation{prober: pr, o: o, p: &Pool{path: path}, metaSize: metaSize, dataSize: dataSize}
	defer func() {
		if err != nil {
			err = withPath(errors.Join(err, c.takeBack(), c.p.Close()), path)
		}
		c.dir.Close() // nil for a device, which is fine
	}()
	st, err := os.Stat(path)
	switch {
	case err == nil && st.Mode()&fs.ModeCharDevice != 0:
		return c.p, c.device(st)
	case err == nil && !st.IsDir():
		return nil, &Error{Kind: ErrExists, Reason: "it is neither a directory nor a device-DAX device"}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return c.p, c.directory()
}

// creation is a pool being made.
type creation struct {
	prober
	o                  Options
	p                  *Pool
	metaSize, dataSize int64

	dir  *os.File
	undo []func() error // takes back what was made, last first
}

func (c *creation) takeBack() (err error) {
	for _, undo := range slices.Backward(c.undo) {
		err = errors.Join(err, undo())
	}
	return err
}

func (c *creation) directory() error {
	made, err := c.makeDirectory()
	if err != nil {
		return err
	}
	if err := c.checkEmpty(); err != nil {
		return err
	}
	if c.p.metaFile, err = c.makeFile(metaName); err != nil {
		return err
	}
	if c.p.dataFile, err = c.makeFile(dataName); err != nil {
		return err
	}
	if err := c.p.lock(c.dir, c.o); err != nil {
		return err
	}
	meta, data, err := c.look(c.p, false)
	if err != nil {
		return err
	}
	if err := require(c.o.Require, c.p.report); err != nil {
		return err
	}
	if err := errors.Join(c.resize(c.p.metaFile, metaName, c.metaSize, meta), c.resize(c.p.dataFile, dataName, c.dataSize, data)); err != nil {
		return err
	}
	if err := c.syncNames(made); err != nil {
		return err
	}
	return c.p.mapFiles(meta, data)
}

// makeDirectory makes the directory if it is not there, and opens it.
func (c *creation) makeDirectory() (made bool, err error) {
	err = os.Mkdir(c.p.path, 0o700)
	made = err == nil
	if made {
		c.undo = append(c.undo, func() error { return os.Remove(c.p.path) })
	} else if !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	c.dir, err = os.OpenFile(c.p.path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	return made, err
}

// checkEmpty refuses a directory with anything in it but lost+found, which every new ext4 has, or with Force a pool.
func (c *creation) checkEmpty() error {
	names, err := c.dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == "lost+found" })
	switch pool := slices.Contains(names, metaName) || slices.Contains(names, dataName); {
	case len(names) == 0, pool && c.o.Force:
		return nil
	case pool:
		return &Error{Kind: ErrExists, Reason: "a pool's files are there"}
	default:
		slices.Sort(names)
		return &Error{Kind: ErrExists, Reason: fmt.Sprintf("the directory is not empty and not a pool (%q is in it)", names[0])}
	}
}

// makeFile makes a file, or with Force opens the one that is there.
func (c *creation) makeFile(name string) (*os.File, error) {
	f, err := openIn(c.dir, name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if errors.Is(err, fs.ErrExist) {
		if c.o.Force {
			return openIn(c.dir, name, os.O_RDWR)
		}
		return nil, &Error{Kind: ErrExists, Reason: "somebody else has just made " + name}
	}
	if err == nil {
		c.undo = append(c.undo, c.remove(name))
	}
	return f, err
}

func (c *creation) remove(name string) func() error {
	return func() error {
		if err := unix.Unlinkat(int(c.dir.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "remove", Path: filepath.Join(c.p.path, name), Err: err}
		}
		return nil
	}
}

// resize gives a file its size, all zeros, durably. From here on an old pool is lost.
func (c *creation) resize(f *os.File, name string, size int64, d finding) error {
	c.undo = append(c.undo, c.remove(name))
	for _, n := range []int64{0, size} {
		if err := f.Truncate(n); err != nil {
			return err
		}
	}
	if c.o.Preallocate || d.kind == "fsdax" {
		if err := allocate(f, size); err != nil {
			return err
		}
	}
	return f.Sync()
}

// allocate gives a file all its blocks. By parts, because an interrupted call starts again from its beginning.
func allocate(f *os.File, size int64) error {
	const part = 1 << 30
	for off := int64(0); off < size; {
		n := min(part, size-off)
		err := unix.Fallocate(int(f.Fd()), 0, off, n)
		switch {
		case err == nil:
			off += n
		case !errors.Is(err, unix.EINTR):
			return &fs.PathError{Op: "fallocate", Path: f.Name(), Err: err}
		}
	}
	return nil
}

// syncNames makes the names of the files durable, and the directory's own if it was made.
func (c *creation) syncNames(made bool) error {
	if err := c.dir.Sync(); err != nil || !made {
		return err
	}
	parent, err := os.Open(filepath.Dir(filepath.Clean(c.p.path)))
	if errors.Is(err, fs.ErrPermission) {
		return nil // search permission is all that is needed to make a directory; its name is then the system's to write
	}
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

func (c *creation) device(st fs.FileInfo) error {
	if err := c.openDevice(c.p, st); err != nil {
		return err
	}
	if err := c.p.lock(nil, c.o); err != nil {
		return err
	}
	_, d, err := c.look(c.p, false)
	if err != nil {
		return err
	}
	if err := require(c.o.Require, c.p.report); err != nil {
		return err
	}
	return c.split(d)
}

// split divides the device. It stores only when nothing can fail any more.
func (c *creation) split(d finding) error {
	meta := d.roundUp(c.metaSize)
	if meta < c.metaSize || d.size-meta < c.dataSize {
		return &Error{Kind: ErrTooSmall, Reason: fmt.Sprintf("%d bytes of meta (in multiples of %d) and %d of data are asked for; the device has %d",
			c.metaSize, d.align, c.dataSize, d.size)}
	}
	if err := c.p.mapSplit(d, meta); err != nil {
		return err
	}
	start, err := Readable(c.p.meta, 0, pageSize)
	if !c.o.Force && (err != nil || !blank(start)) {
		return &Error{Kind: ErrExists, Reason: fmt.Sprintf("the first %d bytes of the device are not zero", pageSize)}
	}
	return Guard(func() error {
		c.p.meta.Zero(0, meta)
		return c.p.meta.Fence()
	})
}

// DeviceSize returns the size of a device-DAX device and the alignment of mappings in it, both in bytes; the size is a
// multiple of the alignment. They come from sysfs. For anything but a character device it returns ErrNotPool.
func DeviceSize(path string) (size, align int64, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, 0, err
	}
	if st.Mode()&fs.ModeCharDevice == 0 {
		return 0, 0, &Error{Path: path, Kind: ErrNotPool, Reason: "not a character device"}
	}
	d, err := realProber.sys.dax(deviceNumber(st))
	if err != nil {
		return 0, 0, withPath(err, path)
	}
	return d.size / d.align * d.align, d.align, nil
}
