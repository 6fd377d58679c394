package core

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

var rewrite = flag.Bool("update", false, "rewrite golden files")

// TestCosts compares what every operation costs with testdata/costs.golden.
// Run with -update to rewrite it; the change then shows in review.
//
// It also holds the rules that do not depend on the file: a metadata operation
// costs one fence, data written in place its lines and one fence.
func TestCosts(t *testing.T) {
	var out strings.Builder
	out.WriteString("# What each operation asks of the medium, meta and data area together: cache lines\n" +
		"# flushed, lines streamed, fences. Rewritten by go test ./internal/core -run TestCosts -update\n")
	fmt.Fprintf(&out, "%-34s %8s %9s %7s\n", "operation", "flushed", "streamed", "fences")
	for _, op := range operations() {
		m, d := newAreas(t, 32<<20)
		meta, data := medium.Counting(m), medium.Counting(d)
		o := prepare(t, meta, data)
		meta.Reset()
		data.Reset()
		if err := op.run(o); err != nil {
			t.Errorf("%s: %v", op.name, err)
			continue
		}
		cm, cd := meta.Counts(), data.Counts()
		checkCosts(t, op, cm, cd)
		fmt.Fprintf(&out, "%-34s %8d %9d %7d\n", op.name, cm.FlushedLines+cd.FlushedLines, cm.StreamedLines+cd.StreamedLines, cm.Fences+cd.Fences)
	}
	const golden = "testdata/costs.golden"
	if *rewrite {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("costs changed (-golden +now); if that is meant, run with -update:\n%s", diff)
	}
}

func checkCosts(t *testing.T, op operation, meta, data medium.Counts) {
	t.Helper()
	none := medium.Counts{}
	switch op.kind {
	case metadata:
		if meta.Fences != 1 || meta.FlushedLines != 0 || data != none {
			t.Errorf("%s: a metadata operation cost %+v on meta, %+v on data; want one fence", op.name, meta, data)
		}
	case newData, mixed:
		if meta.Fences != 1 || data.Fences != 1 {
			t.Errorf("%s: cost %+v on meta, %+v on data; want one fence each", op.name, meta, data)
		}
	case inPlace:
		if want := (medium.Counts{StreamedLines: op.lines, Fences: 1}); meta != none || data != want {
			t.Errorf("%s: cost %+v on meta, %+v on data; want %+v on data", op.name, meta, data, want)
		}
	case nothing:
		if meta != none || data != none {
			t.Errorf("%s: cost %+v on meta, %+v on data", op.name, meta, data)
		}
	}
}

// TestAllocations: operations make no garbage but the inodes that nobody has open.
func TestAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has memory that is used again dropped at random")
	}
	fs := newFS(t, 256<<20)
	n := create(t, fs, layout.RootIno, "f")
	defer n.Close()
	size := int64(64 << 20)
	must[Attr](t)(n.SetAttr(root, SetAttr{Size: &size}))
	p, names := make([]byte, page), [2]string{"f", "g"}
	block, renames := int64(0), 0
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		most float64
		op   func()
	}{
		{"write in place", 0, func() { must[int](t)(n.WriteAt(p, 0)) }},
		{"append", 0, func() { _, _, err := n.Append(p); check(err) }},
		{"fault", 0, func() {
			block++
			check(n.Fault(block, true, true, 512, 1, func(Run) error { return nil }))
		}},
		{"rename", 1, func() {
			check(fs.Rename(root, layout.RootIno, names[renames%2], layout.RootIno, names[(renames+1)%2], 0))
			renames++
		}},
		{"create and unlink", 2, func() {
			must[Attr](t)(fs.Create(root, layout.RootIno, "new", layout.ModeRegular|0o600, 0))
			check(fs.Unlink(root, layout.RootIno, "new"))
		}},
	} {
		if got := testing.AllocsPerRun(100, c.op); got > c.most {
			t.Errorf("%s: %v allocations, want at most %v", c.name, got, c.most)
		}
	}
}
