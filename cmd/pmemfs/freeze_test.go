package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// capable says whether this process, and the commands that it starts, may freeze and seal.
func capable() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective>>unix.CAP_LINUX_IMMUTABLE&1 != 0
}

func needsCapability(t *testing.T) {
	t.Helper()
	if !capable() {
		t.Skip("needs the capability CAP_LINUX_IMMUTABLE")
	}
}

// sparse makes a file of the host with data in its first block and a hole behind it.
func sparse(t *testing.T, size int64) string {
	t.Helper()
	name := filepath.Join(memoryDir(t), "sparse")
	if err := errors.Join(os.WriteFile(name, bytes.Repeat([]byte("data"), 1024), 0o644), os.Truncate(name, size)); err != nil {
		t.Fatal(err)
	}
	return name
}

// problemOf runs a command that must fail, and returns the error of its JSON object.
func problemOf(t *testing.T, args ...string) map[string]any {
	t.Helper()
	o := run(t, append([]string{"--json"}, args...)...)
	problem, _ := parse(t, o.stdout)["error"].(map[string]any)
	if o.code != exitFailed || problem == nil {
		t.Fatalf("%q: exit code %d\n%s", args, o.code, o.stdout)
	}
	return problem
}

func isStatic(t *testing.T, pool, name string) bool {
	t.Helper()
	files := parse(t, ok(t, "stat", "--json", pool, name))["files"].([]any)
	return files[0].(map[string]any)["static"].(bool)
}

func TestFreeze(t *testing.T) {
	needsCapability(t)
	const size = 1<<20 + 5 // 257 blocks, of which the first is written
	eachWay(t, func(t *testing.T, pool string) {
		file := sparse(t, size)
		ok(t, "put", pool, file, "/f")
		put(t, pool, "small", "text")
		put(t, pool, "empty", "")

		again := "pmemfs freeze --fill " + pool + " /f"
		fails(t, exitFailed, []string{"offset 4096 is a hole", "try: " + again}, "freeze", pool, "/f")
		problem := problemOf(t, "freeze", pool, "/f", "/missing")
		others, _ := problem["others"].([]any)
		if problem["path"] != "f" || problem["offset"] != 4096.0 || problem["errno"] != "EINVAL" || problem["try"] != again || len(others) != 1 {
			t.Error(problem)
		}
		if isStatic(t, pool, "/f") {
			t.Error("a file with a hole is static")
		}

		object := parse(t, ok(t, "freeze", "--fill", "--json", pool, "/f", "small"))
		if got := fmt.Sprint(object["files"]); got != "[map[filled_bytes:1.048576e+06 path:/f static:true] map[filled_bytes:0 path:/small static:true]]" {
			t.Error(got)
		}
		if text := ok(t, "freeze", pool, "/f", "/empty"); text != "/f: static\n/empty: static\n" {
			t.Errorf("%q", text)
		}
		if text := ok(t, "stat", pool, "/f"); !strings.Contains(text, "static:      yes") || !strings.Contains(text, "257 blocks") {
			t.Error(text)
		}
		put(t, pool, "other", "text")
		list := ok(t, "ls", "-l", pool)
		if strings.Count(list, "-rw-r--r--! ") != 3 || strings.Count(list, "-rw-r--r--  ") != 1 {
			t.Error(list)
		}
		stays(t, pool, file)

		if text := ok(t, "thaw", pool, "/f", "small"); text != "/f: not static\n/small: not static\n" {
			t.Errorf("%q", text)
		}
		ok(t, "thaw", pool, "small")
		ok(t, "put", pool, file, "/small")
		if isStatic(t, pool, "/f") || !isStatic(t, pool, "/empty") {
			t.Error("not what was thawed is thawed")
		}
		fails(t, exitFailed, []string{"freeze .", "try: a regular file"}, "freeze", pool, "/")
		fails(t, exitFailed, []string{"missing: no such file"}, "thaw", pool, "/missing")
	})
}

// stays checks that the static file f of a pool, a copy of file, is not replaced, and that everything else can be done.
func stays(t *testing.T, pool, file string) {
	t.Helper()
	before := ok(t, "extents", "--json", pool, "/f")
	fails(t, exitFailed, []string{"replace /f", "the file is static", "try: pmemfs thaw POOL /f"}, "put", pool, file, "/f")
	if problem := problemOf(t, "put", pool, file, "/f"); problem["path"] != "/f" || problem["errno"] != "EBUSY" {
		t.Error(problem)
	}
	if err := os.Truncate(file, 4096); err != nil {
		t.Fatal(err)
	}
	fails(t, exitFailed, []string{"the file is static"}, "put", pool, file, "/f")
	if after := ok(t, "extents", "--json", pool, "/f"); after != before {
		t.Errorf("%s has become %s", before, after)
	}
	if names := ok(t, "ls", pool); names != "empty\nf\nother\nsmall\n" {
		t.Errorf("there is %q", names)
	}
	ok(t, "ln", pool, "/f", "/again")
	ok(t, "mv", pool, "/again", "/name")
	if !isStatic(t, pool, "/name") {
		t.Error("another name of a static file is not")
	}
	ok(t, "rm", pool, "/name")
	fails(t, exitFailed, []string{"the file is static"}, "put", pool, file, "/empty") // as long as it was, all the same
	ok(t, "rm", pool, "/empty")
	put(t, pool, "empty", "")
	ok(t, "freeze", pool, "/empty")
}

func TestFill(t *testing.T) {
	const size = 1 << 20
	file := sparse(t, size)
	eachWay(t, func(t *testing.T, pool string) {
		ok(t, "put", pool, file, "/f")
		filled := func(args ...string) float64 {
			t.Helper()
			object := parse(t, ok(t, append([]string{"fill", "--json", pool, "/f"}, args...)...))
			return object["files"].([]any)[0].(map[string]any)["filled_bytes"].(float64)
		}
		if n := filled("--length", "4K"); n != 0 {
			t.Error(n, "where there was data")
		}
		if n := filled("--offset", "8191", "--length", "2"); n != 8192 {
			t.Error(n, "where two blocks were a hole")
		}
		if n := filled("--offset", "512K"); n != 512<<10 {
			t.Error(n, "in the second half")
		}
		if text := ok(t, "fill", pool, "/f"); text != "/f: not static, 500 KiB filled\n" {
			t.Errorf("%q", text)
		}
		if n := filled("--offset", "0"); n != 0 {
			t.Error(n, "where all was full")
		}
		if got := ok(t, "cat", pool, "/f"); got != strings.Repeat("data", 1024)+strings.Repeat("\x00", size-4096) {
			t.Errorf("the contents have changed: %.100q", got)
		}
		fails(t, exitFailed, []string{"fill f: ", "beyond its end", "1048576"}, "fill", pool, "/f", "--offset", "1M", "--length", "1")
		fails(t, exitFailed, []string{"beyond its end"}, "fill", pool, "/f", "--offset", "2M")
		fails(t, exitUnable, []string{"is not a size"}, "fill", pool, "/f", "--offset", "-1")
		fails(t, exitUnable, []string{"is not a size"}, "fill", pool, "/f", "--length", "0")
		fails(t, exitFailed, []string{"is a directory"}, "fill", pool, "/")
	})
}

// TestFreezeUnderPunches: somebody makes holes in the file all the time. Either way it ends in good order.
func TestFreezeUnderPunches(t *testing.T) {
	needsCapability(t)
	s := startServer(t, newPool(t))
	put(t, s.socket, "f", strings.Repeat("x", 1<<20))
	stop, done := make(chan struct{}), make(chan error)
	f := openFile(t, s.socket, "f")
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := f.PunchHole(512<<10, 4096); err != nil && !errors.Is(err, pmemfs.ErrStatic) {
				done <- err
				return
			}
		}
	}()
	o := run(t, "freeze", "--fill", s.socket, "f")
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	switch static := isStatic(t, s.socket, "f"); o.code {
	case exitOK:
		if !static || strings.Contains(ok(t, "extents", s.socket, "f"), "hole") {
			t.Error("it said that it froze the file")
		}
	case exitFailed:
		if static || !strings.Contains(o.stderr, "offset 524288 is") || !strings.Contains(o.stderr, "try: stop the programs") {
			t.Error(o.stderr)
		}
	default:
		t.Error(o.code, o.stderr)
	}
}

// openFile opens a file of a server for reading and writing in this process.
func openFile(t *testing.T, socket, name string) *pmemfs.File {
	t.Helper()
	fsys, err := pmemfs.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fsys.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		fsys.Close()
	})
	return f
}

// TestStaticWrites has the library meet static files, and says what the command would say of that.
func TestStaticWrites(t *testing.T) {
	needsCapability(t)
	s := startServer(t, newPool(t))
	put(t, s.socket, "f", "text")
	ok(t, "freeze", s.socket, "f")
	f := openFile(t, s.socket, "f")
	p := explain(f.Truncate(1))
	if p.Try != "pmemfs thaw POOL /f" || p.Errno != "EBUSY" || p.Path != "f" || p.code != exitFailed {
		t.Errorf("%+v", p)
	}
	if _, err := f.WriteAt([]byte("T"), 0); err != nil {
		t.Error(err)
	}
	s.stop(syscall.SIGTERM)
}

// frames are what "pmemfs info" says of the records of a server.
func frames(t *testing.T, socket string) map[string]any {
	t.Helper()
	return parse(t, ok(t, "info", socket, "--json"))["frames"].(map[string]any)
}

// TestSeals: what a program has sealed is shown, and who it is that is in the way.
func TestSeals(t *testing.T) {
	needsCapability(t)
	pool := newPool(t)
	s := startServer(t, pool)
	put(t, s.socket, "f", strings.Repeat("x", 16<<10))
	if text := ok(t, "info", s.socket); !strings.Contains(text, "frames:      none\n") || !strings.Contains(text, "serving 0 other clients at") {
		t.Error(text)
	}
	f := openFile(t, s.socket, "f")
	m, err := f.Map(4096, 5000, pmemfs.Direct)
	if err != nil {
		t.Fatal(err)
	}
	if n := frames(t, s.socket); n["seals"] != 1.0 || n["sealed_blocks"] != 2.0 || n["clients"] != 1.0 || n["granted_blocks"] != 2.0 || n["bytes"] == 0.0 {
		t.Error(n)
	}
	text := ok(t, "info", s.socket)
	for _, part := range []string{"1 client, 1 mapping of 1 file, ", "1 seal of 2 blocks)", "serving 1 other client at"} {
		if !strings.Contains(text, part) {
			t.Errorf("there is no %q in\n%s", part, text)
		}
	}
	me := fmt.Sprint("process ", os.Getpid())
	p := explain(f.PunchHole(8192, 4096))
	if p.Offset == nil || *p.Offset != 4096 || p.Errno != "EBUSY" || !strings.Contains(p.Try, me) || !strings.Contains(p.Message, me) || p.Path != "f" {
		t.Errorf("%+v", p)
	}
	put(t, s.socket, "f", "shorter, under the same name") // what is sealed lives on
	ok(t, "rm", s.socket, "f")
	if n := frames(t, s.socket); n["seals"] != 1.0 {
		t.Error(n)
	}
	export, err := f.Export()
	if err != nil {
		t.Fatal(err)
	}
	if text := ok(t, "info", s.socket); !strings.Contains(text, "serving 1 other client and 1 exported file at") {
		t.Error(text)
	}
	if err := export.Close(); err != nil {
		t.Error(err)
	}
	unpin, err := m.Pin(0, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if text := ok(t, "info", s.socket); !strings.Contains(text, "1 seal of 2 blocks, 1 pin of 1 block)") {
		t.Error(text)
	}
	unpin()
	if err := m.Unmap(); err != nil {
		t.Error(err)
	}
	if n := frames(t, s.socket); n["records"] != 0.0 {
		t.Error(n)
	}
	s.stop(syscall.SIGTERM)
	ok(t, "check", pool)
}

// TestLimits: what a client may have of each thing is what the flags say, and the error says which flag it is.
func TestLimits(t *testing.T) {
	needsCapability(t)
	s := startServer(t, newPool(t), "--max-sealed", "8K", "--max-pinned", "4K", "--max-handles", "2", "--max-mappings", "1")
	put(t, s.socket, "f", strings.Repeat("x", 16<<10))
	fsys, err := pmemfs.Dial(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() })
	files := make([]*pmemfs.File, 2)
	for i := range files {
		if files[i], err = fsys.OpenFile("f", os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(err error, errno, flag string) {
		t.Helper()
		if p := explain(err); p.Errno != errno || !strings.Contains(p.Try, flag) || !strings.Contains(p.Message, "limit") {
			t.Errorf("%+v", p)
		}
	}
	_, err = fsys.OpenFile("f", os.O_RDWR, 0)
	refused(err, "EMFILE", "--max-handles")
	_, err = files[0].Map(0, 12<<10, pmemfs.Direct)
	refused(err, "EDQUOT", "--max-sealed")
	m, err := files[0].Map(0, 8<<10, pmemfs.Direct)
	if err != nil {
		t.Fatal(err)
	}
	_, err = files[1].Map(0, 4096, pmemfs.Shared)
	refused(err, "EMFILE", "--max-mappings")
	_, err = m.Pin(0, 8192)
	refused(err, "EDQUOT", "--max-pinned")
	unpin, err := m.Pin(0, 4096)
	if err != nil {
		t.Fatal(err)
	}
	unpin()
}

func TestLimitFlags(t *testing.T) {
	pool, socket := newPool(t), filepath.Join(memoryDir(t), "socket")
	for _, c := range []struct{ flag, value, text string }{
		{"--max-handles", "0", "--max-handles: 0 is less than 1"},
		{"--max-mappings", "-3", "--max-mappings: -3 is less than 1"},
		{"--max-grants", "0", "--max-grants: 0 is less than 1"},
		{"--max-grants", "many", "invalid argument"},
		{"--max-pinned", "4095", "less than a block"},
		{"--max-sealed", "1", "less than a block"},
		{"--max-sealed", "0", "is not a size"},
	} {
		fails(t, exitUnable, []string{c.text, "try: pmemfs serve --help"}, "serve", pool, "--socket", socket, c.flag, c.value)
	}
	fails(t, exitUnable, []string{"--direct-group", "no-such-group"}, "serve", pool, "--socket", socket, "--direct-group", "no-such-group")
	fails(t, exitUnable, []string{"--direct-group", `"-1" is not the number`}, "serve", pool, "--socket", socket, "--direct-group", "-1")
	fails(t, exitUnable, []string{"--group", "no-such-group"}, "serve", pool, "--socket", socket, "--group", "no-such-group")
	help := ok(t, "serve", "--help")
	for _, text := range []string{"(default 65536)", "(default 4096)", "(default 256M)", "(default: half of the data area)"} {
		if !strings.Contains(help, text) {
			t.Errorf("there is no %q in\n%s", text, help)
		}
	}
}

// TestFreezeAsOther is somebody who has no capability, then is in a group that may freeze, and then has the capability.
func TestFreezeAsOther(t *testing.T) {
	as := otherUser(t)
	pool := newPool(t)
	serve := func(flags ...string) *served {
		s := startServer(t, pool, append(flags, "--mode", "0666")...)
		if err := os.Chmod(filepath.Dir(s.socket), 0o755); err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := serve()
	put(t, s.socket, "f", "text")
	for _, verb := range []string{"freeze", "thaw"} {
		o := as(nil, verb, s.socket, "f")
		if o.code != exitFailed || !strings.Contains(o.stderr, "CAP_LINUX_IMMUTABLE") || !strings.Contains(o.stderr, "try: ") {
			t.Errorf("%s: exit code %d\n%s", verb, o.code, o.stderr)
		}
	}
	if o := as(nil, "freeze", "--json", s.socket, "f"); parse(t, o.stdout)["error"].(map[string]any)["errno"] != "EPERM" {
		t.Error(o.stdout)
	}
	if isStatic(t, s.socket, "f") {
		t.Fatal("somebody without privilege has frozen a file")
	}
	if capable() {
		if o := as([]uintptr{unix.CAP_LINUX_IMMUTABLE}, "freeze", s.socket, "f"); o.code != exitOK || !isStatic(t, s.socket, "f") {
			t.Errorf("exit code %d\n%s", o.code, o.stderr)
		}
		ok(t, "thaw", s.socket, "f")
	}
	s.stop(syscall.SIGTERM)

	s = serve("--direct-group", "12345", "--direct-group", fmt.Sprint(nobody))
	if o := as(nil, "freeze", s.socket, "f"); o.code != exitOK || !isStatic(t, s.socket, "f") {
		t.Errorf("exit code %d\n%s", o.code, o.stderr)
	}
	if o := as(nil, "freeze", "--fill", s.socket, "f"); o.code != exitFailed || !strings.Contains(o.stderr, "permission denied") {
		t.Errorf("a file that is not his to write: exit code %d\n%s", o.code, o.stderr)
	}
	if o := as(nil, "thaw", s.socket, "f"); o.code != exitOK || isStatic(t, s.socket, "f") {
		t.Errorf("exit code %d\n%s", o.code, o.stderr)
	}
	s.stop(syscall.SIGTERM)
}

// TestCopyOfStatic: what must not be shared is copied, or refused; a static file is not replaced.
func TestCopyOfStatic(t *testing.T) {
	needsCapability(t)
	eachWay(t, func(t *testing.T, pool string) {
		put(t, pool, "f", strings.Repeat("static ", 3<<20/7))
		ok(t, "freeze", pool, "f")
		object := parse(t, ok(t, "cp", "--json", pool, "f", "copy"))
		if object["files"] != 1.0 || object["cloned"] != nil || ok(t, "cat", pool, "copy") != ok(t, "cat", pool, "f") {
			t.Error(object)
		}
		fails(t, exitFailed, []string{"clone f", "static", "thawed"}, "cp", "--reflink=always", pool, "f", "clone")
		fails(t, exitFailed, []string{"static"}, "cp", pool, "copy", "f")
		if names := ok(t, "ls", pool); names != "copy\nf\n" {
			t.Errorf("there is %q", names)
		}
		ok(t, "thaw", pool, "f")
		if object := parse(t, ok(t, "cp", "--json", pool, "f", "copy")); object["cloned"] != 1.0 {
			t.Error(object)
		}
	})
}

// TestCheckOfStatic: a static file with a hole is damage. No command makes one.
func TestCheckOfStatic(t *testing.T) {
	pool := newPool(t)
	ok(t, "put", pool, sparse(t, 1<<20), "/f")
	withInode(t, pool, uint64(layout.FirstIno), func(b []byte) {
		in, err := layout.DecodeInode(b, layout.FirstIno, 0)
		if err != nil {
			t.Fatal(err)
		}
		in.Flags |= layout.FlagStatic
		in.Encode(b)
	})
	o := run(t, "check", pool)
	if o.code != exitFailed || !strings.Contains(o.stdout, "damage: inode of inode 3") || !strings.Contains(o.stdout, "static, but block 1 of 256") {
		t.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// TestInfoOfDisk: behind a page cache no mapping is durable without a system call, and info says so.
func TestInfoOfDisk(t *testing.T) {
	pool := filepath.Join(t.TempDir(), "pool")
	ok(t, "mkfs", pool, "--size", "64M")
	object := parse(t, ok(t, "info", pool, "--json"))
	if object["medium"].(map[string]any)["granularity"] != "page" {
		t.Skip("the temporary directory is in memory")
	}
	if mask := object["map_mask"]; mask != "Shared|Populate|ReadOnly" {
		t.Error(mask)
	}
	if text := ok(t, "info", pool); !strings.Contains(text, "not offered: Sync, Direct, Unchecked: ") || !strings.Contains(text, "page cache") {
		t.Error(text)
	}
}
