package report

import (
	"fmt"
	"io"
	"slices"
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

// Markdown writes the tables as a part of a page.
func (p *Part) Markdown(w io.Writer) {
	for _, what := range p.whats() {
		fmt.Fprintf(w, "\n**%s**\n\n", what)
		p.Table(what).Markdown(w)
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
			ratio = times(r.Ratio)
		}
		if r.Durable {
			durable = "yes"
		}
		quartiles := r.figure(r.Q1) + "–" + r.figure(r.Q3)
		t.Rows = append(t.Rows, []string{r.Peer, r.figure(r.Median), quartiles, ratio, durable, r.Note})
	}
	return t
}

// figure writes one with its unit.
func (r *Row) figure(v float64) string {
	if r.Unit == "ns" {
		return Nanoseconds(v)
	}
	return fmt.Sprintf("%.4g %s", v, r.Unit)
}

// times writes how many times as much something is: "1.04", "87.1", "917".
func times(ratio float64) string {
	switch {
	case ratio < 10:
		return fmt.Sprintf("%.2f", ratio)
	case ratio < 100:
		return fmt.Sprintf("%.1f", ratio)
	}
	return fmt.Sprintf("%.0f", ratio)
}
