package medium

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/rerun"
)

// Tests of what other processes see start this test binary again, in a role.
const roleVariable = "PMEMFS_TEST_ROLE"

// patience bounds every wait for another process. Nothing takes anywhere near as long unless it hangs.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	role, path, _ := strings.Cut(os.Getenv(roleVariable), ":")
	var err error
	switch role {
	case "":
		os.Exit(m.Run())
	case "owner", "reader":
		err = beOwner(path, role == "reader")
	case "device owner":
		err = beDeviceOwner(path)
	case "server":
		err = beServer(path)
	case "client":
		err = beClient()
	case "locker":
		err = beLocker(path)
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// beOwner has the pool open until its standard input ends.
func beOwner(path string, readOnly bool) error {
	p, err := Open(path, Options{ReadOnly: readOnly})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return p.Close()
}

// beServer has the pool open, and starts a client that maps the data area by the descriptor it is given.
func beServer(path string) error {
	p, err := Open(path, Options{})
	if err != nil {
		return err
	}
	f, err := p.ClientFile(false, -1)
	if err != nil {
		return err
	}
	client := rerun.Self()
	client.Env = append(os.Environ(), roleVariable+"=client")
	client.Stdin, client.Stdout, client.Stderr = os.Stdin, os.Stdout, os.Stderr
	client.ExtraFiles = []*os.File{f}
	if err := client.Start(); err != nil {
		return err
	}
	f.Close()
	return client.Wait() // it is killed before that
}

// beClient maps descriptor 3 and closes it. A line on its standard input makes it unmap; it ends with its input.
func beClient() error {
	f := os.NewFile(3, "data")
	mem, err := unix.Mmap(3, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	copy(mem, "stored by the client")
	fmt.Println("client", os.Getpid())
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return nil
	}
	if err := unix.Munmap(mem); err != nil {
		return err
	}
	fmt.Println("unmapped")
	in.ReadString('\n')
	return nil
}

// process is a child in a role. What it says and what it is told goes through pipes that its own children inherit.
type process struct {
	*exec.Cmd
	in  *os.File
	out *bufio.Reader
}

func start(t *testing.T, role string, files ...*os.File) *process {
	t.Helper()
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: rerun.Self(), in: inWrite, out: bufio.NewReader(outRead)}
	p.Env = append(os.Environ(), roleVariable+"="+role)
	p.Stdin, p.Stdout, p.Stderr, p.ExtraFiles = inRead, outWrite, os.Stderr, files
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	inRead.Close()
	outWrite.Close()
	if err := outRead.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // children see the end of their input, and end
		inWrite.Close()
		p.kill()
		outRead.Close()
	})
	return p
}

func (p *process) kill() {
	p.Process.Kill()
	p.Wait()
}

// hear reads a line and returns what follows the prefix.
func (p *process) hear(t *testing.T, prefix string) string {
	t.Helper()
	line, err := p.out.ReadString('\n')
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), prefix)
	if err != nil || !ok {
		t.Fatalf("heard %q, %v; want %q", line, err, prefix)
	}
	return strings.TrimSpace(rest)
}

// inUseBy checks that err says that exactly these processes are in the way.
func inUseBy(t *testing.T, what string, err, kind error, pids ...int) {
	t.Helper()
	slices.Sort(pids)
	var e *Error
	if !errors.Is(err, kind) || !errors.Is(err, unix.EBUSY) || !errors.As(err, &e) || !slices.Equal(e.PIDs, pids) {
		t.Errorf("%s: %v, want %v and pids %v", what, err, kind, pids)
		return
	}
	for _, pid := range pids {
		if !strings.Contains(err.Error(), strconv.Itoa(pid)) {
			t.Errorf("%s: %q does not name %d", what, err, pid)
		}
	}
}

func TestOneOwner(t *testing.T) {
	for name, place := range map[string]func(testing.TB) string{"tmpfs": tmpfs, "disk": disk} {
		t.Run(name, func(t *testing.T) {
			path := newPool(t, place(t), pageSize, pageSize)
			owner := start(t, "owner:"+path)
			owner.hear(t, "ready")
			_, err := Open(path, Options{})
			inUseBy(t, "a second owner", err, ErrInUse, owner.Process.Pid)
			_, err = Open(path, Options{ReadOnly: true})
			inUseBy(t, "a reader beside an owner", err, ErrInUse, owner.Process.Pid)
			_, err = Create(path, pageSize, pageSize, Options{Force: true})
			inUseBy(t, "overwriting", err, ErrInUse, owner.Process.Pid)
			checkNothingMapped(t, path)

			owner.kill()
			p, err := Open(path, Options{Wait: patience})
			if err != nil {
				t.Fatalf("after the owner was killed: %v", err)
			}
			_, err = Open(path, Options{})
			inUseBy(t, "the same process again", err, ErrInUse, os.Getpid())
			if !strings.Contains(err.Error(), "this process") {
				t.Errorf("%q does not say that it is this process", err)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestReadersShare(t *testing.T) {
	path := newPool(t, tmpfs(t), pageSize, pageSize)
	a, b := start(t, "reader:"+path), start(t, "reader:"+path)
	a.hear(t, "ready")
	b.hear(t, "ready")
	mine, err := Open(path, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(path, Options{})
	inUseBy(t, "an owner beside readers", err, ErrInUse, a.Process.Pid, b.Process.Pid, os.Getpid())
	mine.Close()
	a.kill()
	b.kill()
	p, err := Open(path, Options{Wait: patience})
	if err != nil {
		t.Fatalf("after the readers: %v", err)
	}
	p.Close()
}

func TestWaitForOwner(t *testing.T) {
	path := newPool(t, tmpfs(t), pageSize, pageSize)
	owner := start(t, "owner:"+path)
	owner.hear(t, "ready")
	opened := make(chan error)
	go func() {
		p, err := Open(path, Options{Wait: patience})
		if err == nil {
			err = p.Close()
		}
		opened <- err
	}()
	owner.in.Close()
	if err := <-opened; err != nil {
		t.Errorf("the owner has closed the pool: %v", err)
	}
}

// TestSurvivors is the life of a mapping that outlives its server.
func TestSurvivors(t *testing.T) {
	for name, place := range map[string]func(testing.TB) string{"tmpfs": tmpfs, "disk": disk} {
		t.Run(name, func(t *testing.T) {
			path := newPool(t, place(t), pageSize, pageSize)
			server := start(t, "server:"+path)
			client, err := strconv.Atoi(server.hear(t, "client"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = Open(path, Options{})
			inUseBy(t, "while the server lives", err, ErrInUse, server.Process.Pid)
			server.kill()

			_, err = Open(path, Options{Wait: 200 * time.Millisecond})
			inUseBy(t, "while the client maps the data", err, ErrSurvivors, client)
			_, err = Create(path, pageSize, pageSize, Options{Force: true})
			inUseBy(t, "overwriting", err, ErrSurvivors, client)
			reader, err := Open(path, Options{ReadOnly: true})
			if err != nil {
				t.Fatalf("a reader does not mind: %v", err)
			}
			if got := string(reader.Data().Bytes()[:20]); got != "stored by the client" {
				t.Errorf("data: %q", got)
			}
			reader.Close()

			opened := make(chan error)
			go func() {
				p, err := Open(path, Options{Wait: patience})
				if err == nil {
					err = p.Close()
				}
				opened <- err
			}()
			fmt.Fprintln(server.in, "unmap")
			server.hear(t, "unmapped")
			if err := <-opened; err != nil {
				t.Errorf("after the client, which still lives, has unmapped: %v", err)
			}
			if err := unix.Kill(client, 0); err != nil {
				t.Errorf("the client does not live: %v", err)
			}
		})
	}
}

// TestSurvivorWithoutMapping: a descriptor is enough to map again, so that it counts.
func TestSurvivorWithoutMapping(t *testing.T) {
	path := newPool(t, tmpfs(t), pageSize, pageSize)
	p, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := p.ClientFile(true, -1)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	_, err = Open(path, Options{})
	inUseBy(t, "a client's descriptor is open", err, ErrSurvivors, os.Getpid())
	f.Close()
	if p, err = Open(path, Options{}); err != nil {
		t.Fatal(err)
	}
	p.Close()
}

// beDeviceOwner takes the owner lock as on a device, where the mapping lock is on the same file.
func beDeviceOwner(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := lockOwner(f, true, false, time.Now()); err != nil {
		return err
	}
	if err := lockMapping(f, false, nobody(), time.Now()); err != nil {
		return err
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return f.Close()
}

// nobody is taken over.
func nobody() *survivors { return &survivors{adopt: func([]int) map[int]int { return nil }} }

// TestLocksOfDevices has both locks on one file, as on a device, beside a client's.
func TestLocksOfDevices(t *testing.T) {
	path := filepath.Join(tmpfs(t), "dax0.0")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	owner := start(t, "device owner:"+path)
	owner.hear(t, "ready")
	second := open()
	inUseBy(t, "a second owner", lockOwner(second, true, false, time.Now()), ErrInUse, owner.Process.Pid)
	inUseBy(t, "a reader", lockOwner(second, true, true, time.Now()), ErrInUse, owner.Process.Pid)
	client := open()
	if err := lockSlot(client, 5); err != nil {
		t.Fatal(err)
	}
	inUseBy(t, "a second owner beside a client", lockOwner(second, true, false, time.Now()), ErrInUse, owner.Process.Pid)
	owner.kill()
	if err := lockOwner(second, true, false, time.Now().Add(patience)); err != nil {
		t.Fatalf("after the owner was killed: %v", err)
	}
	inUseBy(t, "the client survives", lockMapping(second, false, nobody(), time.Now()), ErrSurvivors, os.Getpid())
	client.Close()
	if err := lockMapping(second, false, nobody(), time.Now()); err != nil {
		t.Fatalf("after the client: %v", err)
	}
}

func TestParseLock(t *testing.T) {
	id := fileID{"00:1b", "2"}
	tests := []struct {
		line   string
		kind   string
		shared bool
		pid    int
		ok     bool
	}{
		{"1: FLOCK  ADVISORY  WRITE 6747 00:1b:2 0 EOF", "FLOCK", false, 6747, true},
		{"1: FLOCK  ADVISORY  READ 6747 00:1b:2 0 EOF", "FLOCK", true, 6747, true},
		{"1: FLOCK  ADVISORY  READ 6747 00:1b:2 0 EOF", "FLOCK", false, 0, false},
		{"1: FLOCK  ADVISORY  WRITE 6747 00:1b:22 0 EOF", "FLOCK", false, 0, false},
		{"1: FLOCK  ADVISORY  WRITE 6747 00:1c:2 0 EOF", "FLOCK", false, 0, false},
		{"1: -> FLOCK  ADVISORY  WRITE 6747 00:1b:2 0 EOF", "FLOCK", true, 0, false},
		{"1: OFDLCK ADVISORY  WRITE -1 00:1b:2 0 0", "OFDLCK", false, -1, true},
		{"1: OFDLCK ADVISORY  WRITE -1 00:1b:2 0 0", "FLOCK", false, 0, false},
		{"1: FLOCK  ADVISORY  WRITE many 00:1b:2 0 EOF", "FLOCK", false, 0, false},
		{"", "FLOCK", true, 0, false},
	}
	for _, test := range tests {
		pid, ok := parseLock(test.line, test.kind, id, test.shared)
		if ok != test.ok || (ok && pid != test.pid) {
			t.Errorf("%q: %d, %v", test.line, pid, ok)
		}
	}
}
