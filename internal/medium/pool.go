package medium

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The files of a pool directory.
const (
	metaName = "meta"
	dataName = "data"
)

// Options say how a pool is opened or made. The zero value opens it as its owner, on whatever medium, without waiting.
type Options struct {
	// Require refuses media that are weaker, with ErrGranularity.
	Require Granularity
	// ReadOnly opens a pool that nobody owns, together with other readers. Its areas are mapped without the right to
	// store; whoever stores nevertheless panics. It is not for Create.
	ReadOnly bool
	// Wait is how long an owner that is about to go (a server killed a moment ago), and programs that still map what it
	// gave them, are waited for; 0: not at all.
	Wait time.Duration
	// Adopt, when clients of an earlier owner are still there, is asked once which of them this owner takes over:
	// live are their slots (see Pool.ClientFile), ascending, and those returned, with the pid of the process that
	// each is, do not keep the pool from being opened. The others are waited for. It is called while the owner lock
	// is held. nil: none is taken over. identity is Pool.Identity.
	Adopt func(identity string, live []int) map[int]int
	// Refuse does not wait for clients of an earlier owner: Wait is for the owner alone.
	Refuse bool
	// AssumePersistent has Open treat an area behind a page cache as if it were persistent memory, for development:
	// it is made durable by Close, and otherwise when the kernel likes. Report.Assumed says whether it was needed.
	AssumePersistent bool
	// MetaSize returns, from the first 64 KiB of a device, the size in bytes of its meta area, or why that is not a
	// pool. Only devices need it: this package does not know what a pool's first blocks look like. Those that are bad are
	// zeros.
	MetaSize func(start []byte) (int64, error)
	// Preallocate makes Create allocate all blocks of the files, so that a store never finds the host file system full
	// (it would be killed by SIGBUS). On an fsdax medium it is always done. A device has nothing to allocate.
	Preallocate bool
	// Force makes Create overwrite a pool that nobody uses. It never overwrites anything else.
	Force bool
}

// Pool is an opened pool: two areas, the locks that make this process its owner or one of its readers, and what was
// found out about the medium.
//
// Invariant: while an area is mapped, both locks (see lock.go) are held by the descriptions in metaFile and dataFile,
// and, because a mapping refers to its description, until the last mapping is gone even if this process is killed.
type Pool struct {
	path     string
	device   bool
	readOnly bool
	identity string
	base     int64 // offset of the data area in dataFile
	report   Report
	found    finding // of the data area

	mu       sync.Mutex
	metaFile *os.File // protected by mu; nil after Close
	dataFile *os.File // protected by mu; nil after Close; the same as metaFile on a device
	meta     *mapped  // immutable until Close
	data     *mapped  // immutable until Close
}

// Open opens the pool at path: a directory with the files meta and data, or a device-DAX device. The caller owns it, or
// with Options.ReadOnly is one of its readers, until Close or the end of the process.
//
// It checks that there is such a pool, that nobody else has it, and what makes bytes durable there; not what is in it:
// areas are as long as they are found. Errors are *Error around ErrNoPool, ErrNotPool, ErrInUse, ErrSurvivors,
// ErrGranularity or ErrUnsupported, or come from the system.
func Open(path string, o Options) (*Pool, error) { return realProber.open(path, o) }

func (pr prober) open(path string, o Options) (_ *Pool, err error) {
	p := &Pool{path: path, readOnly: o.ReadOnly}
	defer func() {
		if err != nil {
			err = withPath(errors.Join(err, p.Close()), path)
		}
	}()
	dir, err := pr.openFiles(p)
	if err != nil {
		return nil, err
	}
	defer dir.Close() // nil for a device, which is fine
	if err := p.lock(dir, o); err != nil {
		return nil, err
	}
	meta, data, err := pr.look(p, o.AssumePersistent)
	if err != nil {
		return nil, err
	}
	if err := require(o.Require, p.report); err != nil {
		return nil, err
	}
	if p.device {
		return p, p.mapDevice(data, o)
	}
	return p, p.mapFiles(meta, data)
}

// openFiles opens the files of p.path, or the device. The directory, for the caller to close, is nil for a device.
func (pr prober) openFiles(p *Pool) (dir *os.File, err error) {
	st, err := os.Stat(p.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &Error{Kind: ErrNoPool, Reason: unix.ENOENT.Error()}
	case err != nil:
		return nil, err
	case st.Mode()&fs.ModeCharDevice != 0:
		return nil, pr.openDevice(p, st)
	case !st.IsDir():
		return nil, &Error{Kind: ErrNotPool, Reason: "neither a directory nor a device-DAX device"}
	}
	if dir, err = os.OpenFile(p.path, os.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return nil, err
	}
	if p.metaFile, err = openIn(dir, metaName, p.openFlags()); err == nil {
		p.dataFile, err = openIn(dir, dataName, p.openFlags())
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// openDevice opens a character device after it has turned out to be device-DAX: opening others can do things to them.
func (pr prober) openDevice(p *Pool, st fs.FileInfo) (err error) {
	if _, err := pr.sys.dax(deviceNumber(st)); err != nil {
		return err
	}
	p.device = true
	p.metaFile, err = os.OpenFile(p.path, p.openFlags(), 0)
	p.dataFile = p.metaFile
	return err
}

func deviceNumber(st fs.FileInfo) uint64 {
	return uint64(st.Sys().(*syscall.Stat_t).Rdev) // what package os always gives on Linux
}

func (p *Pool) openFlags() int {
	if p.readOnly {
		return os.O_RDONLY
	}
	return os.O_RDWR
}

// openIn opens a regular file of a directory. A link is not followed: the locks would be on a file that somebody else
// can reach by another name. O_NONBLOCK is for a FIFO, the opening of which would wait.
func openIn(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, &Error{Kind: ErrNoPool, Reason: "the directory has no file named " + name}
	case errors.Is(err, unix.ELOOP):
		return nil, &Error{Kind: ErrNotPool, Reason: name + " is a symbolic link"}
	case errors.Is(err, unix.EISDIR):
		return nil, &Error{Kind: ErrNotPool, Reason: name + " is not a regular file"}
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	f := os.NewFile(uintptr(fd), filepath.Join(dir.Name(), name))
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(err, f.Close(), &Error{Kind: ErrNotPool, Reason: name + " is not a regular file"})
	}
	return f, nil
}

// lock takes both locks, and then makes sure that the names still mean the files that were locked.
func (p *Pool) lock(dir *os.File, o Options) error {
	deadline := time.Now().Add(o.Wait)
	if err := lockOwner(p.metaFile, p.device, p.readOnly, deadline); err != nil {
		return err
	}
	var err error
	if p.identity, err = identify(p.dataFile); err != nil {
		return err
	}
	s := survivors{adopt: func([]int) map[int]int { return nil }}
	if o.Adopt != nil {
		s.adopt = func(live []int) map[int]int { return o.Adopt(p.identity, live) }
	}
	if o.Refuse {
		deadline = time.Now()
	}
	if err := lockMapping(p.dataFile, p.readOnly, &s, deadline); err != nil {
		return err
	}
	if p.device {
		return nil
	}
	for name, f := range map[string]*os.File{metaName: p.metaFile, dataName: p.dataFile} {
		var byName, byFile unix.Stat_t
		err := errors.Join(unix.Fstatat(int(dir.Fd()), name, &byName, unix.AT_SYMLINK_NOFOLLOW), unix.Fstat(int(f.Fd()), &byFile))
		if err != nil || byName.Dev != byFile.Dev || byName.Ino != byFile.Ino {
			return &Error{Kind: ErrNotPool, Reason: name + " was removed or replaced while it was being opened"}
		}
	}
	return nil
}

// look finds out about the medium and fills in the report, except for the sizes.
func (pr prober) look(p *Pool, assume bool) (meta, data finding, err error) {
	if p.device {
		data, err = pr.device(p.metaFile)
		meta = data
	} else if meta, err = pr.file(p.metaFile, metaName); err == nil {
		data, err = pr.file(p.dataFile, dataName)
	}
	if err == nil && assume {
		meta.assume(metaName)
		data.assume(dataName)
	}
	p.found = data
	p.report = newReport(p.path, p.readOnly, meta, data)
	var e *Error
	if errors.As(err, &e) {
		e.Evidence = p.report.Evidence
	}
	return meta, data, err
}

// mapFiles maps the areas of a pool directory as long as the files are.
func (p *Pool) mapFiles(meta, data finding) error {
	for _, a := range []struct {
		area **mapped
		f    *os.File
		name string
		d    finding
		size *int64
	}{
		{&p.meta, p.metaFile, metaName, meta, &p.report.MetaSize},
		{&p.data, p.dataFile, dataName, data, &p.report.DataSize},
	} {
		st, err := a.f.Stat()
		if err != nil {
			return err
		}
		if st.Size() == 0 || st.Size()%pageSize != 0 {
			return &Error{Kind: ErrNotPool, Reason: fmt.Sprintf("%s has %d bytes, which is not a positive multiple of %d: it was cut off, or is something else",
				a.name, st.Size(), pageSize)}
		}
		if *a.area, err = mapArea(a.name, a.f, 0, st.Size(), a.d, p.readOnly); err != nil {
			return err
		}
		*a.size = st.Size()
	}
	return nil
}

// deviceStart is how much of a device MetaSize gets.
const deviceStart = 64 << 10

// mapDevice maps the areas of a device, after asking Options.MetaSize where the one ends and the other begins.
func (p *Pool) mapDevice(d finding, o Options) error {
	if o.MetaSize == nil {
		return errors.New("medium: Options.MetaSize is needed to open a device")
	}
	whole, err := mapArea(metaName, p.metaFile, 0, d.size, d, true)
	if err != nil {
		return err
	}
	start, bad := Readable(whole, 0, min(deviceStart, d.size))
	metaSize, err := o.MetaSize(start)
	switch {
	case err != nil && bad == nil && blank(start):
		err = &Error{Kind: ErrNoPool, Reason: fmt.Sprintf("the first %d bytes of the device are zero", pageSize)}
	case err != nil:
		err = errors.Join(err, bad)
	}
	if err := errors.Join(err, whole.close()); err != nil {
		return err
	}
	if metaSize <= 0 || metaSize > d.size-d.align {
		return &Error{Kind: ErrNotPool, Reason: fmt.Sprintf("its meta area is said to have %d bytes; the device has %d, in multiples of %d",
			metaSize, d.size, d.align)}
	}
	return p.mapSplit(d, d.roundUp(metaSize))
}

// blank says whether a device has nothing at its beginning: no pool, and nothing else that would be lost.
func blank(start []byte) bool { return bytes.Equal(start[:pageSize], make([]byte, pageSize)) }

func (p *Pool) mapSplit(d finding, metaSize int64) (err error) {
	p.base = metaSize
	p.report.MetaSize, p.report.DataSize = metaSize, d.size-metaSize
	if p.meta, err = mapArea(metaName, p.metaFile, 0, metaSize, d, p.readOnly); err != nil {
		return err
	}
	p.data, err = mapArea(dataName, p.dataFile, p.base, d.size-metaSize, d, p.readOnly)
	return err
}

// Meta is the area for metadata. It must not be used after Close, which panics.
func (p *Pool) Meta() Area { return p.meta }

// Data is the area for the contents of files. It must not be used after Close, which panics.
//
// In the page-cache domain its Fence knows only of stores made through it: after a client has stored through its own
// mapping, Flush of that range makes the next Fence an fdatasync.
func (p *Pool) Data() Area { return p.data }

// Report says what the pool is on, and why that is believed.
func (p *Pool) Report() Report {
	r := p.report
	r.Evidence = append([]Evidence(nil), r.Evidence...)
	return r
}

// Identity is a short name for what holds the data area, fit to be part of a file's name: the same by whatever path the
// pool is opened, and different for different pools that exist at the same time.
func (p *Pool) Identity() string { return p.identity }

// identify makes an Identity.
func identify(data *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(data.Fd()), &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: data.Name(), Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFCHR {
		return fmt.Sprintf("dev-%x-%x", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))), nil
	}
	return fmt.Sprintf("%x-%x", uint64(st.Dev), uint64(st.Ino)), nil
}

// ClientFile returns the data area's file, or the device, for a client to map: on an open file description of its own,
// which has the mapping lock. The lock lasts as long as any descriptor or mapping made from this one, whatever becomes
// of this process; until then nobody else can open the pool for writing (ErrSurvivors).
//
// With a slot, 0 to MaxSlots-1, the lock says whose it is, so that the next owner can take the client over
// (Options.Adopt). A slot must not be given to a client while another may have it, and only by who has opened the
// pool for writing. -1: no slot.
//
// The description is read-only if readOnly is set, and a client cannot change that. A writable one of a pool that was
// opened read-only is refused with EROFS. The caller closes the file when it has sent it.
func (p *Pool) ClientFile(readOnly bool, slot int) (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dataFile == nil {
		return nil, &fs.PathError{Op: "client file", Path: p.path, Err: fs.ErrClosed}
	}
	if slot < -1 || slot >= MaxSlots {
		return nil, &fs.PathError{Op: "client file", Path: p.path, Err: fmt.Errorf("slot %d: %w", slot, unix.EINVAL)}
	}
	flags := unix.O_RDWR
	if readOnly {
		flags = unix.O_RDONLY
	}
	if p.readOnly && (!readOnly || slot >= 0) {
		return nil, &fs.PathError{Op: "client file", Path: p.path, Err: unix.EROFS}
	}
	// By descriptor, not by name: the name may mean another file by now.
	self := fmt.Sprintf("/proc/self/fd/%d", p.dataFile.Fd())
	fd, err := unix.Open(self, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: self, Err: err}
	}
	f := os.NewFile(uintptr(fd), p.dataFile.Name())
	if slot >= 0 {
		err = lockSlot(f, slot)
	} else if ok, flockErr := flock(f, unix.LOCK_SH); !ok || flockErr != nil {
		err = errors.Join(flockErr, fmt.Errorf("flock %s: a shared lock was refused to the owner's client", f.Name()))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ClientMapping says how a client must mmap(2) the file of ClientFile: the data area begins at offset base (bytes) of
// the file; flags are MAP_SHARED, or MAP_SHARED_VALIDATE|MAP_SYNC where the host file system must make its own metadata
// durable before a store can be; offsets, lengths and addresses are multiples of align (bytes, a power of two).
func (p *Pool) ClientMapping() (base int64, flags int, align int64) {
	return p.base, p.found.mapFlags(), p.found.align
}

// Close unmaps both areas and gives up the locks. Stores that were not fenced may be lost. Further calls do nothing.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := errors.Join(p.data.close(), p.meta.close())
	if p.report.Assumed && !p.readOnly && p.dataFile != nil { // what fences have not done
		err = errors.Join(err, fdatasync(p.dataFile), fdatasync(p.metaFile))
	}
	if p.dataFile != nil && p.dataFile != p.metaFile {
		err = errors.Join(err, p.dataFile.Close())
	}
	if p.metaFile != nil {
		err = errors.Join(err, p.metaFile.Close())
	}
	p.metaFile, p.dataFile = nil, nil
	return err
}

// Examine reports on a pool without opening it: no lock is taken and nothing is stored, so that it works beside an
// owner. The sizes are 0 for a device.
func Examine(path string) (Report, error) { return realProber.examine(path) }

func (pr prober) examine(path string) (_ Report, err error) {
	p := &Pool{path: path, readOnly: true}
	defer func() { err = withPath(errors.Join(err, p.Close()), path) }()
	dir, err := pr.openFiles(p)
	if err != nil {
		return Report{}, err
	}
	defer dir.Close()
	if _, _, err := pr.look(p, false); err != nil || p.device {
		return p.report, err
	}
	meta, err := p.metaFile.Stat()
	if err != nil {
		return p.report, err
	}
	data, err := p.dataFile.Stat()
	if err != nil {
		return p.report, err
	}
	p.report.MetaSize, p.report.DataSize = meta.Size(), data.Size()
	return p.report, nil
}
