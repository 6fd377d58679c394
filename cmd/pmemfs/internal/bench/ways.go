package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/report"
	"github.com/pmemfs/pmemfs/pmem"
)

// WaysOptions are those of MeasureWays.
type WaysOptions struct {
	CompareOptions
	Size int64 // bytes of each file that is stored to, a multiple of 2 MiB
}

const (
	pageSize   = 4096     // bytes
	hugePage   = 2 << 20  // bytes
	updateSize = 64       // bytes of an update, aligned
	fewPages   = 64       // that a turn touches at least
	manyPages  = 16 << 10 // and at most where they have to be written back later
)

const whatUpdate = "durable update of 64 bytes at a random place"

// ways is one run.
type ways struct {
	*arena
	size int64
	all  []*contestant
}

// MeasureWays compares the ways to make a store durable, and what page faults take. It leaves nothing behind, however it
// ends.
func MeasureWays(ctx context.Context, o WaysOptions) (_ *report.Part, err error) {
	// A process may seal no more than half of a pool.
	a, err := newArena(ctx, &o.CompareOptions, room{served: 3 * o.Size, embedded: 2 * o.Size, peer: 2 * o.Size, plain: o.Size})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.close(ctx)) }()
	w := &ways{arena: a, size: o.Size}
	for _, add := range []func() error{w.addRaw, w.addPools, w.addPeers, w.addFaults} {
		if err := errors.Join(add(), context.Cause(ctx)); err != nil {
			return nil, err
		}
	}
	if err := compare(ctx, &o.CompareOptions, "stores", w.all); err != nil {
		return nil, err
	}
	return w.part("Ways to a durable store", w.all), nil
}

// update adds a way to make one durable. do is given a place.
func (w *ways) update(peer string, durable bool, note string, do func(off int) error) *contestant {
	return w.stores(whatUpdate, peer, durable, note, do)
}

// stores adds a way to make a store durable, at random places that are aligned to lines. Each is timed by itself, as
// storeBatch does it, or a CPU would be at the next before one is durable, the farther the fewer instructions a way has.
func (w *ways) stores(what, peer string, durable bool, note string, do func(off int) error) *contestant {
	random := rand.New(rand.NewPCG(1, 2))
	lines := uint64(w.size / pmem.LineSize)
	f := &figure{what: what, peer: peer, durable: durable, note: note, each: newHistogram()}
	turn := func(n int) error {
		for range n {
			choice := random.Uint64()
			start := time.Since(epoch)
			off := int((choice + uint64(start)) % lines * pmem.LineSize)
			err := do(off)
			settled.Add(1)
			took := time.Since(epoch) - start
			if err := errors.Join(err, f.add(took)); err != nil {
				return fmt.Errorf("%s: %s: %w", peer, what, err)
			}
		}
		return nil
	}
	c := newContestant(16, 1<<30, turn, f)
	w.all = append(w.all, c)
	return c
}

// through is an update by way of memory.
func (v *view) through(durable func(off, n int) error) func(off int) error {
	var record [updateSize]byte
	return func(off int) error {
		record[0]++
		copy(v.mem[off:], record[:])
		return durable(off, updateSize)
	}
}

func (w *ways) addRaw() error {
	v, err := w.plainView(unix.MAP_SHARED | unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	c := w.update(raw, true, "a plain mapping of the medium: flush, fence", v.through(v.persist))
	c.warmed(v.warm)
	return nil
}

// written writes and syncs.
type written interface {
	WriteAt(p []byte, off int64) (int, error)
	Sync() error
}

func writeThen(f written, sync func() error) func(off int) error {
	record := make([]byte, updateSize)
	return func(off int) error {
		if _, err := f.WriteAt(record, int64(off)); err != nil {
			return err
		}
		return sync()
	}
}

// poolWays are mappings whose blocks are there, and how their stores become durable.
var poolWays = []struct {
	flags   pmemfs.MapFlags
	name    string
	durable func(*pmemfs.Mapping) func(off, n int) error
}{
	{pmemfs.Shared, "Shared, Sync call", func(m *pmemfs.Mapping) func(off, n int) error { return m.Sync }},
	{pmemfs.Unchecked, "Unchecked, Persist", func(m *pmemfs.Mapping) func(off, n int) error { return m.Persist }},
	{pmemfs.Sync, "Sync, Persist", func(m *pmemfs.Mapping) func(off, n int) error { return m.Persist }},
	{pmemfs.Sync | pmemfs.Populate, "Sync|Populate, Persist", func(m *pmemfs.Mapping) func(off, n int) error { return m.Persist }},
	{pmemfs.Direct, "Direct, Persist", func(m *pmemfs.Mapping) func(off, n int) error { return m.Persist }},
}

func (w *ways) addPools() error {
	for _, name := range []string{embeddedPool, servedPool} {
		fsys := w.pools()[name]
		if fsys == nil {
			continue
		}
		f, err := w.poolFile(fsys, "updated", true)
		if err != nil {
			return err
		}
		w.update(name+": write, fsync", true, "", writeThen(f, f.Sync))
		for _, way := range poolWays {
			if fsys.MapMask()&way.flags != way.flags {
				continue
			}
			v, m, err := w.mapPool(f, way.flags)
			if errors.Is(err, unix.EPERM) {
				w.notes = append(w.notes, name+": no Direct mapping: this process has not the privilege.")
				continue
			}
			if err != nil {
				return err
			}
			w.later(v.unmap)
			c := w.update(name+": "+way.name, true, "", v.through(way.durable(m)))
			c.warmed(v.warm)
		}
	}
	return nil
}

// addPeers adds what the kernel offers.
func (w *ways) addPeers() error {
	for _, p := range w.peers {
		f, err := w.peerFile(p, true)
		if err != nil {
			return err
		}
		v, err := w.mapPeer(f, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		w.later(v.unmap)
		datasync := func() error { return unix.Fdatasync(int(f.Fd())) }
		msync := func(off, n int) error {
			first := off / pageSize * pageSize
			return unix.Msync(v.mem[first:first+pageSize], unix.MS_SYNC)
		}
		w.update(p.name+": write, fsync", !p.volatile, p.note, writeThen(f, f.Sync))
		w.update(p.name+": write, fdatasync", !p.volatile, p.note, writeThen(f, datasync))
		w.update(p.name+": mmap, msync", !p.volatile, p.note, v.through(msync))
		if !mapsSync(f) {
			continue
		}
		synced, err := w.mapPeer(f, mapSync)
		if err != nil {
			return err
		}
		w.later(synced.unmap)
		c := w.update(p.name+": MAP_SYNC, flush", true, "", synced.through(synced.persist))
		c.warmed(synced.warm) // after the others' syncs the kernel wants to know of stores again
	}
	return nil
}

// mapSync are the flags of a mapping of which each fault makes the metadata durable.
const mapSync = unix.MAP_SHARED_VALIDATE | unix.MAP_SYNC

// mapsSync says whether the kernel offers that for a file.
func mapsSync(f *os.File) bool {
	mem, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, mapSync)
	return err == nil && unix.Munmap(mem) == nil
}
