package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pmemfs/pmemfs/internal/report"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// row is one with quartiles a tenth above and below its median.
func row(what, peer, unit string, median, limit float64) report.Row {
	r := report.NewRow(what, peer, unit, []float64{median * 0.9, median, median * 1.1})
	if limit != 0 {
		r.Compare(limit)
	}
	r.Durable = true
	return r
}

func curve(what, peer string, x, median float64) report.Row {
	r := row(what, peer, "ns", median, 100)
	r.X, r.XUnit = x, "B"
	return r
}

// samples are parts with everything that a part can have.
func samples() []report.Part {
	volatile := row("create", "tmpfs", "ns", 8000, 0)
	volatile.Durable = false
	noted := row("create", "pmemfs", "ns", 2000, 500)
	noted.Note = "in this process"
	return []report.Part{
		{Title: "Operations", Rows: []report.Row{
			noted, volatile, row("stat", "pmemfs", "ns", 300, 100),
			row("put", "pmemfs", "1/s", 145_000, 290_000),
			row("frames", "pmemfs", "B", 1536, 0),
		}},
		{Title: "One thing", Rows: []report.Row{row("update", "raw", "ns", 160, 160), row("update", "Sync", "ns", 168, 160)}},
		{Title: "Sizes", Rows: []report.Row{
			curve("copy", "pmem", 64, 100), curve("copy", "libpmem", 64, 160),
			curve("copy", "pmem", 2<<20, 53_000), curve("copy", "libpmem", 2<<20, 53_000),
		}},
	}
}

func TestTables(t *testing.T) {
	var text strings.Builder
	for _, p := range samples() {
		for _, table := range tables(&p) {
			text.WriteString(markdown(table) + "\n")
		}
	}
	golden := filepath.Join("testdata", "tables.golden.md")
	if *update {
		if err := os.WriteFile(golden, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text.String()); diff != "" {
		t.Error(diff)
	}
}

func TestDrawings(t *testing.T) {
	var titles []string
	for _, p := range samples() {
		all, err := drawings(&p)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			titles = append(titles, d.title)
			var svg bytes.Buffer
			if err := d.write(&svg); err != nil {
				t.Error(err)
			}
			for parser := xml.NewDecoder(bytes.NewReader(svg.Bytes())); ; {
				if _, err := parser.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%s: %v", d.title, err)
				}
			}
			for _, r := range p.Rows {
				if r.Unit == "ns" && strings.HasSuffix(d.title, "time") && !bytes.Contains(svg.Bytes(), []byte(">"+r.What)) &&
					!bytes.Contains(svg.Bytes(), []byte(r.What+"<")) {
					t.Errorf("%s: there is no %q", d.title, r.What)
				}
			}
		}
	}
	want := []string{
		"Operations: time", "Operations: per second", "Operations: bytes", "One thing: time", "Sizes: curves",
	}
	if diff := cmp.Diff(want, titles); diff != "" {
		t.Error(diff)
	}
}

func TestTargets(t *testing.T) {
	for _, c := range []struct {
		name   string
		target target
		want   []string
	}{
		{"met", target{section: "s", text: "t", peer: "pmem", against: "libpmem", most: 1.05},
			[]string{"[t](#s)", "pmem to libpmem", "≤ 1.05", "1.00 (copy, 2 MiB)", "met"}},
		{"missed", target{section: "s", text: "t", what: []string{"update"}, peer: "Sync", against: "raw", most: 1.01},
			[]string{"[t](#s)", "Sync to raw", "≤ 1.01", "1.05", "missed"}},
		{"there are no such rows", target{section: "s", text: "t", what: []string{"mkdir"}, peer: "pmemfs", against: "tmpfs", most: 0.25},
			[]string{"[t](#s)", "pmemfs to tmpfs", "≤ 0.25", "-", "not measured"}},
		{"a quarter", target{section: "s", text: "t", what: []string{"create"}, peer: "pmemfs", against: "tmpfs", most: 0.25},
			[]string{"[t](#s)", "pmemfs to tmpfs", "≤ 0.25", "0.25", "met"}},
	} {
		if diff := cmp.Diff(c.want, c.target.judge(samples()).cells()); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

// TestMoreIsBetter: of what is counted per second, twice as much is half the cost.
func TestMoreIsBetter(t *testing.T) {
	parts := []report.Part{{Rows: []report.Row{row("put", "pmemfs", "1/s", 200, 0), row("put", "ext4", "1/s", 100, 0)}}}
	if v := (target{peer: "pmemfs", against: "ext4", most: 0.5}).judge(parts); !v.met() || v.ratio != 0.5 {
		t.Errorf("%+v", v)
	}
}

// TestPage: figures that were measured before make a whole page; a section without any says so.
func TestPage(t *testing.T) {
	p := page{dir: t.TempDir()}
	if err := os.Mkdir(p.path(""), 0o755); err != nil {
		t.Fatal(err)
	}
	text, err := encode(samples()...)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.path("guest.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"--only", "none", "--out", p.dir}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(p.dir, pageName))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## Targets", "### Sizes", "(performance/guest.svg)", "(performance/guest-5.svg)", "**There are no figures**"} {
		if !bytes.Contains(got, []byte(want)) {
			t.Errorf("there is no %q in the page", want)
		}
	}
	if _, err := os.Stat(p.path("guest-5.svg")); err != nil {
		t.Error(err)
	}
	if err := run(t.Context(), []string{"--only", "none,", "--out", p.dir}); err == nil {
		t.Error("a section without a name was accepted")
	}
}
