package pebblevfs

import (
	"errors"
	"io"
	"io/fs"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pmemfs/pmemfs"
)

// file is an open file of the pool, read and written by calls.
type file struct{ *pmemfs.File }

// Preallocate allocates blocks, which leaves the size as it is.
func (f *file) Preallocate(offset, length int64) error { return f.File.Allocate(offset, length, true) }

func (f *file) Stat() (vfs.FileInfo, error) { return newInfo(f.File.Stat()) }

func (f *file) SyncData() error { return f.File.Sync() }

// SyncTo makes all of the file durable: that costs no more than a part of it.
func (f *file) SyncTo(int64) (fullSync bool, err error) {
	err = f.File.Sync()
	return err == nil, err
}

// Prefetch does nothing: there is no cache between the pool and a read.
func (f *file) Prefetch(int64, int64) error { return nil }

func (f *file) Fd() uintptr { return vfs.InvalidFd }

// directory is a directory that was opened to be synced.
type directory struct{ file }

func (d *directory) Preallocate(int64, int64) error { return nil }

func (d *directory) SyncTo(int64) (fullSync bool, err error) { return false, nil }

// readFile is a file that is only read. ReadAt copies from a mapping of what the file was when it was first read.
type readFile struct {
	file
	once    sync.Once
	mapping *pmemfs.Mapping // set by once; nil: it cannot be mapped
}

func (f *readFile) ReadAt(p []byte, off int64) (int, error) {
	f.once.Do(f.mapAll)
	if m := f.mapping; m != nil && off >= 0 && off <= int64(len(m.Bytes()))-int64(len(p)) {
		if err := pmemfs.Catch(func() { copy(p, m.Bytes()[off:]) }); err == nil {
			return len(p), nil
		}
	}
	return f.File.ReadAt(p, off) // which says what is wrong, if anything is
}

func (f *readFile) mapAll() {
	fi, err := f.File.Stat()
	if err != nil || !fi.Mode().IsRegular() || fi.Size() == 0 {
		return
	}
	if m, err := f.Map(0, int(fi.Size()), pmemfs.Shared|pmemfs.ReadOnly); err == nil {
		f.mapping = m
	}
}

func (f *readFile) Close() error {
	f.once.Do(func() {})
	var err error
	if f.mapping != nil {
		err = f.mapping.Unmap()
	}
	return errors.Join(err, f.File.Close())
}

// info is a vfs.FileInfo. All files of a pool are on one device, the zero DeviceID.
type info struct {
	fs.FileInfo
	size int64
}

func newInfo(fi fs.FileInfo, err error) (vfs.FileInfo, error) {
	if err != nil {
		return nil, err
	}
	return &info{fi, fi.Size()}, nil
}

func (i *info) Size() int64 { return i.size }

// Name returns the last element of the name, "/" for the pool's root.
func (i *info) Name() string {
	if name := i.FileInfo.Name(); name != "." {
		return name
	}
	return "/"
}

func (i *info) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

// readAt reads as io.ReaderAt does from a file that ends at byte end, whatever is behind it.
func readAt(f io.ReaderAt, p []byte, off, end int64) (int, error) {
	if off >= end {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	short := int64(len(p)) > end-off
	n, err := f.ReadAt(p[:min(int64(len(p)), end-off)], off)
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}
