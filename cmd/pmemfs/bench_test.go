package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// benchRow is a row of a condition, by the name of its mapping.
func benchRow(t *testing.T, condition map[string]any, mapping string) map[string]any {
	t.Helper()
	for _, r := range condition["rows"].([]any) {
		if row := r.(map[string]any); row["mapping"] == mapping {
			return row
		}
	}
	t.Errorf("%v: there is no row %s", condition["name"], mapping)
	return nil
}

func TestBenchLatency(t *testing.T) {
	dir, out := memoryDir(t), t.TempDir()
	svg, page := filepath.Join(out, "latency.svg"), filepath.Join(out, "latency.md")
	object := parse(t, ok(t, "bench", "latency", "--stores", "2000", "--dir", dir, "--svg", svg, "--markdown", page,
		"--json"))
	conditions, _ := object["conditions"].([]any)
	if object["stores"] != 2000.0 || len(conditions) != 3 {
		t.Fatal(object)
	}
	for i, name := range []string{"quiet", "busy", "own"} {
		checkCondition(t, conditions[i].(map[string]any), name)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"](latency.svg)", "--stores 2000", "## Quiet", "## Busy", "## Own", `| Sync\|Populate |`, "| raw |",
	} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("there is no %q in the page", want)
		}
	}
	if plot, err := os.ReadFile(svg); err != nil || !bytes.Contains(plot, []byte(">own: ")) {
		t.Errorf("%v in %.100s", err, plot)
	}
	benchLeaves(t, dir)
	help := ok(t, "bench", "latency", "--help")
	names := map[string]bool{}
	keys(object, names)
	for name := range names {
		if !strings.Contains(help, name) {
			t.Errorf("the help does not name the field %q", name)
		}
	}
}

// checkCondition checks that everything was measured, and as often as it should be.
func checkCondition(t *testing.T, c map[string]any, name string) {
	t.Helper()
	if c["name"] != name {
		t.Errorf("condition %v stands where %s should be", c["name"], name)
	}
	done, refused := c["done"].(map[string]any), c["refused"].(map[string]any)
	sealed := capable()
	if why, _ := benchRow(t, c, "Direct")["unavailable"].(string); sealed != (why == "") {
		t.Errorf("%s: may seal: %v, Direct is unavailable: %q", name, sealed, why)
	}
	for _, mapping := range []string{"clock", "raw", "Direct", "Sync|Populate", "Sync"} {
		row := benchRow(t, c, mapping)
		if mapping == "Direct" && !sealed {
			continue
		}
		ns, _ := row["ns"].(map[string]any)
		if row["stores"] != 2000.0 || len(ns) != 6 {
			t.Errorf("%s: %s: %v", name, mapping, row)
		}
		before := 0.0
		for _, p := range []string{"p50", "p99", "p99_9", "p99_99", "max"} {
			now, _ := ns[p].(float64)
			if now < before || now <= 0 {
				t.Errorf("%s: %s: %s is %v after %v", name, mapping, p, ns[p], before)
			}
			before = now
		}
		if ratio, _ := row["to_direct"].(map[string]any); (ratio != nil) != (sealed && mapping != "clock") {
			t.Errorf("%s: %s: %v times Direct", name, mapping, ratio)
		}
	}
	want := map[string][]string{"busy": {"truncate", "relocate", "clone"}, "own": {"Sync", "Sync|Populate"}}[name]
	for _, operation := range want {
		if n, _ := done[operation].(float64); n == 0 {
			t.Errorf("%s: %s was never done: %v", name, operation, done)
		}
	}
	if n, _ := refused["Direct"].(float64); len(done) != len(want) || (n > 0) != (sealed && name == "own") {
		t.Errorf("%s: done %v, refused %v", name, done, refused)
	}
}

// benchLeaves checks that nothing is left in a directory, and no process that knows of it.
func benchLeaves(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
		t.Error(left, err)
	}
	if pids := processesNaming(t, dir); len(pids) > 0 {
		t.Errorf("processes %v were left behind", pids)
	}
}

func TestBenchQuietOnly(t *testing.T) {
	text := ok(t, "bench", "latency", "--stores", "100", "--dir", memoryDir(t), "--busy", "none")
	if !strings.Contains(text, "\nquiet: ") || strings.Contains(text, "\nbusy: ") || strings.Contains(text, "\nown: ") {
		t.Error(text)
	}
}

func TestBenchUsage(t *testing.T) {
	fails(t, exitUnable, []string{"which benchmark", "try: pmemfs bench"}, "bench")
	fails(t, exitUnable, []string{`no benchmark "fast"`}, "bench", "fast")
	fails(t, exitUnable, []string{"--stores is 0"}, "bench", "latency", "--stores", "0")
	fails(t, exitUnable, []string{"--busy is none or some of truncate"}, "bench", "latency", "--busy", "sleep")
	fails(t, exitUnable, []string{"no such file"}, "bench", "latency", "--svg", "/missing/plot.svg")
	fails(t, exitFailed, []string{"no such file"}, "bench", "latency", "--dir", "/missing")
}

// TestBenchOnDisk: a medium without Sync mappings has nothing to measure.
func TestBenchOnDisk(t *testing.T) {
	dir := t.TempDir()
	if medium := parse(t, ok(t, "info", dir, "--json"))["medium"].(map[string]any); medium["granularity"] != "page" {
		t.Skip("this machine's directory for temporary files is memory")
	}
	fails(t, exitUnable, []string{"by a system call only", "try: --dir"}, "bench", "latency", "--dir", dir)
	fails(t, exitUnable, []string{"by a system call only", "try: --pool"}, "bench", "ways", "--pool", dir, "--dir", dir)
	benchLeaves(t, dir)
}

// startBench starts a benchmark that takes long, and returns when it has begun to serve its pool.
func startBench(t *testing.T, dir string, stderr *bytes.Buffer, args ...string) *exec.Cmd {
	t.Helper()
	cmd := command(args...)
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	t.Cleanup(func() { kill.Stop(); cmd.Process.Kill(); cmd.Wait() })
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if sockets, _ := filepath.Glob(filepath.Join(dir, "*", "socket")); len(sockets) > 0 {
			return cmd
		}
		if time.Now().After(deadline) {
			t.Fatal("no server")
		}
	}
}

func TestBenchInterrupted(t *testing.T) {
	dir := memoryDir(t)
	for _, after := range []time.Duration{0, 100, 700} {
		var stderr bytes.Buffer
		cmd := startBench(t, dir, &stderr, "bench", "latency", "--dir", dir)
		time.Sleep(after * time.Millisecond) // a moment, whatever it is doing then
		cmd.Process.Signal(syscall.SIGINT)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != exitFailed || strings.Contains(stderr.String(), "goroutine ") {
			t.Errorf("exit code %d\n%s", code, stderr.String())
		}
		benchLeaves(t, dir)
	}
}

// TestBenchServerKilled: what was measured without a server would be of no use.
func TestBenchServerKilled(t *testing.T) {
	dir := memoryDir(t)
	var stderr bytes.Buffer
	cmd := startBench(t, dir, &stderr, "bench", "latency", "--dir", dir)
	for _, name := range processesNaming(t, dir) {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		line, readErr := os.ReadFile(name)
		if err == nil && readErr == nil && bytes.Contains(line, []byte("\x00serve\x00")) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(stderr.String(), "server") {
		t.Errorf("exit code %d\n%s", code, stderr.String())
	}
	benchLeaves(t, dir)
}

func TestBenchMount(t *testing.T) {
	needMount(t)
	dir, page := memoryDir(t), filepath.Join(t.TempDir(), "mount.md")
	object := parse(t, ok(t, "bench", "mount", "--files", "20", "--bytes", "1M", "--rounds", "1", "--dir", dir, "--markdown", page, "--json"))
	rows, _ := object["rows"].([]any)
	if len(rows) != 11 {
		t.Error(object)
	}
	for _, r := range rows {
		row := r.(map[string]any)
		for _, field := range []string{"mount_ns", "loopback_ns", "passthrough_ns", "ratio"} {
			if ns, _ := row[field].(float64); ns <= 0 {
				t.Errorf("%s of %v is %v", field, row["operation"], ns)
			}
		}
	}
	if text, err := os.ReadFile(page); err != nil || !bytes.Contains(text, []byte("| read 4 KiB, O_DIRECT |")) {
		t.Errorf("%v in %s", err, text)
	}
	benchLeaves(t, dir)
	help := ok(t, "bench", "mount", "--help")
	names := map[string]bool{}
	keys(object, names)
	for name := range names {
		if !strings.Contains(help, name) {
			t.Errorf("the help does not name the field %q", name)
		}
	}
}

// partRows checks the object of a comparison, and returns the figures by what is done and by whom.
func partRows(t *testing.T, object map[string]any, help string) map[string]map[string]map[string]any {
	t.Helper()
	found := map[string]map[string]map[string]any{}
	for _, r := range object["rows"].([]any) {
		row := r.(map[string]any)
		what, peer := row["what"].(string), row["peer"].(string)
		if found[what] == nil {
			found[what] = map[string]map[string]any{}
		}
		if found[what][peer] != nil {
			t.Errorf("%s by %s is there twice", what, peer)
		}
		found[what][peer] = row
		q1, median, q3 := row["q1"].(float64), row["median"].(float64), row["q3"].(float64)
		if row["unit"] != "ns" || q1 <= 0 || q1 > median || median > q3 {
			t.Errorf("%s by %s: %v", what, peer, row)
		}
		if limit, _ := row["limit"].(float64); limit <= 0 || row["ratio"] != median/limit {
			t.Errorf("%s by %s is %v times its limit of %v", what, peer, row["ratio"], limit)
		}
	}
	names := map[string]bool{}
	keys(object, names)
	for name := range names {
		if !strings.Contains(help, name) {
			t.Errorf("the help does not name the field %q", name)
		}
	}
	return found
}

func TestBenchMetadata(t *testing.T) {
	dir := memoryDir(t)
	args := []string{"bench", "metadata", "--pool", dir, "--dir", dir, "--files", "64", "--rounds", "2", "--time", "1ms", "--json"}
	want := []string{"raw", "pmemfs embedded", "pmemfs served", "tmpfs"}
	synced := os.Geteuid() == 0 && exec.Command("mkfs.ext4", "-V").Run() == nil
	if synced {
		args, want = append(args, "--ext4", dir), append(want, "ext4 in memory", "ext4 in memory, fsync")
	} else {
		t.Log("SKIPPED: ext4 on a loop device: it takes root and mkfs.ext4 (apt-get install e2fsprogs)")
	}
	found := partRows(t, parse(t, ok(t, args...)), ok(t, "bench", "metadata", "--help"))
	if len(found) != 7 {
		t.Errorf("%d operations", len(found))
	}
	for what, peers := range found {
		for _, peer := range want {
			row := peers[peer]
			if row == nil {
				if what != "stat" || !strings.HasSuffix(peer, "fsync") {
					t.Errorf("%s by %s is missing", what, peer)
				}
				continue
			}
			durable := peer != "tmpfs" && peer != "ext4 in memory"
			if row["durable"] != durable {
				t.Errorf("%s by %s: durable is %v", what, peer, row["durable"])
			}
		}
	}
	benchLeaves(t, dir)
	if mounts, err := os.ReadFile("/proc/mounts"); err != nil || bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("%v; mounts are left below %s", err, dir)
	}
}

// TestBenchProfile: the parts of each whole are there, and what they leave.
func TestBenchProfile(t *testing.T) {
	dir := memoryDir(t)
	object := parse(t, ok(t, "bench", "profile", "--pool", dir, "--rounds", "2", "--time", "1ms", "--json"))
	want := map[string][]string{
		"first store to a page of a hole, through a Sync mapping":  {"all of it", "round trip", "file system", "of that: zeros", "of that: a transaction", "map", "the rest"},
		"create and close of a file, in the program's own process": {"all of it", "file system", "of that: a name", "of that: a transaction", "of that: the record", "the rest"},
		"create and close of a file, through a server":             {"all of it", "the rest"},
	}
	found := map[string][]string{}
	for _, r := range object["rows"].([]any) {
		row := r.(map[string]any)
		what, peer := row["what"].(string), row["peer"].(string)
		found[what] = append(found[what], peer)
		if row["unit"] != "ns" || row["durable"] != (peer == "all of it") || row["median"].(float64) <= 0 && peer != "the rest" {
			t.Errorf("%s: %v", what, row)
		}
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("-want +found:\n%s", diff)
	}
	benchLeaves(t, dir)
}

func TestBenchWays(t *testing.T) {
	dir := memoryDir(t)
	object := parse(t, ok(t, "bench", "ways", "--pool", dir, "--dir", dir, "--size", "4M", "--rounds", "2", "--time", "1ms", "--json"))
	found := partRows(t, object, ok(t, "bench", "ways", "--help"))
	const update = "durable update of 64 bytes at a random place"
	pools := map[string]map[string]bool{update: {}} // what is done: which of pmemfs's ways there are
	for _, how := range []string{"write, fsync", "Shared, Sync call", "Unchecked, Persist"} {
		pools[update]["pmemfs embedded: "+how], pools[update]["pmemfs served: "+how] = true, true
	}
	for _, how := range []string{"Sync, Persist", "Sync|Populate, Persist", "Sync, first touch of a hole", "Sync, first touch of written blocks"} {
		pools[update]["pmemfs served: "+how] = true
	}
	if capable() {
		pools[update]["pmemfs embedded: Direct, Persist"], pools[update]["pmemfs served: Direct, Persist"] = true, true
	}
	for what, peers := range found {
		want := map[string]bool{"raw": true}
		if pools[what] == nil {
			want["pmemfs served: Sync"] = true
		}
		for peer := range pools[what] {
			want[peer] = true
		}
		for peer, row := range peers {
			if kernel := strings.HasPrefix(peer, "tmpfs: "); row["durable"] == kernel || want[peer] == kernel {
				t.Errorf("%s by %s: durable is %v", what, peer, row["durable"])
			}
			delete(want, peer)
		}
		if len(want) > 0 {
			t.Errorf("%s: missing: %v", what, want)
		}
	}
	if n := len(found); n != 7 {
		t.Errorf("%d things were measured", n)
	}
	benchLeaves(t, dir)
}

// TestBenchCompareInterrupted: whatever it is doing, mounts and processes go as well.
func TestBenchCompareInterrupted(t *testing.T) {
	for _, name := range []string{"ways", "metadata"} {
		dir := memoryDir(t)
		args := []string{"bench", name, "--pool", dir, "--dir", dir, "--rounds", "1000"}
		if os.Geteuid() == 0 {
			args = append(args, "--ext4", dir)
		}
		if name == "ways" {
			args = append(args, "--size", "16M")
		}
		for _, after := range []time.Duration{0, 300, 1500} {
			var stderr bytes.Buffer
			cmd := startBench(t, dir, &stderr, args...)
			time.Sleep(after * time.Millisecond)
			cmd.Process.Signal(syscall.SIGINT)
			cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != exitFailed || strings.Contains(stderr.String(), "goroutine ") {
				t.Errorf("%s: exit code %d\n%s", name, code, stderr.String())
			}
			benchLeaves(t, dir)
		}
	}
}

func TestBenchCompareUsage(t *testing.T) {
	fails(t, exitUnable, []string{"--rounds must be"}, "bench", "metadata", "--rounds", "0")
	fails(t, exitUnable, []string{"--size must be"}, "bench", "ways", "--size", "3M")
	fails(t, exitUnable, []string{"--files must be"}, "bench", "metadata", "--files", "0")
	fails(t, exitFailed, []string{"no such file"}, "bench", "metadata", "--pool", memoryDir(t), "--dir", "/missing")
}
