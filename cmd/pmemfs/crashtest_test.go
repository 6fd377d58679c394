package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCrashtest(t *testing.T) {
	got := parse(t, ok(t, "crashtest", "--depth", "2", "--time", "1s", "--json"))
	for _, field := range []string{"sequences", "epochs", "images"} {
		if n, _ := got[field].(float64); n == 0 {
			t.Errorf("%s is %v", field, got[field])
		}
	}
	if got["violations"] != 0.0 || got["complete"] != false {
		t.Errorf("%v violations, complete: %v", got["violations"], got["complete"])
	}
	if got["policy"] != "op" || got["medium"] != "cpu-cache" {
		t.Errorf("by default policy %v on medium %v", got["policy"], got["medium"])
	}
}

// TestCrashtestSettings: the policy and the medium that are asked for are tried, and no others are there.
func TestCrashtestSettings(t *testing.T) {
	got := parse(t, ok(t, "crashtest", "--depth", "1", "--time", "1s", "--policy", "interval", "--medium", "page-cache", "--json"))
	if got["policy"] != "interval" || got["medium"] != "page-cache" || got["sequences"] == 0.0 || got["violations"] != 0.0 {
		t.Error(got)
	}
	fails(t, 2, []string{"op or interval"}, "crashtest", "--policy", "never")
	fails(t, 2, []string{"cpu-cache or page-cache"}, "crashtest", "--medium", "paper")
}

// TestCrashtestReplay runs a case with a fault put in on purpose, and without.
func TestCrashtestReplay(t *testing.T) {
	const good = "pmemfs crash case 1\nop write /a/x 0 100\n"
	for _, tc := range []struct {
		name, text string
		code       int
		want       string
	}{
		{"good", good, 0, "0 violations"},
		{"bad", good + "mutant written data not fenced\n", 1, "a power cut leaves what it must not"},
		{"staged", good + "setting interval page-cache\nop sync /a/x\n", 0, "0 violations"},
		{"unknown setting", good + "setting never paper\n", 2, "op or interval"},
		{"no case", "hello\n", 2, "line 1: not a crash case"},
		{"no operation", "pmemfs crash case 1\n", 2, "it has no operations"},
		{"unknown operation", good + "op fly /a\n", 2, "line 3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "a.case")
			if err := os.WriteFile(file, []byte(tc.text), 0o644); err != nil {
				t.Fatal(err)
			}
			got := run(t, "crashtest", "--replay", file)
			if got.code != tc.code || !strings.Contains(got.stdout+got.stderr, tc.want) {
				t.Errorf("code %d\n%s%s", got.code, got.stdout, got.stderr)
			}
		})
	}
	fails(t, 2, []string{"no such file"}, "crashtest", "--replay", filepath.Join(t.TempDir(), "none"))
	fails(t, 2, []string{"depth"}, "crashtest", "--depth", "9")
}

// TestCrashtestInterrupted: what was done so far is told.
func TestCrashtestInterrupted(t *testing.T) {
	cmd := command("crashtest", "--depth", "2", "--json")
	var stdout strings.Builder
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	object := parse(t, stdout.String())
	if object["complete"] != false || object["sequences"] == 0.0 {
		t.Error(stdout.String())
	}
}
