package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
)

// peer is the process at the other end of a connection, as the kernel says it was when it connected.
type peer struct {
	pid   int
	pidfd int // readable once the process is gone; owned
	cred  core.Cred
}

// findPeer asks the kernel who is connected. The caller closes pidfd.
func findPeer(c *net.UnixConn) (peer, error) {
	var p peer
	raw, err := c.SyscallConn()
	if err != nil {
		return p, err
	}
	ctlErr := raw.Control(func(fd uintptr) { p, err = peerOf(int(fd)) })
	return p, errors.Join(ctlErr, err)
}

func peerOf(fd int) (peer, error) {
	u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return peer{}, os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return peer{}, os.NewSyscallError("getsockopt SO_PEERGROUPS", err)
	}
	p := peer{pid: int(u.Pid), cred: core.Cred{UID: u.Uid, GID: u.Gid, Groups: groups}}
	// SO_PEERPIDFD (Linux 6.5) is the very process; a pid could have been used again meanwhile.
	p.pidfd, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if errors.Is(err, unix.ENOPROTOOPT) {
		p.pidfd, err = unix.PidfdOpen(p.pid, 0)
	}
	if err != nil {
		return peer{}, fmt.Errorf("descriptor of process %d: %w", p.pid, err)
	}
	return p, nil
}

// Access says who may connect, in the manner of a file's mode: the user that runs the server, the owner of the pool and root
// always may; members of the group GID according to the three group bits of Mode, everybody else according to the last
// three. Read permission gives a read-only session, read and write a full one; the execute bits must be 0.
//
// A pool is one trust domain: whoever has a full session can map every data block for writing; whoever has a read-only
// one, for reading. Permissions of files are checked for each request, but do not separate clients that mean harm.
type Access struct {
	Mode fs.FileMode // 0: 0600
	GID  int         // -1: the server's own group
}

// validate reports what does not make sense, and fills in defaults.
func (a *Access) validate() error {
	if a.Mode == 0 {
		a.Mode = 0o600
	}
	if a.GID < 0 {
		a.GID = os.Getegid()
	}
	if a.Mode&^0o666 != 0 || a.Mode&0o600 != 0o600 {
		return fmt.Errorf("access mode %#o: it must be 06xx without execute bits: %w", a.Mode, unix.EINVAL)
	}
	for _, bits := range []fs.FileMode{a.Mode >> 3 & 6, a.Mode & 6} {
		if bits == 2 {
			return fmt.Errorf("access mode %#o: write access without read access: %w", a.Mode, unix.EINVAL)
		}
	}
	return nil
}

// socketMode is the mode of the socket itself: connect(2) asks for write permission.
func (a Access) socketMode() fs.FileMode { return 0o600 | a.Mode&0o044>>1 | a.Mode&0o044 }

// allows says whether somebody may connect, and whether only to read.
func (a Access) allows(c core.Cred, owners ...uint32) (ok, readOnly bool) {
	if c.UID == 0 || slices.Contains(owners, c.UID) {
		return true, false
	}
	bits := a.Mode & 6
	if c.GID == uint32(a.GID) || slices.Contains(c.Groups, uint32(a.GID)) {
		bits = a.Mode >> 3 & 6
	}
	return bits&4 != 0, bits&2 == 0
}
