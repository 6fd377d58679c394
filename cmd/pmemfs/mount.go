package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/fusefs"
	"github.com/pmemfs/pmemfs/internal/rerun"
	"github.com/pmemfs/pmemfs/internal/server"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// mountVerb has the kernel mount a pool until somebody unmounts it, or it is told to stop.
type mountVerb struct {
	serveVerb
	settings   []string // behind -o
	background bool
	detached   bool // this process is the one in the background
}

const mountLong = `POOL is the path of a pool, which this process owns then, or the socket of a server that does. Any program can use the files
below DIR from then on: the kernel passes what it wants on to this process, by FUSE. One line is printed when the mount is
ready. "umount DIR", SIGINT and SIGTERM end it; the pool is then closed cleanly.

With --socket it serves the pool besides, as "pmemfs serve" does: programs map the same files directly, and each side sees
at once what the other has done. As long as they are connected the kernel caches nothing; a mount that is the pool's
only client lets it cache names, attributes and contents. A mount by way of a server's socket never does: it is slower.

Users other than the one who mounts see nothing there without -o allow_other. The kernel checks owners, groups, modes and
ACLs. Options behind -o are those of mount(8) for FUSE (ro, allow_other, dev, suid, noexec, …), and, for /etc/fstab, the
flags of this verb without their dashes (socket=PATH, commit=op, …). Without dev and suid the kernel ignores devices and
set-user-ID bits of files in the mount.

A link to this program that is called mount.pmemfs in /sbin makes "mount -t pmemfs POOL DIR" and fstab work: it mounts in
the background. docs/mount.md has a unit for systemd, what is durable when, and what cannot be had through a mount.

With --json: when it is ready, source, dir, pid, socket (with --socket), commit (the policy; with POOL a path).
`

func (a *app) mount() *cobra.Command {
	m := &mountVerb{serveVerb: serveVerb{app: a, mode: 0o600}}
	cmd := a.command(verb{
		use: "mount POOL DIR [flags]", short: "Mount a pool, for any program", args: [2]int{2, 2},
		long: mountLong,
		example: `  pmemfs mount /dev/shm/pool /mnt/pool
  pmemfs mount /dev/shm/pool /mnt/pool --socket /run/pmemfs/pool.sock -o allow_other --background
  pmemfs mount /run/pmemfs/pool.sock /mnt/pool
  umount /mnt/pool`,
		run: func(cmd *cobra.Command, args []string) (result, error) {
			if err := m.takeSettings(cmd); err != nil {
				return nil, usageError(cmd, "-o: %v", err)
			}
			limits, err := m.limits.options()
			if err != nil {
				return nil, usageError(cmd, "%v", err)
			}
			if isSocket(args[0]) && m.socket != "" {
				return nil, usageError(cmd, "--socket: %s is served already", args[0])
			}
			switch {
			case m.background && !m.detached:
				return nil, m.start()
			case isSocket(args[0]):
				return nil, m.join(args[0], args[1])
			}
			return nil, m.run(args[0], args[1], limits)
		},
	})
	m.ownerFlags(cmd)
	f := cmd.Flags()
	f.StringArrayVarP(&m.settings, "options", "o", nil, "`OPTIONS` of mount(8), with commas between them; may be repeated")
	f.BoolVar(&m.background, "background", false, "return when the mount is ready")
	f.BoolVar(&m.detached, "detached", false, "")
	f.MarkHidden("detached")
	return cmd
}

// helperSettings are options in fstab that are for others than the file system.
var helperSettings = []string{"defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev"}

// takeSettings divides what is behind -o into settings of the mount and flags of this verb.
func (m *mountVerb) takeSettings(cmd *cobra.Command) error {
	var rest []string
	for _, s := range strings.Split(strings.Join(m.settings, ","), ",") {
		name, value, hasValue := strings.Cut(s, "=")
		flag := cmd.Flags().Lookup(name)
		switch {
		case s == "" || slices.Contains(helperSettings, s) || strings.HasPrefix(s, "x-") || name == "comment":
		case hasValue && flag != nil && !flag.Hidden && name != "options" && name != "background":
			if err := cmd.Flags().Set(name, value); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		default:
			m.readOnly = s == "ro" || m.readOnly && s != "rw"
			rest = append(rest, s)
		}
	}
	m.settings = rest
	return nil
}

// run owns the pool.
func (m *mountVerb) run(pool, dir string, limits server.Limits) (err error) {
	var numbers *metrics
	if m.metrics != "" {
		if numbers, err = listenMetrics(m.metrics, m.stderr); err != nil {
			return err
		}
		defer numbers.close()
	}
	srv, l, err := m.own("mount", pool, limits)
	if err != nil {
		return err
	}
	sess, err := srv.Local(nil) // it maps nothing
	if err == nil {
		send := func(q *wire.Request) (*wire.Reply, error) { return sess.Do(q), nil }
		err = m.mount(pool, dir, send, srv, sess, l, numbers)
	}
	if l != nil {
		l.Close()
	}
	return errors.Join(err, srv.Close())
}

// mount mounts a pool that this process owns, and serves it until it is unmounted.
func (m *mountVerb) mount(pool, dir string, send fusefs.Transport, srv *server.Server, sess *server.Session, l *server.Listener, numbers *metrics) error {
	mnt, err := fusefs.New(dir, send, fusefs.Options{
		Source: pool, Settings: m.settings, Alone: true, Company: l != nil, Logf: m.logf,
	})
	if err != nil {
		return mountRemedy(dir, err)
	}
	sess.Watch(mnt.FS.Company)
	defer runtime.KeepAlive(ballast())
	if numbers != nil {
		numbers.serve(srv)
	}
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	served := make(chan error, 1)
	if l != nil {
		go func() {
			served <- srv.Serve(ctx, l)
			cancel() // without a socket there is no reason to stay
		}()
	} else {
		served <- nil
	}
	policy := srv.Info().Commit
	err = m.serve(ctx, mnt, &mounted{Source: pool, Dir: mnt.Dir(), PID: os.Getpid(), Socket: m.socket, Commit: &policy})
	cancel()
	return errors.Join(err, <-served)
}

// mountPatience is how long a mount waits for another server when its own has died: programs wait for it.
const mountPatience = time.Minute

// join mounts a pool by way of its server.
func (m *mountVerb) join(socket, dir string) error {
	opts := []pmemfs.Option{pmemfs.Reconnect(mountPatience)}
	if m.readOnly {
		opts = append(opts, pmemfs.OpenReadOnly())
	}
	fsys, err := pmemfs.Dial(socket, opts...)
	if err != nil {
		return dialRemedy(socket, err)
	}
	mnt, err := fusefs.New(dir, fsys.Requests(), fusefs.Options{Source: socket, Settings: m.settings, Logf: m.logf})
	if err != nil {
		return errors.Join(mountRemedy(dir, err), fsys.Close())
	}
	return errors.Join(m.serve(m.ctx, mnt, &mounted{Source: socket, Dir: mnt.Dir(), PID: os.Getpid()}), fsys.Close())
}

// serve answers the kernel until the directory is unmounted, and says when it begins.
func (m *mountVerb) serve(ctx context.Context, mnt *fusefs.Mount, ready *mounted) error {
	served := make(chan error, 1)
	go func() { served <- mnt.Serve(ctx) }()
	if err := m.print(ready); err != nil {
		m.logf("pmemfs: %v", err)
	}
	if m.detached {
		if err := leaveStarter(); err != nil {
			m.logf("pmemfs: %v", err)
		}
	}
	return <-served
}

// ballast is memory that is never touched, and so takes none, but counts when the collector decides that it is time: without
// it a process with as little garbage as this one would collect it every few milliseconds, and empty the library's pools of
// buffers each time. See docs/mount.md.
func ballast() []byte { return make([]byte, 64<<20) }

func mountRemedy(dir string, err error) error {
	f := &failure{err: err, code: exitUnable}
	switch {
	case errors.Is(err, fs.ErrNotExist) && strings.Contains(err.Error(), "/dev/fuse"):
		f.try = "modprobe fuse; in a container, give it the device /dev/fuse"
	case errors.Is(err, fs.ErrNotExist):
		f.try = "mkdir " + dir
	case errors.Is(err, exec.ErrNotFound):
		f.try = "apt-get install fuse3, or mount as root"
	case errors.Is(err, unix.EINVAL):
		f.try = "check what is behind -o: the kernel does not take all of it"
	case errors.Is(err, fs.ErrPermission):
		f.try = "mount as root"
	}
	return f
}

// mounted is what a mount says when it is ready.
type mounted struct {
	Source string               `json:"source"`
	Dir    string               `json:"dir"`
	PID    int                  `json:"pid"`
	Socket string               `json:"socket,omitempty"`
	Commit *pmemfs.CommitPolicy `json:"commit,omitempty"`
}

func (r *mounted) text(w io.Writer) {
	fmt.Fprintf(w, "%s is mounted on %s", r.Source, r.Dir)
	if r.Commit != nil {
		fmt.Fprintf(w, "; commit policy %v", r.Commit)
	}
	if r.Socket != "" {
		fmt.Fprintf(w, "; served at %s", r.Socket)
	}
	fmt.Fprintln(w)
}

// A mount in the background is another process of this program. It has a pipe as descriptor readyFile, by which it tells
// that it is ready; until then it shares standard output and error with its starter.
const (
	readyFile = 3
	readyText = "ready"
)

// start starts the process in the background, and returns when it is ready or has failed.
func (m *mountVerb) start() error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	cmd := rerun.Self(append(arguments(os.Args), "--detached")...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdout, os.Stderr, []*os.File{write}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = cmd.Start()
	write.Close()
	if err != nil {
		return err
	}
	said, err := io.ReadAll(read)
	if err == nil && string(said) == readyText {
		m.printed = true // by that process
		return cmd.Process.Release()
	}
	if err := cmd.Wait(); err == nil {
		return errors.New("the process in the background has ended")
	}
	m.printed, m.code = true, cmd.ProcessState.ExitCode() // it has told why
	return nil
}

// leaveStarter tells that the mount is ready, and gives up what it shares with its starter.
func leaveStarter() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd := range readyFile {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	ready := os.NewFile(readyFile, "ready")
	_, err = ready.WriteString(readyText)
	return errors.Join(err, os.Chdir("/"), ready.Close())
}

// arguments are those of the command line; by the name that mount(8) calls its helpers by they are a mount's.
func arguments(args []string) []string {
	if filepath.Base(args[0]) != "mount.pmemfs" {
		return args[1:]
	}
	out := []string{"mount", "--background"}
	for i := 1; i < len(args); i++ {
		switch args[i] {
		case "-s", "-f", "-n", "-v", "-sf", "-fs": // what mount(8) has for others
		case "-N", "-t":
			i++
		default:
			out = append(out, args[i])
		}
	}
	return out
}
