package report

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNanoseconds(t *testing.T) {
	for ns, want := range map[float64]string{
		0: "0 ns", 21.4: "21 ns", 999.4: "999 ns", 999.6: "1.00 µs", 1234: "1.23 µs", 9994: "9.99 µs", 9996: "10.0 µs",
		99.94e3: "99.9 µs", 99.96e3: "100 µs", 999.6e3: "1.00 ms", 56.7e6: "56.7 ms", 3e9: "3.00 s", 6e10: "60.0 s",
	} {
		if got := Nanoseconds(ns); got != want {
			t.Errorf("%v: %q, want %q", ns, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	tab := &Table{
		Head: []string{"mapping", "p50"}, Rows: [][]string{{"Sync|Populate", "171 ns"}, {"raw", "1 µs"}},
		Notes: []string{"Direct: none"},
	}
	var text, page bytes.Buffer
	tab.Text(&text)
	tab.Markdown(&page)
	wantText := "  mapping           p50\n  Sync|Populate  171 ns\n  raw              1 µs\n  Direct: none\n"
	wantPage := "| mapping | p50 |\n|---|--:|\n| Sync\\|Populate | 171 ns |\n| raw | 1 µs |\n\nDirect: none\n"
	if diff := cmp.Diff(wantText, text.String()) + cmp.Diff(wantPage, page.String()); diff != "" {
		t.Error(diff)
	}
}
