package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "4096": 4096, "64K": 64 << 10, "64M": 64 << 20, "1G": 1 << 30, "1T": 1 << 40, "2P": 2 << 50, "3MiB": 3 << 20,
		"9223372036854775807": math.MaxInt64,
	} {
		if got, err := parseSize(text); got != want || err != nil {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "0", "-1", "+1", "K", "iB", "1k", "1KB", "1B", "1.5G", "0x10", "1 G", "1_000", "G1", "8192P", "9223372036854775808", "1E", "1GiBiB",
	} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 64 << 20: "64 MiB", 1<<30 - 1: "1.0 GiB", 5 << 40: "5.0 TiB",
		math.MaxInt64: "8192 PiB",
	} {
		if got := formatSize(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		text string
	}{
		{"", "a verb is missing"},
		{"frobnicate", `no verb "frobnicate"`},
		{"ls", "0 arguments is not what it takes"},
		{"extents a b c", "3 arguments is not what it takes"},
		{"ls --frob pool", "unknown flag: --frob"},
		{"mkfs pool --size 12Q", "is not a size"},
		{"mkfs pool --size 0", "is not a size"},
		{"mkfs pool --require fine", "byte, cache-line or page"},
		{"mkfs pool --inodes -5", "is negative"},
		{"mkfs pool --label 123456789012345678901234567890123", "33 bytes, at most 32"},
		{"mkfs pool --journal 4K", "1.0 MiB to 1.0 GiB"},
		{"mkfs /dev/null --size 1G", "--size is for directories"},
		{"serve pool", "--socket is missing"},
		{"mkdir pool a --mode 999", "invalid argument"},
		{"cp pool a", "2 arguments is not what it takes"},
		{"cp --reflink=some pool a b", "must be auto, always or never"},
		{"mv --exchange pool a b c", "--exchange takes two names"},
	} {
		fails(t, exitUnable, []string{c.text, "try: pmemfs", "--help"}, strings.Fields(c.args)...)
	}
}

func TestHelp(t *testing.T) {
	verbs := (&app{stdout: io.Discard, stderr: io.Discard}).root().Commands()
	if len(verbs) < 16 {
		t.Fatal("there are only ", len(verbs))
	}
	for _, v := range verbs {
		if v.Hidden {
			continue
		}
		help := ok(t, v.Name(), "--help")
		for _, text := range []string{"Usage:", "Examples:", "Exit code", "With --json", "--json"} {
			if !strings.Contains(help, text) {
				t.Errorf("the help of %s has no %q", v.Name(), text)
			}
		}
		for line := range strings.Lines(help) {
			if strings.Contains(line, "stack") || len([]rune(line)) > 160 {
				t.Errorf("the help of %s: %q", v.Name(), line)
			}
		}
	}
}

// keys collects the names of all fields of an object.
func keys(v any, into map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			into[name] = true
			keys(value, into)
		}
	case []any:
		for _, value := range v {
			keys(value, into)
		}
	}
}

// TestJSONIsDocumented runs every verb with --json: one object, whose fields the verb's help names.
func TestJSONIsDocumented(t *testing.T) {
	pool := newPool(t, "--label", "test")
	dir := t.TempDir()
	input := filepath.Join(dir, "input")
	if err := os.WriteFile(input, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	lines := [][]string{
		{"mkfs", pool, "--force", "--size", "64M"}, {"info", pool}, {"info", dir}, {"mkdir", pool, "d"}, {"put", pool, input, "d"},
		{"ln", pool, "d/input", "hard"}, {"ln", "-s", pool, "hard", "soft"}, {"ls", pool}, {"stat", pool, "soft"}, {"cat", pool, "hard"},
		{"extents", pool, "hard"}, {"cp", pool, "hard", "copy"}, {"mv", pool, "hard", "d"}, {"get", pool, "d", dir}, {"rm", pool, "soft"},
		{"check", pool}, {"version"}, {"snapshot", pool, "s"}, {"snapshot", "list", pool}, {"fill", pool, "d/input"}, {"defrag", pool},
		{"ln", "-s", pool, "x", "soft"}, {"snapshot", "diff", pool, "s"}, {"snapshot", "diff", pool, "s", "--to", "s"},
		{"snapshot", "restore", pool, "s"}, {"snapshot", "delete", pool, "s"}, {"fill", pool, "d/input"}, {"demo", dir, "--quick"},
		{"crashtest", "--depth", "1", "--time", "100ms"},
	}
	seen := map[string]bool{"serve": true, "mount": true, "powercut": true} // TestServe, TestMount, TestPowerCut
	if capable() {
		lines = append(lines, []string{"freeze", "--fill", pool, "d/input"}, []string{"thaw", pool, "d/input"})
	} else {
		seen["freeze"], seen["thaw"] = true, true
	}
	for _, line := range lines {
		seen[line[0]] = true
		cmd := command(append(line, "--json")...)
		o := execute(t, cmd)
		if o.code != exitOK {
			t.Errorf("%q: exit code %d\n%s", line, o.code, o.stdout)
		}
		verb := line[0]
		if verb == "snapshot" {
			verb += " " + line[1] // of the verbs below it, or itself
		}
		documented(t, verb, parse(t, o.stdout))
	}
	for _, v := range (&app{}).root().Commands() {
		if !v.Hidden && !v.HasSubCommands() && !seen[v.Name()] { // bench: TestBenchLatency
			t.Errorf("%s was not tried", v.Name())
		}
	}
}

func documented(t *testing.T, verb string, object map[string]any) {
	t.Helper()
	help := ok(t, append(strings.Fields(verb), "--help")...)
	if verb == "mkfs" || verb == "serve" {
		help += ok(t, "info", "--help") // to which it refers
	}
	names := map[string]bool{}
	keys(object, names)
	if len(names) == 0 {
		t.Errorf("%s: the object is empty", verb)
	}
	for name := range names {
		if !strings.Contains(help, name) {
			t.Errorf("the help of %s does not name the field %q", verb, name)
		}
	}
}

func TestInfo(t *testing.T) {
	eachWay(t, func(t *testing.T, pool string) {
		object := parse(t, ok(t, "info", pool, "--json"))
		medium := object["medium"].(map[string]any)
		use := object["use"].(map[string]any)
		if object["label"] != "test" || object["is_pool"] != true || medium["kind"] != "tmpfs" || medium["granularity"] != "cache-line" {
			t.Error(object)
		}
		if use["free_blocks"].(float64) > use["blocks"].(float64) || use["free_blocks"].(float64) == 0 {
			t.Error(use)
		}
		mask := object["map_mask"].(string)
		if served := object["socket"] != nil; served != strings.Contains(mask, "Sync") {
			t.Errorf("map flags %s, served: %v", mask, served)
		}
		if !strings.Contains(mask, "Direct|Unchecked") || object["clients"] != 1.0 {
			t.Errorf("map flags %s, %v clients", mask, object["clients"])
		}
		text := ok(t, "info", pool, "--require", "cache-line")
		if refused := strings.Contains(text, "not offered: Sync: "); refused == strings.Contains(mask, "Sync") {
			t.Error(text)
		}
		for _, want := range []string{"tmpfs", "EMULATED", "fstatfs", "MAP_SYNC", "format:      version 2"} {
			if !strings.Contains(text, want) {
				t.Errorf("there is no %q in\n%s", want, text)
			}
		}
		fails(t, exitUnable, []string{"byte granularity is required", "cache-line", "try:"}, "info", pool, "--require", "byte")
		fails(t, exitUnable, []string{"byte granularity is required"}, "mkfs", filepath.Join(memoryDir(t), "p"), "--require", "byte")
	})
}

// TestInfoWithoutPool finds out about places, and leaves nothing there.
func TestInfoWithoutPool(t *testing.T) {
	dir := memoryDir(t)
	text := ok(t, "info", dir)
	for _, want := range []string{"has no pool", "tmpfs", "granularity cache-line"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
	fails(t, exitUnable, []string{"byte granularity is required"}, "info", dir, "--require", "byte")
	fails(t, exitUnable, []string{"no such file"}, "info", filepath.Join(dir, "missing"))
	fails(t, exitUnable, []string{"not device-DAX"}, "info", "/dev/null")
	if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
		t.Error(left, err)
	}
}

func TestMkfs(t *testing.T) {
	dir := memoryDir(t)
	pool := filepath.Join(dir, "pool")
	if text := ok(t, "mkfs", pool, "--size", "67108864", "--inodes", "1000"); !strings.Contains(text, "1024 inodes") {
		t.Error(text)
	}
	if err := os.WriteFile(filepath.Join(dir, "other"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, exitFailed, []string{"exists already", "--force"}, "mkfs", pool)
	ok(t, "mkfs", pool, "--force", "--size", "64M")
	fails(t, exitFailed, []string{"exists already", "another path"}, "mkfs", dir, "--force")
	fails(t, exitFailed, []string{"no such file"}, "mkfs", filepath.Join(dir, "missing", "pool"))
	fails(t, exitFailed, []string{"too small", "larger --size"}, "mkfs", filepath.Join(dir, "small"), "--size", "1M")
	ok(t, "check", pool)
	ok(t, "mkfs", filepath.Join(dir, "large"), "--size", "1T") // sparse
}

// TestNoPool tries every verb on what is no pool.
func TestNoPool(t *testing.T) {
	dir := memoryDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty, garbage, missing := filepath.Join(dir, "empty"), filepath.Join(dir, "garbage"), filepath.Join(dir, "missing")
	for _, name := range []string{empty, garbage} {
		if err := os.Mkdir(name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"meta", "data"} {
		if err := os.WriteFile(filepath.Join(garbage, name), bytes.Repeat([]byte("nonsense"), 1<<16), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, verb := range [][]string{
		{"ls"}, {"stat", "a"}, {"mkdir", "a"}, {"put", "a"}, {"get", "a"}, {"cat", "a"}, {"cp", "a", "b"}, {"mv", "a", "b"}, {"ln", "a", "b"}, {"rm", "a"},
		{"extents", "a"}, {"fill", "a"}, {"defrag"}, {"freeze", "a"}, {"thaw", "a"}, {"check"}, {"serve", "--socket", filepath.Join(dir, "s")},
		{"mount", dir},
	} {
		on := func(pool string) []string { return append([]string{verb[0], pool}, verb[1:]...) }
		fails(t, exitUnable, []string{missing, "no such file", "try:"}, on(missing)...)
		fails(t, exitUnable, []string{empty, "no file named meta", "mkfs"}, on(empty)...)
		fails(t, exitUnable, []string{file, "not a pool"}, on(file)...)
		if verb[0] != "check" {
			fails(t, exitUnable, []string{garbage, "superblock", "try:"}, on(garbage)...)
		}
	}
	fails(t, exitFailed, []string{"damaged"}, "check", garbage)
}

// TestDamage: pools that were cut off, made by another version, or whose bits have flipped.
func TestDamage(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(meta, data *os.File) error
		text   string
	}{
		"meta cut off":      {func(meta, _ *os.File) error { return meta.Truncate(1 << 20) }, "truncated"},
		"data cut off":      {func(_, data *os.File) error { return data.Truncate(1 << 20) }, "truncated"},
		"cut within a page": {func(meta, _ *os.File) error { return meta.Truncate(1<<20 + 5) }, "cut off"},
		"version": {func(meta, _ *os.File) error {
			return errors.Join(writeAt(meta, 8, 99), writeAt(meta, 4096+8, 99))
		}, "version 99, this program knows version 2"},
		"superblocks": {func(meta, _ *os.File) error {
			return errors.Join(writeAt(meta, 40, 1), writeAt(meta, 4096+40, 1))
		}, "checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			pool := newPool(t)
			withFiles(t, pool, c.damage)
			fails(t, exitUnable, []string{c.text}, "ls", pool)
			o := run(t, "check", pool)
			if o.code == exitOK || !strings.Contains(o.stdout+o.stderr, c.text) {
				t.Errorf("check: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
			}
		})
	}
}

func writeAt(f *os.File, off int64, v uint32) error {
	_, err := f.WriteAt(binary.LittleEndian.AppendUint32(nil, v), off)
	return err
}

func withFiles(t *testing.T, pool string, f func(meta, data *os.File) error) {
	t.Helper()
	var files []*os.File
	for _, name := range []string{"meta", "data"} {
		file, err := os.OpenFile(filepath.Join(pool, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		files = append(files, file)
	}
	if err := f(files[0], files[1]); err != nil {
		t.Fatal(err)
	}
}

// withInode changes the bytes of an inode of a pool that is not in use.
func withInode(t *testing.T, pool string, ino uint64, change func(b []byte)) {
	t.Helper()
	withFiles(t, pool, func(meta, _ *os.File) error {
		content, err := io.ReadAll(io.NewSectionReader(meta, 0, 1<<40))
		if err != nil {
			return err
		}
		for at := 0; at+layout.InodeSize <= len(content); at += layout.InodeSize {
			b := content[at : at+layout.InodeSize]
			if bytes.HasPrefix(b, []byte("inod")) && binary.LittleEndian.Uint64(b[8:]) == ino {
				change(b)
				_, err := meta.WriteAt(b, int64(at))
				return err
			}
		}
		return fmt.Errorf("there is no inode %d in %d bytes", ino, len(content))
	})
}

// TestCheckNamesDamage: a damaged inode is named, by check and by whoever meets it.
func TestCheckNamesDamage(t *testing.T) {
	pool := newPool(t)
	put(t, pool, "victim", "text")
	withInode(t, pool, uint64(layout.FirstIno), func(b []byte) { binary.LittleEndian.PutUint32(b[60:], 0xffffffff) })
	fails(t, exitFailed, []string{"damaged inode"}, "cat", pool, "victim")
	o := run(t, "check", pool)
	if o.code != exitFailed || !strings.Contains(o.stdout, "damage: inode of inode 3") || !strings.Contains(o.stdout, "DAMAGED") {
		t.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	object := parse(t, run(t, "check", pool, "--json").stdout)
	if object["clean"] != false || len(object["list"].([]any)) == 0 || object["error"] == nil {
		t.Error(object)
	}
	documented(t, "check", map[string]any{"list": object["list"]})
}

// put stores a file by way of standard input.
func put(t *testing.T, pool, name, content string) {
	t.Helper()
	cmd := command("put", pool, "-", name)
	cmd.Stdin = strings.NewReader(content)
	if o := execute(t, cmd); o.code != exitOK {
		t.Fatal(o.stderr)
	}
}

func TestServe(t *testing.T) {
	pool := newPool(t)
	s := startServer(t, pool, "--json")
	object := parse(t, s.ready)
	documented(t, "serve", object)
	if object["pool"] != pool || object["socket"] != s.socket || object["pid"] != float64(s.cmd.Process.Pid) {
		t.Error(object)
	}
	pid := fmt.Sprint("process ", s.cmd.Process.Pid)
	for _, line := range [][]string{
		{"ls", pool}, {"check", pool}, {"mkfs", "--force", pool}, {"put", pool, "x"}, {"serve", pool, "--wait", "0", "--socket", s.socket + "2"},
	} {
		fails(t, exitUnable, []string{"in use", pid, "use its socket, " + s.socket}, line...)
	}
	fails(t, exitUnable, []string{"cannot be checked", "stop the server"}, "check", s.socket)
	fails(t, exitUnable, []string{"another server listens", "another --socket"}, "serve", newPool(t), "--socket", s.socket)
	s.stop(syscall.SIGINT)
	fails(t, exitUnable, []string{"no such file"}, "ls", s.socket)
	ok(t, "check", pool)

	s = startServer(t, pool, "--require", "cache-line")
	if !strings.HasPrefix(s.ready, "serving "+pool+" at "+s.socket+": tmpfs, cache-line granularity") || strings.Count(s.ready, "\n") != 1 {
		t.Errorf("%q", s.ready)
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	fails(t, exitUnable, []string{"connection refused", "start the server"}, "ls", s.socket)
	fails(t, exitUnable, []string{"byte granularity is required"}, "serve", pool, "--socket", s.socket, "--require", "byte")
	again := command("serve", pool, "--socket", s.socket) // takes the place of what was killed
	out, err := again.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	defer again.Process.Kill()
	readReady(t, out)
	ok(t, "ls", s.socket)
	again.Process.Signal(syscall.SIGTERM)
	if err := again.Wait(); err != nil {
		t.Error(err)
	}
}

func TestServeReadOnly(t *testing.T) {
	pool := newPool(t)
	put(t, pool, "f", "text")
	s := startServer(t, pool, "--read-only")
	if got := ok(t, "cat", s.socket, "f"); got != "text" {
		t.Error(got)
	}
	fails(t, exitFailed, []string{"read-only"}, "mkdir", s.socket, "d")
	s.stop(syscall.SIGTERM)
}

func TestSocketIsSomethingElse(t *testing.T) {
	file := filepath.Join(memoryDir(t), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, exitUnable, []string{"else than a socket", "left alone"}, "serve", newPool(t), "--socket", file)
	fails(t, exitUnable, []string{"no such file"}, "serve", newPool(t), "--socket", "/missing/socket")
	if content, err := os.ReadFile(file); string(content) != "precious" {
		t.Error(content, err)
	}
}

// nobody is the number of a user and of its group.
const nobody = 65534

// otherUser returns what runs the command as nobody, with capabilities. Its working directory is the root.
func otherUser(t *testing.T) (as func(capabilities []uintptr, args ...string) outcome) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	dir := memoryDir(t)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "pmemfs") // that of the test is where nobody can go
	if err := errors.Join(os.WriteFile(binary, self, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return func(capabilities []uintptr, args ...string) outcome {
		cmd := command(args...)
		cmd.Path = binary
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: capabilities,
		}
		return execute(t, cmd)
	}
}

// TestOtherUser is somebody who may do nothing.
func TestOtherUser(t *testing.T) {
	as := otherUser(t)
	dir := memoryDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	refused := func(args ...string) {
		t.Helper()
		o := as(nil, args...)
		if o.code != exitUnable || !strings.Contains(o.stderr, "permission denied") || !strings.Contains(o.stderr, "try: ") {
			t.Errorf("%q: exit code %d\n%s", args, o.code, o.stderr)
		}
	}
	pool := filepath.Join(dir, "pool")
	ok(t, "mkfs", pool, "--size", "64M")
	put(t, pool, "secret", "text")
	refused("ls", pool)
	refused("check", pool)
	refused("mkdir", pool, "d")
	s := startServer(t, pool)
	if err := os.Chmod(filepath.Dir(s.socket), 0o755); err != nil {
		t.Fatal(err)
	}
	refused("ls", s.socket)
	s.stop(syscall.SIGTERM)

	s = startServer(t, pool, "--mode", "0644")
	if err := os.Chmod(filepath.Dir(s.socket), 0o755); err != nil {
		t.Fatal(err)
	}
	if o := as(nil, "cat", s.socket, "secret"); o.stdout != "text" {
		t.Errorf("%+v", o)
	}
	if o := as(nil, "mkdir", s.socket, "d"); o.code != exitFailed || !strings.Contains(o.stderr, "read-only") {
		t.Errorf("%+v", o)
	}
	s.stop(syscall.SIGTERM)
}

// TestFormatRemedy: what is said depends on what there is too little room on.
func TestFormatRemedy(t *testing.T) {
	for want, err := range map[string]error{
		"--size":    &fs.PathError{Op: "fallocate", Path: "data", Err: unix.ENOSPC},
		"alignment": &medium.Error{Path: "/dev/dax0.0", Kind: medium.ErrTooSmall},
	} {
		var f *failure
		if got := formatRemedy("pool", err); !errors.As(got, &f) || !errors.Is(got, unix.ENOSPC) || !strings.Contains(f.try, want) {
			t.Errorf("%v: %v, want a remedy about %s", err, got, want)
		}
	}
}

// TestFullPool: what does not fit leaves nothing behind.
func TestFullPool(t *testing.T) {
	big := filepath.Join(memoryDir(t), "big")
	if err := os.WriteFile(big, bytes.Repeat([]byte("0123456789abcdef"), 80<<16), 0o644); err != nil {
		t.Fatal(err)
	}
	eachWay(t, func(t *testing.T, pool string) {
		put(t, pool, "big", "as it was")
		fails(t, exitFailed, []string{"write /big at offset", "no space left", "try: "}, "put", pool, big, "/big")
		if names := ok(t, "ls", pool); names != "big\n" {
			t.Errorf("there is %q", names)
		}
		if got := ok(t, "cat", pool, "big"); got != "as it was" {
			t.Errorf("%.20q", got)
		}
		object := parse(t, run(t, "put", "--json", pool, big, "/big").stdout)
		problem := object["error"].(map[string]any)
		if problem["path"] != "/big" || problem["errno"] != "ENOSPC" || problem["offset"].(float64) < 1<<20 || problem["try"] == nil {
			t.Error(problem)
		}
		put(t, pool, "small", "there is room again")
	})
}

// TestInterrupt: Ctrl-C in the middle of a copy leaves the destination as it was.
func TestInterrupt(t *testing.T) {
	eachWay(t, func(t *testing.T, pool string) {
		put(t, pool, "file", "as it was")
		cmd := command("put", pool, "-", "file")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// More than the pipes hold: when it is written, the command is copying.
		if _, err := in.Write(make([]byte, 4<<20)); err != nil {
			t.Fatal(err)
		}
		cmd.Process.Signal(os.Interrupt)
		ended := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		ended.Stop()
		if code := cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(stderr.String(), "interrupt") {
			t.Errorf("exit code %d\n%s", code, stderr.String())
		}
		if names := ok(t, "ls", pool); names != "file\n" {
			t.Errorf("there is %q", names)
		}
		if got := ok(t, "cat", pool, "file"); got != "as it was" {
			t.Errorf("%.20q", got)
		}
	})
}

// TestDefragInterrupt: who wants it to end gets what was done until then.
func TestDefragInterrupt(t *testing.T) {
	eachWay(t, func(t *testing.T, pool string) {
		put(t, pool, "file", strings.Repeat("x", 1<<20))
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("interrupt"))
		var stdout, stderr bytes.Buffer
		a := &app{ctx: ctx, stdout: &stdout, stderr: &stderr}
		if code := a.run([]string{"defrag", pool}); code != exitFailed || stdout.String() != "0 files looked at, 0 not contiguous, 0 B moved\n" ||
			!strings.Contains(stderr.String(), "defrag .: interrupt") {
			t.Errorf("exit code %d\n%s%s", code, stdout.String(), stderr.String())
		}
	})
}

// TestServerGone: a server that is killed ends a command with an error, not a hang.
func TestServerGone(t *testing.T) {
	s := startServer(t, newPool(t))
	cmd := command("put", s.socket, "-", "file")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	s.cmd.Process.Kill()
	go func() { // until the command has had enough
		for {
			if _, err := in.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}()
	ended := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	cmd.Wait()
	ended.Stop()
	if code := cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(stderr.String(), "server is gone") || !strings.Contains(stderr.String(), "try: start the server") {
		t.Errorf("exit code %d\n%s", code, stderr.String())
	}
}

// TestReadersTogether: verbs that change nothing do not exclude each other.
func TestReadersTogether(t *testing.T) {
	pool := newPool(t)
	put(t, pool, "large", strings.Repeat("x", 8<<20))
	cmd := command("cat", pool, "large") // waits for somebody to read
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ok(t, "ls", pool)
	ok(t, "check", pool)
	fails(t, exitUnable, []string{"in use", fmt.Sprint("process ", cmd.Process.Pid)}, "mkdir", pool, "d")
	if rest, err := io.Copy(io.Discard, out); rest != 8<<20-1 || err != nil {
		t.Error(rest, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestManyFiles copies a tree of many files both ways.
func TestManyFiles(t *testing.T) {
	dir := memoryDir(t)
	for i := range 300 {
		name := filepath.Join(dir, "tree", fmt.Sprint(i%7), fmt.Sprint(i))
		err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, bytes.Repeat([]byte{byte(i)}, i*i), 0o644))
		if err != nil {
			t.Fatal(err)
		}
	}
	eachWay(t, func(t *testing.T, pool string) {
		back := filepath.Join(memoryDir(t), "back")
		ok(t, "put", pool, filepath.Join(dir, "tree"), "/many")
		object := parse(t, ok(t, "get", "--json", pool, "/many", back))
		if object["files"] != 300.0 || object["directories"] != 8.0 {
			t.Error(object)
		}
		for i := range 300 {
			name := filepath.Join(fmt.Sprint(i%7), fmt.Sprint(i))
			got, err := os.ReadFile(filepath.Join(back, name))
			if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, i*i)) {
				t.Fatalf("%s: %d bytes, %v", name, len(got), err)
			}
		}
	})
}
