package core

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// ACLs are extended attributes in the form in which Linux hands them over, see
// acl(5): a version, then for each entry a tag, permissions and an id. A
// kernel that has a mount checks them; core itself checks the mode only, whose
// group bits are the most that an ACL grants to anybody but owner and others.

const (
	xattrACL        = "system.posix_acl_access"
	xattrDefaultACL = "system.posix_acl_default"

	// ACLDropSGID is a flag of SetXattr.
	ACLDropSGID = 1 << 16
)

// acl is the entries of an ACL, in order of their tags.
//
// Invariant: exactly one entry each for owner, group and others; a mask if
// there are entries for other users and groups.
type acl []aclEntry

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// Tags of entries, in the order that they have in an ACL.
const (
	aclOwner  = 0x01
	aclUser   = 0x02
	aclGroup  = 0x04
	aclGroups = 0x08
	aclMask   = 0x10
	aclOthers = 0x20

	aclVersion = 2
	aclHeader  = 4
	aclSize    = 8
)

// parseACL checks an ACL. EINVAL.
func parseACL(b []byte) (acl, error) {
	le := binary.LittleEndian
	if len(b) < aclHeader || len(b)%aclSize != aclHeader || le.Uint32(b) != aclVersion {
		return nil, unix.EINVAL
	}
	var a acl
	count := map[uint16]int{}
	for b = b[aclHeader:]; len(b) > 0; b = b[aclSize:] {
		e := aclEntry{le.Uint16(b), le.Uint16(b[2:]), le.Uint32(b[4:])}
		if e.perm > 7 || len(a) > 0 && e.tag < a[len(a)-1].tag {
			return nil, unix.EINVAL
		}
		count[e.tag]++
		a = append(a, e)
	}
	named := count[aclUser] + count[aclGroups]
	if count[aclOwner] != 1 || count[aclGroup] != 1 || count[aclOthers] != 1 || count[aclMask] > 1 ||
		named > 0 && count[aclMask] == 0 || len(a) != 3+named+count[aclMask] {
		return nil, unix.EINVAL
	}
	return a, nil
}

func (a acl) encode() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, aclVersion)
	for _, e := range a {
		b = le.AppendUint32(le.AppendUint16(le.AppendUint16(b, e.tag), e.perm), e.id)
	}
	return b
}

// minimal reports whether the ACL says no more than a mode can.
func (a acl) minimal() bool { return len(a) == 3 }

// shift is where the bits of a mode stand that an entry stands for; -1: it
// stands for none.
func (a acl) shift(tag uint16) int {
	group := uint16(aclMask)
	if a.minimal() {
		group = aclGroup
	}
	switch tag {
	case aclOwner:
		return 6
	case group:
		return 3
	case aclOthers:
		return 0
	}
	return -1
}

// mode is the permission bits of the file that has the ACL.
func (a acl) mode() (mode uint32) {
	for _, e := range a {
		if s := a.shift(e.tag); s >= 0 {
			mode |= uint32(e.perm) << s
		}
	}
	return mode
}

// withMode is the ACL when the file's mode has been changed.
func (a acl) withMode(mode uint32) acl {
	for i, e := range a {
		if s := a.shift(e.tag); s >= 0 {
			a[i].perm = uint16(mode >> s & 7)
		}
	}
	return a
}

// inherit gives a new inode, by its directory's default ACL, an ACL of its own
// and the mode that goes with it; without one the umask applies.
func (u *update) inherit(c Cred, dir, want *layout.Inode) error {
	if want.Type() == layout.ModeSymlink {
		return nil
	}
	value, err := u.fs.defaultACL(dir)
	if err != nil {
		return err
	}
	if value == nil {
		want.Mode &^= c.Umask & 0o777
		return nil
	}
	a, err := parseACL(value)
	if err != nil {
		return layout.Corrupt("extended attributes", -1, "%v: %s is no ACL", dir.Ino, xattrDefaultACL)
	}
	a = a.withMode(want.Mode & a.mode())
	want.Mode = want.Mode&^0o777 | a.mode()
	var all []xattr
	if !a.minimal() {
		all = append(all, xattr{xattrACL, a.encode()})
	}
	if want.Type() == layout.ModeDirectory {
		all = append(all, xattr{xattrDefaultACL, value})
	}
	return u.storeXattrs(want, all)
}

// defaultACL returns a directory's default ACL; nil: it has none.
func (fs *FS) defaultACL(dir *layout.Inode) ([]byte, error) {
	if dir.Xattrs == 0 {
		return nil, nil
	}
	b, err := fs.readBlob(dir.Ino, dir.Xattrs)
	if err != nil {
		return nil, err
	}
	all, err := decodeXattrs(b)
	if err != nil {
		return nil, err
	}
	if at, ok := searchXattr(all, xattrDefaultACL); ok {
		return all[at].value, nil
	}
	return nil, nil
}
