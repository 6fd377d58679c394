package sqlitevfs_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/ncruces/go-sqlite3/vfs/adiantum" // what the peer's tests import
	_ "github.com/ncruces/go-sqlite3/vfs/mvcc"
	_ "github.com/ncruces/go-sqlite3/vfs/xts"

	"github.com/pmemfs/pmemfs/internal/pooltest"
)

// peer runs tests of a package of the peer that has nothing but tests, with a file of testdata beside them, in a copy of the
// peer's module.
func peer(t *testing.T, folder string, args ...string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/ncruces/go-sqlite3").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	copied := filepath.Join(dir, "peer")
	err = os.CopyFS(copied, os.DirFS(strings.TrimSpace(string(out))))
	if err == nil {
		err = os.Chmod(filepath.Join(copied, "vfs", "tests", folder), 0o700)
	}
	for from, to := range map[string]string{
		filepath.Join("testdata", folder+".go.txt"): filepath.Join(copied, "vfs", "tests", folder, "pmemfs_test.go"),
		"go.mod": filepath.Join(dir, "go.mod"), "go.sum": filepath.Join(dir, "go.sum"),
	} {
		text, readErr := os.ReadFile(from)
		if from == "go.mod" {
			text = append(text, "\nreplace github.com/ncruces/go-sqlite3 => "+copied+"\n"...)
		}
		err = errors.Join(err, readErr, os.WriteFile(to, text, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"test", "-count=1", "-vet=off", "-v", "-modfile", filepath.Join(dir, "go.mod"),
		"github.com/ncruces/go-sqlite3/vfs/tests/" + folder}, args...)
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+pooltest.Dir(t))
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
