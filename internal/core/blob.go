package core

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// writeBlob stores bytes that belong to an inode in a new chain of nodes and
// returns the first; 0 for no bytes.
func (u *update) writeBlob(owner *layout.Inode, p []byte) (layout.Node, error) {
	var next layout.Node
	total := len(p)
	for len(p) > 0 {
		cut := (len(p) - 1) / layout.BlobPayload * layout.BlobPayload // the last part first
		node, off, err := u.newNode(owner)
		if err != nil {
			return 0, err
		}
		var b [layout.BlockSize]byte
		layout.EncodeBlob(b[:], owner.Ino, next, p[cut:], total)
		u.Write(off, b[:])
		next, p = node, p[:cut]
	}
	return next, nil
}

// eachBlobNode calls fn for the nodes of a blob, in order.
func (fs *FS) eachBlobNode(v view, ino layout.Ino, first layout.Node, fn func(n layout.Node, part []byte) error) error {
	total, got := 0, 0
	for n := first; n != 0; {
		off, err := fs.nodeOffset(n)
		if err != nil {
			return err
		}
		part, next, all, err := layout.DecodeBlob(v(off, layout.BlockSize), ino, off)
		if err != nil {
			return err
		}
		if n == first {
			total = all
		}
		got += len(part)
		if all != total || got > total {
			return layout.Corrupt("blob", off, "%d bytes of %d", got, total)
		}
		if err := fn(n, part); err != nil {
			return err
		}
		n = next
	}
	if got != total {
		return layout.Corrupt("blob", -1, "%v: %d bytes of %d", ino, got, total)
	}
	return nil
}

func (fs *FS) readBlob(ino layout.Ino, first layout.Node) (out []byte, err error) {
	err = fs.eachBlobNode(fs.journal.View, ino, first, func(_ layout.Node, part []byte) error {
		out = append(out, part...)
		return nil
	})
	return out, err
}

// copyBlob stores what a blob of another inode holds in one of owner.
func (u *update) copyBlob(ino layout.Ino, first layout.Node, owner *layout.Inode) (layout.Node, error) {
	if first == 0 {
		return 0, nil
	}
	p, err := u.fs.readBlob(ino, first)
	if err != nil {
		return 0, err
	}
	return u.writeBlob(owner, p)
}

func (u *update) freeBlob(owner *layout.Inode, first layout.Node) error {
	var nodes []layout.Node
	err := u.fs.eachBlobNode(u.Read, owner.Ino, first, func(n layout.Node, _ []byte) error {
		nodes = append(nodes, n)
		return nil
	})
	for _, n := range nodes {
		if err == nil {
			err = u.freeNode(owner, n)
		}
	}
	return err
}

// Readlink returns a symbolic link's target. EINVAL for anything else.
func (fs *FS) Readlink(ino layout.Ino) (string, error) {
	in, err := fs.get(ino)
	if err != nil {
		return "", err
	}
	defer in.put()
	in.mu.RLock()
	defer in.mu.RUnlock()
	if in.kind != layout.ModeSymlink {
		return "", unix.EINVAL
	}
	target, err := fs.readBlob(ino, in.Target)
	return string(target), err
}

// Extended attributes are one blob: for each, sorted by name, the length of
// the name u8, the length of the value u32, the name and the value.
type xattr struct {
	name  string
	value []byte
}

func encodeXattrs(all []xattr) (b []byte) {
	for _, x := range all {
		b = append(b, byte(len(x.name)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(x.value)))
		b = append(append(b, x.name...), x.value...)
	}
	return b
}

func decodeXattrs(b []byte) ([]xattr, error) {
	var all []xattr
	for len(b) > 0 {
		if len(b) < 5 {
			return nil, layout.Corrupt("extended attributes", -1, "cut off")
		}
		name, value := int64(b[0]), int64(binary.LittleEndian.Uint32(b[1:]))
		if name == 0 || 5+name+value > int64(len(b)) {
			return nil, layout.Corrupt("extended attributes", -1, "lengths %d and %d", name, value)
		}
		all = append(all, xattr{string(b[5 : 5+name]), b[5+name : 5+name+value]})
		b = b[5+name+value:]
	}
	return all, nil
}

func (in *inode) xattrs() ([]xattr, error) {
	b, err := in.fs.readBlob(in.ino, in.Xattrs)
	if err != nil {
		return nil, err
	}
	return decodeXattrs(b)
}

func searchXattr(all []xattr, name string) (int, bool) {
	return slices.BinarySearchFunc(all, name, func(x xattr, name string) int {
		switch {
		case x.name < name:
			return -1
		case x.name > name:
			return 1
		}
		return 0
	})
}

// withXattrs calls fn with an inode's attributes under its shared lock.
func (fs *FS) withXattrs(ino layout.Ino, fn func(in *inode, all []xattr) error) error {
	in, err := fs.get(ino)
	if err != nil {
		return err
	}
	defer in.put()
	in.mu.RLock()
	defer in.mu.RUnlock()
	all, err := in.xattrs()
	if err != nil {
		return err
	}
	return fn(in, all)
}

// GetXattr returns the value of an extended attribute. ENODATA.
func (fs *FS) GetXattr(c Cred, ino layout.Ino, name string) (value []byte, err error) {
	err = fs.withXattrs(ino, func(in *inode, all []xattr) error {
		if err := c.allows(&in.Inode, CanRead); err != nil {
			return err
		}
		at, ok := searchXattr(all, name)
		if !ok {
			return unix.ENODATA
		}
		value = slices.Clone(all[at].value)
		return nil
	})
	return value, err
}

// ListXattr returns the names, sorted.
func (fs *FS) ListXattr(_ Cred, ino layout.Ino) (names []string, err error) {
	err = fs.withXattrs(ino, func(_ *inode, all []xattr) error {
		for _, x := range all {
			names = append(names, x.name)
		}
		return nil
	})
	return names, err
}

// SetXattr sets an extended attribute; flags are 0, XATTR_CREATE (EEXIST) or
// XATTR_REPLACE (ENODATA). All attributes of an inode take at most 64 KiB
// (ENOSPC), a name at most 255 bytes (ERANGE). An ACL (EINVAL: it is none)
// changes the mode; with ACLDropSGID it clears its set-group-ID bit. One that
// says no more than the mode is not stored.
func (fs *FS) SetXattr(c Cred, ino layout.Ino, name string, value []byte, flags int) error {
	if len(name) == 0 || len(name) > layout.MaxName {
		return unix.ERANGE
	}
	dropSGID := flags&ACLDropSGID != 0
	flags &^= ACLDropSGID
	var acl acl
	var mode func(uint32) uint32
	if name == xattrACL || name == xattrDefaultACL {
		var err error
		if acl, err = parseACL(value); err != nil {
			return err
		}
	}
	if name == xattrACL {
		mode = func(m uint32) uint32 {
			if m = m&^0o777 | acl.mode(); dropSGID {
				m &^= unix.S_ISGID
			}
			return m
		}
	}
	return fs.changeXattrs(c, ino, func(all []xattr) ([]xattr, error) {
		at, ok := searchXattr(all, name)
		switch {
		case mode != nil && acl.minimal():
			if ok {
				all = slices.Delete(all, at, at+1)
			}
			return all, nil
		case flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0:
			return nil, unix.EINVAL
		case ok && flags&unix.XATTR_CREATE != 0:
			return nil, unix.EEXIST
		case !ok && flags&unix.XATTR_REPLACE != 0:
			return nil, unix.ENODATA
		case ok:
			all[at].value = value
			return all, nil
		}
		return slices.Insert(all, at, xattr{name, value}), nil
	}, mode)
}

// RemoveXattr removes an extended attribute. ENODATA.
func (fs *FS) RemoveXattr(c Cred, ino layout.Ino, name string) error {
	return fs.changeXattrs(c, ino, func(all []xattr) ([]xattr, error) {
		at, ok := searchXattr(all, name)
		if !ok {
			return nil, unix.ENODATA
		}
		return slices.Delete(all, at, at+1), nil
	}, nil)
}

// changeXattrs changes an inode's attributes and, if mode is not nil, its mode.
func (fs *FS) changeXattrs(c Cred, ino layout.Ino, change func([]xattr) ([]xattr, error), mode func(uint32) uint32) error {
	in, err := fs.get(ino)
	if err != nil {
		return err
	}
	defer in.put()
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.gone:
		return unix.ENOENT
	case in.frozen:
		return unix.EROFS
	}
	if err := c.allows(&in.Inode, CanWrite); err != nil {
		return err
	}
	all, err := in.xattrs()
	if err != nil {
		return err
	}
	if all, err = change(all); err != nil {
		return err
	}
	return fs.transact(func(u *update) error {
		want := u.edit(in)
		want.Ctime = fs.now()
		if mode != nil {
			want.Mode = mode(want.Mode)
		}
		return u.storeXattrs(want, all)
	})
}

// storeXattrs replaces the extended attributes. ENOSPC: they are too many.
func (u *update) storeXattrs(want *layout.Inode, all []xattr) (err error) {
	encoded := encodeXattrs(all)
	if len(encoded) > layout.MaxXattrs {
		return unix.ENOSPC
	}
	old := want.Xattrs
	if want.Xattrs, err = u.writeBlob(want, encoded); err != nil {
		return err
	}
	return u.freeBlob(want, old)
}
