package alloc

import (
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/journal"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// Reserve finds count free units, marks them busy and appends them to runs,
// contiguous first:
//
//   - whole 2 MiB chunks, aligned, for every 512 units asked for, as long as
//     there are any, next to each other where possible;
//   - from goal on (-1: anywhere) when that unit is free;
//   - the first run that is long enough;
//   - the longest runs there are.
//
// The caller must Take or Cancel the runs. It does not see what a transaction that is
// being built has taken by TakeOne. ENOSPC when there are not enough
// free units; runs is as it was, and nothing is reserved then.
func (b *Bitmap) Reserve(runs []Run, count, goal int64) ([]Run, error) {
	before := len(runs)
	if count > b.free.Load() {
		return runs, unix.ENOSPC
	}
	for left := count; left > 0; {
		r, err := b.find(nil, left, goal)
		if err != nil {
			b.Cancel(runs[before:]...)
			return runs[:before], err
		}
		b.markBusy(r)
		b.free.Add(-r.Count)
		if n := len(runs); n > before && runs[n-1].End() == r.First {
			runs[n-1].Count += r.Count
		} else {
			runs = append(runs, r)
		}
		left -= r.Count
		goal = r.End()
	}
	return runs, nil
}

// Cancel gives reserved runs back.
func (b *Bitmap) Cancel(runs ...Run) {
	for _, r := range runs {
		b.clearBusy(r)
		b.free.Add(r.Count)
	}
}

// find finds the first run of what Reserve is asked for. tx is the transaction that
// is being built, nil: none is. ENOSPC.
func (b *Bitmap) find(tx *journal.Tx, count, goal int64) (Run, error) {
	if count >= layout.ChunkUnits {
		r, err := b.findChunks(tx, count/layout.ChunkUnits, goal)
		if err != nil || r.Count > 0 {
			return r, err
		}
	}
	count = min(count, layout.ChunkUnits)
	if goal >= 0 && goal < b.regions.Units {
		l, err := b.taken(tx, goal/layout.ChunkUnits)
		if err != nil {
			return Run{}, err
		}
		at := int(goal % layout.ChunkUnits)
		if n := l.freeFrom(at); n > 0 {
			return Run{goal, min(int64(n), count)}, nil
		}
	}
	r, err := b.findRun(tx, int(count))
	if err == nil && r.Count == 0 {
		err = unix.ENOSPC
	}
	return r, err
}

// findChunks finds up to want consecutive chunks that are wholly free: those
// at goal, else the first.
func (b *Bitmap) findChunks(tx *journal.Tx, want, goal int64) (Run, error) {
	chunks := b.regions.Units / layout.ChunkUnits
	start := b.chunkCursor
	if goal >= 0 && goal < b.regions.Units {
		start = layout.RoundUp(goal, layout.ChunkUnits) / layout.ChunkUnits
	}
	for n := int64(0); n < chunks; {
		chunk := (start + n) % chunks
		skip, err := b.skip(chunk, 0)
		if err != nil {
			return Run{}, err
		}
		if skip > 0 {
			n += skip
			continue
		}
		var free int64
		for free < want && chunk+free < chunks {
			l, err := b.taken(tx, chunk+free)
			if err != nil {
				return Run{}, err
			}
			if l != (line{}) {
				break
			}
			free++
		}
		if free > 0 {
			b.chunkCursor = chunk + free
			return Run{chunk * layout.ChunkUnits, free * layout.ChunkUnits}, nil
		}
		n++
	}
	return Run{}, nil
}

// skip is how many chunks from chunk on need not be looked at because they
// have more than most units used, by the counts: 0 means look at it.
func (b *Bitmap) skip(chunk, most int64) (int64, error) {
	const perGroup = layout.GroupUnits / layout.ChunkUnits
	if chunk%perGroup == 0 {
		used, err := b.group(b.journal.View, chunk/perGroup)
		if err != nil {
			return 0, err
		}
		if used == layout.GroupUnits {
			return perGroup, nil
		}
	}
	used, _, err := b.chunk(b.journal.View, chunk)
	if err != nil || used > most {
		return 1, err
	}
	return 0, nil
}

// findRun finds a run of want units inside a chunk, or the longest of those
// it sees in searchSpan chunks that have free units.
func (b *Bitmap) findRun(tx *journal.Tx, want int) (Run, error) {
	chunks := b.regions.Units / layout.ChunkUnits
	var best Run
	seen := 0
	for n := int64(0); n < chunks && (seen < searchSpan || best.Count == 0); {
		chunk := (b.runCursor + n) % chunks
		skip, err := b.skip(chunk, layout.ChunkUnits-1)
		if err != nil {
			return Run{}, err
		}
		if skip > 0 {
			n += skip
			continue
		}
		l, err := b.taken(tx, chunk)
		if err != nil {
			return Run{}, err
		}
		at, length := l.longest(want)
		if int64(length) > best.Count {
			best = Run{chunk*layout.ChunkUnits + int64(at), int64(length)}
		}
		if length >= want {
			b.runCursor = chunk
			break
		}
		seen++
		n++
	}
	best.Count = min(best.Count, int64(want))
	return best, nil
}

// taken is a chunk's bits that are not free.
func (b *Bitmap) taken(tx *journal.Tx, chunk int64) (line, error) {
	l, _, err := b.line(b.journal.View, chunk)
	if err != nil {
		return l, err
	}
	if tx != nil {
		l.add(tx.Read(b.regions.Bits.Offset+chunk*lineBytes, lineBytes))
	}
	if busy, ok := b.busy[chunk]; ok {
		for w := range l {
			l[w] |= busy[w]
		}
	}
	return l, nil
}

// freeFrom is the length of the free run that begins at bit at.
func (l *line) freeFrom(at int) int {
	n := 0
	for at+n < layout.ChunkUnits {
		word := l[(at+n)/64] >> ((at + n) % 64)
		room := 64 - (at+n)%64
		free := min(bits.TrailingZeros64(word), room)
		n += free
		if free < room {
			break
		}
	}
	return n
}

// longest is the first free run of at least want bits, or the longest.
func (l *line) longest(want int) (at, length int) {
	for i := 0; i < layout.ChunkUnits; {
		if used := bits.TrailingZeros64(^(l[i/64] >> (i % 64))); used > 0 {
			i += min(used, 64-i%64)
			continue
		}
		n := l.freeFrom(i)
		if n > length {
			at, length = i, n
		}
		if length >= want {
			break
		}
		i += n
	}
	return at, length
}

func (b *Bitmap) markBusy(r Run) {
	r.each(func(chunk int64, from, to int) error {
		l := b.busy[chunk]
		for w := from / 64; w*64 < to; w++ {
			l[w] |= mask(w, from, to)
		}
		b.busy[chunk] = l
		return nil
	})
}

func (b *Bitmap) clearBusy(r Run) {
	r.each(func(chunk int64, from, to int) error {
		l := b.busy[chunk]
		for w := from / 64; w*64 < to; w++ {
			l[w] &^= mask(w, from, to)
		}
		if l == (line{}) {
			delete(b.busy, chunk)
		} else {
			b.busy[chunk] = l
		}
		return nil
	})
}
