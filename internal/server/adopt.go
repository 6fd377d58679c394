package server

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/progress"
	"github.com/pmemfs/pmemfs/internal/session"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// A client outlives the death of its server by way of the runtime directory: its fault page has a name there, and all
// that it is, has open, mapped and pinned is recorded. The next server takes it over without its help: its threads
// may all be waiting for pages. From then on its faults are served and its grants can be taken back; what exactly it
// was granted is not known, so all of each mapping counts as granted. The connection, which died with the server, is
// made anew by the client when it gets to that: it resumes the session, and says what of it it still has.

// Survivors says what becomes of the clients of an earlier server that has died.
type Survivors uint8

const (
	AdoptSurvivors  Survivors = iota // they are taken over
	AwaitSurvivors                   // they are waited for, as long as Options.Wait, to give everything up
	RefuseSurvivors                  // as long as there is one the pool is not opened
)

var survivorNames = []string{"adopt", "wait", "refuse"}

// String returns "adopt", "wait" or "refuse".
func (s Survivors) String() string { return survivorNames[s] }

// MarshalText makes the names the text form.
func (s Survivors) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (s *Survivors) UnmarshalText(text []byte) error {
	i := slices.Index(survivorNames, string(text))
	if i < 0 {
		return fmt.Errorf("%q is none of %s", text, strings.Join(survivorNames, ", "))
	}
	*s = Survivors(i)
	return nil
}

// leaves says whether a server on a medium leaves its clients to an heir. One that forgets the last of what it did
// does not: a program that has seen it must learn that it is gone. For the same reason it takes nobody over.
func (o *Options) leaves(g medium.Granularity) bool {
	return !o.Alone && !o.ReadOnly && o.PowerCut == nil && o.Commit.on(g).kind == policyOp
}

// runtimeDir opens the directory of the pool's clients. nil: there can be none.
func (s *Server) runtimeDir(identity string) *session.Dir {
	s.runtime.Do(func() {
		var err error
		if s.dir, err = session.Open(s.opts.RuntimeDir, identity); err != nil {
			s.logf("no client will outlive the death of this server: %v", err)
		}
	})
	return s.dir
}

// tidy removes what nobody needs any more of what earlier servers, also of other pools, have left.
func (s *Server) tidy(found []survivor) {
	if d := s.runtimeDir(s.slots.Identity()); d != nil && len(found) == 0 {
		_, failed := d.Restore(nil)
		for _, err := range failed {
			s.logf("what an earlier server has left: %v", err)
		}
	}
	session.Sweep(s.opts.RuntimeDir)
}

// makeProgress makes the page that clients find out from what is pending, and a descriptor for them. It outlives the
// server if they do: the same page is the heir's.
func (s *Server) makeProgress() (*progress.Page, *os.File, error) {
	if s.slots == nil || s.dir == nil {
		return progress.Make()
	}
	file, err := s.dir.Progress()
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	page, err := progress.Create(file)
	if err != nil {
		return nil, nil, err
	}
	shared, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	return page, shared, err
}

// newRecord begins the record of a client, and makes the page that goes with it. nil: it will not outlive this
// server; why, if that is not so for all.
func (s *Server) newRecord(p peer, readOnly, imported bool) (*session.File, *fault.Page, error) {
	if s.slots == nil || s.dir == nil {
		return nil, nil, nil
	}
	f, err := s.dir.Create(session.Client{
		PID: p.pid, UID: p.cred.UID, GID: p.cred.GID, Groups: p.cred.Groups, ReadOnly: readOnly, Imported: imported,
	}, s.slots.SlotInUse)
	if err != nil {
		return nil, nil, err
	}
	page, err := fault.NewPageIn(f.PagePath())
	if err != nil {
		return nil, nil, errors.Join(err, f.Remove())
	}
	return f, page, nil
}

// tokenOf is what the client resumes its session by.
func tokenOf(f *session.File) wire.Token {
	return wire.Token{Slot: uint32(f.Slot()), Nonce: f.Client().Nonce}
}

// survivor is a client of an earlier server that this one can take over.
type survivor struct {
	saved  *session.Saved
	remote *remote
}

// findSurvivors returns the clients in live slots that can be taken over. What is left of others that have ended is
// removed.
func (s *Server) findSurvivors(pool, identity string, live []int) (found []survivor) {
	report, err := medium.Examine(pool)
	granularity := report.Granularity
	if s.opts.AssumePersistent {
		granularity = min(granularity, medium.CacheLine)
	}
	if err != nil || !s.opts.leaves(granularity) {
		return nil
	}
	d := s.runtimeDir(identity)
	if d == nil {
		return nil
	}
	all, failed := d.Restore(live)
	for _, err := range failed {
		s.logf("a client of an earlier server cannot be taken over: %v", err)
	}
	for _, saved := range all {
		r, err := s.reach(saved)
		switch {
		case err == nil:
			found = append(found, survivor{saved, r})
			continue
		case errors.Is(err, unix.ESRCH):
			err = saved.Remove()
		default:
			s.logf("process %d, a client of an earlier server, cannot be taken over: %v", saved.Client().PID, err)
			err = saved.Close()
		}
		if err != nil {
			s.logf("%v", err)
		}
	}
	return found
}

// reach gets hold of the process of a session and of its fault page. ESRCH: it has ended.
func (s *Server) reach(saved *session.Saved) (*remote, error) {
	client := saved.Client()
	pidfd, err := client.Process()
	if err != nil {
		return nil, err
	}
	r, err := s.remoteOf(client.PID, pidfd)
	if err != nil {
		return nil, err
	}
	if r.page, err = fault.OpenPage(saved.PagePath()); err != nil {
		return nil, errors.Join(err, r.process.Close())
	}
	r.record = saved.File
	return r, nil
}

// pids says who is in which slot.
func pids(found []survivor) map[int]int {
	m := map[int]int{}
	for _, v := range found {
		m[v.saved.Slot()] = v.remote.pid
	}
	return m
}

// leaveAll gives survivors up, for another server to take over.
func leaveAll(found []survivor) (err error) {
	for _, v := range found {
		err = errors.Join(err, v.remote.leave())
	}
	return err
}

// heir is what a session of an earlier server has beside others.
type heir struct {
	back chan struct{} // closed when the client has resumed the session

	mu   sync.Mutex // held while the client resumes the session, and while its end is dealt with
	over bool       // protected by mu: the client is back, or has ended
}

// adopt makes a session of a survivor. When it fails nothing has been changed that the next server would miss.
func (s *Server) adopt(v survivor) error {
	c := v.saved.Client()
	sess := newSession(s, c.PID, core.Cred{UID: c.UID, GID: c.GID, Groups: c.Groups}, c.ReadOnly)
	sess.taker, sess.heir = v.remote, &heir{back: make(chan struct{})}
	if v.saved.Dropped > 0 {
		s.logf("process %d: %d records of what it has were torn, and are ignored", c.PID, v.saved.Dropped)
	}
	for _, h := range v.saved.Handles {
		sess.adoptHandle(h)
	}
	for _, m := range v.saved.Mappings {
		if err := sess.adoptMapping(m); err != nil {
			return fmt.Errorf("take over process %d, which maps inode %d: %w", c.PID, m.Ino, err)
		}
	}
	for _, p := range v.saved.Pins {
		m, err := sess.mappings.get(p.Mapping)
		if err != nil {
			return err // package session has made sure that there is one
		}
		m.grants.AdoptPin(p.First, p.Count)
		m.pins.put(p.Number, pinned{p.First, p.Count})
	}
	sess.imported = c.Imported
	return s.admit(sess)
}

// adoptHandle opens what a client had open. What cannot be opened is closed for it, too, which it learns by EBADF.
func (s *Session) adoptHandle(saved session.Handle) {
	h, err := s.reopen(saved.Ino, saved.Generation, saved.Flags)
	if err != nil {
		s.srv.logf("process %d had inode %d open, which is closed now: %v", s.pid, saved.Ino, err)
		s.forgotten(s.record().DropHandle(saved.Number))
		return
	}
	h.direct.Store(saved.Direct)
	s.handles.put(saved.Number, h)
}

// reopen opens an inode, which may have no name any more.
func (s *Session) reopen(ino, generation uint64, flags uint32) (*handle, error) {
	node, err := s.srv.fs.Adopt(layout.Ino(ino), generation)
	if err != nil {
		return nil, err
	}
	return newHandle(node, node.Attr().Mode&unix.S_IFMT, flags), nil
}

// adoptMapping records a mapping, and that all of it is granted.
func (s *Session) adoptMapping(saved session.Mapping) error {
	h, err := s.handles.get(saved.Handle)
	if err == nil && uint64(h.node.Ino()) == saved.Ino {
		h.users.Add(1)
	} else if h, err = s.reopen(saved.Ino, saved.Generation, unix.O_RDWR); err != nil {
		return err
	}
	if saved.Flags&mapPrivate != 0 {
		if err := h.node.Reattach(saved.Flags&mapMerge != 0); err != nil {
			h.put()
			return err
		}
	}
	m := s.newMapping(h, saved.Handle, saved.First, saved.Length, saved.Address, saved.Flags)
	m.grants.Adopt(m.writable(), saved.Flags&wire.MapDirect != 0)
	s.mappings.put(saved.Number, m)
	return nil
}

// attend begins to serve the sessions that were taken over.
func (s *Server) attend() {
	for _, sess := range s.all() {
		if sess.heir != nil {
			s.clients.Go(sess.attend)
		}
	}
}

// attend serves the page faults of a session that was taken over, until its client has ended or is back: then its
// connection sees to all else.
func (s *Session) attend() {
	s.startFaults()
	ended := make(chan struct{})
	go func() {
		s.remote().gone()
		close(ended)
	}()
	late := time.NewTimer(s.srv.opts.Wait)
	defer late.Stop()
	for {
		select {
		case <-s.heir.back:
			return
		case <-late.C:
			s.srv.logf("process %d, a client of an earlier server, has not connected again: its mappings are served until it ends", s.pid)
		case <-ended:
			s.heir.mu.Lock()
			defer s.heir.mu.Unlock()
			if !s.heir.over {
				s.heir.over = true
				s.Close()
				s.faults.Wait()
			}
			return
		}
	}
}

// startFaults serves the page faults of a remote session until its page is closed.
func (s *Session) startFaults() {
	r := s.remote()
	s.faults.Go(func() { s.serveFaults(r) })
}

// resume gives a client of an earlier server its session back: a new connection takes the place of the one that died.
// ESTALE: there is no such session.
func (s *Server) resume(c *net.UnixConn, a Access, q *wire.Request) (*Session, error) {
	p, err := findPeer(c)
	if err != nil {
		return nil, err
	}
	defer unix.Close(p.pidfd)
	if ok, _ := a.allows(p.cred, s.owners...); !ok {
		return nil, refused(p)
	}
	have, err := wire.DecodeResume(q.Data)
	if err != nil {
		return nil, err
	}
	for _, sess := range s.all() {
		if sess.heir != nil && sess.pid == p.pid && sameToken(tokenOf(sess.record()), have.Token) {
			return sess, sess.resume(c, q.ID, have)
		}
	}
	return nil, fmt.Errorf("process %d has no session here: %w", p.pid, unix.ESTALE)
}

func sameToken(a, b wire.Token) bool {
	return a.Slot == b.Slot && subtle.ConstantTimeCompare(a.Nonce[:], b.Nonce[:]) == 1
}

// resume answers the client, after giving up what it does not have any more: what it was about to give up when the
// server died, and what it was given without learning of it.
func (s *Session) resume(c *net.UnixConn, id uint32, have *wire.Resume) error {
	s.heir.mu.Lock()
	defer s.heir.mu.Unlock()
	if s.heir.over {
		return fmt.Errorf("process %d has resumed its session: %w", s.pid, unix.ESTALE)
	}
	s.giveUp(have)
	frame, err := wire.AppendReply(nil, &wire.Reply{ID: id, Hello: s.Hello()})
	if err != nil {
		return err
	}
	s.conn.Store(c)
	if _, err := c.Write(frame); err != nil {
		return err // it can try again
	}
	s.heir.over = true
	close(s.heir.back)
	return nil
}

// giveUp closes, unmaps and unpins what the client has no more.
func (s *Session) giveUp(have *wire.Resume) {
	handles, mappings, pins := set(have.Handles), set(have.Mappings), set(have.Pins)
	for n, m := range s.mappings.all() {
		if !mappings[n] {
			s.endMapping(n)
			continue
		}
		for pin, r := range m.pins.all() {
			if !pins[wire.Pin{Mapping: n, Number: pin}] {
				s.removePin(m, n, pin)
				m.grants.Unpin(r.first, r.count)
			}
		}
	}
	for n := range s.handles.all() {
		if !handles[n] {
			s.closeHandle(n)
		}
	}
}

func set[T comparable](list []T) map[T]bool {
	m := make(map[T]bool, len(list))
	for _, v := range list {
		m[v] = true
	}
	return m
}
