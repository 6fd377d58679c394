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
	direct   []string // groups
	limits   limits
	commit   server.CommitPolicy
	metrics  string // address; empty: none
	readOnly bool
	wait     time.Duration
	runtime  string // directory
	survive  server.Survivors
	powerCut powerCutFlag
	assume   bool
}

const serveLong = `POOL is the path of a pool. Programs connect to the socket with pmemfs.Dial, the other verbs by using it in place of the
pool. One line is printed when it is ready, which says what the medium guarantees. SIGINT and SIGTERM make it take back
what is mapped, end the connections, close the pool cleanly and remove its socket.

A pool is one trust domain: whoever may connect with write access can store to every data block. Its owner, the user of the
server and root always may; --mode and --group admit others: read permission read-only, read and write fully.

Who has the capability CAP_LINUX_IMMUTABLE, or is in a group that is given with --direct-group, may seal blocks (map files
with Direct) and freeze files. What one client may have is limited, so that none can use up the server or keep all
blocks where they are: the flags --max-...

With --commit op an operation is durable when it returns; those that need it at the same time share the cost. With
--commit interval=200ms an operation returns as soon as others can see what it did, and is durable after Sync, or when
the interval is over (1ms to 1h; interval alone: 1s). The default is the medium's: op on byte-addressable media,
interval behind a page cache, where durability takes a system call. See also docs/guarantees.md.

What programs have open and mapped survives the death of the server: the next one at the same socket takes them over, and
they go on without noticing. For that the server keeps what it knows of them in --runtime-dir, which should be in memory.
One that finds clients of a server that has died takes them over (--survivors adopt), or waits for them to give up what
they have (wait), up to --wait, or names them and ends (refuse). With --commit interval, --read-only or --power-cut nobody
is taken over, neither by this server nor by the next: its clients have lost everything when it dies.

With --metrics the numbers of "pmemfs stat SOCKET" are served over HTTP at /metrics of that address, for Prometheus. Whoever
can reach the address can read them: nobody is asked who he is, and it is not encrypted. They name no files.

With --assume-persistent a pool on a disk, behind a page cache, is treated as if it were on persistent memory, for development
where there is none: programs get Sync, Direct and Unchecked mappings. What they store survives a crash of programs and of the
server, but NOT a loss of power, after which the whole pool may be damaged. A warning says so when the server starts, and
"pmemfs info" as long as it runs; where stores reach memory directly nothing is assumed.

With --power-cut the server emulates, whatever the medium is, persistent memory that loses its power when "pmemfs powercut"
says so: what programs stored to their mappings and did not flush and fence is lost then, and they find out what they forgot.
They work on a copy of the pool in memory. With a seed (--power-cut=7) a random part of what they forgot survives, as it
does when a CPU evicts lines from its caches. For tests only; when the server ends everything is in the pool.

With --json: when it is ready, pool, socket, pid, uuid, label, medium (as of "pmemfs info"), commit (the
policy), read_only, metrics (a URL, with --metrics).
`

func (a *app) serve() *cobra.Command {
	s := &serveVerb{app: a, mode: 0o600}
	cmd := a.command(verb{
		use: "serve POOL --socket PATH [flags]", short: "Own a pool on behalf of other processes", args: [2]int{1, 1},
		long: serveLong,
		example: `  pmemfs serve /dev/shm/pool --socket /tmp/pool.sock
  pmemfs serve /mnt/pmem0/pool --socket /run/pmemfs/pool.sock --require cache-line --mode 0660 --group db
  pmemfs serve /mnt/disk/pool --socket /run/pmemfs/pool.sock --commit interval=200ms --metrics localhost:9090`,
		run: func(cmd *cobra.Command, args []string) (result, error) {
			if s.socket == "" {
				return nil, usageError(cmd, "--socket is missing")
			}
			if s.assume && s.powerCut.options != nil {
				return nil, usageError(cmd, "--power-cut works in memory, whatever the medium is: it takes no --assume-persistent")
			}
			limits, err := s.limits.options()
			if err != nil {
				return nil, usageError(cmd, "%v", err)
			}
			return nil, s.run(args[0], limits)
		},
	})
	s.flags(cmd)
	return cmd
}

func (s *serveVerb) flags(cmd *cobra.Command) {
	s.ownerFlags(cmd)
	s.powerCut.add(cmd)
	cmd.Flags().BoolVar(&s.readOnly, "read-only", false, "change nothing, and give clients read access only")
}

// ownerFlags are those of every verb that owns a pool on behalf of others.
func (s *serveVerb) ownerFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.socket, "socket", "", "where to listen")
	requireFlag(cmd, &s.require)
	f.Var(&s.mode, "mode", "who may connect: 0600, 0640, 0660, 0644 …")
	f.StringVar(&s.group, "group", "", "the group that the group bits of --mode are for")
	f.StringArrayVar(&s.direct, "direct-group", nil, "a `GROUP`, by name or number, whose members may seal and freeze; may be repeated")
	s.limits.add(cmd)
	f.TextVar(&s.commit, "commit", server.CommitPolicy{}, "when operations become durable: the `POLICY` op, interval or interval=DURATION")
	f.Lookup("commit").DefValue = "the medium's"
	f.StringVar(&s.metrics, "metrics", "", "an `ADDRESS`, such as localhost:9090, to serve numbers at for Prometheus; unauthenticated")
	f.BoolVar(&s.assume, "assume-persistent", false, "treat a disk as persistent memory, which it is not: for development only")
	f.DurationVar(&s.wait, "wait", 10*time.Second, "how long to wait for a former owner to go, and for clients of its that are not taken over")
	f.StringVar(&s.runtime, "runtime-dir", "/dev/shm", "a `DIRECTORY` in memory, where what lets clients survive the server is kept")
	f.TextVar(&s.survive, "survivors", server.AdoptSurvivors, "what to do about clients of a server that has died: `adopt`, wait or refuse")
}

func (s *serveVerb) run(pool string, limits server.Limits) error {
	var m *metrics
	if s.metrics != "" {
		var err error
		if m, err = listenMetrics(s.metrics, s.stderr); err != nil {
			return err
		}
		defer m.close()
	}
	srv, l, err := s.own("serve", pool, limits)
	if err != nil {
		return err
	}
	if m != nil {
		m.serve(srv)
	}
	if err := s.announce(srv, l.Path(), m); err != nil {
		return errors.Join(err, l.Close(), srv.Close())
	}
	return server.Run(s.ctx, srv, l, func(next *server.Server) {
		if m != nil {
			m.server.Store(next)
		}
		fmt.Fprintln(s.stderr, "pmemfs: the power was cut, and is back")
	})
}

// own opens a pool as its owner and, if there is a socket, listens there.
func (s *serveVerb) own(verb, pool string, limits server.Limits) (*server.Server, *server.Listener, error) {
	access, err := s.access()
	if err != nil {
		return nil, nil, unable(err)
	}
	direct, err := s.directGroups()
	if err != nil {
		return nil, nil, unable(err)
	}
	srv, err := server.Open(pool, server.Options{
		ReadOnly: s.readOnly, Require: s.require.Granularity, Wait: s.wait, PowerCut: s.powerCut.options,
		DirectGroups: direct, Limits: limits, Commit: s.commit, RuntimeDir: s.runtime, Survivors: s.survive,
		AssumePersistent: s.assume, Alone: s.socket == "",
		Logf: s.logf,
	})
	if err != nil {
		return nil, nil, openRemedy(pool, &fs.PathError{Op: verb, Path: pool, Err: err})
	}
	if s.socket == "" {
		return srv, nil, nil
	}
	l, err := server.Listen(s.socket, access)
	if err != nil {
		return nil, nil, errors.Join(listenRemedy(s.socket, err), srv.Close())
	}
	return srv, l, nil
}

func (s *serveVerb) logf(format string, args ...any) { fmt.Fprintf(s.stderr, format+"\n", args...) }

// access says who may connect.
func (s *serveVerb) access() (server.Access, error) {
	a := server.Access{Mode: fs.FileMode(s.mode), GID: -1}
	if s.group == "" {
		return a, nil
	}
	gid, err := groupID("--group", s.group)
	a.GID = int(gid)
	return a, err
}

// directGroups are the groups whose members may seal.
func (s *serveVerb) directGroups() (list []uint32, err error) {
	for _, name := range s.direct {
		gid, err := groupID("--direct-group", name)
		if err != nil {
			return nil, err
		}
		list = append(list, gid)
	}
	return list, nil
}

// groupID returns the number of a group that a flag names, or has the number of.
func groupID(flag, name string) (uint32, error) {
	number := name
	if _, err := strconv.Atoi(name); err != nil {
		g, err := user.LookupGroup(name)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", flag, err)
		}
		number = g.Gid
	}
	gid, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%s: %q is not the number of a group", flag, number)
	}
	return uint32(gid), nil
}

// limits are flags: what each client may have.
type limits struct {
	handles, mappings int
	grants            int64
	pinned, sealed    size // sealed 0: the server's default
}

func (l *limits) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&l.handles, "max-handles", 1<<16, "how many (`N`) files and directories each client may have open")
	f.IntVar(&l.mappings, "max-mappings", 1<<12, "how many (`N`) mappings each client may have")
	f.Int64Var(&l.grants, "max-grants", 1<<16, "how many (`N`) runs of blocks each client may have granted; the kernel lets a process map about 65,000")
	l.pinned = 256 << 20
	f.Var(&l.pinned, "max-pinned", "how much each client may have pinned for I/O; a range that is pinned twice counts twice")
	f.Lookup("max-pinned").DefValue = "256M"
	f.Var(&l.sealed, "max-sealed", "how much each client may have sealed by Direct mappings (default: half of the data area)")
}

// options returns the limits for a server, and what is wrong with them.
func (l *limits) options() (server.Limits, error) {
	for _, n := range []struct {
		flag string
		n    int64
	}{{"--max-handles", int64(l.handles)}, {"--max-mappings", int64(l.mappings)}, {"--max-grants", l.grants}} {
		if n.n < 1 {
			return server.Limits{}, fmt.Errorf("%s: %d is less than 1", n.flag, n.n)
		}
	}
	for _, n := range []struct {
		flag string
		n    size
	}{{"--max-pinned", l.pinned}, {"--max-sealed", l.sealed}} {
		if n.n > 0 && n.n < 4096 {
			return server.Limits{}, fmt.Errorf("%s: %d is less than a block, 4096 bytes", n.flag, n.n)
		}
	}
	return server.Limits{
		Handles: l.handles, Mappings: l.mappings, Grants: l.grants, PinnedBytes: int64(l.pinned), SealedBytes: int64(l.sealed),
	}, nil
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
func (s *serveVerb) announce(srv *server.Server, socket string, m *metrics) error {
	i := srv.Info()
	r := &serving{
		Pool: i.Medium.Path, Socket: socket, PID: i.PID, UUID: i.UUID, Label: i.Label, Medium: i.Medium, Commit: i.Commit,
		ReadOnly: s.readOnly,
	}
	if m != nil {
		r.Metrics = m.url()
	}
	return s.print(r)
}

// serving is what a server says when it is ready.
type serving struct {
	Pool     string              `json:"pool"`
	Socket   string              `json:"socket"`
	PID      int                 `json:"pid"`
	UUID     string              `json:"uuid"`
	Label    string              `json:"label"`
	Medium   pmemfs.MediumReport `json:"medium"`
	Commit   pmemfs.CommitPolicy `json:"commit"`
	ReadOnly bool                `json:"read_only"`
	Metrics  string              `json:"metrics,omitempty"`
}

func (r *serving) text(w io.Writer) {
	fmt.Fprintf(w, "serving %s at %s: %s; commit policy %v", r.Pool, r.Socket, guarantee(&r.Medium), r.Commit)
	if r.Metrics != "" {
		fmt.Fprintf(w, "; metrics at %s", r.Metrics)
	}
	fmt.Fprintln(w)
}
