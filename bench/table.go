package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pmemfs/pmemfs/internal/report"
)

// cell is a median; behind it, how far the quartiles are from it, and in brackets its ratio to the limit.
func cell(r report.Row) string {
	text := report.Value(r.Median, r.Unit)
	if r.Q1 != r.Q3 {
		text += fmt.Sprintf(" ±%.0f %%", 100*(r.Q3-r.Q1)/2/r.Median)
	}
	if r.Limit != 0 {
		text += " (" + report.Times(r.Ratio) + ")"
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

// addLimits adds a column of limits, unless all are among those that are compared.
func (g *grid) addLimits(rows []report.Row) {
	foreign := func(r report.Row) bool {
		return r.Limit != 0 && !slices.ContainsFunc(rows, func(o report.Row) bool {
			return o.What == r.What && o.X == r.X && o.Median == r.Limit
		})
	}
	if !slices.ContainsFunc(rows, foreign) {
		return
	}
	for _, r := range rows {
		if r.Limit != 0 {
			g.set(down(r), limitName, report.Value(r.Limit, r.Unit))
		}
	}
}

// down is what the line of a table with a row is called.
func down(r report.Row) string {
	if r.XUnit != "" {
		return size(r)
	}
	return r.What
}

// tables are those of a part: one of everything that is done, by peers, and one for each curve, by its sizes.
func tables(p *report.Part) []*report.Table {
	var all []*report.Table
	for _, rows := range groups(p.Rows) {
		var g grid
		for _, r := range rows {
			g.set(down(r), r.Peer, cell(r))
		}
		g.addLimits(rows)
		corner := ""
		if curve := rows[0].XUnit != ""; curve {
			corner = rows[0].What
		}
		t := g.table(corner, corner != "")
		if list := notes(rows); len(list) > 0 {
			t.Notes = []string{strings.Join(list, "\n")}
		}
		all = append(all, t)
	}
	return all
}

// size is what a row is measured against.
func size(r report.Row) string {
	if r.XUnit == "B" {
		return report.Bytes(r.X)
	}
	return report.Thousands(r.X) + " " + r.XUnit
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

// notes are those of rows, each once, with what it is about if that is not all of a peer.
func notes(rows []report.Row) (all []string) {
	for _, peer := range distinct(rows, func(r report.Row) string { return r.Peer }) {
		own := slices.DeleteFunc(slices.Clone(rows), func(r report.Row) bool { return r.Peer != peer })
		for _, note := range distinct(own, func(r report.Row) string { return r.Note }) {
			about := slices.DeleteFunc(slices.Clone(own), func(r report.Row) bool { return r.Note != note })
			names := []string{peer}
			if len(about) < len(own) {
				names = append(names, distinct(about, down)...)
			}
			if note != "" {
				all = append(all, "- "+strings.Join(names, ", ")+": "+note)
			}
		}
	}
	return all
}
