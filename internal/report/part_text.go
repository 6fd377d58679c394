package report

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Text writes what was found for people: a table for each thing that is done.
func (p *Part) Text(w io.Writer) {
	fmt.Fprintln(w, p.Machine)
	for _, what := range p.whats() {
		fmt.Fprintf(w, "\n%s\n", what)
		p.Table(what).Text(w)
	}
	for _, note := range p.Notes {
		fmt.Fprintf(w, "\n%s\n", note)
	}
}

// whats are the things that are done, in the order of their first rows.
func (p *Part) whats() (list []string) {
	for _, r := range p.Rows {
		if !slices.Contains(list, r.What) {
			list = append(list, r.What)
		}
	}
	return list
}

// Table compares those who do one thing.
func (p *Part) Table(what string) *Table {
	t := &Table{Head: []string{"", "median", "quartiles", "to the limit", "durable", "note"}}
	for _, r := range p.Rows {
		if r.What != what {
			continue
		}
		ratio, durable := "", "no"
		if r.Ratio > 0 {
			ratio = Times(r.Ratio)
		}
		if r.Durable {
			durable = "yes"
		}
		quartiles := Value(r.Q1, r.Unit) + "–" + Value(r.Q3, r.Unit)
		peer := r.Peer
		if r.XUnit != "" {
			peer += ", " + r.Size()
		}
		t.Rows = append(t.Rows, []string{peer, Value(r.Median, r.Unit), quartiles, ratio, durable, r.Note})
	}
	return t
}

// Size writes what a row is measured against: "4 KiB", "1,000".
func (r *Row) Size() string {
	if r.XUnit == "B" {
		return Bytes(r.X)
	}
	return Thousands(r.X)
}

// Value writes a figure with its unit.
func Value(v float64, unit string) string {
	switch unit {
	case "ns":
		return Nanoseconds(v)
	case "B":
		return Bytes(v)
	case "1/s":
		return Thousands(v) + "/s"
	}
	return strings.TrimSpace(Thousands(v) + " " + unit)
}

// Thousands writes "12,345", and what is below 100 with a digit behind the point.
func Thousands(v float64) string {
	if v < 100 && v != float64(int64(v)) {
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	s := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Times writes how many times as much something is: "1.04", "87.1", "917".
func Times(ratio float64) string {
	switch {
	case ratio < 10:
		return fmt.Sprintf("%.2f", ratio)
	case ratio < 100:
		return fmt.Sprintf("%.1f", ratio)
	}
	return fmt.Sprintf("%.0f", ratio)
}
