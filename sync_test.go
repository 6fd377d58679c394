package pmemfs_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/internal/rerun"
)

func init() { roles["syncer"] = syncerRole }

// serveWith runs a server with a commit policy.
func serveWith(t testing.TB, pool, policy string) (socket string, srv *pooltest.Child) {
	t.Helper()
	var c serverConfig
	must(t, c.Commit.UnmarshalText([]byte(policy)))
	return serve(t, pool, "600", "-1", c.String())
}

// crashed kills a server as a crash would, ends its clients here, and opens what is left of the pool.
func crashed(t testing.TB, srv *pooltest.Child, pool string, clients ...*pmemfs.FS) *pmemfs.FS {
	t.Helper()
	srv.Kill()
	for _, c := range clients {
		c.Close() // an error: the server is gone
	}
	return openPool(t, pool, pmemfs.Wait(10*time.Second))
}

// pending does something after which Sync may have something to do.
type pending struct {
	name     string
	before   func(f *pmemfs.File, m *pmemfs.Mapping) error
	sync     func(f *pmemfs.File, m *pmemfs.Mapping) error
	requests int // that it takes
}

const syncPages = 16 // of the file that is synced

// pendings are done one after the other, with all of the file durable before each.
var pendings = []pending{
	{"times of a write in place", writeOnce, fileSync, 1},
	{"times of a write in place, by the mapping", writeOnce, mappingSync, 1},
	{"a first store, all of which the page fault has made durable", func(_ *pmemfs.File, m *pmemfs.Mapping) error {
		return pmemfs.Catch(func() { m.Bytes()[5*page]++ })
	}, mappingSync, 0},
}

func writeOnce(f *pmemfs.File, _ *pmemfs.Mapping) error {
	_, err := f.WriteAt([]byte{1}, 0)
	return err
}

func fileSync(f *pmemfs.File, _ *pmemfs.Mapping) error    { return f.Sync() }
func mappingSync(_ *pmemfs.File, m *pmemfs.Mapping) error { return m.Sync(0, len(m.Bytes())) }

// settledCalls make no system call when nothing is pending.
var settledCalls = []struct {
	name string
	call func(f *pmemfs.File, m *pmemfs.Mapping) error
}{
	{"Persist", func(_ *pmemfs.File, m *pmemfs.Mapping) error { return m.Persist(0, 200) }},
	{"Mapping.Sync", func(_ *pmemfs.File, m *pmemfs.Mapping) error { return m.Sync(0, 200) }},
	{"File.Sync", fileSync},
}

const settledTimes = 1000

// markedCall is what no program asks of getpriority(2), which refuses it: the calls between two of them are what is looked at.
const markedCall = 0x706d

func mark(n int) { unix.RawSyscall(unix.SYS_GETPRIORITY, markedCall, uintptr(n), 0) }

// syncerRole marks what it does on one thread by system calls: SOCKET FILE.
func syncerRole(args []string, _ *bufio.Scanner) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	fsys, f, err := dialFile(args[0], args[1])
	if err != nil {
		return err
	}
	defer fsys.Close()
	m, err := f.Map(0, syncPages*page, pmemfs.Sync)
	if err != nil {
		return err
	}
	m.Bytes()[0]++ // not the first store any more
	if err := errors.Join(m.Sync(0, len(m.Bytes())), f.Sync()); err != nil {
		return err
	}
	n := 0
	for _, c := range settledCalls {
		mark(n)
		for range settledTimes {
			m.Bytes()[1]++
			if err := c.call(f, m); err != nil {
				return err
			}
		}
		n++
	}
	for _, p := range pendings {
		mark(n)
		if err := p.before(f, m); err != nil {
			return err
		}
		mark(n + 1)
		if err := p.sync(f, m); err != nil {
			return err
		}
		n += 2
	}
	mark(n)
	return m.Unmap()
}

// traced are the system calls of the thread that marks, by what it did: calls[n] are those after mark n.
func traced(t *testing.T, socket, file string) (calls [][]string) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("SKIPPED: system calls are counted by strace, which is not here (apt-get install strace)")
	}
	log := filepath.Join(t.TempDir(), "strace")
	if out, err := exec.Command(strace, "-f", "-o", log, "true").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: strace may not trace here: %v: %s", err, out)
	}
	c := pooltest.StartWith(t, func(c *exec.Cmd) {
		c.Path, c.Args = strace, append([]string{strace, "-f", "-qq", "-y", "-o", log}, c.Args...)
		c.Env = append(c.Env, "GODEBUG=asyncpreemptoff=1") // no signals between the marks
	}, "syncer", socket, file)
	c.Finish()
	text, err := os.ReadFile(log)
	must(t, err)
	marked := fmt.Sprintf("getpriority(%#x", markedCall)
	thread := ""
	for line := range strings.Lines(string(text)) {
		tid, call, _ := strings.Cut(strings.TrimSpace(line), " ")
		call = strings.TrimSpace(call)
		switch {
		case strings.HasPrefix(call, marked):
			thread = tid
			calls = append(calls, nil)
		case tid == thread && !strings.HasPrefix(call, "<..."): // the end of one that is listed
			calls[len(calls)-1] = append(calls[len(calls)-1], call)
		}
	}
	return calls
}

// schedulers says whether a system call is one that the Go scheduler makes when it takes a thread off its processor, or an
// emulator of the CPU when memory is stored to that has code which it has translated.
func schedulers(call string) bool {
	name, _, _ := strings.Cut(call, "(")
	return name == "mprotect" && rerun.Emulated() || slices.Contains([]string{"futex", "clone", "clone3", "mmap", "rt_sigprocmask", "sched_yield", "nanosleep", "epoll_pwait"}, name)
}

// TestSyncSystemCalls: what is settled takes no system call, and what is not takes one request. It fails when a fast path asks
// the server, takes the time, or locks something that others have; or when Sync does not see that something is pending.
func TestSyncSystemCalls(t *testing.T) {
	for _, policy := range []string{"op", "interval=1h"} {
		t.Run(policy, func(t *testing.T) {
			socket, _ := serveWith(t, newPool(t), policy)
			fsys := dial(t, socket)
			must(t, sized(t, fsys, "f", syncPages*page).Fill(0, page))
			calls := traced(t, socket, "f")
			if want := len(settledCalls) + 2*len(pendings) + 1; len(calls) != want {
				t.Fatalf("%d marks, want %d", len(calls), want)
			}
			for i, c := range settledCalls {
				// The Go scheduler may take the thread off its processor: rarely, where each call would be seen a thousand times.
				own := slices.DeleteFunc(slices.Clone(calls[i]), schedulers)
				if len(own) > 0 || len(calls[i]) > settledTimes/20 {
					t.Errorf("%d times %s took %d system calls:\n%s", settledTimes, c.name, len(calls[i]), strings.Join(calls[i], "\n"))
				}
			}
			for i, p := range pendings {
				requests := 0
				during := calls[len(settledCalls)+2*i+1]
				for _, call := range during {
					if strings.HasPrefix(call, "write(") || strings.HasPrefix(call, "send") {
						requests++
					}
				}
				if requests > p.requests { // TestSyncRequests counts those that take no system call, too
					t.Errorf("%s: %d requests over the socket, want at most %d:\n%s", p.name, requests, p.requests, strings.Join(during, "\n"))
				}
			}
		})
	}
}

// requests returns how often clients asked for what during f.
func requests(t *testing.T, fsys *pmemfs.FS, f func()) map[string]uint64 {
	t.Helper()
	count := func() map[string]uint64 {
		s, err := fsys.Stats()
		must(t, err)
		return s.Requests
	}
	before := count()
	f()
	asked := count()
	for what, n := range before {
		if asked[what] -= n; asked[what] == 0 {
			delete(asked, what)
		}
	}
	delete(asked, "stats")
	delete(asked, "close") // of what was closed before, too: the server learns of that later
	return asked
}

// TestSyncRequests: Sync asks the server once for what is pending, whoever did it, and then not again. It fails when something
// that is staged is not shown to clients, when it is shown for ever, or when the files of others are.
func TestSyncRequests(t *testing.T) {
	socket, _ := serveWith(t, newPool(t), "interval=1h")
	fsys, other := dial(t, socket), dial(t, socket)
	f, g := sized(t, fsys, "f", syncPages*page), sized(t, fsys, "g", page)
	m := mapped(t, f, 0, syncPages*page, pmemfs.Shared)
	theirs, err := other.OpenFile("f", os.O_RDWR, 0)
	must(t, err)
	defer theirs.Close()
	syncs := []struct {
		op   string
		call func() error
	}{{"sync", f.Sync}, {"map_sync", func() error { return m.Sync(0, 7*page) }}}
	for i, change := range []struct {
		what    string
		do      func() error
		pending bool // something of f
	}{
		{"nothing", func() error { return nil }, true}, // since it was made
		{"nothing", func() error { return nil }, false},
		{"a write that allocates", func() error { _, err := f.WriteAt([]byte("x"), 3*page); return err }, true},
		{"a write that allocates", func() error { _, err := f.WriteAt([]byte("x"), 4*page); return err }, true},
		{"a write in place", func() error { _, err := f.WriteAt([]byte("y"), 3*page); return err }, true},
		{"a write in place", func() error { _, err := f.WriteAt([]byte("y"), 4*page); return err }, true},
		{"a write by another client", func() error { _, err := theirs.WriteAt([]byte("z"), 4*page); return err }, true},
		{"a first store", func() error { return pmemfs.Catch(func() { m.Bytes()[6*page] = 1 }) }, true},
		{"a store", func() error { return pmemfs.Catch(func() { m.Bytes()[6*page] = 2 }) }, false},
		{"a load", func() error { return pmemfs.Catch(func() { sink = m.Bytes()[9*page] }) }, false},
		{"a rename by another client", func() error { return other.Rename("f", "e") }, true},
		{"a change of mode", func() error { return f.Chmod(0o640) }, true},
		{"a punch", func() error { return theirs.PunchHole(3*page, page) }, true},
		{"a write to another file", func() error { _, err := g.WriteAt([]byte("x"), 0); return err }, false},
		{"a new file", func() error { return other.WriteFile("new", []byte("new"), 0o600) }, false},
	} {
		must(t, change.do())
		for j, by := range []int{i % 2, i % 2, 1 - i%2} {
			want := map[string]uint64{}
			if change.pending && j == 0 {
				want[syncs[by].op] = 1
			}
			asked := requests(t, fsys, func() { must(t, syncs[by].call()) })
			if !maps.Equal(asked, want) {
				t.Errorf("%s: %s asked for %v, want %v", change.what, syncs[by].op, asked, want)
			}
		}
	}
}

const (
	listFiles = 40 // of a list
	listSync  = 20 // how many there are when a test makes what there is durable
)

func listName(i int) string    { return fmt.Sprintf("f%03d", i) }
func listContent(i int) string { return strings.Repeat(fmt.Sprintf("%03d ", i), 1500) } // more than a block

// listed returns how many files of a list there are, from the first on, and checks that they are what the operations up to some
// instant have left: all but the last as they should be, the last perhaps not written yet, and none after it.
func listed(t testing.TB, fsys *pmemfs.FS) (whole int) {
	t.Helper()
	names := map[string]bool{}
	entries, err := fsys.ReadDir(".")
	must(t, err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "f") {
			names[e.Name()] = true
		}
	}
	for i := range len(names) {
		if !names[listName(i)] {
			t.Fatalf("%s is lost, one that was made later is not: %v", listName(i), names)
		}
		got, err := fsys.ReadFile(listName(i))
		must(t, err)
		switch {
		case string(got) == listContent(i):
			whole++
		case len(got) != 0 || i != len(names)-1:
			t.Fatalf("%s of %d files holds %d bytes: %.20q", listName(i), len(names), len(got), got)
		}
	}
	return whole
}

// openListed opens a file of a list, again.
func openListed(fsys *pmemfs.FS, i, flag int) (*pmemfs.File, error) {
	return fsys.OpenFile(listName(i), flag, 0)
}

// durabilities are what makes durable all that was done before, under a policy of an hour: each is done to the last file.
var durabilities = []struct {
	name string
	do   func(fsys *pmemfs.FS, last int) error
}{
	{"File.Sync", func(fsys *pmemfs.FS, last int) error {
		f, err := openListed(fsys, last, os.O_RDONLY)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	}},
	{"Mapping.Sync", func(fsys *pmemfs.FS, last int) error {
		return withListed(fsys, last, pmemfs.Shared|pmemfs.ReadOnly, func(m *pmemfs.Mapping) error { return m.Sync(0, 1) })
	}},
	{"a write by an O_SYNC handle", func(fsys *pmemfs.FS, last int) error {
		f, err := openListed(fsys, last, os.O_WRONLY|os.O_SYNC)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte(listContent(last)), 0)
		return errors.Join(err, f.Close())
	}},
	{"a file made with O_SYNC", func(fsys *pmemfs.FS, _ int) error {
		f, err := fsys.OpenFile("other", os.O_WRONLY|os.O_CREATE|os.O_SYNC, 0o600)
		if err != nil {
			return err
		}
		return f.Close()
	}},
	{"a store to a Sync mapping", func(fsys *pmemfs.FS, last int) error {
		return withListed(fsys, last, pmemfs.Sync, func(m *pmemfs.Mapping) error { return storeAgain(m) })
	}},
	{"a load from a Sync mapping, then a store", func(fsys *pmemfs.FS, last int) error {
		return withListed(fsys, last, pmemfs.Sync, func(m *pmemfs.Mapping) error {
			err := pmemfs.Catch(func() { sink = m.Bytes()[0] })
			return errors.Join(err, storeAgain(m))
		})
	}},
	{"Map with Sync and Populate", func(fsys *pmemfs.FS, last int) error {
		return withListed(fsys, last, pmemfs.Sync|pmemfs.Populate, func(*pmemfs.Mapping) error { return nil })
	}},
	{"Advise", func(fsys *pmemfs.FS, last int) error {
		return withListed(fsys, last, pmemfs.Shared, func(m *pmemfs.Mapping) error { return m.Advise(pmemfs.Sync) })
	}},
	{"Fill", func(fsys *pmemfs.FS, last int) error {
		f, err := openListed(fsys, last, os.O_RDWR)
		if err != nil {
			return err
		}
		return errors.Join(f.Fill(0, page), f.Close())
	}},
	{"Pin", func(fsys *pmemfs.FS, last int) error {
		return withListed(fsys, last, pmemfs.Shared, func(m *pmemfs.Mapping) error {
			unpin, err := m.Pin(0, page)
			if err == nil {
				unpin()
			}
			return err
		})
	}},
}

// withListed maps a file of a list.
func withListed(fsys *pmemfs.FS, i int, flags pmemfs.MapFlags, f func(*pmemfs.Mapping) error) error {
	file, err := openListed(fsys, i, os.O_RDWR)
	if err != nil {
		return err
	}
	defer file.Close()
	m, err := file.Map(0, len(listContent(i)), flags)
	if err != nil {
		return err
	}
	return errors.Join(f(m), m.Unmap())
}

// storeAgain stores what is there, and makes that durable without a system call.
func storeAgain(m *pmemfs.Mapping) error {
	err := pmemfs.Catch(func() { m.Bytes()[0]++; m.Bytes()[0]-- })
	return errors.Join(err, m.Persist(0, 1))
}

// makeList makes the files [from, to) of a list.
func makeList(t testing.TB, fsys *pmemfs.FS, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		must(t, fsys.WriteFile(listName(i), []byte(listContent(i)), 0o600))
	}
}

// TestIntervalLoses: with a long interval what an operation did is seen by others at once; when the server dies all that was done
// up to the last thing that was made durable is left, and no more, because that was in the server's memory only. It fails
// when something else than what is documented commits, or when something of that does not.
func TestIntervalLoses(t *testing.T) {
	run := func(name string, want int, durable func(*pmemfs.FS, int) error) {
		t.Run(name, func(t *testing.T) {
			pool := newPool(t)
			socket, srv := serveWith(t, pool, "interval=1h")
			fsys, other := dial(t, socket), dial(t, socket)
			makeList(t, fsys, 0, listSync)
			if durable != nil {
				must(t, durable(fsys, listSync-1))
			}
			makeList(t, fsys, listSync, listFiles)
			if got := listed(t, other); got != listFiles {
				t.Errorf("another client sees %d files, %d were made", got, listFiles)
			}
			if got := listed(t, crashed(t, srv, pool, fsys, other)); got != want {
				t.Errorf("%d files have outlived the server, want %d", got, want)
			}
		})
	}
	run("nothing", 0, nil)
	for _, d := range durabilities {
		run(d.name, listSync, d.do)
	}
}

// TestOpLosesNothing: it fails when an operation returns before it is committed.
func TestOpLosesNothing(t *testing.T) {
	for _, place := range []struct {
		name, pool string
	}{{"memory", newPool(t)}, {"disk", diskPool(t)}} {
		t.Run(place.name, func(t *testing.T) {
			socket, srv := serveWith(t, place.pool, "op")
			fsys := dial(t, socket, pmemfs.Reconnect(0))
			makeList(t, fsys, 0, listFiles)
			if got := listed(t, crashed(t, srv, place.pool, fsys)); got != listFiles {
				t.Errorf("%d files have outlived the server, %d were made", got, listFiles)
			}
		})
	}
}

// TestIntervalPasses: what nobody syncs becomes durable by itself. It fails when the server's clock commits nothing.
func TestIntervalPasses(t *testing.T) {
	pool := newPool(t)
	socket, srv := serveWith(t, pool, "interval=50ms")
	fsys := dial(t, socket)
	makeList(t, fsys, 0, listFiles)
	eventually(t, "all is durable", func() bool {
		s, err := fsys.Stats()
		must(t, err)
		return s.Journal.Staged == 0 && s.Journal.DurableLSN == s.Journal.HeadLSN
	})
	if got := listed(t, crashed(t, srv, pool, fsys)); got != listFiles {
		t.Errorf("%d files have outlived the server, %d were made", got, listFiles)
	}
}

// TestStagedIsBounded: however long the interval, what waits is committed before it fills the log. It fails when it grows.
func TestStagedIsBounded(t *testing.T) {
	pool := newPool(t)
	socket, srv := serveWith(t, pool, "interval=1h")
	fsys := dial(t, socket)
	const files = 2500
	for i := range files {
		must(t, fsys.Mkdir(listName(i), 0o700))
		if i%100 > 0 {
			continue
		}
		s, err := fsys.Stats()
		must(t, err)
		if j := s.Journal; j.StagedBytes > j.SizeBytes*3/8 || j.UsedBytes > j.SizeBytes {
			t.Fatalf("%d directories: %+v", i+1, j)
		}
	}
	s, err := fsys.Stats()
	must(t, err)
	if s.Journal.Commits == 0 || s.Journal.Combined < 10 {
		t.Errorf("the log is not committed by itself, many transactions at a time: %+v", s.Journal)
	}
	fsys = crashed(t, srv, pool, fsys)
	left := 0
	for ; left < files; left++ {
		if _, err := fsys.Stat(listName(left)); err != nil {
			break
		}
	}
	for i := left; i < files; i++ {
		if _, err := fsys.Stat(listName(i)); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("directory %d is lost, %d is not: %v", left, i, err)
		}
	}
	if want := files - int(s.Journal.Staged); left != want {
		t.Errorf("%d directories of %d have outlived the server, %d were durable", left, files, want)
	}
}

// TestCommitsCombine: on a disk, operations that have to be durable at the same time share what that costs. It fails when each
// commits for itself.
func TestCommitsCombine(t *testing.T) {
	pool := diskPool(t)
	socket, srv := serveWith(t, pool, "op")
	const clients, threads, each = 3, 8, 10
	var all sync.WaitGroup
	var list []*pmemfs.FS
	for c := range clients {
		fsys := dial(t, socket, pmemfs.Reconnect(0))
		list = append(list, fsys)
		for n := range threads {
			all.Go(func() {
				for i := range each {
					if err := fsys.Mkdir(fmt.Sprintf("%d-%d-%d", c, n, i), 0o700); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
	s, err := list[0].Stats()
	must(t, err)
	const operations = clients * threads * each
	// The only processor of the Go runtime is kept by who waits for a fast disk: nobody can join meanwhile.
	alone := runtime.GOMAXPROCS(0) == 1
	if s.Journal.Transactions < operations || s.Journal.Commits*2 > s.Journal.Transactions && !alone {
		t.Errorf("%d operations, %+v", operations, s.Journal)
	}
	t.Logf("%d transactions in %d commits", s.Journal.Transactions, s.Journal.Commits)
	entries, err := crashed(t, srv, pool, list...).ReadDir(".")
	if err != nil || len(entries) != operations {
		t.Errorf("%d of %d directories have outlived the server, %v", len(entries), operations, err)
	}
}

// TestAdviseUnderInterval: a Shared mapping becomes a Sync mapping, and back. It fails when Advise does not commit what was
// granted before, when faults do not know of it afterwards, or when it has effects on other mappings.
func TestAdviseUnderInterval(t *testing.T) {
	pool := newPool(t)
	socket, srv := serveWith(t, pool, "interval=1h")
	fsys := dial(t, socket)
	f, g := sized(t, fsys, "f", 4<<20), sized(t, fsys, "g", 4<<20)
	must(t, errors.Join(f.Sync(), g.Sync()))
	const shared, synced, sharedAgain = 0, 1 << 20, 3 << 20
	store := func(m *pmemfs.Mapping, at int) {
		t.Helper()
		must(t, pmemfs.Catch(func() { m.Bytes()[at] = 'x' }))
		must(t, m.Persist(at, 1))
	}
	m, err := f.Map(0, 4<<20, pmemfs.Shared)
	must(t, err)
	other, err := g.Map(0, 4<<20, pmemfs.Shared)
	must(t, err)
	store(m, shared)
	must(t, m.Advise(pmemfs.Shared|pmemfs.Sync))
	store(m, synced)
	must(t, m.Advise(pmemfs.Shared))
	store(m, sharedAgain)
	store(other, shared)

	fsys = crashed(t, srv, pool, fsys)
	for _, want := range []struct {
		name string
		at   int
		byte byte
	}{{"f", shared, 'x'}, {"f", synced, 'x'}, {"f", sharedAgain, 0}, {"g", shared, 0}} {
		content, err := fsys.ReadFile(want.name)
		must(t, err)
		if got := content[want.at]; got != want.byte {
			t.Errorf("%s holds %q at %d, want %q", want.name, got, want.at, want.byte)
		}
	}
}

// TestAdviseRefused: what a mapping cannot become it does not, and Direct and Unchecked mappings stay what they are.
func TestAdviseRefused(t *testing.T) {
	skipUnlessRoot(t)
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	f := filledFile(t, fsys, "f", 4)
	for _, kind := range []pmemfs.MapFlags{pmemfs.Shared, pmemfs.Sync, pmemfs.Direct, pmemfs.Unchecked} {
		m, err := f.Map(0, 4*page, kind)
		must(t, err)
		for _, to := range []pmemfs.MapFlags{
			0, pmemfs.Direct, pmemfs.Unchecked, pmemfs.Populate, pmemfs.Sync | pmemfs.ReadOnly, pmemfs.Shared | pmemfs.Populate,
			pmemfs.Sync | pmemfs.Direct,
		} {
			wantError(t, m.Advise(to), unix.EINVAL, "f")
		}
		wantError(t, m.Advise(pmemfs.Sync|1<<30), unix.EOPNOTSUPP, "0x40000000")
		fixed := kind&(pmemfs.Direct|pmemfs.Unchecked) != 0
		for _, to := range []pmemfs.MapFlags{pmemfs.Shared, pmemfs.Sync, pmemfs.Shared | pmemfs.Sync} {
			if fixed {
				wantError(t, m.Advise(to), unix.EINVAL, "stays what it is")
			} else {
				must(t, m.Advise(to))
			}
		}
		if kind == pmemfs.Direct {
			wantError(t, f.PunchHole(0, page), pmemfs.ErrSealed, "f")
		}
		must(t, m.Persist(0, 4*page))
		must(t, m.Unmap())
		wantError(t, m.Advise(pmemfs.Shared), pmemfs.ErrUnmapped, "f")
	}
	m := mapped(t, filledFile(t, openPool(t, newPool(t)), "f", 1), 0, page, pmemfs.Shared)
	wantError(t, m.Advise(pmemfs.Sync), unix.EOPNOTSUPP, "needs a server")
	must(t, m.Advise(pmemfs.Shared))
}

// What Sync costs when nothing of the file is pending, beside Persist of the same line, and when the times of a write in place are.
func BenchmarkSync(b *testing.B) {
	socket, _ := serve(b, newPool(b))
	f := filledFile(b, dial(b, socket), "f", 1)
	m, err := f.Map(0, page, pmemfs.Sync)
	must(b, err)
	defer m.Unmap()
	must(b, m.Sync(0, page))
	for _, c := range settledCalls {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				m.Bytes()[1]++
				if err := c.call(f, m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("File.Sync after a write in place", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			must(b, writeOnce(f, m))
			b.StartTimer()
			must(b, f.Sync())
		}
	})
}
