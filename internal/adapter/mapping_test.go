package adapter_test

import (
	"testing"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/adapter"
	"github.com/pmemfs/pmemfs/internal/pooltest"
)

func TestMain(m *testing.M) { pooltest.Main(m, nil) }

// TestPersistIsEnough: what the adapters have made durable is there after a power cut, under each commit policy, also in a part
// of a file that was a hole before.
func TestPersistIsEnough(t *testing.T) {
	for _, policy := range []pmemfs.CommitPolicy{pmemfs.CommitOp, pmemfs.CommitEvery(1e12)} {
		t.Run(policy.String(), func(t *testing.T) {
			pool := pooltest.New(t, 64<<20)
			fsys := pooltest.MustOpen(t, pool, pmemfs.PowerCut(0), pmemfs.Commit(policy))
			mappings := adapter.NewMappings(fsys)
			f, err := fsys.Create("file")
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Truncate(1 << 20); err != nil {
				t.Fatal(err)
			}
			m, err := mappings.Map(f, 512<<10, 512<<10)
			if err != nil {
				t.Fatal(err)
			}
			copy(m.Bytes()[1000:], "durable")
			copy(m.Bytes()[9000:], "not durable")
			if err := mappings.Persist(m, 1000, 7); err != nil {
				t.Fatal(err)
			}
			if _, err := fsys.CutPower(); err != nil {
				t.Fatal(err)
			}
			fsys.Close()
			text, err := pooltest.MustOpen(t, pool).ReadFile("file")
			if err != nil {
				t.Fatal(err)
			}
			if got := string(text[512<<10+1000:][:7]); got != "durable" {
				t.Errorf("it was made durable and is %q", got)
			}
			if got := text[512<<10+9000]; got != 0 {
				t.Errorf("it was not made durable and is %q: the power was not cut", got)
			}
		})
	}
}
