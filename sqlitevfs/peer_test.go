package sqlitevfs_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/ncruces/go-sqlite3/vfs/adiantum" // what the peer's tests import
	_ "github.com/ncruces/go-sqlite3/vfs/mvcc"
	_ "github.com/ncruces/go-sqlite3/vfs/xts"
)

// peer runs a test in a package of the peer that has tests only: a file of testdata is laid over it.
func peer(t *testing.T, folder string, args ...string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/ncruces/go-sqlite3").Output()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := filepath.Abs(filepath.Join("testdata", folder+".go.txt"))
	if err != nil {
		t.Fatal(err)
	}
	place := filepath.Join(strings.TrimSpace(string(out)), "vfs", "tests", folder, "pmemfs_test.go")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{place: ours}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "overlay")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"test", "-count=1", "-vet=off", "-v", "-overlay", file, "github.com/ncruces/go-sqlite3/vfs/tests/" + folder}, args...)
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "TMPDIR=/dev/shm", "GOTMPDIR="+t.TempDir())
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %v\n%s", cmd.Args, err, text)
	}
	return string(text)
}

// TestPeerMultiProcess is SQLite's mptest as the peer runs it: several connections at once, some of which crash.
func TestPeerMultiProcess(t *testing.T) {
	text := peer(t, "mptest", "-run", "Test_pmemfs", "-timeout", "100s")
	if n := strings.Count(text, "--- PASS: Test_pmemfs/"); n != 6 {
		t.Errorf("%d scripts passed:\n%s", n, text)
	}
}

// TestPeerSpeed is SQLite's speedtest1, for what it verifies.
func TestPeerSpeed(t *testing.T) {
	text := peer(t, "speedtest1", "-run", "^$", "-bench", "Benchmark_pmemfs", "-benchtime", "2x")
	if !strings.Contains(text, "TOTAL") {
		t.Errorf("it has not come to its end:\n%s", text)
	}
}
