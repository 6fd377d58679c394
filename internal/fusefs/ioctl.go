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
)

// Ioctl: ioctl(2) with FS_IOC_GETFLAGS and FS_IOC_SETFLAGS. Only root may freeze or thaw a file.
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
