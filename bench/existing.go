package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/pmemfs/pmemfs/internal/report"
)

// Benchmarks of the command whose JSON is older than report.Part are turned into parts.

// mountParts compares a mount with go-fuse's loopback.
func mountParts(ctx context.Context, o *options) ([]byte, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: mounting takes root", errUnavailable)
	}
	args := []string{"mount", "--json", "--dir", o.dir}
	if o.short {
		args = append(args, "--rounds", "3", "--files", "500", "--bytes", "16M")
	}
	text, err := pmemfsBench(ctx, o, args...)
	if err != nil {
		return nil, err
	}
	var m struct {
		Machine report.Machine
		Rounds  int
		Rows    []struct {
			Operation            string
			Mount                float64    `json:"mount_ns"`
			Loopback             float64    `json:"loopback_ns"`
			Passthrough          float64    `json:"passthrough_ns"`
			MountQuartiles       [2]float64 `json:"mount_quartiles_ns"`
			LoopbackQuartiles    [2]float64 `json:"loopback_quartiles_ns"`
			PassthroughQuartiles [2]float64 `json:"passthrough_quartiles_ns"`
		}
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, err
	}
	part := report.Part{Title: "A mount", Machine: m.Machine}
	for _, r := range m.Rows {
		for _, row := range []report.Row{
			{Peer: "pmemfs mount", Median: r.Mount, Q1: r.MountQuartiles[0], Q3: r.MountQuartiles[1], Durable: true},
			{Peer: "loopback", Median: r.Loopback, Q1: r.LoopbackQuartiles[0], Q3: r.LoopbackQuartiles[1]},
			{Peer: "loopback with passthrough", Median: r.Passthrough, Q1: r.PassthroughQuartiles[0], Q3: r.PassthroughQuartiles[1]},
		} {
			row.What, row.Unit = r.Operation, "ns"
			row.Compare(r.Loopback)
			part.Rows = append(part.Rows, row)
		}
	}
	return encode(part)
}

// latencyParts are percentiles of single stores.
func latencyParts(ctx context.Context, o *options) ([]byte, error) {
	stores := "2000000"
	if o.short {
		stores = "50000"
	}
	text, err := pmemfsBench(ctx, o, "latency", "--json", "--dir", o.dir, "--stores", stores)
	if err != nil {
		return nil, err
	}
	type times struct {
		P50  float64
		P99  float64
		P999 float64 `json:"p99_9"`
		P4   float64 `json:"p99_99"`
	}
	var l struct {
		Machine    report.Machine
		Conditions []struct {
			Name string
			Rows []struct {
				Mapping string
				Times   *times `json:"ns"`
			}
		}
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, err
	}
	part := report.Part{Title: "Latency of single stores", Machine: l.Machine}
	percentiles := []struct {
		name string
		of   func(*times) float64
	}{
		{"p50", func(t *times) float64 { return t.P50 }}, {"p99", func(t *times) float64 { return t.P99 }},
		{"p99.9", func(t *times) float64 { return t.P999 }}, {"p99.99", func(t *times) float64 { return t.P4 }},
	}
	for _, c := range l.Conditions {
		for _, p := range percentiles {
			limit := 0.0
			for _, r := range c.Rows {
				if r.Times == nil || r.Mapping == "clock" {
					continue
				}
				row := report.NewRow(fmt.Sprintf("%s, %s", c.Name, p.name), r.Mapping, "ns", []float64{p.of(r.Times)})
				if r.Mapping == "raw" {
					limit = row.Median
				}
				row.Compare(limit)
				row.Durable = true
				part.Rows = append(part.Rows, row)
			}
		}
	}
	return encode(part)
}
