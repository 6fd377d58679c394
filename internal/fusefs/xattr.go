package fusefs

import (
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// storable says whether attributes of such a name can be stored: ENOTSUP: not of its kind, EINVAL: it says the kind only. Who
// may have which, the kernel checks.
func storable(name string) fuse.Status {
	for _, prefix := range []string{"user.", "trusted.", "security."} {
		if name == prefix {
			return fuse.EINVAL
		}
		if strings.HasPrefix(name, prefix) {
			return fuse.OK
		}
	}
	if isACL(name) {
		return fuse.OK
	}
	return fuse.ENOTSUP
}

func isACL(name string) bool {
	return name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

// GetXAttr: getxattr(2).
func (f *FS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if status := storable(name); status != fuse.OK {
		return 0, status
	}
	q := f.relative(h, wire.OpGetXattr, "")
	q.Path2 = name
	r, status := f.do(q)
	if status != fuse.OK {
		return 0, status
	}
	return fill(dest, r.Data)
}

// fill copies what there is room for; an empty buffer asks for the size.
func fill(dest, value []byte) (uint32, fuse.Status) {
	if len(dest) > 0 && len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	copy(dest, value)
	return uint32(len(value)), fuse.OK
}

// ListXAttr: listxattr(2). Trusted attributes are for root, as everywhere.
func (f *FS) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	r, status := f.do(f.relative(h, wire.OpListXattr, ""))
	if status != fuse.OK {
		return 0, status
	}
	var list []byte
	for _, name := range r.Names {
		if h.Uid == 0 || !strings.HasPrefix(name, "trusted.") {
			list = append(append(list, name...), 0)
		}
	}
	return fill(dest, list)
}

// SetXAttr: setxattr(2).
func (f *FS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	if status := storable(name); status != fuse.OK {
		return status
	}
	q := f.relative(&in.InHeader, wire.OpSetXattr, "")
	q.Path2, q.Data, q.Flags = name, value, in.Flags
	if in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 {
		q.Flags |= wire.ACLDropSGID
	}
	_, status := f.do(q)
	return status
}

// RemoveXAttr: removexattr(2). To remove an ACL that is not there is no error, see acl_delete_def_file(3).
func (f *FS) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if status := storable(name); status != fuse.OK {
		return status
	}
	q := f.relative(h, wire.OpRemoveXattr, "")
	q.Path2 = name
	_, status := f.do(q)
	if status == fuse.ENODATA && isACL(name) {
		return fuse.OK
	}
	return status
}
