package pebblevfs

import (
	"bufio"
	"errors"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// tableBuffer is how much of a table is written at a time, in bytes. Pebble writes it block by block, some 4 KiB each; a write
// that makes the file grow is a transaction, and with a server a request.
const tableBuffer = 256 << 10

var tableBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, tableBuffer) }}

// tableFile is a file that is written from front to back: a table, a manifest, options.
type tableFile struct {
	file
	mu     sync.Mutex
	buffer *bufio.Writer // protected by mu; nil: nothing was written
}

func (f *tableFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.buffer == nil {
		f.buffer = tableBuffers.Get().(*bufio.Writer)
		f.buffer.Reset(f.File)
	}
	return f.buffer.Write(p)
}

// flush writes what is in the buffer. After an error each further one fails as well.
func (f *tableFile) flush() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.buffer == nil {
		return nil
	}
	return f.buffer.Flush()
}

func (f *tableFile) Sync() error {
	if err := f.flush(); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f *tableFile) SyncData() error { return f.Sync() }

func (f *tableFile) SyncTo(int64) (fullSync bool, err error) {
	err = f.Sync()
	return err == nil, err
}

func (f *tableFile) Close() error {
	err := f.flush()
	if f.buffer != nil {
		f.buffer.Reset(io.Discard)
		tableBuffers.Put(f.buffer)
		f.buffer = nil
	}
	return errors.Join(err, f.file.Close())
}

func (f *tableFile) Stat() (vfs.FileInfo, error) {
	if err := f.flush(); err != nil {
		return nil, err
	}
	return f.file.Stat()
}

func (f *tableFile) Read(p []byte) (int, error) {
	if err := f.flush(); err != nil {
		return 0, err
	}
	return f.file.Read(p)
}

func (f *tableFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.flush(); err != nil {
		return 0, err
	}
	return f.file.ReadAt(p, off)
}

func (f *tableFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.flush(); err != nil {
		return 0, err
	}
	return f.file.WriteAt(p, off)
}
