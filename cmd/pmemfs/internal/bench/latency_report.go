package bench

import (
	"fmt"
	"image/color"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/pmemfs/pmemfs/internal/report"
)

var latencyHead = []string{"mapping", "mean", "p50", "p99", "p99.9", "p99.99", "max"}

// meaning says what goes on in a condition.
func (c *Condition) meaning() string {
	switch c.Name {
	case "busy":
		return "another client does this to files of its own: " + times(c.Done.Done)
	case Own:
		text := fmt.Sprintf("another client moves the very files that are stored to, %d MiB at a time: %s",
			movedPiece>>20, times(c.Done.Done))
		if len(c.Refused) > 0 {
			text += "; refused: " + times(c.Refused)
		}
		return text
	}
	return "nobody else uses the pool"
}

// times writes "relocate 12 times, truncate 10 times".
func times(done map[string]int64) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(done)) {
		all = append(all, fmt.Sprintf("%s %d times", name, done[name]))
	}
	return strings.Join(all, ", ")
}

// table shows times, and in brackets how many times Direct's they are.
func (c *Condition) table() *report.Table {
	t := &report.Table{Head: latencyHead}
	for _, r := range c.Rows {
		cells := []string{r.Mapping}
		if r.Times == nil {
			t.Notes = append(t.Notes, r.Mapping+": "+r.Why)
			continue
		}
		for i, ns := range r.Times.all() {
			cell := report.Nanoseconds(ns)
			if r.Ratio != nil {
				cell += fmt.Sprintf(" (%.2f)", r.Ratio.all()[i])
			}
			cells = append(cells, cell)
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}

// Text writes what was found for people.
func (l *Latency) Text(w io.Writer) {
	fmt.Fprintf(w, "%v\n%d stores of %d bytes to each mapping, each flushed, fenced and timed by itself; "+
		"in brackets: times Direct\n", l.Machine, l.Stores, storeSize)
	for _, c := range l.Conditions {
		fmt.Fprintf(w, "\n%s: %s\n", c.Name, c.meaning())
		c.table().Text(w)
	}
	fmt.Fprintf(w, "\nclock is the same without a store: it is in every other figure. %.0f s in all.\n", l.Seconds)
}

// SVG writes the plot of percentiles, a panel for each condition.
func (l *Latency) SVG(w io.Writer) error {
	colors := map[string]color.Color{
		clockReading: report.Grey, raw: report.Black, direct: report.Green, "Sync|Populate": report.Orange, "Sync": report.Blue,
	}
	var panels []panel
	for _, c := range l.Conditions {
		p := panel{title: c.Name + ": " + c.title()}
		for _, r := range c.Rows {
			if r.Times != nil {
				p.curves = append(p.curves, curve{r.Mapping, colors[r.Mapping], r.hist})
			}
		}
		panels = append(panels, p)
	}
	return percentilePlot(w, panels)
}

// title is meaning, in short.
func (c *Condition) title() string {
	switch c.Name {
	case "busy":
		return "another client changes its files"
	case Own:
		return "another client moves these files"
	}
	return "nobody else uses the pool"
}

const latencyPage = `# What a durable store takes

A store of %d bytes to a random cache line of a mapped file of %d MiB, made durable by flush and fence
([Mapping.Persist](guarantees.md#mappings)), each timed by itself: %d of them to each mapping in each condition.
The time ends when an atomic operation after the fence is through: only then can the program have told anybody that the
store is durable. A CPU lets everything else overtake a fence, so that stores in a row take less each.

%s

Measured by

    %s

- **clock** is the same without a store: what measuring adds to every other row. It is not
  subtracted. Where it exceeds some 100 ns the machine has interrupted the program, as it does in every other row: the
  longer what a row measures takes, the more often.
- **raw** is the same store, flush and fence on a file of the same file system beside the pool, mapped by mmap(2) and
  populated: the limit.
- **Direct**: the blocks are sealed, nobody can move them, and no access ever faults.
- **Sync|Populate**: everything is granted ahead, and can be taken back at any time.
- **Sync** is mapped anew over a hole when quiet begins: the first store to each of the %d pages is a fault that
  allocates a block and makes that durable.

Everything is measured in turn, in %d rounds, so that what else goes on on the machine hits all rows alike. In brackets:
how many times Direct's figure it is. Where a curve of the plot rises steeply, from what a store takes to what being
interrupted takes, a small shift of the curve makes a large factor of the figure: look at the plot as well.
`

// conditionPages say more about what goes on.
var conditionPages = map[string]string{
	"quiet": "Nobody else uses the pool.",
	"busy": `Another client, a process of its own, truncates, relocates and clones files of its own, which it has mapped, with
a millisecond between two operations: the server breaks grants, moves, copies and frees blocks, and resolves faults all
the time, and competes for the CPUs.`,
	Own: `Another client relocates the very files that are stored to, %d MiB at a time, in turn, with a millisecond between
two. A store to blocks that are being moved waits until they are at their new place, and faults them in there: that is
what a break costs. Of Direct mappings the blocks are sealed: the request is refused, and the blocks stay.`,
}

// Markdown writes a page. command is what measures it again; plot is the plot's address, empty: there is none.
func (l *Latency) Markdown(w io.Writer, command, plot string) {
	fmt.Fprintf(w, latencyPage, storeSize, l.FileSize>>20, l.Stores, l.Machine, command, l.FileSize/4096, l.Rounds)
	if plot != "" {
		fmt.Fprintf(w, "\n![Times over percentiles, a plot for each condition](%s)\n", plot)
	}
	for _, c := range l.Conditions {
		text := conditionPages[c.Name]
		if c.Name == Own {
			text = fmt.Sprintf(text, movedPiece>>20)
		}
		fmt.Fprintf(w, "\n## %s\n\n%s\n\n", strings.ToUpper(c.Name[:1])+c.Name[1:], text)
		c.table().Markdown(w)
		if len(c.Done.Done)+len(c.Refused) > 0 {
			fmt.Fprintf(w, "\nMeanwhile %s.\n", c.meaning())
		}
	}
}
