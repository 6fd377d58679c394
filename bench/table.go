package main

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/pmemfs/pmemfs/internal/report"
)

// value writes a figure with its unit.
func value(v float64, unit string) string {
	switch unit {
	case "ns":
		return report.Nanoseconds(v)
	case "B":
		return report.Bytes(v)
	case "1/s":
		return thousands(v) + "/s"
	}
	return thousands(v) + " " + unit
}

// thousands writes "12,345", and what is below 100 with a digit behind the point.
func thousands(v float64) string {
	if v < 100 && v != float64(int64(v)) {
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	s := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// cell is a median; behind it, how far the quartiles are from it, and in brackets its ratio to the limit.
func cell(r report.Row) string {
	text := value(r.Median, r.Unit)
	if r.Q1 != r.Q3 {
		text += fmt.Sprintf(" ±%.0f %%", 100*(r.Q3-r.Q1)/2/r.Median)
	}
	if r.Limit != 0 {
		text += fmt.Sprintf(" (%.2f)", r.Ratio)
	}
	if !r.Durable {
		text += " †"
	}
	return text
}

// grid is rows by two names.
type grid struct {
	down, across []string // in the order of the rows
	cells        map[[2]string]string
}

func (g *grid) set(down, across, cell string) {
	if !slices.Contains(g.down, down) {
		g.down = append(g.down, down)
	}
	if !slices.Contains(g.across, across) {
		g.across = append(g.across, across)
	}
	if g.cells == nil {
		g.cells = map[[2]string]string{}
	}
	g.cells[[2]string{down, across}] = cell
}

// table has the longer list of names down, unless fixed.
func (g *grid) table(corner string, fixed bool) *report.Table {
	down, across := g.down, g.across
	turned := !fixed && len(across) > len(down)
	if turned {
		down, across = across, down
	}
	t := &report.Table{Head: append([]string{corner}, across...)}
	for _, d := range down {
		cells := []string{d}
		for _, a := range across {
			key := [2]string{d, a}
			if turned {
				key = [2]string{a, d}
			}
			cells = append(cells, g.cells[key])
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}

const limitName = "limit"

// add puts a row, and its limit if that is none of those that are compared, into a grid.
func (g *grid) add(down string, r report.Row, rows []report.Row) {
	g.set(down, r.Peer, cell(r))
	isLimit := func(other report.Row) bool {
		return other.What == r.What && other.X == r.X && other.Median == r.Limit
	}
	if r.Limit != 0 && !slices.ContainsFunc(rows, isLimit) {
		g.set(down, limitName, value(r.Limit, r.Unit))
	}
}

// limitsLast moves the column of limits to the end.
func (g *grid) limitsLast() {
	if i := slices.Index(g.across, limitName); i >= 0 {
		g.across = append(slices.Delete(g.across, i, i+1), limitName)
	}
}

// tables are those of a part: one of everything that is done, by peers, and one for each curve, by its sizes.
func tables(p *report.Part) []*report.Table {
	var all []*report.Table
	for _, rows := range groups(p.Rows) {
		var g grid
		for _, r := range rows {
			down := r.What
			if r.XUnit != "" {
				down = size(r)
			}
			g.add(down, r, rows)
		}
		g.limitsLast()
		corner := ""
		if curve := rows[0].XUnit != ""; curve {
			corner = rows[0].What
		}
		t := g.table(corner, corner != "")
		t.Notes = notes(rows)
		all = append(all, t)
	}
	return all
}

// size is what a row is measured against.
func size(r report.Row) string {
	if r.XUnit == "B" {
		return report.Bytes(r.X)
	}
	return thousands(r.X) + " " + r.XUnit
}

// groups are the rows without sizes, and those of each thing that is measured against sizes.
func groups(rows []report.Row) [][]report.Row {
	var all [][]report.Row
	index := map[string]int{}
	for _, r := range rows {
		name := ""
		if r.XUnit != "" {
			name = r.What
		}
		i, known := index[name]
		if !known {
			i = len(all)
			index[name] = i
			all = append(all, nil)
		}
		all[i] = append(all[i], r)
	}
	return all
}

// notes are those of rows, each once.
func notes(rows []report.Row) (all []string) {
	for _, r := range rows {
		if r.Note == "" {
			continue
		}
		if note := "- " + r.Peer + ": " + r.Note; !slices.Contains(all, note) {
			all = append(all, note)
		}
	}
	return all
}
