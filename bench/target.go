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

// Peers and what they do, as the rows of sections name them.
const (
	embedded  = "pmemfs embedded"
	served    = "pmemfs served"
	raw       = "raw"
	tmpfs     = "tmpfs"
	syncFault = served + ": Sync"
	daxFault  = "ext4-DAX: MAP_SYNC" // which allocates 2 MiB where it can
	daxPage   = "ext4-DAX: MAP_SYNC, 4 KiB"

	durableUpdate = "durable update of 64 bytes at a random place"
	holeFault     = "first store to 2 MiB of a hole, at random"
	touchHole     = "first store to each page of a hole, in order, for a page"
	touchWritten  = "first store to each page of written blocks, in order, for a page"
	onePut        = "durable transactions of one put"
	laterStore    = "durable store of 8 bytes after the first touch"
)

var (
	names  = []string{"create and close", "rename", "unlink", "mkdir"}
	blocks = []string{"append 4 KiB", "overwrite 4 KiB"}
)

var targets = slices.Concat(
	[]target{
		{"primitives", "never slower than libpmem, at any size", nil, "pmem", "libpmem", 1.05},
		{"ways", "a store to a Sync mapping is a store", []string{durableUpdate}, served + ": Sync, Persist", raw, 1.1},
		{"ways", "a store to a Direct mapping is a store", []string{durableUpdate}, served + ": Direct, Persist", raw, 1.1},
		{"ways", "a first touch costs a tenth of ext4's write and fsync on a disk",
			[]string{durableUpdate}, served + ": Sync, first touch of a hole", "ext4 on a disk: write, fsync", 0.1},
		{"ways", "and a tenth of ext4's in memory",
			[]string{durableUpdate}, served + ": Sync, first touch of a hole", "ext4 in memory: write, fsync", 0.1},
	},
	each("metadata", "embedded, a quarter of tmpfs's", names, embedded, tmpfs, 0.25),
	each("metadata", "embedded, half of tmpfs's", blocks, embedded, tmpfs, 0.5),
	each("metadata", "through a server, tmpfs's", slices.Concat(names, blocks), served, tmpfs, 1),
	databaseTargets("Pebble"),
	databaseTargets("SQLite"),
	[]target{
		{"guest", "a fault that allocates, at a random place, costs half of ext4-DAX's", []string{holeFault}, syncFault, daxFault, 0.5},
		{"guest", "and half of one of 4 KiB", []string{holeFault}, syncFault, daxPage, 0.5},
		{"guest", "first touches of a hole, page by page, cost half of ext4-DAX's of 4 KiB", []string{touchHole}, syncFault, daxPage, 0.5},
		{"guest", "first touches of 2 MiB, page by page, cost three times ext4-DAX's of 4 KiB", []string{touchWritten}, syncFault, daxPage, 3},
		{"guest", "after that a store is a store", []string{laterStore}, syncFault, raw, 1.1},
	},
)

// databaseTargets are those of a database in a pool.
func databaseTargets(name string) (all []target) {
	for _, place := range []string{embedded, served} {
		text := fmt.Sprintf("%s in a pool (%s), durable, ", name, place)
		all = append(all,
			target{"databases", text + "as fast as volatile on tmpfs", nil, name + ", " + place, name + ", tmpfs", 1},
			target{"databases", text + "50 times as fast as on ext4", []string{onePut}, name + ", " + place, name + ", ext4", 0.02})
	}
	return all
}

// each is a target for each of several things.
func each(section, text string, what []string, peer, against string, most float64) (all []target) {
	for _, w := range what {
		all = append(all, target{section, w + ": " + text, []string{w}, peer, against, most})
	}
	return all
}

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
					v.at += ", " + r.Size()
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
		measured, result = report.Times(v.ratio), "missed"
		if v.ratio < 0.1 {
			measured = fmt.Sprintf("%.3f", v.ratio)
		}
	}
	if v.measured && len(v.what) != 1 {
		measured += " (" + v.at + ")"
	}
	if v.met() {
		result = "met"
	}
	return []string{
		fmt.Sprintf("[%s](#%s)", v.text, v.section), fmt.Sprintf("%s to %s", v.peer, v.against),
		fmt.Sprintf("≤ %.4g", v.most), measured, result,
	}
}
