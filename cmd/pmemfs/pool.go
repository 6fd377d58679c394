package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// isSocket says whether POOL is the socket of a server.
func isSocket(pool string) bool {
	st, err := os.Stat(pool)
	return err == nil && st.Mode().Type() == fs.ModeSocket
}

// patience is how long a verb waits for another server when its own has died: somebody waits for the verb.
const patience = 3 * time.Second

// open opens a pool, or connects to its server.
func (a *app) open(pool string, opts ...pmemfs.Option) (*pmemfs.FS, error) {
	if isSocket(pool) {
		fsys, err := pmemfs.Dial(pool, append([]pmemfs.Option{pmemfs.Reconnect(patience)}, opts...)...)
		return fsys, dialRemedy(pool, err)
	}
	fsys, err := pmemfs.Open(pool, opts...)
	return fsys, openRemedy(pool, err)
}

// use opens a pool, calls f and closes it again.
func (a *app) use(pool string, f func(*pmemfs.FS) error, opts ...pmemfs.Option) error {
	fsys, err := a.open(pool, opts...)
	if err != nil {
		return err
	}
	err = f(fsys)
	if closeErr := fsys.Close(); err == nil || !errors.Is(err, pmemfs.ErrServerGone) {
		err = errors.Join(err, closeErr)
	}
	return err
}

// look is use for verbs that change nothing, so that several of them can use a pool at a time, and one that may only
// be read.
func (a *app) look(pool string, f func(*pmemfs.FS) error, opts ...pmemfs.Option) error {
	return a.use(pool, f, append(opts, pmemfs.OpenReadOnly())...)
}

func dialRemedy(socket string, err error) error {
	if err == nil {
		return nil
	}
	f := &failure{err: err, code: exitUnable}
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		f.try = "start the server: pmemfs serve POOL --socket " + socket
	case errors.Is(err, fs.ErrPermission):
		f.try = permissionRemedy(socket, "the server was started with --mode and --group for others")
	}
	return f
}

func openRemedy(pool string, err error) error {
	if err == nil {
		return nil
	}
	f := &failure{err: err, code: exitUnable}
	var m *medium.Error
	var damage *layout.CorruptError
	errors.As(err, &m)
	switch {
	case errors.As(err, &damage) && damage.Structure == "superblock":
		f.try = "if another version of pmemfs has made it, use that; else restore it"
	case errors.As(err, &damage):
		f.try = "pmemfs check " + pool + " names everything that is damaged"
	case errors.Is(err, medium.ErrNoPool):
		f.try = "pmemfs mkfs " + pool + " makes one; for a socket, start its server"
	case errors.Is(err, medium.ErrInUse):
		f.try = inUseRemedy(m.PIDs)
	case errors.Is(err, medium.ErrSurvivors):
		f.try = "stop these programs, or wait until they have noticed that their server is gone"
	case errors.Is(err, fs.ErrPermission):
		f.try = permissionRemedy(pool, "use the socket of a server that admits you")
	}
	return f
}

func permissionRemedy(path, other string) string {
	user := ""
	if st, err := os.Stat(path); err == nil {
		user = fmt.Sprintf(" (user %d)", tree.Host{}.Attr(st).UID)
	}
	return fmt.Sprintf("be the owner of %s%s, or %s", path, user, other)
}

// inUseRemedy names the socket of the server that has a pool, if its command line says so.
func inUseRemedy(pids []int) string {
	for _, pid := range pids {
		if socket := socketOf(pid); socket != "" {
			return fmt.Sprintf("it is being served: use its socket, %s, in place of the pool", socket)
		}
	}
	return "use the server's socket in place of the pool, or wait until it is free"
}

// socketOf finds the --socket of a process, empty if it has none.
func socketOf(pid int) string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	args := strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00")
	for i, arg := range args {
		socket, found := strings.CutPrefix(arg, "--socket=")
		if arg == "--socket" && i+1 < len(args) {
			socket, found = args[i+1], true
		}
		if !found {
			continue
		}
		if !filepath.IsAbs(socket) {
			dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
			if err != nil {
				return ""
			}
			socket = filepath.Join(dir, socket)
		}
		if isSocket(socket) {
			return socket
		}
	}
	return ""
}

// granularity is the flag --require.
type granularity struct{ pmemfs.Granularity }

func (g *granularity) String() string {
	if g.Granularity == 0 {
		return ""
	}
	return g.Granularity.String()
}

func (g *granularity) Set(s string) (err error) {
	switch s {
	case "byte", "cache-line", "page":
		g.Granularity, err = pmemfs.ParseGranularity(s)
		return err
	}
	return errors.New("must be byte, cache-line or page")
}

func (g *granularity) Type() string { return "byte|cache-line|page" }

func requireFlag(cmd *cobra.Command, g *granularity) {
	cmd.Flags().Var(g, "require", "refuse a medium whose stores become durable in coarser units")
}
