package server

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/wire"
)

func (s *Session) close(q *wire.Request) (*wire.Reply, error) {
	return nil, s.closeHandle(q.Handle)
}

func (s *Session) read(q *wire.Request) (*wire.Reply, error) {
	return s.useFile(q, true, false, func(h *handle) (*wire.Reply, error) {
		if q.Offset < 0 || q.Length < 0 || q.Length > wire.MaxData {
			return nil, invalid("read of %d bytes at %d", q.Length, q.Offset)
		}
		p := q.Into
		if int64(len(p)) < q.Length {
			p = make([]byte, q.Length)
		}
		p = p[:q.Length]
		n, err := h.node.ReadAt(p, q.Offset)
		r := &wire.Reply{Data: p[:n]}
		if errors.Is(err, io.EOF) {
			r.N, err = 1, nil
		}
		if err != nil {
			return nil, err
		}
		return r, nil
	})
}

func (s *Session) write(q *wire.Request) (*wire.Reply, error) {
	return s.useFile(q, false, true, func(h *handle) (*wire.Reply, error) {
		r := &wire.Reply{Offset: q.Offset}
		var n int
		var err error
		if err := h.dropPrivileges(q); err != nil {
			return nil, err
		}
		if (h.flags|q.Flags)&unix.O_APPEND != 0 {
			r.Offset, n, err = h.node.Append(q.Data)
		} else {
			if q.Offset < 0 {
				return nil, invalid("write at %d", q.Offset)
			}
			n, err = h.node.WriteAt(q.Data, q.Offset)
		}
		if err != nil && n == 0 {
			return nil, err // with bytes written the client comes back for the rest and gets the error then
		}
		r.N = int64(n)
		return r, nil
	})
}

func (s *Session) stat(q *wire.Request) (*wire.Reply, error) {
	return s.use(q, func(h *handle) (*wire.Reply, error) { return attrReply(h.node.Attr(), nil) })
}

// listEntries is how many entries core is asked for, which may return a few more; the protocol has a hard limit.
const listEntries = wire.MaxEntries / 2

func (s *Session) list(q *wire.Request) (*wire.Reply, error) {
	return s.use(q, func(h *handle) (*wire.Reply, error) {
		if h.kind != unix.S_IFDIR {
			return nil, unix.ENOTDIR
		}
		if q.Length < 1 {
			return nil, invalid("list of %d entries", q.Length)
		}
		entries, err := s.srv.fs.ReadDir(root, h.node.Ino(), core.Cookie(q.Offset), int(min(q.Length, listEntries)))
		if err != nil {
			return nil, err
		}
		r := &wire.Reply{}
		for _, e := range entries {
			r.Entries = append(r.Entries, wire.Entry{Name: e.Name, Ino: uint64(e.Ino), Type: e.Type, Next: uint64(e.Next)})
		}
		return r, nil
	})
}

func (s *Session) sync(q *wire.Request) (*wire.Reply, error) {
	return s.use(q, func(h *handle) (*wire.Reply, error) { return nil, h.node.Sync() })
}

func (s *Session) allocate(q *wire.Request) (*wire.Reply, error) {
	return s.useFile(q, false, true, func(h *handle) (*wire.Reply, error) {
		if q.Offset < 0 || q.Length <= 0 {
			return nil, invalid("range of %d bytes at %d", q.Length, q.Offset)
		}
		if err := h.dropPrivileges(q); err != nil {
			return nil, err
		}
		return nil, h.node.Fallocate(q.Flags&^wire.FlagDropPrivileges, q.Offset, q.Length)
	})
}

func (s *Session) seek(q *wire.Request) (*wire.Reply, error) {
	return s.useFile(q, false, false, func(h *handle) (*wire.Reply, error) {
		find := h.node.SeekData
		switch q.Flags {
		case unix.SEEK_DATA:
		case unix.SEEK_HOLE:
			find = h.node.SeekHole
		default:
			return nil, invalid("seek with whence %d", q.Flags)
		}
		if q.Offset < 0 {
			return nil, unix.ENXIO
		}
		off, err := find(q.Offset)
		if err != nil {
			return nil, err
		}
		return &wire.Reply{Offset: off}, nil
	})
}

// How much of a file is looked at in one step, bytes: little where there are many extents, so that a list of them takes
// no more memory than a large read, and much where there are few, so that large holes are crossed soon.
const (
	extentStep    = wire.MaxExtents / 2 * blockSize // with the smallest extents half a reply
	maxExtentStep = 1 << 30
)

func (s *Session) extents(q *wire.Request) (*wire.Reply, error) {
	return s.useFile(q, false, false, func(h *handle) (*wire.Reply, error) {
		attr := h.node.Attr()
		if q.Offset < 0 || q.Offset%blockSize != 0 {
			return nil, invalid("extents from %d", q.Offset)
		}
		r := &wire.Reply{Offset: q.Offset}
		step := int64(extentStep)
		for r.Offset < attr.Size && len(r.Extents) < wire.MaxExtents/2 {
			list, err := h.node.Extents(r.Offset, min(step, attr.Size-r.Offset))
			if err != nil || len(list) == 0 { // it was truncated meanwhile
				return r, err
			}
			for _, e := range list[:min(len(list), wire.MaxExtents/2)] {
				appendExtent(r, e)
				r.Offset = e.Off + e.Len
			}
			if len(list) < 8 {
				step = min(step*8, maxExtentStep)
			} else {
				step = extentStep
			}
		}
		return r, nil
	})
}

// appendExtent adds an extent, or lengthens the last one when the two are one run.
func appendExtent(r *wire.Reply, e core.Extent) {
	x := wire.Extent{Off: e.Off, Len: e.Len, Block: e.Block}
	if e.Unwritten {
		x.Flags |= wire.ExtentUnwritten
	}
	if e.Shared {
		x.Flags |= wire.ExtentShared
	}
	if n := len(r.Extents); n > 0 {
		last := &r.Extents[n-1]
		follows := last.Block < 0 && x.Block < 0 || last.Block >= 0 && x.Block == last.Block+last.Len/blockSize
		if last.Off+last.Len == x.Off && last.Flags == x.Flags && follows {
			last.Len += x.Len
			return
		}
	}
	r.Extents = append(r.Extents, x)
}

func (s *Session) relocate(q *wire.Request) (*wire.Reply, error) {
	return s.useFile(q, false, true, func(h *handle) (*wire.Reply, error) {
		if q.Offset < 0 || q.Length <= 0 {
			return nil, invalid("range of %d bytes at %d", q.Length, q.Offset)
		}
		return nil, h.node.Relocate(q.Offset, q.Length)
	})
}

// open flags that the protocol knows; the client drops those without a meaning here.
const openFlags = unix.O_ACCMODE | unix.O_CREAT | unix.O_EXCL | unix.O_TRUNC | unix.O_APPEND | unix.O_DIRECTORY | unix.O_NOFOLLOW |
	unix.O_SYNC

func (s *Session) open(q *wire.Request) (*wire.Reply, error) {
	write := q.Flags&unix.O_ACCMODE != unix.O_RDONLY
	switch {
	case q.Flags&^openFlags != 0 && (q.Inode == 0 || q.Flags&^(openFlags|unix.O_TMPFILE) != 0) || q.Flags&unix.O_ACCMODE == unix.O_ACCMODE:
		return nil, invalid("open flags %#o", q.Flags)
	case q.Flags&unix.O_CREAT != 0 && q.Flags&unix.O_DIRECTORY != 0:
		return nil, invalid("a directory is not created by open")
	case s.readOnly && (write || q.Flags&(unix.O_CREAT|unix.O_TRUNC) != 0):
		return nil, unix.EROFS
	}
	n, created, err := s.openNode(q)
	if err != nil {
		return nil, err
	}
	r, err := s.opened(q, n, created)
	if err != nil {
		n.Close()
		return nil, err
	}
	if q.Inode != 0 && makes(q) {
		return r, s.refer(r)
	}
	return r, nil
}

// opened checks that a node may be opened so, truncates it when asked to, and gives it a number.
func (s *Session) opened(q *wire.Request, n *core.Node, created bool) (*wire.Reply, error) {
	attr := n.Attr()
	kind := attr.Mode & unix.S_IFMT
	truncate := q.Flags&unix.O_TRUNC != 0
	var want uint32
	if q.Flags&unix.O_ACCMODE != unix.O_WRONLY {
		want |= 4
	}
	if q.Flags&unix.O_ACCMODE != unix.O_RDONLY || truncate {
		want |= 2
	}
	switch {
	case kind == unix.S_IFLNK:
		return nil, unix.ELOOP // O_NOFOLLOW
	case kind != unix.S_IFDIR && q.Flags&unix.O_DIRECTORY != 0 && q.Flags&unix.O_TMPFILE != unix.O_TMPFILE:
		return nil, unix.ENOTDIR
	case kind == unix.S_IFDIR && (want&2 != 0 || q.Flags&unix.O_CREAT != 0):
		return nil, unix.EISDIR
	case kind != unix.S_IFDIR && kind != unix.S_IFREG:
		return nil, fmt.Errorf("only files and directories can be opened: %w", unix.EOPNOTSUPP)
	}
	if !created {
		if err := s.srv.fs.Access(s.as(q), n.Ino(), want); err != nil {
			return nil, err
		}
	}
	if truncate && !created && (attr.Size > 0 || q.Inode != 0) {
		var err error
		drop := q.Valid&wire.SetDropPrivileges != 0
		if attr, err = s.srv.fs.SetAttr(root, n.Ino(), core.SetAttr{Size: new(int64), DropPrivileges: drop}); err != nil {
			return nil, err
		}
	}
	id, err := s.addHandle(newHandle(n, kind, q.Flags))
	if err != nil {
		return nil, err
	}
	r := replyOf(attr)
	r.Handle = id
	return r, nil
}

// makes says whether an open may make a file.
func makes(q *wire.Request) bool {
	return q.Flags&unix.O_CREAT != 0 || q.Flags&unix.O_TMPFILE == unix.O_TMPFILE
}

// openNode finds, or creates, the file that open names.
func (s *Session) openNode(q *wire.Request) (n *core.Node, created bool, err error) {
	if q.Inode != 0 {
		return s.openAt(q)
	}
	follow := q.Flags&unix.O_NOFOLLOW == 0
	if q.Flags&unix.O_CREAT == 0 {
		n, err = s.srv.fs.OpenPath(s.cred, q.Path, follow)
		return n, false, err
	}
	// It is made without looking whether it is there, which whoever makes it does anyway.
	name := q.Path
	for range maxSymlinks {
		made, makeErr := s.create(name, q.Mode)
		if makeErr == nil || q.Flags&unix.O_EXCL != 0 {
			return made, makeErr == nil, makeErr
		}
		n, err = s.srv.fs.OpenPath(s.cred, name, follow)
		switch {
		case !errors.Is(err, unix.ENOENT):
			return n, false, err
		case !errors.Is(makeErr, unix.EEXIST):
			return nil, false, makeErr
		}
		// Somebody was faster, or the name is a symbolic link to nothing: then its target is what to create.
		if name, err = s.throughLink(name); err != nil {
			return nil, false, err
		}
	}
	return nil, false, unix.ELOOP
}
