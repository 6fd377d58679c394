package server

import (
	"cmp"
	"errors"
	"fmt"
	"log"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/grant"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/session"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// Options of a server. The zero value is what most want.
type Options struct {
	ReadOnly bool               // nothing in the pool is changed; clients get a read-only descriptor
	Require  medium.Granularity // refuse coarser media
	Wait     time.Duration      // for an owner that is about to go, and for clients of an earlier server that are not taken over
	// RuntimeDir is where what is known of clients is kept, so that the next server can take them over should this
	// one die: a directory in memory. "": /dev/shm. A server that is read-only, emulates power cuts or commits at
	// intervals has no heir.
	RuntimeDir string
	Survivors  Survivors // of an earlier server
	// Alone: Serve is never called; the program itself is the only client. Others are neither taken over nor left to
	// an heir.
	Alone bool
	// BreakTimeout is how long an operation waits for a client that does not give up a grant, before it fails with
	// EBUSY. 0: 2 s, far more than a client that runs at all needs, and little enough for whoever waits.
	BreakTimeout time.Duration
	// Logf takes one line for each event that nobody else is told of. nil: the standard logger.
	Logf func(format string, args ...any)
	// DirectGroups are groups whose members may seal and freeze, as those may who have the capability
	// CAP_LINUX_IMMUTABLE.
	DirectGroups []uint32
	Limits       Limits // of each client
	Commit       CommitPolicy
	// AssumePersistent treats a medium behind a page cache as byte-addressable, for development: see medium.Options.
	// It excludes PowerCut, which emulates such a medium anyway.
	AssumePersistent bool
	// PowerCut emulates a medium that loses its power when a client says so, whatever the pool is on. nil: no.
	PowerCut *medium.PowerCutOptions
}

// Limits bound what one client may have, so that none can use up the server or keep all blocks where they are. A
// field that is 0 means the default in brackets.
type Limits struct {
	Handles     int   `json:"handles"`      // open files and directories (65,536)
	Mappings    int   `json:"mappings"`     // (4,096)
	Grants      int64 `json:"grants"`       // runs of blocks that it can access (65,536: about what the kernel lets a process map)
	PinnedBytes int64 `json:"pinned_bytes"` // a range that is pinned twice counts twice (256 MiB)
	SealedBytes int64 `json:"sealed_bytes"` // in Direct mappings (half of the data area)
}

// withDefaults returns the limits for a pool whose data area has so many bytes.
func (l Limits) withDefaults(data int64) Limits {
	return Limits{
		Handles: cmp.Or(l.Handles, 1<<16), Mappings: cmp.Or(l.Mappings, 1<<12), Grants: cmp.Or(l.Grants, 1<<16),
		PinnedBytes: cmp.Or(l.PinnedBytes, 256<<20), SealedBytes: cmp.Or(l.SealedBytes, max(data/2, blockSize)),
	}
}

// blocks returns those limits that the grant table knows of.
func (l Limits) blocks() grant.Limits {
	return grant.Limits{Grants: l.Grants, PinnedBlocks: l.PinnedBytes / blockSize, SealedBlocks: l.SealedBytes / blockSize}
}

// Server owns a pool.
type Server struct {
	pool   Pool
	power  *medium.PowerCut // the pool, when power cuts are emulated; else nil
	report medium.Report    // of pool; immutable
	slots  *medium.Pool     // the pool, when clients can outlive the server; else nil
	fs     *core.FS
	inodes uint64 // how many numbers there are; immutable once mounted
	grants *grant.Table
	opts   Options
	owners []uint32 // users that may always connect; immutable

	stopCommitter func()   // immutable once mounted
	progress      *os.File // for clients, to be mapped read-only; immutable once mounted

	runtime sync.Once    // opens dir
	dir     *session.Dir // immutable after runtime; nil: clients do not outlive the server

	clients sync.WaitGroup // connections that are being served
	off     atomic.Bool    // the power is cut, or about to be
	counts  counters

	watching sync.Mutex // held while the watcher is told
	watcher  *watcher   // protected by watching; nil: nobody

	mu       sync.Mutex
	sessions map[*Session]struct{} // protected by mu
	closed   bool                  // protected by mu: no more sessions
	exports  map[*export]struct{}  // protected by mu
	exported quota                 // protected by mu: exports, and those that cannot end because of what was sent to them
	imported quota                 // protected by mu: sessions that came with an imported handle
	serving  *service              // protected by mu; nil until Serve
}

// Pool is what a server needs of a pool: a *medium.Pool, or a *medium.PowerCut over one.
type Pool interface {
	Meta() medium.Area
	Data() medium.Area
	Report() medium.Report
	ClientFile(readOnly bool, slot int) (*os.File, error)
	ClientMapping() (base int64, flags int, align int64)
	Close() error
}

// Open opens and mounts a pool, as its owner, and takes over the clients of an earlier owner. The caller closes the
// server.
func Open(pool string, o Options) (*Server, error) {
	o.BreakTimeout = cmp.Or(o.BreakTimeout, 2*time.Second)
	o.RuntimeDir = cmp.Or(o.RuntimeDir, "/dev/shm")
	if o.Logf == nil {
		o.Logf = log.Printf
	}
	if o.AssumePersistent && o.PowerCut != nil {
		return nil, invalid("power cuts are emulated in memory, whatever the medium is: there is nothing to assume")
	}
	s := &Server{opts: o, owners: []uint32{uint32(os.Geteuid())}}
	var found []survivor
	mo := medium.Options{
		Require: o.Require, ReadOnly: o.ReadOnly, Wait: o.Wait, MetaSize: core.MetaSize, Refuse: o.Survivors == RefuseSurvivors,
		AssumePersistent: o.AssumePersistent,
	}
	if o.Survivors == AdoptSurvivors && !o.Alone {
		mo.Adopt = func(identity string, live []int) map[int]int {
			found = s.findSurvivors(pool, identity, live)
			return pids(found)
		}
	}
	if o.PowerCut != nil {
		mo.Require = medium.AnyGranularity // of what is emulated
	}
	p, err := medium.Open(pool, mo)
	if err == nil {
		if o.leaves(p.Report().Granularity) {
			s.slots = p
			s.tidy(found)
		}
		err = s.take(p, found)
	}
	if err != nil {
		return nil, errors.Join(err, leaveAll(found), s.closeRuntime())
	}
	return s, nil
}

// take makes an opened pool that of a new server, or closes it.
func (s *Server) take(p *medium.Pool, found []survivor) (err error) {
	s.pool = p
	if s.opts.PowerCut != nil {
		power := *s.opts.PowerCut
		power.Require = s.opts.Require
		if s.power, err = medium.NewPowerCut(p, power); err != nil {
			return errors.Join(err, p.Close())
		}
		s.pool = s.power
	}
	if st, err := os.Stat(p.Report().Path); err == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			s.owners = append(s.owners, sys.Uid)
		}
	}
	s.warnOfAssumption(p.Report())
	return s.mount(found)
}

// warnOfAssumption tells what it means to assume a medium to be persistent memory.
func (s *Server) warnOfAssumption(r medium.Report) {
	switch {
	case r.Assumed:
		s.logf("WARNING: %s lies behind a page cache and is ASSUMED to be PERSISTENT memory: nothing survives a loss of power, after "+
			"which the pool may be damaged. For development only", r.Path)
	case s.opts.AssumePersistent:
		s.logf("%s need not be assumed to be persistent memory: stores reach it directly (%v granularity). Nothing is assumed",
			r.Path, r.Granularity)
	}
}

// mount mounts the pool of a new server and takes clients over, or closes the pool.
func (s *Server) mount(found []survivor) (err error) {
	s.report, s.sessions = s.pool.Report(), map[*Session]struct{}{}
	s.exports, s.exported, s.imported = map[*export]struct{}{}, newQuota("exported descriptors", maxExports, maxUserExports),
		newQuota("connections with imported files", maxImports, maxUserImports)
	s.opts.Limits = s.opts.Limits.withDefaults(s.report.DataSize)
	s.grants = grant.NewTable(s.opts.Limits.blocks())
	s.opts.Commit = s.opts.Commit.on(s.granularity())
	page, shared, err := s.makeProgress()
	if err != nil {
		return errors.Join(err, s.pool.Close())
	}
	s.progress = shared
	s.fs, err = core.Mount(s.pool.Meta(), s.pool.Data(), core.Options{
		ReadOnly: s.opts.ReadOnly, Breaker: breaker{s.grants}, Stage: s.stages(), Defer: s.granularity() > medium.CacheLine,
		Progress:    page,
		HoldOrphans: len(found) > 0,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("mount %s: %w", s.report.Path, err), s.pool.Close())
	}
	s.counts.since, s.inodes = time.Now(), uint64(s.fs.Statfs().Inodes)
	for _, v := range found {
		if err := s.adopt(v); err != nil {
			return errors.Join(err, s.fs.Close(), s.pool.Close())
		}
	}
	if len(found) > 0 {
		s.fs.Reclaim() // of what they have open nothing goes
		s.logf("taken over from an earlier server: %d clients", len(found))
	}
	s.startCommitter()
	return nil
}

// Close ends every session, unmounts the pool cleanly and gives it up. Serve must have returned. If it was never
// called, clients that were taken over are left for another server.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	var errs []error
	for _, sess := range s.all() {
		if sess.heir != nil && s.serving == nil {
			errs = append(errs, sess.remote().leave())
		} else {
			sess.Close()
		}
	}
	s.stopCommitter()
	if err := s.fs.Close(); !s.off.Load() { // without power nothing can be made durable
		errs = append(errs, err)
	}
	return errors.Join(append(errs, s.progress.Close(), s.pool.Close(), s.closeRuntime())...)
}

// closeRuntime gives up the runtime directory, in which there is nothing any more, but for clients that are left to
// another server.
func (s *Server) closeRuntime() error {
	if s.dir == nil {
		return nil
	}
	return s.dir.Close()
}

func (s *Server) readOnly() bool                  { return s.opts.ReadOnly }
func (s *Server) granularity() medium.Granularity { return s.report.Granularity }
func (s *Server) logf(format string, args ...any) { s.opts.Logf("pmemfs: "+format, args...) }

// all returns the sessions there are.
func (s *Server) all() []*Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*Session
	for sess := range s.sessions {
		list = append(list, sess)
	}
	return list
}

// admit makes a session known. The error says why there can be no more.
func (s *Server) admit(sess *Session) error {
	err := s.list(sess)
	if err == nil {
		s.tellWatcher()
	}
	return err
}

// list is admit without telling the watcher.
func (s *Server) list(sess *Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errShutdown
	}
	if len(s.sessions) >= maxSessions {
		return fmt.Errorf("the server has %d clients, which is the limit: %w", maxSessions, syscall.EUSERS)
	}
	if sess.imported {
		if err := s.imported.take(sess.cred.UID); err != nil {
			return err
		}
	}
	s.sessions[sess] = struct{}{}
	s.counts.requests[wire.OpHello].Add(1)
	if s.power != nil {
		sess.issuer = s.power.Issuer()
	}
	return nil
}

const maxSessions = 1024

var errShutdown = fmt.Errorf("the server is shutting down: %w", syscall.ECONNREFUSED)

func (s *Server) forget(sess *Session) {
	s.mu.Lock()
	delete(s.sessions, sess)
	if sess.imported {
		s.imported.give(sess.cred.UID)
	}
	s.mu.Unlock()
	s.tellWatcher()
}

// Info is what Info is answered with, as JSON.
type Info struct {
	PID    int           `json:"pid"`
	UUID   string        `json:"uuid"`
	Label  string        `json:"label"`
	Medium medium.Report `json:"medium"`
	Commit CommitPolicy  `json:"commit"`
}

// Info says what the server serves.
func (s *Server) Info() Info {
	st := s.fs.Statfs()
	return Info{PID: os.Getpid(), UUID: st.UUID, Label: st.Label, Medium: s.report, Commit: s.opts.Commit}
}

// Pool gives an embedding program the means to map the data area.
func (s *Server) Pool() Pool { return s.pool }

// breaker lets core take grants back without knowing of clients.
type breaker struct{ grants *grant.Table }

func (b breaker) Break(ino layout.Ino, what core.Taking, runs ...alloc.Run) error {
	list := make([]grant.Run, len(runs))
	for i, r := range runs {
		list[i] = grant.Run(r)
	}
	switch what {
	case core.TakeZeros:
		return b.grants.BreakZero(uint64(ino), list...)
	case core.TakeWrites:
		return b.grants.Break(uint64(ino), grant.Read, list...)
	}
	return b.grants.Break(uint64(ino), grant.None, list...)
}

func (b breaker) Sealed(ino layout.Ino, first, count int64) error {
	return b.grants.Sealed(uint64(ino), first, count)
}

func (b breaker) Stored(ino layout.Ino, first, count int64, fn func(first, count int64)) {
	b.grants.Writable(uint64(ino), first, count, fn)
}

// MapMask returns the flags of Map that the session supports.
func (s *Session) MapMask() uint32 {
	if _, _, align := s.srv.pool.ClientMapping(); align > blockSize {
		return 0 // runs of single blocks cannot be mapped there
	}
	mask := uint32(wire.MapShared | wire.MapPopulate | wire.MapReadOnly)
	if s.srv.granularity() > medium.CacheLine {
		return mask // a page cache is no persistence domain: no store is durable before a system call
	}
	mask |= wire.MapDirect | wire.MapUnchecked
	if s.taker.resolvesFaults() {
		mask |= wire.MapSync
	}
	return mask
}
