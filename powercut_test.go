package pmemfs_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/internal/server"
)

func init() {
	roles["power server"] = powerServerRole
	roles["sequence"] = sequenceRole
}

// powerServerRole serves a pool with power cuts until its input ends: POOL SOCKET SEED.
func powerServerRole(args []string, in *bufio.Scanner) error {
	seed, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return err
	}
	srv, err := server.Open(args[0], server.Options{BreakTimeout: time.Second, PowerCut: &medium.PowerCutOptions{Seed: seed}})
	if err != nil {
		return err
	}
	l, err := server.Listen(args[1], server.Access{GID: -1})
	if err != nil {
		return err
	}
	fmt.Println("serving")
	return server.Run(pooltest.UntilEnd(in), srv, l, func(*server.Server) { fmt.Println("back") })
}

// sequenceRole stores numbers, one after the other: SOCKET FIRST. Each goes to 8 places that are a page and a line apart,
// persisted one after the other, then to the first line of a second file, never persisted. Names are made and removed
// meanwhile. It tells of each number when it is durable, until the server is gone.
func sequenceRole(args []string, _ *bufio.Scanner) error {
	n, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return err
	}
	fsys, err := pmemfs.Dial(args[0], pmemfs.Wait(10*time.Second))
	if err != nil {
		return err
	}
	var maps [2]*pmemfs.Mapping
	for i, name := range []string{"numbers", "forgotten"} {
		f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		if err := f.Truncate(64 << 10); err != nil {
			return err
		}
		if maps[i], err = f.Map(0, 64<<10, pmemfs.Sync); err != nil {
			return err
		}
	}
	out := bufio.NewWriter(os.Stdout)
	for ; ; n++ {
		var stored error
		err := errors.Join(pmemfs.Catch(func() { stored = storeNumber(fsys, maps, n) }), stored)
		if errors.Is(err, pmemfs.ErrServerGone) {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(out, n)
		if err := out.Flush(); err != nil {
			return err
		}
	}
}

func place(i int) int { return i * (4096 + 64) }

func storeNumber(fsys *pmemfs.FS, maps [2]*pmemfs.Mapping, n uint64) error {
	for i := range 8 {
		binary.LittleEndian.PutUint64(maps[0].Bytes()[place(i):], n)
		if i%2 == 0 {
			if err := maps[0].Persist(place(i), 8); err != nil {
				return err
			}
			continue
		}
		if err := maps[0].Flush(place(i), 8); err != nil {
			return err
		}
		maps[0].Fence()
	}
	binary.LittleEndian.PutUint64(maps[1].Bytes(), n)
	if err := fsys.WriteFile(fmt.Sprint("file ", n%5), make([]byte, n%3*5000), 0o600); err != nil {
		return err
	}
	if err := fsys.Remove(fmt.Sprint("file ", (n+2)%5)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// powerServe runs a server with power cuts in a process of its own.
func powerServe(t *testing.T, pool string, seed uint64) (socket string, c *pooltest.Child) {
	t.Helper()
	socket = filepath.Join(pooltest.Dir(t), "socket")
	c = pooltest.Start(t, "power server", pool, socket, fmt.Sprint(seed))
	c.Expect("serving")
	return socket, c
}

func checkClean(t *testing.T, pool string) {
	t.Helper()
	r, err := pmemfs.Check(t.Context(), pool, pmemfs.CheckOptions{
		Wait: 5 * time.Second, Report: func(p pmemfs.Problem) {
			if !p.Note {
				t.Error(p)
			}
		},
	})
	if err != nil || !r.Clean() {
		t.Fatalf("check: %+v, %v", r, err)
	}
}

// TestPowerCutsUnderClient cuts the power under a program that stores numbers, again and again: what it persisted is
// there, what it forgot is not unless a seed had it evicted, and the pool is never damaged.
func TestPowerCutsUnderClient(t *testing.T) {
	for _, seed := range []uint64{0, 42} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			pool, cuts := newPool(t), 24
			if testing.Short() {
				cuts = 6
			}
			socket, c := powerServe(t, pool, seed)
			next, evicted, lost := uint64(1), 0, int64(0)
			for cut := range cuts {
				last, r := cutUnderClient(t, socket, next, 1+cut*7%20)
				c.Expect("back")
				lost += r.Lost
				values, forgotten := readNumbers(t, socket)
				for i, v := range values {
					if v < last || v > last+1 || i > 0 && v > values[i-1] {
						t.Errorf("cut %d: %d was durable, then there is %d", cut, last, values)
						break
					}
				}
				if forgotten != 0 {
					evicted++
				}
				if seed == 0 && (forgotten != 0 || r.Evicted != 0) {
					t.Errorf("cut %d: %d was never persisted and is there; %+v", cut, forgotten, r)
				}
				next = values[0] + 1
				if cut%6 == 5 { // at rest, too, it is a good pool: after a kill and after a good end
					if cut%12 == 5 {
						c.Kill()
					} else {
						c.Finish()
					}
					checkClean(t, pool)
					if seed != 0 {
						seed++
					}
					socket, c = powerServe(t, pool, seed)
				}
			}
			c.Finish()
			checkClean(t, pool)
			t.Logf("%d numbers, %d lines lost, %d times a number that was not persisted survived", next, lost, evicted)
			if lost == 0 {
				t.Error("nothing was lost")
			}
			if seed != 0 && cuts > 10 && evicted == 0 {
				t.Error("nothing was evicted")
			}
		})
	}
}

// cutUnderClient runs the client from a number on, cuts the power when it has told of a few, and returns the last it told of.
func cutUnderClient(t *testing.T, socket string, first uint64, few int) (last uint64, r pmemfs.PowerCutReport) {
	t.Helper()
	client := pooltest.Start(t, "sequence", socket, fmt.Sprint(first))
	for range few {
		if _, err := fmt.Sscan(client.Line(), &last); err != nil {
			t.Fatal(err)
		}
	}
	fsys := dial(t, socket)
	r, err := fsys.CutPower()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fsys.Stat("."); !errors.Is(err, pmemfs.ErrServerGone) {
		t.Errorf("after the cut: %v", err)
	}
	for client.Out.Scan() {
		if _, err := fmt.Sscan(client.Out.Text(), &last); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Cmd.Wait(); err != nil {
		t.Fatalf("the client: %v", err)
	}
	return last, r
}

func readNumbers(t *testing.T, socket string) (values []uint64, forgotten uint64) {
	t.Helper()
	fsys := dial(t, socket)
	defer fsys.Close()
	b, err := fsys.ReadFile("numbers")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		values = append(values, binary.LittleEndian.Uint64(b[place(i):]))
	}
	if b, err = fsys.ReadFile("forgotten"); err != nil {
		t.Fatal(err)
	}
	return values, binary.LittleEndian.Uint64(b)
}

// openFile opens a pool with power cuts, and maps a file of two pages.
func openFile(t *testing.T, pool string) (*pmemfs.FS, *pmemfs.Mapping) {
	t.Helper()
	fsys := openPool(t, pool, pmemfs.PowerCut(0))
	f, err := fsys.OpenFile("file", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(8192); err != nil {
		t.Fatal(err)
	}
	m, err := f.Map(0, 8192, pmemfs.Shared)
	if err != nil {
		t.Fatal(err)
	}
	return fsys, m
}

// TestPowerCutEmbedded cuts the power in one's own process.
func TestPowerCutEmbedded(t *testing.T) {
	pool := newPool(t)
	fsys, m := openFile(t, pool)
	if info := fsys.Info(); !info.Medium.PowerCut || !info.Medium.Emulated {
		t.Errorf("it does not say what it is: %+v", info.Medium)
	}
	store := func(at int, text string) { copy(m.Bytes()[at:], text) }
	store(0, "persisted")
	errs := []error{m.Persist(0, 9)}
	store(64, "flushed")
	errs = append(errs, m.Flush(64, 7))
	store(4096, "synced")
	errs = append(errs, m.Sync(4096, 6)) // its fence is one for the flush before as well
	store(128, "stored")
	store(192, "flushed only")
	errs = append(errs, m.Flush(192, 12))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	r, err := fsys.CutPower()
	if err != nil || r.Lost < 2 || r.Evicted != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	checkOff(t, fsys, m)
	if err := fsys.Close(); err != nil {
		t.Error(err)
	}
	checkClean(t, pool)
	fsys, m = openFile(t, pool)
	for at, want := range map[int]string{0: "persisted", 64: "flushed", 4096: "synced", 128: "\x00", 192: "\x00"} {
		if got := string(m.Bytes()[at : at+len(want)]); got != want {
			t.Errorf("at %d there is %q, want %q", at, got, want)
		}
	}
	store(128, "stored")
	if err := fsys.Close(); err != nil {
		t.Error(err)
	}
	if _, m = openFile(t, pool); string(m.Bytes()[128:134]) != "stored" {
		t.Error("a good end has lost something")
	}
}

// checkOff checks that an FS behaves like a machine without power.
func checkOff(t *testing.T, fsys *pmemfs.FS, m *pmemfs.Mapping) {
	t.Helper()
	if err := pmemfs.Catch(func() { m.Bytes()[0] = 1 }); !errors.Is(err, pmemfs.ErrServerGone) {
		t.Errorf("a store after the cut: %v", err)
	}
	_, again := fsys.CutPower()
	for name, err := range map[string]error{
		"mkdir": fsys.Mkdir("dir", 0o700), "persist": m.Persist(0, 1), "populate": m.Populate(0, 1), "sync": m.Sync(0, 1),
		"a second cut": again,
	} {
		if !errors.Is(err, pmemfs.ErrServerGone) {
			t.Errorf("%s after the cut: %v", name, err)
		}
	}
}

// TestPowerCutOnDisk: wherever the pool is, what is emulated has Sync mappings, and the pool's files hold what is durable.
func TestPowerCutOnDisk(t *testing.T) {
	pool := filepath.Join(t.TempDir(), "pool")
	if err := pmemfs.Format(pool, pmemfs.FormatOptions{Size: testPoolSize}); err != nil {
		t.Fatal(err)
	}
	socket, c := powerServe(t, pool, 0)
	last, r := cutUnderClient(t, socket, 1, 2)
	c.Expect("back")
	if values, forgotten := readNumbers(t, socket); values[7] < last || forgotten != 0 || r.Lost == 0 {
		t.Errorf("%d was durable, then there is %d and %d; %+v", last, values, forgotten, r)
	}
	c.Kill()
	checkClean(t, pool)
	fsys := openPool(t, pool)
	if b, err := fsys.ReadFile("numbers"); err != nil || binary.LittleEndian.Uint64(b[place(7):]) < last {
		t.Errorf("in the pool there is not what was durable: %v", err)
	}
}

// TestPowerCutOnlyByChoice: where nobody has asked for it there are no power cuts.
func TestPowerCutOnlyByChoice(t *testing.T) {
	each(t, func(t *testing.T, fsys *pmemfs.FS) {
		if _, err := fsys.CutPower(); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("CutPower: %v", err)
		}
		if fsys.Info().Medium.PowerCut {
			t.Error("it says that they are emulated")
		}
		if err := fsys.WriteFile("still there", nil, 0o600); err != nil {
			t.Error(err)
		}
	})
	pool := newPool(t)
	if _, err := pmemfs.Open(pool, pmemfs.PowerCut(0), pmemfs.OpenReadOnly()); !errors.Is(err, unix.EROFS) {
		t.Errorf("read-only: %v", err)
	}
	if _, err := pmemfs.Open(pool, pmemfs.PowerCut(0), pmemfs.Require(pmemfs.Byte)); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("byte granularity: %v", err)
	}
	if _, err := pmemfs.Dial("/nowhere", pmemfs.PowerCut(0)); !errors.Is(err, unix.EINVAL) {
		t.Errorf("Dial: %v", err)
	}
	socket, c := powerServe(t, pool, 0)
	if _, err := dial(t, socket, pmemfs.OpenReadOnly()).CutPower(); !errors.Is(err, unix.EROFS) {
		t.Errorf("a client that may only read: %v", err)
	}
	c.Finish()
}

// TestPowerCutWithStoppedClient: one that cannot give its mappings back does not keep the power on.
func TestPowerCutWithStoppedClient(t *testing.T) {
	pool := newPool(t)
	socket, c := powerServe(t, pool, 3)
	client := pooltest.Start(t, "sequence", socket, "1")
	client.Expect("1")
	if err := client.Cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, socket).CutPower(); err != nil {
		t.Fatal(err)
	}
	c.Expect("back")
	fsys := dial(t, socket)
	if err := fsys.WriteFile("life goes on", []byte("yes"), 0o600); err != nil {
		t.Error(err)
	}
	if err := client.Cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for client.Out.Scan() {
	}
	if err := client.Cmd.Wait(); err != nil {
		t.Errorf("the client: %v", err)
	}
	if b, err := fsys.ReadFile("life goes on"); err != nil || string(b) != "yes" {
		t.Errorf("%q, %v", b, err)
	}
	c.Finish()
	checkClean(t, pool)
}

// TestPowerCutsUnderOperations cuts the power of a server while clients make, fill, rename and remove files: what was
// answered has happened, and the pool is never damaged.
func TestPowerCutsUnderOperations(t *testing.T) {
	pool, cuts := newPool(t), 20
	if testing.Short() {
		cuts = 5
	}
	for cut := range cuts {
		srv, err := server.Open(pool, server.Options{Logf: t.Logf, PowerCut: &medium.PowerCutOptions{Seed: uint64(cut)}})
		if err != nil {
			t.Fatal(err)
		}
		socket := filepath.Join(t.TempDir(), "socket")
		l, err := server.Listen(socket, server.Access{GID: -1})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- server.Run(ctx, srv, l, func(*server.Server) {}) }()
		const clients = 4
		answered := make(chan [2]int, clients) // client, files it has made
		started := make(chan struct{}, clients)
		for c := range clients {
			fsys := dial(t, socket)
			go func() {
				n := 0
				for ; makeFile(t, fsys, cut, c, n); n++ {
					if n == 1 {
						started <- struct{}{}
					}
				}
				answered <- [2]int{c, n}
			}()
		}
		for range clients {
			<-started
		}
		time.Sleep(time.Duration(cut%7) * time.Millisecond)
		if _, err := dial(t, socket).CutPower(); err != nil {
			t.Fatal(err)
		}
		fsys := dial(t, socket)
		for range clients {
			a := <-answered
			checkFiles(t, fsys, cut, a[0], a[1])
		}
		fsys.Close()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		checkClean(t, pool)
	}
}

// makeFile makes the n-th file of a client under a temporary name, renames it and removes the one before; false: the
// server is gone.
func makeFile(t *testing.T, fsys *pmemfs.FS, cut, client, n int) bool {
	name := func(n int) string { return fmt.Sprintf("cut %d client %d file %d", cut, client, n) }
	err := fsys.WriteFile("new "+name(n), []byte(name(n)), 0o600)
	if err == nil {
		err = fsys.Rename("new "+name(n), name(n))
	}
	if err == nil && n > 0 {
		err = fsys.Remove(name(n - 1))
	}
	if err != nil && !errors.Is(err, pmemfs.ErrServerGone) {
		t.Errorf("%s: %v", name(n), err)
	}
	return err == nil
}

// checkFiles checks what is left of a client that has made n files, and perhaps was making another.
func checkFiles(t *testing.T, fsys *pmemfs.FS, cut, client, n int) {
	found := 0
	for i := range n + 1 {
		name := fmt.Sprintf("cut %d client %d file %d", cut, client, i)
		b, err := fsys.ReadFile(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil || string(b) != name || i < n-1:
			t.Errorf("%s after %d: %q, %v", name, n, b, err)
		default:
			found++
		}
	}
	if n > 0 && found == 0 {
		t.Errorf("cut %d client %d: none of its %d files is there", cut, client, n)
	}
}
