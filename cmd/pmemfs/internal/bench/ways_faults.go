package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/pmem"
)

// view is a file in memory.
type view struct {
	mem     []byte
	persist func(off, n int) error // makes stores durable without a system call
	unmap   func() error
}

// touchAll stores to each page, so that none faults any more.
func (v *view) touchAll() error {
	return pmemfs.Catch(func() {
		for off := 0; off < len(v.mem); off += pageSize {
			v.mem[off] = 1
		}
	})
}

// warm touches each page, so that none faults any more, and leaves the CPU a TLB of the size that fits them. That of an emulated
// CPU (QEMU) has the size that was of use in the last 100 ms: it doubles when it is flushed while it is full, as by the unmapping
// of much memory, and shrinks when it was not full for so long. Without that the contestants would be measured with what the one
// before has left behind.
func (v *view) warm() error {
	const settles = 250 * time.Millisecond
	for start := time.Now(); time.Since(start) < settles; {
		if err := v.touchAll(); err != nil {
			return err
		}
		mem, err := unix.Mmap(-1, 0, hugePage, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
		if err == nil {
			err = unix.Munmap(mem)
		}
		if err != nil {
			return fmt.Errorf("mmap: %w", err)
		}
	}
	return v.touchAll()
}

// mappable is a file that is mapped again and again, to be stored to for the first time.
type mappable struct {
	peer    string
	durable bool // what is stored is, once it is flushed
	note    string
	mmap    func() (*view, error)
	hole    func() error   // frees all its blocks; nil: they are to stay
	zero    func(page int) // does what stands for allocating a block; nil: a fault does it
}

func (w *ways) plainView(flags int) (*view, error) {
	mem, err := w.plain.mmap(flags)
	if err != nil {
		return nil, err
	}
	return w.view(mem[:w.size], func() error { return unix.Munmap(mem) }), nil
}

// view is memory that the kernel has mapped.
func (w *ways) view(mem []byte, unmap func() error) *view {
	persist := func(off, n int) error { w.persist(mem[off : off+n]); return nil }
	return &view{mem, persist, unmap}
}

// poolFile makes a file, its blocks written or none.
func (w *ways) poolFile(fsys *pmemfs.FS, name string, filled bool) (*pmemfs.File, error) {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	w.later(f.Close)
	err = f.Truncate(w.size)
	if err == nil && filled {
		err = f.Fill(0, w.size)
	}
	return f, err
}

func (w *ways) mapPool(f *pmemfs.File, flags pmemfs.MapFlags) (*view, *pmemfs.Mapping, error) {
	m, err := f.Map(0, int(w.size), flags)
	if err != nil {
		return nil, nil, err
	}
	return &view{m.Bytes(), m.Persist, m.Unmap}, m, nil
}

// peerFile opens a file, its blocks written or none; the first time it is made.
func (w *ways) peerFile(p *peer, filled bool) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(p.dir, fmt.Sprint("filled-", filled)), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	w.later(f.Close)
	info, err := f.Stat()
	switch {
	case err != nil || info.Size() > 0:
		return f, err
	case filled:
		return f, writeZeros(f, w.size)
	}
	return f, f.Truncate(w.size)
}

func (w *ways) mapPeer(f *os.File, flags int) (*view, error) {
	mem, err := unix.Mmap(int(f.Fd()), 0, int(w.size), unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return nil, fmt.Errorf("mmap %s: %w", f.Name(), err)
	}
	return w.view(mem, func() error { return unix.Munmap(mem) }), nil
}

// mappables are all that can be mapped, with blocks or with a hole where they would be.
func (w *ways) mappables(filled bool) ([]*mappable, error) {
	plain, err := w.plainMappable(filled)
	if err != nil {
		return nil, err
	}
	list := []*mappable{plain}
	if w.fsys.MapMask()&pmemfs.Sync != 0 {
		m, err := w.poolMappable(filled)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	for _, p := range w.peers {
		more, err := w.peerMappables(p, filled)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return list, nil
}

// plainMappable is the limit: what the kernel takes to map a page that is there, and what it takes to zero a block.
func (w *ways) plainMappable(filled bool) (*mappable, error) {
	mmap := func() (*view, error) { return w.plainView(unix.MAP_SHARED) }
	m := &mappable{peer: raw, durable: true, note: "a plain mapping of memory that is there", mmap: mmap}
	if filled {
		return m, nil
	}
	v, err := w.plainView(unix.MAP_SHARED | unix.MAP_POPULATE)
	m.note += ", zeroed by streaming stores"
	m.zero = func(page int) { pmem.Zero(v.mem[page*pageSize:][:pageSize]); pmem.Fence() }
	return m, err
}

func (w *ways) poolMappable(filled bool) (*mappable, error) {
	name := fmt.Sprint("mapped-", filled)
	f, err := w.poolFile(w.fsys, name, filled)
	if err != nil {
		return nil, err
	}
	m := &mappable{peer: servedPool + ": Sync", durable: true}
	m.mmap = func() (*view, error) { v, _, err := w.mapPool(f, pmemfs.Sync); return v, err }
	if !filled {
		m.hole = func() error { return errors.Join(f.Truncate(0), f.Truncate(w.size)) }
	}
	return m, nil
}

// peerMappables are the kernel's plain mapping and, where it is offered, that of which each fault makes the metadata
// durable.
func (w *ways) peerMappables(p *peer, filled bool) ([]*mappable, error) {
	f, err := w.peerFile(p, filled)
	if err != nil {
		return nil, err
	}
	var hole func() error
	if !filled {
		hole = func() error { return errors.Join(f.Truncate(0), f.Truncate(w.size)) }
	}
	note := "not durable before msync"
	if p.volatile {
		note = p.note
	}
	plain := func() (*view, error) { return w.mapPeer(f, unix.MAP_SHARED) }
	list := []*mappable{{peer: p.name + ": mmap", note: note, mmap: plain, hole: hole}}
	if mapsSync(f) {
		synced := func() (*view, error) { return w.mapPeer(f, mapSync) }
		small := func() (*view, error) {
			mem, unmap, err := mmapSmall(f, int(w.size), mapSync)
			return w.view(mem, unmap), err
		}
		list = append(list, &mappable{peer: p.name + ": MAP_SYNC", durable: true, mmap: synced, hole: hole},
			&mappable{peer: p.name + ": MAP_SYNC, 4 KiB", durable: true, mmap: small, hole: hole, note: "without huge pages"})
	}
	return list, nil
}

// touches adds first stores to pages in an order, through mappings that are new in each turn, and newer when it has come
// to its end. Where each of them is a fault, whatever it maps, they are timed one by one.
func (w *ways) touches(m *mappable, what, peer string, order []int, least int, store func(v *view, page int) error) {
	f := &figure{what: what, peer: peer, durable: m.durable, note: m.note}
	if len(order) == int(w.size/hugePage) {
		f.each = newHistogram()
	}
	turn := func(n int) (err error) {
		for ; n > 0 && err == nil; n -= len(order) {
			err = m.touch(f, order[:min(n, len(order))], store)
		}
		return err
	}
	w.all = append(w.all, newContestant(least, max(len(order), 4*fewPages), turn, f))
}

func (m *mappable) touch(f *figure, pages []int, store func(v *view, page int) error) (err error) {
	if m.hole != nil {
		if err := m.hole(); err != nil {
			return err
		}
	}
	v, err := m.mmap()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.unmap()) }()
	start := time.Since(epoch)
	for _, page := range pages {
		if m.zero != nil {
			m.zero(page)
		}
		err := store(v, page)
		if now := time.Since(epoch); f.each != nil {
			err = errors.Join(err, f.add(now-start))
			start = now
		}
		if err != nil {
			return err
		}
	}
	if f.each == nil {
		f.took += time.Since(epoch) - start
	}
	return nil
}

// The stores by which pages are touched.
func storeByte(v *view, page int) error {
	v.mem[page*pageSize] = 1
	return nil
}

func storeUpdate(v *view, page int) error {
	copy(v.mem[page*pageSize:], zeros[:updateSize])
	return v.persist(page*pageSize, updateSize)
}

// addFaults adds first touches, and what a store takes after them.
func (w *ways) addFaults() error {
	pages := int(w.size / pageSize)
	scattered, inOrder := rand.Perm(pages), make([]int, pages)
	for i := range inOrder {
		inOrder[i] = i
	}
	// One page somewhere in each huge page, so that the kernel's faults, too, are one for each store: they map, and allocate,
	// 2 MiB where they can.
	var pieces []int
	for _, piece := range rand.Perm(int(w.size / hugePage)) {
		pieces = append(pieces, piece*hugePage/pageSize+rand.IntN(hugePage/pageSize))
	}
	holes, err := w.mappables(false)
	if err != nil {
		return err
	}
	filled, err := w.mappables(true)
	if err != nil {
		return err
	}
	for _, m := range holes {
		w.touches(m, "first store to a page of a hole, pages at random", m.peer, scattered, fewPages, storeByte)
		w.touches(m, "first store to 2 MiB of a hole, at random", m.peer, pieces, 1, storeByte)
		w.touches(m, "first store to each page of a hole, in order, for a page", m.peer, inOrder, 16*fewPages, storeByte)
		if m.durable && m.peer != raw {
			w.touches(m, whatUpdate, m.peer+", first touch of a hole", pieces, 1, storeUpdate)
		}
	}
	for _, m := range filled {
		w.touches(m, "first store to 2 MiB of written blocks, at random", m.peer, pieces, 1, storeByte)
		w.touches(m, "first store to each page of written blocks, in order, for a page", m.peer, inOrder[:min(pages, manyPages)], 16*fewPages, storeByte)
		if m.durable && m.peer != raw {
			w.touches(m, whatUpdate, m.peer+", first touch of written blocks", pieces, 1, storeUpdate)
		}
		if m.durable {
			w.storesAfter(m)
		}
	}
	return nil
}

// storesAfter adds stores to pages that have been touched before, through a mapping that is new in each turn: how fast a
// store is depends on where it lies, too, by what shares its places in a TLB and in caches.
func (w *ways) storesAfter(m *mappable) {
	none := &view{unmap: func() error { return nil }}
	v := none
	w.later(func() error { return v.unmap() })
	c := w.stores("durable store of 8 bytes after the first touch", m.peer, true, m.note, func(off int) error {
		binary.LittleEndian.PutUint64(v.mem[off:], uint64(off))
		return v.persist(off, storeSize)
	})
	c.warmed(func() error {
		old := v
		v = none
		if err := old.unmap(); err != nil {
			return err
		}
		fresh, err := m.mmap()
		if err != nil {
			return err
		}
		v = fresh
		return v.warm()
	})
}
