package main

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestAssumePersistent: a server that takes a disk for memory warns, and everybody who asks is told.
func TestAssumePersistent(t *testing.T) {
	pool := filepath.Join(t.TempDir(), "pool")
	ok(t, "mkfs", pool, "--size", "32M")
	if m := parse(t, ok(t, "info", pool, "--json"))["medium"].(map[string]any); m["granularity"] != "page" {
		t.Skipf("SKIPPED: %s is not behind a page cache but %v; set TMPDIR to a directory on a disk", pool, m["kind"])
	}
	s := startServer(t, pool, "--assume-persistent", "--require", "cache-line")
	if !strings.Contains(s.ready, "ASSUMED PERSISTENT") || !strings.Contains(s.ready, "commit policy op") {
		t.Errorf("the server does not say what it assumes: %s", s.ready)
	}
	for _, says := range []string{"ASSUMED PERSISTENT", "do not survive power loss", "ALTHOUGH IT IS NOT", "Sync, Direct"} {
		if text := ok(t, "info", s.socket); !strings.Contains(text, says) {
			t.Errorf("info does not say %q: %s", says, text)
		}
	}
	object := parse(t, ok(t, "info", s.socket, "--json"))
	documented(t, "info", object)
	if m := object["medium"].(map[string]any); m["assumed"] != true || m["granularity"] != "cache-line" || object["commit"] != "op" {
		t.Error(object)
	}
	put(t, s.socket, "letter", "Dear reader")
	wantWarning(t, s, "WARNING")
	if got := ok(t, "cat", pool, "letter"); got != "Dear reader" {
		t.Errorf("%q", got)
	}
	if text := ok(t, "info", pool); strings.Contains(text, "ASSUMED") {
		t.Errorf("the pool is still assumed to be what it is not: %s", text)
	}
}

// TestAssumePersistentNeedless: where it is not needed a server says so, and it is not mixed with what emulates a medium.
func TestAssumePersistentNeedless(t *testing.T) {
	pool := newPool(t)
	s := startServer(t, pool, "--assume-persistent")
	if text := ok(t, "info", s.socket); strings.Contains(text, "ASSUMED") || !strings.Contains(text, "not needed") {
		t.Error(text)
	}
	wantWarning(t, s, "need not be assumed")
	fails(t, exitUnable, []string{"--power-cut", "--assume-persistent"},
		"serve", pool, "--socket", filepath.Join(memoryDir(t), "socket"), "--power-cut", "--assume-persistent")
}

// wantWarning ends a server, which has said one thing.
func wantWarning(t *testing.T, s *served, says string) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := s.cmd.Wait()
	if text := s.stderr.String(); err != nil || strings.Count(text, "\n") != 1 || !strings.Contains(text, says) {
		t.Errorf("the server ended with %v and has said %q", err, text)
	}
}
