package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestBenchScale: everything is measured against each size once, by all that it is measured of.
func TestBenchScale(t *testing.T) {
	dir := memoryDir(t)
	object := parse(t, ok(t, "bench", "scale", "--dir", dir, "--short", "--rounds", "1", "--time", "30ms", "--json"))
	sizes := map[string][]float64{} // by what and peer
	for _, r := range object["rows"].([]any) {
		row := r.(map[string]any)
		name := fmt.Sprint(row["what"], " by ", row["peer"])
		sizes[name] = append(sizes[name], row["x"].(float64))
		if median := row["median"].(float64); median <= 0 || row["x_unit"] == "" {
			t.Errorf("%s: %v", name, row)
		}
	}
	bytes := func(shifts ...int) (all []float64) {
		for _, s := range shifts {
			all = append(all, float64(int64(1)<<s))
		}
		return all
	}
	for name, want := range map[string][]float64{
		"mount, against pool size by after it was closed":                      bytes(30, 36, 42),
		"mount, against pool size by after its owner was killed":               bytes(30, 36, 42),
		"memory of a mounted pool, against number of files by pmemfs":          {1000, 10_000},
		"look-up, against entries of the directory by pmemfs embedded":         {100, 1000, 10_000},
		"look-up, against entries of the directory by tmpfs":                   {100, 1000, 10_000},
		"create a file, against entries of its directory by pmemfs embedded":   {100, 1000, 10_000},
		"first store to a page of a hole, against file size by pmemfs, Sync":   bytes(20, 28, 34),
		"records of what is mapped, against its size by pmemfs, Sync|Populate": bytes(24, 28),
		"create or unlink, against client processes by pmemfs served":          {1, 2, 8},
		"append 4 KiB, against client processes by tmpfs":                      {1, 2, 8},
		"store 64 B and persist it, against client processes by pmemfs, Sync":  {1, 2, 8},
		"store 64 B and persist it, against client processes by raw":           {1, 2, 8},
		"memory of a mounted pool, against pool size by pmemfs":                bytes(30, 36, 42),
		"first store to a page of a hole, against file size by tmpfs":          bytes(20, 28, 34),
		"mount, against number of files by after its owner was killed":         {1000, 10_000},
		"records of what is mapped, against its size by pmemfs, Direct":        bytes(24, 28),
		"create or unlink, against client processes by tmpfs":                  {1, 2, 8},
		"append 4 KiB, against client processes by pmemfs served":              {1, 2, 8},
		"create a file, against entries of its directory by tmpfs":             {100, 1000, 10_000},
		"mount, against number of files by after it was closed":                {1000, 10_000},
	} {
		if strings.HasSuffix(name, "Direct") && sizes[name] == nil && object["notes"] != nil {
			continue // it takes a privilege, and the notes say so
		}
		if !slices.Equal(sizes[name], want) {
			t.Errorf("%s is measured against %v, want %v", name, sizes[name], want)
		}
	}
	help := ok(t, "bench", "scale", "--help")
	names := map[string]bool{}
	keys(object, names)
	for name := range names {
		if !strings.Contains(help, name) {
			t.Errorf("the help does not name the field %q", name)
		}
	}
	benchLeaves(t, dir)
}
