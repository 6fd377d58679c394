package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var vm = flag.Bool("vm", false, "boot a machine and test pmemfs on its persistent memory; minutes")

// say prints a line at once.
func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// ok tells of a test that has passed.
func ok(m *medium, format string, args ...any) {
	say("ok    %-12s %s", m.name, fmt.Sprintf(format, args...))
}

// suite is a run of the test: one machine after the other, on the same media.
type suite struct {
	*testing.T
	ctx context.Context // ends by ^C
	config
	dir    string
	start  time.Time
	rounds int
	boots  int
	m      *machine
	// durable counts by medium and way what the guest has reported to be durable.
	durable map[string]map[string]uint64
}

// TestVM runs pmemfs on every medium of a virtual machine, and kills the machine while programs store.
func TestVM(t *testing.T) {
	if !*vm {
		t.Skip("SKIPPED, NOTHING WAS TESTED: a virtual machine takes minutes: make vmtest")
	}
	s := &suite{T: t, dir: t.TempDir(), start: time.Now(), rounds: 20, durable: map[string]map[string]uint64{}}
	var stop context.CancelFunc
	s.ctx, stop = signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if text := os.Getenv("VMTEST_ROUNDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("VMTEST_ROUNDS: %q is not a positive number", text)
		}
		s.rounds = n
	}
	if _, _, err := accelerator(); err != nil {
		t.Fatal(err) // a wish that is wrong is no reason to skip
	}
	tests, err := buildTests(s.ctx, s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if s.config, err = newConfig(s.ctx, s.dir, tests); err != nil {
		t.Skipf("SKIPPED, NOTHING WAS TESTED: %v", err)
	}
	s.media = s.dir
	if _, err := makeBacking(s.media); err != nil {
		t.Fatal(err)
	}
	defer s.keepConsoles()
	defer func() {
		if s.m != nil {
			s.m.kill()
		}
	}()
	s.boot("mem-ctrl", "format")
	s.each("info", s.info)
	s.each("demo", s.demo)
	s.each("tests", s.tests)
	s.each("mkfs", s.mkfs)
	s.crash(1)
	for round := 2; round <= s.rounds; round++ {
		s.boot(persistences[(round-1)%len(persistences)])
		if round <= len(persistences) {
			s.each("info", s.info)
		}
		s.crash(round)
	}
	s.boot("mem-ctrl")
	s.lastLook()
	s.boot("mem-ctrl")
	s.badBlocks()
	say("%d boots, %.0f s", s.boots, time.Since(s.start).Seconds())
}

// persistences are what a platform can say of its persistence domain.
var persistences = []string{"mem-ctrl", "cpu", ""}

// keepConsoles keeps what the guests' kernels said if something failed.
func (s *suite) keepConsoles() {
	if !s.Failed() {
		return
	}
	kept, err := os.MkdirTemp("", "pmemfs-vmtest-")
	names, globErr := filepath.Glob(filepath.Join(s.dir, "console-*"))
	err = errors.Join(err, globErr)
	for _, name := range names {
		text, readErr := os.ReadFile(name)
		err = errors.Join(err, readErr, os.WriteFile(filepath.Join(kept, filepath.Base(name)), text, 0o600))
	}
	say("the consoles of the guests are in %s (%v)", kept, err)
}

// boot boots a machine with the media as they are, or with format makes them.
func (s *suite) boot(persistence string, format ...string) {
	s.Helper()
	if s.m != nil {
		s.m.kill()
	}
	s.boots++
	s.config.persistence = persistence
	s.config.console = filepath.Join(s.dir, fmt.Sprintf("console-%02d", s.boots))
	start := time.Now()
	var err error
	if s.m, err = boot(s.ctx, s.config); err != nil {
		s.Fatal(err)
	}
	booted := time.Since(start)
	if _, err := s.guest(append([]string{"guest", "prepare"}, format...)...); err != nil {
		s.Fatal(err)
	}
	say("boot %d of %d, persistence domain %q: %.1f s, media %.1f s", s.boots, s.rounds+2, persistence, booted.Seconds(),
		(time.Since(start) - booted).Seconds())
}

// guest runs a command in the guest, which must succeed, and returns its output.
func (s *suite) guest(argv ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	code, err := s.m.run(s.ctx, &stdout, &stderr, argv...)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d", code)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s%s", strings.Join(argv, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// each runs a test on each medium, one after the other.
func (s *suite) each(what string, test func(*medium) error) {
	for _, m := range media {
		if err := test(m); err != nil {
			s.Errorf("FAIL  %s %s: %v", m.name, what, err)
		}
	}
	if s.Failed() {
		s.FailNow()
	}
}

func (s *suite) info(m *medium) error {
	out, err := s.guest("pmemfs", "info", m.place, "--json")
	if err == nil {
		err = m.checkInfo(out, s.persistence)
	}
	if err == nil {
		ok(m, "info: the platform says %q", s.persistence)
	}
	return err
}

func (s *suite) demo(m *medium) error {
	if !slices.Contains(m.ways, "shared") {
		ok(m, "no demo: nothing can be mapped there")
		return nil
	}
	start := time.Now()
	out, err := s.guest("pmemfs", "demo", "/modules", "--quick", "--json", "--dir", m.place)
	if err != nil {
		return err
	}
	var result struct {
		Survived int `json:"writers_survived"`
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if survive := slices.Contains(m.ways, "sync"); survive != (result.Survived > 0) {
		return fmt.Errorf("%d writers survived the death of their server: %s", result.Survived, out)
	}
	ok(m, "demo: %.1f s, %d writers survived the death of their server", time.Since(start).Seconds(), result.Survived)
	return nil
}

// tests runs tests of the library that make pools in directories, which are below the mount then.
func (s *suite) tests(m *medium) error {
	if m.device() {
		return nil
	}
	commands := []string{"PMEMFS_TEST_PLACES=" + m.place + " medium.test -test.v -test.run '^TestCreateStoreReopen$/^place'"}
	if m.size >= 256 {
		commands = append(commands, "mkdir "+m.place+"/shm && mount --bind "+m.place+"/shm /dev/shm && "+
			"library.test -test.v -test.short -test.run '^(TestMap.*|TestRestart|TestDirect|TestSync.*)$'; code=$?; umount /dev/shm; exit $code")
	}
	passed := 0
	for _, command := range commands {
		out, err := s.guest("sh", "-c", command)
		if err != nil {
			return err
		}
		passed += bytes.Count(out, []byte("--- PASS"))
	}
	ok(m, "tests: %d passed", passed)
	return nil
}

// testPrograms are the packages whose tests run in the guest, by the names of the programs there.
var testPrograms = map[string]string{"library.test": module, "medium.test": module + "/internal/medium", "command.test": module + "/cmd/pmemfs"}

// buildTests builds the programs with the tests.
func buildTests(ctx context.Context, dir string) (files []string, err error) {
	for name, pkg := range testPrograms {
		file, err := runBuild(ctx, filepath.Join(dir, name), "test", "-c", "-trimpath", "-ldflags=-s -w", pkg)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

func (s *suite) mkfs(m *medium) error {
	_, err := s.guest(m.mkfs()...)
	return err
}
