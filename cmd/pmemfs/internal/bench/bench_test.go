package bench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/report"
)

// TestMeasuringAllocatesNothing: a garbage collection, or a page fault of the heap, would be in the figures.
func TestMeasuringAllocatesNothing(t *testing.T) {
	dir := t.TempDir()
	raw, err := rawTarget(dir, filepath.Join(dir, "raw"), &pmemfs.MediumReport{Granularity: pmemfs.CacheLine})
	if err != nil {
		t.Fatal(err)
	}
	h := newHistogram()
	for _, target := range []*target{raw, {name: clockReading, batch: clockBatch}} {
		allocated := testing.AllocsPerRun(10, func() {
			if err := target.batch(h, 100); err != nil {
				t.Error(err)
			}
		})
		if allocated > 0 {
			t.Errorf("%s: 100 measurements have allocated %v times", target.name, allocated)
		}
	}
	if want := int64(2 * 11 * 100); h.TotalCount() != want { // AllocsPerRun warms up
		t.Errorf("%d measurements were recorded, want %d", h.TotalCount(), want)
	}
}

// TestStoresReachEveryLine: none is left out, and each is made durable at its own place.
func TestStoresReachEveryLine(t *testing.T) {
	mem := make([]byte, 16*64)
	places := map[int]int{}
	batch := storeBatch(mem, func(off, n int) error {
		if n != storeSize {
			t.Fatalf("%d bytes are made durable", n)
		}
		places[off]++
		return nil
	})
	if err := batch(newHistogram(), 1000); err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(mem); off += 64 {
		if places[off] == 0 || bytes.Equal(mem[off:off+storeSize], make([]byte, storeSize)) {
			t.Errorf("nothing was stored at %d", off)
		}
		delete(places, off)
	}
	if len(places) > 0 {
		t.Error("stores at other places: ", places)
	}
	failed := errors.New("failed")
	if err := storeBatch(mem, func(int, int) error { return failed })(newHistogram(), 10); err != failed {
		t.Error(err)
	}
}

// steps are a histogram in which each percentile is known.
func steps(t *testing.T) *hdrhistogram.Histogram {
	t.Helper()
	h := newHistogram()
	for value, n := range map[int64]int64{100: 5000, 200: 4900, 1000: 90, 2000: 9, 50_000: 1} {
		if err := h.RecordValues(value, n); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func TestTimes(t *testing.T) {
	got := newTimes(steps(t))
	// Three digits: what is recorded as 50,000 may have been up to 50,015.
	const mean = (100*5000 + 200*4900 + 1000*90 + 2000*9 + 50_000) / 10_000.0
	want := &Times{Mean: mean, P50: 100, P99: 200, P999: 1000, P4: 2000, Max: 50_000}
	near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) <= a/1000 })
	if diff := cmp.Diff(want, got, near); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&Times{1, 1, 1, 1, 1, 1}, got.over(got)); diff != "" {
		t.Error(diff)
	}
}

func TestPlot(t *testing.T) {
	h := steps(t)
	c := curve{"steps", report.Black, h}
	points := c.points()
	last := points[len(points)-1]
	if points[0].X != 1 || last.X != 10_000 || last.Y != float64(h.Max()) {
		t.Errorf("the curve goes from %v to %v", points[0], last)
	}
	for i, p := range points[1:] {
		if before := points[i]; p.X < before.X || p.Y < before.Y {
			t.Errorf("%v is followed by %v", before, p)
		}
	}
	var svg bytes.Buffer
	if err := percentilePlot(&svg, []panel{{"one", []curve{c}}, {"two", []curve{c}}}); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{">one<", ">two<", ">steps<", ">99.99<", ">1 µs<", ">100 µs<"} {
		if !strings.Contains(svg.String(), text) {
			t.Errorf("%s is not in the plot", text)
		}
	}
	for d := xml.NewDecoder(&svg); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
