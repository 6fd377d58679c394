// Package report is how figures are shown: the machine that they come from, tables, and the style of plots.
package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Table is rows of cells below a head, of which the first are names and the others figures, and sentences below them.
type Table struct {
	Head  []string
	Rows  [][]string
	Notes []string
}

// Text writes the table for a terminal.
func (t *Table) Text(w io.Writer) {
	widths := make([]int, len(t.Head))
	all := append([][]string{t.Head}, t.Rows...)
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range all {
		line := ""
		for i, cell := range row {
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				line += "  " + cell + gap
			} else {
				line += "  " + gap + cell
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
	for _, note := range t.Notes {
		fmt.Fprintf(w, "  %s\n", note)
	}
}

// Markdown writes the table for a page.
func (t *Table) Markdown(w io.Writer) {
	cell := strings.NewReplacer("|", `\|`)
	row := func(cells []string) {
		for _, c := range cells {
			fmt.Fprintf(w, "| %s ", cell.Replace(c))
		}
		fmt.Fprintln(w, "|")
	}
	row(t.Head)
	fmt.Fprintln(w, "|---"+strings.Repeat("|--:", len(t.Head)-1)+"|")
	for _, cells := range t.Rows {
		row(cells)
	}
	for _, note := range t.Notes {
		fmt.Fprintf(w, "\n%s\n", note)
	}
}

// Nanoseconds writes "171 ns", "4.27 µs", "12.5 ms", "3.00 s": three digits.
func Nanoseconds(ns float64) string {
	unit := "ns"
	for _, next := range []string{"µs", "ms", "s"} {
		if ns < 999.5 {
			break
		}
		ns, unit = ns/1000, next
	}
	switch {
	case ns >= 99.95 || unit == "ns":
		return fmt.Sprintf("%.0f %s", ns, unit)
	case ns >= 9.995:
		return fmt.Sprintf("%.1f %s", ns, unit)
	}
	return fmt.Sprintf("%.2f %s", ns, unit)
}

// NanosecondsRound writes a power of ten: "100 ns", "1 µs".
func NanosecondsRound(ns float64) string {
	for _, unit := range []string{"ns", "µs", "ms"} {
		if ns < 999.5 {
			return fmt.Sprintf("%.0f %s", ns, unit)
		}
		ns /= 1000
	}
	return fmt.Sprintf("%.0f s", ns)
}

// Bytes writes "64 B", "4 KiB", "1.5 GiB": four digits.
func Bytes(n float64) string {
	unit := "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n < 1024 {
			break
		}
		n, unit = n/1024, next
	}
	return strconv.FormatFloat(n, 'g', 4, 64) + " " + unit
}
