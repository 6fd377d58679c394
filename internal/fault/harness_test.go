package fault

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/rerun"
)

// The tests run clients, and where it has to be killed the server, as processes of their own: this test binary, started
// again with roleVariable naming a function of the table roles. A role talks to the test by lines on its standard input
// and output.
const roleVariable = "PMEMFS_FAULT_TEST_ROLE"

const testTimeout = time.Minute // of any single wait: far beyond what it takes, so that a hang is a failure

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		time.AfterFunc(5*testTimeout, func() { os.Exit(3) }) // whatever happens to the test, leave nothing behind
		if err := roles[role](); err != nil {
			fmt.Printf("error %v\n", err)
			os.Exit(1)
		}
		fmt.Println("end")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process is a role that runs.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  chan string
	stderr *strings.Builder
	pidfd  int
}

// startRole starts a role. Its files begin at descriptor 3.
func startRole(t testing.TB, role string, env []string, files ...*os.File) *process {
	t.Helper()
	p := &process{t: t, cmd: rerun.Self(), lines: make(chan string, 64), stderr: new(strings.Builder)}
	p.cmd.Env = append(append(os.Environ(), roleVariable+"="+role, "GOTRACEBACK=single"), env...)
	p.cmd.ExtraFiles = files
	p.cmd.Stderr = p.stderr
	p.in, _ = p.cmd.StdinPipe()
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if p.pidfd, err = unix.PidfdOpen(p.cmd.Process.Pid, 0); err != nil {
		t.Fatal(err)
	}
	go func() {
		for scan := bufio.NewScanner(out); scan.Scan(); {
			p.lines <- scan.Text()
		}
		close(p.lines)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		for range p.lines { // Wait closes the pipe: let the reader finish first
		}
		p.cmd.Wait()
		unix.Close(p.pidfd)
		if t.Failed() && p.stderr.Len() > 0 {
			t.Logf("%s wrote to stderr:\n%s", role, p.stderr)
		}
	})
	return p
}

// line returns the next line of the process; "" when it has ended.
func (p *process) line() string {
	p.t.Helper()
	select {
	case s := <-p.lines:
		return s
	case <-time.After(testTimeout):
		p.t.Fatalf("process %d says nothing", p.cmd.Process.Pid)
		return ""
	}
}

// expect reads the next line, which must begin with word, and returns the rest.
func (p *process) expect(word string) string {
	p.t.Helper()
	s := p.line()
	if s != word && !strings.HasPrefix(s, word+" ") {
		p.t.Fatalf("process says %q instead of %q", s, word)
	}
	return strings.TrimPrefix(strings.TrimPrefix(s, word), " ")
}

func (p *process) say(format string, args ...any) { fmt.Fprintf(p.in, format+"\n", args...) }

// testFile is the server's side in the tests: one file, whose pages lie at blocks of a shared memory file. mu stands for
// the inode's lock.
type testFile struct {
	t    testing.TB
	data *os.File
	mem  []byte

	mu       sync.Mutex
	blocks   []int64 // of each page; -1: hole
	free     []int64
	end      int64 // pages: beyond it accesses fail
	readOnly bool
	window   int64               // pages of a run at most
	clients  map[*testClient]int // a set
	requests int
	refuse   Code // unless CodeOK, the answer to everything
	delay    time.Duration
}

// testClient is a mapping of the whole testFile by one process.
type testClient struct {
	*process
	file    *testFile
	page    *Page
	served  chan error
	address uint64
	granted []byte // for each page: 0 nothing, 1 loads, 2 stores too
}

const testMapping = 7

func newTestFile(t testing.TB, pages, blocks int64) *testFile {
	t.Helper()
	if faultEntryAddress() == 0 {
		t.Skipf("SKIPPED, nothing was tested: page faults cannot be handled on %s", runtime.GOARCH)
	}
	if _, err := os.Stat("/dev/shm"); err != nil {
		t.Skipf("SKIPPED, nothing was tested: no /dev/shm: %v", err)
	}
	data, err := os.Create(filepath.Join("/dev/shm", fmt.Sprintf("pmemfs-fault-test-%d-%d", os.Getpid(), time.Now().UnixNano())))
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(data.Name())
	if err := data.Truncate(blocks * PageSize); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(int(data.Fd()), 0, int(blocks*PageSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	f := &testFile{t: t, data: data, mem: mem, end: pages, window: 16, clients: make(map[*testClient]int)}
	for range pages {
		f.blocks = append(f.blocks, -1)
	}
	for b := range blocks {
		f.free = append(f.free, b)
	}
	t.Cleanup(func() { unix.Munmap(mem); data.Close() })
	return f
}

// block returns the memory of a block.
func (f *testFile) block(b int64) []byte { return f.mem[b*PageSize : (b+1)*PageSize] }

// connect runs a client role that maps the file, which nobody serves yet. The client waits to hear "go".
func (f *testFile) connect(t testing.TB, page *Page, role string, env ...string) *testClient {
	t.Helper()
	c := &testClient{file: f, page: page, served: make(chan error, 1), granted: make([]byte, len(f.blocks))}
	c.process = startRole(t, role, append(env, "PAGES="+strconv.Itoa(len(f.blocks))), page.File(), f.data)
	var err error
	if c.address, err = strconv.ParseUint(c.expect("address"), 10, 64); err != nil {
		t.Fatal(err)
	}
	return c
}

// start runs a client role that maps the file, and serves it.
func (f *testFile) start(t *testing.T, role string, env ...string) *testClient {
	t.Helper()
	page, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	c := f.connect(t, page, role, env...)
	f.mu.Lock()
	f.clients[c] = 1
	f.mu.Unlock()
	go func() { c.served <- page.Serve(c.fault) }()
	t.Cleanup(func() {
		page.Close()
		select {
		case err := <-c.served:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(testTimeout):
			t.Error("Serve did not end after Close")
		}
	})
	c.say("go")
	return c
}

// fault is the handler of the tests.
func (c *testClient) fault(req *Request) Code {
	f := c.file
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests++
	time.Sleep(f.delay)
	switch {
	case f.refuse != CodeOK:
		return f.refuse
	case req.Mapping != testMapping || req.Page >= f.end:
		return CodeBeyondEnd
	case req.Write && f.readOnly:
		return CodeAccess
	}
	count := min(max(f.window, req.Count), f.end-req.Page)
	if f.blocks[req.Page] < 0 && !req.Write {
		return c.grant(req, 1, -1, false)
	}
	n := int64(0)
	for ; n < count; n++ {
		page := req.Page + n
		if f.blocks[page] < 0 {
			if !req.Write || n >= req.Count {
				break
			}
			if err := f.fill(page); err != nil {
				return CodeBusy
			}
		}
		if f.blocks[page] != f.blocks[req.Page]+n {
			break
		}
	}
	return c.grant(req, n, f.blocks[req.Page]*PageSize, req.Write)
}

// grant records and answers a run.
func (c *testClient) grant(req *Request, n, offset int64, write bool) Code {
	level := byte(1)
	if write {
		level = 2
	}
	for p := req.Page; p < req.Page+n; p++ {
		c.granted[p] = max(c.granted[p], level)
	}
	req.Grant(c.run(req.Page, n), Reply{FirstPage: req.Page, Count: n, Offset: offset, Writable: write})
	return CodeOK
}

func (c *testClient) run(page, n int64) AddressRun {
	return AddressRun{Address: c.address + uint64(page)*PageSize, Length: uint64(n) * PageSize}
}

// fill gives a hole a block of zeros, after taking back the zeros.
func (f *testFile) fill(page int64) error {
	if err := f.breakPage(page, AccessNone); err != nil {
		return err
	}
	b := f.free[0]
	f.free = f.free[1:]
	clear(f.block(b))
	f.blocks[page] = b
	return nil
}

// breakPage takes a page back from every client.
func (f *testFile) breakPage(page int64, to Access) error {
	for c := range f.clients {
		if c.granted[page] <= byte(to) {
			continue
		}
		if err := c.page.TakeBack(c.pidfd, []AddressRun{c.run(page, 1)}, to, 20*time.Second); err != nil {
			return err
		}
		c.granted[page] = byte(to)
	}
	return nil
}

// move puts a page at another block, as a file system that defragments does.
func (f *testFile) move(page int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.blocks[page]
	if old < 0 || len(f.free) == 0 {
		return nil
	}
	if err := f.breakPage(page, AccessNone); err != nil {
		return err
	}
	b := f.free[0]
	f.free = append(f.free[1:], old)
	copy(f.block(b), f.block(old))
	// What a client that still reached the old block stored would be lost, and what it read would be this:
	for i := range f.block(old) {
		f.block(old)[i] = 0xdd
	}
	f.blocks[page] = b
	return nil
}

// role is what a client role has.
type role struct {
	client *Client
	r      *Range
	mem    []byte
	in     *bufio.Scanner
	pages  int
}

// dial makes the client half from the descriptors that startRole passes.
func dial() (*role, error) {
	pidfd, err := unix.PidfdOpen(os.Getppid(), 0)
	if err != nil {
		return nil, err
	}
	return dialFiles(os.NewFile(3, "page"), os.NewFile(4, "data"), pidfd)
}

// dialFiles makes it from its descriptors, with the patience that the environment has in milliseconds.
func dialFiles(page, data *os.File, pidfd int) (*role, error) {
	patience, _ := environment("PATIENCE")
	client, err := NewClient(ClientOptions{Page: page, Data: data, MapFlags: unix.MAP_SHARED, ServerPidfd: pidfd,
		Patience: time.Duration(patience) * time.Millisecond})
	if err != nil {
		return nil, err
	}
	pages, err := environment("PAGES")
	if err != nil {
		return nil, err
	}
	r, err := client.Reserve(int64(pages) * PageSize)
	if err != nil {
		return nil, err
	}
	if r.Address()%rangeAlign != 0 {
		return nil, errors.New("range is not aligned")
	}
	fmt.Printf("address %d\n", r.Address())
	c := &role{client: client, r: r, mem: r.Bytes(), in: bufio.NewScanner(os.Stdin), pages: pages}
	if err := c.hear("go"); err != nil {
		return nil, err
	}
	r.Activate(testMapping)
	return c, nil
}

// environment reads a number from the environment.
func environment(name string) (int, error) { return strconv.Atoi(os.Getenv(name)) }

// hear waits for a line of the test.
func (c *role) hear(want string) error {
	if !c.in.Scan() {
		return io.ErrUnexpectedEOF
	}
	if c.in.Text() != want {
		return fmt.Errorf("heard %q, not %q", c.in.Text(), want)
	}
	return nil
}
