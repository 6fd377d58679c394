package medium

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRequireTable goes through every requested granularity and every domain there is.
func TestRequireTable(t *testing.T) {
	satisfied := map[Granularity][domains]bool{
		//              cpu-cache, memory-controller, page-cache, volatile
		AnyGranularity: {true, true, true, true},
		Byte:           {true, false, false, false},
		CacheLine:      {true, true, false, true},
		Page:           {true, true, true, true},
	}
	for g := AnyGranularity; g <= Page; g++ {
		for d := Domain(0); d < domains; d++ {
			err := satisfy(g, d)
			if (err == nil) != satisfied[g][d] {
				t.Errorf("%v required in domain %v: %v", g, d, err)
			}
			if err == nil {
				continue
			}
			if !errors.Is(err, ErrGranularity) || !errors.Is(err, unix.EOPNOTSUPP) {
				t.Errorf("%v required in domain %v: %v is neither ErrGranularity nor EOPNOTSUPP", g, d, err)
			}
			for _, part := range []string{g.String() + " granularity is required", d.Granularity().String() + " is there", d.String(), " needs "} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v required in domain %v: %q does not say %q", g, d, err, part)
				}
			}
		}
	}
	if satisfy(Page+1, DomainCPUCache) == nil || satisfy(AnyGranularity, domains) == nil {
		t.Error("what is not in the table is satisfied")
	}
}

func TestGranularityNames(t *testing.T) {
	for g := AnyGranularity; g <= Page; g++ {
		if got, err := ParseGranularity(g.String()); got != g || err != nil {
			t.Errorf("ParseGranularity(%q) = %v, %v", g, got, err)
		}
	}
	for _, s := range []string{"", "cacheline", "BYTE", "granularity(7)"} {
		if g, err := ParseGranularity(s); err == nil {
			t.Errorf("ParseGranularity(%q) = %v", s, g)
		}
	}
	text, err := json.Marshal(Report{Domain: DomainMemoryController, Granularity: CacheLine})
	if err != nil || !strings.Contains(string(text), `"domain":"memory-controller","granularity":"cache-line"`) {
		t.Errorf("JSON of a report: %s, %v", text, err)
	}
}
