package pmemfs_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
)

func init() {
	roles["indexer"] = indexerRole
	roles["publisher"] = publisherRole
}

// cloned maps a clone of all of a file.
func cloned(t testing.TB, f *pmemfs.File, n int, options ...pmemfs.CloneOption) *pmemfs.CloneMapping {
	t.Helper()
	m, err := f.MapClone(0, n, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Unmap() })
	return m
}

// writtenFile makes a file of blocks that are written.
func writtenFile(t testing.TB, fsys *pmemfs.FS, name string, blocks int) *pmemfs.File {
	t.Helper()
	f, err := fsys.Create(name)
	if err == nil {
		_, err = f.Write(bytes.Repeat([]byte("written "), blocks*page/8))
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func readAll(t testing.TB, f *pmemfs.File, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	if _, err := f.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPublish(t *testing.T) {
	for _, policy := range []string{"op", "interval"} {
		t.Run(policy, func(t *testing.T) {
			testPublish(t, newPool(t), policy)
		})
	}
}

func testPublish(t *testing.T, pool, policy string) {
	d := found(t, pool, policy)
	fsys := dial(t, d.socket)
	const n = 600 * page
	f, g := writtenFile(t, fsys, "f", 600), writtenFile(t, fsys, "g", 600)
	reader := mapped(t, f, 0, n, pmemfs.Shared)
	old := bytes.Clone(reader.Bytes())
	m, second := cloned(t, f, n), cloned(t, g, n)
	for round := range 4 {
		for i := range 50 {
			copy(m.Bytes()[(i*11+round)*page+i:], fmt.Sprintf("round %d of %d", round, i))
		}
		copy(second.Bytes()[round*page:], "second")
		if !bytes.Equal(reader.Bytes(), old) || !bytes.Equal(readAll(t, f, n), old) {
			t.Fatal("seen before it was published")
		}
		must(t, pmemfs.PublishAll(second, m))
		old = bytes.Clone(m.Bytes())
		if !bytes.Equal(reader.Bytes(), old) || !bytes.Equal(readAll(t, f, n), old) {
			t.Fatal("what was published is not in the file")
		}
		if got := readAll(t, g, n)[round*page:][:6]; string(got) != "second" {
			t.Fatalf("the second file has %q", got)
		}
	}
	copy(m.Bytes(), "dropped")
	must(t, m.Discard())
	if !bytes.Equal(m.Bytes(), old) {
		t.Error("something was not discarded")
	}
	if _, err := f.WriteAt([]byte("other"), 5*page); err != nil {
		t.Fatal(err)
	}
	copy(m.Bytes(), "mine")
	var conflict *pmemfs.ConflictError
	err := m.Publish()
	if !errors.Is(err, pmemfs.ErrConflict) || !errors.Is(err, unix.ESTALE) || !errors.As(err, &conflict) || conflict.Offset != 5*page {
		t.Errorf("the file has changed: %v", err)
	}
	err = pmemfs.PublishAll(second, m)
	wantError(t, err, pmemfs.ErrConflict, "publish f: the block at offset 20480 has changed")
	must(t, m.Discard())
	copy(m.Bytes(), "mine")
	must(t, m.Publish())

	merging := cloned(t, g, n, pmemfs.Merge)
	reader2 := mapped(t, g, 0, n, pmemfs.Shared)
	reader2.Bytes()[9*page] = 'x' // a store of another mapping is a change, too
	merging.Bytes()[8*page] = 'y'
	must(t, merging.Publish())
	if got := merging.Bytes()[9*page]; got != 'x' {
		t.Errorf("the clone does not have what others have stored, but %q", got)
	}
	reader2.Bytes()[9*page] = 'z'
	merging.Bytes()[9*page+1] = 'y'
	wantError(t, merging.Publish(), pmemfs.ErrConflict, "offset 36864")
	if reader2.Bytes()[8*page] != 'y' || reader2.Bytes()[9*page] != 'z' || reader2.Bytes()[9*page+1] == 'y' {
		t.Error("a merge has gone wrong")
	}
	for _, m := range []*pmemfs.CloneMapping{m, second, merging} {
		must(t, m.Unmap())
	}
	must(t, reader.Unmap())
	must(t, reader2.Unmap())
	must(t, fsys.Close())
	d.finish()
}

func TestPublishRefused(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	f := writtenFile(t, fsys, "f", 4)
	_, err := f.MapClone(100, page)
	wantError(t, err, unix.EINVAL, "multiple of 4096")
	_, err = f.MapClone(0, 0)
	wantError(t, err, unix.EINVAL, "0 bytes")
	_, err = f.MapClone(0, 5*page)
	wantError(t, err, unix.ENXIO, "clone f")
	_, err = f.MapClone(0, page, 1<<5)
	wantError(t, err, unix.EINVAL, "0x20")
	m := cloned(t, f, page)
	wantError(t, pmemfs.PublishAll(m, m), unix.EINVAL, "twice")
	wantError(t, pmemfs.PublishAll(m, cloned(t, f, page)), unix.EINVAL, "publish f")
	wantError(t, m.Advise(pmemfs.Sync), unix.EINVAL, "of a clone")
	must(t, pmemfs.PublishAll())
	must(t, m.Unmap())
	wantError(t, m.Publish(), pmemfs.ErrUnmapped, "publish f")
	wantError(t, m.Discard(), pmemfs.ErrUnmapped, "discard f")

	embedded := openPool(t, newPool(t))
	_, err = writtenFile(t, embedded, "f", 1).MapClone(0, page)
	wantError(t, err, unix.EOPNOTSUPP, "needs a server")
}

// publisherRole publishes, to two files, blocks that all have the same number, which rises, until its input ends: SOCKET FILE FILE BLOCKS.
func publisherRole(args []string, in *bufio.Scanner) error {
	fsys, f, err := dialFile(args[0], args[1])
	if err != nil {
		return err
	}
	defer fsys.Close()
	blocks, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	g, err := fsys.OpenFile(args[2], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var clones []*pmemfs.CloneMapping
	for _, f := range []*pmemfs.File{f, g} {
		m, err := f.MapClone(0, blocks*page)
		if err != nil {
			return err
		}
		clones = append(clones, m)
	}
	var stop atomic.Bool
	go func() {
		for in.Scan() {
		}
		stop.Store(true)
	}()
	fmt.Println("ready")
	n := uint64(0)
	for ; !stop.Load(); n++ {
		for _, m := range clones {
			for b := range blocks {
				binary.LittleEndian.PutUint64(m.Bytes()[b*page:], n)
			}
		}
		if err := pmemfs.PublishAll(clones...); err != nil {
			return err
		}
	}
	fmt.Println(n)
	return nil
}

// TestPublishReaders has readers load from mappings of two files while another process publishes to both: what they see
// never goes back, from one load to the next, in whichever block of whichever file.
func TestPublishReaders(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	const blocks = 8
	var maps []*pmemfs.Mapping
	for _, name := range []string{"f", "g"} {
		f := writtenFile(t, fsys, name, blocks)
		_, err := f.WriteAt(make([]byte, blocks*page), 0)
		must(t, err)
		maps = append(maps, mapped(t, f, 0, blocks*page, pmemfs.Shared|pmemfs.ReadOnly))
	}
	c := pooltest.Start(t, "publisher", socket, "f", "g", strconv.Itoa(blocks))
	c.Expect("ready")
	var stop atomic.Bool
	var readers sync.WaitGroup
	var seen [3]uint64
	for i := range seen {
		readers.Go(func() {
			r, last := rand.New(rand.NewPCG(uint64(i), 1)), uint64(0)
			for !stop.Load() {
				file, block := r.IntN(2), r.IntN(blocks)
				var n uint64
				must(t, pmemfs.Catch(func() { n = counterAt(maps[file], block*page).Load() }))
				if n < last {
					t.Errorf("block %d of file %d has %d after %d was seen", block, file, n, last)
					return
				}
				if n != last {
					seen[i]++
				}
				last = n
			}
		})
	}
	time.Sleep(tortureTime() / 10)
	stop.Store(true)
	readers.Wait()
	c.In.Close()
	n, err := strconv.Atoi(c.Line())
	if err != nil || n < 10 {
		t.Errorf("%d publishes, %v", n, err)
	}
	t.Logf("%d publishes, the readers saw %d changes", n, seen)
	for file := range maps {
		for b := range blocks {
			if got := counterAt(maps[file], b*page).Load(); got != uint64(n-1) {
				t.Errorf("block %d of file %d has %d in the end, not %d", b, file, got, n-1)
			}
		}
	}
}

// indexerRole verifies an index and goes on to commit batches, and tells of each: SOCKET ACKNOWLEDGED.
func indexerRole(args []string, in *bufio.Scanner) error {
	fsys, err := pmemfs.Dial(args[0], pmemfs.Reconnect(time.Minute))
	if err != nil {
		return err
	}
	x, err := OpenIndex(fsys, "index")
	if err != nil {
		return err
	}
	fmt.Println("open", x.Batches())
	for {
		batch(x.Batches(), x.Put)
		if err := x.Commit(); err != nil {
			return err
		}
		fmt.Println("committed", x.Batches())
	}
}

// TestPublishIndexKilled kills the program of the example at any time, and now and then the server, 1,000 times: the file
// always has whole batches, all that were committed, and perhaps one more.
func TestPublishIndexKilled(t *testing.T) {
	kills := 1000
	if testing.Short() || raceDetector {
		kills = 100
	}
	d := newDynasty(t)
	fsys := dial(t, d.socket, pmemfs.Reconnect(time.Minute))
	acknowledged, want := uint64(0), map[uint64]uint64{}
	for kill := range kills {
		c := pooltest.Start(t, "indexer", d.socket)
		var batches uint64
		if _, err := fmt.Sscanf(c.Line(), "open %d", &batches); err != nil || batches < acknowledged {
			t.Fatalf("%d batches, %d were committed, %v", batches, acknowledged, err)
		}
		wait := time.Duration(rand.Int64N(int64(20 * time.Millisecond)))
		if kill == 0 {
			wait = time.Second // the first batch is all keys
		}
		begin := func() { time.AfterFunc(wait, func() { c.Cmd.Process.Kill() }) }
		if kill%2 == 0 { // at any time; every other one when it has committed, however busy the machine is
			begin()
		}
		if kill%50 == 25 {
			d.restart()
		}
		for n := 1; c.Out.Scan(); n++ {
			fmt.Sscanf(c.Out.Text(), "committed %d", &batches)
			if kill%2 == 1 && n == 2 {
				begin()
			}
		}
		c.Cmd.Wait()
		// The server may still be publishing what the dead one has asked for: the file is looked at as it is at one instant.
		must(t, fsys.Clone("index", "look"))
		b, err := fsys.ReadFile("look")
		must(t, errors.Join(err, fsys.Remove("look")))
		x := Index{b: b}
		if x.Batches() < batches {
			t.Fatalf("kill %d: %d batches, %d were committed", kill, x.Batches(), batches)
		}
		if err := x.verify(acknowledged, want, kill%20 == 0 || kill == kills-1); err != nil {
			t.Fatalf("kill %d: %v", kill, err)
		}
		acknowledged = x.Batches()
	}
	t.Logf("%d batches", acknowledged)
	if acknowledged < uint64(kills) {
		t.Error("hardly anything was committed between the kills")
	}
	must(t, fsys.Close())
	d.finish()
}

// TestPublishRestart kills the server under clones that have changes: they are published to the next one.
func TestPublishRestart(t *testing.T) {
	d := newDynasty(t)
	fsys := dial(t, d.socket, pmemfs.Reconnect(time.Minute))
	const n = 100 * page
	f := writtenFile(t, fsys, "f", 100)
	m, merging := cloned(t, f, n), cloned(t, writtenFile(t, fsys, "g", 100), n, pmemfs.Merge)
	copy(m.Bytes()[7*page:], "before")
	copy(merging.Bytes()[7*page:], "before")
	d.restart()
	copy(m.Bytes()[9*page:], "after")
	must(t, pmemfs.PublishAll(m, merging))
	got := readAll(t, f, n)
	if string(got[7*page:][:6]) != "before" || string(got[9*page:][:5]) != "after" || string(got[8*page:][:7]) != "written" {
		t.Errorf("%q %q %q", got[7*page:][:6], got[9*page:][:5], got[8*page:][:7])
	}
	if _, err := f.WriteAt([]byte("other"), 5*page); err != nil {
		t.Fatal(err)
	}
	copy(m.Bytes(), "mine")
	d.restart()
	wantError(t, m.Publish(), pmemfs.ErrConflict, "publish f")
	must(t, m.Discard())
	copy(m.Bytes(), "mine")
	must(t, m.Publish())
	if got := readAll(t, f, n); string(got[:4]) != "mine" || string(got[5*page:][:5]) != "other" {
		t.Errorf("%q %q", got[:4], got[5*page:][:5])
	}
	must(t, m.Unmap())
	must(t, merging.Unmap())
	must(t, fsys.Close())
	d.finish()
}
