package fusefs

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// keptFlags are those flags of open(2) that the session is to know. O_APPEND comes with each write.
const keptFlags = unix.O_ACCMODE | unix.O_SYNC | unix.O_TRUNC

// Open: open(2) of a regular file.
func (f *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	q := f.relative(&in.InHeader, wire.OpOpen, "")
	q.Flags = in.Flags & keptFlags
	if in.Mode&fuse.OPEN_KILL_SUIDGID != 0 {
		q.Valid = wire.SetDropPrivileges
	}
	r, status := f.do(q)
	if status != fuse.OK {
		return status
	}
	if f.shared.Load() { // for who is going to map it
		f.notifier.invalidate(in.NodeId)
	}
	out.Fh, out.OpenFlags = uint64(r.Handle), f.openFlags()
	return fuse.OK
}

// Release is called when nobody has the open file any more, nor anything of it mapped.
func (f *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	f.do(&wire.Request{Op: wire.OpClose, Handle: uint32(in.Fh)})
}

// Flush: the kernel is told once that there is nothing to do at close(2): no write is deferred, and locks are its own.
func (f *FS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Read: read(2), or a page for the cache.
func (f *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	got := 0
	for got < len(buf) {
		r, status := f.do(&wire.Request{
			Op: wire.OpRead, Handle: uint32(in.Fh), Offset: int64(in.Offset) + int64(got),
			Length: int64(min(len(buf)-got, wire.MaxData)), Into: buf[got:],
		})
		if status != fuse.OK {
			return nil, status
		}
		got += copy(buf[got:], r.Data) // of a session in this process nothing: it is there already
		if r.N == 1 || len(r.Data) == 0 {
			break
		}
	}
	return fuse.ReadResultData(buf[:got]), fuse.OK
}

// Write: write(2), or a page that was stored to. Where O_APPEND writes, the session decides.
func (f *FS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	q := &wire.Request{Op: wire.OpWrite, Handle: uint32(in.Fh), Offset: int64(in.Offset), Flags: in.Flags & unix.O_SYNC}
	if in.Flags&unix.O_APPEND != 0 && in.WriteFlags&fuse.WRITE_CACHE == 0 {
		q.Flags |= unix.O_APPEND
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		q.Flags |= wire.FlagDropPrivileges
	}
	var written uint32
	for {
		q.Data = data[written:min(len(data), int(written)+wire.MaxData)]
		r, status := f.do(q)
		switch {
		case status != fuse.OK && written == 0:
			return 0, status
		case status != fuse.OK:
			return written, fuse.OK // who comes back for the rest is told
		}
		q.Offset += r.N
		if written += uint32(r.N); int(written) >= len(data) || r.N == 0 {
			return written, fuse.OK
		}
	}
}

// Writev is not there: requests come in one piece.
func (f *FS) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

// Fsync: fsync(2), fdatasync(2), msync(2), and writes with O_SYNC or O_DSYNC.
func (f *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	_, status := f.do(&wire.Request{Op: wire.OpSync, Handle: uint32(in.Fh)})
	return status
}

// Fallocate: fallocate(2).
func (f *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if in.Offset > math.MaxInt64 || in.Length > math.MaxInt64 {
		return fuse.Status(unix.EFBIG)
	}
	q := &wire.Request{Op: wire.OpAlloc, Handle: uint32(in.Fh), Offset: int64(in.Offset), Length: int64(in.Length), Flags: in.Mode}
	if in.Uid != 0 {
		q.Flags |= wire.FlagDropPrivileges
	}
	_, status := f.do(q)
	return status
}

// Lseek: lseek(2) with SEEK_DATA or SEEK_HOLE.
func (f *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	r, status := f.do(&wire.Request{Op: wire.OpSeek, Handle: uint32(in.Fh), Offset: int64(in.Offset), Flags: in.Whence})
	if status == fuse.OK {
		out.Offset = uint64(r.Offset)
	}
	return status
}

// maxCopy is what one request copies at most, bytes: what the answer can say, and less.
const maxCopy = 1 << 30

// CopyFileRange: copy_file_range(2), where the pool is; whole blocks are shared by the two files from then on.
func (f *FS) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	if max(in.OffIn, in.OffOut) > math.MaxInt64 {
		return 0, fuse.EINVAL
	}
	r, status := f.do(&wire.Request{
		Op: wire.OpCopyRange, Handle: uint32(in.FhOut), Offset: int64(in.OffOut), Source: uint32(in.FhIn), SourceOffset: int64(in.OffIn),
		Length: int64(min(in.Len, maxCopy)),
	})
	if status != fuse.OK {
		return 0, status
	}
	return uint32(r.N), fuse.OK
}
