package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Listener is a unix socket with a name in the file system.
type Listener struct {
	*net.UnixListener
	path   string
	access Access
	stat   fs.FileInfo // of the name, to remove nobody else's
}

// Listen makes a socket at path that nobody but those whom a allows can connect to, from its first instant. A socket that is
// there already is removed if nobody answers; anything else that is there is left alone, and is an error, as is a
// socket that somebody listens on: both match EADDRINUSE.
func Listen(path string, a Access) (*Listener, error) {
	if err := a.validate(); err != nil {
		return nil, err
	}
	l, err := listen(path, a)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "unix", Addr: &net.UnixAddr{Name: path, Net: "unix"}, Err: err}
	}
	return l, nil
}

func listen(path string, a Access) (*Listener, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// The socket gets its name when it is complete: its mode is right and it listens. Until then it has another, by way of
	// the directory's descriptor, because a socket's address has room for 107 bytes only.
	temporary := fmt.Sprintf("/proc/self/fd/%d/.pmemfs-socket-%d", dir.Fd(), os.Getpid())
	if err := lock(dir); err != nil {
		return nil, err
	}
	file, err := bind(temporary, a)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	defer os.Remove(temporary)
	err = os.Link(temporary, path)
	if errors.Is(err, fs.ErrExist) {
		if err = removeStale(path); err == nil {
			err = os.Link(temporary, path)
		}
	}
	if err != nil {
		return nil, err
	}
	l, err := net.FileListener(file)
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	stat, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &Listener{UnixListener: l.(*net.UnixListener), path: path, access: a, stat: stat}, nil
}

// lock keeps other servers from looking at names in the directory until it is closed: two that find the same stale socket
// could otherwise remove each other's new one.
func lock(dir *os.File) error {
	for range 200 {
		err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("flock", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("somebody holds a lock on the directory %s: %w", dir.Name(), unix.EAGAIN)
}

// bind makes a socket, listening, with its mode and group.
func bind(name string, a Access) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), name)
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, file.Close()) // left by a process of this number
	}
	refuseDescriptors(fd)
	err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrUnix{Name: name}))
	if err == nil && a.GID != os.Getegid() {
		err = os.Chown(name, -1, a.GID)
	}
	if err == nil {
		err = os.Chmod(name, a.socketMode())
	}
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, unix.SOMAXCONN))
	}
	if err != nil {
		os.Remove(name)
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// refuseDescriptors has the kernel refuse descriptors that are sent to a unix socket, or to those that it accepts. No client
// has any to send, and to close what somebody has sent takes as long as he likes. Before Linux 6.16 it does nothing.
func refuseDescriptors(fd int) { unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) }

// removeStale removes a socket that nobody listens on.
func removeStale(name string) error {
	st, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("there is something else than a socket (%v): %w", st.Mode().Type(), unix.EADDRINUSE)
	}
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d", fd), Net: "unix"})
	if err == nil {
		c.Close()
		return fmt.Errorf("another server listens on the socket: %w", unix.EADDRINUSE)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("who listens on the socket cannot be found out (%w): %w", err, unix.EADDRINUSE)
	}
	return os.Remove(name)
}

// Path is the socket's name.
func (l *Listener) Path() string { return l.path }

// Close ends the listening and removes the socket's name, unless it is another socket's by now.
func (l *Listener) Close() error {
	err := l.UnixListener.Close()
	if st, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(st, l.stat) {
		err = errors.Join(err, os.Remove(l.path))
	}
	return err
}
