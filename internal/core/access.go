package core

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// Cred is who asks. UID 0 passes every check.
type Cred struct {
	UID, GID uint32
	Groups   []uint32 // supplementary
	// Checked: somebody else has made all checks (a kernel, for its processes).
	// What is made belongs to UID and GID all the same.
	Checked bool
	// Umask is taken off the permissions of what is made, unless the directory
	// has a default ACL: see acl(5).
	Umask uint32
}

// Access bits for FS.Access, as in access(2).
const (
	CanExecute = 1
	CanWrite   = 2
	CanRead    = 4
)

func (c Cred) InGroup(gid uint32) bool { return c.GID == gid || slices.Contains(c.Groups, gid) }
func (c Cred) passes() bool            { return c.UID == 0 || c.Checked }
func (c Cred) owns(in *layout.Inode) bool {
	return c.passes() || c.UID == in.UID
}

// allows checks permission bits as path_resolution(7) describes. EACCES.
func (c Cred) allows(in *layout.Inode, want uint32) error {
	var granted uint32
	switch {
	case c.Checked:
		return nil
	case c.UID == 0:
		granted = CanRead | CanWrite
		if in.Type() == layout.ModeDirectory || in.Mode&0o111 != 0 {
			granted |= CanExecute
		}
	case c.UID == in.UID:
		granted = in.Mode >> 6 & 7
	case c.InGroup(in.GID):
		granted = in.Mode >> 3 & 7
	default:
		granted = in.Mode & 7
	}
	if want&^granted != 0 {
		return unix.EACCES
	}
	return nil
}

// mayRemove checks the sticky bit: in such a directory only the owner of the
// entry or of the directory removes it. EPERM.
func (c Cred) mayRemove(dir, child *layout.Inode) error {
	if dir.Mode&unix.S_ISVTX != 0 && !c.owns(dir) && !c.owns(child) {
		return unix.EPERM
	}
	return nil
}

// Access checks c's permission for want, a sum of CanRead, CanWrite and
// CanExecute.
func (fs *FS) Access(c Cred, ino layout.Ino, want uint32) error {
	in, err := fs.get(ino)
	if err != nil {
		return err
	}
	defer in.put()
	in.mu.RLock()
	defer in.mu.RUnlock()
	if want&CanWrite != 0 && (fs.readOnly || in.frozen) {
		return unix.EROFS
	}
	return c.allows(&in.Inode, want)
}
