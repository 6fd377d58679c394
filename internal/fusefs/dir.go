package fusefs

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// OpenDir: opendir(3).
func (f *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	q := f.relative(&in.InHeader, wire.OpOpen, "")
	q.Flags = unix.O_DIRECTORY
	r, status := f.do(q)
	if status == fuse.OK {
		out.Fh = uint64(r.Handle)
	}
	return status
}

// ReleaseDir: closedir(3).
func (f *FS) ReleaseDir(in *fuse.ReleaseIn) {
	f.do(&wire.Request{Op: wire.OpClose, Handle: uint32(in.Fh)})
}

// FsyncDir: fsync(2) of a directory.
func (f *FS) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return f.Fsync(cancel, in)
}

// Positions in a directory: 0 and 1 are before "." and "..", all others 2 more than the session's cookies.
const dots = 2

// ReadDir: getdents(2) when attributes will not be asked for.
func (f *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.eachEntry(in, func(e fuse.DirEntry) (bool, fuse.Status) { return out.AddDirEntry(e), fuse.OK })
}

// ReadDirPlus: getdents(2) when the kernel expects that attributes will be asked for.
func (f *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.eachEntry(in, func(e fuse.DirEntry) (bool, fuse.Status) {
		slot := out.AddDirLookupEntry(e)
		if slot == nil || e.Name == "." || e.Name == ".." {
			return slot != nil, fuse.OK
		}
		r, status := f.do(f.relative(&in.InHeader, wire.OpLookup, e.Name))
		switch status {
		case fuse.OK:
			f.entry(slot, r.Attr)
		case fuse.ENOENT: // removed meanwhile: the kernel is told of the name only
			status = fuse.OK
		}
		return true, status
	})
}

// eachEntry calls add for the entries of a directory from a position on, until it returns false: there is no room left.
func (f *FS) eachEntry(in *fuse.ReadIn, add func(fuse.DirEntry) (bool, fuse.Status)) fuse.Status {
	at := in.Offset
	for ; at < dots; at++ {
		e := fuse.DirEntry{Name: "..."[:at+1], Ino: in.NodeId, Mode: unix.S_IFDIR, Off: at + 1}
		if at == 1 {
			e.Ino = f.parent(in.NodeId)
		}
		if ok, status := add(e); !ok || status != fuse.OK {
			return status
		}
	}
	for {
		r, status := f.do(&wire.Request{
			Op: wire.OpList, Handle: uint32(in.Fh), Offset: int64(at - dots), Length: int64(in.Size/minDirent) + 1,
		})
		if status != fuse.OK || len(r.Entries) == 0 {
			return status
		}
		for _, e := range r.Entries {
			at = min(e.Next, math.MaxInt64-dots) + dots
			if ok, status := add(fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: e.Type, Off: at}); !ok || status != fuse.OK {
				return status
			}
		}
	}
}

// minDirent is what an entry takes at least in the kernel's buffer, bytes.
const minDirent = 32

// parent is the inode of "..".
func (f *FS) parent(id uint64) uint64 {
	q := &wire.Request{Op: wire.OpLookup, Inode: id, Generation: f.generation(id), Path: ".."}
	r, status := f.do(q)
	if status != fuse.OK {
		return id // it was removed
	}
	f.do(&wire.Request{Op: wire.OpForget, Inode: r.Attr.Ino, Length: 1})
	return r.Attr.Ino
}
