package bench

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// pretending is a contestant whose operations say that they have taken so long, and that knows of how many it was asked.
func pretending(least, most int, each time.Duration) (*contestant, *[]int) {
	asked := &[]int{}
	f := &figure{what: "nothing", peer: "nobody"}
	turn := func(n int) error {
		*asked = append(*asked, n)
		f.took += each * time.Duration(n)
		return nil
	}
	return newContestant(least, most, turn, f), asked
}

func TestCalibrate(t *testing.T) {
	for _, c := range []struct {
		least, most int
		each        time.Duration
		want        int
	}{
		{16, 1 << 30, 100 * time.Nanosecond, 100_000}, // as many as the time is for
		{16, 1000, 100 * time.Nanosecond, 1000},       // never more
		{16, 1 << 30, time.Second, 16},                // and never fewer
		{500, 100, time.Microsecond, 100},
	} {
		got, asked := pretending(c.least, c.most, c.each)
		if err := got.calibrate(10 * time.Millisecond); err != nil || got.n != c.want {
			t.Errorf("%+v: %d operations, %v", c, got.n, err)
		}
		for _, n := range *asked {
			if n > c.most || n < min(c.least, c.most) {
				t.Errorf("%+v: asked for %d operations", c, n)
			}
		}
	}
}

// TestTurns: all take theirs in each round, in an order of its own.
func TestTurns(t *testing.T) {
	var order strings.Builder
	var all []*contestant
	for _, name := range []string{"a", "b", "c"} {
		f := &figure{what: "nothing", peer: name}
		all = append(all, newContestant(1, 1, func(n int) error { order.WriteString(name); f.took += time.Second; return nil }, f))
	}
	const rounds = 12
	o := &CompareOptions{Rounds: rounds, Time: time.Second}
	if err := compare(context.Background(), o, "turns", all); err != nil {
		t.Fatal(err)
	}
	orders := map[string]bool{}
	for i := range rounds + 1 { // calibrated first
		round := []byte(order.String()[3*i:][:3])
		orders[string(round)] = true
		if slices.Sort(round); string(round) != "abc" {
			t.Errorf("turns in the order %s: in round %d not everybody has one", &order, i)
		}
	}
	if len(orders) < 3 || order.Len() != 3*(rounds+1) {
		t.Errorf("turns in the order %s", &order)
	}
	for _, c := range all {
		if got := c.figures[0].ns; len(got) != rounds || got[0] != 1e9 {
			t.Errorf("figures %v", got)
		}
	}
}

func TestTurnsEnd(t *testing.T) {
	failed := errors.New("failed")
	bad := newContestant(1, 1, func(int) error { return failed }, &figure{})
	o := &CompareOptions{Rounds: 1, Time: time.Second}
	if err := compare(context.Background(), o, "turns", []*contestant{bad}); err != failed {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopping := newContestant(1, 1, func(int) error { cancel(); return nil }, &figure{})
	if err := compare(ctx, o, "turns", []*contestant{stopping, bad}); err != context.Canceled {
		t.Error(err)
	}
}

// TestRows: those that do the same stand together, and are compared with what the machine takes for it.
func TestRows(t *testing.T) {
	figures := func(peer string, a, b float64) *contestant {
		return newContestant(1, 1, nil, &figure{what: "a", peer: peer, ns: []float64{a}}, &figure{what: "b", peer: peer, ns: []float64{b}})
	}
	got := map[string]float64{}
	var order []string
	for _, r := range rows([]*contestant{figures("pmemfs", 30, 80), figures(raw, 10, 20)}) {
		got[r.What+r.Peer] = r.Ratio
		order = append(order, r.What+r.Peer)
	}
	want := map[string]float64{"apmemfs": 3, "araw": 1, "bpmemfs": 4, "braw": 1}
	if diff := cmp.Diff(want, got) + cmp.Diff([]string{"apmemfs", "araw", "bpmemfs", "braw"}, order); diff != "" {
		t.Error(diff)
	}
}

func TestFileSystem(t *testing.T) {
	for dir, want := range map[string]string{"/dev/shm": "tmpfs", "/proc": "proc"} {
		if m, err := fileSystem(dir); err != nil || m.name != want {
			t.Errorf("%s: %+v, %v", dir, m, err)
		}
	}
	if _, err := fileSystem("/missing"); err == nil {
		t.Error("/missing has a file system")
	}
}
