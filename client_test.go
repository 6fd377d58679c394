package pmemfs_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
)

func init() {
	roles["client"] = clientRole
	if slices.Contains(os.Args, clientDrops) && os.Getenv(pooltest.RoleVariable) == "client" {
		runtime.LockOSThread() // what the kernel shows as the process's capabilities are those of its first thread
	}
}

// An order is what a client is told to do: one line of JSON. A client has files and mappings by numbers that it is told.
type order struct {
	Do    string // one of the keys of orders
	Name  string // of a file, for open
	File  int
	Map   int
	Pin   int
	Off   int64
	N     int64
	Flags uint32 // of Map, or O_* for open
	Byte  byte
}

// An answer is what came of it: one line of JSON.
type answer struct {
	Err    *failure
	PID    int
	Handle uint32 // of an open file
	Data   []byte
}

// failure is an error on its way from one process to another. It matches what the error matched.
type failure struct {
	Text     string
	Errno    unix.Errno
	Sealed   *pmemfs.SealedError
	Static   bool
	Unfilled *pmemfs.UnfilledError
	Fault    *int64 // the offset in the file, when an access to a mapping failed
}

func failed(err error) *failure {
	if err == nil {
		return nil
	}
	f := &failure{Text: err.Error(), Static: errors.Is(err, pmemfs.ErrStatic)}
	errors.As(err, &f.Errno)
	errors.As(err, &f.Sealed)
	errors.As(err, &f.Unfilled)
	var access *pmemfs.FaultError
	if errors.As(err, &access) {
		f.Fault = &access.Offset
	}
	return f
}

func (f *failure) Error() string { return f.Text }

func (f *failure) Is(target error) bool {
	switch target {
	case pmemfs.ErrStatic:
		return f.Static
	case pmemfs.ErrSealed:
		return f.Static || f.Sealed != nil
	}
	return f.Errno != 0 && target == error(f.Errno)
}

func (f *failure) As(target any) bool {
	switch target := target.(type) {
	case **pmemfs.SealedError:
		*target = f.Sealed
		return f.Sealed != nil
	case **pmemfs.UnfilledError:
		*target = f.Unfilled
		return f.Unfilled != nil
	}
	return false
}

// err is nil when the order was carried out.
func (a answer) err() error {
	if a.Err == nil {
		return nil
	}
	return a.Err
}

// obeyer carries orders out: a client in this process or in another one.
type obeyer interface{ obey(order) answer }

// client carries orders out in this process.
type client struct {
	fsys  *pmemfs.FS
	files map[int]*pmemfs.File
	maps  map[int]*clientMapping
	pins  map[int]func()
}

type clientMapping struct {
	*pmemfs.Mapping
	file     *pmemfs.File
	off      int64
	readOnly bool
}

func newClient(fsys *pmemfs.FS) *client {
	return &client{fsys: fsys, files: map[int]*pmemfs.File{}, maps: map[int]*clientMapping{}, pins: map[int]func(){}}
}

func (c *client) obey(o order) answer {
	a := answer{PID: os.Getpid()}
	do := orders[o.Do]
	if do == nil {
		a.Err = failed(fmt.Errorf("unknown order %q", o.Do))
		return a
	}
	a.Err = failed(do(c, o, &a))
	return a
}

// errNothing: there is nothing to be ended.
var errNothing = errors.New("there is no such thing")

// orders are what a client can be told to do.
var orders = map[string]func(*client, order, *answer) error{
	"open": func(c *client, o order, a *answer) error {
		f, err := c.fsys.OpenFile(o.Name, int(o.Flags), 0o666)
		if err != nil {
			return err
		}
		c.files[o.File], a.Handle = f, f.Handle()
		return nil
	},
	"close": func(c *client, o order, _ *answer) error {
		f := c.files[o.File]
		delete(c.files, o.File)
		return f.Close()
	},
	"truncate": func(c *client, o order, _ *answer) error { return c.files[o.File].Truncate(o.N) },
	"write": func(c *client, o order, _ *answer) error {
		_, err := c.files[o.File].WriteAt(bytes.Repeat([]byte{o.Byte}, int(o.N)), o.Off)
		return err
	},
	"read": func(c *client, o order, a *answer) error {
		a.Data = make([]byte, o.N)
		n, err := c.files[o.File].ReadAt(a.Data, o.Off)
		if a.Data = a.Data[:n]; err == io.EOF {
			err = nil
		}
		return err
	},
	"punch":    func(c *client, o order, _ *answer) error { return c.files[o.File].PunchHole(o.Off, o.N) },
	"zero":     func(c *client, o order, _ *answer) error { return c.files[o.File].ZeroRange(o.Off, o.N) },
	"allocate": func(c *client, o order, _ *answer) error { return c.files[o.File].Allocate(o.Off, o.N, false) },
	"reserve":  func(c *client, o order, _ *answer) error { return c.files[o.File].Allocate(o.Off, o.N, true) },
	"relocate": func(c *client, o order, _ *answer) error { return c.files[o.File].Relocate(o.Off, o.N) },
	"fill":     func(c *client, o order, _ *answer) error { return c.files[o.File].Fill(o.Off, o.N) },
	"freeze":   func(c *client, o order, _ *answer) error { return c.files[o.File].SetStatic(true) },
	"thaw":     func(c *client, o order, _ *answer) error { return c.files[o.File].SetStatic(false) },
	"allow":    func(c *client, o order, _ *answer) error { return c.files[o.File].AllowDirect() },
	"map": func(c *client, o order, a *answer) error {
		f := c.files[o.File]
		flags := pmemfs.MapFlags(o.Flags)
		m, err := f.Map(o.Off, int(o.N), flags)
		if err != nil {
			return err
		}
		c.maps[o.Map] = &clientMapping{m, f, o.Off, flags&pmemfs.ReadOnly != 0}
		a.Handle = f.Handle()
		return nil
	},
	"unmap": func(c *client, o order, _ *answer) error {
		m := c.maps[o.Map]
		if m == nil {
			return errNothing
		}
		delete(c.maps, o.Map)
		return m.Unmap()
	},
	"pin": func(c *client, o order, _ *answer) (err error) {
		unpin, err := c.maps[o.Map].Pin(int(o.Off), int(o.N))
		if err == nil {
			c.pins[o.Pin] = unpin
		}
		return err
	},
	"unpin": func(c *client, o order, _ *answer) error {
		unpin := c.pins[o.Pin]
		if unpin == nil {
			return errNothing
		}
		unpin()
		delete(c.pins, o.Pin)
		return nil
	},
	"store": func(c *client, o order, _ *answer) error {
		m := c.maps[o.Map]
		err := pmemfs.Catch(func() {
			for i := range o.N {
				m.Bytes()[o.Off+i] = o.Byte
			}
		})
		return errors.Join(err, m.Persist(int(o.Off), int(o.N)))
	},
	"load": func(c *client, o order, a *answer) error {
		return pmemfs.Catch(func() { a.Data = bytes.Clone(c.maps[o.Map].Bytes()[o.Off:][:o.N]) })
	},
	"touch":   func(c *client, o order, _ *answer) error { return c.maps[o.Map].touch() },
	"compare": func(c *client, o order, _ *answer) error { return c.maps[o.Map].compare() },
	"reset":   func(c *client, _ order, _ *answer) error { return c.reset() },
	"drop":    func(*client, order, *answer) error { return dropCapability() },
}

// reset ends everything.
func (c *client) reset() (err error) {
	for _, m := range c.maps {
		err = errors.Join(err, m.Unmap())
	}
	for _, f := range c.files {
		err = errors.Join(err, f.Close())
	}
	clear(c.pins)
	clear(c.maps)
	clear(c.files)
	return err
}

// touch loads from every page inside the file, and stores what is there to those that hold data.
func (m *clientMapping) touch() error {
	var seekErr error
	err := pmemfs.Catch(func() {
		for at := 0; at < len(m.Bytes()); at += page {
			b := m.Bytes()[at]
			sink = b
			data, err := m.file.SeekData(m.off + int64(at))
			if err != nil && !errors.Is(err, unix.ENXIO) {
				seekErr = err
			}
			if err == nil && data < m.off+int64(at)+page && !m.readOnly {
				m.Bytes()[at] = b
			}
		}
	})
	return errors.Join(err, seekErr)
}

// compare checks that every page shows what the file has, that it can be stored to unless the mapping is for loads only, and
// that those beyond the end of the file cannot be reached.
func (m *clientMapping) compare() error {
	for at := 0; at < len(m.Bytes()); at += page {
		p := m.Bytes()[at:min(at+page, len(m.Bytes()))]
		want := make([]byte, len(p))
		off := m.off + int64(at)
		n, err := m.file.ReadAt(want, off)
		if err != nil && err != io.EOF {
			return err
		}
		same := false
		err = pmemfs.Catch(func() { same = bytes.Equal(p[:max(n, 1)], want[:max(n, 1)]) })
		var access *pmemfs.FaultError
		switch {
		case n == 0 && errors.As(err, &access) && errors.Is(err, unix.ENXIO) && access.Offset == off:
			continue
		case n == 0:
			return fmt.Errorf("access beyond the end of the file at %d: %v", off, err)
		case err != nil:
			return err
		case !same:
			return fmt.Errorf("the mapping and the file differ in the page at %d", off)
		}
		if err := m.storeOnce(p[:n], off+int64(n)-1); err != nil {
			return err
		}
	}
	return nil
}

// storeOnce stores to the last byte of p, which is the byte of the file at off, and back.
func (m *clientMapping) storeOnce(p []byte, off int64) error {
	last := &p[len(p)-1]
	old := *last
	seen := make([]byte, 1)
	err := pmemfs.Catch(func() { *last = ^old })
	if m.readOnly {
		if !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("store through a read-only mapping at %d: %v", off, err)
		}
		return nil
	}
	if err == nil {
		_, err = m.file.ReadAt(seen, off)
	}
	if err == nil && seen[0] != ^old {
		err = fmt.Errorf("a store at %d does not reach the file", off)
	}
	return errors.Join(err, pmemfs.Catch(func() { *last = old }))
}

// clientRole dials and obeys: SOCKET [WHAT…], WHAT being clientDrops, "drop" to do so before it dials, or
// "user=UID,GID,GROUP" to be somebody else.
func clientRole(args []string, in *bufio.Scanner) error {
	for _, what := range args[1:] {
		var err error
		switch ids, user := strings.CutPrefix(what, "user="); {
		case user:
			err = become(ids)
		case what == "drop":
			err = dropCapability()
		}
		if err != nil {
			return err
		}
	}
	fsys, err := pmemfs.Dial(args[0])
	if err != nil {
		return err
	}
	defer fsys.Close()
	fmt.Println("ready")
	c := newClient(fsys)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			return err
		}
		line, err := json.Marshal(c.obey(o))
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return nil
}

// clientDrops tells a client that it will have to drop a capability.
const clientDrops = "drops"

// become makes this process another user's: UID,GID,GROUP.
func become(ids string) error {
	var id [3]int
	for i, s := range strings.Split(ids, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		id[i] = n
	}
	return errors.Join(syscall.Setgroups([]int{id[2]}), syscall.Setgid(id[1]), syscall.Setuid(id[0]))
}

// dropCapability takes CAP_LINUX_IMMUTABLE from the effective set of the calling thread.
func dropCapability() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_LINUX_IMMUTABLE
	return unix.Capset(&head, &data[0])
}

// remoteClient carries orders out in a process of its own.
type remoteClient struct{ *pooltest.Child }

func startClient(t testing.TB, socket string, what ...string) *remoteClient {
	t.Helper()
	return startClientWith(t, nil, socket, what...)
}

func startClientWith(t testing.TB, prepare func(*exec.Cmd), socket string, what ...string) *remoteClient {
	t.Helper()
	c := &remoteClient{pooltest.StartWith(t, prepare, "client", append([]string{socket}, what...)...)}
	c.Out.Buffer(nil, 4<<20)
	c.Expect("ready")
	return c
}

func (c *remoteClient) obey(o order) (a answer) {
	c.T.Helper()
	line, err := json.Marshal(o)
	must(c.T, err)
	c.Tell("%s", line)
	must(c.T, json.Unmarshal([]byte(c.Line()), &a))
	return a
}

// do is obey for orders that must succeed.
func do(t testing.TB, c obeyer, o order) answer {
	t.Helper()
	a := c.obey(o)
	if a.Err != nil {
		t.Fatalf("%+v: %v", o, a.Err)
	}
	return a
}

// skipUnlessRoot skips tests that become other users.
func skipUnlessRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can become another user or drop a capability")
	}
}
