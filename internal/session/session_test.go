package session

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pmemfs/pmemfs/internal/rerun"
)

// Some tests start this binary again, in a role.
const roleVariable = "PMEMFS_TEST_ROLE"

func TestMain(m *testing.M) {
	role, args, _ := strings.Cut(os.Getenv(roleVariable), ":")
	var err error
	switch role {
	case "":
		os.Exit(m.Run())
	case "client": // lives until its input ends
		fmt.Println("ready")
		_, err = io.Copy(io.Discard, os.Stdin)
	case "server":
		err = beServer(args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child starts this binary in a role. It ends with the test at the latest.
func child(t *testing.T, role string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	c := rerun.Self()
	c.Env = append(os.Environ(), roleVariable+"="+role)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); c.Process.Kill(); c.Wait() })
	return c, bufio.NewScanner(out)
}

// free is a medium on which no slot is in use.
func free(int) (bool, error) { return false, nil }

func openDir(t testing.TB, runtime string) *Dir {
	t.Helper()
	d, err := Open(runtime, "1b-2")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// crash lets go of a directory as the death of its server would.
func (d *Dir) crash() { d.close() }

func create(t testing.TB, d *Dir, c Client) *File {
	t.Helper()
	f, err := d.Create(c, free)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func self() Client { return Client{PID: os.Getpid(), UID: 1, GID: 2, Groups: []uint32{3, 4, 5}} }

// things are what is recorded of a session, in order.
type things struct {
	Handles  []Handle
	Mappings []Mapping
	Pins     []Pin
}

func thingsOf(m map[key]record) (all things) {
	for _, r := range m {
		switch r := r.(type) {
		case Handle:
			all.Handles = append(all.Handles, r)
		case Mapping:
			all.Mappings = append(all.Mappings, r)
		case Pin:
			if of, ok := m[key{kind: kindMapping, number: r.Mapping}].(Mapping); ok && r.inside(of) {
				all.Pins = append(all.Pins, r)
			}
		}
	}
	return all.sorted()
}

func (a things) sorted() things {
	if len(a.Pins) == 0 {
		a.Pins = nil
	}
	slices.SortFunc(a.Handles, func(x, y Handle) int { return cmp.Compare(x.Number, y.Number) })
	slices.SortFunc(a.Mappings, func(x, y Mapping) int { return cmp.Compare(x.Number, y.Number) })
	slices.SortFunc(a.Pins, func(x, y Pin) int {
		return cmp.Or(cmp.Compare(x.Mapping, y.Mapping), cmp.Compare(x.Number, y.Number))
	})
	return a
}

func (s *Saved) things() things { return things{s.Handles, s.Mappings, s.Pins}.sorted() }

// restoreOne reads back the only session of a directory.
func restoreOne(t rapid.TB, d *Dir, live ...int) *Saved {
	t.Helper()
	all, failed := d.Restore(live)
	if len(all) != 1 || len(failed) > 0 {
		t.Fatalf("%d sessions are read back, %v", len(all), failed)
	}
	return all[0]
}

func same(t rapid.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		t.Fatalf("%s: %s\nwant %s", what, g, w)
	}
}

// TestRestart is a session over the lives of three servers.
func TestRestart(t *testing.T) {
	runtime := t.TempDir()
	d := openDir(t, runtime)
	want := self()
	want.ReadOnly, want.Imported = true, true
	f := create(t, d, want)
	if f.Slot() != 0 || f.Client().Nonce == (Nonce{}) {
		t.Errorf("slot %d, nonce %x", f.Slot(), f.Client().Nonce)
	}
	h := Handle{Number: 1, Ino: 77, Generation: 1 << 60, Flags: 0x8002}
	m := Mapping{
		Number: 9, Handle: 1, Ino: 77, Generation: 1 << 60, First: 5, Length: 8193,
		Address: 0x7f0000000000, Flags: 6,
	}
	p := Pin{Mapping: 9, Number: 3, First: 7, Count: 1}
	err := errors.Join(f.PutHandle(h), f.PutMapping(m), f.PutPin(p), f.PutHandle(Handle{Number: 2, Ino: 1}),
		f.DropHandle(2), f.DropHandle(2))
	if err != nil {
		t.Fatal(err)
	}
	h.Direct = true
	if err := f.PutHandle(h); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.PagePath(), []byte("a page"), 0o600); err != nil {
		t.Fatal(err)
	}
	want = *f.Client()
	d.crash()

	d = openDir(t, runtime)
	s := restoreOne(t, d, 0)
	same(t, "client", *s.Client(), want)
	same(t, "things", s.things(), things{[]Handle{h}, []Mapping{m}, []Pin{p}})
	if pidfd, err := s.Client().Process(); err != nil {
		t.Error(err)
	} else {
		unix.Close(pidfd)
	}
	if b, err := os.ReadFile(s.PagePath()); string(b) != "a page" || err != nil {
		t.Errorf("page %q, %v", b, err)
	}
	if other := create(t, d, self()); other.Slot() != 1 {
		t.Errorf("another session gets slot %d", other.Slot())
	}
	if err := errors.Join(s.DropHandle(1), s.DropMapping(9)); err != nil { // killed before the pin's record goes
		t.Fatal(err)
	}
	d.crash()

	d = openDir(t, runtime)
	s = restoreOne(t, d, 0) // the other's client is gone
	same(t, "things", s.things(), things{})
	if err := s.PutMapping(m); err != nil {
		t.Fatal(err)
	}
	d.crash()
	d = openDir(t, runtime)
	s = restoreOne(t, d, 0)
	same(t, "a mapping with the number of one that had a pin", s.things(), things{Mappings: []Mapping{m}})

	if err := errors.Join(s.Remove(), s.Remove(), d.Close()); err != nil {
		t.Error(err)
	}
	if err := s.PutHandle(h); !errors.Is(err, unix.ESHUTDOWN) {
		t.Errorf("after the end: %v", err)
	}
	if left, err := os.ReadDir(runtime); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// step is a random change to a session, told from its number alone.
func step(r *rand.Rand) (put record, drop key) {
	number := 1 + r.Uint32N(20)
	length := 1 + r.Int64N(1<<20)
	switch what := r.IntN(6); what {
	case 0:
		put = Handle{Number: number, Ino: 1 + r.Uint64(), Generation: r.Uint64(), Flags: r.Uint32(), Direct: r.IntN(2) == 0}
	case 1:
		put = Mapping{
			Number: number, Handle: 1 + r.Uint32N(100), Ino: 1 + r.Uint64(), Generation: r.Uint64(),
			First: r.Int64N(100), Length: length, Address: (1 + r.Uint64N(1<<30)) * 4096, Flags: r.Uint32(),
		}
	case 2:
		put = Pin{Mapping: number, Number: 1 + r.Uint32N(3), First: r.Int64N(200), Count: 1 + r.Int64N(100)}
	default:
		drop = key{kind: byte(what - 2), number: number}
		if drop.kind == kindPin {
			drop.mapping, drop.number = number, 1+r.Uint32N(3)
		}
	}
	return put, drop
}

// take makes a change to a file, unless it is nil, and to a model of it.
func take(f *File, model map[key]record, put record, drop key) (err error) {
	switch {
	case put == nil:
		if f != nil {
			err = f.drop(drop)
		}
		delete(model, drop)
	default:
		if f != nil {
			err = f.put(put)
		}
		model[put.key()] = put
	}
	return err
}

// TestModel makes random changes, and kills the server in the middle of one now and then.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		runtime, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		d := openDir(t, runtime)
		c := self()
		c.Groups = make([]uint32, rapid.IntRange(0, 40).Draw(rt, "groups"))
		f := create(t, d, c)
		model := map[key]record{}
		for range rapid.IntRange(1, 5).Draw(rt, "lives") {
			for range rapid.IntRange(0, 60).Draw(rt, "steps") {
				put, drop := step(r)
				if err := take(f, model, put, drop); err != nil {
					rt.Fatal(err)
				}
			}
			torn := 0
			if rapid.Bool().Draw(rt, "torn") {
				torn = tear(rt, f, rapid.IntRange(1, 59).Draw(rt, "bytes"))
			}
			d.crash()
			d = openDir(t, runtime)
			s := restoreOne(rt, d, 0)
			same(rt, "after a crash", s.things(), thingsOf(model))
			if s.Dropped != torn {
				rt.Fatalf("%d records were dropped, %d were torn", s.Dropped, torn)
			}
			for k, r := range model { // pins of no mapping are forgotten
				if p, ok := r.(Pin); ok && !slices.Contains(s.Pins, p) {
					delete(model, k)
				}
			}
			f = s.File
		}
		if err := errors.Join(f.Remove(), d.Close()); err != nil {
			rt.Fatal(err)
		}
	})
}

// tear writes the first bytes of a new record, as no kernel does, and returns how many records that is: none when they
// are zeros, as those of a checksum may be, because there were zeros before.
func tear(t rapid.TB, f *File, length int) int {
	t.Helper()
	var b [recordSize]byte
	Mapping{Number: 1 << 31, Handle: 1, Ino: 1, Length: 1, Address: 1 << 20, Flags: 1 << 31}.encode(&b)
	position := f.end
	if len(f.free) > 0 {
		position = f.free[0]
	}
	seal(&b, (*[16]byte)(&f.client.Nonce), position)
	if _, err := f.f.WriteAt(b[:length], f.base+int64(position)*recordSize); err != nil {
		t.Fatal(err)
	}
	if len(bytes.Trim(b[:length], "\x00")) == 0 {
		return 0
	}
	return 1
}

// beServer begins a session and makes the changes that a seed says; it tells of the session and of each change that is
// made: DIRECTORY SEED.
func beServer(args string) error {
	runtime, seed, _ := strings.Cut(args, " ")
	n, err := strconv.ParseUint(seed, 10, 64)
	if err != nil {
		return err
	}
	d, err := Open(runtime, "1b-2")
	if err != nil {
		return err
	}
	f, err := d.Create(Client{PID: os.Getppid()}, free)
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(n, 0))
	for model := map[key]record{}; ; {
		if _, err := os.Stdout.WriteString("done\n"); err != nil {
			return err
		}
		put, drop := step(r)
		if err := take(f, model, put, drop); err != nil {
			return err
		}
	}
}

// TestKilledServer kills a process that makes changes: all of which it told are there, and perhaps one more.
func TestKilledServer(t *testing.T) {
	runtime := t.TempDir()
	for seed := range uint64(20) {
		c, out := child(t, fmt.Sprintf("server:%s %d", runtime, seed))
		if !out.Scan() { // before that nobody knows of a session, and there may be none
			t.Fatal("the server began no session")
		}
		told := 0
		for limit := rand.IntN(2000); told < limit && out.Scan(); told++ {
		}
		c.Process.Kill()
		for out.Scan() {
			told++
		}
		c.Wait()
		d := openDir(t, runtime)
		s := restoreOne(t, d, 0)
		r, model := rand.New(rand.NewPCG(seed, 0)), map[key]record{}
		for range told {
			put, drop := step(r)
			take(nil, model, put, drop)
		}
		if got := s.things(); !reflect.DeepEqual(got, thingsOf(model)) {
			put, drop := step(r)
			take(nil, model, put, drop)
			same(t, fmt.Sprintf("seed %d, after %d changes and one", seed, told), got, thingsOf(model))
		}
		if s.Dropped > 1 { // the one that it was about to make or to erase
			t.Errorf("seed %d: %d records are torn", seed, s.Dropped)
		}
		if err := errors.Join(s.Remove(), d.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestProcess(t *testing.T) {
	d := openDir(t, t.TempDir())
	defer d.Close()
	c, out := child(t, "client")
	if !out.Scan() {
		t.Fatal("the client does not live")
	}
	f := create(t, d, Client{PID: c.Process.Pid})
	defer f.Remove()
	client := *f.Client()
	pidfd, err := client.Process()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil {
		t.Errorf("the descriptor is not of the process: %v", err)
	}
	fails := func(what string, want error, change func(*Client)) {
		t.Helper()
		other := client
		change(&other)
		if _, err := other.Process(); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	fails("a process that began earlier", unix.ESRCH, func(c *Client) { c.start-- })
	fails("an earlier boot", unix.ESRCH, func(c *Client) { c.at.boot[3]++ })
	fails("another namespace", unix.EXDEV, func(c *Client) { c.at.namespace++ })
	fails("another process", unix.ESRCH, func(c *Client) { c.PID = os.Getpid(); c.start++ })
	c.Process.Kill()
	// It is a zombie now, or about to be one.
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 10_000); err != nil {
		t.Fatal(err)
	}
	fails("a zombie", unix.ESRCH, func(*Client) {})
	c.Wait()
	fails("a process that has ended", unix.ESRCH, func(*Client) {})
	if _, err := d.Create(Client{PID: c.Process.Pid}, free); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a session of a process that has ended: %v", err)
	}
}

func TestParseStart(t *testing.T) {
	for stat, want := range map[string]uint64{
		"12 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20":           4711,
		"12 (a) b) (c d) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20":  4711,
		"12 (1) 1 1 1 1 1 1) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711": 4711,
		"12 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18":                   0,
		"": 0,
		"12 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 many":                    0,
		"12 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99999999999999999999999": 0,
	} {
		got, err := parseStart([]byte(stat))
		if (err == nil) != (want != 0) || (err == nil && got != want) {
			t.Errorf("%q: %d, %v", stat, got, err)
		}
	}
	if n, err := startTime(os.Getpid()); n == 0 || err != nil {
		t.Errorf("this process: %d, %v", n, err)
	}
}

func TestDirectoryOfOthers(t *testing.T) {
	runtime := t.TempDir()
	path := filepath.Join(runtime, "pmemfs-1b-2")
	fails := func(what string, want error) {
		t.Helper()
		if d, err := Open(runtime, "1b-2"); !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %v", what, err, want)
			if err == nil {
				d.Close()
			}
		}
		os.RemoveAll(path)
	}
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(path, 0o700), os.Chmod(path, 0o750))
	fails("readable for a group", unix.EPERM)
	elsewhere := filepath.Join(t.TempDir(), "mine")
	must(os.Mkdir(elsewhere, 0o700), os.Symlink(elsewhere, path),
		os.WriteFile(filepath.Join(elsewhere, "0.session"), []byte("precious"), 0o600))
	fails("a link to a directory", unix.EPERM)
	if b, err := os.ReadFile(filepath.Join(elsewhere, "0.session")); string(b) != "precious" || err != nil {
		t.Errorf("a file behind a link was touched: %q, %v", b, err)
	}
	must(os.WriteFile(path, nil, 0o600))
	if d, err := Open(runtime, "1b-2"); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a file: %v, %v", d, err)
	}
	must(os.Remove(path))
	if os.Geteuid() == 0 {
		must(os.Mkdir(path, 0o700), os.Chown(path, 12345, -1))
		fails("another user's", unix.EPERM)
	}
	if _, err := Open(filepath.Join(runtime, "missing"), "1b-2"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no runtime directory: %v", err)
	}
	d := openDir(t, runtime)
	defer d.Close()
	if _, err := Open(runtime, "1b-2"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a second one: %v", err)
	}
}

func TestSlots(t *testing.T) {
	d := openDir(t, t.TempDir())
	defer d.Close()
	strange := errors.New("strange")
	if _, err := d.Create(self(), func(int) (bool, error) { return false, strange }); !errors.Is(err, strange) {
		t.Errorf("the medium cannot be asked: %v", err)
	}
	odd := func(slot int) (bool, error) { return slot%2 == 1, nil }
	var all []*File
	for want := 0; want < MaxSlots; want += 2 {
		f, err := d.Create(self(), odd)
		if err != nil {
			t.Fatal(err)
		}
		if f.Slot() != want {
			t.Fatalf("slot %d, want %d", f.Slot(), want)
		}
		all = append(all, f)
	}
	if _, err := d.Create(self(), odd); !errors.Is(err, unix.EUSERS) {
		t.Errorf("beyond the last: %v", err)
	}
	if err := all[3].Remove(); err != nil {
		t.Fatal(err)
	}
	f, err := d.Create(self(), odd)
	if err != nil || f.Slot() != 6 {
		t.Errorf("the free slot: %v, %v", f, err)
	}
	for _, f := range append(all, f) {
		if err := f.Remove(); err != nil {
			t.Error(err)
		}
	}
}

// TestLeftBehind: a server removes what nobody needs, in the directories of other pools, too.
func TestLeftBehind(t *testing.T) {
	runtime := t.TempDir()
	c, out := child(t, "client")
	if !out.Scan() {
		t.Fatal("the client does not live")
	}
	leave := func(identity string, clients ...Client) {
		t.Helper()
		d, err := Open(runtime, identity)
		if err != nil {
			t.Fatal(err)
		}
		for _, client := range clients {
			if err := os.WriteFile(create(t, d, client).PagePath(), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d.crash()
	}
	dies, lives := Client{PID: c.Process.Pid}, self()
	busy, err := Open(runtime, "b-5")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	create(t, busy, dies)
	leave("a-1", dies, dies)
	leave("dev-fb-1", dies)
	leave("a-2", dies, lives)
	leave("a-3")
	for _, name := range []string{"pmemfs-demo-12", "other-a-1", "pmemfs-a-1x"} {
		if err := os.Mkdir(filepath.Join(runtime, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c.Process.Kill()
	c.Wait()
	Sweep(runtime)
	d, err := Open(runtime, "c-1")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	entries, err := os.ReadDir(runtime)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	same(t, "directories", names, []string{"other-a-1", "pmemfs-a-1x", "pmemfs-a-2", "pmemfs-b-5", "pmemfs-c-1", "pmemfs-demo-12"})
}

// TestOpenBesideOthers: who looks for what was left behind does not take away what is about to be used.
func TestOpenBesideOthers(t *testing.T) {
	runtime := t.TempDir()
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for range 50 {
				d, err := Open(runtime, fmt.Sprintf("a-%d", i))
				if err != nil {
					t.Error(err)
					return
				}
				f, err := d.Create(self(), free)
				if err != nil {
					t.Error(err)
					return
				}
				if err := errors.Join(f.Remove(), d.Close()); err != nil {
					t.Error(err)
				}
				Sweep(runtime)
			}
		})
	}
	all.Wait()
}

func TestRestoreLeavesNothingStale(t *testing.T) {
	runtime := t.TempDir()
	d := openDir(t, runtime)
	var files []*File
	for range 5 {
		files = append(files, create(t, d, self()))
	}
	for slot, content := range map[int]string{1: "", 2: strings.Repeat("x", 1000), 4: "pemfses1"} {
		if err := os.WriteFile(filepath.Join(d.path, recordName(slot)), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(d.path, "7.page"), nil, 0o600)
	os.WriteFile(filepath.Join(d.path, "07.page"), nil, 0o600)
	if err := unix.Mkfifo(filepath.Join(d.path, recordName(9)), 0o600); err != nil {
		t.Fatal(err)
	}
	d.crash()
	d = openDir(t, runtime)
	defer d.close()
	all, failed := d.Restore([]int{0, 1, 2, 9, 12})
	if len(all) != 1 || all[0].Slot() != 0 || all[0].Client().Nonce != files[0].Client().Nonce {
		t.Errorf("%d sessions are read back", len(all))
	}
	if len(failed) != 3 {
		t.Errorf("failures %v", failed)
	}
	for _, err := range failed {
		var e *DamagedError
		if !errors.As(err, &e) || !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), d.path) {
			t.Errorf("%v does not say that a file is damaged", err)
		}
	}
	entries, err := os.ReadDir(d.path)
	if err != nil || len(entries) != 2 || entries[0].Name() != "0.session" || entries[1].Name() != "07.page" {
		t.Errorf("left: %v, %v", entries, err)
	}
	if f := create(t, d, self()); f.Slot() != 1 {
		t.Errorf("the slot of a damaged file: %d", f.Slot())
	}
}

func TestRefusedRecords(t *testing.T) {
	d := openDir(t, t.TempDir())
	defer d.Close()
	f := create(t, d, self())
	defer f.Remove()
	good := Mapping{Number: 1, Handle: 1, Ino: 1, Length: 1, Address: 4096}
	for what, change := range map[string]func(*Mapping){
		"number 0":          func(m *Mapping) { m.Number = 0 },
		"handle 0":          func(m *Mapping) { m.Handle = 0 },
		"inode 0":           func(m *Mapping) { m.Ino = 0 },
		"first < 0":         func(m *Mapping) { m.First = -1 },
		"no length":         func(m *Mapping) { m.Length = 0 },
		"length < 0":        func(m *Mapping) { m.Length = -1 },
		"length too large":  func(m *Mapping) { m.Length = 1<<63 - 1 },
		"end of file":       func(m *Mapping) { m.First = (1<<63 - 1) / blockSize },
		"address 0":         func(m *Mapping) { m.Address = 0 },
		"address unaligned": func(m *Mapping) { m.Address = 4097 },
		"end of addresses":  func(m *Mapping) { m.Address = 1<<63 - 4096 },
	} {
		m := good
		change(&m)
		if err := f.PutMapping(m); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, p := range []Pin{{1, 1, 0, 0}, {0, 1, 0, 1}, {1, 0, 0, 1}, {1, 1, -1, 1}, {1, 1, 1, 1<<63 - 1}} {
		if err := f.PutPin(p); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if err := f.PutHandle(Handle{Number: 1}); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
	if len(f.at) != 0 || f.end != 0 {
		t.Error("a refused record has left something")
	}
}

// TestFullRuntimeDirectory: what cannot be recorded is not, and the next can be.
func TestFullRuntimeDirectory(t *testing.T) {
	d := openDir(t, t.TempDir())
	f := create(t, d, self())
	real := f.f
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.f = full
	if err := f.PutHandle(Handle{Number: 1, Ino: 1}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("no room: %v", err)
	}
	full.Close()
	f.f = real
	h := Handle{Number: 2, Ino: 1}
	if err := f.PutHandle(h); err != nil {
		t.Fatal(err)
	}
	d.crash()
	d = openDir(t, filepath.Dir(d.path))
	s := restoreOne(t, d, 0)
	same(t, "things", s.things(), things{Handles: []Handle{h}})
	if err := errors.Join(s.Remove(), d.Close()); err != nil {
		t.Error(err)
	}
}

func TestAsManyAsCanBe(t *testing.T) {
	d := openDir(t, t.TempDir())
	f := create(t, d, self())
	for i := range uint32(maxRecords) {
		if err := f.PutHandle(Handle{Number: i + 1, Ino: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.PutHandle(Handle{Number: maxRecords + 1, Ino: 1}); !errors.Is(err, unix.EMFILE) {
		t.Errorf("one more: %v", err)
	}
	if err := f.PutHandle(Handle{Number: 1, Ino: 2}); err != nil {
		t.Errorf("a change: %v", err)
	}
	d.crash()
	d = openDir(t, filepath.Dir(d.path))
	s := restoreOne(t, d, 0)
	if len(s.Handles) != maxRecords || s.Dropped != 0 {
		t.Errorf("%d handles, %d dropped", len(s.Handles), s.Dropped)
	}
	if err := errors.Join(s.Remove(), d.Close()); err != nil {
		t.Error(err)
	}
}

// example is a file with one of each, without the free places behind them.
func example(t testing.TB) (b []byte, records int) {
	d := openDir(t, t.TempDir())
	f := create(t, d, self())
	for _, r := range []record{
		Handle{Number: 1, Ino: 2, Direct: true}, Mapping{Number: 1, Handle: 1, Ino: 2, First: 4, Length: 9999, Address: 1 << 40},
		Pin{Mapping: 1, Number: 1, First: 5, Count: 2},
	} {
		if err := f.put(r); err != nil {
			t.Fatal(err)
		}
		records++
	}
	b, err := os.ReadFile(filepath.Join(d.path, recordName(0)))
	if err != nil {
		t.Fatal(err)
	}
	b = b[:f.offset(records)]
	if err := errors.Join(f.Remove(), d.Close()); err != nil {
		t.Fatal(err)
	}
	return b, records
}

// TestEveryFlippedBit: none changes what is believed about a client.
func TestEveryFlippedBit(t *testing.T) {
	good, records := example(t)
	want, err := parse("good", good, 0)
	if err != nil || len(want.records) != records {
		t.Fatal(len(want.records), err)
	}
	for bit := range len(good) * 8 {
		b := slices.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		got, err := parse("bad", b, 0)
		if err != nil {
			if int64(bit/8) >= want.base {
				t.Fatalf("bit %d, of a record: %v", bit, err)
			}
			continue
		}
		at := int((int64(bit/8) - want.base) / recordSize)
		if len(got.records) != records-1 || !slices.Equal(got.dropped, []int{at}) || got.records[at] != nil {
			t.Fatalf("bit %d: %d records, dropped %v", bit, len(got.records), got.dropped)
		}
	}
	for cut := range good {
		got, err := parse("cut", good[:cut], 0)
		if err != nil {
			continue
		}
		for at := range records {
			if whole := int(want.base)+(at+1)*recordSize <= cut; whole && got.records[at] == nil {
				t.Fatalf("cut off at %d: record %d is missing", cut, at)
			}
			if got.records[at] != nil && got.records[at] != want.records[at] {
				t.Fatalf("cut off at %d: record %d is %+v", cut, at, got.records[at])
			}
		}
	}
	if _, err := parse("another slot's", good, 1); err == nil {
		t.Error("a file is taken for another slot's")
	}
	twice := append(slices.Clone(good), make([]byte, recordSize)...)
	again := [recordSize]byte(twice[want.base:])
	seal(&again, (*[16]byte)(&want.client.Nonce), records)
	copy(twice[len(good):], again[:])
	if _, err := parse("twice", twice, 0); err == nil || !strings.Contains(err.Error(), "has one already") {
		t.Errorf("two records of one handle: %v", err)
	}
}

// FuzzParse reads files that make no sense, with checksums that fit if fit is set.
func FuzzParse(f *testing.F) {
	good, _ := example(f)
	f.Add(good, false)
	f.Add(good[:100], true)
	f.Add(good, true)
	f.Fuzz(func(t *testing.T, b []byte, fit bool) {
		if fit {
			b = fitting(b)
		}
		c, err := parse("fuzz", b, 0)
		if err != nil {
			var e *DamagedError
			if !errors.As(err, &e) {
				t.Errorf("error %v", err)
			}
			return
		}
		padding := b[headerBase+4*len(c.client.Groups) : c.base]
		if got := c.client.encode(0); string(got) != string(b[:len(got)]) && len(bytes.Trim(padding, "\x00")) == 0 {
			t.Errorf("the header %x is read as %+v", b[:len(got)], c.client)
		}
		s, orphans := c.saved(&File{})
		if len(s.Handles)+len(s.Mappings)+len(s.Pins)+len(orphans) != len(c.records) || len(s.at) != len(c.records) ||
			len(s.free)+len(s.at) != s.end {
			t.Errorf("%d records: %+v", len(c.records), s)
		}
		for _, r := range c.records {
			var raw [recordSize]byte
			r.encode(&raw)
			if !r.valid() || decode(&raw) != r {
				t.Errorf("record %+v", r)
			}
		}
		c.client.Process() // whatever it says
	})
}

// fitting puts right checksums into a file.
func fitting(b []byte) []byte {
	b = slices.Clone(b)
	if len(b) < headerLength(0) {
		return b
	}
	le.PutUint64(b, magic)
	le.PutUint32(b[12:], uint32(min(headerLength(int(le.Uint32(b[84:])%1000)), len(b)/recordSize*recordSize)))
	length := int(le.Uint32(b[12:]))
	le.PutUint32(b[8:], crc32.Checksum(b[12:length], castagnoli))
	for at := length; at+recordSize <= len(b); at += recordSize {
		r := (*[recordSize]byte)(b[at:])
		seal(r, (*[16]byte)(b[32:48]), (at-length)/recordSize)
	}
	return b
}

func BenchmarkPutAndDrop(b *testing.B) {
	runtime := "/dev/shm"
	if _, err := os.Stat(runtime); err != nil {
		runtime = b.TempDir()
	}
	d, err := Open(runtime, fmt.Sprintf("%x-%x", time.Now().UnixNano(), os.Getpid()))
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	f := create(b, d, self())
	defer f.Remove()
	for b.Loop() {
		if err := f.PutHandle(Handle{Number: 1, Ino: 1}); err != nil {
			b.Fatal(err)
		}
		if err := f.DropHandle(1); err != nil {
			b.Fatal(err)
		}
	}
}
