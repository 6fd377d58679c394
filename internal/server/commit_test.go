package server

import (
	"testing"
	"time"

	"github.com/pmemfs/pmemfs/internal/medium"
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
