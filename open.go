package pmemfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/progress"
	"github.com/pmemfs/pmemfs/internal/server"
	"github.com/pmemfs/pmemfs/internal/wire"
)

const defaultPoolSize = 1 << 30

// Format makes a pool: in a directory, which is made or must be empty, or on a character device such as
// /dev/dax0.0. What was on the device is lost. The pool is durable on return. The root directory belongs to the
// process's user, with mode 0755. EEXIST: something is there already, see FormatOptions.Force.
func Format(pool string, o FormatOptions) error { return pathError("format", pool, format(pool, o)) }

func format(pool string, o FormatOptions) error {
	size := o.Size
	st, err := os.Stat(pool)
	device := err == nil && st.Mode()&fs.ModeCharDevice != 0
	switch {
	case device:
		if size, _, err = medium.DeviceSize(pool); err != nil {
			return err
		}
	case size == 0:
		size = defaultPoolSize
	}
	co := core.FormatOptions{
		Label: o.Label, Inodes: o.Inodes, LogBytes: o.LogBytes,
		UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Zeroed: !device,
	}
	meta, data, err := core.Sizes(size, co)
	if err != nil {
		return err
	}
	p, err := medium.Create(pool, meta, data, medium.Options{Require: o.Require, Preallocate: o.Preallocate, Force: o.Force})
	if err != nil {
		return err
	}
	return errors.Join(core.Format(p.Meta(), p.Data(), co), p.Close())
}

// Open opens a pool as its owner, in this process. A pool has one owner at a time; the error for a second names the
// process of the first. Close the FS to give it up.
func Open(pool string, opts ...Option) (*FS, error) {
	fsys, err := open(pool, collect(opts))
	return fsys, pathError("open", pool, err)
}

func open(pool string, o options) (*FS, error) {
	srv, err := server.Open(pool, server.Options{
		ReadOnly: o.readOnly, Require: o.require, Wait: o.wait, PowerCut: o.powerCut, Commit: o.commit,
		Alone: true, AssumePersistent: o.assume,
	})
	if err != nil {
		return nil, err
	}
	space := &addressSpace{mappings: map[*Mapping]struct{}{}, opts: fault.ClientOptions{ServerPidfd: -1}}
	session, err := srv.Local(space)
	if err != nil {
		return nil, errors.Join(err, srv.Close())
	}
	hello := session.Hello()
	space.session = session
	space.opts.Base, space.opts.MapFlags = hello.Base, int(hello.MapFlags)
	if space.opts.Data, err = srv.Pool().ClientFile(o.readOnly, -1); err != nil {
		return nil, errors.Join(err, srv.Close())
	}
	fsys := &FS{t: &embedded{srv: srv, session: session, space: space}, hello: hello, space: space}
	fsys.info = newInfo(srv.Info(), hello, "")
	return fsys, nil
}

// Dial connects to the server that listens on a socket. The peer's process, user and groups are what the server
// checks access against. EACCES: this user may not use the pool. ECONNREFUSED, ENOENT: nobody listens there.
func Dial(socket string, opts ...Option) (*FS, error) {
	fsys, err := dial(socket, collect(opts))
	return fsys, pathError("dial", socket, err)
}

func dial(socket string, o options) (*FS, error) {
	if o.powerCut != nil {
		return nil, &detailed{"PowerCut is for Open: whether power cuts are emulated is the server's choice", unix.EINVAL}
	}
	if o.commit != (CommitPolicy{}) {
		return nil, &detailed{"Commit is for Open: when operations are committed is the server's choice", unix.EINVAL}
	}
	if o.assume {
		return nil, &detailed{"AssumePersistent is for Open: what is assumed of a medium is the server's choice", unix.EINVAL}
	}
	conn, err := connect(socket, o.wait)
	if err != nil {
		return nil, err
	}
	fsys, err := greet(conn, socket, o)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if err := fsys.askInfo(socket, o.require); err != nil {
		return nil, errors.Join(err, fsys.Close())
	}
	return fsys, nil
}

// helloTimeout is how long a server may take to answer the first message: longer than a busy one needs.
const helloTimeout = 30 * time.Second

// greet says Hello and receives the descriptors.
func greet(conn *net.UnixConn, socket string, o options) (*FS, error) {
	frame, err := helloFrame(o)
	if err != nil {
		return nil, err
	}
	// The name by which another server will be found, from whatever directory the program is in by then.
	if socket, err = filepath.Abs(socket); err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(frame); err != nil {
		return nil, err
	}
	r, err := readHello(conn, helloFiles)
	if err != nil {
		return nil, err
	}
	fsys, err := newFS(conn, r, r.Files, socket, o)
	if err != nil {
		return nil, err
	}
	return fsys, conn.SetDeadline(time.Time{})
}

// newFS makes an FS of the reply to Hello: files are the descriptors that came with it, which it takes over as it does the
// connection. socket is where to look for another server, absolute; "": nowhere.
func newFS(conn *net.UnixConn, r *wire.Reply, files []int, socket string, o options) (*FS, error) {
	space, err := newSpace(r.Hello, files, conn)
	if err != nil {
		return nil, err
	}
	var way *wayBack
	token, err := wire.DecodeToken(r.Data)
	if err == nil && o.reconnect > 0 && space.opts.ServerPidfd >= 0 {
		way = &wayBack{socket: socket, token: token, hello: r.Hello, patience: o.reconnect}
		space.opts.Patience = o.reconnect
	}
	return &FS{t: newConnection(conn, space, way), hello: r.Hello, space: space}, nil
}

func helloFrame(o options) ([]byte, error) {
	q := &wire.Request{ID: 1, Op: wire.OpHello, Offset: wire.Version}
	if o.readOnly {
		q.Flags = wire.HelloReadOnly
	}
	return wire.AppendRequest(nil, q)
}

// readHello receives the reply to Hello, and as many descriptors as it must come with.
func readHello(conn *net.UnixConn, files int) (r *wire.Reply, err error) {
	body, fds, err := wire.ReadFiles(conn)
	if err != nil {
		return nil, fmt.Errorf("the server did not answer: %w", err)
	}
	r, err = wire.DecodeReply(body)
	if err == nil {
		if err = replyError(r); err != nil {
			err = &refusal{err}
		}
	}
	if err == nil && (len(fds) != files || r.Hello == nil || r.Hello.Version != wire.Version) {
		err = errProtocol
	}
	if err != nil {
		wire.CloseFiles(fds)
		return nil, err
	}
	r.Files = fds
	return r, nil
}

// helloFiles is how many descriptors come with Hello: fault page, data area, progress page.
const helloFiles = 3

// newSpace takes over the descriptors that came with Hello.
func newSpace(h *wire.Hello, files []int, conn *net.UnixConn) (*addressSpace, error) {
	shared := os.NewFile(uintptr(files[2]), "progress page")
	defer shared.Close()
	page, err := progress.Open(shared)
	if err != nil {
		wire.CloseFiles(files[:2])
		return nil, err
	}
	space := &addressSpace{progress: page, mappings: map[*Mapping]struct{}{}, opts: fault.ClientOptions{
		Page: os.NewFile(uintptr(files[0]), "fault page"), Data: os.NewFile(uintptr(files[1]), "data area"),
		Base: h.Base, MapFlags: int(h.MapFlags), ServerPidfd: serverPidfd(conn),
	}}
	space.server.Store(h.PID)
	return space, nil
}

// refusal is an error that a server has answered Hello with.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

// serverPidfd returns a descriptor of the process that listens, -1 when the kernel has none to give: then the end of
// the connection alone tells of its death.
func serverPidfd(conn *net.UnixConn) int {
	pidfd := -1
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1
	}
	err = raw.Control(func(fd uintptr) {
		if n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD); err == nil {
			pidfd = n
		} else if errors.Is(err, unix.ENOPROTOOPT) { // before Linux 6.5
			pidfd = pidfdByNumber(int(fd))
		}
	})
	if err != nil {
		return -1
	}
	return pidfd
}

// pidfdByNumber returns a descriptor of the process that listens at the other end of a socket, -1 if there is none. Its number
// was another's only if it has ended, which ends the connection: that is looked at last.
func pidfdByNumber(socket int) int {
	u, err := unix.GetsockoptUcred(socket, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return -1
	}
	pidfd, err := unix.PidfdOpen(int(u.Pid), 0)
	if err != nil {
		return -1
	}
	ends := []unix.PollFd{{Fd: int32(socket), Events: unix.POLLRDHUP}}
	if n, err := unix.Poll(ends, 0); n != 0 || err != nil {
		unix.Close(pidfd)
		return -1
	}
	return pidfd
}

// askInfo asks the server what it serves, and checks that it is good enough.
func (fsys *FS) askInfo(socket string, require Granularity) error {
	r, err := fsys.call(&wire.Request{Op: wire.OpInfo})
	if err != nil {
		return err
	}
	var info server.Info
	if err := json.Unmarshal(r.Data, &info); err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	fsys.info = newInfo(info, fsys.hello, socket)
	if got := info.Medium.Granularity; require != medium.AnyGranularity && got > require {
		return &medium.Error{Path: socket, Kind: medium.ErrGranularity, Reason: fmt.Sprintf(
			"%v granularity is required; the pool %s that is served there has %v (persistence domain %v)",
			require, info.Medium.Path, got, info.Medium.Domain)}
	}
	return nil
}

func newInfo(i server.Info, h *wire.Hello, socket string) Info {
	return Info{
		Pool: i.Medium.Path, Socket: socket, PID: i.PID, UUID: i.UUID, Label: i.Label, Medium: i.Medium,
		Commit: i.Commit, MapMask: MapFlags(h.MapMask), ReadOnly: h.ReadOnly != 0,
	}
}
