package pmemfs_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
)

func init() { roles["counter"] = counterRole }

// A store to a shared block gives the file a copy: whoever has the file mapped sees the store, whoever has the clone
// mapped, or whoever reads it, what was there before. And the other way round.
func TestCloneUnshares(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	const pages = 8
	f := patterned(t, fsys, "file", pages*page)
	writer, reader, visitor := startClient(t, socket), startClient(t, socket), startClient(t, socket)
	mapIt := func(c obeyer, name string, flags pmemfs.MapFlags) {
		t.Helper()
		do(t, c, order{Do: "open", Name: name, Flags: unix.O_RDWR})
		do(t, c, order{Do: "map", N: pages * page, Flags: uint32(flags)})
	}
	load := func(c obeyer, at int64) byte {
		t.Helper()
		return do(t, c, order{Do: "load", Off: at, N: 1}).Data[0]
	}
	store := func(c obeyer, at int64, v byte) {
		t.Helper()
		do(t, c, order{Do: "store", Off: at, N: 1, Byte: v})
	}
	mapIt(writer, "file", pmemfs.Sync|pmemfs.Populate)
	mapIt(reader, "file", pmemfs.Sync|pmemfs.ReadOnly|pmemfs.Populate)
	for p := range int64(pages) {
		store(writer, p*page+1, 1)
		if got := load(reader, p*page+1); got != 1 {
			t.Fatal(got)
		}
	}
	for round := byte(2); round < 6; round++ {
		must(t, fsys.Clone("file", "clone"))
		c := reopen(t, fsys, "clone", os.O_RDWR)
		mapIt(visitor, "clone", pmemfs.Sync)
		before := frames(t, fsys).Breaks
		for p := range int64(pages) {
			at := p*page + 1
			if load(reader, at) != round-1 || load(visitor, at) != round-1 || load(writer, at) != round-1 {
				t.Errorf("page %d is not what was cloned", p)
			}
			if p%2 == 0 {
				store(writer, at, round)
			} else {
				store(visitor, at, round+100)
			}
			file, clone := round, round-1
			if p%2 != 0 {
				file, clone = round-1, round+100
			}
			var b [1]byte
			_, err := c.ReadAt(b[:], at)
			must(t, err)
			if load(reader, at) != file || load(writer, at) != file || load(visitor, at) != clone || b[0] != clone {
				t.Errorf("page %d after a store to one of the two: reader %d, writer %d, want %d; the clone's %d, and read %d, want %d", p,
					load(reader, at), load(writer, at), file, load(visitor, at), b[0], clone)
			}
		}
		if got := frames(t, fsys).Breaks; got == before {
			t.Error("nobody was granted anything that the stores took back")
		}
		for p := range int64(pages) {
			store(writer, p*page+1, round)
		}
		do(t, visitor, order{Do: "reset"})
		must(t, errors.Join(c.Close(), fsys.Remove("clone")))
	}
	if n := sharedBytes(t, f); n != 0 {
		t.Errorf("%d bytes are still marked shared, though every block was stored to", n)
	}
}

// A counter stores 1, 2, 3 … to slots, each in a page of its own, in turn. Whoever sees a counter's pages at one
// instant sees in each slot the last number that went there, up to one that was the last of all.
const (
	counterSlots = 16
	counterPages = counterSlots * page
)

// counterRole counts in its part of a mapped file until its input ends: SOCKET FILE NUMBER.
func counterRole(args []string, in *bufio.Scanner) error {
	fsys, f, err := dialFile(args[0], args[1])
	if err != nil {
		return err
	}
	defer fsys.Close()
	number, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	m, err := f.Map(int64(number)*counterPages, counterPages, pmemfs.Sync)
	if err != nil {
		return err
	}
	ctx := pooltest.UntilEnd(in)
	for n := uint64(1); ctx.Err() == nil; n++ {
		at := int(n%counterSlots)*page + number*8
		binary.LittleEndian.PutUint64(m.Bytes()[at:], n)
		if err := m.Persist(at, 8); err != nil {
			return err
		}
		if n == counterSlots {
			fmt.Println("counting")
		}
	}
	return nil
}

// counted is how far a counter has come, in what was read of its pages.
func counted(part []byte, number int) (last uint64, err error) {
	slot := func(i uint64) uint64 { return binary.LittleEndian.Uint64(part[int(i%counterSlots)*page+number*8:]) }
	for i := range uint64(counterSlots) {
		last = max(last, slot(i))
	}
	for n := last - counterSlots + 1; n <= last; n++ {
		if got := slot(n); got != n {
			return last, fmt.Errorf("counter %d has come to %d, and its slot %d holds %d, not %d", number, last, n%counterSlots, got, n)
		}
	}
	return last, nil
}

// Clones of a file to which several processes store are each the file at one instant: of none that stores is a later
// store there and an earlier one missing, and what was there before the clone began is in it.
func TestCloneUnderStores(t *testing.T) {
	socket, srv := serve(t, newPool(t))
	fsys := dial(t, socket)
	const counters = 4
	f := sized(t, fsys, "f", counters*counterPages)
	var children []*pooltest.Child
	for i := range counters {
		c := pooltest.Start(t, "counter", socket, "f", strconv.Itoa(i))
		c.Expect("counting")
		children = append(children, c)
	}
	look := func(name string) (last [counters]uint64) {
		t.Helper()
		all, err := fsys.ReadFile(name)
		must(t, err)
		for i := range last {
			last[i], err = counted(all[i*counterPages:][:counterPages], i)
			must(t, err)
		}
		return last
	}
	newest := func() (last [counters]uint64) { // that have been seen; the file changes while it is read
		t.Helper()
		all := make([]byte, counters*counterPages)
		if _, err := f.ReadAt(all, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		for i := range last {
			for s := range counterSlots {
				last[i] = max(last[i], binary.LittleEndian.Uint64(all[i*counterPages+s*page+i*8:]))
			}
		}
		return last
	}
	rounds := 100
	if testing.Short() {
		rounds = 10
	}
	var kept []string
	var last [counters]uint64
	moved := 0
	for round := range rounds {
		before := newest()
		name := fmt.Sprint("clone", round)
		must(t, fsys.Clone("f", name))
		got := look(name)
		for i := range got {
			if got[i] < before[i] || got[i] < last[i] {
				t.Fatalf("round %d: counter %d has come to %d in the clone, and had to %d before", round, i, got[i], before[i])
			}
			if got[i] > last[i] {
				moved++
			}
		}
		last = got
		if round%10 == 0 {
			kept = append(kept, name)
		} else {
			must(t, fsys.Remove(name))
		}
		time.Sleep(time.Millisecond)
	}
	if moved < rounds {
		t.Errorf("in %d rounds the counters went on %d times", rounds, moved)
	}
	for _, c := range children {
		c.Finish()
	}
	look("f")
	var before [][counters]uint64
	for _, name := range kept {
		before = append(before, look(name))
	}
	// And all of that is on the medium.
	pool := fsys.Info().Pool
	srv.Kill()
	fsys.Close() // an error: the server is gone
	fsys = openPool(t, pool, pmemfs.Wait(10*time.Second))
	for i, name := range kept {
		if got := look(name); got != before[i] {
			t.Errorf("%s: %v, before the crash %v", name, got, before[i])
		}
	}
	must(t, fsys.Close())
	_, err := pmemfs.Check(t.Context(), pool, pmemfs.CheckOptions{Report: func(p pmemfs.Problem) { t.Error(p) }})
	must(t, err)
}
