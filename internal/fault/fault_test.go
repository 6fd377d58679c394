package fault

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/rerun"
)

var roles = map[string]func() error{
	"stores": storesRole, "holes": holesRole, "panics": panicsRole, "plain-panic": plainPanicRole, "mover": moverRole,
	"idle": idleRole, "server": serverRole, "orphan": orphanRole, "stopped": stoppedRole, "crowd": crowdRole,
	"populate": populateRole, "downgrade": downgradeRole, "readonly": readOnlyRole, "abandon": abandonRole,
	"many": manyRole, "two-connections": twoConnectionsRole, "remap": remapRole, "map-count": mapCountRole,
	"signals": signalsRole, "touch": touchRole,
}

// runtimes are the settings under which the Go runtime gets in the way most.
var runtimes = map[string][]string{
	"default":    nil,
	"one P":      {"GOMAXPROCS=1", "GOGC=5"},
	"more P":     {"GOMAXPROCS=8", "GOGC=5"},
	"eager race": {"GOMAXPROCS=3", "GOGC=1", "GODEBUG=asyncpreemptoff=1"},
}

// word is the counter of goroutine g in a page: each has a cache line of its own.
func word(mem []byte, page, g int) []byte { return mem[page*PageSize+g*64:][:8] }

// garbage keeps the collector busy until stop is set.
func garbage(stop *atomic.Bool) {
	var keep [64][]byte
	for i := 0; !stop.Load(); i++ {
		keep[i%len(keep)] = make([]byte, 1<<12+i%4096)
		if i%1000 == 0 {
			runtime.GC()
		}
	}
	runtime.KeepAlive(&keep)
}

// together runs f in n goroutines.
func together(n int, f func(g int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	for g := range n {
		wg.Go(func() { errs[g] = f(g) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Stores from many goroutines, each to its own words of all pages, with the garbage collector running.
func TestStoresAreResolved(t *testing.T) {
	for name, env := range runtimes {
		t.Run(name, func(t *testing.T) {
			f := newTestFile(t, 512, 512)
			c := f.start(t, "stores", env...)
			c.expect("end")
			f.mu.Lock()
			defer f.mu.Unlock()
			for page := range 512 {
				for g := range 8 {
					want := uint64(page*8 + g + 1)
					if got := binary.LittleEndian.Uint64(word(f.block(f.blocks[page]), 0, g)); got != want {
						t.Fatalf("page %d word %d: %d, want %d", page, g, got, want)
					}
				}
			}
		})
	}
}

func storesRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	var stop atomic.Bool
	go garbage(&stop)
	defer stop.Store(true)
	return together(8, func(g int) error {
		for _, page := range rand.Perm(c.pages) {
			binary.LittleEndian.PutUint64(word(c.mem, page, g), uint64(page*8+g+1))
		}
		return nil
	})
}

// copy (memmove, with its vector loads and stores) into and out of pages not yet granted, and loads of holes.
func TestCopyAndHoles(t *testing.T) {
	for name, env := range runtimes {
		t.Run(name, func(t *testing.T) {
			f := newTestFile(t, 256, 256)
			f.start(t, "holes", env...).expect("end")
		})
	}
}

func holesRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	zeros := make([]byte, PageSize*16)
	read := make([]byte, len(zeros))
	for i := range read {
		read[i] = 1
	}
	copy(read, c.mem[PageSize-5:])
	if string(read) != string(zeros) {
		return errors.New("a hole does not read as zeros")
	}
	text := make([]byte, 7*PageSize)
	for i := range text {
		text[i] = byte(i*7 + i>>8)
	}
	for off := 0; off+len(text)+64 < len(c.mem); off += len(text) + 61 {
		copy(c.mem[off:], text)
	}
	for off := 0; off+len(text)+64 < len(c.mem); off += len(text) + 61 {
		if string(c.mem[off:off+len(text)]) != string(text) {
			return fmt.Errorf("text at %d is damaged", off)
		}
	}
	return nil
}

// catch runs f under SetPanicOnFault and returns the runtime error and its address.
func catch(f func()) (err runtime.Error, address uintptr) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = r.(runtime.Error)
			if a, ok := r.(interface{ Addr() uintptr }); ok {
				address = a.Addr()
			}
		}
	}()
	f()
	return nil, 0
}

// A nil dereference still panics, faults outside of all ranges too, and a failed access can be recovered from and found.
func TestFailedAccesses(t *testing.T) {
	f := newTestFile(t, 64, 64)
	f.end, f.window = 32, 1
	c := f.start(t, "panics")
	c.expect("end")
}

func panicsRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	var none *[64]int
	nilError := func() (err error) {
		defer func() { err, _ = recover().(runtime.Error) }()
		none[3] = 1
		return nil
	}
	for range 100 {
		if err := nilError(); err == nil || !strings.Contains(err.Error(), "nil pointer") {
			return fmt.Errorf("nil dereference: %v", err)
		}
	}
	if err, _ := catch(func() { c.mem[31*PageSize] = 1 }); err != nil {
		return fmt.Errorf("the last page: %v", err)
	}
	for i, off := range []int{32 * PageSize, 33*PageSize + 17, 63*PageSize + 4095} {
		err, address := catch(func() {
			if i == 1 {
				sink = c.mem[off]
			} else {
				c.mem[off] = 1
			}
		})
		if err == nil || address != c.r.Address()+uintptr(off) {
			return fmt.Errorf("access to %#x beyond the end: %v at %#x", off, err, address)
		}
		r, code, ok := Find(address)
		if r != c.r || code != CodeBeyondEnd || !ok {
			return fmt.Errorf("Find: %v %v %v", r, code, ok)
		}
	}
	if n, err := mappingsIn(c.mem[32*PageSize:]); err != nil || n > 1 {
		return fmt.Errorf("accesses that have failed leave %d mappings of inaccessible memory: %v", n, err)
	}
	other, err := unix.Mmap(-1, 0, PageSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	if err, address := catch(func() { other[5] = 1 }); err == nil {
		return errors.New("a store to inaccessible memory of somebody else succeeded")
	} else if _, _, ok := Find(address); ok {
		return errors.New("Find claims memory of somebody else")
	}
	if c.mem[31*PageSize] != 1 {
		return errors.New("the store to the last page is lost")
	}
	return nil
}

var sink byte

// mappingsIn counts the kernel's mappings that begin in memory.
func mappingsIn(mem []byte) (n int, err error) {
	maps, err := os.ReadFile("/proc/self/maps")
	first := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem))))
	for line := range strings.Lines(string(maps)) {
		begin, _, _ := strings.Cut(line, "-")
		address, failed := strconv.ParseUint(begin, 16, 64)
		err = errors.Join(err, failed)
		if address >= first && address < first+uint64(len(mem)) {
			n++
		}
	}
	return n, err
}

// Without SetPanicOnFault a failed access is the runtime's own fatal error.
func TestFailedAccessIsFatal(t *testing.T) {
	f := newTestFile(t, 8, 8)
	f.end = 4
	c := f.start(t, "plain-panic")
	for range c.lines {
	}
	c.cmd.Wait()
	if code := c.cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(c.stderr.String(), "unexpected fault address") {
		t.Fatalf("exit code %d:\n%s", code, c.stderr)
	}
}

func plainPanicRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	c.mem[5*PageSize] = 1
	return errors.New("a store beyond the end succeeded")
}

// A store to a read-only file fails; loads do not.
func TestReadOnly(t *testing.T) {
	f := newTestFile(t, 8, 8)
	if err := f.fill(3); err != nil {
		t.Fatal(err)
	}
	f.block(f.blocks[3])[9] = 42
	f.readOnly = true
	f.start(t, "readonly").expect("end")
}

func readOnlyRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	if v := c.mem[3*PageSize+9]; v != 42 {
		return fmt.Errorf("read %d", v)
	}
	_, address := catch(func() { c.mem[3*PageSize+9] = 1 })
	if _, code, ok := Find(address); !ok || code != CodeAccess {
		return fmt.Errorf("store: %v %v", code, ok)
	}
	return nil
}

// moveFor is how long each of the cases moves pages: PMEMFS_FAULT_TEST_SECONDS, if set.
func moveFor() time.Duration {
	if s, err := environment("PMEMFS_FAULT_TEST_SECONDS"); err == nil {
		return time.Duration(s) * time.Second
	}
	return 2 * time.Second
}

// Invariant 3 and no lost store: the server moves pages under goroutines of one and of two processes that count in them.
func TestNoStoreIsLostWhilePagesMove(t *testing.T) {
	for name, env := range map[string][]string{"default": nil, "one P": {"GOMAXPROCS=1", "GOGC=5"}, "more P": {"GOMAXPROCS=8", "GOGC=10"}} {
		for _, processes := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s, %d clients", name, processes), func(t *testing.T) {
				movePages(t, processes, env)
			})
		}
	}
}

func movePages(t *testing.T, processes int, env []string) {
	const pages = 48
	f := newTestFile(t, pages, 2*pages)
	var all []*testClient
	for i := range processes {
		all = append(all, f.start(t, "mover", append([]string{"FIRST=" + strconv.Itoa(8*i)}, env...)...))
	}
	moved := 0
	for end := time.Now().Add(moveFor()); time.Now().Before(end); moved++ {
		if err := f.move(rand.Int64N(pages)); err != nil {
			t.Fatalf("move: %v", err)
		}
		if moved%64 == 63 {
			time.Sleep(time.Millisecond) // let the clients get somewhere
		}
	}
	total := uint64(0)
	for _, c := range all {
		c.say("stop")
		n, err := strconv.ParseUint(c.expect("total"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		c.expect("end")
		total += n
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := uint64(0)
	for page := range pages {
		if b := f.blocks[page]; b >= 0 {
			for g := range 8 * processes {
				sum += binary.LittleEndian.Uint64(word(f.block(b), 0, g))
			}
		}
	}
	t.Logf("%d pages moved under %d increments, %d faults", moved, total, f.requests)
	if sum != total || total == 0 {
		t.Fatalf("%d increments, %d found", total, sum)
	}
}

// moverRole increments words of its own until told to stop.
func moverRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	first, err := environment("FIRST")
	if err != nil {
		return err
	}
	return c.count(first, func() error { return c.hear("stop") }, func(int, int) error { return nil })
}

// count increments words in goroutines, first and the seven after it, checks each against its own count, and prints their
// sum. It ends when over returns. between is called with a goroutine's rounds so far, and the page of the last.
func (c *role) count(first int, over func() error, between func(n, page int) error) error {
	var stop atomic.Bool
	var total atomic.Uint64
	go garbage(&stop)
	go func() {
		if err := over(); err != nil {
			fmt.Println("error", err)
		}
		stop.Store(true)
	}()
	err := together(8, func(g int) error {
		counts := make([]uint64, c.pages)
		for n := 0; !stop.Load(); n++ {
			page := rand.IntN(c.pages)
			for range 100 {
				w := word(c.mem, page, first+g)
				v := binary.LittleEndian.Uint64(w)
				if v != counts[page] {
					return fmt.Errorf("goroutine %d, page %d: %d instead of %d", g, page, v, counts[page])
				}
				counts[page]++
				binary.LittleEndian.PutUint64(w, v+1)
			}
			if err := between(n, page); err != nil {
				return err
			}
		}
		for _, n := range counts {
			total.Add(n)
		}
		return nil
	})
	fmt.Println("total", total.Load())
	return err
}

// Two connections of one process, with a page and ranges each.
func TestTwoConnectionsOfOneProcess(t *testing.T) {
	f := newTestFile(t, 16, 64)
	page, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	second := &testClient{file: f, page: page, served: make(chan error, 1), granted: make([]byte, 16)}
	defer page.Close()
	name := page.File().Fd()
	first := f.start(t, "two-connections", "SECOND="+fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), name))
	second.process = first.process
	if second.address, err = strconv.ParseUint(first.expect("address"), 10, 64); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.clients[second] = 1
	f.mu.Unlock()
	go page.Serve(second.fault)
	first.say("go")
	first.expect("stored")
	for p := range int64(16) {
		if err := f.move(p); err != nil {
			t.Fatal(err)
		}
	}
	first.say("look")
	first.expect("end")
}

func twoConnectionsRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	page, err := os.OpenFile(os.Getenv("SECOND"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	d, err := dialFiles(page, os.NewFile(4, "data"), -1)
	if err != nil {
		return err
	}
	for p := range c.pages {
		c.mem[p*PageSize+1] = byte(p + 1)
		d.mem[p*PageSize+2] = byte(p + 2)
	}
	fmt.Println("stored")
	if err := d.hear("look"); err != nil {
		return err
	}
	for p := range c.pages {
		if got := c.mem[p*PageSize+2]; got != byte(p+2) {
			return fmt.Errorf("page %d: %d", p, got)
		}
		if got := d.mem[p*PageSize+1]; got != byte(p+1) {
			return fmt.Errorf("page %d: %d", p, got)
		}
	}
	return d.client.Close()
}

// The server dies while clients fault: every access fails with an error, nothing hangs.
func TestServerKilled(t *testing.T) {
	for name, env := range map[string][]string{"default": nil, "one P": {"GOMAXPROCS=1"}} {
		t.Run(name, func(t *testing.T) {
			f := newTestFile(t, 64, 64)
			server := startRole(t, "server", env, f.data)
			server.expect("faulting")
			time.Sleep(20 * time.Millisecond)
			server.cmd.Process.Kill()
			if s := server.line(); s != "server gone, as it should be" {
				t.Fatalf("client: %q", s)
			}
			server.expect("end")
		})
	}
}

// serverRole is a server that faults and breaks keep busy, and the parent of its client.
func serverRole() error {
	page, err := NewPage()
	if err != nil {
		return err
	}
	orphan := rerun.Self()
	orphan.Env = append(os.Environ(), roleVariable+"=orphan")
	orphan.Stdout, orphan.Stderr = os.Stdout, os.Stderr
	orphan.ExtraFiles = []*os.File{page.File(), os.NewFile(3, "data")}
	if err := orphan.Start(); err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(orphan.Process.Pid, 0)
	if err != nil {
		return err
	}
	var connected sync.WaitGroup // a break before the client has installed its entries would kill it
	connected.Add(1)
	first := sync.OnceFunc(connected.Done)
	go func() {
		for connected.Wait(); ; {
			run := AddressRun{Address: uint64(orphanAddress), Length: 64 * PageSize}
			page.TakeBack(pidfd, []AddressRun{run}, AccessNone, time.Second)
		}
	}()
	return page.Serve(func(req *Request) Code {
		first()
		run := AddressRun{Address: uint64(orphanAddress) + uint64(req.Page)*PageSize, Length: PageSize}
		req.Grant(run, Reply{FirstPage: req.Page, Count: 1, Offset: req.Page * PageSize, Writable: true})
		return CodeOK
	})
}

// orphanAddress is not used for anything but to be out of the way: the breaks of serverRole are of no range.
const orphanAddress = 0x10000000

func orphanRole() error {
	pidfd, err := unix.PidfdOpen(os.Getppid(), 0)
	if err != nil {
		return err
	}
	client, err := NewClient(ClientOptions{Page: os.NewFile(3, "page"), Data: os.NewFile(4, "data"),
		MapFlags: unix.MAP_SHARED, ServerPidfd: pidfd})
	if err != nil {
		return err
	}
	r, err := client.Reserve(64 * PageSize)
	if err != nil {
		return err
	}
	r.Activate(testMapping)
	mem := r.Bytes()
	fmt.Println("faulting")
	err = together(4, func(int) error {
		for {
			fault, address := catch(func() {
				p := rand.Int64N(64)
				mem[p*PageSize] = 1
				if err := r.TakeBack(p, 1, AccessNone); err != nil {
					panic(err)
				}
			})
			if fault == nil {
				continue
			}
			if _, code, ok := Find(address); !ok || code != CodeServerGone {
				return fmt.Errorf("fault at %#x: %v %v", address, code, ok)
			}
			return nil
		}
	})
	if err != nil {
		return err
	}
	if err := client.Abandon(); err != nil {
		return err
	}
	for p := range 64 {
		if fault, _ := catch(func() { sink = mem[p*PageSize] }); fault == nil {
			return errors.New("a page is accessible after Abandon")
		}
	}
	fmt.Println("server gone, as it should be")
	return client.Close()
}

// idleRole maps and stores to a page, and waits.
func idleRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	c.mem[0] = 1
	fmt.Println("stored")
	if err := c.hear("look"); err != nil {
		return err
	}
	if c.mem[0] != 1 {
		return errors.New("the store is lost")
	}
	return nil
}

// A stopped client is busy, in time; after SIGCONT it gives back as if nothing had been. A killed one has given back.
func TestStoppedAndKilledClients(t *testing.T) {
	f := newTestFile(t, 4, 8)
	c := f.start(t, "idle")
	c.expect("stored")
	runs := []AddressRun{c.run(0, 1)}
	for _, to := range []Access{AccessNone, AccessRead} {
		stopProcess(t, c.process)
		if err := c.page.TakeBack(c.pidfd, runs, to, 50*time.Millisecond); !errors.Is(err, unix.EBUSY) {
			t.Fatalf("TakeBack from a stopped process: %v", err)
		}
		c.cmd.Process.Signal(unix.SIGCONT)
		if err := c.page.TakeBack(c.pidfd, runs, to, testTimeout); err != nil {
			t.Fatalf("TakeBack after SIGCONT: %v", err)
		}
	}
	c.say("look")
	c.expect("end")
	for range c.lines {
	}
	if err := c.page.TakeBack(c.pidfd, runs, AccessNone, testTimeout); err != nil {
		t.Fatalf("TakeBack from an ended process: %v", err)
	}

	d := f.start(t, "idle")
	d.expect("stored")
	stopProcess(t, d.process)
	done := make(chan error)
	go func() { done <- d.page.TakeBack(d.pidfd, []AddressRun{d.run(0, 1)}, AccessNone, testTimeout) }()
	time.Sleep(20 * time.Millisecond)
	d.cmd.Process.Kill()
	if err := <-done; err != nil {
		t.Fatalf("TakeBack from a process killed meanwhile: %v", err)
	}
}

// stopProcess stops a process and waits until it has.
func stopProcess(t *testing.T, p *process) {
	t.Helper()
	p.cmd.Process.Signal(unix.SIGSTOP)
	for i := 0; ; i++ {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil || i > 10000 {
			t.Fatalf("process does not stop: %v", err)
		}
		if strings.Contains(string(b), ") T ") {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// An answer that the client has not mapped yet counts as a grant: TakeBack waits for it.
func TestAnswerInFlightIsWaitedFor(t *testing.T) {
	f := newTestFile(t, 4, 8)
	c := f.start(t, "stopped")
	c.expect("ready")
	stopped := make(chan bool)
	f.mu.Lock()
	c.say("go")
	go func() { // the thread waits in its fault by now, or will soon; it is stopped before it can map the answer
		for f.page0Requested(c) {
			time.Sleep(time.Millisecond)
		}
		stopProcess(t, c.process)
		f.mu.Unlock()
		close(stopped)
	}()
	<-stopped
	for len(c.page.flightsOver([]AddressRun{c.run(0, 1)})) == 0 {
		time.Sleep(time.Millisecond)
	}
	runs := []AddressRun{c.run(0, 1)}
	if err := c.page.TakeBack(c.pidfd, runs, AccessNone, 50*time.Millisecond); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("TakeBack with an answer in flight: %v", err)
	}
	if err := c.page.TakeBack(c.pidfd, []AddressRun{c.run(1, 1)}, AccessNone, 50*time.Millisecond); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("TakeBack of another page from a stopped process: %v", err)
	}
	c.cmd.Process.Signal(unix.SIGCONT)
	if err := c.page.TakeBack(c.pidfd, runs, AccessNone, testTimeout); err != nil {
		t.Fatalf("TakeBack after SIGCONT: %v", err)
	}
	c.expect("end")
}

func stoppedRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if err := c.hear("go"); err != nil {
		return err
	}
	c.mem[0] = 1
	return nil
}

// More threads fault at once than there are slots.
func TestMoreFaultsThanSlots(t *testing.T) {
	f := newTestFile(t, 400, 400)
	f.window, f.delay = 1, 100*time.Microsecond
	c := f.start(t, "crowd", "GOMAXPROCS=150")
	c.expect("end")
}

func crowdRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	return together(200, func(g int) error {
		for p := 2 * g; p < 2*g+2; p++ {
			c.mem[p*PageSize] = 1
		}
		return nil
	})
}

// Populate maps ahead, in runs, and says where it had to stop.
func TestPopulate(t *testing.T) {
	f := newTestFile(t, 100, 100)
	f.end = 90
	c := f.start(t, "populate")
	c.expect("populated")
	f.mu.Lock()
	n := f.requests
	f.mu.Unlock()
	c.say("store")
	c.expect("end")
	f.mu.Lock()
	defer f.mu.Unlock()
	if n != 2 || f.requests != n {
		t.Errorf("%d requests to populate, %d after all stores", n, f.requests)
	}
}

func populateRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	if n, code := c.r.Populate(0, 101, true); n != 0 || code != CodeBeyondEnd {
		return fmt.Errorf("more than the range: %d, %v", n, code)
	}
	if n, code := c.r.Populate(0, 100, true); n != 90 || code != CodeBeyondEnd {
		return fmt.Errorf("more than the file: %d, %v", n, code)
	}
	fmt.Println("populated")
	if err := c.hear("store"); err != nil {
		return err
	}
	for p := range 90 {
		c.mem[p*PageSize] = 1
	}
	return nil
}

// A downgraded page can be read as before, and a store to it asks again.
func TestTakeBackStoresOnly(t *testing.T) {
	f := newTestFile(t, 4, 8)
	c := f.start(t, "downgrade")
	c.expect("stored")
	f.mu.Lock()
	if err := f.breakPage(2, AccessRead); err != nil {
		t.Fatal(err)
	}
	before := f.requests
	f.mu.Unlock()
	c.say("load")
	c.expect("loaded")
	f.mu.Lock()
	if f.requests != before {
		t.Error("a load after the downgrade faulted")
	}
	f.mu.Unlock()
	c.say("store")
	c.expect("end")
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.requests != before+1 || f.block(f.blocks[2])[0] != 2 {
		t.Errorf("%d faults for a store, which left %d", f.requests-before, f.block(f.blocks[2])[0])
	}
}

func downgradeRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	c.mem[2*PageSize] = 1
	fmt.Println("stored")
	if err := c.hear("load"); err != nil {
		return err
	}
	if c.mem[2*PageSize] != 1 {
		return errors.New("wrong after the downgrade")
	}
	fmt.Println("loaded")
	if err := c.hear("store"); err != nil {
		return err
	}
	c.mem[2*PageSize]++
	return nil
}

// The server closes the connection: faults fail with CodeServerGone, as they do after Abandon.
func TestClosedPageAndAbandon(t *testing.T) {
	f := newTestFile(t, 4, 8)
	c := f.start(t, "abandon")
	c.expect("stored")
	c.page.Close()
	c.say("fault")
	c.expect("end")
	if err := c.page.TakeBack(c.pidfd, []AddressRun{c.run(0, 1)}, AccessNone, time.Second); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("TakeBack on a closed page: %v", err)
	}
}

func abandonRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	c.mem[0] = 1
	fmt.Println("stored")
	if err := c.hear("fault"); err != nil {
		return err
	}
	for _, p := range []int{1, 0} {
		_, address := catch(func() { c.mem[p*PageSize] = 1 })
		if _, code, ok := Find(address); !ok || code != CodeServerGone {
			return fmt.Errorf("page %d: %v %v", p, code, ok)
		}
		if err := c.client.Abandon(); err != nil {
			return err
		}
	}
	c.r.Activate(testMapping) // too late, and harmless
	if n, code := c.r.Populate(0, 1, true); n != 0 || code != CodeServerGone {
		return fmt.Errorf("Populate: %d, %v", n, code)
	}
	return c.client.Close()
}

// Ranges come and go while other goroutines fault in others; entries and addresses are used again.
func TestManyRanges(t *testing.T) {
	f := newTestFile(t, 32, 32)
	f.start(t, "many", "GOMAXPROCS=4", "GOGC=20").expect("end")
}

func manyRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	return together(8, func(g int) error {
		for i := range 200 {
			r, err := c.client.Reserve(int64(c.pages) * PageSize)
			if err != nil {
				return err
			}
			r.Activate(testMapping)
			mem := r.Bytes()
			for range 4 {
				w := word(mem, rand.IntN(c.pages), g)
				binary.LittleEndian.PutUint64(w, binary.LittleEndian.Uint64(w)+1)
			}
			if i%2 == 0 {
				if err := r.Retire(); err != nil {
					return err
				}
				_, address := catch(func() { mem[0] = 1 })
				if got, code, ok := Find(address); got != r || code != CodeBeyondEnd || !ok {
					return fmt.Errorf("store to a retired range: %v %v", code, ok)
				}
			}
			if err := r.Release(); err != nil {
				return err
			}
			if err := r.Release(); !errors.Is(err, os.ErrClosed) {
				return fmt.Errorf("second Release: %v", err)
			}
		}
		return nil
	})
}

// Without a server runs are mapped and taken back directly.
func TestWithoutServer(t *testing.T) {
	f := newTestFile(t, 4, 4)
	f.block(2)[5] = 99
	startRole(t, "remap", nil, f.data).expect("end")
}

func remapRole() error {
	client, err := NewClient(ClientOptions{Data: os.NewFile(3, "data"), MapFlags: unix.MAP_SHARED, ServerPidfd: -1})
	if err != nil {
		return err
	}
	r, err := client.Reserve(4 * PageSize)
	if err != nil {
		return err
	}
	mem := r.Bytes()
	r.Activate(0)
	for _, bad := range []Reply{{FirstPage: 3, Count: 2}, {FirstPage: -1, Count: 1}, {Count: 0}, {Count: 1 << 60}, {FirstPage: 1 << 61, Count: 1}} {
		if code := r.MapRun(bad); code != CodeIO {
			return fmt.Errorf("run %+v: %v", bad, code)
		}
	}
	if code := r.MapRun(Reply{FirstPage: 1, Count: 2, Offset: PageSize, Writable: true}); code != CodeOK || mem[2*PageSize+5] != 99 {
		return fmt.Errorf("MapRun: %v, %d", code, mem[2*PageSize+5])
	}
	if err := r.TakeBack(2, 1, AccessNone); err != nil {
		return err
	}
	_, address := catch(func() { mem[2*PageSize+5] = 1 })
	if _, code, ok := Find(address); address == 0 || code != CodeBeyondEnd || !ok {
		return fmt.Errorf("after TakeBack: %#x %v %v", address, code, ok)
	}
	if err := r.TakeBack(3, 2, AccessNone); !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("TakeBack beyond the range: %v", err)
	}
	return client.Close()
}

// When the kernel allows no more mappings, mapping fails with a code, and a break still takes the page away.
func TestMapCount(t *testing.T) {
	f := newTestFile(t, 4, 70000)
	// At the limit the Go runtime must not need memory for a moment; the race detector's always does.
	if raceEnabled {
		t.Skip("SKIPPED: the race detector cannot live with the mappings used up")
	}
	startRole(t, "map-count", []string{"GOGC=off", "GOMAXPROCS=1"}, f.data).expect("end")
}

func mapCountRole() error {
	client, err := NewClient(ClientOptions{Data: os.NewFile(3, "data"), MapFlags: unix.MAP_SHARED, ServerPidfd: -1})
	if err != nil {
		return err
	}
	r, err := client.Reserve(140000 * PageSize)
	if err != nil {
		return err
	}
	r.Activate(0)
	big := Reply{FirstPage: 0, Count: 3, Offset: 0, Writable: true}
	if code := r.MapRun(big); code != CodeOK {
		return fmt.Errorf("MapRun: %v", code)
	}
	p := int64(4)
	for ; p < 140000; p += 2 {
		if code := r.MapRun(Reply{FirstPage: p, Count: 1, Offset: (p / 2) * PageSize, Writable: true}); code == CodeNoMemory {
			break
		} else if code != CodeOK {
			return fmt.Errorf("page %d: %v", p, code)
		}
	}
	err = r.TakeBack(1, 1, AccessNone) // needs two mappings more than there are
	unix.MunmapPtr(unsafe.Add(r.base, 4*PageSize), 1000*PageSize)
	if p >= 140000 {
		fmt.Println("skip: this kernel allows more mappings than the test makes")
	} else if err != nil {
		return fmt.Errorf("TakeBack when no mapping can be added: %w", err)
	}
	mem := r.Bytes()
	if fault, _ := catch(func() { mem[PageSize] = 1 }); fault == nil {
		return errors.New("page is still accessible")
	}
	return client.Close()
}

// os/signal may be asked for all signals; only Ignore takes the break signal away, and that is noticed.
func TestSignalPackage(t *testing.T) {
	f := newTestFile(t, 4, 8)
	c := f.start(t, "signals")
	c.expect("stored")
	f.mu.Lock()
	if err := f.breakPage(0, AccessNone); err != nil {
		t.Error(err)
	}
	f.mu.Unlock()
	c.say("look")
	c.expect("end")
}

func signalsRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	all := make(chan os.Signal, 100)
	signal.Notify(all)
	c.mem[0] = 1
	fmt.Println("stored")
	if err := c.hear("look"); err != nil {
		return err
	}
	if c.mem[0] != 1 {
		return errors.New("the store is lost")
	}
	signal.Reset()
	if _, err := c.client.Reserve(1); err != nil {
		return err
	}
	signal.Ignore()
	if _, err := c.client.Reserve(1); err == nil {
		return errors.New("Reserve succeeds without the break signal")
	}
	return nil
}
