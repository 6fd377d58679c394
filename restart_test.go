package pmemfs_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/internal/server"
)

func init() {
	roles["heir"] = heirRole
	roles["program"] = programRole
}

// heirRole serves a pool until its input ends, and takes over what the server before has left: POOL SOCKET RUNTIME
// COMMIT SURVIVORS WAIT.
func heirRole(args []string, in *bufio.Scanner) error {
	o := server.Options{BreakTimeout: time.Second, RuntimeDir: args[2]}
	if err := errors.Join(o.Commit.UnmarshalText([]byte(args[3])), o.Survivors.UnmarshalText([]byte(args[4]))); err != nil {
		return err
	}
	var err error
	if o.Wait, err = time.ParseDuration(args[5]); err != nil {
		return err
	}
	srv, err := server.Open(args[0], o)
	if err != nil {
		return err
	}
	return pooltest.ServeUntilEnd(srv, args[1], server.Access{GID: -1}, in)
}

// dynasty is a pool, and its servers one after the other.
type dynasty struct {
	t                     *testing.T
	pool, socket, runtime string
	commit                string // policy
	server                *pooltest.Child
	log                   *syncBuffer // of the server that is now
}

func newDynasty(t *testing.T) *dynasty {
	t.Helper()
	return found(t, newPool(t), "default")
}

// found starts the first server of a pool.
func found(t *testing.T, pool, commit string) *dynasty {
	t.Helper()
	d := &dynasty{t: t, pool: pool, runtime: pooltest.Dir(t), socket: filepath.Join(pooltest.Dir(t), "socket"), commit: commit}
	d.start()
	return d
}

// start starts a server that takes over.
func (d *dynasty) start() {
	d.t.Helper()
	d.try("adopt", "5s")
	defer func() {
		if d.t.Failed() {
			d.t.Logf("the server says: %s", d.log)
		}
	}()
	d.server.Expect("serving")
}

// try starts a server, which may refuse.
func (d *dynasty) try(survivors, wait string) {
	d.t.Helper()
	d.log = new(syncBuffer)
	d.server = pooltest.StartWith(d.t, func(c *exec.Cmd) { c.Stderr = d.log }, "heir", d.pool, d.socket, d.runtime, d.commit, survivors, wait)
}

// restart kills the server and starts another.
func (d *dynasty) restart() {
	d.t.Helper()
	d.server.Kill()
	d.start()
}

// finish ends the last server in good order, and looks at what is left.
func (d *dynasty) finish() {
	d.t.Helper()
	d.server.Finish()
	if left, err := os.ReadDir(d.runtime); len(left) > 0 || err != nil {
		d.t.Errorf("left in the runtime directory: %v, %v", left, err)
	}
	r, err := pmemfs.Check(d.t.Context(), d.pool, pmemfs.CheckOptions{Report: func(p pmemfs.Problem) { d.t.Errorf("%v", p) }})
	if err != nil || r.Problems > 0 {
		d.t.Errorf("%d problems, %v", r.Problems, err)
	}
}

// syncBuffer can be read while somebody writes to it.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // protected by mu
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// program is a client that does what it is told, and answers each line by one: "ok", a value, or "error: ...".
type program struct {
	fsys     *pmemfs.FS
	files    map[string]*pmemfs.File
	mappings map[string]*pmemfs.Mapping
	unpin    map[string]func()
	spinners sync.WaitGroup
	stop     atomic.Bool
	counted  atomic.Uint64
	failed   atomic.Pointer[error]
}

// programRole is a program: SOCKET.
func programRole(args []string, in *bufio.Scanner) error {
	fsys, err := pmemfs.Dial(args[0], pmemfs.Reconnect(time.Minute))
	if err != nil {
		return err
	}
	defer fsys.Close()
	p := &program{
		fsys: fsys, files: map[string]*pmemfs.File{}, mappings: map[string]*pmemfs.Mapping{}, unpin: map[string]func(){},
	}
	fmt.Println("ready")
	for in.Scan() {
		answer := "ok"
		err := pmemfs.Catch(func() {
			if a, err := p.obey(strings.Fields(in.Text())); err != nil {
				answer = "error: " + err.Error()
			} else if a != "" {
				answer = a
			}
		})
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Println(strings.ReplaceAll(answer, "\n", "; "))
	}
	return nil
}

var mapKinds = map[string]pmemfs.MapFlags{
	"shared": pmemfs.Shared, "sync": pmemfs.Sync, "direct": pmemfs.Direct | pmemfs.Populate,
	"readonly":  pmemfs.Shared | pmemfs.ReadOnly,
	"populated": pmemfs.Sync | pmemfs.Populate,
}

// obey does one thing. Names are of files; a mapping has the name of its file and its kind, "f.sync".
func (p *program) obey(w []string) (answer string, err error) {
	arg := func(i int) int { n, _ := strconv.Atoi(w[i]); return n }
	m := p.mappings[w[1]]
	f := p.files[strings.TrimSuffix(w[1], filepath.Ext(w[1]))]
	switch w[0] {
	case "open":
		p.files[w[1]], err = p.fsys.OpenFile(w[1], os.O_RDWR, 0)
	case "map": // f.kind PAGES
		p.mappings[w[1]], err = f.Map(0, arg(2)*page, mapKinds[filepath.Ext(w[1])[1:]])
	case "store": // mapping PAGE VALUE
		binary.LittleEndian.PutUint64(m.Bytes()[arg(2)*page:], uint64(arg(3)))
		err = m.Persist(arg(2)*page, 8)
	case "load": // mapping PAGE
		return strconv.FormatUint(binary.LittleEndian.Uint64(m.Bytes()[arg(2)*page:]), 10), nil
	case "pin": // mapping PAGE PAGES
		p.unpin[w[1]], err = m.Pin(arg(2)*page, arg(3)*page)
	case "unpin":
		p.unpin[w[1]]()
	case "unmap":
		err = m.Unmap()
	case "close":
		err = f.Close()
	case "size":
		fi, err := f.Stat()
		if err != nil {
			return "", err
		}
		return strconv.FormatInt(fi.Size(), 10), nil
	case "write":
		_, err = f.WriteString(w[2])
	case "remove":
		err = p.fsys.Remove(w[1])
	case "spin": // mapping FIRST PAGES THREADS
		for i := range arg(4) {
			p.spinners.Go(func() { p.spin(m, arg(2), arg(3), i) })
		}
	case "halt":
		return p.halt()
	case "fault": // mapping FIRST PAGES THREADS: every thread stores to each of its pages, once
		return p.fault(m, arg(2), arg(3), arg(4))
	}
	return "", err
}

// spin counts in the words of a thread, each in a line of its own, one in each page.
func (p *program) spin(m *pmemfs.Mapping, first, pages, thread int) {
	counted := make([]uint64, pages)
	err := pmemfs.Catch(func() {
		for i := thread; !p.stop.Load(); i++ {
			n := i % pages
			off := (first+n)*page + 64*(1+thread)
			word := m.Bytes()[off:][:8]
			if got := binary.LittleEndian.Uint64(word); got != counted[n] {
				panic(fmt.Sprintf("thread %d: page %d holds %d after %d", thread, first+n, got, counted[n]))
			}
			counted[n]++
			binary.LittleEndian.PutUint64(word, counted[n])
			if err := m.Persist(off, 8); err != nil {
				panic(err)
			}
			p.counted.Add(1)
		}
	})
	if err != nil {
		p.failed.Store(&err)
	}
}

func (p *program) halt() (string, error) {
	p.stop.Store(true)
	p.spinners.Wait()
	if err := p.failed.Load(); err != nil {
		return "", *err
	}
	return strconv.FormatUint(p.counted.Load(), 10), nil
}

func (p *program) fault(m *pmemfs.Mapping, first, pages, threads int) (string, error) {
	var all sync.WaitGroup
	errs := make([]error, threads)
	for i := range threads {
		all.Go(func() {
			errs[i] = pmemfs.Catch(func() {
				for n := i; n < pages; n += threads {
					m.Bytes()[(first+n)*page] = byte(n)
				}
			})
		})
	}
	all.Wait()
	return "", errors.Join(errs...)
}

// launch starts a program.
func (d *dynasty) launch(more ...string) *pooltest.Child {
	d.t.Helper()
	c := pooltest.StartWith(d.t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, more...) }, "program", d.socket)
	c.Expect("ready")
	return c
}

// answerOf tells a child something and returns its answer.
func answerOf(c *pooltest.Child, format string, args ...any) string {
	c.T.Helper()
	c.Tell(format, args...)
	return c.Line()
}

// giveOrders has a child obey orders, one by one, without an error.
func giveOrders(c *pooltest.Child, lines ...string) {
	c.T.Helper()
	for _, line := range lines {
		if answer := answerOf(c, "%s", line); strings.HasPrefix(answer, "error") {
			c.T.Fatalf("%s: %s", line, answer)
		}
	}
}

func pidOf(c *pooltest.Child) int { return c.Cmd.Process.Pid }

// stopChild stops a child, and returns when all its threads have stopped.
func stopChild(t *testing.T, c *pooltest.Child) {
	t.Helper()
	must(t, c.Cmd.Process.Signal(unix.SIGSTOP))
	eventually(t, "the process has stopped", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pidOf(c)))
		must(t, err)
		return len(threads) > 0 && !slices.ContainsFunc(threads, func(name string) bool {
			stat, err := os.ReadFile(name)
			_, state, _ := bytes.Cut(stat, []byte(") "))
			return err == nil && !bytes.HasPrefix(state, []byte("T"))
		})
	})
}

// ready makes a file of written blocks.
func ready(t *testing.T, fsys *pmemfs.FS, name string, pages int) *pmemfs.File {
	t.Helper()
	f := sized(t, fsys, name, int64(pages)*page)
	must(t, f.Fill(0, int64(pages)*page))
	return f
}

// relocate moves a file, however long those who map it take to give it back.
func relocate(t *testing.T, f *pmemfs.File, n int64) {
	t.Helper()
	eventually(t, "the file is moved", func() bool {
		err := f.Relocate(0, n)
		if !errors.Is(err, unix.EBUSY) {
			must(t, err)
		}
		return err == nil
	})
}

// needsDirect skips a test where this process may not seal.
func needsDirect(t *testing.T, f *pmemfs.File) {
	t.Helper()
	if err := f.AllowDirect(); errors.Is(err, unix.EPERM) {
		t.Skipf("SKIPPED, NOTHING WAS TESTED: %v", err)
	} else {
		must(t, err)
	}
}

// sealedBy checks that an operation fails because of a seal, or pin, of a process.
func sealedBy(t *testing.T, what string, err error, pid int, pin bool) {
	t.Helper()
	var e *pmemfs.SealedError
	if !errors.As(err, &e) || !errors.Is(err, pmemfs.ErrSealed) || e.PID != pid || e.Pin != pin {
		t.Errorf("%s: %v, want ErrSealed because of process %d, pin %v", what, err, pid, pin)
	}
}

// TestRestart kills servers under programs that have all kinds of mappings, and do not stop. None of them notices.
func TestRestart(t *testing.T) {
	d := newDynasty(t)
	fsys := dial(t, d.socket)
	direct := ready(t, fsys, "direct", 16)
	needsDirect(t, direct)
	for _, name := range []string{"sync", "shared", "removed"} {
		must(t, sized(t, fsys, name, 64*page).Close())
	}
	ready(t, fsys, "readonly", 4)
	before, err := fsys.Statfs()
	must(t, err)

	sealer, other := d.launch(), d.launch()
	giveOrders(sealer, "open direct", "map direct.direct 16", "spin direct.direct 0 16 2")
	giveOrders(other, "open sync", "map sync.sync 64", "spin sync.sync 0 32 2",
		"open shared", "map shared.shared 64", "store shared.shared 3 33",
		"open readonly", "map readonly.readonly 4", "load readonly.readonly 1",
		"map readonly.populated 4", "pin readonly.populated 1 2",
		"open removed", "map removed.populated 64", "store removed.populated 5 55", "remove removed", "close removed",
		"open direct", "write direct tail")
	for range 3 {
		d.restart()
		// Beside the programs go on, what they hold is held in the new server as well. They need not have come back
		// for that.
		again := dial(t, d.socket)
		f, err := again.OpenFile("direct", os.O_RDWR, 0)
		must(t, err)
		sealedBy(t, "truncate of what is sealed", f.Truncate(page), pidOf(sealer), false)
		sealedBy(t, "punch of what is sealed", f.PunchHole(15*page, page), pidOf(sealer), false)
		must(t, f.Truncate(17*page))
		g, err := again.OpenFile("readonly", os.O_RDWR, 0)
		must(t, err)
		sealedBy(t, "punch of what is pinned", g.PunchHole(2*page, page), pidOf(other), true)
		must(t, g.PunchHole(3*page, page))
		h, err := again.OpenFile("sync", os.O_RDWR, 0)
		must(t, err)
		relocate(t, h, 64*page) // under the feet of one who counts there
		must(t, again.Close())
		if got := answerOf(other, "load removed.populated 5"); got != "55" {
			t.Errorf("a file without name holds %s", got)
		}
		if got := answerOf(other, "load shared.shared 3"); got != "33" {
			t.Errorf("a shared mapping holds %s", got)
		}
		giveOrders(other, "load readonly.readonly 3", "write direct more", "size shared")
	}
	for _, c := range []*pooltest.Child{sealer, other} {
		if n, err := strconv.Atoi(answerOf(c, "halt x")); err != nil || n == 0 {
			t.Errorf("counted %d, %v", n, err)
		}
	}
	fi, err := direct.Stat() // by a connection that has seen four servers
	must(t, err)
	if fi.Size() != 17*page {
		t.Errorf("the file has %d bytes", fi.Size())
	}
	giveOrders(other, "unpin readonly.populated", "unmap removed.populated")
	must(t, fsys.Truncate("readonly", 0))
	giveOrders(sealer, "unmap direct.direct")
	must(t, direct.Truncate(0))
	if info := fsys.Info(); info.PID != pidOf(d.server) {
		t.Errorf("the server is said to be process %d, it is %d", info.PID, pidOf(d.server))
	}
	eventually(t, "the file without name is gone", func() bool {
		now, err := fsys.Statfs()
		must(t, err)
		return now.FreeInodes == before.FreeInodes+1
	})
	sealer.Finish()
	other.Finish()
	must(t, fsys.Close())
	d.finish()
}

// TestRestartOfTorture is the torture with servers that are killed all the time.
func TestRestartOfTorture(t *testing.T) {
	d := newDynasty(t)
	fsys := dial(t, d.socket)
	f := sized(t, fsys, "counters", (torturePages+tortureTail)*page)
	var writers []*pooltest.Child
	for i := range tortureWriters {
		c := pooltest.Start(t, "torturer", d.socket, "counters", strconv.Itoa(i))
		c.Expect("ready")
		writers = append(writers, c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var rounds atomic.Int64
	var moving sync.WaitGroup
	moving.Go(func() {
		for ctx.Err() == nil {
			some, stop := context.WithTimeout(ctx, 20*time.Millisecond)
			n, err := tortureFile(some, fsys, f)
			stop()
			rounds.Add(int64(n))
			if err != nil && !errors.Is(err, pmemfs.ErrServerGone) {
				t.Error(err)
				return
			}
		}
	})
	deaths := 0
	for end := time.Now().Add(tortureTime() / 3); time.Now().Before(end); deaths++ {
		at := rounds.Load()
		eventually(t, "blocks are moved", func() bool { return rounds.Load() > at || ctx.Err() != nil })
		d.restart()
	}
	cancel()
	moving.Wait()
	totals := make([]uint64, 0, tortureWriters*tortureThreads)
	for _, c := range writers {
		c.In.Close()
		for range tortureThreads {
			n, err := strconv.ParseUint(c.Line(), 10, 64)
			must(t, err)
			totals = append(totals, n)
		}
		must(t, c.Cmd.Wait())
	}
	must(t, fsys.Close())
	d.finish()
	data, err := openPool(t, d.pool).ReadFile("counters")
	must(t, err)
	for id, want := range totals {
		var got uint64
		for p := range torturePages {
			got += binary.LittleEndian.Uint64(data[p*page+id*tortureSlot:])
		}
		if got != want || want == 0 {
			t.Errorf("writer %d counted %d, the file says %d", id, want, got)
		}
	}
	t.Logf("%d servers killed, %d rounds", deaths, rounds.Load())
}

// TestRestartWhileAllThreadsFault: no Go code of a program can run, and yet its faults are answered by the next server.
func TestRestartWhileAllThreadsFault(t *testing.T) {
	d := newDynasty(t)
	fsys := dial(t, d.socket)
	sized(t, fsys, "f", 256*page)
	c := d.launch("GOMAXPROCS=1")
	giveOrders(c, "open f", "map f.sync 256", "store f.sync 0 1")
	stopChild(t, d.server)
	c.Tell("fault f.sync 64 128 4")
	eventually(t, "a thread waits for a page", func() bool { return waitsForPage(t, pidOf(c), d.runtime) })
	d.restart()
	c.Expect("ok")
	if got := answerOf(c, "load f.sync 65"); got != "1" {
		t.Errorf("the page holds %s", got)
	}
	giveOrders(c, "unmap f.sync", "close f")
	c.Finish()
	must(t, fsys.Close())
	d.finish()
}

// waitsForPage says whether a thread of a process waits on a futex in its fault page.
func waitsForPage(t *testing.T, pid int, runtime string) bool {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	must(t, err)
	var pages [][2]uint64 // it is mapped once for faults, and once for calls
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, runtime+"/") && strings.Contains(line, ".page") {
			var p [2]uint64
			fmt.Sscanf(line, "%x-%x", &p[0], &p[1])
			pages = append(pages, p)
		}
	}
	calls, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	must(t, err)
	for _, name := range calls {
		text, _ := os.ReadFile(name) // the thread may have ended
		words := strings.Fields(string(text))
		if len(words) < 2 { // it runs
			continue
		}
		// Not even the call's number is compared, which under emulation is another one: only futex has this as its first argument.
		at, err := strconv.ParseUint(words[1], 0, 64)
		if err == nil && slices.ContainsFunc(pages, func(p [2]uint64) bool { return p[0] <= at && at < p[1] }) {
			return true
		}
	}
	return false
}

// TestRestartWithStoppedClient: one that does not react is taken over as it is. Its blocks stay its own.
func TestRestartWithStoppedClient(t *testing.T) {
	d := newDynasty(t)
	fsys := dial(t, d.socket)
	sized(t, fsys, "f", 8*page)
	sized(t, fsys, "removed", 8*page)
	c := d.launch()
	giveOrders(c, "open f", "map f.sync 8", "store f.sync 3 7", "open removed", "map removed.populated 8")
	for i := range 8 {
		giveOrders(c, fmt.Sprintf("store removed.populated %d %d", i, 100+i))
	}
	giveOrders(c, "remove removed", "close removed")
	stopChild(t, c)
	d.restart()
	f, err := fsys.OpenFile("f", os.O_RDWR, 0)
	must(t, err)
	wantError(t, f.Truncate(page), unix.EBUSY, strconv.Itoa(pidOf(c)))
	if fi, err := f.Stat(); err != nil || fi.Size() != 8*page {
		t.Error(fi, err)
	}
	// Whatever is free is used by somebody else.
	fill := bytes.Repeat([]byte{0xff}, 1<<20)
	big := create(t, fsys, "big")
	for err == nil {
		_, err = big.Write(fill)
	}
	wantError(t, err, unix.ENOSPC, "big")
	must(t, c.Cmd.Process.Signal(unix.SIGCONT))
	for i := range 8 {
		if got := answerOf(c, "load removed.populated %d", i); got != strconv.Itoa(100+i) {
			t.Errorf("page %d of a file without name holds %s", i, got)
		}
	}
	if got := answerOf(c, "load f.sync 3"); got != "7" {
		t.Errorf("page 3 holds %s", got)
	}
	must(t, f.Truncate(page))
	if got := answerOf(c, "load f.sync 3"); !strings.Contains(got, "beyond the end") {
		t.Errorf("beyond the end: %s", got)
	}
	must(t, big.Close())
	must(t, f.Close())
	c.Finish()
	must(t, fsys.Close())
	d.finish()
}

// TestRestartAfterClientDied: what a client had that died while there was no server, or after the next one has taken
// it over without hearing of it, is given up.
func TestRestartAfterClientDied(t *testing.T) {
	d := newDynasty(t)
	fsys := dial(t, d.socket)
	before, err := fsys.Statfs()
	must(t, err)
	var clients []*pooltest.Child
	for _, name := range []string{"a", "b"} {
		must(t, sized(t, fsys, name, 64*page).Close())
		c := d.launch()
		giveOrders(c, "open "+name, "map "+name+".populated 64", "store "+name+".populated 5 1",
			"pin "+name+".populated 0 5", "remove "+name)
		clients = append(clients, c)
	}
	stopChild(t, clients[1])
	d.server.Kill()
	clients[0].Kill()
	d.start()
	s, err := fsys.Stats()
	must(t, err)
	if s.Clients != 2 { // this one, and the one that is stopped
		t.Errorf("%d clients", s.Clients)
	}
	clients[1].Kill()
	eventually(t, "what dead clients had is free", func() bool {
		now, err := fsys.Statfs()
		must(t, err)
		s, err := fsys.Stats()
		must(t, err)
		return now.FreeBlocks == before.FreeBlocks && now.FreeInodes == before.FreeInodes && s.Clients == 1
	})
	must(t, fsys.Close())
	d.finish()
}

// TestRestartWithoutComingBack: a client that does not connect again is named, once.
func TestRestartWithoutComingBack(t *testing.T) {
	d := newDynasty(t)
	c := d.launch()
	stopChild(t, c)
	d.server.Kill()
	d.try("adopt", "10ms")
	d.server.Expect("serving")
	want := fmt.Sprintf("process %d, a client of an earlier server, has not connected again", pidOf(c))
	eventually(t, "the log names it", func() bool { return strings.Contains(d.log.String(), want) })
	must(t, c.Cmd.Process.Signal(unix.SIGCONT))
	fsys := dial(t, d.socket)
	sized(t, fsys, "f", page)
	giveOrders(c, "open f") // it is welcome all the same
	c.Finish()
	must(t, fsys.Close())
	d.finish()
	if n := strings.Count(d.log.String(), want); n != 1 {
		t.Errorf("the log names it %d times", n)
	}
}

// TestRestartRefused: who does not want to take clients over is told who they are, and nothing happens to them.
func TestRestartRefused(t *testing.T) {
	d := newDynasty(t)
	setup := dial(t, d.socket)
	sized(t, setup, "f", 8*page)
	must(t, setup.Close())
	c := d.launch()
	giveOrders(c, "open f", "map f.populated 8", "store f.populated 3 7")
	d.server.Kill()
	for _, survivors := range []string{"refuse", "wait"} {
		d.try(survivors, "50ms")
		if err := d.server.Cmd.Wait(); err == nil {
			t.Fatalf("%s: the server ends well", survivors)
		}
		if log := d.log.String(); !strings.Contains(log, "is still mapped by process "+strconv.Itoa(pidOf(c))) {
			t.Errorf("%s: %s", survivors, log)
		}
	}
	if _, err := pmemfs.Open(d.pool); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), strconv.Itoa(pidOf(c))) {
		t.Errorf("an owner without clients: %v", err)
	}
	if got := answerOf(c, "load f.populated 3"); got != "7" {
		t.Errorf("the page holds %s", got)
	}
	d.start()
	giveOrders(c, "store f.populated 3 8", "size f")
	d.server.Kill()
	d.try("wait", "30s")
	c.Finish()
	d.server.Expect("serving")
	d.finish()
}

// TestRestartBesideAnUnknownClient: a client that cannot be taken over keeps the pool from being opened, and keeps
// its blocks.
func TestRestartBesideAnUnknownClient(t *testing.T) {
	for name, harm := range map[string]func(dir string) error{
		"its record is gone":    func(dir string) error { return os.Remove(filepath.Join(dir, "0.session")) },
		"its record is damaged": func(dir string) error { return os.Truncate(filepath.Join(dir, "0.session"), 70) },
		"its page is gone":      func(dir string) error { return os.Remove(filepath.Join(dir, "0.page")) },
		"it has cut its page":   func(dir string) error { return os.Truncate(filepath.Join(dir, "0.page"), 4096) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDynasty(t)
			c := d.launch()
			d.server.Kill()
			dirs, err := filepath.Glob(d.runtime + "/pmemfs-*")
			if err != nil || len(dirs) != 1 {
				t.Fatal(dirs, err)
			}
			must(t, harm(dirs[0]))
			d.try("adopt", "50ms")
			if err := d.server.Cmd.Wait(); err == nil {
				t.Fatal("the pool is opened")
			}
			if log := d.log.String(); !strings.Contains(log, strconv.Itoa(pidOf(c))) {
				t.Errorf("%s", log)
			}
			c.Kill()
			d.start()
			d.finish()
		})
	}
}

// TestRestartOnDisk: where operations are staged, no client has a block that the next server does not know.
func TestRestartOnDisk(t *testing.T) {
	pool := filepath.Join(t.TempDir(), "pool")
	must(t, pmemfs.Format(pool, pmemfs.FormatOptions{Size: testPoolSize}))
	d := found(t, pool, "op")
	fsys := dial(t, d.socket)
	f := sized(t, fsys, "f", 256*page)
	m := mapped(t, f, 0, 256*page, pmemfs.Shared)
	for i := range 256 {
		m.Bytes()[i*page] = byte(i)
	}
	d.restart()
	fill := bytes.Repeat([]byte{0xff}, 1<<20)
	big := create(t, fsys, "big")
	for err := error(nil); err == nil; {
		if _, err = big.Write(fill); err != nil {
			wantError(t, err, unix.ENOSPC, "big")
		}
	}
	for i := range 256 {
		if got := m.Bytes()[i*page]; got != byte(i) {
			t.Fatalf("page %d holds %d", i, got)
		}
		m.Bytes()[i*page]++
	}
	must(t, m.Sync(0, 256*page))
	d.restart()
	data, err := fsys.ReadFile("f")
	must(t, err)
	for i := range 256 {
		if data[i*page] != byte(i+1) {
			t.Fatalf("page %d of the file holds %d", i, data[i*page])
		}
	}
	must(t, m.Unmap())
	must(t, f.Close())
	must(t, fsys.Close())
	d.finish()
}

// TestRestartOfIntervals: who has seen what a server did and forgot must know that it is gone.
func TestRestartOfIntervals(t *testing.T) {
	d := found(t, newPool(t), "interval=1h")
	fsys := dial(t, d.socket)
	f := sized(t, fsys, "f", page)
	m := mapped(t, f, 0, page, pmemfs.Shared)
	m.Bytes()[0] = 1
	d.server.Kill()
	_, err := f.Stat()
	wantError(t, err, pmemfs.ErrServerGone, "f")
	wantFault(t, func() { m.Bytes()[0] = 2 }, "f", 0, pmemfs.ErrServerGone)
	d.try("refuse", "1s") // it has let go of the pool
	d.server.Expect("serving")
	d.server.Finish()
}

// TestRestartInForeignDirectory: where the runtime directory cannot be trusted, clients end with their server, as the
// log says.
func TestRestartInForeignDirectory(t *testing.T) {
	d := &dynasty{
		t: t, pool: newPool(t), runtime: filepath.Join(pooltest.Dir(t), "missing"), socket: filepath.Join(pooltest.Dir(t), "socket"),
		commit: "op",
	}
	d.start()
	fsys := dial(t, d.socket)
	f := sized(t, fsys, "f", 8*page)
	if log := d.log.String(); strings.Count(log, "no client will outlive") != 1 || !strings.Contains(log, d.runtime) {
		t.Errorf("the log says %q", log)
	}
	d.server.Kill()
	_, err := f.Stat()
	wantError(t, err, pmemfs.ErrServerGone, "f")
	d.start()
	d.server.Finish()
}

// TestRestartHasAnEnd: without another server patience ends, and everything with it.
func TestRestartHasAnEnd(t *testing.T) {
	d := newDynasty(t)
	fsys := dial(t, d.socket, pmemfs.Reconnect(50*time.Millisecond))
	f := sized(t, fsys, "f", 8*page)
	m := mapped(t, f, 0, 8*page, pmemfs.Sync)
	m.Bytes()[page] = 1
	d.server.Kill()
	if got := m.Bytes()[page]; got != 1 && got != 0 {
		t.Error(got)
	}
	_, err := f.Stat()
	wantError(t, err, pmemfs.ErrServerGone, "f")
	wantFault(t, func() { m.Bytes()[page] = 2 }, "f", page, pmemfs.ErrServerGone)
	// It has let go of the pool, so a server need not take it over.
	d.try("refuse", "1s")
	d.server.Expect("serving")
	_, err = f.Stat()
	wantError(t, err, pmemfs.ErrServerGone, "f")
	d.finish()
}

// TestRestartInGoodOrder: whoever ends in good order does not leave anybody to another server, however patient.
func TestRestartInGoodOrder(t *testing.T) {
	d := newDynasty(t)
	fsys := dial(t, d.socket, pmemfs.Reconnect(time.Hour))
	f := sized(t, fsys, "f", 8*page)
	m := mapped(t, f, 0, 8*page, pmemfs.Sync|pmemfs.Populate)
	m.Bytes()[page] = 1
	d.restart() // and again with a client that was taken over
	_, err := f.Stat()
	must(t, err)
	d.finish()
	_, err = f.Stat()
	wantError(t, err, pmemfs.ErrServerGone, "f")
	wantFault(t, func() { m.Bytes()[page] = 2 }, "f", page, pmemfs.ErrServerGone)
}

// TestRestartClose: nobody waits for a server to be allowed to give up.
func TestRestartClose(t *testing.T) {
	d := newDynasty(t)
	fsys := dial(t, d.socket, pmemfs.Reconnect(time.Hour))
	m, err := sized(t, fsys, "f", 8*page).Map(0, 8*page, pmemfs.Sync)
	must(t, err)
	d.server.Kill()
	must(t, fsys.Close())
	wantFault(t, func() { m.Bytes()[page] = 2 }, "f", page, pmemfs.ErrUnmapped)
	d.try("refuse", "1s")
	d.server.Expect("serving")
	d.finish()
}

// TestRestartRequests: what was under way when the server died, and what is asked for before the next is there.
func TestRestartRequests(t *testing.T) {
	d := newDynasty(t)
	fsys := dial(t, d.socket, pmemfs.Reconnect(time.Minute))
	f, g := sized(t, fsys, "f", 8*page), sized(t, fsys, "g", 8*page)
	m, err := f.Map(0, 8*page, pmemfs.Sync)
	must(t, err)
	pinned, err := g.Map(0, 8*page, pmemfs.Sync)
	must(t, err)
	unpin, err := pinned.Pin(0, page)
	must(t, err)
	stopChild(t, d.server)
	type call struct {
		name string
		do   func() error
		want error
	}
	under := []call{
		{"stat", func() error { _, err := g.Stat(); return err }, nil},
		{"sync", func() error { return g.Sync() }, nil},
		{"lookup", func() error { _, err := fsys.Stat("g"); return err }, nil},
		{"open", func() error { _, err := fsys.OpenFile("g", os.O_RDWR, 0); return err }, nil},
		{"map", func() error { _, err := g.Map(0, page, pmemfs.Shared); return err }, nil},
		{"defragment", func() error { _, err := g.Defragment(t.Context(), pmemfs.DefragOptions{}); return err }, nil},
		{"write", func() error { _, err := g.WriteAt([]byte("x"), 5); return err }, pmemfs.ErrServerGone},
		{"mkdir", func() error { return fsys.Mkdir("d", 0o755) }, pmemfs.ErrServerGone},
		{"create", func() error { _, err := fsys.Create("h"); return err }, pmemfs.ErrServerGone},
		{"clone", func() error { return fsys.Clone("g", "clone") }, pmemfs.ErrServerGone},
		{"clone range", func() error { return g.CloneRange(4*page, g, 0, page) }, pmemfs.ErrServerGone},
		{"copy range", func() error { _, err := g.CopyRange(1, g, page, page-1); return err }, pmemfs.ErrServerGone},
		{"unmap", func() error { return m.Unmap() }, nil},
		{"unpin", func() error { unpin(); return nil }, nil},
	}
	after := []call{
		{"later write", func() error { _, err := g.WriteAt([]byte("y"), 6); return err }, nil},
		{"later mkdir", func() error { return fsys.Mkdir("e", 0o755) }, nil},
	}
	var all sync.WaitGroup
	run := func(c call) {
		all.Go(func() {
			if err := c.do(); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%s: %v, want %v", c.name, err, c.want)
			}
		})
	}
	must(t, f.Close()) // the server is told of it later, or tried to be
	eventually(t, "the server is told of it", func() bool { return goroutinesIn("(*link).do(") == 1 })
	for _, c := range under {
		run(c)
	}
	eventually(t, "all are under way", func() bool { return goroutinesIn("(*link).do(") == 1+len(under) })
	d.server.Kill()
	eventually(t, "the connection is lost", func() bool { return goroutinesIn("(*link).do(") == 0 })
	for _, c := range after {
		run(c)
	}
	const over = 7 // have failed, or are done: what is given back need not wait, but for addresses
	eventually(t, "all wait", func() bool { return goroutinesIn("(*connection).await(") == len(under)-over+len(after) })
	d.start()
	all.Wait()
	// What was given back while nobody was there to take it is gone; what is still here works.
	must(t, g.PunchHole(0, page))
	_, err = f.Stat()
	wantError(t, err, os.ErrClosed, "f")
	if s, err := fsys.Stats(); err != nil || s.Frames.Mappings != 2 || s.Frames.Pins != 0 {
		t.Errorf("%+v, %v: two mappings of g are left", s.Frames, err)
	}
	must(t, fsys.Close())
	d.finish()
}

// goroutinesIn counts goroutines that are in a function of this package's.
func goroutinesIn(function string) (n int) {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for g := range bytes.SplitSeq(stacks, []byte("\n\n")) {
		if bytes.Contains(g, []byte("pmemfs."+function)) {
			n++
		}
	}
	return n
}

// TestRestartDuringTransfer: what is lent to a transfer is there to its end.
func TestRestartDuringTransfer(t *testing.T) {
	d := newDynasty(t)
	fsys := dial(t, d.socket)
	f := create(t, fsys, "f")
	data := numbered(8<<20 + 100)
	_, err := f.Write(data)
	must(t, err)
	seek(t, f, 0)
	target := openOS(t, filepath.Join(pooltest.Dir(t), "target"), os.O_WRONLY|os.O_CREATE)
	deaths := 0
	n, err := f.WriteTo(&waiting{target, func(p []byte) {
		if deaths < 3 {
			deaths++
			d.restart()
		}
		sink += p[len(p)-1]
	}})
	if n != int64(len(data)) || err != nil || deaths == 0 {
		t.Errorf("%d of %d bytes, %v, %d servers have died", n, len(data), err, deaths)
	}
	wantFile(t, target.Name(), data)
	must(t, fsys.Close())
	d.finish()
}

// TestRestartOfImport: who has come by an exported descriptor keeps its mappings, and knows that it has nothing else.
func TestRestartOfImport(t *testing.T) {
	d := newDynasty(t)
	fsys := dial(t, d.socket)
	f := ready(t, fsys, "f", 8)
	exported, err := f.Export()
	must(t, err)
	defer exported.Close()
	g, err := pmemfs.Import(exported, pmemfs.Reconnect(time.Minute))
	must(t, err)
	m, err := g.Map(0, 8*page, pmemfs.Sync|pmemfs.Populate)
	must(t, err)
	m.Bytes()[3*page] = 7
	must(t, m.Persist(3*page, 1))
	d.restart()
	_, err = g.Stat()
	wantError(t, err, pmemfs.ErrServerGone, "f")
	relocate(t, f, 8*page) // which takes its pages away: the next access faults
	if got := m.Bytes()[3*page]; got != 7 {
		t.Errorf("the page holds %d", got)
	}
	m.Bytes()[3*page] = 8
	must(t, m.Persist(3*page, 1))
	d.restart()
	m.Bytes()[4*page] = 9
	must(t, m.Persist(4*page, 1))
	b := make([]byte, page+1)
	if _, err := f.ReadAt(b, 3*page); err != nil || b[0] != 8 || b[page] != 9 {
		t.Errorf("%d, %d, %v", b[0], b[page], err)
	}
	d.finish()
	eventually(t, "the mapping is gone with the last server", func() bool {
		return errors.Is(pmemfs.Catch(func() { m.Bytes()[3*page] = 1 }), pmemfs.ErrServerGone)
	})
	must(t, m.Unmap())
	wantError(t, g.Close(), pmemfs.ErrServerGone, "f")
	// And it has let go of the data.
	p := openPool(t, d.pool, pmemfs.Wait(10*time.Second))
	if data, err := p.ReadFile("f"); err != nil || !slices.Equal([]byte{data[3*page], data[4*page]}, []byte{8, 9}) {
		t.Error(err)
	}
}
