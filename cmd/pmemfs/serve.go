package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/user"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/server"
)

// serveVerb serves a pool until it is told to stop.
type serveVerb struct {
	*app
	socket   string
	require  granularity
	mode     permissions
	group    string
	readOnly bool
	wait     time.Duration
	powerCut powerCutFlag
}

func (a *app) serve() *cobra.Command {
	s := &serveVerb{app: a, mode: 0o600}
	cmd := a.command(verb{
		use: "serve POOL --socket PATH [flags]", short: "Own a pool on behalf of other processes", args: [2]int{1, 1},
		long: `POOL is the path of a pool. Programs connect to the socket with pmemfs.Dial, the other verbs by using it in place of the
pool. One line is printed when it is ready, which says what the medium guarantees. SIGINT and SIGTERM make it take back
what is mapped, end the connections, close the pool cleanly and remove its socket.

A pool is one trust domain: whoever may connect with write access can store to every data block. Its owner, the user of the
server and root always may; --mode and --group admit others: read permission read-only, read and write fully.

With --power-cut the server emulates, whatever the medium is, persistent memory that loses its power when "pmemfs powercut"
says so: what programs stored to their mappings and did not flush and fence is lost then, and they find out what they forgot.
They work on a copy of the pool in memory. With a seed (--power-cut=7) a random part of what they forgot survives, as it
does when a CPU evicts lines from its caches. For tests only; when the server ends everything is in the pool.

With --json: when it is ready, pool, socket, pid, uuid, label, medium (as of "pmemfs info"), read_only.
`,
		example: `  pmemfs serve /dev/shm/pool --socket /tmp/pool.sock
  pmemfs serve /mnt/pmem0/pool --socket /run/pmemfs/pool.sock --require cache-line --mode 0660 --group db`,
		run: func(cmd *cobra.Command, args []string) (result, error) {
			if s.socket == "" {
				return nil, usageError(cmd, "--socket is missing")
			}
			return nil, s.run(args[0])
		},
	})
	f := cmd.Flags()
	f.StringVar(&s.socket, "socket", "", "where to listen")
	requireFlag(cmd, &s.require)
	f.Var(&s.mode, "mode", "who may connect: 0600, 0640, 0660, 0644 …")
	f.StringVar(&s.group, "group", "", "the group that the group bits of --mode are for")
	f.BoolVar(&s.readOnly, "read-only", false, "change nothing, and give clients read access only")
	s.powerCut.add(cmd)
	f.DurationVar(&s.wait, "wait", 10*time.Second, "how long to wait for a former owner, and its clients' mappings, to go")
	return cmd
}

func (s *serveVerb) run(pool string) error {
	access, err := s.access()
	if err != nil {
		return unable(err)
	}
	srv, err := server.Open(pool, server.Options{
		ReadOnly: s.readOnly, Require: s.require.Granularity, Wait: s.wait, PowerCut: s.powerCut.options,
		Logf: func(format string, args ...any) { fmt.Fprintf(s.stderr, format+"\n", args...) },
	})
	if err != nil {
		return openRemedy(pool, &fs.PathError{Op: "serve", Path: pool, Err: err})
	}
	l, err := server.Listen(s.socket, access)
	if err != nil {
		return errors.Join(listenRemedy(s.socket, err), srv.Close())
	}
	if err := s.announce(srv, l.Path()); err != nil {
		return errors.Join(err, l.Close(), srv.Close())
	}
	return server.Run(s.ctx, srv, l, func(*server.Server) { fmt.Fprintln(s.stderr, "pmemfs: the power was cut, and is back") })
}

// access says who may connect.
func (s *serveVerb) access() (server.Access, error) {
	a := server.Access{Mode: fs.FileMode(s.mode), GID: -1}
	if s.group == "" {
		return a, nil
	}
	if n, err := strconv.ParseUint(s.group, 10, 31); err == nil {
		a.GID = int(n)
		return a, nil
	}
	g, err := user.LookupGroup(s.group)
	if err != nil {
		return a, err
	}
	a.GID, err = strconv.Atoi(g.Gid)
	return a, err
}

func listenRemedy(socket string, err error) error {
	f := &failure{err: err, code: exitUnable}
	if errors.Is(err, unix.EADDRINUSE) {
		if isSocket(socket) {
			f.try = "another --socket; pmemfs info " + socket + " says who listens there"
		} else {
			f.try = "another --socket: " + socket + " is not one, and is left alone"
		}
	}
	return f
}

// announce tells that the server is ready: the socket listens, and connections are accepted in a moment.
func (s *serveVerb) announce(srv *server.Server, socket string) error {
	i := srv.Info()
	return s.print(&serving{
		Pool: i.Medium.Path, Socket: socket, PID: i.PID, UUID: i.UUID, Label: i.Label, Medium: i.Medium, ReadOnly: s.readOnly,
	})
}

// serving is what a server says when it is ready.
type serving struct {
	Pool     string              `json:"pool"`
	Socket   string              `json:"socket"`
	PID      int                 `json:"pid"`
	UUID     string              `json:"uuid"`
	Label    string              `json:"label"`
	Medium   pmemfs.MediumReport `json:"medium"`
	ReadOnly bool                `json:"read_only"`
}

func (r *serving) text(w io.Writer) {
	fmt.Fprintf(w, "serving %s at %s: %s\n", r.Pool, r.Socket, guarantee(&r.Medium))
}
