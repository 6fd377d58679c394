package main

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestPowerCut cuts the power of a server twice: what was done is there, in the server and then in the pool at rest.
func TestPowerCut(t *testing.T) {
	pool := newPool(t)
	s := startServer(t, pool, "--power-cut=7")
	if !strings.Contains(s.ready, "EMULATED, with power cuts") {
		t.Errorf("the server does not say that it emulates: %s", s.ready)
	}
	info := parse(t, ok(t, "info", s.socket, "--json"))["medium"].(map[string]any)
	if info["power_cut"] != true || info["emulated"] != true || info["granularity"] != "cache-line" {
		t.Error(info)
	}
	if text := ok(t, "info", s.socket); !strings.Contains(text, "emulation of power cuts") {
		t.Error(text)
	}
	put(t, s.socket, "letter", "Dear reader")
	text := ok(t, "powercut", s.socket)
	if !strings.Contains(text, "power cut 1: ") || !strings.Contains(text, "seed 7") || !strings.Contains(text, "is back") {
		t.Error(text)
	}
	object := parse(t, ok(t, "powercut", s.socket, "--json"))
	documented(t, "powercut", object)
	if object["cut"] != 2.0 || object["socket"] != s.socket || object["seed"] != 7.0 {
		t.Error(object)
	}
	if got := ok(t, "cat", s.socket, "letter"); got != "Dear reader" {
		t.Errorf("%q", got)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil || strings.Count(s.stderr.String(), "the power was cut, and is back\n") != 2 {
		t.Errorf("the server ended with %v\n%s", err, s.stderr.String())
	}
	ok(t, "check", pool)
	if got := ok(t, "cat", pool, "letter"); got != "Dear reader" {
		t.Errorf("%q", got)
	}
}

// TestPowerCutRefused: a server that was not started for it goes on as if nobody had asked.
func TestPowerCutRefused(t *testing.T) {
	pool := newPool(t)
	s := startServer(t, pool)
	fails(t, exitUnable, []string{"emulated only where", "--power-cut"}, "powercut", s.socket)
	put(t, s.socket, "still", "there")
	fails(t, exitUnable, []string{"not the socket", "pmemfs serve"}, "powercut", pool)
	s.stop(syscall.SIGTERM)
	socket := filepath.Join(memoryDir(t), "socket")
	fails(t, exitUnable, []string{"a seed is a number"}, "serve", pool, "--socket", socket, "--power-cut=never")
	fails(t, exitUnable, []string{"read-only"}, "serve", pool, "--socket", socket, "--power-cut", "--read-only")
}
