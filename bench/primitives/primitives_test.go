package primitives

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pmemfs/pmemfs/internal/report"
)

// TestMeasure: each operation is measured of all that can do it, in the least of time.
func TestMeasure(t *testing.T) {
	part, err := Measure(t.Context(), "/dev/shm", 1, time.Microsecond)
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	peers := map[report.Row][]string{}
	for _, r := range part.Rows {
		key := report.Row{What: r.What, X: r.X}
		peers[key] = append(peers[key], r.Peer)
		if r.Median <= 0 || r.Limit <= 0 || r.Durable != (r.Peer != plain) {
			t.Errorf("%+v", r)
		}
	}
	if len(peers) != len(operations()) {
		t.Errorf("%d of %d operations", len(peers), len(operations()))
	}
	for key, list := range peers {
		want := 3
		if strings.HasPrefix(key.What, "copy") {
			want = 4 // and memcpy
		}
		if len(list) != want {
			t.Errorf("%s, %v: %v", key.What, key.X, list)
		}
	}
}
