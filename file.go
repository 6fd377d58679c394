package pmemfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// File is an open file or directory. All methods may be called from several goroutines at once; Read, Write, Seek
// and ReadDir share one position and take turns.
type File struct {
	fsys   *FS
	name   string
	handle uint32
	ino    uint64
	flag   int // as given to OpenFile
	dir    bool
	closed atomic.Bool

	mu      sync.Mutex
	pos     int64         // protected by mu; bytes
	cookie  uint64        // protected by mu; where the next ReadDir goes on
	entries []fs.DirEntry // protected by mu; read from the server and not yet returned
}

var (
	_ fs.ReadDirFile  = (*File)(nil)
	_ io.ReadWriter   = (*File)(nil)
	_ io.ReaderAt     = (*File)(nil)
	_ io.WriterAt     = (*File)(nil)
	_ io.Seeker       = (*File)(nil)
	_ io.ReaderFrom   = (*File)(nil)
	_ io.WriterTo     = (*File)(nil)
	_ io.StringWriter = (*File)(nil)
)

// call does a request on the file's handle.
func (f *File) call(op string, q *wire.Request) (*wire.Reply, error) {
	if f.closed.Load() {
		return nil, pathError(op, f.name, fs.ErrClosed)
	}
	q.Handle = f.handle
	r, err := f.fsys.call(q)
	return r, pathError(op, f.name, err)
}

// Name returns the name that the file was opened by.
func (f *File) Name() string { return f.name }

// Stat describes the file.
func (f *File) Stat() (fs.FileInfo, error) {
	r, err := f.call("stat", &wire.Request{Op: wire.OpStat})
	if err != nil {
		return nil, err
	}
	return newFileInfo("stat", f.name, r)
}

// Close closes the file. Its mappings live on. A server frees the blocks of a file that was removed with the client's next
// request, or a millisecond later.
func (f *File) Close() error {
	if f.closed.Swap(true) {
		return pathError("close", f.name, fs.ErrClosed)
	}
	_, err := f.fsys.call(&wire.Request{Op: wire.OpClose, Handle: f.handle})
	return pathError("close", f.name, errors.Join(err, f.fsys.release()))
}

// Read reads up to len(p) bytes from the file's position and moves it. At the end of the file it returns 0, io.EOF.
func (f *File) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.readAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// ReadAt reads len(p) bytes from byte off of the file. It returns io.EOF when the file ends before.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, pathError("read", f.name, unix.EINVAL)
	}
	return f.readAt(p, off)
}

func (f *File) readAt(p []byte, off int64) (int, error) {
	done := 0
	for {
		want := min(len(p)-done, wire.MaxData)
		r, err := f.call("read", &wire.Request{Op: wire.OpRead, Offset: off + int64(done), Length: int64(want)})
		if err != nil {
			return done, err
		}
		if len(r.Data) > want {
			return done, pathError("read", f.name, errProtocol)
		}
		done += copy(p[done:], r.Data)
		if done == len(p) {
			return done, nil
		}
		if r.N != 0 || len(r.Data) == 0 {
			return done, io.EOF
		}
	}
}

// Write writes p at the file's position, or at its end when it was opened with O_APPEND, and moves the position.
// When the bytes and the metadata that finds them are durable the [CommitPolicy] says. ENOSPC: the pool is full; the
// number of bytes that were written is returned.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, end, err := f.writeAt(p, f.pos)
	f.pos = end
	return n, err
}

// WriteString is Write for a string.
func (f *File) WriteString(s string) (int, error) { return f.Write([]byte(s)) }

// WriteAt writes p at byte off of the file. It is an error on a file opened with O_APPEND. For durability see Write.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if f.flag&os.O_APPEND != 0 {
		return 0, pathError("write", f.name, &detailed{"WriteAt on a file opened with O_APPEND", unix.EINVAL})
	}
	if off < 0 {
		return 0, pathError("write", f.name, unix.EINVAL)
	}
	n, _, err := f.writeAt(p, off)
	return n, err
}

// writeAt writes p in messages and returns also the offset behind the last byte written.
func (f *File) writeAt(p []byte, off int64) (n int, end int64, err error) {
	end = off
	for {
		part := p[n:min(len(p), n+wire.MaxData)]
		r, err := f.call("write", &wire.Request{Op: wire.OpWrite, Offset: end, Data: part})
		if err != nil {
			return n, end, err
		}
		if r.N < 0 || r.N > int64(len(part)) || (r.N == 0 && len(part) > 0) {
			return n, end, pathError("write", f.name, errProtocol)
		}
		n += int(r.N)
		end = r.Offset + r.N
		if n == len(p) {
			return n, end, nil
		}
	}
}

// Seek sets the position. Besides the whences of package io it understands unix.SEEK_DATA and unix.SEEK_HOLE.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var base int64
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		base = f.pos
	case io.SeekEnd:
		fi, err := f.Stat()
		if err != nil {
			return 0, err
		}
		base = fi.Size()
	case unix.SEEK_DATA, unix.SEEK_HOLE:
		to, err := f.seek(offset, whence)
		if err == nil {
			f.pos = to
		}
		return to, err
	default:
		return 0, pathError("seek", f.name, unix.EINVAL)
	}
	if base+offset < 0 || (offset > 0 && base+offset < base) {
		return 0, pathError("seek", f.name, unix.EINVAL)
	}
	f.pos = base + offset
	if f.dir && f.pos == 0 {
		f.cookie, f.entries = 0, nil // as rewinddir(3)
	}
	return f.pos, nil
}

func (f *File) seek(offset int64, whence int) (int64, error) {
	r, err := f.call("seek", &wire.Request{Op: wire.OpSeek, Offset: offset, Flags: uint32(whence)})
	if err != nil {
		return 0, err
	}
	return r.Offset, nil
}

// SeekData returns the first offset at or after off that holds data. ENXIO: there is none. The position stays.
func (f *File) SeekData(off int64) (int64, error) { return f.seek(off, unix.SEEK_DATA) }

// SeekHole returns the first offset at or after off that lies in a hole; the end of the file counts as one. ENXIO:
// off is beyond the end. The position stays.
func (f *File) SeekHole(off int64) (int64, error) { return f.seek(off, unix.SEEK_HOLE) }

// ReadDir returns the next n entries of a directory, in no particular order, and io.EOF when there are no more; all
// that are left, without io.EOF, when n <= 0. Entries that are added or removed meanwhile may or may not be seen;
// every other entry is seen once.
func (f *File) ReadDir(n int) ([]fs.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n <= 0 || len(f.entries) < n {
		r, err := f.call("readdir", &wire.Request{Op: wire.OpList, Offset: int64(f.cookie), Length: wire.MaxEntries})
		if err != nil {
			return f.take(len(f.entries)), err
		}
		if len(r.Entries) == 0 {
			break
		}
		for _, e := range r.Entries {
			f.entries = append(f.entries, &dirEntry{fsys: f.fsys, dir: f.name, name: e.Name, kind: e.Type})
		}
		f.cookie = r.Entries[len(r.Entries)-1].Next
	}
	if n <= 0 {
		return f.take(len(f.entries)), nil
	}
	if len(f.entries) == 0 {
		return nil, io.EOF
	}
	return f.take(min(n, len(f.entries))), nil
}

// take removes the first n entries. The caller holds f.mu.
func (f *File) take(n int) []fs.DirEntry {
	list := f.entries[:n:n]
	f.entries = f.entries[n:]
	if list == nil {
		list = []fs.DirEntry{}
	}
	return list
}

// Chmod sets the permission bits, setuid, setgid and sticky.
func (f *File) Chmod(mode fs.FileMode) error {
	_, err := f.call("chmod", &wire.Request{Op: wire.OpSetAttr, Valid: wire.SetMode, Mode: unixPerm(mode)})
	return err
}

// Truncate sets the size in bytes; the file must be open for writing. Mappings lose their access to what is cut
// off before Truncate returns. When it is durable the [CommitPolicy] says.
func (f *File) Truncate(size int64) error {
	_, err := f.call("truncate", &wire.Request{Op: wire.OpSetAttr, Valid: wire.SetSize, Length: size})
	return err
}

// Sync makes everything durable that was done to the file: what was written to it, the metadata that finds it, its
// attributes and times. Stores through mappings are not its business: see [Mapping.Sync]. On byte-addressable media that
// are served it makes no system call when nothing of the file is pending.
func (f *File) Sync() error {
	if !f.closed.Load() && f.fsys.settled(f.ino) {
		return nil
	}
	_, err := f.call("sync", &wire.Request{Op: wire.OpSync})
	return err
}

// settled says that nothing that was done to a file waits to be made durable, and nobody needs to be asked: three loads from
// the page in which the server says what is pending. False where that is not known.
func (fsys *FS) settled(ino uint64) bool {
	p := fsys.space.progress
	return p != nil && fsys.hello.Granularity <= uint32(CacheLine) && !p.Pending(ino) && !fsys.closed.Load() && !fsys.space.isGone()
}

func (f *File) fallocate(op string, mode uint32, off, n int64) error {
	_, err := f.call(op, &wire.Request{Op: wire.OpAlloc, Flags: mode, Offset: off, Length: n})
	return err
}

// Allocate allocates the blocks of a range that have none; they read as zeros. The size grows to off+n unless
// keepSize is true. ENOSPC: nothing was allocated. See fallocate(2).
func (f *File) Allocate(off, n int64, keepSize bool) error {
	var mode uint32
	if keepSize {
		mode = unix.FALLOC_FL_KEEP_SIZE
	}
	return f.fallocate("allocate", mode, off, n)
}

// PunchHole frees the blocks that lie wholly in the range and zeroes the rest of it. The size stays. Mappings go
// on to work: they read zeros, and a store allocates again.
func (f *File) PunchHole(off, n int64) error {
	return f.fallocate("punch", unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// ZeroRange makes a range read as zeros, with its blocks allocated. The size grows to off+n when that is more.
func (f *File) ZeroRange(off, n int64) error {
	return f.fallocate("zero", unix.FALLOC_FL_ZERO_RANGE, off, n)
}

// CollapseRange cuts a range out of the file: what is behind it moves to off, and the size shrinks by n. No contents are
// copied. off and n are multiples of 4096, and the range ends before the end of the file: EINVAL. It has happened wholly or
// not at all after a crash; EFBIG: what is behind has more extents than a record of the log can hold. ErrSealed: a block
// from off on is sealed or pinned. See FALLOC_FL_COLLAPSE_RANGE in fallocate(2).
func (f *File) CollapseRange(off, n int64) error {
	return f.fallocate("collapse", unix.FALLOC_FL_COLLAPSE_RANGE, off, n)
}

// InsertRange puts a hole of n bytes before off, which lies before the end of the file: what was there moves, and the size
// grows by n. Else it is as CollapseRange. See FALLOC_FL_INSERT_RANGE in fallocate(2).
func (f *File) InsertRange(off, n int64) error {
	return f.fallocate("insert", unix.FALLOC_FL_INSERT_RANGE, off, n)
}

// Relocate moves the blocks of a range, in bytes, to newly allocated contiguous ones. Mappings of the range, in any
// process, go on with the new blocks; no store is lost. ErrSealed: a part of the range is pinned.
func (f *File) Relocate(off, n int64) error {
	_, err := f.call("relocate", &wire.Request{Op: wire.OpMove, Offset: off, Length: n})
	return err
}

// Extents returns where the blocks of the file lie, holes included, in the order of their offsets.
func (f *File) Extents() ([]Extent, error) {
	var list []Extent
	var off int64
	for {
		r, err := f.call("extents", &wire.Request{Op: wire.OpExtent, Offset: off})
		if err != nil {
			return nil, err
		}
		for _, e := range r.Extents {
			list = appendExtent(list, Extent{
				Offset: e.Off, Length: e.Len, Block: e.Block,
				Unwritten: e.Flags&wire.ExtentUnwritten != 0, Shared: e.Flags&wire.ExtentShared != 0,
			})
		}
		if len(r.Extents) == 0 || r.Offset <= off {
			return list, nil
		}
		off = r.Offset
	}
}

// appendExtent adds an extent, or lengthens the last one when both are one run that was cut by the end of a message.
func appendExtent(list []Extent, e Extent) []Extent {
	if n := len(list); n > 0 {
		last := &list[n-1]
		next := Extent{last.Offset + last.Length, e.Length, last.Block, last.Unwritten, last.Shared}
		if last.Block >= 0 {
			next.Block += last.Length / blockSize
		}
		if e == next {
			last.Length += e.Length
			return list
		}
	}
	return append(list, e)
}
