package fault

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/medium/mediumtest"
)

func init() {
	roles["mortal"] = mortalRole
	roles["survivor"] = survivorRole
	roles["waiting"] = waitingRole
	roles["impatient"] = impatientRole
	roles["cutter"] = cutterRole
	roles["helped"] = helpedRole
	roles["askers"] = askersRole
}

// newNamedPage makes a page with a name.
func newNamedPage(t *testing.T) (p *Page, path string) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pmemfs-fault-test-")
	if err != nil {
		t.Skipf("SKIPPED, nothing was tested: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "page")
	if p, err = NewPageIn(path); err != nil {
		t.Fatal(err)
	}
	return p, path
}

// die leaves a page as a process that is killed does: nothing in it changes.
func (p *Page) die() {
	unix.Munmap(p.region)
	p.file.Close()
}

// has reports whether a slot is in a state.
func (p *Page) has(state uint32) bool {
	return load32(&p.shared.faults[p.slotOf(state)].state) == state
}

func takeOver(t *testing.T, path string) *Page {
	t.Helper()
	p, err := OpenPage(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// me returns a pidfd of this process, which can be sent break signals.
func me(t *testing.T) int {
	t.Helper()
	if err := Install(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pidfd) })
	return pidfd
}

// until waits for a state of shared memory.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(testTimeout); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// A request that was seen by a server that has died is served by the next one: as it was asked, not as it was being
// answered.
func TestTakeOverOfRequests(t *testing.T) {
	for name, state := range map[string]uint32{"waiting": slotRequest, "being served": slotServing} {
		t.Run(name, func(t *testing.T) {
			dead, path := newNamedPage(t)
			s := &dead.shared.faults[5]
			s.mapping, s.page, s.count, s.flags, s.state = 3, 7, 2, slotWrite, state
			if state == slotServing { // the words that serveSlot writes, as far as it got
				s.flags, s.code, s.first, s.pages = slotWrite|slotWritable, 9, 1, 1
			}
			dead.die()
			p := takeOver(t, path)
			asked := make(chan Request, 1)
			go p.Serve(func(r *Request) Code { asked <- *r; return CodeNoSpace })
			select {
			case r := <-asked:
				if r.Mapping != 3 || r.Page != 7 || r.Count != 2 || !r.Write {
					t.Errorf("request %+v", r)
				}
			case <-time.After(testTimeout):
				t.Fatal("the request was not served")
			}
			s = &p.shared.faults[5]
			until(t, "answered", func() bool { return load32(&s.state) == slotAnswered })
			if s.flags&slotWrite == 0 || Code(s.code) != CodeNoSpace {
				t.Errorf("flags %d, code %v", s.flags, Code(s.code))
			}
		})
	}
}

// An answer of a server that has died counts as in flight for whatever is broken, until the client has moved on.
func TestTakeOverOfAnswers(t *testing.T) {
	dead, path := newNamedPage(t)
	dead.shared.faults[0].state = slotAnswered
	dead.shared.faults[63].state = slotClaimed
	dead.die()
	p := takeOver(t, path)
	self := me(t)
	carryOut(t, p)
	for _, address := range []uint64{0, 1 << 40, 1<<64 - 2*PageSize} {
		runs := []AddressRun{{Address: address, Length: PageSize}}
		if err := p.TakeBack(self, runs, AccessNone, 10*time.Millisecond); !errors.Is(err, ErrBusy) {
			t.Errorf("TakeBack of %#x with an unknown answer in flight: %v", address, err)
		}
	}
	store32(&p.shared.faults[0].state, slotFree)
	if err := p.TakeBack(self, []AddressRun{{Address: 0, Length: PageSize}}, AccessNone, testTimeout); err != nil {
		t.Errorf("TakeBack with none: %v", err)
	}
}

// carryOut plays the client's part in breaks, and returns what each took.
func carryOut(t *testing.T, p *Page) <-chan Access {
	took := make(chan Access, 1000)
	var stop atomic.Bool
	var ended sync.WaitGroup
	ended.Go(func() {
		for ; !stop.Load(); runtime.Gosched() {
			for i := range p.shared.breaks {
				s := &p.shared.breaks[i]
				if cas32(&s.state, breakPosted, breakTaken) {
					took <- Access(atomic.LoadUint32(&s.to))
					store32(&s.state, breakDone)
					acknowledge(p.shared)
				}
			}
		}
	})
	t.Cleanup(func() { stop.Store(true); ended.Wait() })
	return took
}

// Breaks that a dead server has left: those that nobody has begun are withdrawn, one that has begun is waited for. From
// then on every break takes all access: nobody knows what has been given back already.
func TestTakeOverOfBreaks(t *testing.T) {
	dead, path := newNamedPage(t)
	for i, state := range []uint32{breakPosted, breakDone, breakFailed, breakTaken, 77, breakFree} {
		dead.shared.breaks[i].state = state
		dead.shared.breaks[i].to = uint32(AccessRead)
	}
	dead.shared.serverSleeps, dead.shared.serverWaits = 1, 1
	dead.die()
	p := takeOver(t, path)
	for i := range p.shared.breaks {
		want := breakFree
		if i == 3 {
			want = breakTaken
		}
		if got := load32(&p.shared.breaks[i].state); got != want {
			t.Errorf("break %d is in state %d, not %d", i, got, want)
		}
	}
	self, took := me(t), carryOut(t, p)
	runs := []AddressRun{{Address: PageSize, Length: PageSize}}
	if err := p.TakeBack(self, runs, AccessRead, 10*time.Millisecond); !errors.Is(err, ErrBusy) || len(took) > 0 {
		t.Errorf("TakeBack while the client is in a break: %v, %d posted", err, len(took))
	}
	store32(&p.shared.breaks[3].state, breakDone)
	if err := p.TakeBack(self, runs, AccessRead, testTimeout); err != nil {
		t.Errorf("TakeBack when the break is over: %v", err)
	}
	if to := <-took; to != AccessNone {
		t.Errorf("a break took all access but %d", to)
	}
}

// What cannot be taken over is refused, and nothing is left mapped or open.
func TestTakeOverRefused(t *testing.T) {
	p, path := newNamedPage(t)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("the page's file: %v, %v", info.Mode(), err)
	}
	if _, err := NewPageIn(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second page of that name: %v", err)
	}
	handedOver, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer handedOver.Close()
	ended := func() string {
		closed, err := PageClosed(handedOver)
		return fmt.Sprint(closed, err)
	}
	if s := ended(); s != "false <nil>" {
		t.Errorf("PageClosed before the end: %s", s)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if s := ended(); s != "true <nil>" {
		t.Errorf("PageClosed after the end: %s", s)
	}
	if _, err := OpenPage(path); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a page that was closed: %v", err)
	}
	if err := os.Truncate(path, 8); err != nil {
		t.Fatal(err)
	}
	if s := ended(); !strings.HasPrefix(s, "false ") || s == "false <nil>" {
		t.Errorf("PageClosed of a page that was cut: %s", s)
	}
	if err := os.Symlink(path, path+"-link"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"-zeros", make([]byte, sharedSize), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + "-none", path + "-link", path + "-zeros", filepath.Dir(path)} {
		if _, err := OpenPage(name); err == nil || errors.Is(err, os.ErrClosed) {
			t.Errorf("%s was taken over: %v", name, err)
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil || strings.Contains(string(maps), filepath.Dir(path)) {
		t.Errorf("a page is still mapped: %v", err)
	}
}

// OpenPage too trusts nothing that it finds.
func TestTakeOverOfRubbish(t *testing.T) {
	for seed := range uint64(50) {
		dead, path := newNamedPage(t)
		r := rand.New(rand.NewPCG(seed, 0))
		for i := range dead.region[16:] {
			dead.region[16+i] = byte(r.Uint32() % uint32(2+seed))
		}
		dead.die()
		p := takeOver(t, path)
		served := make(chan error)
		go func() { served <- p.Serve(func(*Request) Code { return CodeIO }) }()
		err := p.TakeBack(me(t), []AddressRun{{Address: 0, Length: PageSize}}, AccessNone, time.Millisecond)
		if err != nil && !errors.Is(err, ErrBusy) {
			t.Errorf("TakeBack: %v", err)
		}
		p.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

// mortals is a file that outlives its servers: page p lies at block p or at block pages+p of the data, as the word p of
// where says; the word after them counts moves. Whoever serves it takes everything as granted.
type mortals struct {
	t      *testing.T
	pages  int
	path   string // of the fault page
	data   *os.File
	mem    []byte
	file   *os.File // where
	where  []uint32
	client *process
	server *process
}

// newMortals starts the client, too.
func newMortals(t *testing.T, pages int, clientRole string, env ...string) *mortals {
	t.Helper()
	f := newTestFile(t, int64(pages), int64(2*pages))
	w := newTestFile(t, 1, int64(pages*4/PageSize+1))
	dead, path := newNamedPage(t)
	m := &mortals{t: t, pages: pages, path: path, data: f.data, mem: f.mem, file: w.data, where: words(w.mem)}
	m.client = startRole(t, clientRole, append(env, fmt.Sprint("PAGES=", pages)), dead.File(), f.data)
	dead.die()
	return m
}

func words(mem []byte) []uint32 { return unsafe.Slice((*uint32)(unsafe.Pointer(&mem[0])), len(mem)/4) }

// begin hears where the client has its range, and starts the first server.
func (m *mortals) begin(env ...string) {
	m.t.Helper()
	env = append(env, "ADDRESS="+m.client.expect("address"))
	m.serve(env...)
	m.server.expect("serving")
	m.client.say("go")
}

// serve starts a server, without waiting for it.
func (m *mortals) serve(env ...string) {
	m.t.Helper()
	env = append(env, "PAGE="+m.path, fmt.Sprint("PAGES=", m.pages), fmt.Sprint("CLIENT=", m.client.cmd.Process.Pid))
	m.server = startRole(m.t, "mortal", env, m.data, m.file)
}

// kill kills the server and waits until it has ended.
func (m *mortals) kill() {
	m.t.Helper()
	m.server.cmd.Process.Kill()
	until(m.t, "the server has ended", func() bool { return processEnded(m.server.pidfd) })
}

// bereave tells the client of the server, lets it store to a page, kills the server and tells it that, too.
func (m *mortals) bereave() {
	m.t.Helper()
	m.client.say("server %d", m.server.cmd.Process.Pid)
	m.client.expect("stored")
	m.kill()
	m.client.say("alone")
}

// mortalRole is a server of mortals, which moves pages if MOVES is set.
func mortalRole() error {
	var number [4]int
	for i, name := range []string{"PAGES", "CLIENT", "ADDRESS", "MOVES"} {
		n, err := environment(name)
		if err != nil && name != "MOVES" {
			return err
		}
		number[i] = n
	}
	pages, address := number[0], uint64(number[2])
	mem, err := unix.Mmap(3, 0, 2*pages*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	table, err := unix.Mmap(4, 0, (pages*4/PageSize+1)*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	where := words(table)
	pidfd, err := unix.PidfdOpen(number[1], 0)
	if err != nil {
		return err
	}
	p, err := OpenPage(os.Getenv("PAGE"))
	if err != nil {
		return err
	}
	var mu sync.Mutex
	move := func(page int) error {
		mu.Lock()
		defer mu.Unlock()
		run := AddressRun{Address: address + uint64(page)*PageSize, Length: PageSize}
		if err := p.TakeBack(pidfd, []AddressRun{run}, Access(page%2), testTimeout); err != nil {
			return err
		}
		if page%2 == int(AccessRead) {
			return nil
		}
		old := atomic.LoadUint32(&where[page])
		from, to := mem[(int(old)*pages+page)*PageSize:][:PageSize], mem[(int(1-old)*pages+page)*PageSize:][:PageSize]
		copy(to, from)
		atomic.StoreUint32(&where[page], 1-old)
		for i := range from {
			from[i] = 0xdd // what a client that still reaches it reads, and where what it stores is lost
		}
		atomic.AddUint32(&where[pages], 1)
		return nil
	}
	go func() {
		for number[3] != 0 {
			if err := move(rand.IntN(pages)); err != nil {
				fmt.Println("error", err)
				os.Exit(1)
			}
		}
	}()
	fmt.Println("serving")
	return p.Serve(func(req *Request) Code {
		mu.Lock()
		defer mu.Unlock()
		at, n := atomic.LoadUint32(&where[req.Page]), int64(1)
		for ; n < 4 && req.Page+n < int64(pages) && atomic.LoadUint32(&where[req.Page+n]) == at; n++ {
		}
		run := AddressRun{Address: address + uint64(req.Page)*PageSize, Length: uint64(n) * PageSize}
		offset := (int64(at)*int64(pages) + req.Page) * PageSize
		req.Grant(run, Reply{FirstPage: req.Page, Count: n, Offset: offset, Writable: req.Write})
		return CodeOK
	})
}

// No store is lost, no access fails and nobody hangs while servers are killed at any instant, with faults and breaks
// under way, and others take over.
func TestServersAreKilled(t *testing.T) {
	for name, env := range map[string][]string{
		"default": nil, "one P": {"GOMAXPROCS=1", "GOGC=5"}, "more P": {"GOMAXPROCS=8", "GOGC=10"},
	} {
		t.Run(name, func(t *testing.T) { killServers(t, env) })
	}
}

func killServers(t *testing.T, env []string) {
	const pages = 48
	m := newMortals(t, pages, "survivor", append(env, "PATIENCE=3600000")...)
	address := "ADDRESS=" + m.client.expect("address")
	killed := 0
	for end := time.Now().Add(moveFor()); time.Now().Before(end); killed++ {
		m.serve(address, "MOVES=1")
		if killed%8 != 7 { // otherwise anywhere in its life, OpenPage included
			m.server.expect("serving")
		}
		if killed == 0 {
			m.client.say("go")
		}
		m.client.say("server %d", m.server.cmd.Process.Pid)
		time.Sleep(rand.N(20 * time.Millisecond)) // the instant of its death
		m.kill()
	}
	m.serve(address)
	m.client.say("server %d", m.server.cmd.Process.Pid)
	m.client.say("stop")
	total, err := strconv.ParseUint(m.client.expect("total"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	m.client.expect("end")
	sum := uint64(0)
	for page := range pages {
		for g := range 8 {
			sum += binary.LittleEndian.Uint64(word(m.mem, int(m.where[page])*pages+page, g))
		}
	}
	t.Logf("%d servers killed, %d pages moved under %d increments", killed, m.where[pages], total)
	if sum != total || total == 0 || m.where[pages] == 0 {
		t.Fatalf("%d increments, %d found", total, sum)
	}
}

// survivorRole counts in words of its own, in goroutines that fault, populate and give pages back.
func survivorRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	return c.count(0, c.hearServers, func(n, page int) error {
		if _, code := c.r.Populate(int64(page), 1, n%2 == 0); code != CodeOK {
			return fmt.Errorf("populate: %v", code)
		}
		return c.r.TakeBack(rand.Int64N(int64(c.pages)), 1, AccessNone)
	})
}

// hearServers tells the client of new servers, until it hears "stop".
func (c *role) hearServers() error {
	for c.in.Scan() {
		if c.in.Text() == "stop" {
			return nil
		}
		if err := c.resume(c.in.Text()); err != nil {
			return err
		}
	}
	return errors.New("nobody says stop")
}

// bereaved hears of a new server, stores to a page with its help, and then hears that it has ended: see bereave.
func (c *role) bereaved(page int) error {
	if !c.in.Scan() {
		return errors.New("no server")
	}
	if err := c.resume(c.in.Text()); err != nil {
		return err
	}
	c.mem[page*PageSize] = 1
	fmt.Println("stored")
	return c.hear("alone")
}

// resume tells the client of the new server that a line is about.
func (c *role) resume(line string) error {
	var pid int
	if _, err := fmt.Sscanf(line, "server %d", &pid); err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	return c.client.Resume(pidfd)
}

// While there is no server, what is granted stays accessible, and what is not waits: for the next server, or for its
// orderly end.
func TestFaultsWaitForTheNextServer(t *testing.T) {
	for name, env := range map[string][]string{"default": nil, "one P": {"GOMAXPROCS=1"}} {
		t.Run(name, func(t *testing.T) {
			m := newMortals(t, 8, "waiting", append(env, "PATIENCE=3600000")...)
			address := m.client.expect("address")
			m.serve("ADDRESS=" + address)
			m.client.say("go")
			m.bereave()
			m.client.expect("went on")
			m.serve("ADDRESS=" + address)
			m.client.expect("resolved")
			m.bereave()
			m.client.expect("waiting")
			p, err := OpenPage(m.path)
			if err != nil {
				t.Fatal(err)
			}
			until(t, "the fault waits", func() bool { return p.has(slotRequest) })
			p.Close()
			m.client.expect("failed")
			m.client.expect("end")
		})
	}
}

func waitingRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	if err := c.bereaved(0); err != nil {
		return err
	}
	for i := range 1000 {
		c.mem[i%PageSize]++
	}
	if c.mem[0] != 2 {
		return fmt.Errorf("the store is lost: %d", c.mem[0])
	}
	fmt.Println("went on")
	done := make(chan Code)
	go func() {
		_, code := c.r.Populate(7, 1, true)
		done <- code
	}()
	c.mem[5*PageSize] = 3
	if code := <-done; code != CodeOK || c.client.Lost() {
		return fmt.Errorf("Populate: %v", code)
	}
	fmt.Println("resolved")
	if err := c.bereaved(2); err != nil {
		return err
	}
	c.r.TakeBack(0, 8, AccessNone)
	fmt.Println("waiting")
	_, address := catch(func() { c.mem[5*PageSize] = 1 })
	if _, code, ok := Find(address); !ok || code != CodeServerGone {
		return fmt.Errorf("after the orderly end: %v %v", code, ok)
	}
	if _, code := c.r.Populate(0, 1, true); code != CodeServerGone {
		return fmt.Errorf("Populate after the orderly end: %v", code)
	}
	if closed, err := PageClosed(c.client.opts.Page); err != nil || !closed {
		return fmt.Errorf("PageClosed: %v, %v", closed, err)
	}
	fmt.Println("failed")
	return c.client.Close()
}

// When no server comes, a fault fails after the client's patience, not before, and then all do. Abandon and Close end
// every wait.
func TestPatience(t *testing.T) {
	for _, way := range []string{"wait", "wait in Populate", "abandon", "close"} {
		t.Run(way, func(t *testing.T) {
			patience := "PATIENCE=300"
			if way == "abandon" || way == "close" {
				patience = "PATIENCE=3600000"
			}
			m := newMortals(t, 8, "impatient", patience, "WAY="+way, "GOMAXPROCS=4") // somebody must be able to abandon
			m.begin()
			m.bereave()
			m.client.expect("end")
		})
	}
}

func impatientRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	if err := c.bereaved(0); err != nil {
		return err
	}
	start := time.Now()
	go func() { // as soon as the fault waits
		for c.slots(slotRequest) == 0 {
			time.Sleep(time.Millisecond)
		}
		switch os.Getenv("WAY") {
		case "abandon":
			c.client.Abandon()
		case "close":
			c.client.Close()
		}
	}()
	if err := c.mustFail(); err != nil {
		return err
	}
	switch os.Getenv("WAY") {
	case "abandon", "close":
	default:
		if d := time.Since(start); d < 300*time.Millisecond {
			return fmt.Errorf("the patience was over after %v", d)
		}
	}
	if !c.client.Lost() {
		return errors.New("the client is not lost")
	}
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	if err := c.client.Resume(pidfd); !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("Resume: %v", err)
	}
	if err := unix.Close(pidfd); !errors.Is(err, unix.EBADF) {
		return fmt.Errorf("Resume has left the descriptor open: %v", err)
	}
	return nil
}

// mustFail asks for a page that nobody grants any more, by a fault or by Populate.
func (c *role) mustFail() error {
	if os.Getenv("WAY") == "wait in Populate" {
		if _, code := c.r.Populate(7, 1, true); code != CodeServerGone {
			return fmt.Errorf("Populate: %v", code)
		}
		return nil
	}
	fault, address := catch(func() { c.mem[7*PageSize] = 1 })
	if fault == nil {
		return errors.New("an access without a server succeeded")
	}
	if _, code, ok := Find(address); ok && code != CodeServerGone { // after Close the address is in no range
		return fmt.Errorf("fault: %v", code)
	}
	return nil
}

// slots counts the slots in a state.
func (c *role) slots(state uint32) (n int) {
	for i := range c.client.entry.page.faults {
		if load32(&c.client.entry.page.faults[i].state) == state {
			n++
		}
	}
	return n
}

// cutPage makes a page with a name, a client that stores through it and waits for orders, and a Serve.
func cutPage(t *testing.T) (c *testClient, served chan error) {
	t.Helper()
	mediumtest.NeedAddress(t)
	f := newTestFile(t, 4, 8)
	page, _ := newNamedPage(t)
	c = f.connect(t, page, "cutter")
	served = make(chan error, 1)
	go func() { served <- page.Serve(c.fault) }()
	c.say("go")
	c.expect("stored")
	return c, served
}

func cutterRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	c.mem[0] = 1
	page := c.client.opts.Page
	fmt.Println("stored")
	for c.in.Scan() {
		switch size, err := strconv.Atoi(c.in.Text()); {
		case err == nil:
			if err := page.Truncate(int64(size)); err != nil {
				return err
			}
			fmt.Println("cut")
		case c.in.Text() == "hammer":
			fmt.Println("hammering")
			for {
				page.Truncate(rand.Int64N(callsOffset)) // what lies behind is not used here
				page.Truncate(int64(sharedSize))
			}
		}
	}
	return nil
}

// Invariant 8: a client that cuts its page ends the serving of its own faults, keeps what it has, and no more; breaks
// of it succeed when it has ended.
func TestPageIsCut(t *testing.T) {
	for _, size := range []int{0, 1, 4096, 8192} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			c, served := cutPage(t)
			c.say("%d", size)
			c.expect("cut")
			runs := []AddressRun{c.run(0, 1)}
			if err := c.page.TakeBack(c.pidfd, runs, AccessNone, testTimeout); !errors.Is(err, ErrBusy) {
				t.Errorf("TakeBack: %v", err)
			}
			if size < 8192 { // otherwise its faults are still served
				select {
				case err := <-served:
					if !errors.Is(err, errPageGone) {
						t.Errorf("Serve: %v", err)
					}
				case <-time.After(testTimeout):
					t.Fatal("Serve hangs")
				}
			}
			c.cmd.Process.Kill()
			until(t, "the client has ended", func() bool { return processEnded(c.pidfd) })
			if err := c.page.TakeBack(c.pidfd, runs, AccessNone, testTimeout); err != nil {
				t.Errorf("TakeBack from an ended process: %v", err)
			}
			if err := c.page.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if size == 8192 {
				if err := <-served; err != nil {
					t.Errorf("Serve: %v", err)
				}
			}
		})
	}
}

// The page is cut while Serve sleeps and Close is called at once, or while a TakeBack waits.
func TestPageIsCutMeanwhile(t *testing.T) {
	c, served := cutPage(t)
	until(t, "Serve sleeps", func() bool { return load32(&c.page.shared.serverSleeps) != 0 })
	c.say("0")
	c.expect("cut")
	if err := c.page.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	select {
	case err := <-served:
		if err != nil && !errors.Is(err, errPageGone) {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(testTimeout):
		t.Fatal("Serve sleeps on")
	}

	d, served := cutPage(t)
	stopProcess(t, d.process)
	taken := make(chan error)
	go func() { taken <- d.page.TakeBack(d.pidfd, []AddressRun{d.run(0, 1)}, AccessNone, time.Hour) }()
	until(t, "TakeBack waits", func() bool { return load32(&d.page.shared.serverWaits) != 0 })
	if err := d.page.File().Truncate(0); err != nil { // what the client, which is stopped, could do as well
		t.Fatal(err)
	}
	select {
	case err := <-taken:
		if !errors.Is(err, ErrBusy) {
			t.Errorf("TakeBack: %v", err)
		}
	case <-time.After(testTimeout):
		t.Fatal("TakeBack hangs")
	}
	d.page.Close()
	<-served
}

// callsOffset is where what has to do with faults and breaks ends in the page.
const callsOffset = int64(unsafe.Offsetof(sharedPage{}.calls))

// A page that comes and goes all the time. A client whose own entry finds it gone dies of that, soon.
func TestPageIsCutAgainAndAgain(t *testing.T) {
	if raceEnabled {
		t.Skip("SKIPPED: the race detector accesses the memory itself, and does not survive that it is gone")
	}
	const enough = 100
	busy := 0
	for clients := 0; busy < enough && clients < enough; clients++ {
		busy += cutAgainAndAgain(t, enough)
	}
	if busy == 0 {
		t.Error("the page was never gone")
	}
}

// cutAgainAndAgain takes a page back until that has failed often enough, or the client is dead, and returns how often.
func cutAgainAndAgain(t *testing.T, enough int) (busy int) {
	t.Helper()
	c, served := cutPage(t)
	c.say("hammer")
	c.expect("hammering")
	var stop atomic.Bool
	var servers sync.WaitGroup
	servers.Go(func() {
		for err := <-served; !stop.Load(); err = c.page.Serve(c.fault) {
			if err != nil && !errors.Is(err, errPageGone) {
				t.Errorf("Serve: %v", err)
			}
		}
	})
	for busy < enough && !processEnded(c.pidfd) {
		switch err := c.page.TakeBack(c.pidfd, []AddressRun{c.run(0, 1)}, AccessNone, 5*time.Millisecond); {
		case errors.Is(err, ErrBusy):
			busy++
		case err != nil:
			t.Errorf("TakeBack: %v", err)
		}
	}
	stop.Store(true)
	c.page.Close()
	servers.Wait()
	return busy
}

// A panic of the handler is the handler's own, and goes on.
func TestHandlerPanics(t *testing.T) {
	p, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	store32(&p.shared.faults[0].state, slotRequest)
	for _, want := range []any{"a word", addressError(5)} {
		store32(&p.shared.faults[0].state, slotRequest)
		func() {
			defer func() {
				if got := recover(); got != want {
					t.Errorf("panic %v, not %v", got, want)
				}
			}()
			p.Serve(func(*Request) Code { panic(want) })
		}()
	}
}

type addressError uintptr

func (e addressError) Addr() uintptr { return uintptr(e) }

// A goroutine in Populate has an answer in flight, but no P to map it: the fault that has the only one does it. That
// fault waits for a break that waits for this answer.
func TestFaultHelpsPopulate(t *testing.T) {
	f := newTestFile(t, 2, 4)
	page, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	c := f.connect(t, page, "helped", "GOMAXPROCS=1")
	go page.Serve(func(req *Request) Code {
		if req.Page == 0 { // Populate: answer it when the fault waits
			for t.Context().Err() == nil && !page.has(slotRequest) {
				time.Sleep(time.Millisecond)
			}
		} else if err := page.TakeBack(c.pidfd, []AddressRun{c.run(0, 1)}, AccessNone, 20*time.Second); err != nil {
			return CodeBusy
		}
		req.Grant(c.run(req.Page, 1), Reply{FirstPage: req.Page, Count: 1, Offset: req.Page * PageSize, Writable: true})
		return CodeOK
	})
	c.say("go")
	c.expect("end")
}

func helpedRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	populated := make(chan error)
	go func() {
		if n, code := c.r.Populate(0, 1, true); n != 1 || code != CodeOK {
			populated <- fmt.Errorf("Populate: %d, %v", n, code)
		}
		close(populated)
	}()
	for c.slots(slotFree) == faultSlots {
		runtime.Gosched()
	}
	c.mem[PageSize] = 1
	return <-populated
}

// More goroutines are in Populate than there are slots, and none has been answered: a fault finds a slot all the same.
func TestPopulateLeavesSlotsToFaults(t *testing.T) {
	f := newTestFile(t, 200, 200)
	page, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	c := f.connect(t, page, "askers", "GOMAXPROCS=1")
	c.say("go")
	until(t, "the fault has a slot", func() bool {
		for i := range page.shared.faults {
			if s := &page.shared.faults[i]; load32(&s.state) == slotRequest && load64(&s.page) >= 100 {
				return true
			}
		}
		return false
	})
	go page.Serve(c.fault)
	c.expect("end")
}

func askersRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	var asking atomic.Int32
	populated := make(chan error)
	go func() {
		populated <- together(100, func(g int) error {
			asking.Add(1)
			if n, code := c.r.Populate(int64(g), 1, true); n != 1 || code != CodeOK {
				return fmt.Errorf("Populate: %d, %v", n, code)
			}
			return nil
		})
	}()
	for asking.Load() < 100 {
		runtime.Gosched()
	}
	for g := range 100 {
		c.mem[(100+g)*PageSize] = 1
	}
	return <-populated
}
