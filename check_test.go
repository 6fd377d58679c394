package pmemfs

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestCheckChangesNothing checks pools that were closed and that were not, intact and damaged, and compares every byte.
func TestCheckChangesNothing(t *testing.T) {
	pool := filepath.Join(t.TempDir(), "pool")
	if err := Format(pool, FormatOptions{Size: 32 << 20, Label: "checked"}); err != nil {
		t.Fatal(err)
	}
	fsys, err := Open(pool, Commit(CommitOp))
	if err != nil {
		t.Fatal(err)
	}
	if err := fsys.MkdirAll("a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := fsys.WriteFile("a/b/file", bytes.Repeat([]byte("content "), 10000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(context.Background(), pool, CheckOptions{}); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("check of a pool in use: %v, want EBUSY", err)
	}
	live := readPool(t, pool) // the log is not empty: what a killed owner leaves
	if err := fsys.Close(); err != nil {
		t.Fatal(err)
	}
	checkUnchanged(t, pool, true)
	writePool(t, pool, live)
	checkUnchanged(t, pool, true)
	live[0][len(live[0])/2] ^= 1 // in the inode table or the nodes: perhaps not in use
	for at := range live[0] {
		if bytes.HasPrefix(live[0][at:], []byte("bckt")) {
			live[0][at+70] ^= 1
		}
	}
	writePool(t, pool, live)
	checkUnchanged(t, pool, false)
	writePool(t, pool, [2][]byte{make([]byte, len(live[0])), live[1]})
	checkUnchanged(t, pool, false)
	if _, err := Check(context.Background(), pool+"-not", CheckOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("check of no pool: %v", err)
	}
}

func checkUnchanged(t *testing.T, pool string, clean bool) {
	t.Helper()
	before := readPool(t, pool)
	var reported int64
	r, err := Check(context.Background(), pool, CheckOptions{Report: func(p Problem) {
		reported++
		if clean {
			t.Error(p)
		}
	}})
	if err != nil || r.Clean() != clean || reported != r.Problems+r.Notes {
		t.Errorf("check: %+v, %d reported, %v; want clean %v", r, reported, err, clean)
	}
	if clean && (r.Files != 1 || r.Directories != 3 || r.Label != "checked") {
		t.Errorf("check: %+v", r)
	}
	after := readPool(t, pool)
	if !bytes.Equal(before[0], after[0]) || !bytes.Equal(before[1], after[1]) {
		t.Error("the check changed the pool")
	}
}

func readPool(t *testing.T, pool string) (areas [2][]byte) {
	t.Helper()
	for i, name := range []string{"meta", "data"} {
		b, err := os.ReadFile(filepath.Join(pool, name))
		if err != nil {
			t.Fatal(err)
		}
		areas[i] = b
	}
	return areas
}

func writePool(t *testing.T, pool string, areas [2][]byte) {
	t.Helper()
	for i, name := range []string{"meta", "data"} {
		if err := os.WriteFile(filepath.Join(pool, name), areas[i], 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
