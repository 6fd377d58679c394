package server

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// CommitPolicy says when what operations do becomes durable: before they return ("op"), or later, together with what others
// do ("interval"). The zero value is the medium's default: op where a store is durable after a fence, interval=1s where
// that takes a system call. Its text form is "op", "interval" (of a second) or "interval=200ms".
type CommitPolicy struct {
	kind     policyKind
	interval time.Duration // of policyInterval, more than 0
}

type policyKind uint8

const (
	policyDefault policyKind = iota
	policyOp
	policyInterval
)

// CommitOp has every operation durable when it returns. Operations that need it at the same time share the cost.
var CommitOp = CommitPolicy{kind: policyOp}

const defaultInterval = time.Second

// CommitEvery has operations return when others can see what they did. It is durable after File.Sync or Mapping.Sync, or when
// the interval, more than 0, is over; after a crash all operations up to some instant have happened.
func CommitEvery(interval time.Duration) CommitPolicy {
	return CommitPolicy{kind: policyInterval, interval: interval}
}

// String returns the text form, "default" for the zero value.
func (p CommitPolicy) String() string {
	switch p.kind {
	case policyOp:
		return "op"
	case policyInterval:
		text := p.interval.String() // of an hour: 1h0m0s
		for _, zeros := range []string{"m0s", "h0m"} {
			if strings.HasSuffix(text, zeros) {
				text = text[:len(text)-2]
			}
		}
		return "interval=" + text
	}
	return "default"
}

// MarshalText makes the text form the JSON form.
func (p CommitPolicy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is the inverse of String.
func (p *CommitPolicy) UnmarshalText(text []byte) error {
	name, value, hasValue := strings.Cut(string(text), "=")
	switch {
	case name == "default" && !hasValue:
		*p = CommitPolicy{}
	case name == "op" && !hasValue:
		*p = CommitOp
	case name == "interval" && !hasValue:
		*p = CommitEvery(defaultInterval)
	case name == "interval":
		d, err := time.ParseDuration(value)
		if err != nil || d < time.Millisecond || d > time.Hour {
			return fmt.Errorf("commit interval %q: it must be 1ms to 1h", value)
		}
		*p = CommitEvery(d)
	default:
		return fmt.Errorf("commit policy %q: it must be op, interval or interval=DURATION", text)
	}
	return nil
}

// on is the policy for a medium.
func (p CommitPolicy) on(g medium.Granularity) CommitPolicy {
	switch {
	case p.kind != policyDefault:
		return p
	case g > medium.CacheLine:
		return CommitEvery(defaultInterval)
	}
	return CommitOp
}

// stages says whether operations are staged, so that their commits combine: on byte-addressable media a commit of one's own
// costs a fence, which is less than to wait for others.
func (s *Server) stages() bool {
	return s.opts.Commit.kind == policyInterval || s.granularity() > medium.CacheLine
}

// settle makes what a request has done durable, if it must be before the reply.
func (s *Session) settle(q *wire.Request) error {
	if s.settles(q) {
		return s.srv.fs.Commit()
	}
	return nil
}

func (s *Session) settles(q *wire.Request) bool {
	return s.srv.stages() && changes(q) && (s.srv.opts.Commit.kind != policyInterval || s.wantsSync(q))
}

// awaitsMedium says whether a request takes a system call of the medium's, which may last as long as a disk.
func (s *Session) awaitsMedium(q *wire.Request) bool {
	return s.srv.granularity() > medium.CacheLine && (q.Op == wire.OpSync || q.Op == wire.OpMapSync || s.settles(q))
}

// changes says whether a request may have changed anything that is to be durable.
func changes(q *wire.Request) bool {
	return ops[q.Op].changes || q.Op == wire.OpOpen && (makes(q) || q.Flags&unix.O_TRUNC != 0)
}

// wantsSync says whether a request is made by a handle, or makes one, that was opened with O_SYNC or O_DSYNC.
func (s *Session) wantsSync(q *wire.Request) bool {
	if q.Op == wire.OpOpen {
		return q.Flags&unix.O_SYNC != 0
	}
	h, err := s.handles.get(q.Handle)
	return err == nil && (h.flags&unix.O_SYNC != 0 || q.Op == wire.OpWrite && q.Flags&unix.O_SYNC != 0)
}

// startCommitter has what operations stage committed at intervals, until stopCommitter, which may be called again.
func (s *Server) startCommitter() {
	stopped := make(chan struct{})
	var running sync.WaitGroup
	s.stopCommitter = sync.OnceFunc(func() {
		close(stopped)
		running.Wait()
	})
	if s.opts.Commit.kind == policyInterval && !s.opts.ReadOnly {
		running.Go(func() { s.commitAtIntervals(stopped) })
	}
}

// commitAtIntervals commits what operations have staged, until the server is closed. An error sticks to the journal: whoever
// does something next is told.
func (s *Server) commitAtIntervals(stopped <-chan struct{}) {
	ticker := time.NewTicker(s.opts.Commit.interval)
	defer ticker.Stop()
	for {
		select {
		case <-stopped:
			return
		case <-ticker.C:
		}
		if err := s.fs.Commit(); err != nil {
			if !s.off.Load() {
				s.logf("commit: %v", err)
			}
			return
		}
	}
}
