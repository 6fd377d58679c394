package core

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// Attr is what stat(2) tells. Times are ns since 1970; Blocks are 4 KiB
// blocks of data.
type Attr struct {
	Ino                        layout.Ino
	Generation                 uint64
	Mode                       uint32 // st_mode: type and permissions
	Nlink, UID, GID            uint32
	Size, Blocks               int64
	Rdev                       uint64
	Atime, Mtime, Ctime, Btime int64
	Static                     bool // see Node.SetStatic
}

func attr(in *layout.Inode) Attr {
	return Attr{
		Ino: in.Ino, Generation: in.Generation, Mode: in.Mode, Nlink: in.Nlink, UID: in.UID, GID: in.GID,
		Size: in.Size, Blocks: in.Blocks, Rdev: in.Rdev,
		Atime: in.Atime, Mtime: in.Mtime, Ctime: in.Ctime, Btime: in.Btime, Static: in.Flags&layout.FlagStatic != 0,
	}
}

// GetAttr returns an inode's attributes.
func (fs *FS) GetAttr(ino layout.Ino) (Attr, error) {
	in, err := fs.get(ino)
	if err != nil {
		return Attr{}, err
	}
	defer in.put()
	in.mu.RLock()
	defer in.mu.RUnlock()
	if in.gone {
		return Attr{}, unix.ENOENT
	}
	return attr(&in.Inode), nil
}

// SetAttr says which attributes change: nil leaves one as it is.
type SetAttr struct {
	Mode, UID, GID *uint32 // Mode: permission bits only, 07777
	Size           *int64
	Atime, Mtime   *int64 // ns since 1970
	TimesNow       bool   // the times are the present: who may write may set them
	// DropPrivileges: what is no directory is no longer set-user-ID, nor
	// set-group-ID if its group may execute it, and has no capabilities.
	DropPrivileges bool
}

// SetAttr changes attributes, in one transaction (a truncate that frees much
// goes on in further ones). EPERM for who does not own the inode.
func (fs *FS) SetAttr(c Cred, ino layout.Ino, s SetAttr) (Attr, error) {
	if fs.readOnly {
		return Attr{}, unix.EROFS
	}
	in, err := fs.get(ino)
	if err != nil {
		return Attr{}, err
	}
	defer in.put()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.gone {
		return Attr{}, unix.ENOENT
	}
	if in.frozen {
		return Attr{}, unix.EROFS
	}
	if err := c.maySet(&in.Inode, s); err != nil {
		return Attr{}, err
	}
	all, changed, err := in.adaptedXattrs(s)
	if err != nil {
		return Attr{}, err
	}
	switch {
	case s.Size == nil && !changed:
		err = in.setAttr(func(want *layout.Inode) { c.apply(want, s) })
	case s.Size == nil:
		err = fs.transact(func(u *update) error {
			want := u.edit(in)
			c.apply(want, s)
			in.changed(want)
			return u.storeXattrs(want, all)
		})
	default:
		if changed { // after a crash it may have happened alone
			err = fs.transact(func(u *update) error { return u.storeXattrs(u.edit(in), all) })
		}
		if err == nil {
			err = in.truncate(*s.Size, func(want *layout.Inode) { c.apply(want, s) })
		}
	}
	return attr(&in.Inode), err
}

// adaptedXattrs is the extended attributes after a change of others: the ACL
// follows the mode, and capabilities go with privileges.
func (in *inode) adaptedXattrs(s SetAttr) (all []xattr, changed bool, err error) {
	if in.Xattrs == 0 || s.Mode == nil && !s.DropPrivileges {
		return nil, false, nil
	}
	if all, err = in.xattrs(); err != nil {
		return nil, false, err
	}
	if at, ok := searchXattr(all, xattrACL); ok && s.Mode != nil {
		acl, err := parseACL(all[at].value)
		if err != nil {
			return nil, false, err
		}
		all[at].value, changed = acl.withMode(*s.Mode).encode(), true
	}
	if at, ok := searchXattr(all, xattrCapability); ok && s.DropPrivileges {
		all, changed = slices.Delete(all, at, at+1), true
	}
	return all, changed, nil
}

// xattrCapability holds a program's capabilities, see capabilities(7).
const xattrCapability = "security.capability"

// DropPrivileges does what a write of somebody without privileges does besides:
// see SetAttr.DropPrivileges. It costs nothing where there are none.
func (n *Node) DropPrivileges() error {
	n.in.mu.RLock()
	none := n.in.Mode == withoutPrivileges(n.in.Mode) && n.in.Xattrs == 0
	n.in.mu.RUnlock()
	if none || n.in.kind == layout.ModeDirectory {
		return nil
	}
	if n.in.Xattrs != 0 {
		if _, err := n.in.fs.GetXattr(Cred{}, n.in.ino, xattrCapability); err == unix.ENODATA && n.Attr().Mode == withoutPrivileges(n.Attr().Mode) {
			return nil
		}
	}
	_, err := n.SetAttr(Cred{}, SetAttr{DropPrivileges: true})
	return err
}

func withoutPrivileges(mode uint32) uint32 {
	mode &^= unix.S_ISUID
	if mode&0o010 != 0 {
		mode &^= unix.S_ISGID
	}
	return mode
}

func (in *inode) setAttr(apply func(*layout.Inode)) error {
	return in.fs.transact(func(u *update) error {
		want := u.edit(in)
		apply(want)
		want.Ctime = in.fs.now()
		return nil
	})
}

// maySet checks a change of attributes, as chmod(2), chown(2) and
// utimensat(2) say.
func (c Cred) maySet(in *layout.Inode, s SetAttr) error {
	owner := c.owns(in)
	switch {
	case s.Mode != nil && !owner:
		return unix.EPERM
	case s.UID != nil && *s.UID != in.UID && !c.passes():
		return unix.EPERM
	case s.UID != nil && !owner:
		return unix.EPERM
	case s.GID != nil && !c.passes() && (!owner || *s.GID != in.GID && !c.InGroup(*s.GID)):
		return unix.EPERM
	}
	if (s.Atime != nil || s.Mtime != nil) && !owner {
		if !s.TimesNow {
			return unix.EPERM
		}
		if err := c.allows(in, CanWrite); err != nil {
			return err
		}
	}
	if s.Size == nil {
		return nil
	}
	switch {
	case in.Type() == layout.ModeDirectory:
		return unix.EISDIR
	case in.Type() != layout.ModeRegular || *s.Size < 0:
		return unix.EINVAL
	case *s.Size > layout.MaxFileSize:
		return unix.EFBIG
	}
	return nil
}

// apply changes the attributes other than the size.
func (c Cred) apply(in *layout.Inode, s SetAttr) {
	owner := s.UID != nil || s.GID != nil
	if in.Type() != layout.ModeDirectory && (s.DropPrivileges || owner && !c.passes()) {
		in.Mode = withoutPrivileges(in.Mode)
	}
	if owner {
		if s.UID != nil {
			in.UID = *s.UID
		}
		if s.GID != nil {
			in.GID = *s.GID
		}
	}
	if s.Mode != nil {
		mode := *s.Mode & layout.ModePerm
		if in.Type() == layout.ModeRegular && !c.passes() && !c.InGroup(in.GID) {
			mode &^= unix.S_ISGID
		}
		in.Mode = in.Mode&layout.ModeType | mode
	}
	if s.Atime != nil {
		in.Atime = *s.Atime
	}
	if s.Mtime != nil {
		in.Mtime = *s.Mtime
	}
}

// ReadDir returns about max entries of a directory from a position on,
// without "." and "..", in an order that does not change while entries come
// and go: an entry that stays is returned exactly once. None at the end.
// EACCES without read permission.
func (fs *FS) ReadDir(c Cred, ino layout.Ino, from Cookie, max int) ([]DirEntry, error) {
	in, err := fs.get(ino)
	if err != nil {
		return nil, err
	}
	defer in.put()
	in.mu.RLock()
	defer in.mu.RUnlock()
	if in.Type() != layout.ModeDirectory {
		return nil, unix.ENOTDIR
	}
	if err := c.allows(&in.Inode, CanRead); err != nil || in.gone {
		return nil, err
	}
	return fs.readDir(fs.journal.View, &in.Inode, from, max)
}
