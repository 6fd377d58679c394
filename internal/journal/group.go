package journal

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// group is what is committed together: finished records, one behind the other,
// and what follows them.
type group struct {
	from    uint64 // LSN where it begins
	records []byte
	work    int64   // see recordWork
	pages   []*page // that the records changed, each once
	last    []func()
}

// maxStaged bounds the work of the records that wait, so that the log has room for them
// and the one that comes on top: with it a group takes at most 3/8 of the log,
// which is what trimming leaves free at least.
func (j *Journal) maxStaged() int64 { return min(j.sb.Log.Length/8, 1<<20) }

// Stage makes the transaction visible. It is durable when Journal.Commit of
// the LSN that it returns has succeeded, and after a crash all of it has
// happened or nothing, in the order of LSNs. When it fails nothing changed.
// Costs: nothing on the medium.
func (t *Tx) Stage() (uint64, error) {
	defer t.end(false)
	j := t.j
	t.encode()
	g := &j.staged
	if !j.record.Empty() {
		record := j.record.Finish(j.header.Epoch, j.head, j.durable.Load())
		if err := j.checkLength(record); err != nil {
			return 0, err
		}
		j.head += uint64(len(record))
		j.counts.transactions++
		g.records = append(g.records, record...)
		g.work += recordWork(record, j.record.Zeros())
		for _, p := range t.order {
			if p.zeroed || p.dirty != (wordSet{}) {
				j.stagePage(p)
			}
		}
	}
	lsn := j.head
	if lsn == j.durable.Load() {
		t.finish()
		return lsn, nil
	}
	g.last = append(g.last, t.last...)
	t.end(true)
	return lsn, nil
}

// stagePage places a page of a transaction over the medium's, or into one that
// is there already. Those who read other objects of that one meanwhile read
// other words of it.
func (j *Journal) stagePage(p *page) {
	staged := j.over.find(p.number)
	if staged == nil {
		staged = p
		p.load(j, 0, layout.BlockSize)
		j.over.put(p)
	} else {
		staged.take(p)
	}
	if staged.lsn <= j.staged.from {
		j.staged.pages = append(j.staged.pages, staged)
	}
	staged.lsn = j.head
}

// take changes what another page of the same number changes.
func (p *page) take(q *page) {
	if q.zeroed {
		clear(p.bytes[:])
	}
	for i, rest := range q.dirty {
		for ; rest != 0; rest &= rest - 1 {
			at := (i*64 + bits.TrailingZeros64(rest)) * layout.WordSize
			copy(p.bytes[at:at+layout.WordSize], q.bytes[at:])
		}
	}
}

// Commit makes everything that was staged up to an LSN durable, and perhaps
// more. Those who call it at the same time share the fences.
// Costs: nothing when it is durable; else the lines of the staged records,
// streamed, one fence, and the Barrier's.
func (j *Journal) Commit(lsn uint64) error {
	if j.durable.Load() >= lsn {
		return nil
	}
	j.committing.Lock()
	defer j.committing.Unlock()
	if j.durable.Load() >= lsn {
		return nil // somebody else's group had it
	}
	return j.commitGroup()
}

// commitGroup commits all that is staged. committing is held; the builder's
// lock is free while the medium works, so that the next group forms meanwhile.
func (j *Journal) commitGroup() error {
	j.mu.Lock()
	g, from := j.staged, j.durable.Load()
	j.staged = group{from: j.head}
	err := j.failed
	if err == nil && len(g.records) > 0 {
		err = j.makeRoom(g.work)
	}
	j.mu.Unlock()
	if err == nil && len(g.records) > 0 && j.barrier != nil {
		err = j.barrier()
	}
	if err == nil && len(g.records) > 0 {
		err = j.write(from, g.records)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err == nil && len(g.records) > 0 {
		err = j.settle(g.records, g.work)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", unix.EIO, j.fail(err))
	}
	j.over.drop(g.pages, j.durable.Load())
	for _, fn := range g.last {
		fn()
	}
	return nil
}

// checkLength refuses a record that is too long: EFBIG.
func (j *Journal) checkLength(record []byte) error {
	if n := int64(len(record)); n > j.maxRecord() {
		return fmt.Errorf("a transaction of %d bytes is over the limit of a quarter of the log, %d: %w", n, j.maxRecord(), unix.EFBIG)
	}
	return nil
}

// makeRoom trims the log if what comes, with so much work, would make it too
// full.
func (j *Journal) makeRoom(work int64) error {
	if limit := j.sb.Log.Length * 3 / 4; j.work > 0 && j.work+work > limit {
		return j.trim(limit/2, false)
	}
	return nil
}

// write streams records into the log and fences.
func (j *Journal) write(lsn uint64, records []byte) error {
	at := j.place(lsn)
	first := min(int64(len(records)), j.sb.Log.End()-at)
	return Guard(j.sb, func() error {
		j.area.Stream(at, records[:first])
		if first < int64(len(records)) {
			j.area.Stream(j.sb.Log.Offset, records[first:])
		}
		return j.area.Fence()
	})
}

// settle applies records that are in the log, which makes them durable.
func (j *Journal) settle(records []byte, work int64) error {
	j.setDurable(j.durable.Load() + uint64(len(records)))
	j.work += work
	j.counts.commits++
	err := Guard(j.sb, func() error {
		for len(records) > 0 {
			record := records[:layout.RecordSize(records)]
			if err := layout.Changes(record, j.sb.MetaSize, j.apply); err != nil {
				return err // the transaction wrote where it must not
			}
			records = records[len(record):]
			j.counts.committed++
		}
		return nil
	})
	if err != nil {
		return j.fail(err)
	}
	return nil
}

// overlay is the pages of the meta area as staged transactions want them, over
// those of the medium.
//
// Invariant: a page is in it from when it was staged until the last record that
// changes it is applied in place. Whoever reads an object sees one or the other;
// both hold the same bytes of that object, whose lock he has.
type overlay struct {
	count  atomic.Int64 // pages that are there: with none nobody looks further
	chunks []atomic.Pointer[overlayChunk]
}

// overlayChunk is 2 MiB of the meta area.
type overlayChunk [layout.Fanout]atomic.Pointer[page]

func newOverlay(size int64) overlay {
	n := layout.RoundUp(size, layout.BlockSize*layout.Fanout) / (layout.BlockSize * layout.Fanout)
	return overlay{chunks: make([]atomic.Pointer[overlayChunk], n)}
}

func (o *overlay) find(number int64) *page {
	if o.count.Load() == 0 {
		return nil
	}
	c := o.chunks[number/layout.Fanout].Load()
	if c == nil {
		return nil
	}
	return c[number%layout.Fanout].Load()
}

// put adds a page.
func (o *overlay) put(p *page) {
	at := &o.chunks[p.number/layout.Fanout]
	c := at.Load()
	if c == nil {
		c = new(overlayChunk)
		at.Store(c)
	}
	o.count.Add(1)
	c[p.number%layout.Fanout].Store(p)
}

// drop takes pages away that are in place, but for those that were staged again
// since.
func (o *overlay) drop(pages []*page, durable uint64) {
	for _, p := range pages {
		if p.lsn <= durable {
			o.chunks[p.number/layout.Fanout].Load()[p.number%layout.Fanout].Store(nil)
			o.count.Add(-1)
		}
	}
}
