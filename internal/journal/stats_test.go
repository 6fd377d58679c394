package journal

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// TestStats counts what every way to end a transaction does, from the first to what is left after Close.
func TestStats(t *testing.T) {
	f := newFixture(t)
	area := medium.Counting(f.area)
	j, err := Open(area, f.sb, Options{})
	if err != nil {
		t.Fatal(err)
	}
	start := j.DurableLSN()
	record := uint64(layout.LineSize) // of one word
	want := Stats{SizeBytes: layout.MinLog, HeadLSN: start, DurableLSN: start}
	check := func(when string) {
		t.Helper()
		if diff := cmp.Diff(want, j.Stats()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	check("at first")

	tx := begun(t, j)
	tx.Write(f.node(0), word(1))
	tx.Abort()
	check("aborted")
	if tx, err = begin(j); err != nil {
		t.Fatal(err)
	}
	tx.Write(f.node(0), word(0)) // as it is
	if _, err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	check("nothing changed")

	area.Reset()
	for i := range uint64(3) {
		write(t, j, f.node(0), i+1)
	}
	want.Transactions, want.Commits, want.Combined = 3, 3, 1
	want.HeadLSN += 3 * record
	want.DurableLSN, want.UsedBytes = want.HeadLSN, 3*int64(record)
	check("three commits")
	if n := area.Counts().Fences; uint64(n) != want.Commits {
		t.Errorf("%d fences", n)
	}

	var last uint64
	for i := range uint64(5) {
		last = stage(t, j, f.node(0), i+10)
	}
	want.Transactions, want.Staged, want.StagedBytes = 8, 5, 5*int64(record)
	want.HeadLSN, want.UsedBytes = want.HeadLSN+5*record, 8*int64(record)
	check("five are staged")
	if err := j.Commit(last); err != nil {
		t.Fatal(err)
	}
	want.Staged, want.StagedBytes, want.Commits, want.Combined, want.DurableLSN = 0, 0, 4, 2, want.HeadLSN
	check("and committed")
	if err := j.Commit(last); err != nil {
		t.Fatal(err)
	}
	check("a second time, for nothing")
	if n := area.Counts().Fences; uint64(n) != want.Commits {
		t.Errorf("%d fences", n)
	}

	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	want.UsedBytes, want.Trims = 0, 1
	check("closed")
}

// TestStatsCountTrims: what fills the log several times is trimmed as often as there is a new header.
func TestStatsCountTrims(t *testing.T) {
	f := newFixture(t)
	j := f.open(t)
	before := j.header.Sequence
	for i := range uint64(40_000) {
		write(t, j, f.node(0), i+1)
	}
	if n := j.Stats().Trims; n < 2 || n != j.header.Sequence-before {
		t.Errorf("%d trims, %d headers", n, j.header.Sequence-before)
	}
}
