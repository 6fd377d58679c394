// Package alloc hands out units of the pool: blocks of the data area, nodes
// of the meta area, inodes. One structure serves all three: a bitmap with two
// levels of counts above it, so that a free unit, a free 2 MiB chunk or the
// total is found without reading the bits of a large pool.
//
// Everything here is protected by the journal's builder lock: callers hold a
// transaction, or have locked it for a reservation.
package alloc

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/journal"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// Run is count units from first on.
type Run struct{ First, Count int64 }

// End is the first unit behind the run.
func (r Run) End() int64 { return r.First + r.Count }

// Bitmap is one allocator.
//
// Invariant: a unit is free when its bit is 0 in the View, in the transaction
// that is being built, if there is one, and in busy. A unit is busy from its
// reservation until the transaction that sets its bit has ended and, with
// contents, from the transaction that clears its bit until that is durable: what
// is stored to a unit without the journal must not be seen by those whom it
// belonged to before a crash. free counts the free units.
type Bitmap struct {
	name     string
	journal  *journal.Journal
	contents bool // units are stored to without the journal; immutable
	regions  layout.BitmapRegions
	busy     map[int64]line // by chunk; none is zero
	free     atomic.Int64
	changes  []change             // of the transaction that is being built; empty between transactions
	settle   func(committed bool) // its OnDone, made once
	// Chunks where the next searches begin. There are two, so that small runs
	// do not follow large ones into chunks that are wholly free.
	chunkCursor, runCursor int64
}

const (
	lineWords  = layout.ChunkUnits / 64
	lineBytes  = layout.ChunkUnits / 8
	searchSpan = 1024 // chunks with free units looked at before the best run seen is taken
)

// change is a run that a transaction takes or releases.
type change struct {
	Run
	used bool // it is taken
	busy bool // it was reserved before, or is released and has contents
}

// line is one chunk's bits: 512 units in a cache line.
type line [lineWords]uint64

// New opens the bitmap named name (as in docs/format.md) over regions, of units
// whose contents change through the journal alone, or not. It reads the group
// counts only.
func New(name string, j *journal.Journal, regions layout.BitmapRegions, contents bool) (*Bitmap, error) {
	b := &Bitmap{name: name, journal: j, contents: contents, regions: regions, busy: map[int64]line{}}
	b.settle = b.settleChanges
	var used int64
	for g := int64(0); g*layout.GroupUnits < regions.Units; g++ {
		n, err := b.group(j.View, g)
		if err != nil {
			return nil, err
		}
		used += n
	}
	b.free.Store(regions.Units - used)
	return b, nil
}

// Units is how many units there are; Free how many of them can be had.
func (b *Bitmap) Units() int64 { return b.regions.Units }
func (b *Bitmap) Free() int64  { return b.free.Load() }

// view reads bytes of the meta area: Journal.View or Tx.Read.
type view func(off, n int64) []byte

// A chunk's word: used units u16 | zero u16 | CRC-32C of the chunk's line.
// A group's word: used units u32 | CRC-32C of these four bytes and the
// group's number. Both are 0 when nothing is used.
func (b *Bitmap) chunk(v view, chunk int64) (used int64, sum uint32, err error) {
	off := b.regions.Chunks.Offset + chunk*layout.WordSize
	w := binary.LittleEndian.Uint64(v(off, layout.WordSize))
	used = int64(w & 0xffff)
	if used > layout.ChunkUnits || w>>16&0xffff != 0 || used == 0 && w != 0 {
		return 0, 0, layout.Corrupt(b.name+" chunk count", off, "%#x", w)
	}
	return used, uint32(w >> 32), nil
}

// setLine writes a chunk's bits and word into the transaction.
func (b *Bitmap) setLine(tx *journal.Tx, chunk int64, used int64, l *line) {
	raw := tx.Edit(b.regions.Bits.Offset+chunk*lineBytes, lineBytes)
	for i, w := range l {
		binary.LittleEndian.PutUint64(raw[i*layout.WordSize:], w)
	}
	var w uint64
	if used != 0 {
		w = uint64(used) | uint64(layout.Checksum(raw))<<32
	}
	tx.WriteWord(b.regions.Chunks.Offset+chunk*layout.WordSize, w)
}

func groupCheck(used uint32, group int64) uint32 {
	var b [12]byte
	binary.LittleEndian.PutUint32(b[:], used)
	binary.LittleEndian.PutUint64(b[4:], uint64(group))
	return layout.ChecksumShort(b[:])
}

func (b *Bitmap) group(v view, group int64) (used int64, err error) {
	off := b.regions.Groups.Offset + group*layout.WordSize
	w := binary.LittleEndian.Uint64(v(off, layout.WordSize))
	if w == 0 {
		return 0, nil
	}
	used = int64(w & 0xffffffff)
	if used == 0 || used > layout.GroupUnits || uint32(w>>32) != groupCheck(uint32(used), group) {
		return 0, layout.Corrupt(b.name+" group count", off, "%#x", w)
	}
	return used, nil
}

func (b *Bitmap) addGroup(tx *journal.Tx, group, delta int64) error {
	used, err := b.group(tx.Read, group)
	if err != nil {
		return err
	}
	used += delta
	off := b.regions.Groups.Offset + group*layout.WordSize
	if used < 0 || used > layout.GroupUnits {
		return layout.Corrupt(b.name+" group count", off, "becomes %d", used)
	}
	var w uint64
	if used != 0 {
		w = uint64(used) | uint64(groupCheck(uint32(used), group))<<32
	}
	tx.WriteWord(off, w)
	return nil
}

// add sets the bits that are set in a line as it stands on the medium.
func (l *line) add(raw []byte) {
	for i := range l {
		l[i] |= binary.LittleEndian.Uint64(raw[i*layout.WordSize:])
	}
}

// line reads a chunk's bits and checks them against the chunk's word.
func (b *Bitmap) line(v view, chunk int64) (line, int64, error) {
	var l line
	used, sum, err := b.chunk(v, chunk)
	if err != nil {
		return l, 0, err
	}
	off := b.regions.Bits.Offset + chunk*lineBytes
	raw := v(off, lineBytes)
	l.add(raw)
	if used == 0 && l != (line{}) || used != 0 && layout.Checksum(raw) != sum {
		return l, 0, layout.Corrupt(b.name, off, "checksum does not match")
	}
	return l, used, nil
}

// mask is the bits [from, to) of word w of a line.
func mask(w, from, to int) uint64 {
	lo, hi := max(from-w*64, 0), min(to-w*64, 64)
	if lo >= hi {
		return 0
	}
	return ^uint64(0) >> (64 - (hi - lo)) << lo
}

// each calls fn for the part of the run in each chunk.
func (r Run) each(fn func(chunk int64, from, to int) error) error {
	for at := r.First; at < r.End(); {
		chunk := at / layout.ChunkUnits
		end := min(r.End(), (chunk+1)*layout.ChunkUnits)
		if err := fn(chunk, int(at-chunk*layout.ChunkUnits), int(end-chunk*layout.ChunkUnits)); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// Take writes into the transaction that reserved runs are used. The
// reservation ends with the transaction: taken if it commits, else free.
func (b *Bitmap) Take(tx *journal.Tx, runs ...Run) error {
	return b.changeAll(tx, runs, true, true)
}

// TakeOne writes into the transaction that a free unit is used, that at goal if it
// is free (see Reserve), and returns it. It is free again if that does not commit.
func (b *Bitmap) TakeOne(tx *journal.Tx, goal int64) (int64, error) {
	if b.free.Load() < 1 {
		return 0, unix.ENOSPC
	}
	r, err := b.find(tx, 1, goal)
	if err != nil {
		return 0, err
	}
	b.free.Add(-1)
	b.note(tx, change{r, true, false})
	return r.First, b.change(tx, r, true)
}

// Release writes into the transaction that runs are free. They can be had
// again once the transaction has ended or, with contents, is durable.
func (b *Bitmap) Release(tx *journal.Tx, runs ...Run) error {
	later := b.contents
	if err := b.changeAll(tx, runs, false, later); err != nil || !later || len(runs) == 0 {
		return err
	}
	freed := slices.Clone(runs)
	tx.OnDurable(func() { b.Cancel(freed...) })
	return nil
}

// changeAll makes changes in the transaction. All are noted before the first is made: whatever an error leaves undone is
// settled with the others.
func (b *Bitmap) changeAll(tx *journal.Tx, runs []Run, used, busy bool) error {
	for _, r := range runs {
		if r.First < 0 || r.Count <= 0 || r.End() > b.regions.Units {
			return layout.Corrupt(b.name, -1, "units %d to %d are out of range", r.First, r.End())
		}
	}
	for _, r := range runs {
		b.note(tx, change{r, used, busy})
	}
	for _, r := range runs {
		if err := b.change(tx, r, used); err != nil {
			return err
		}
	}
	return nil
}

// note has a change settled when the transaction ends.
func (b *Bitmap) note(tx *journal.Tx, c change) {
	if len(b.changes) == 0 {
		tx.OnDone(b.settle)
	}
	b.changes = append(b.changes, c)
	if c.busy && !c.used {
		b.markBusy(c.Run)
	}
}

// change makes a change, which was noted, in the transaction.
func (b *Bitmap) change(tx *journal.Tx, r Run, used bool) error {
	return r.each(func(chunk int64, from, to int) error { return b.changeChunk(tx, chunk, from, to, used) })
}

// settleChanges ends what the transaction has kept busy, but for what it has
// released: that waits until it is durable.
func (b *Bitmap) settleChanges(committed bool) {
	for _, c := range b.changes {
		if committed && c.busy && !c.used {
			continue
		}
		if c.busy {
			b.clearBusy(c.Run)
		}
		if committed != c.used { // released, or not taken after all
			b.free.Add(c.Count)
		}
	}
	b.changes = b.changes[:0]
}

// changeChunk sets or clears the bits [from, to) of a chunk, its word and its
// group's.
func (b *Bitmap) changeChunk(tx *journal.Tx, chunk int64, from, to int, used bool) error {
	l, n, err := b.line(tx.Read, chunk)
	if err != nil {
		return err
	}
	for w := from / 64; w*64 < to; w++ {
		m := mask(w, from, to)
		if used && l[w]&m != 0 || !used && l[w]&m != m {
			return layout.Corrupt(b.name, b.regions.Bits.Offset+chunk*lineBytes,
				"units %d to %d of chunk %d are not all %s", from, to, chunk, map[bool]string{true: "free", false: "used"}[used])
		}
		l[w] ^= m
	}
	delta := int64(to - from)
	if !used {
		delta = -delta
	}
	b.setLine(tx, chunk, n+delta, &l)
	return b.addGroup(tx, chunk*layout.ChunkUnits/layout.GroupUnits, delta)
}

// Used reports whether unit's bit is set.
func (b *Bitmap) Used(unit int64) (bool, error) {
	if unit < 0 || unit >= b.regions.Units {
		return false, unix.EINVAL
	}
	l, _, err := b.line(b.journal.View, unit/layout.ChunkUnits)
	if err != nil {
		return false, err
	}
	at := unit % layout.ChunkUnits
	return l[at/64]>>(at%64)&1 == 1, nil
}

// Each calls fn for every used unit, in order, and skips chunks and groups
// without any.
func (b *Bitmap) Each(fn func(unit int64) error) error {
	const perGroup = layout.GroupUnits / layout.ChunkUnits
	chunks := b.regions.Units / layout.ChunkUnits
	for g := int64(0); g*perGroup < chunks; g++ {
		used, err := b.group(b.journal.View, g)
		if err != nil {
			return err
		}
		for chunk := g * perGroup; used > 0 && chunk < min((g+1)*perGroup, chunks); chunk++ {
			if err := b.eachInChunk(chunk, fn); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *Bitmap) eachInChunk(chunk int64, fn func(unit int64) error) error {
	used, _, err := b.chunk(b.journal.View, chunk)
	if err != nil || used == 0 {
		return err
	}
	l, _, err := b.line(b.journal.View, chunk)
	if err != nil {
		return err
	}
	for w, word := range l {
		for ; word != 0; word &= word - 1 {
			if err := fn(chunk*layout.ChunkUnits + int64(w*64+bits.TrailingZeros64(word))); err != nil {
				return err
			}
		}
	}
	return nil
}
