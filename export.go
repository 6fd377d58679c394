package pmemfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// Export gives a descriptor that stands for the open file and can be given to other processes: by inheritance, or over
// any unix socket (SCM_RIGHTS). There [Import] makes an open file of it, any number of times: it has this one's access
// mode and O_APPEND, and the flag of [File.AllowDirect], whether that is set before or after. So a privileged process
// can open a file, allow Direct mappings of it and hand it to one that may neither seal nor even connect to the server.
//
// Whoever has the descriptor can do with the file what its access mode allows, and, if he means harm, more: as every
// client he gets a descriptor of the pool's whole data area, for writing when this file is open for writing. Give away
// what you would trust with the contents of all files of the pool.
//
// The descriptor stays good when this file is closed or this process has ended, until its last copy is closed, the
// server ends, or somebody calls shutdown(2) on a copy. It needs no connection to this FS and does not keep it open.
// EOPNOTSUPP: the pool has no server; EISDIR: only regular files are exported; EUSERS: there are too many exported
// descriptors (1024, 256 of a user).
func (f *File) Export() (*os.File, error) {
	r, err := f.call("export", &wire.Request{Op: wire.OpExport, Path: f.name})
	if err != nil {
		return nil, err
	}
	if len(r.Files) != 1 {
		wire.CloseFiles(r.Files)
		return nil, pathError("export", f.name, errProtocol)
	}
	return os.NewFile(uintptr(r.Files[0]), f.name), nil
}

// Import opens the file that an exported descriptor stands for: see [File.Export]. The descriptor stays as it is, and
// may be closed. The name of the new File is the exporter's. It has a position of its own, at the beginning; for what
// else the file may be used, this process's own user, groups and capabilities count, as with a file that it has opened.
//
// The File has a connection of its own, see [File.FS], which serves this file and nothing else, whoever this process
// is: what takes names fails with EACCES. It ends when the File is closed and the last of its mappings unmapped. The
// options [Require], [OpenReadOnly] and [Reconnect] are understood; when the server has died and another one has taken
// over, the mappings go on, but calls fail with [ErrServerGone].
//
// EINVAL: f is not an exported descriptor. [ErrServerGone]: the server has ended, or somebody has shut the descriptor
// down; the file must be exported again. EUSERS: there are too many imported files (512, 256 of a user).
func Import(f *os.File, opts ...Option) (*File, error) {
	if f == nil {
		return nil, pathError("import", "", os.ErrInvalid)
	}
	file, err := importFile(f, collect(opts))
	return file, pathError("import", f.Name(), err)
}

func importFile(f *os.File, o options) (*File, error) {
	if o.powerCut != nil || o.wait != 0 {
		return nil, &detailed{"PowerCut and Wait mean nothing to Import", unix.EINVAL}
	}
	r, err := askExport(f, o)
	if err != nil {
		return nil, err
	}
	conn, err := newConn(r.Files[0])
	if err != nil {
		wire.CloseFiles(r.Files[1:])
		return nil, err
	}
	fsys, err := newFS(conn, r, r.Files[1:], "", o)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	fsys.lease = new(lease)
	fsys.lease.Add(1)
	if err := fsys.askInfo("", o.require); err != nil {
		return nil, errors.Join(err, fsys.Close())
	}
	return &File{fsys: fsys, name: r.Name, handle: r.Handle, flag: int(r.N), ino: r.Attr.Ino}, nil
}

// askExport sends one end of a pair of sockets over the exported descriptor, and gets the answer over the other: other
// processes may be asking over copies of the descriptor at the same time. The reply has the connection's descriptor
// before those of Hello.
func askExport(f *os.File, o options) (*wire.Reply, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	mailbox, err := newConn(fds[0])
	if err != nil {
		return nil, errors.Join(err, unix.Close(fds[1]))
	}
	defer mailbox.Close()
	deadline := time.Now().Add(helloTimeout)
	err = os.ErrClosed // why Control would not call
	raw.Control(func(fd uintptr) {
		if err = checkExported(int(fd)); err == nil {
			err = sendHello(int(fd), fds[1], o, deadline)
		}
	})
	if err := errors.Join(err, unix.Close(fds[1]), mailbox.SetDeadline(deadline)); err != nil {
		return nil, err
	}
	r, err := readHello(mailbox, 1+helloFiles)
	switch {
	case errors.Is(err, io.EOF):
		return nil, errExportGone
	case err == nil && r.Attr == nil:
		wire.CloseFiles(r.Files)
		return nil, errProtocol
	}
	return r, err
}

var errExportGone error = &detailed{"nobody is at the other end of the exported descriptor: the server is gone, " +
	"or the descriptor was shut down; the file must be exported anew", ErrServerGone}

// checkExported refuses what is not an exported descriptor, before anything is sent that somebody else would take for
// his.
func checkExported(fd int) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err == nil && domain == unix.AF_UNIX {
		peer, peerErr := unix.Getpeername(fd) // also when the server is gone
		at, ok := peer.(*unix.SockaddrUnix)
		if peerErr == nil && ok && strings.HasPrefix(at.Name, wire.ExportPrefix) {
			return nil
		}
	}
	what := "a socket"
	if err != nil {
		what = "not even a socket"
	}
	return &detailed{fmt.Sprintf("descriptor %d was not exported by pmemfs: it is %s", fd, what), unix.EINVAL}
}

// sendHello asks for a connection; mailbox is where the reply will come.
func sendHello(fd, mailbox int, o options, deadline time.Time) error {
	frame, err := helloFrame(o)
	if err != nil {
		return err
	}
	for {
		_, err := unix.SendmsgN(fd, frame, unix.UnixRights(mailbox), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.ECONNREFUSED):
			return errExportGone
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("sendmsg", err)
		}
		left := time.Until(deadline).Milliseconds()
		if left <= 0 {
			return fmt.Errorf("the server does not take the request: %w", os.ErrDeadlineExceeded)
		}
		unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(left)) // an error is seen by the next turn
	}
}

// newConn puts a unix socket into the runtime's poller. It takes fd over.
func newConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// FS returns the FS that the file belongs to. That of an imported file serves nothing but the file, and is closed with
// it and its last mapping.
func (f *File) FS() *FS { return f.fsys }

// lease counts what needs the FS of an imported file: the open file, its mappings, and calls that are about to make
// one. With the last of them the FS is closed.
type lease struct{ atomic.Int64 }

// hold keeps the FS open until release. ErrClosed: there is nothing left that would.
func (fsys *FS) hold() error {
	if fsys.lease == nil {
		return nil
	}
	for {
		n := fsys.lease.Load()
		if n == 0 {
			return fs.ErrClosed
		}
		if fsys.lease.CompareAndSwap(n, n+1) {
			return nil
		}
	}
}

// release lets go of an FS that hold, or Import, has kept open.
func (fsys *FS) release() error {
	if fsys.lease == nil || fsys.lease.Add(-1) > 0 {
		return nil
	}
	err := fsys.Close()
	if errors.Is(err, fs.ErrClosed) {
		return nil // its user was faster
	}
	return err
}
