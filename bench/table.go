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

// foreignLimit reports whether the limit of a row is none of those that are compared.
func foreignLimit(rows []report.Row) func(report.Row) bool {
	return func(r report.Row) bool {
		return r.Limit != 0 && !slices.ContainsFunc(rows, func(o report.Row) bool {
			return o.What == r.What && o.X == r.X && o.Median == r.Limit
		})
	}
}

// addLimits adds a column of limits, unless all are among those that are compared.
func (g *grid) addLimits(rows []report.Row) {
	if !slices.ContainsFunc(rows, foreignLimit(rows)) {
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
		return r.Size()
	}
	return r.What
}

// tables are those of a part, one for each group of its rows.
func tables(p *report.Part) (all []*report.Table) {
	for _, rows := range groups(p.Rows) {
		if rows[0].XUnit == "" && len(distinct(rows, down)) == 1 {
			all = append(all, list(rows))
		} else {
			all = append(all, compare(rows))
		}
	}
	return all
}

// list is who does one thing. A limit that is one of them has no column.
func list(rows []report.Row) *report.Table {
	t := &report.Table{Head: []string{rows[0].What, "median", "note"}}
	foreign := slices.ContainsFunc(rows, foreignLimit(rows))
	if foreign {
		t.Head = append(t.Head, limitName)
	}
	for _, r := range rows {
		cells := []string{r.Peer, cell(r), r.Note}
		if foreign {
			cells = append(cells, report.Value(r.Limit, r.Unit))
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}

// compare is what several things take, each by several peers.
func compare(rows []report.Row) *report.Table {
	var g grid
	for _, r := range rows {
		g.set(down(r), r.Peer, cell(r))
	}
	g.addLimits(rows)
	corner := ""
	if rows[0].XUnit != "" {
		corner = rows[0].What
	}
	t := g.table(corner, corner != "")
	if list := notes(rows); len(list) > 0 {
		t.Notes = []string{strings.Join(list, "\n")}
	}
	return t
}

// groups are rows that are shown together: what is measured against sizes by itself, and of everything else what is done
// by mostly the same peers.
func groups(rows []report.Row) (all [][]report.Row) {
	peer := func(r report.Row) string { return r.Peer }
	for _, what := range distinct(rows, func(r report.Row) string { return r.What }) {
		own := slices.DeleteFunc(slices.Clone(rows), func(r report.Row) bool { return r.What != what })
		like := func(group []report.Row) bool {
			return own[0].XUnit == "" && group[0].XUnit == "" && alike(distinct(own, peer), distinct(group, peer))
		}
		if i := slices.IndexFunc(all, like); i >= 0 {
			all[i] = append(all[i], own...)
		} else {
			all = append(all, own)
		}
	}
	return all
}

// alike says whether at least half of all names are in both lists.
func alike(a, b []string) bool {
	both := 0
	for _, name := range a {
		if slices.Contains(b, name) {
			both++
		}
	}
	return 2*both >= len(a)+len(b)-both
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
