package fusefs

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// staticFlag is what a static file has among the flags of chattr(1), as "C": its blocks are never replaced by others. Of
// those flags it comes closest; none says that the block map is frozen. See ioctl_iflags(2).
const staticFlag = 0x00800000 // FS_NOCOW_FL

// ioctls that the kernel passes on for lsattr(1) and chattr(1). Others it answers itself, most with ENOTTY, and some,
// FS_IOC_FIEMAP and FICLONE among them, with EOPNOTSUPP.
const (
	getFlags  = unix.FS_IOC_GETFLAGS
	setFlags  = unix.FS_IOC_SETFLAGS
	getXFlags = 0x801c581f // FS_IOC_FSGETXATTR: asked for before flags are set; there are none of its kind

	// extentMap is FS_IOC_FIEMAP but for the size, bits 16 to 29, which counts the extents in the structure, too. So it is
	// another number, which the kernel does not answer itself but passes on, with as many bytes.
	extentMap     = 0xc000660b
	extentMapSize = 0x3fff0000
)

// Ioctl: ioctl(2) with FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and extentMap. Only root may freeze or thaw a file.
func (f *FS) Ioctl(_ <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, _ *fuse.IoctlOut, outbuf []byte) fuse.Status {
	switch {
	case in.Cmd == getFlags && len(outbuf) >= 4:
		r, status := f.do(f.relative(&in.InHeader, wire.OpLookup, ""))
		if status != fuse.OK {
			return status
		}
		var flags uint32
		if r.Attr.Flags&wire.AttrStatic != 0 {
			flags = staticFlag
		}
		clear(outbuf)
		binary.NativeEndian.PutUint32(outbuf, flags)
		return fuse.OK
	case in.Cmd == getXFlags:
		clear(outbuf)
		return fuse.OK
	case in.Cmd&^extentMapSize == extentMap && len(inbuf) >= mapHeader && len(outbuf) == len(inbuf):
		copy(outbuf, inbuf)
		return f.extents(uint32(in.Fh), outbuf)
	case in.Cmd == setFlags && len(inbuf) >= 4:
		flags := binary.NativeEndian.Uint32(inbuf)
		if flags&^staticFlag != 0 {
			return fuse.ENOTSUP
		}
		if in.Uid != 0 {
			return fuse.EPERM
		}
		_, status := f.do(&wire.Request{Op: wire.OpSetStatic, Handle: uint32(in.Fh), Flags: flags / staticFlag})
		return status
	}
	return fuse.Status(unix.ENOTTY)
}

// struct fiemap and struct fiemap_extent of linux/fiemap.h.
const (
	mapHeader = 32
	mapExtent = 56

	extentLast      = 0x1
	extentUnwritten = 0x800
	extentShared    = 0x2000
)

// extents fills in a struct fiemap: what the file has between fm_start and fm_start + fm_length, as far as there is room for. The
// physical place is the byte in the pool's data area. With room for none it is counted only.
func (f *FS) extents(handle uint32, b []byte) fuse.Status {
	ne := binary.NativeEndian
	at, length, flags, room := ne.Uint64(b), ne.Uint64(b[8:]), ne.Uint32(b[16:]), ne.Uint32(b[24:])
	if flags&^1 != 0 || int64(at) < 0 { // FIEMAP_FLAG_SYNC: nothing is delayed
		return fuse.Status(unix.EBADR)
	}
	end := at + min(length, 1<<62-at)
	list := b[mapHeader:]
	room = min(room, uint32(len(list)/mapExtent))
	var mapped uint32
	var last []byte
	for next := int64(at &^ (blockSize - 1)); uint64(next) < end; {
		r, status := f.do(&wire.Request{Op: wire.OpExtent, Handle: handle, Offset: next})
		if status != fuse.OK {
			return status
		}
		for _, e := range r.Extents {
			if e.Block < 0 || uint64(e.Off) >= end {
				continue
			}
			if last = nil; mapped < room {
				last = list[mapped*mapExtent:][:mapExtent]
				fillExtent(last, e)
			}
			mapped++
		}
		if r.Offset == next {
			if last != nil { // the end of the file
				ne.PutUint32(last[40:], ne.Uint32(last[40:])|extentLast)
			}
			break
		}
		next = r.Offset
	}
	if room > 0 {
		mapped = min(mapped, room)
	}
	ne.PutUint32(b[20:], mapped)
	return fuse.OK
}

func fillExtent(b []byte, e wire.Extent) {
	ne := binary.NativeEndian
	clear(b)
	ne.PutUint64(b, uint64(e.Off))
	ne.PutUint64(b[8:], uint64(e.Block)*blockSize)
	ne.PutUint64(b[16:], uint64(e.Len))
	var flags uint32
	if e.Flags&wire.ExtentUnwritten != 0 {
		flags |= extentUnwritten
	}
	if e.Flags&wire.ExtentShared != 0 {
		flags |= extentShared
	}
	ne.PutUint32(b[40:], flags)
}
