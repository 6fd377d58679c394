package pmemfs

import (
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// Clone makes newName a new file with the contents of oldName (a reflink): the two share their blocks until one of
// them is changed, by a write or by a store to a mapping, which then gets a copy of the block. So it costs what the
// list of blocks costs, not what the data does. Symbolic links oldName are followed. The file must be readable, and
// the directory of newName writable; the clone has the permission bits of the file (but neither setuid, setgid nor
// sticky), and the owner that a new file gets; no extended attributes.
//
// The clone is the file as it is at one instant, stores through mappings included, in any process; they need not have
// been persisted. After a crash it is there wholly or not at all; it is durable, with all that is in it, when the
// [CommitPolicy] says.
//
// EEXIST: newName is there. ErrSealed, ErrStatic: blocks of the file must not be shared. EISDIR, EINVAL: it is no
// regular file. ENOSPC: there is no room for the list of blocks.
func (fsys *FS) Clone(oldName, newName string) error {
	return fsys.onPaths("clone", &wire.Request{Op: wire.OpClone, Path: oldName, Path2: newName})
}

// Clone is [FS.Clone] of an open file, which must be open for reading. It may have no name any more.
func (f *File) Clone(newName string) error {
	err := checkName(newName)
	switch {
	case f.closed.Load():
		err = fs.ErrClosed
	case err == nil:
		_, err = f.fsys.call(&wire.Request{Op: wire.OpClone, Handle: f.handle, Path2: newName})
	}
	return linkError("clone", f.name, newName, err)
}

// CloneRange makes n bytes of src from byte srcOff on those of this file from byte off on, too, by sharing their
// blocks as [FS.Clone] does; all up to the end of src when n is 0. They replace what the file has there, and it grows
// if it must. src may be the same file.
//
// The offsets and n must be multiples of 4096; n need not be when the range ends with src, and at or behind the end
// of this file. EINVAL: they are not, or the range reaches beyond the end of src, or overlaps itself. EBADF: this
// file is not open for writing, or open with O_APPEND, or src is not open for reading. EXDEV: the two are not of the
// same FS. EISDIR, [ErrSealed], [ErrStatic], ENOSPC. It is FICLONERANGE of ioctl_ficlonerange(2). After a crash it
// has happened wholly or not at all, except for ranges with very many extents: then a part of this file's range may
// be zeros.
func (f *File) CloneRange(off int64, src *File, srcOff, n int64) error {
	_, err := f.between("clone range", src, &wire.Request{Op: wire.OpCloneRange, Offset: off, Length: n, SourceOffset: srcOff})
	return err
}

// CopyRange copies n bytes of src from byte srcOff on to this file at byte off, and grows it if it must, without the
// bytes passing through this process. It returns how many it has copied: fewer than n, and no error, when src ends
// before. src may be the same file, if the ranges do not overlap.
//
// Where both offsets lie alike in their blocks of 4096 bytes, it shares whole blocks as [File.CloneRange] does; what
// is left over at the ends, what is sealed or static, and all of a range that lies otherwise, is copied. The whole is
// not atomic: each part is, as a clone or as a write. Errors are those of CloneRange, but for the alignment: see
// copy_file_range(2).
func (f *File) CopyRange(off int64, src *File, srcOff, n int64) (copied int64, err error) {
	for {
		r, err := f.between("copy range", src, &wire.Request{
			Op: wire.OpCopyRange, Offset: off + copied, Length: n - copied, SourceOffset: srcOff + copied,
		})
		switch {
		case err != nil:
			return copied, err
		case r.N < 0 || r.N > n-copied:
			return copied, pathError("copy range", f.name, errProtocol)
		}
		if copied += r.N; r.N == 0 || copied == n {
			return copied, nil
		}
	}
}

// between does a request on this file that has another one as its source.
func (f *File) between(op string, src *File, q *wire.Request) (*wire.Reply, error) {
	switch {
	case src.closed.Load():
		return nil, pathError(op, src.name, fs.ErrClosed)
	case src.fsys != f.fsys:
		return nil, pathError(op, f.name, &detailed{src.name + " is not of the same FS", unix.EXDEV})
	}
	q.Source = src.handle
	return f.call(op, q)
}
