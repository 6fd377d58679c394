package fusefs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const fsType = "pmemfs"

// maxIO is what one request reads or writes at most, bytes. With more, up to wire.MaxData, large ones gain little, and small
// ones lose: each buffer that waits for a request is as large.
const maxIO = 128 << 10

// Options of a mount.
type Options struct {
	Source   string   // shown as what is mounted
	Settings []string // as behind -o of mount(8): allow_other, ro, dev, suid, noexec …
	// Alone: no others can change the pool, or Company is called before they can. With Company they may come.
	Alone, Company bool
	Logf           func(format string, args ...any) // nil: the standard logger
}

// Mount is a pool that the kernel has mounted.
type Mount struct {
	FS     *FS
	dir    string
	server *fuse.Server
	direct bool // mounted by this process, without a helper
}

// capabilities are what the kernel is asked for besides what the library asks for.
//
//   - HANDLE_KILLPRIV_V2: set-user-ID bits are dropped here, so that the kernel need not ask for security.capability before
//     each write.
//   - DONT_MASK, POSIX_ACL, SETXATTR_EXT: default ACLs take the umask's place.
//   - DIRECT_IO_ALLOW_MMAP: files that are read past the page cache can be mapped.
//   - ATOMIC_O_TRUNC: an open with O_TRUNC is one request.
//   - READDIRPLUS_AUTO: attributes come with entries where they were wanted before.
//   - WRITEBACK_CACHE is not wanted: a write that has returned is with the server, durable if the policy says so, and seen by
//     those who have the file mapped.
const capabilities = fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_DONT_MASK | fuse.CAP_SETXATTR_EXT | fuse.CAP_DIRECT_IO_ALLOW_MMAP |
	fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_ASYNC_DIO | fuse.CAP_ATOMIC_O_TRUNC

// New mounts a pool on a directory. When it returns the mount is ready; Serve must follow.
func New(dir string, send Transport, o Options) (*Mount, error) {
	if o.Logf == nil {
		o.Logf = log.Printf
	}
	f, err := newFS(send, o)
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := clearDead(dir); err != nil {
		return nil, err
	}
	m := &Mount{FS: f, dir: dir, direct: os.Geteuid() == 0}
	f.notifier.device = -1
	where, device := dir, -1
	if m.direct {
		if device, err = m.attach(); err != nil {
			return nil, err
		}
		if f.notifier.device, err = unix.FcntlInt(uintptr(device), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return nil, errors.Join(os.NewSyscallError("fcntl", err), m.detach())
		}
		where = fmt.Sprintf("/dev/fd/%d", device)
	}
	m.server, err = fuse.NewServer(f, where, m.options())
	if err != nil {
		if m.direct {
			err = errors.Join(err, m.detach())
		}
		return nil, fmt.Errorf("mount on %s: %w", dir, err)
	}
	f.notifier.server = m.server
	f.epochs.Store(f.notifier.forgetNames())
	return m, nil
}

func (m *Mount) options() *fuse.MountOptions {
	o := m.FS.opts
	mo := &fuse.MountOptions{
		FsName: o.Source, Name: fsType, MaxWrite: maxIO, MaxBackground: 64, EnableAcl: true, EnableSymlinkCaching: o.Alone,
		Options: append([]string{"default_permissions"}, o.Settings...), ExtraCapabilities: capabilities,
		DisableReadDirPlus: !o.Alone, // each entry would be asked for over the socket
		PanicHandler: func(v any) fuse.Status {
			m.FS.logf("a request panicked: %v", v)
			return fuse.EIO
		},
	}
	if !slices.Contains(o.Settings, "ro") {
		mo.Options = append(mo.Options, "rw")
	}
	return mo
}

// mountFlags are settings that mount(2) takes as flags.
var mountFlags = map[string]struct{ set, clear uintptr }{
	"ro": {set: unix.MS_RDONLY}, "rw": {clear: unix.MS_RDONLY}, "nodev": {set: unix.MS_NODEV}, "dev": {clear: unix.MS_NODEV},
	"nosuid": {set: unix.MS_NOSUID}, "suid": {clear: unix.MS_NOSUID}, "noexec": {set: unix.MS_NOEXEC}, "exec": {clear: unix.MS_NOEXEC},
	"dirsync": {set: unix.MS_DIRSYNC}, "sync": {set: unix.MS_SYNCHRONOUS}, "async": {clear: unix.MS_SYNCHRONOUS},
	"noatime": {set: unix.MS_NOATIME}, "nodiratime": {set: unix.MS_NODIRATIME}, "relatime": {set: unix.MS_RELATIME},
	"nosymfollow": {set: unix.MS_NOSYMFOLLOW},
}

// attach mounts by mount(2), and returns the device on which requests come.
func (m *Mount) attach() (device int, err error) {
	st, err := os.Stat(m.dir)
	if err != nil {
		return -1, err
	}
	if !st.IsDir() {
		return -1, &fs.PathError{Op: "mount", Path: m.dir, Err: unix.ENOTDIR}
	}
	device, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: "/dev/fuse", Err: err}
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	settings := []string{
		fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,max_read=%d", device, unix.S_IFDIR, os.Geteuid(), os.Getegid(), maxIO),
		"default_permissions",
	}
	for _, s := range m.FS.opts.Settings {
		if flag, ok := mountFlags[s]; ok {
			flags = flags&^flag.clear | flag.set
		} else {
			settings = append(settings, s)
		}
	}
	if err := unix.Mount(m.FS.opts.Source, m.dir, "fuse."+fsType, flags, strings.Join(settings, ",")); err != nil {
		unix.Close(device)
		return -1, &fs.PathError{Op: "mount", Path: m.dir, Err: err}
	}
	return device, nil
}

func (m *Mount) detach() error { return unix.Unmount(m.dir, unix.MNT_DETACH) }

// clearDead removes what a mount whose process was killed has left on a directory.
func clearDead(dir string) error {
	var st unix.Statfs_t // which no cache answers
	for unix.Statfs(dir, &st) == unix.ENOTCONN {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("%s is the mount of a process that has ended; umount %s: %w", dir, dir, err)
		}
	}
	return nil
}

// Dir is the directory on which the pool is mounted, absolute.
func (m *Mount) Dir() string { return m.dir }

// Serve answers the kernel until somebody has unmounted the directory. When ctx is done it unmounts it itself: files that are
// in use until then stay usable for those who use them, and Serve returns when the last has been closed.
func (m *Mount) Serve(ctx context.Context) error {
	var failed error
	unmounted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(unmounted)
		failed = m.unmount()
	})
	var ending sync.WaitGroup
	ending.Go(m.FS.endReferences)
	m.server.Serve()
	close(m.FS.forgotten)
	ending.Wait()
	if !stop() {
		<-unmounted
	}
	return errors.Join(failed, m.FS.notifier.close())
}

func (m *Mount) unmount() error {
	if !m.direct {
		return m.server.Unmount()
	}
	err := unix.Unmount(m.dir, 0)
	if err == unix.EBUSY {
		m.FS.logf("%s is in use: it is no longer there for others, and this process ends when the last file in it is closed", m.dir)
		err = m.detach()
	}
	if err == unix.EINVAL { // somebody else has unmounted it
		err = nil
	}
	return err
}
