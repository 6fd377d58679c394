package server

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/wire"
)

func TestCommitPolicyText(t *testing.T) {
	for text, want := range map[string]CommitPolicy{
		"default": {}, "op": CommitOp, "interval=1s": CommitEvery(time.Second), "interval=10s": CommitEvery(10 * time.Second),
		"interval=200ms": CommitEvery(200 * time.Millisecond), "interval=1h": CommitEvery(time.Hour),
		"interval=10m": CommitEvery(10 * time.Minute), "interval=1m30s": CommitEvery(90 * time.Second),
	} {
		var got CommitPolicy
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want || want.String() != text {
			t.Errorf("%q is %v (%v), and %v is %q", text, got, err, want, want.String())
		}
	}
	var got CommitPolicy
	if err := got.UnmarshalText([]byte("interval")); err != nil || got != CommitEvery(time.Second) {
		t.Error(got, err)
	}
	for _, text := range []string{"", "ops", "op=1s", "interval=", "interval=0s", "interval=1us", "interval=2h", "interval=-1s", "interval=x"} {
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestDefaultCommitPolicy(t *testing.T) {
	var p CommitPolicy
	if p.on(medium.Byte) != CommitOp || p.on(medium.CacheLine) != CommitOp || p.on(medium.Page) != CommitEvery(time.Second) {
		t.Error("the defaults of media")
	}
	if CommitOp.on(medium.Page) != CommitOp || CommitEvery(time.Minute).on(medium.Byte) != CommitEvery(time.Minute) {
		t.Error("what was asked for counts")
	}
}

// TestAwaitsMedium: requests that keep others waiting, if they are served before them, are those that take a disk's system call.
func TestAwaitsMedium(t *testing.T) {
	open := func(flags uint32) *wire.Request { return &wire.Request{Op: wire.OpOpen, Flags: flags} }
	mkdir, sync := &wire.Request{Op: wire.OpMkdir}, &wire.Request{Op: wire.OpSync}
	for _, c := range []struct {
		q              *wire.Request
		op, atInterval bool // on a disk, with each policy; in memory nothing waits
	}{
		{q: &wire.Request{Op: wire.OpStat}},
		{q: open(unix.O_RDWR)},
		{q: mkdir, op: true},
		{q: open(unix.O_RDWR | unix.O_CREAT), op: true},
		{q: open(unix.O_RDWR | unix.O_CREAT | unix.O_SYNC), op: true, atInterval: true},
		{q: sync, op: true, atInterval: true},
		{q: &wire.Request{Op: wire.OpMapSync}, op: true, atInterval: true},
	} {
		awaits := func(g medium.Granularity, p CommitPolicy) bool {
			s := &Session{srv: &Server{opts: Options{Commit: p}}, handles: newTable[*handle]("handle", 1, "")}
			s.srv.report.Granularity = g
			return s.awaitsMedium(c.q)
		}
		interval := CommitEvery(time.Second)
		if awaits(medium.CacheLine, CommitOp) || awaits(medium.CacheLine, interval) {
			t.Errorf("%+v waits for memory", c.q)
		}
		if got := awaits(medium.Page, CommitOp); got != c.op {
			t.Errorf("%+v waits for a disk under op: %v", c.q, got)
		}
		if got := awaits(medium.Page, interval); got != c.atInterval {
			t.Errorf("%+v waits for a disk at intervals: %v", c.q, got)
		}
	}
}
