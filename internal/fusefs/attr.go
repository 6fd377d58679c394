package fusefs

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

const (
	blockSize  = 4096
	statBlocks = blockSize / 512 // st_blocks of a block
)

// GetAttr: stat(2), and whenever the kernel wants to know.
func (f *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return f.attr(f.relative(&in.InHeader, wire.OpLookup, ""), out)
}

// Statx: statx(2) when it asks for the time of birth.
func (f *FS) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	r, status := f.do(f.relative(&in.InHeader, wire.OpLookup, ""))
	if status != fuse.OK {
		return status
	}
	a := r.Attr
	out.SetTimeout(f.attrValid())
	out.Statx = fuse.Statx{
		Mask: unix.STATX_BASIC_STATS | unix.STATX_BTIME, Blksize: blockSize, Nlink: a.Nlink, Uid: a.UID, Gid: a.GID,
		Mode: uint16(a.Mode), Ino: a.Ino, Size: uint64(a.Size), Blocks: uint64(a.Blocks) * statBlocks,
		Atime: statxTime(a.Atime), Btime: statxTime(a.Btime), Ctime: statxTime(a.Ctime), Mtime: statxTime(a.Mtime),
		RdevMajor: unix.Major(a.Rdev), RdevMinor: unix.Minor(a.Rdev),
	}
	return fuse.OK
}

// SetAttr: chmod(2), chown(2), truncate(2), utimensat(2).
func (f *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	q := f.relative(&in.InHeader, wire.OpSetAttr, "")
	for _, bit := range []struct {
		kernel uint32
		valid  uint32
	}{
		{fuse.FATTR_MODE, wire.SetMode}, {fuse.FATTR_UID, wire.SetUID | wire.SetDropPrivileges},
		{fuse.FATTR_GID, wire.SetGID | wire.SetDropPrivileges}, {fuse.FATTR_SIZE, wire.SetSize},
		{fuse.FATTR_ATIME, wire.SetAtime}, {fuse.FATTR_MTIME, wire.SetMtime},
		{fuse.FATTR_ATIME_NOW, wire.SetAtimeNow}, {fuse.FATTR_MTIME_NOW, wire.SetMtimeNow},
		{fuse.FATTR_KILL_SUIDGID, wire.SetDropPrivileges},
	} {
		if in.Valid&bit.kernel != 0 {
			q.Valid |= bit.valid
		}
	}
	if q.Valid == 0 {
		return f.setNothing(q, &in.InHeader, out)
	}
	if in.Size > math.MaxInt64 {
		return fuse.Status(unix.EFBIG)
	}
	q.Mode, q.UID, q.GID, q.Length = in.Mode&0o7777, in.Uid, in.Gid, int64(in.Size)
	q.Atime, q.Mtime = nanoseconds(in.Atime, in.Atimensec), nanoseconds(in.Mtime, in.Mtimensec)
	return f.attr(q, out)
}

// attr does a request whose answer is attributes.
func (f *FS) attr(q *wire.Request, out *fuse.AttrOut) fuse.Status {
	r, status := f.do(q)
	if status != fuse.OK {
		return status
	}
	out.SetTimeout(f.attrValid())
	fillAttr(&out.Attr, r.Attr)
	return fuse.OK
}

// setNothing is for chown(2) of neither user nor group, which drops set-user-ID bits and changes the time of the change. But
// the kernel also begins so when somebody writes to a file who is not its owner: then the write itself drops them.
func (f *FS) setNothing(q *wire.Request, h *fuse.InHeader, out *fuse.AttrOut) fuse.Status {
	now, status := f.do(f.relative(h, wire.OpLookup, ""))
	if status != fuse.OK {
		return status
	}
	if h.Uid == 0 || h.Uid == now.Attr.UID {
		q.Valid = wire.SetDropPrivileges
		return f.attr(q, out)
	}
	fillAttr(&out.Attr, now.Attr)
	return fuse.OK
}

// StatFs: statfs(2).
func (f *FS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	f.freed()
	r, status := f.do(&wire.Request{Op: wire.OpStatfs})
	if status != fuse.OK {
		return status
	}
	s := r.Statfs
	out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, 255
	out.Blocks, out.Bfree, out.Bavail = uint64(s.Blocks), uint64(s.FreeBlocks), uint64(s.FreeBlocks)
	out.Files, out.Ffree = uint64(s.Inodes), uint64(s.FreeInodes)
	return fuse.OK
}

func fillAttr(out *fuse.Attr, a *wire.Attr) {
	out.Ino, out.Size, out.Blocks, out.Blksize = a.Ino, uint64(a.Size), uint64(a.Blocks)*statBlocks, blockSize
	out.Mode, out.Nlink, out.Uid, out.Gid, out.Rdev = a.Mode, a.Nlink, a.UID, a.GID, uint32(a.Rdev)
	out.Atime, out.Atimensec = seconds(a.Atime)
	out.Mtime, out.Mtimensec = seconds(a.Mtime)
	out.Ctime, out.Ctimensec = seconds(a.Ctime)
}

const second = 1_000_000_000

// seconds divides a time; before 1970 the seconds are negative, the nanoseconds are not.
func seconds(ns int64) (sec uint64, nsec uint32) {
	s, n := ns/second, ns%second
	if n < 0 {
		s, n = s-1, n+second
	}
	return uint64(s), uint32(n)
}

// nanoseconds is the inverse. What lies beyond the years 1677 to 2262 becomes their end, as timestamp_truncate in
// Linux does.
func nanoseconds(sec uint64, nsec uint32) int64 {
	const most, least = math.MaxInt64 / second, math.MinInt64/second - 1
	switch s := int64(sec); {
	case s >= most:
		return math.MaxInt64
	case s <= least:
		return math.MinInt64
	default:
		return s*second + int64(nsec)
	}
}

func statxTime(ns int64) fuse.SxTime {
	s, n := seconds(ns)
	return fuse.SxTime{Sec: s, Nsec: n}
}
