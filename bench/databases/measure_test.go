package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "serve" {
		exit(serve(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

// TestMeasure: all are measured that can be here, and those that cannot are named.
func TestMeasure(t *testing.T) {
	part, err := measure(t.Context(), options{
		dir: "/dev/shm", disk: t.TempDir(), rounds: 1, turn: 5 * time.Millisecond, chosen: func(string) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	var peers []string
	for _, r := range part.Rows {
		if r.Median <= 0 {
			t.Errorf("%s, %s: %v per second", r.Peer, r.What, r.Median)
		}
		if durable := !strings.HasSuffix(r.Peer, ", "+tmpfsName); r.Durable != durable {
			t.Errorf("%s: durable: %v", r.Peer, r.Durable)
		}
		peers = append(peers, r.Peer)
	}
	for _, want := range []string{"Pebble, pmemfs embedded", "SQLite, pmemfs served", "bbolt, tmpfs", "Badger, tmpfs"} {
		if !strings.Contains(strings.Join(peers, "\n"), want) {
			t.Errorf("%s was not measured; these were: %q", want, peers)
		}
	}
	t.Log(part.Notes)
}
