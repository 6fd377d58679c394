package alloc

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pmemfs/pmemfs/internal/journal"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

type fixture struct {
	sb   *layout.Superblock
	area medium.Area
	j    *journal.Journal
	b    *Bitmap
}

type failer interface {
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func newFixture(t failer, units int64) *fixture {
	sb := &layout.Superblock{Version: layout.Version, DataBlocks: units, Nodes: layout.ChunkUnits, Inodes: layout.ChunkUnits}
	sb.Arrange(layout.MinLog)
	f := &fixture{sb: sb, area: medium.Memory(sb.MetaSize)}
	if err := journal.Format(f.area, sb, journal.Options{}); err != nil {
		t.Fatal(err)
	}
	f.open(t)
	return f
}

func (f *fixture) open(t failer) {
	var err error
	if f.j, err = journal.Open(f.area, f.sb, journal.Options{}); err != nil {
		t.Fatal(err)
	}
	if f.b, err = New("block bitmap", f.j, f.sb.BlockBitmap, true); err != nil {
		t.Fatal(err)
	}
}

// reserve reserves as a file system does, outside of a transaction.
func (f *fixture) reserve(count, goal int64) (runs []Run, err error) {
	err = f.j.Locked(func() error { runs, err = f.b.Reserve(nil, count, goal); return err })
	return runs, err
}

func begin(j *journal.Journal) (*journal.Tx, error) {
	tx := new(journal.Tx)
	return tx, j.Begin(tx)
}

func (f *fixture) transact(t failer, commit bool, fn func(tx *journal.Tx) error) {
	tx, err := begin(f.j)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Abort()
	if err := fn(tx); err != nil {
		t.Fatal(err)
	}
	if commit {
		if _, err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
}

// model is which units are used or reserved.
type model map[int64]string

func (m model) set(t failer, runs []Run, from, to string) {
	for _, r := range runs {
		for u := r.First; u < r.End(); u++ {
			if m[u] != from {
				t.Fatalf("unit %d is %q, not %q", u, m[u], from)
			}
			if to == "" {
				delete(m, u)
			} else {
				m[u] = to
			}
		}
	}
}

func (m model) taken() []int64 {
	var out []int64
	for u, what := range m {
		if what == "used" {
			out = append(out, u)
		}
	}
	slices.Sort(out)
	return out
}

// TestModel reserves, takes, cancels and releases at random, with transactions
// that fail and remounts between, beside a plain map.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const units = 6 * layout.ChunkUnits
		f := newFixture(t, units)
		m := model{}
		var reserved, used [][]Run
		pick := func(t *rapid.T, from *[][]Run) []Run {
			if len(*from) == 0 {
				t.Skip("none")
			}
			i := rapid.IntRange(0, len(*from)-1).Draw(t, "which")
			runs := (*from)[i]
			*from = slices.Delete(*from, i, i+1)
			return runs
		}
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				count := rapid.OneOf(rapid.Int64Range(1, 20), rapid.Int64Range(1, 2000)).Draw(t, "count")
				goal := rapid.Int64Range(-1, units+5).Draw(t, "goal")
				runs, err := f.reserve(count, goal)
				if free := units - int64(len(m)); count > free {
					if !errors.Is(err, unix.ENOSPC) {
						t.Fatalf("%d of %d free: %v", count, free, err)
					}
					return
				}
				if err != nil {
					t.Fatalf("%d of %d free: %v", count, units-len(m), err)
				}
				var got int64
				for _, r := range runs {
					got += r.Count
				}
				if got != count {
					t.Fatalf("reserved %d of %d", got, count)
				}
				m.set(t, runs, "", "reserved")
				reserved = append(reserved, runs)
			},
			"take": func(t *rapid.T) {
				runs := pick(t, &reserved)
				if commit := rapid.IntRange(0, 3).Draw(t, "commit") > 0; commit {
					f.transact(t, true, func(tx *journal.Tx) error { return f.b.Take(tx, runs...) })
					m.set(t, runs, "reserved", "used")
					used = append(used, runs)
				} else {
					f.transact(t, false, func(tx *journal.Tx) error { return f.b.Take(tx, runs...) })
					m.set(t, runs, "reserved", "")
				}
			},
			"cancel": func(t *rapid.T) {
				runs := pick(t, &reserved)
				f.j.Locked(func() error { f.b.Cancel(runs...); return nil })
				m.set(t, runs, "reserved", "")
			},
			"release": func(t *rapid.T) {
				runs := pick(t, &used)
				commit := rapid.IntRange(0, 3).Draw(t, "commit") > 0
				f.transact(t, commit, func(tx *journal.Tx) error {
					if err := f.b.Release(tx, runs...); err != nil {
						return err
					}
					// What is not durably free is not handed out again.
					rest := f.b.Free()
					if again, err := f.b.Reserve(nil, rest, runs[0].First); err == nil && rest > 0 {
						m.set(t, again, "", "reserved")
						f.b.Cancel(again...)
						m.set(t, again, "reserved", "")
					}
					return nil
				})
				if commit {
					m.set(t, runs, "used", "")
				} else {
					used = append(used, runs)
				}
			},
			"remount": func(t *rapid.T) {
				for _, runs := range reserved {
					m.set(t, runs, "reserved", "")
				}
				reserved = nil
				f.open(t)
			},
			"": func(t *rapid.T) {
				if free := f.b.Free(); free != units-int64(len(m)) {
					t.Fatalf("%d free, want %d", free, units-len(m))
				}
				var got []int64
				if err := f.b.Each(func(u int64) error { got = append(got, u); return nil }); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, m.taken()) {
					t.Fatalf("used %v, want %v", got, m.taken())
				}
				f.verify(t)
			},
		})
	})
}

func (f *fixture) verify(t failer) {
	err := f.b.Verify(func(err error) { t.Fatal(err) }, func(int64, *Line) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
}

// TestContiguous says what a reservation looks like in a fresh bitmap.
func TestContiguous(t *testing.T) {
	f := newFixture(t, 600*layout.ChunkUnits)
	take := func(count, goal int64) []Run {
		t.Helper()
		runs, err := f.reserve(count, goal)
		if err != nil {
			t.Fatal(err)
		}
		f.transact(t, true, func(tx *journal.Tx) error { return f.b.Take(tx, runs...) })
		return runs
	}
	for _, tc := range []struct {
		name        string
		count, goal int64
		want        []Run
	}{
		{"the first", 10, -1, []Run{{0, 10}}},
		{"at its goal", 5, 10, []Run{{10, 5}}},
		{"2 MiB are aligned", 512, 15, []Run{{512, 512}}},
		{"far more than that, with a rest", 5*512 + 7, -1, []Run{{1024, 5*512 + 7}}},
		{"at an aligned goal", 1024, 100 * 512, []Run{{100 * 512, 1024}}},
		{"a run that fits into a gap", 400, -1, []Run{{15, 400}}},
		{"no room at the goal", 3, 5, []Run{{415, 3}}},
	} {
		if got := take(tc.count, tc.goal); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
	// The last units, in pieces, when nothing else is left.
	rest := f.b.Free()
	if _, err := f.reserve(rest+1, -1); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("more than there is: %v", err)
	}
	var n int64
	for _, r := range take(rest, -1) {
		n += r.Count
	}
	if n != rest || f.b.Free() != 0 {
		t.Errorf("%d of %d taken, %d free", n, rest, f.b.Free())
	}
	f.verify(t)
}

// TestVerifyReportsAll damages all three levels and counts what is reported.
func TestVerifyReportsAll(t *testing.T) {
	f := newFixture(t, 1024*layout.ChunkUnits)
	runs, err := f.reserve(3000, -1)
	if err != nil {
		t.Fatal(err)
	}
	f.transact(t, true, func(tx *journal.Tx) error { return f.b.Take(tx, runs...) })
	f.verify(t)
	r := f.sb.BlockBitmap
	for _, at := range []int64{r.Bits.Offset, r.Bits.Offset + 3*lineBytes, r.Chunks.Offset + layout.WordSize, r.Chunks.Offset + 900*layout.WordSize, r.Groups.Offset + layout.WordSize} {
		f.area.Write(at, []byte{f.area.Bytes()[at] ^ 0x10})
	}
	var reported []error
	lines := 0
	err = f.b.Verify(func(err error) { reported = append(reported, err) }, func(int64, *Line) error { lines++; return nil })
	// Two lines, two chunk words, a group word; and the group count over the damaged bits.
	if err != nil || lines != 1024 || len(reported) != 6 {
		t.Errorf("%d lines, %v, reported %v", lines, err, reported)
	}
	for _, e := range reported {
		var corrupt *layout.CorruptError
		if !errors.As(e, &corrupt) {
			t.Error(e)
		}
	}
}

// TestRefused gives the allocator what only a damaged pool gives it.
// What was reserved is free again when the transaction that takes it fails half way.
func TestTakeFails(t *testing.T) {
	f := newFixture(t, 4*layout.ChunkUnits)
	free := f.b.Free()
	var runs []Run
	for chunk := range int64(3) {
		got, err := f.reserve(2, chunk*layout.ChunkUnits)
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, got...)
	}
	f.area.Bytes()[f.sb.BlockBitmap.Bits.Offset+lineBytes] ^= 4 // the second chunk's
	tx, err := begin(f.j)
	if err != nil {
		t.Fatal(err)
	}
	var corrupt *layout.CorruptError
	if err := f.b.Take(tx, runs...); !errors.As(err, &corrupt) {
		t.Error(err)
	}
	tx.Abort()
	if f.b.Free() != free || len(f.b.busy) > 0 {
		t.Errorf("%d units are free and %v are busy, of %d that were free", f.b.Free(), f.b.busy, free)
	}
}

func TestRefused(t *testing.T) {
	f := newFixture(t, 2*layout.ChunkUnits)
	free := f.b.Free()
	for _, run := range []Run{{0, 1}, {-5, 10}, {1 << 60, 1}, {1000, 100}, {5, 0}} {
		tx, err := begin(f.j)
		if err != nil {
			t.Fatal(err)
		}
		var corrupt *layout.CorruptError
		if err := f.b.Release(tx, run); !errors.As(err, &corrupt) {
			t.Errorf("release of %v: %v", run, err)
		}
		tx.Abort()
	}
	if f.b.Free() != free || len(f.b.busy) != 0 {
		t.Errorf("%d free, %d chunks busy", f.b.Free(), len(f.b.busy))
	}
}
