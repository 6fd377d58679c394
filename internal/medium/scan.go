package medium

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// BadRange is what the kernel lists as bad of the device that holds a pool. Its JSON form is stable.
type BadRange struct {
	List   string `json:"list"`   // the file in sysfs
	Sector int64  `json:"sector"` // of 512 bytes, counted from the start of the device or region
	Count  int64  `json:"count"`
}

// ScanOptions for Scan. The zero value reads everything and says nothing.
type ScanOptions struct {
	Found    func(*BadBlockError)    // called for each bad block, in order, meta first
	Progress func(done, total int64) // bytes; called now and then
}

// Scan reads every block of both areas, but for holes of their files, and returns what the kernel lists as bad of the device
// below. It reads by read(2) first, which does not touch what the kernel lists, and then by loads, as programs do. What is
// bad is remembered, as by Guard.
func (p *Pool) Scan(ctx context.Context, o ScanOptions) ([]BadRange, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dataFile == nil {
		return nil, &fs.PathError{Op: "scan", Path: p.path, Err: fs.ErrClosed}
	}
	listed, err := p.listed(realProber.sys)
	if err != nil {
		return nil, err
	}
	done, total := int64(0), p.meta.Size()+p.data.Size()
	for _, a := range []*mapped{p.meta, p.data} {
		scan := scanning{ctx: ctx, a: a, o: o, before: done, total: total}
		if err := eachData(a.file, a.base, a.Size(), scan.run); err != nil {
			return listed, err
		}
		if scan.err != nil {
			return listed, scan.err
		}
		done += a.Size()
	}
	return listed, nil
}

// listed returns what the kernel lists, and remembers what of it is the pool's, as far as that can be told: where the blocks
// of files lie only their file system knows, which looks at the list itself when they are read.
func (p *Pool) listed(sys sysfs) ([]BadRange, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(p.dataFile.Fd()), &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: p.path, Err: err}
	}
	if !p.device {
		return sys.badRanges("block", st.Dev), nil
	}
	listed := sys.badRanges("char", st.Rdev)
	if listed == nil {
		return nil, nil
	}
	start, err := sys.daxStart(st.Rdev)
	if err != nil {
		return listed, err
	}
	for _, r := range listed {
		first := r.Sector*sectorSize - start
		for at := first / pageSize * pageSize; at < first+r.Count*sectorSize; at += pageSize {
			if a := p.areaAt(at); a != nil {
				a.bad.add((at-a.base)/pageSize, kind{errors.New("the kernel lists it in " + r.List), unix.EIO})
			}
		}
	}
	return listed, nil
}

// areaAt returns the area that a byte of the device is in; nil: none.
func (p *Pool) areaAt(at int64) *mapped {
	for _, a := range []*mapped{p.meta, p.data} {
		if a.base <= at && at-a.base < a.Size() {
			return a
		}
	}
	return nil
}

// scanning is a Scan of one area.
type scanning struct {
	ctx           context.Context
	a             *mapped
	o             ScanOptions
	before, total int64 // of the progress
	buf           []byte
	err           error // ends it
}

// scanStep is how many bytes are read at once.
const scanStep = 1 << 20

// run scans a run of bytes of the area that is no hole.
func (s *scanning) run(off, n int64) {
	if s.buf == nil {
		s.buf = make([]byte, scanStep)
	}
	off, n = off/pageSize*pageSize, (off+n+pageSize-1)/pageSize*pageSize-off/pageSize*pageSize
	for at := off; at < off+n && s.err == nil; at += scanStep {
		if s.err = s.ctx.Err(); s.err != nil {
			return
		}
		step := min(scanStep, off+n-at)
		if s.a.FirstBad(at, step) >= 0 || s.read(at, step) != nil {
			s.blocks(at, step)
		}
		if s.o.Progress != nil {
			s.o.Progress(s.before+at+step, s.total)
		}
	}
}

// blocks scans block by block.
func (s *scanning) blocks(off, n int64) {
	for at := off; at < off+n; at += pageSize {
		var bad *BadBlockError
		if errors.As(s.read(at, pageSize), &bad) && s.o.Found != nil {
			s.o.Found(bad)
		}
	}
}

// read reads a range. An error is about one of the blocks.
func (s *scanning) read(off, n int64) error {
	return Guard(func() error {
		s.a.refuse(off, n)
		got, err := unix.Pread(int(s.a.file.Fd()), s.buf[:n], s.a.base+off)
		if errors.Is(err, unix.EINVAL) { // device-DAX
			err, got = nil, int(n)
		}
		if err != nil || int64(got) < n {
			if n > pageSize {
				return unix.EIO // one of them
			}
			return s.a.found(off)
		}
		touch(s.a.mem[off : off+n])
		return nil
	})
}
