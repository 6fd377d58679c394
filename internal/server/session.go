package server

import (
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/grant"
	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/session"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// maxPins is how many pins a mapping may have: far beyond what a program needs.
const maxPins = 1 << 12

// Session is a client: what it may do, has open and has mapped.
type Session struct {
	srv        *Server
	pid        int // for people
	cred       core.Cred
	readOnly   bool
	handles    *table[*handle]
	mappings   *table[*mapping]
	taker      taker
	references references
	imported   bool // the client has come with an open file, and may use nothing beyond it; immutable
	closing    sync.Once

	conn   atomic.Pointer[net.UnixConn] // nil: local, or adopted and not resumed
	faults sync.WaitGroup               // of the page that is served, of a remote session
	heir   *heir                        // of the session of an earlier server; nil: it began here; immutable

	issuer *medium.Issuer // of the client's flushes; nil unless power cuts are emulated; immutable once admitted
	cutter atomic.Bool    // the client has cut the power
}

// taker is the client as the grant table sees it, and what ends with the session.
type taker interface {
	grant.Client
	// resolvesFaults says whether page faults of the client reach the server.
	resolvesFaults() bool
	// ended says whether the process is gone, so that its number may be another's.
	ended() bool
	close() error
}

func newSession(srv *Server, pid int, cred core.Cred, readOnly bool) *Session {
	return &Session{
		srv: srv, pid: pid, cred: cred, readOnly: readOnly || srv.readOnly(),
		handles:  newTable[*handle]("handle", srv.opts.Limits.Handles, "pmemfs serve --max-handles"),
		mappings: newTable[*mapping]("mapping", srv.opts.Limits.Mappings, "pmemfs serve --max-mappings"),
	}
}

// op is the server's side of a request. It returns a reply (nil: an empty one) or an error, not both.
type op struct {
	do      func(*Session, *wire.Request) (*wire.Reply, error)
	changes bool // refused with EROFS in a read-only session
	beyond  bool // reaches beyond open files: refused with EACCES in a session that came with an imported one
	at      bool // can be relative to an inode
}

// ops has an entry for every operation but Hello, which makes the session.
var ops = [wire.OpEnd]op{
	wire.OpInfo:   {do: (*Session).info},
	wire.OpStatfs: {do: (*Session).statfs},

	wire.OpOpen:    {do: (*Session).open, beyond: true, at: true}, // looks at the flags itself
	wire.OpClose:   {do: (*Session).close},
	wire.OpRead:    {do: (*Session).read},
	wire.OpWrite:   {do: (*Session).write, changes: true},
	wire.OpStat:    {do: (*Session).stat},
	wire.OpList:    {do: (*Session).list},
	wire.OpSync:    {do: (*Session).sync},
	wire.OpAlloc:   {do: (*Session).allocate, changes: true},
	wire.OpSeek:    {do: (*Session).seek},
	wire.OpExtent:  {do: (*Session).extents},
	wire.OpMove:    {do: (*Session).relocate, changes: true},
	wire.OpSetAttr: {do: (*Session).setAttr, changes: true, at: true},

	wire.OpLookup:   {do: (*Session).lookup, beyond: true, at: true},
	wire.OpMkdir:    {do: (*Session).mkdir, beyond: true, changes: true},
	wire.OpRemove:   {do: (*Session).remove, beyond: true, changes: true, at: true},
	wire.OpRename:   {do: (*Session).rename, beyond: true, changes: true, at: true},
	wire.OpLink:     {do: (*Session).link, beyond: true, changes: true, at: true},
	wire.OpSymlink:  {do: (*Session).symlink, beyond: true, changes: true, at: true},
	wire.OpReadlink: {do: (*Session).readlink, beyond: true, at: true},

	wire.OpGetXattr:    {do: (*Session).getXattr, beyond: true, at: true},
	wire.OpSetXattr:    {do: (*Session).setXattr, beyond: true, changes: true, at: true},
	wire.OpListXattr:   {do: (*Session).listXattr, beyond: true, at: true},
	wire.OpRemoveXattr: {do: (*Session).removeXattr, beyond: true, changes: true, at: true},

	wire.OpFill:        {do: (*Session).fill, changes: true},
	wire.OpAllowDirect: {do: (*Session).allowDirect},
	wire.OpSetStatic:   {do: (*Session).setStatic, changes: true},
	wire.OpStats:       {do: (*Session).stats},

	wire.OpMap:     {do: (*Session).mapFile},
	wire.OpUnmap:   {do: (*Session).unmap},
	wire.OpPin:     {do: (*Session).pin},
	wire.OpUnpin:   {do: (*Session).unpin},
	wire.OpMapSync: {do: (*Session).mapSync},
	wire.OpAdvise:  {do: (*Session).advise},
	wire.OpVerify:  {do: (*Session).verify},

	wire.OpMapClone: {do: (*Session).mapClone, changes: true},
	wire.OpPublish:  {do: (*Session).publish, changes: true},
	wire.OpDiscard:  {do: (*Session).discard, changes: true},

	wire.OpSnapshot:        {do: (*Session).snapshot, beyond: true, changes: true},
	wire.OpSnapshots:       {do: (*Session).snapshots, beyond: true},
	wire.OpSnapshotDiff:    {do: (*Session).snapshotDiff, beyond: true},
	wire.OpSnapshotRestore: {do: (*Session).snapshotRestore, beyond: true, changes: true},
	wire.OpSnapshotRemove:  {do: (*Session).snapshotRemove, beyond: true, changes: true},

	wire.OpFlush:    {do: (*Session).flush},
	wire.OpPowerCut: {do: (*Session).powerCut, beyond: true, changes: true},

	wire.OpClone:      {do: (*Session).clone, beyond: true, changes: true},
	wire.OpCloneRange: {do: (*Session).cloneRange, changes: true},
	wire.OpCopyRange:  {do: (*Session).copyRange, changes: true},

	wire.OpDefrag:     {do: (*Session).defrag, changes: true},
	wire.OpDefragLook: {do: (*Session).defrag},

	wire.OpMknod:  {do: (*Session).mknod, beyond: true, changes: true, at: true},
	wire.OpForget: {do: (*Session).forget, beyond: true, at: true},
}

// done is the reply to what has nothing to tell.
var done wire.Reply

// Do serves a request. It may be called by several goroutines at once. The reply has no ID, and may be others' as well: it is
// not to be changed.
func (s *Session) Do(q *wire.Request) (r *wire.Reply) {
	defer func() {
		if v := recover(); v != nil {
			s.srv.logf("operation %d of process %d panicked: %v\n%s", q.Op, s.pid, v, debug.Stack())
			r = errorReply(fmt.Errorf("the server failed inside: %w", unix.EIO))
		}
	}()
	if q.Closed != 0 {
		s.srv.counts.requests[wire.OpClose].Add(1)
		s.srv.fs.Guard(func() error { return s.closeHandle(q.Closed) }) // an error: there is no such handle
	}
	r, err := s.dispatch(q)
	if err != nil {
		return errorReply(err)
	}
	if r == nil {
		r = &done
	}
	return r
}

func (s *Session) dispatch(q *wire.Request) (r *wire.Reply, err error) {
	if q.Op >= wire.OpEnd || ops[q.Op].do == nil {
		return nil, fmt.Errorf("operation %d: %w", q.Op, unix.ENOSYS)
	}
	s.srv.counts.requests[q.Op].Add(1)
	beyond := ops[q.Op].beyond || q.Op == wire.OpSetAttr && q.Handle == 0
	switch {
	case beyond && s.imported:
		return nil, fmt.Errorf("this connection came with an imported file and serves nothing beyond it, names least of all: %w", unix.EACCES)
	case ops[q.Op].changes && s.readOnly:
		return nil, unix.EROFS
	case (q.Inode != 0 || q.Inode2 != 0) && (!ops[q.Op].at || q.Inode == 0):
		return nil, invalid("operation %d relative to inodes %d and %d", q.Op, q.Inode, q.Inode2)
	}
	if q.Inode != 0 {
		if err := s.mayAddress(); err != nil {
			return nil, err
		}
	}
	err = s.srv.fs.Guard(func() (err error) {
		if r, err = ops[q.Op].do(s, q); err == nil {
			err = s.settle(q)
		}
		return err
	})
	return r, err
}

// remote is the other process; nil for the local session.
func (s *Session) remote() *remote {
	r, _ := s.taker.(*remote)
	return r
}

// record is where the session is recorded for the next server; nil: nowhere.
func (s *Session) record() *session.File {
	if r := s.remote(); r != nil {
		return r.record
	}
	return nil
}

// hangUp ends the connection, if there is one.
func (s *Session) hangUp() {
	if c := s.conn.Load(); c != nil {
		c.Close()
	}
}

// closeHandles closes what the client has open. Mappings live on.
func (s *Session) closeHandles() {
	for _, h := range s.handles.drain() {
		h.put()
	}
	s.references.drop()
}

// Close ends the session: the client has unmapped everything, is dead, or is this process. Idempotent.
func (s *Session) Close() {
	s.closing.Do(func() {
		s.closeHandles()
		for _, m := range s.mappings.drain() {
			m.end()
		}
		s.forgotten(s.taker.close())
		if s.issuer != nil {
			s.issuer.Close()
		}
		s.srv.forget(s)
	})
}
