package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pmemfs/pmemfs/internal/rerun"
)

// The test binary is the command when this variable is set. What it starts (the demo's server and writers) inherits it.
const commandVariable = "PMEMFS_TEST_COMMAND"

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) {
	if os.Getenv(commandVariable) == "" {
		os.Exit(m.Run())
	}
	time.AfterFunc(2*time.Minute, func() { os.Exit(3) }) // nothing that a test starts may outlive it for long
	main()
}

// outcome is what a command did.
type outcome struct {
	stdout, stderr string
	code           int
}

// command prepares the command with arguments.
func command(args ...string) *exec.Cmd {
	cmd := rerun.Self(args...)
	// The race detector waits a second at the end of each process, unless told not to.
	cmd.Env = append(os.Environ(), commandVariable+"=1", "TZ=UTC", "GORACE=atexit_sleep_ms=0")
	return cmd
}

func execute(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	o := outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	if strings.Contains(o.stderr, "goroutine ") {
		t.Errorf("%q printed a stack trace:\n%s", cmd.Args[1:], o.stderr)
	}
	return o
}

func run(t *testing.T, args ...string) outcome {
	t.Helper()
	return execute(t, command(args...))
}

// ok runs a command that must succeed, and returns its standard output.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	o := run(t, args...)
	if o.code != exitOK || o.stderr != "" {
		t.Fatalf("%q: exit code %d\n%s", args, o.code, o.stderr)
	}
	return o.stdout
}

// fails runs a command that must fail with an exit code and a message that has all the texts in it.
func fails(t *testing.T, code int, texts []string, args ...string) {
	t.Helper()
	o := run(t, args...)
	check := func(out string) {
		t.Helper()
		for _, text := range texts {
			if !strings.Contains(out, text) {
				t.Errorf("%q: there is no %q in\n%s", args, text, out)
			}
		}
	}
	if o.code != code {
		t.Errorf("%q: exit code %d, want %d\n%s", args, o.code, code, o.stderr)
	}
	check(o.stderr)
	o = run(t, append([]string{"--json"}, args...)...)
	if o.code != code {
		t.Errorf("%q with --json: exit code %d, want %d", args, o.code, code)
	}
	object := parse(t, o.stdout)
	problem, _ := object["error"].(map[string]any)
	try, _ := problem["try"].(string)
	text, _ := problem["message"].(string)
	if text == "" {
		t.Errorf("%q with --json: no error in %s", args, o.stdout)
	}
	check(text + "\ntry: " + try)
}

// parse parses exactly one JSON object.
func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var object map[string]any
	d := json.NewDecoder(strings.NewReader(text))
	if err := d.Decode(&object); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	if _, err := d.Token(); err != io.EOF {
		t.Fatalf("there is something behind the object in %q", text)
	}
	return object
}

// memoryDir is a directory in memory.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pmemfs-cmd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// newPool makes a pool in memory.
func newPool(t *testing.T, flags ...string) string {
	t.Helper()
	pool := filepath.Join(memoryDir(t), "pool")
	ok(t, append([]string{"mkfs", pool, "--size", "64M"}, flags...)...)
	return pool
}

// served is a server in a process of its own.
type served struct {
	t      *testing.T
	cmd    *exec.Cmd
	socket string
	ready  string // what it printed
	stderr bytes.Buffer
}

// startServer serves a pool.
func startServer(t *testing.T, pool string, flags ...string) *served {
	t.Helper()
	s := &served{t: t, socket: filepath.Join(memoryDir(t), "socket")}
	s.cmd = command(append([]string{"serve", pool, "--socket", s.socket, "--runtime-dir", filepath.Dir(s.socket)}, flags...)...)
	s.cmd.Stderr = &s.stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Process.Kill(); s.cmd.Wait() })
	s.ready = readReady(t, out)
	return s
}

// readReady reads a line, or an object.
func readReady(t *testing.T, out io.Reader) string {
	t.Helper()
	var text []byte
	for b := make([]byte, 1); ; {
		if _, err := out.Read(b); err != nil {
			t.Fatalf("the server has ended after %q", text)
		}
		text = append(text, b...)
		if b[0] == '\n' && (text[0] != '{' || bytes.HasSuffix(text, []byte("\n}\n"))) {
			return string(text)
		}
	}
}

// stop ends the server by a signal, and expects that to go well.
func (s *served) stop(signal syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil || s.stderr.Len() > 0 {
		s.t.Errorf("the server ended with %v\n%s", err, s.stderr.String())
	}
	if _, err := os.Lstat(s.socket); err == nil {
		s.t.Error("the server has left its socket")
	}
}

// eachWay runs a test on a pool itself and on one that is served.
func eachWay(t *testing.T, f func(t *testing.T, pool string)) {
	t.Run("embedded", func(t *testing.T) { f(t, newPool(t, "--label", "test")) })
	t.Run("served", func(t *testing.T) {
		pool := newPool(t, "--label", "test")
		s := startServer(t, pool)
		f(t, s.socket)
		s.stop(syscall.SIGTERM)
		ok(t, "check", pool)
	})
}

// TestScripts runs the command lines of testdata/*.txt and compares what comes out: the same for a pool and a socket.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(err, files)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			eachWay(t, func(t *testing.T, pool string) { runScript(t, file, pool) })
		})
	}
}

func runScript(t *testing.T, file, pool string) {
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	vars := strings.NewReplacer("$POOL", pool, "$DIR", memoryDir(t))
	var got strings.Builder
	for line := range strings.Lines(string(want)) {
		text, isCommand := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "> ")
		switch {
		case strings.HasPrefix(line, "#"):
			got.WriteString(line)
		case isCommand:
			got.WriteString(line)
			got.WriteString(scriptLine(t, vars, text))
			got.WriteString("\n")
		}
	}
	out := normalise(got.String(), pool, vars.Replace("$DIR"))
	if *update {
		if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(want), out); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// scriptLine runs "[sh] ARGS... [< TEXT]": the command, or with sh the shell, with TEXT as standard input.
func scriptLine(t *testing.T, vars *strings.Replacer, line string) string {
	line, input, _ := strings.Cut(line, " < ")
	cmd := command(strings.Fields(vars.Replace(line))...)
	if script, isShell := strings.CutPrefix(line, "sh "); isShell {
		cmd = exec.Command("sh", "-c", vars.Replace(script))
	}
	cmd.Stdin = strings.NewReader(input)
	o := execute(t, cmd)
	out := o.stdout
	if out != "" && !strings.HasSuffix(out, "\n") {
		out += "\n"
	}
	said := slices.Collect(strings.Lines(o.stderr))
	if !slices.ContainsFunc(said, func(text string) bool { return !strings.HasPrefix(text, "pmemfs: ") }) {
		slices.Sort(said) // several files are copied at a time, and fail in any order
	}
	for _, text := range said {
		out += "! " + text
	}
	if o.code != 0 {
		out += fmt.Sprintf("exit %d\n", o.code)
	}
	return out
}

// normalise replaces what differs from run to run.
func normalise(s, pool, dir string) string {
	u, err := user.Current()
	if err != nil {
		panic(err)
	}
	g, err := user.LookupGroupId(u.Gid)
	if err != nil {
		g = &user.Group{Name: u.Gid}
	}
	s = strings.NewReplacer(
		pool, "$POOL", dir, "$DIR", " "+u.Username+" "+g.Name+" ", " USER GROUP ",
		u.Username+" ("+u.Uid+")", "USER", g.Name+" ("+u.Gid+")", "GROUP",
	).Replace(s)
	for pattern, with := range map[string]string{
		`\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d\.\d+ [+-]\d{4})?`: "TIME",
		`"time": "[^"]+"`:            `"time": "TIME"`,
		`"([amcb]time|[ug]id)": \d+`: `"$1": N`,
		`\.pmemfs-[a-z0-9]{16}`:      "TEMPORARY",
	} {
		s = regexp.MustCompile(pattern).ReplaceAllString(s, with)
	}
	return s
}
