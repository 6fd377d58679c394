package fusefs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// Lookup finds a name. That there is none the kernel may keep, too.
func (f *FS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	r, status := f.do(f.relative(h, wire.OpLookup, name))
	if status == fuse.ENOENT && f.entryValid() > 0 {
		out.SetEntryTimeout(f.entryValid())
		return fuse.OK
	}
	if status == fuse.OK {
		f.entry(out, r.Attr)
	}
	return status
}

// make does a request that makes something with a name.
func (f *FS) make(q *wire.Request, out *fuse.EntryOut) fuse.Status {
	r, status := f.do(q)
	if status == fuse.OK {
		f.entry(out, r.Attr)
	}
	return status
}

// Mknod: mknod(2), mkfifo(3), bind(2), and open(2) of what the kernel does not create and open in one.
func (f *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	q := f.relative(&in.InHeader, wire.OpMknod, name)
	q.Mode, q.Umask, q.Address = in.Mode, in.Umask, uint64(in.Rdev)
	return f.make(q, out)
}

// Mkdir: mkdir(2).
func (f *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	q := f.relative(&in.InHeader, wire.OpMknod, name)
	q.Mode, q.Umask = unix.S_IFDIR|in.Mode&0o7777, in.Umask
	return f.make(q, out)
}

// Symlink: symlink(2).
func (f *FS) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	q := f.relative(h, wire.OpSymlink, name)
	q.Path2 = target
	return f.make(q, out)
}

// Link: link(2), also of a file without a name.
func (f *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	q := f.relative(&in.InHeader, wire.OpLink, "")
	q.Inode2, q.Generation2, q.Path2 = q.Inode, q.Generation, name
	q.Inode, q.Generation = in.Oldnodeid, f.generation(in.Oldnodeid)
	return f.make(q, out)
}

// Readlink: readlink(2).
func (f *FS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	r, status := f.do(f.relative(h, wire.OpReadlink, ""))
	if status != fuse.OK {
		return nil, status
	}
	return []byte(r.Name), fuse.OK
}

// Unlink: unlink(2).
func (f *FS) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.remove(f.relative(h, wire.OpRemove, name))
}

// remove does a request that may remove something.
func (f *FS) remove(q *wire.Request) fuse.Status {
	_, status := f.do(q)
	if status == fuse.OK {
		f.removed.Store(time.Now().UnixNano())
	}
	return status
}

// Rmdir: rmdir(2).
func (f *FS) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	q := f.relative(h, wire.OpRemove, name)
	q.Flags = unix.AT_REMOVEDIR
	return f.remove(q)
}

// Rename: renameat2(2).
func (f *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	q := f.relative(&in.InHeader, wire.OpRename, oldName)
	q.Inode2, q.Generation2, q.Path2, q.Flags = in.Newdir, f.generation(in.Newdir), newName, in.Flags
	return f.remove(q)
}

// Create: open(2) with O_CREAT.
func (f *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return f.create(in, name, in.Flags&(unix.O_EXCL)|unix.O_CREAT, out)
}

// Tmpfile: open(2) with O_TMPFILE.
func (f *FS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	return f.create(in, "", unix.O_TMPFILE, out)
}

func (f *FS) create(in *fuse.CreateIn, name string, how uint32, out *fuse.CreateOut) fuse.Status {
	q := f.relative(&in.InHeader, wire.OpOpen, name)
	q.Flags, q.Mode, q.Umask = in.Flags&keptFlags|how, in.Mode&0o7777, in.Umask
	r, status := f.do(q)
	if status != fuse.OK {
		return status
	}
	f.entry(&out.EntryOut, r.Attr)
	out.Fh, out.OpenFlags = uint64(r.Handle), f.openFlags()
	return fuse.OK
}
