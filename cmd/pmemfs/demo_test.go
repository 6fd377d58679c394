package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallTree is what a short demo imports.
func smallTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"a/one", "a/b/two", "three"} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(strings.Repeat(name, 1000)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// demoDirs lists what demos have left in memory.
func demoDirs(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("/dev/shm/pmemfs-demo-*")
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

func TestDemo(t *testing.T) {
	before := demoDirs(t)
	o := run(t, "demo", smallTree(t), "--quick", "--json")
	r := parse(t, o.stdout)
	if o.code != exitOK {
		t.Errorf("exit code %d\n%s\n%s", o.code, o.stdout, o.stderr)
	}
	for name, want := range map[string]float64{
		"files": 3, "writer_kills": 2, "server_kills": 1, "records_lost": 0, "check_errors": 0, "files_differing": 0, "writers": 2,
	} {
		if r[name] != want {
			t.Errorf("%s: %v, want %v", name, r[name], want)
		}
	}
	for name, least := range map[string]float64{
		"bytes": 1000, "records_acknowledged": 1000, "sync_fault_us": 0.1, "durable_store_ns": 1, "write_fsync_us": 0.1,
		"shared_sync_us": 0.001, "seconds": 0.01, "truncations": 1, "writers_survived": 1,
	} {
		if got, _ := r[name].(float64); got < least {
			t.Errorf("%s: %v, want at least %v", name, r[name], least)
		}
	}
	for _, dir := range demoDirs(t) {
		if !slices.Contains(before, dir) {
			t.Errorf("%s was left behind", dir)
		}
	}
}

// TestDemoOnDisk is the demo on a medium that has no Sync mappings.
func TestDemoOnDisk(t *testing.T) {
	dir := t.TempDir()
	o := run(t, "demo", smallTree(t), "--quick", "--dir", dir)
	if o.code != exitOK || !strings.Contains(o.stdout, "nothing is left behind") || !strings.Contains(o.stdout, "lost: 0") {
		t.Errorf("exit code %d\n%s\n%s", o.code, o.stdout, o.stderr)
	}
	if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
		t.Error(left, err)
	}
}

func TestDemoInterrupted(t *testing.T) {
	dir := memoryDir(t)
	for _, after := range []time.Duration{50, 300, 800} {
		cmd := command("demo", smallTree(t), "--dir", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after * time.Millisecond) // a moment, whatever it is doing then
		cmd.Process.Signal(syscall.SIGINT)
		ended := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		ended.Stop()
		if code := cmd.ProcessState.ExitCode(); code != exitFailed && cmd.ProcessState.Exited() {
			t.Errorf("exit code %d", code)
		}
		if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
			t.Error(left, err)
		}
		// Its processes would hold the directory's files, and their command lines name it.
		if pids := processesNaming(t, dir); len(pids) > 0 {
			t.Errorf("processes %v were left behind", pids)
		}
	}
	fails(t, exitFailed, []string{"no such file"}, "demo", "/missing/tree", "--dir", dir)
}

// processesNaming returns processes whose command line has a text in it, other than this one.
func processesNaming(t *testing.T, text string) (found []string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range lines {
		content, err := os.ReadFile(name)
		if err == nil && strings.Contains(string(content), text) {
			found = append(found, name)
		}
	}
	return found
}
