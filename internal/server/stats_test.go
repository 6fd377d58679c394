package server

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// TestOpNames: every operation has a name, and one of its own.
func TestOpNames(t *testing.T) {
	seen := map[string]wire.Op{"": 0}
	for op := wire.OpHello; op < wire.OpEnd; op++ {
		if other, used := seen[opNames[op]]; used {
			t.Errorf("operation %d is called %q, as is operation %d", op, opNames[op], other)
		}
		seen[opNames[op]] = op
	}
}

// counted asks for the numbers, by the protocol.
func (c rawClient) counted() (s Stats) {
	c.t.Helper()
	r := c.ask(&wire.Request{ID: 1, Op: wire.OpStats})
	if err := json.Unmarshal(r.Data, &s); err != nil || r.Errno != 0 {
		c.t.Fatal(err, r.Errno)
	}
	return s
}

// TestStats: what clients have asked for is counted, done or refused, and what became of it in the journal.
func TestStats(t *testing.T) {
	for name, policy := range map[string]CommitPolicy{"op": CommitOp, "interval=1h": CommitEvery(time.Hour)} {
		t.Run(name, func(t *testing.T) {
			o := Options{Commit: policy, Limits: Limits{Handles: 7}}
			s := newServer(t, o)
			c := connect(t, serving(t, s)).hello()
			before := c.counted()
			if before.Policy != policy || before.Policy.String() != name || before.Clients != 1 || before.Limits != o.Limits.withDefaults(s.report.DataSize) {
				t.Errorf("%+v", before)
			}
			if diff := cmp.Diff(map[string]uint64{"hello": 1, "stats": 1}, nonZero(before.Requests)); diff != "" {
				t.Error(diff)
			}
			for _, path := range []string{"a", "b", "c", "a"} {
				r := c.ask(&wire.Request{ID: 2, Op: wire.OpMkdir, Path: path, Mode: 0o755})
				if refused := path == "a" && r.Errno == uint16(unix.EEXIST); r.Errno != 0 && !refused {
					t.Fatal(r)
				}
			}
			after := c.counted()
			if diff := cmp.Diff(map[string]uint64{"hello": 1, "stats": 2, "mkdir": 4}, nonZero(after.Requests)); diff != "" {
				t.Error(diff)
			}
			j, was := after.Journal, before.Journal
			if policy == CommitOp {
				was.Commits, was.DurableLSN, was.Combined = was.Commits+3, j.HeadLSN, 1
			} else {
				was.Staged, was.StagedBytes = 3, int64(j.HeadLSN-was.HeadLSN)
			}
			was.Transactions += 3
			was.UsedBytes += int64(j.HeadLSN - was.HeadLSN)
			was.HeadLSN = j.HeadLSN
			if diff := cmp.Diff(was, j); diff != "" || j.HeadLSN == before.Journal.HeadLSN {
				t.Errorf("the journal after three directories (-want +got):\n%s", diff)
			}
			if after.Uptime <= before.Uptime {
				t.Errorf("up for %v, then for %v", before.Uptime, after.Uptime)
			}
		})
	}
}

func nonZero(m map[string]uint64) map[string]uint64 {
	some := map[string]uint64{}
	for name, n := range m {
		if n > 0 {
			some[name] = n
		}
	}
	return some
}

// TestStatsAfterClose: whoever still looks at a server that is closed, as metrics may, sees how it was.
func TestStatsAfterClose(t *testing.T) {
	s, err := Open(newPool(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	session, err := s.Local(nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := session.Do(&wire.Request{Op: wire.OpMkdir, Path: "d", Mode: 0o755}); r.Errno != 0 {
		t.Fatal(r)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Requests["mkdir"] != 1 || st.Journal.Transactions != 1 || st.Journal.UsedBytes != 0 || st.Clients != 0 {
		t.Errorf("%+v", st)
	}
}
