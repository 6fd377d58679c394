package main

import (
	"fmt"
	"slices"

	"github.com/pmemfs/pmemfs/internal/report"
)

// target is a promise about what something costs, compared with what something else costs.
type target struct {
	section string
	text    string
	what    []string // all of this is done; empty: everything in the section that both do
	peer    string
	against string
	most    float64 // how many times against's cost peer's may be
}

var targets = []target{
	{
		section: "primitives", text: "never slower than libpmem, at any size",
		peer: primitivesPeer, against: "libpmem", most: 1.05,
	},
}

const primitivesPeer = "pmem"

// verdict is how a target has been met.
type verdict struct {
	target
	measured bool
	ratio    float64 // the worst
	at       string  // what it was measured at
}

func (v verdict) met() bool { return v.measured && v.ratio <= v.most }

// judge looks for the worst ratio.
func (t target) judge(parts []report.Part) verdict {
	v := verdict{target: t}
	for _, p := range parts {
		for _, r := range p.Rows {
			if r.Peer != t.peer || len(t.what) > 0 && !slices.Contains(t.what, r.What) {
				continue
			}
			i := slices.IndexFunc(p.Rows, func(o report.Row) bool { return o.Peer == t.against && o.What == r.What && o.X == r.X })
			if i < 0 {
				continue
			}
			r.Compare(p.Rows[i].Median)
			if !v.measured || r.Ratio > v.ratio {
				v.measured, v.ratio, v.at = true, r.Ratio, r.What
				if r.XUnit != "" {
					v.at += ", " + size(r)
				}
			}
		}
	}
	return v
}

// cells are the row of the table of targets.
func (v verdict) cells() []string {
	measured, result := "-", "not measured"
	if v.measured {
		measured, result = fmt.Sprintf("%s (%s)", report.Times(v.ratio), v.at), "missed"
	}
	if v.met() {
		result = "met"
	}
	return []string{
		fmt.Sprintf("[%s](#%s)", v.text, v.section), fmt.Sprintf("%s to %s", v.peer, v.against),
		fmt.Sprintf("≤ %.4g", v.most), measured, result,
	}
}
