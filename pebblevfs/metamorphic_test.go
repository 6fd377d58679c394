package pebblevfs_test

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/metamorphic"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/pebblevfs"
)

var (
	operations = flag.Uint64("operations", 1000, "of each run of the metamorphic test; Pebble's own default is 5,000 to 15,000")

	// Flags that Pebble's metamorphic package calls the test binary with, once for each set of options.
	runDir    = flag.String("run-dir", "", "of one run")
	_         = flag.Bool("keep", false, "of one run")
	opTimeout = flag.Duration("op-timeout", time.Minute, "of one run")
	_         = flag.String("key-format", "", "of one run")
)

type fixed uint64

func (n fixed) Uint64(*rand.Rand) uint64 { return uint64(n) }

// TestMetamorphic is Pebble's metamorphic test: the same random operations on databases with some thirty sets of random
// options, each in an embedded pool of its own, must have the same outcome.
func TestMetamorphic(t *testing.T) {
	if *runDir == "" {
		metamorphic.RunAndCompare(t, t.TempDir(), metamorphic.TestkeysKeyFormat, metamorphic.UseDisk, metamorphic.OpCount(fixed(*operations)))
		return
	}
	// Strict runs restart the database after a crash that only Pebble's own memory file system can simulate.
	options := filepath.Join(*runDir, "OPTIONS")
	text, err := os.ReadFile(options)
	if err == nil {
		err = os.WriteFile(options, bytes.ReplaceAll(text, []byte("strictfs=true\n"), nil), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	pool := pooltest.New(t, 1<<30)
	defer os.RemoveAll(filepath.Dir(pool)) // RunOnce may call os.Exit
	fsys, err := pmemfs.Open(pool)
	if err != nil {
		t.Fatal(err)
	}
	vfs.Default = pebblevfs.New(fsys) // what a run with UseDisk is on
	metamorphic.RunOnce(t, *runDir, 0, filepath.Join(*runDir, "history"), metamorphic.TestkeysKeyFormat, metamorphic.OpTimeout(*opTimeout))
	if err := fsys.Close(); err != nil {
		t.Error(err)
	}
	pooltest.Check(t, pool)
}
