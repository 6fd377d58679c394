package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

// numbers are what "pmemfs stat" says of an owner.
func numbers(t *testing.T, pool string) (s pmemfs.Stats) {
	t.Helper()
	if err := json.Unmarshal([]byte(ok(t, "stat", pool, "--json")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func dial(t *testing.T, socket string) *pmemfs.FS {
	t.Helper()
	fsys, err := pmemfs.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() })
	return fsys
}

// createSome makes files, which takes a transaction each, and returns the last one.
func createSome(t *testing.T, fsys *pmemfs.FS, n int) (last *pmemfs.File) {
	t.Helper()
	for i := range n {
		f, err := fsys.Create(fmt.Sprint("file", i))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		last = f
	}
	return last
}

// TestCommitPolicies: what a policy means shows in the journal's numbers; which one it is, wherever a server tells of itself.
func TestCommitPolicies(t *testing.T) {
	const n = 50
	shown := func(t *testing.T, s *served, policy string) {
		t.Helper()
		if !strings.Contains(s.ready, "; commit policy "+policy+"\n") {
			t.Errorf("the server says %q", s.ready)
		}
		if object := parse(t, ok(t, "info", s.socket, "--json")); object["commit"] != policy {
			t.Error(object["commit"])
		}
		for _, verb := range []string{"info", "stat"} {
			if text := ok(t, verb, s.socket); !strings.Contains(text, "\ncommit:      "+policy+": ") {
				t.Errorf("%s:\n%s", verb, text)
			}
		}
		if got := numbers(t, s.socket).Policy.String(); got != policy {
			t.Error(got)
		}
	}
	t.Run("op", func(t *testing.T) {
		s := startServer(t, newPool(t)) // in memory it is the default
		shown(t, s, "op")
		before := numbers(t, s.socket).Journal
		createSome(t, dial(t, s.socket), n)
		j := numbers(t, s.socket).Journal
		if j.Transactions-before.Transactions != n || j.Commits-before.Commits != n || j.Combined != 1 || j.Staged != 0 || j.DurableLSN != j.HeadLSN {
			t.Errorf("%d files: %+v, then %+v", n, before, j)
		}
	})
	t.Run("interval", func(t *testing.T) {
		s := startServer(t, newPool(t), "--commit", "interval=1h")
		shown(t, s, "interval=1h")
		before := numbers(t, s.socket).Journal
		last := createSome(t, dial(t, s.socket), n)
		j := numbers(t, s.socket).Journal
		if j.Transactions-before.Transactions != n || j.Staged != n || j.Commits != before.Commits || j.StagedBytes == 0 || j.DurableLSN != before.DurableLSN {
			t.Errorf("%d files are staged: %+v, then %+v", n, before, j)
		}
		if text := ok(t, "stat", s.socket); !strings.Contains(text, fmt.Sprintf("\nstaged:      %d transactions of ", n)) {
			t.Error(text)
		}
		if err := last.Sync(); err != nil {
			t.Fatal(err)
		}
		j = numbers(t, s.socket).Journal
		if j.Commits-before.Commits != 1 || j.Combined != n || j.Staged != 0 || j.StagedBytes != 0 || j.DurableLSN != j.HeadLSN {
			t.Errorf("%d files and a sync: %+v, then %+v", n, before, j)
		}
	})
	socket := filepath.Join(memoryDir(t), "socket")
	for policy, text := range map[string]string{"often": "must be op, interval", "interval=1ns": "must be 1ms to 1h"} {
		fails(t, exitUnable, []string{text, "--help"}, "serve", "pool", "--socket", socket, "--commit", policy)
	}
}

// TestFaultsAreCounted: each access that had to ask the server counts once, by what became of it.
func TestFaultsAreCounted(t *testing.T) {
	s := startServer(t, newPool(t))
	put(t, s.socket, "f", strings.Repeat("x", 16<<10))
	f := openFile(t, s.socket, "f")
	m, err := f.Map(0, 16<<10, pmemfs.Sync)
	if err != nil {
		t.Fatal(err)
	}
	look, err := f.Map(0, 16<<10, pmemfs.Shared|pmemfs.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	want := pmemfs.FaultStats{}
	check := func(when string, breaks int64) {
		t.Helper()
		s := numbers(t, s.socket)
		if s.Faults != want || s.Frames.Breaks != breaks {
			t.Errorf("%s: %+v and %d breaks, want %+v and %d", when, s.Faults, s.Frames.Breaks, want, breaks)
		}
	}
	check("mapped", 0)
	m.Bytes()[0] = 1 // the whole run is granted
	m.Bytes()[8192] = 1
	want.Write++
	check("stored", 0)
	if look.Bytes()[1] != 'x' {
		t.Error("something else is read")
	}
	want.Read++
	check("read", 0)
	if err := f.Truncate(4096); err != nil { // both mappings are of one client, which is asked once
		t.Fatal(err)
	}
	check("cut off", 1)
	if err := pmemfs.Catch(func() { m.Bytes()[8192] = 2 }); !errors.Is(err, unix.ENXIO) {
		t.Errorf("a store beyond the end: %v", err)
	}
	want.Failed++
	check("beyond the end", 1)
	text := ok(t, "stat", s.socket)
	for _, line := range []string{"read faults 1", "write faults 1", "failed faults 1", "breaks 1", "requests: map 2"} {
		if !strings.Contains(strings.Join(strings.Fields(text), " "), line) {
			t.Errorf("there is no %q in\n%s", line, text)
		}
	}
	if err := errors.Join(m.Unmap(), look.Unmap()); err != nil {
		t.Error(err)
	}
}

// TestPopulateIsCounted: where nobody resolves page faults, runs that are asked for count as such.
func TestPopulateIsCounted(t *testing.T) {
	pool := newPool(t)
	put(t, pool, "f", strings.Repeat("x", 16<<10))
	fsys, err := pmemfs.Open(pool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() })
	f, err := fsys.OpenFile("f", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, flags := range []pmemfs.MapFlags{pmemfs.Shared | pmemfs.Populate, pmemfs.Shared | pmemfs.Populate | pmemfs.ReadOnly} {
		if _, err := f.Map(0, 16<<10, flags); err != nil {
			t.Fatal(err)
		}
	}
	s, err := fsys.Stats()
	if want := (pmemfs.FaultStats{Read: 1, Write: 1}); err != nil || s.Faults != want {
		t.Errorf("%+v, %v", s.Faults, err)
	}
}

// TestStatOfOwner: the numbers of a pool that this process opens, and what does not go together.
func TestStatOfOwner(t *testing.T) {
	eachWay(t, func(t *testing.T, pool string) {
		object := parse(t, ok(t, "stat", pool, "--json"))
		documented(t, "stat", object)
		if _, served := object["socket"]; object["uuid"] == "" || object["pool"] == "" || served == (object["pool"] == pool) {
			t.Error(object)
		}
		ok(t, "mkdir", pool, "d")
		if text := ok(t, "stat", pool); !strings.Contains(text, "\njournal:     1.0 MiB, ") || !strings.Contains(text, "\ntransactions per commit ") {
			t.Error(text)
		}
		fails(t, exitUnable, []string{"--dereference goes with PATH"}, "stat", "-L", pool)
		fails(t, exitUnable, []string{"with neither PATH nor --json"}, "stat", pool, "d", "--watch", "1s")
	})
	pool := newPool(t)
	fails(t, exitUnable, []string{"goes with the socket of a server"}, "stat", pool, "--watch", "1s")
	s := startServer(t, pool)
	if o := run(t, "stat", s.socket, "--watch", "1ms"); o.code != exitUnable || !strings.Contains(o.stderr, "at least 100ms") {
		t.Errorf("%+v", o)
	}
}

// TestWatch: the numbers come again, with rates, until somebody interrupts it or the server ends.
func TestWatch(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(s *served, watch *os.Process)
		code int
	}{
		"interrupted": {func(_ *served, watch *os.Process) { watch.Signal(syscall.SIGINT) }, exitOK},
		"server ends": {func(s *served, _ *os.Process) { s.stop(syscall.SIGTERM) }, exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, newPool(t))
			cmd := command("stat", s.socket, "--watch", "100ms")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
			pages, rates := 0, 0
			in := bufio.NewScanner(out)
			for (pages < 3 || rates < 2) && in.Scan() {
				if strings.HasPrefix(in.Text(), "pool:") {
					pages++
				}
				if fields := strings.Fields(in.Text()); strings.HasPrefix(in.Text(), "requests: stats ") && len(fields) == 4 && fields[3] != "0.0" {
					rates++
				}
			}
			if pages < 3 || rates < 2 {
				t.Errorf("it came %d times, %d with rates", pages, rates)
			}
			c.end(s, cmd.Process)
			for in.Scan() {
			}
			cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("exit code %d", code)
			}
		})
	}
}
