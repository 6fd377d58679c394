package medium

import (
	"errors"
	"strings"
	"testing"
)

// TestAssumePersistent: a disk can be treated as memory; then fences make no system calls, the report says so, and no more than
// that is claimed.
func TestAssumePersistent(t *testing.T) {
	pool := newPool(t, disk(t), 1<<20, 1<<20)
	if _, err := Open(pool, Options{Require: CacheLine}); !errors.Is(err, ErrGranularity) {
		t.Fatal("a disk is said to be memory without being assumed to be:", err)
	}
	p, err := Open(pool, Options{Require: CacheLine, AssumePersistent: true})
	if err != nil {
		t.Fatal(err)
	}
	r := p.Report()
	if !r.Assumed || !r.Emulated || r.Granularity != CacheLine || r.Domain != DomainVolatile || r.Kind != "page-cache" || r.MapSync {
		t.Errorf("%+v", r)
	}
	wantEvidence(t, r, "ALTHOUGH IT IS NOT", "ASSUMED PERSISTENT", "not a loss of power", "persistence domain page-cache")
	for _, a := range []*mapped{p.meta, p.data} {
		a.sync = func() error { return errors.New("fdatasync was called") }
		a.Write(100, []byte("stored"))
		a.Flush(100, 6)
		if err := a.Fence(); err != nil {
			t.Error(err)
		}
	}
	if _, err := Open(pool, Options{Require: Byte, AssumePersistent: true}); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(pool, Options{Require: Byte, AssumePersistent: true}); !errors.Is(err, ErrGranularity) {
		t.Error("more is assumed than is asked for:", err)
	}
	if p, err = Open(pool, Options{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	if r := p.Report(); r.Assumed || r.Granularity != Page || string(p.Data().Bytes()[100:106]) != "stored" {
		t.Errorf("what was assumed has outlived its owner: %+v", r)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAssumePersistentNotNeeded: where stores reach memory nothing is assumed.
func TestAssumePersistentNotNeeded(t *testing.T) {
	p, err := Open(newPool(t, tmpfs(t), 1<<20, 1<<20), Options{AssumePersistent: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r := p.Report()
	if r.Assumed || r.Granularity != CacheLine || r.Kind != "tmpfs" {
		t.Errorf("%+v", r)
	}
	wantEvidence(t, r, "not needed")
}

func wantEvidence(t *testing.T, r Report, texts ...string) {
	t.Helper()
	all := evidenceText(r.Evidence)
	for _, text := range texts {
		if !strings.Contains(all, text) {
			t.Errorf("the evidence does not say %q:\n%s", text, all)
		}
	}
}
