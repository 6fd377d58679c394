package fault

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// slotOf returns the first slot in a state.
func (p *Page) slotOf(state uint32) int {
	for i := range p.shared.faults {
		if atomic.LoadUint32(&p.shared.faults[i].state) == state {
			return i
		}
	}
	return 0
}

// page0Requested reports whether no request has been posted or taken up yet.
func (f *testFile) page0Requested(c *testClient) bool {
	for i := range c.page.shared.faults {
		if s := atomic.LoadUint32(&c.page.shared.faults[i].state); s == slotRequest || s == slotServing {
			return false
		}
	}
	return true
}

// The protocol is between two binaries: its layout must not change by accident.
func TestLayout(t *testing.T) {
	var p sharedPage
	for _, c := range []struct {
		what      string
		got, want uintptr
	}{
		{"page", unsafe.Sizeof(p), 3*4096 + 16*8192},
		{"bell", unsafe.Offsetof(p.bell), 64},
		{"serverSleeps", unsafe.Offsetof(p.serverSleeps), 128},
		{"ackBell", unsafe.Offsetof(p.ackBell), 192},
		{"serverWaits", unsafe.Offsetof(p.serverWaits), 256},
		{"callBell", unsafe.Offsetof(p.callBell), 320},
		{"callSleeps", unsafe.Offsetof(p.callSleeps), 384},
		{"call slots", unsafe.Offsetof(p.calls), 12288},
		{"call slot", unsafe.Sizeof(p.calls[0]), 8192},
		{"fault slots", unsafe.Offsetof(p.faults), 4096},
		{"break slots", unsafe.Offsetof(p.breaks), 8192},
		{"fault slot", unsafe.Sizeof(p.faults[0]), 64},
		{"break slot", unsafe.Sizeof(p.breaks[0]), 64},
		{"siginfo address", unsafe.Offsetof(sigInfo{}.address), 16},
		{"sigaction", unsafe.Sizeof(sigAction{}), 32},
		{"pollfd", unsafe.Sizeof(pollFd{}), unsafe.Sizeof(unix.PollFd{})},
		{"timespec", unsafe.Sizeof(timespec{}), unsafe.Sizeof(unix.Timespec{})},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", c.what, c.got, c.want)
		}
	}
}

// The assembly's atomics do what sync/atomic does.
func TestAtomics(t *testing.T) {
	var w uint32 = 5
	if add32(&w, ^uint32(0)) != 4 || swap32(&w, 9) != 4 || load32(&w) != 9 || cas32(&w, 8, 1) || !cas32(&w, 9, 1) || w != 1 {
		t.Errorf("word is %d", w)
	}
	store32(&w, 1<<31)
	var d uint64
	store64(&d, 1<<63+1)
	if w != 1<<31 || load64(&d) != 1<<63+1 {
		t.Errorf("words are %#x, %#x", w, d)
	}
	const n = 100000
	var lock, sum uint32
	// The race detector does not see what guards the plain word, nor memory that is not Go's.
	mem, err := unix.Mmap(-1, 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	plain := (*int)(unsafe.Pointer(&mem[0]))
	together(4, func(int) error {
		for range n {
			add32(&sum, 3)
			for !cas32(&lock, 0, 1) {
				runtime.Gosched()
			}
			*plain++
			store32(&lock, 0)
		}
		return nil
	})
	if sum != 12*n || *plain != 4*n {
		t.Errorf("sum %d, plain %d", sum, *plain)
	}
}

// The frames of the entries fit into what nosplit functions may use in builds for debuggers, too: they would not link.
func TestLinksForDebuggers(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: compiles the package for two architectures")
	}
	for _, arch := range []string{"amd64", "arm64"} {
		build := exec.Command("go", "test", "-c", "-gcflags=-N -l", "-o", os.DevNull, ".")
		build.Env = append(os.Environ(), "GOARCH="+arch, "GOFLAGS=")
		if out, err := build.CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
			t.Skipf("SKIPPED: %v", err)
		} else if err != nil {
			t.Errorf("%s: %v\n%s", arch, err, out)
		}
	}
}

// Invariant 8: whatever is written into the page, Serve and TakeBack neither panic nor hang.
func TestScribblingClient(t *testing.T) {
	p, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	shared, region, err := mapPage(p.File())
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(region)
	served := make(chan error, 1)
	var handled atomic.Int64
	go func() {
		served <- p.Serve(func(req *Request) Code {
			handled.Add(1)
			if req.Page < 0 || req.Count < 1 {
				t.Errorf("request %+v", req)
			}
			run := AddressRun{Address: uint64(req.Page) * PageSize, Length: PageSize}
			req.Grant(run, Reply{FirstPage: req.Page, Count: 1, Writable: req.Write})
			return CodeOK
		})
	}()
	var stop atomic.Bool
	scribbler := make(chan error)
	go func() { scribbler <- scribble(shared, region, &stop) }()
	// This process plays the client too: pidfd is its own, and the break signal finds no client here.
	if err := Install(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	for i := range 50 {
		runs := make([]AddressRun, 1+rand.IntN(100))
		for j := range runs {
			runs[j] = AddressRun{Address: uint64(rand.IntN(1000)) * PageSize, Length: PageSize}
		}
		if err := p.TakeBack(pidfd, runs, Access(i%2), 10*time.Millisecond); err != nil && !errors.Is(err, ErrBusy) {
			t.Errorf("TakeBack: %v", err)
		}
	}
	stop.Store(true)
	<-scribbler
	p.Close()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(testTimeout):
		t.Fatal("Serve hangs")
	}
	if handled.Load() == 0 {
		t.Error("nothing was handled")
	}
	t.Logf("%d requests handled", handled.Load())
}

// scribble writes random bytes, and often enough plausible ones, all over the page.
func scribble(shared *sharedPage, region []byte, stop *atomic.Bool) error {
	for !stop.Load() {
		for range 100 {
			switch i := rand.IntN(faultSlots); rand.IntN(6) {
			case 0:
				region[rand.IntN(len(region))] = byte(rand.Uint32())
			case 1:
				store32(&shared.faults[i].state, rand.Uint32N(7))
			case 2:
				store32(&shared.breaks[i].state, rand.Uint32N(7))
			case 3:
				store64(&shared.faults[i].page, rand.Uint64())
				store64(&shared.faults[i].count, rand.Uint64())
				store32(&shared.faults[i].state, slotRequest)
			case 4:
				add32(&shared.bell, 1)
				futexWake(&shared.bell)
			case 5:
				store32(&shared.serverSleeps, rand.Uint32N(2))
				store32(&shared.serverWaits, rand.Uint32N(2))
			}
		}
		runtime.Gosched()
	}
	return nil
}

// The page's size is sealed: a client cannot make the server's accesses fail.
func TestPageCannotBeShrunk(t *testing.T) {
	p, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.File().Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncate: %v", err)
	}
	if p.shared.magic != pageMagic {
		t.Error("magic is gone")
	}
}

// Other files are not taken for a fault page.
func TestNewClientRefusesOtherFiles(t *testing.T) {
	if err := Install(); errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("SKIPPED: %v", err)
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, size := range []int{0, 100, sharedSize} {
		if err := file.Truncate(int64(size)); err != nil {
			t.Fatal(err)
		}
		if _, err := NewClient(ClientOptions{Page: file, Data: file, ServerPidfd: -1}); err == nil {
			t.Errorf("%d bytes were taken for a fault page", size)
		}
	}
}

// An OK without a Grant is not passed on, and neither Close nor a second Close wait.
func TestOKWithoutGrant(t *testing.T) {
	p, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.Serve(func(*Request) Code { return CodeOK }) }()
	s := &p.shared.faults[0]
	s.mapping, s.count = 1, 1
	store32(&s.state, slotRequest)
	add32(&p.shared.bell, 1)
	futexWake(&p.shared.bell)
	for start := time.Now(); load32(&s.state) != slotAnswered; {
		if time.Since(start) > testTimeout {
			t.Fatal("no answer")
		}
		time.Sleep(time.Millisecond)
	}
	if Code(s.code) != CodeIO {
		t.Errorf("answer: %v", Code(s.code))
	}
	p.Close()
	p.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
