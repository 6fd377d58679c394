package pebblevfs

import (
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/adapter"
)

const (
	blockSize = 4096

	// minWindow and maxWindow are how much of a log is mapped at a time, in bytes: the first window is small because many
	// logs are, each next one is twice as large, so that a long log is mapped rarely.
	minWindow = 64 << 10
	maxWindow = 4 << 20
)

// logFile is a file that is appended to through a mapping.
//
// Invariant: the file's size is at least end; bytes from end on are zeros, or what was there when it was opened. Bytes of
// the window before dirty are durable.
type logFile struct {
	file
	mappings adapter.Mappings

	pos  int64 // where the next Write or Read begins
	end  int64 // the size as far as others need to know
	size int64 // the size that the file has

	window *pmemfs.Mapping // nil: none yet
	base   int64           // the byte of the file where the window begins
	dirty  int             // bytes of the window from here to pos are not known to be durable
	next   int64           // length of the next window
	failed bool            // it cannot be mapped; it is written by calls from now on
}

func newLogFile(f *pmemfs.File, mappings adapter.Mappings) (vfs.File, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &logFile{file: file{f}, mappings: mappings, end: fi.Size(), size: fi.Size(), next: minWindow}, nil
}

// Write appends at the position: a copy, and now and then a new window.
func (f *logFile) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := f.store(p[done:])
		if err != nil {
			return done, err
		}
		done += n
		f.pos += int64(n)
		f.end = max(f.end, f.pos)
	}
	return done, nil
}

// store writes a first part of p at the position.
func (f *logFile) store(p []byte) (n int, err error) {
	if !f.failed && !f.inWindow() {
		f.failed = f.advance() != nil
	}
	if !f.failed {
		room := f.window.Bytes()[f.pos-f.base:]
		if err := pmemfs.Catch(func() { n = copy(room, p) }); err == nil {
			return n, nil
		}
		f.failed = true
	}
	if n, err = f.File.WriteAt(p, f.pos); err == nil {
		f.size = max(f.size, f.pos+int64(n))
	}
	return n, err
}

func (f *logFile) inWindow() bool {
	return f.window != nil && f.base <= f.pos && f.pos < f.base+int64(len(f.window.Bytes()))
}

// advance maps a window around the position, and lengthens the file for it. What the old window had is durable then.
func (f *logFile) advance() error {
	if err := f.closeWindow(); err != nil {
		return err
	}
	base := f.pos / blockSize * blockSize
	end := base + f.next
	if f.size > f.pos {
		end = min(end, (f.size+blockSize-1)/blockSize*blockSize) // a file that is reused has its own length
	}
	if f.size < end {
		if err := f.File.Truncate(end); err != nil {
			return err
		}
		f.size = end
	}
	m, err := f.mappings.Map(f.File, base, end-base)
	if err != nil {
		return err
	}
	f.window, f.base, f.dirty = m, base, int(f.pos-base)
	f.next = min(2*f.next, maxWindow)
	return nil
}

func (f *logFile) closeWindow() error {
	if f.window == nil {
		return nil
	}
	err := errors.Join(f.persist(), f.window.Unmap())
	f.window = nil
	return err
}

// persist makes the window's stores durable.
func (f *logFile) persist() error {
	if f.window == nil {
		return nil
	}
	to := min(int(f.pos-f.base), len(f.window.Bytes()))
	if to == f.dirty {
		return nil
	}
	if err := f.mappings.Persist(f.window, f.dirty, to-f.dirty); err != nil {
		return err
	}
	f.dirty = to
	return nil
}

// SyncData makes everything that was written durable.
func (f *logFile) SyncData() error {
	err := f.persist()
	if err == nil && f.failed {
		err = f.File.Sync()
	}
	return err
}

// Sync is SyncData, and makes the file's times durable.
func (f *logFile) Sync() error { return errors.Join(f.persist(), f.File.Sync()) }

func (f *logFile) SyncTo(int64) (fullSync bool, err error) {
	err = f.SyncData()
	return err == nil, err
}

// Close cuts off what was allocated ahead.
func (f *logFile) Close() error {
	err := f.closeWindow()
	if f.end < f.size {
		err = errors.Join(err, f.File.Truncate(f.end))
	}
	return errors.Join(err, f.File.Close())
}

func (f *logFile) Stat() (vfs.FileInfo, error) {
	fi, err := f.File.Stat()
	if err != nil {
		return nil, err
	}
	return &info{fi, f.end}, nil
}

func (f *logFile) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (f *logFile) ReadAt(p []byte, off int64) (int, error) { return readAt(f.File, p, off, f.end) }

func (f *logFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	f.end = max(f.end, off+int64(n))
	f.size = max(f.size, f.end)
	return n, err
}
