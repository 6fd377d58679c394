package medium

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// beLocker has a lock on a file's last bytes, and all in between, until its input ends: "POSIX path", "OFD path", "FLOCK path".
func beLocker(how string) error {
	how, path, _ := strings.Cut(how, " ")
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	l := unix.Flock_t{Type: unix.F_RDLCK, Whence: unix.SEEK_SET}
	switch how {
	case "POSIX":
		err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &l)
	case "OFD":
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
	default:
		err = unix.Flock(int(f.Fd()), unix.LOCK_SH)
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return f.Close()
}

// slotClients opens a pool, has a process map it for each slot, and gives the pool up as if by a crash.
func slotClients(t *testing.T, path string, slots ...int) (clients []*process) {
	t.Helper()
	p, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		f, err := p.ClientFile(false, slot)
		if err != nil {
			t.Fatal(err)
		}
		c := start(t, "client", f)
		c.hear(t, "client")
		f.Close()
		clients = append(clients, c)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return clients
}

func (p *process) pid() int { return p.Process.Pid }

// adopting opens a pool for writing and takes over what take says. It returns the slots that it was asked about.
func adopting(path string, wait time.Duration, take map[int]int) (p *Pool, live []int, err error) {
	p, err = Open(path, Options{Wait: wait, Adopt: func(identity string, l []int) map[int]int {
		if live != nil {
			panic("asked twice")
		}
		live = slices.Clone(l)
		return take
	}})
	return p, live, err
}

func TestSlotLastsAsLongAsTheLastPage(t *testing.T) {
	for name, place := range map[string]func(testing.TB) string{"tmpfs": tmpfs, "disk": disk} {
		t.Run(name, func(t *testing.T) {
			path := newPool(t, place(t), pageSize, 2*pageSize)
			p, err := Open(path, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if in, err := p.SlotInUse(7); in || err != nil {
				t.Errorf("a slot before it is given: %v, %v", in, err)
			}
			f, err := p.ClientFile(false, 7)
			if err != nil {
				t.Fatal(err)
			}
			p.Close()
			if _, err := p.SlotInUse(7); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("of a closed pool: %v", err)
			}
			look := func(what string, want ...int) {
				t.Helper()
				p, live, err := adopting(path, 0, map[int]int{7: os.Getpid()})
				if err != nil || !slices.Equal(live, want) {
					t.Errorf("%s: slots %v, %v; want %v", what, live, err, want)
					return
				}
				p.Close()
			}
			look("a descriptor", 7)
			mem, err := unix.MmapPtr(int(f.Fd()), 0, nil, 2*pageSize, unix.PROT_READ, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			look("a mapping", 7)
			if err := unix.MunmapPtr(mem, pageSize); err != nil {
				t.Fatal(err)
			}
			look("half a mapping", 7)
			_, err = Open(path, Options{})
			inUseBy(t, "half a mapping that is not taken over", err, ErrSurvivors, os.Getpid())
			if err := unix.MunmapPtr(unsafe.Add(mem, pageSize), pageSize); err != nil {
				t.Fatal(err)
			}
			look("nothing")
		})
	}
}

// TestAdopt is the life of mappings that another owner takes over.
func TestAdopt(t *testing.T) {
	path := newPool(t, tmpfs(t), pageSize, pageSize)
	clients := slotClients(t, path, 3, 1000)
	a, b := clients[0], clients[1]
	_, err := Open(path, Options{})
	inUseBy(t, "nobody is taken over", err, ErrSurvivors, a.pid(), b.pid())
	_, err = Create(path, pageSize, pageSize, Options{Force: true})
	inUseBy(t, "overwriting", err, ErrSurvivors, a.pid(), b.pid())
	_, live, err := adopting(path, 0, map[int]int{3: a.pid()})
	inUseBy(t, "only one is taken over", err, ErrSurvivors, b.pid())
	if !slices.Equal(live, []int{3, 1000}) {
		t.Errorf("slots %v are in use", live)
	}
	checkNothingMapped(t, path)

	p, _, err := adopting(path, 0, map[int]int{3: a.pid(), 1000: b.pid(), 5: 1})
	if err != nil {
		t.Fatalf("both are taken over: %v", err)
	}
	if got := string(p.Data().Bytes()[:20]); got != "stored by the client" {
		t.Errorf("data: %q", got)
	}
	_, err = Open(path, Options{})
	inUseBy(t, "a second owner", err, ErrInUse, os.Getpid())
	p.Close()

	_, err = Open(path, Options{Wait: time.Hour, Refuse: true})
	inUseBy(t, "they are not waited for", err, ErrSurvivors, a.pid(), b.pid())
	opened := make(chan error)
	go func() {
		p, _, err := adopting(path, patience, map[int]int{3: a.pid()})
		if err == nil {
			err = p.Close()
		}
		opened <- err
	}()
	fmt.Fprintln(b.in, "unmap")
	b.hear(t, "unmapped")
	if err := <-opened; err != nil {
		t.Errorf("the one that is not taken over has unmapped: %v", err)
	}
	p, err = Open(path, Options{ReadOnly: true, Adopt: func(string, []int) map[int]int {
		t.Error("a reader is asked whom it takes over")
		return nil
	}})
	if err != nil {
		t.Fatalf("a reader does not mind: %v", err)
	}
	p.Close()
}

// TestAdoptBesideOthers: whoever has no slot is never taken over.
func TestAdoptBesideOthers(t *testing.T) {
	path := newPool(t, tmpfs(t), pageSize, pageSize)
	clients := slotClients(t, path, 0, -1)
	a, b := clients[0], clients[1]
	_, live, err := adopting(path, 0, map[int]int{0: a.pid()})
	inUseBy(t, "beside a client without a slot", err, ErrSurvivors, b.pid())
	if !slices.Equal(live, []int{0}) {
		t.Errorf("slots %v are in use", live)
	}
	b.kill()
	for _, how := range []string{"FLOCK", "POSIX", "OFD"} {
		locker := start(t, "locker:"+how+" "+filepath.Join(path, dataName))
		locker.hear(t, "ready")
		_, live, err := adopting(path, 0, map[int]int{0: a.pid()})
		inWay := []int{locker.pid(), a.pid()} // nobody knows who has a slot
		if how == "FLOCK" {
			inWay = inWay[:1]
		}
		inUseBy(t, "beside a foreign lock "+how, err, ErrSurvivors, inWay...)
		if how != "FLOCK" && live != nil {
			t.Errorf("%s: slots %v are said to be in use, which cannot be known", how, live)
		}
		locker.kill()
		p, _, err := adopting(path, patience, map[int]int{0: a.pid()})
		if err != nil {
			t.Errorf("after the foreign lock %s: %v", how, err)
			continue
		}
		p.Close()
	}
}

func TestAllSlots(t *testing.T) {
	path := newPool(t, tmpfs(t), pageSize, pageSize)
	p, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	take := map[int]int{}
	for i := range MaxSlots {
		slot := i * 389 % MaxSlots
		f, err := p.ClientFile(true, slot)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		take[slot] = os.Getpid()
	}
	if in, err := p.SlotInUse(512); !in || err != nil {
		t.Errorf("a slot that is in use: %v, %v", in, err)
	}
	for _, slot := range []int{-2, MaxSlots} {
		if _, err := p.ClientFile(true, slot); !errors.Is(err, unix.EINVAL) {
			t.Errorf("slot %d: %v", slot, err)
		}
	}
	p.Close()
	p, live, err := adopting(path, 0, take)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if want := slices.Sorted(maps.Keys(take)); !slices.Equal(live, want) {
		t.Errorf("slots in use: %v", live)
	}
	if in, err := p.SlotInUse(512); !in || err != nil {
		t.Errorf("a slot of an earlier owner's client: %v, %v", in, err)
	}
}

func TestReadersGiveNoSlots(t *testing.T) {
	path := newPool(t, tmpfs(t), pageSize, pageSize)
	p, err := Open(path, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.ClientFile(true, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("a slot of one of several readers: %v", err)
	}
}

func TestIdentity(t *testing.T) {
	dir := tmpfs(t)
	path := newPool(t, dir, pageSize, pageSize)
	other := newPool(t, tmpfs(t), pageSize, pageSize)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	identity := func(path string) string {
		t.Helper()
		p, err := Open(path, Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		return p.Identity()
	}
	name := identity(path)
	if strings.Trim(name, "0123456789abcdef-") != "" || len(name) < 3 || len(name) > 40 {
		t.Errorf("identity %q is not fit for a file's name", name)
	}
	if got := identity(link); got != name {
		t.Errorf("by a link %q, else %q", got, name)
	}
	if err := os.Rename(path, path+"-moved"); err != nil {
		t.Fatal(err)
	}
	if got := identity(path + "-moved"); got != name {
		t.Errorf("moved %q, before %q", got, name)
	}
	if got := identity(other); got == name {
		t.Errorf("two pools have the identity %q", got)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if got, err := identify(null); got != "dev-1-3" || err != nil {
		t.Errorf("a device: %q, %v", got, err)
	}
}

func TestParseSlot(t *testing.T) {
	id := fileID{"00:1b", "2"}
	for line, want := range map[string]int{
		"1: OFDLCK ADVISORY  READ -1 00:1b:2 4611686018427387904 4611686018427387904":   0,
		"1: OFDLCK ADVISORY  READ -1 00:1b:2 4611686018427388927 4611686018427388927":   1023,
		"1: OFDLCK ADVISORY  READ -1 00:1b:2 4611686018427388928 4611686018427388928":   -1,
		"1: OFDLCK ADVISORY  READ -1 00:1b:2 4611686018427387903 4611686018427387903":   -1,
		"1: OFDLCK ADVISORY  READ -1 00:1b:2 4611686018427387904 4611686018427387905":   -1,
		"1: OFDLCK ADVISORY  READ -1 00:1b:2 4611686018427387904 EOF":                   -1,
		"1: OFDLCK ADVISORY  READ -1 00:1b:2 0 EOF":                                     -1,
		"1: OFDLCK ADVISORY  READ -1 00:1b:3 4611686018427387904 4611686018427387904":   -1,
		"1: POSIX  ADVISORY  READ 12 00:1b:2 4611686018427387904 4611686018427387904":   -1,
		"1: OFDLCK ADVISORY  READ -1 00:1b:2 46116860184273879040 46116860184273879040": -1,
		"1: OFDLCK ADVISORY  READ -1 00:1b:2":                                           -1,
	} {
		slot, ok := parseSlot(line, id)
		if ok != (want >= 0) || (ok && slot != want) {
			t.Errorf("%q: %d, %v", line, slot, ok)
		}
	}
}
