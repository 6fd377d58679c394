package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// wordsPerPage is how many 8-byte words a page has: the unit of a change.
const wordsPerPage = layout.BlockSize / layout.WordSize

// wordSet is a bit for each word of a page.
type wordSet [wordsPerPage / 64]uint64

// page is a block of the meta area as a transaction wants it.
//
// Invariant: of the lines whose bit in loaded is set, words whose bit in dirty is
// clear are as in the View (or zero, when zeroed); a line that is not loaded has no
// dirty words, and its bytes mean nothing. Once staged it is the journal's: all of it
// is loaded, lsn and what is in bytes change with the builder's lock held, and dirty
// and zeroed mean nothing.
type page struct {
	number int64
	lsn    uint64 // behind the last record that it was staged with
	zeroed bool
	loaded uint64 // a bit for each of the block's 64 lines
	dirty  wordSet
	bytes  [layout.BlockSize]byte
}

const allLines = ^uint64(0)

// load makes the lines that [at, at+n) touches equal the View, but for those that
// are loaded already.
func (p *page) load(j *Journal, at, n int64) {
	first, end := at/layout.LineSize, (at+n+layout.LineSize-1)/layout.LineSize
	want := bitRange(first, end)
	if p.loaded&want == want {
		return
	}
	old := j.View(p.number*layout.BlockSize, layout.BlockSize)
	for missing := want &^ p.loaded; missing != 0; {
		from, to := firstRun(missing)
		copy(p.bytes[from*layout.LineSize:to*layout.LineSize], old[from*layout.LineSize:])
		missing &^= bitRange(from, to)
	}
	p.loaded |= want
}

// bitRange is the bits [from, to) of a word, at least one of 64.
func bitRange(from, to int64) uint64 { return allLines >> (64 - (to - from)) << from }

// firstRun is the lowest bits [from, to) of a word, which is not 0, that are set side
// by side.
func firstRun(w uint64) (from, to int64) {
	from = int64(bits.TrailingZeros64(w))
	return from, from + int64(bits.TrailingZeros64(^(w >> from)))
}

// Tx is a transaction being built: private until Commit, gone after Abort. The
// zero value is memory for one. All its methods are for one goroutine, which
// holds the builder's lock from Begin to Commit or Abort.
type Tx struct {
	j     *Journal
	pages map[int64]*page // the journal's: all of order, if they are more than fewPages
	order []*page         // in the order they were touched; the journal's memory, as done's
	done  []func(committed bool)
	last  []func() // when it is durable
	ended bool
}

// Begin starts a transaction in t, which is zero or has ended, and takes the
// builder's lock. When too much is staged it is committed first.
func (j *Journal) Begin(t *Tx) error {
	j.mu.Lock()
	for j.failed == nil && j.staged.work > j.maxStaged() {
		head := j.head
		j.mu.Unlock()
		if err := j.Commit(head); err != nil {
			return err
		}
		j.mu.Lock()
	}
	var err error
	switch {
	case j.failed != nil:
		err = fmt.Errorf("%w: %w", unix.EIO, j.failed)
	case j.readOnly:
		err = unix.EROFS
	}
	if err != nil {
		j.mu.Unlock()
		return err
	}
	if len(j.pages) > 0 {
		clear(j.pages)
	}
	*t = Tx{j: j, pages: j.pages, order: j.order[:0], done: j.done[:0], last: j.last[:0]}
	return nil
}

// Read returns n bytes at off as the transaction sees them. They do not cross
// a block boundary, must not be changed, and are valid until the next Write.
func (t *Tx) Read(off, n int64) []byte {
	if p := t.find(off / layout.BlockSize); p != nil {
		at := off % layout.BlockSize
		p.load(t.j, at, n)
		return p.bytes[at : at+n]
	}
	return t.j.View(off, n)
}

// fewPages is up to how many pages it is faster to look at each than into a map.
const fewPages = 16

// find returns the page of a number, nil when the transaction has not touched it.
func (t *Tx) find(number int64) *page {
	if len(t.order) > fewPages {
		return t.pages[number]
	}
	for _, p := range t.order {
		if p.number == number {
			return p
		}
	}
	return nil
}

func (t *Tx) page(number int64) *page {
	p := t.find(number)
	if p != nil {
		return p
	}
	if n := len(t.j.free); n > 0 {
		p, t.j.free = t.j.free[n-1], t.j.free[:n-1]
	} else {
		p = new(page)
	}
	p.number, p.lsn, p.zeroed, p.loaded, p.dirty = number, 0, false, 0, wordSet{}
	t.order = append(t.order, p)
	switch n := len(t.order); {
	case n == fewPages+1:
		for _, p := range t.order {
			t.pages[p.number] = p
		}
	case n > fewPages:
		t.pages[number] = p
	}
	return p
}

// Write changes the bytes at off to b. Neither crosses a block boundary; off
// and the length are multiples of 8.
func (t *Tx) Write(off int64, b []byte) { copy(t.Edit(off, int64(len(b))), b) }

// WriteWord changes the 8 bytes at off, a multiple of 8, to w.
func (t *Tx) WriteWord(off int64, w uint64) {
	binary.LittleEndian.PutUint64(t.Edit(off, layout.WordSize), w)
}

// Block returns the block at off, of which only what Edit has returned is there: to be
// changed in several parts at the same time, each of which was asked for by Edit.
func (t *Tx) Block(off int64) []byte { return t.page(off / layout.BlockSize).bytes[:] }

// Edit returns n bytes at off to be changed in place, with the rules of Write.
// They are valid until the transaction ends.
func (t *Tx) Edit(off, n int64) []byte {
	p := t.page(off / layout.BlockSize)
	at := off % layout.BlockSize
	if at%layout.WordSize != 0 || n%layout.WordSize != 0 || at+n > layout.BlockSize {
		panic(fmt.Sprintf("journal: change of %d bytes at %#x", n, off))
	}
	p.load(t.j, at, n)
	for w, end := at/layout.WordSize, (at+n)/layout.WordSize; w < end; w = (w/64 + 1) * 64 {
		p.dirty[w/64] |= bitRange(w%64, min(end-w/64*64, 64))
	}
	return p.bytes[at : at+n]
}

// Zero changes the block at off, a multiple of 4 KiB, to zeros.
func (t *Tx) Zero(off int64) {
	p := t.page(off / layout.BlockSize)
	p.zeroed, p.loaded = true, allLines
	p.dirty = wordSet{}
	clear(p.bytes[:])
}

// Forget drops the transaction's changes to the block at off, which became
// free: nobody reads it again before it is zeroed.
func (t *Tx) Forget(off int64) {
	if p := t.find(off / layout.BlockSize); p != nil {
		p.zeroed, p.dirty = false, wordSet{}
	}
}

// Pages is how many blocks of the meta area the transaction touches: what a
// long operation watches to end a step before the record gets too long.
func (t *Tx) Pages() int { return len(t.order) }

// OnDone calls fn when the transaction ended, with the builder's lock still
// held: the place for volatile state that must follow what is visible.
func (t *Tx) OnDone(fn func(committed bool)) { t.done = append(t.done, fn) }

// OnDurable calls fn as soon as the transaction is durable, with the builder's lock
// held, and never when it is aborted or the medium fails before: the place to give
// away what it has freed, and what it has made. Others see the transaction only
// when the lock is free.
func (t *Tx) OnDurable(fn func()) { t.last = append(t.last, fn) }

// Abort drops the transaction: nothing changed. After Commit it does nothing,
// so that it can be deferred.
func (t *Tx) Abort() { t.end(false) }

func (t *Tx) end(committed bool) {
	if t.ended {
		return
	}
	t.ended = true
	for _, fn := range t.done {
		fn(committed)
	}
	for _, p := range t.order {
		if p.lsn == 0 {
			t.j.free = append(t.j.free, p)
		}
	}
	if len(t.j.free) > 64 {
		t.j.free = t.j.free[:64]
	}
	if cap(t.order) <= 64 {
		t.j.order = t.order
	}
	clear(t.done)
	t.j.done = t.done
	clear(t.last)
	t.j.last = t.last
	t.j.mu.Unlock()
}

// errUnsettled is for who goes on although a function of OnDurable has panicked.
var errUnsettled = errors.New("a transaction that is durable is not visible")

// Commit makes the transaction durable and visible; when it fails nothing
// changed, unless others were being committed at the same time: then what it
// changed is visible, and the journal has stopped. It returns the LSN behind
// the record.
// Costs: the record's lines, streamed, and one fence.
func (t *Tx) Commit() (uint64, error) {
	defer t.end(false)
	j := t.j
	if j.head != j.durable.Load() { // after what is staged, or being committed
		lsn, err := t.Stage()
		if err != nil {
			return 0, err
		}
		return lsn, j.Commit(lsn)
	}
	t.encode()
	if j.record.Empty() {
		t.finish()
		return j.durable.Load(), nil
	}
	record := j.record.Finish(j.header.Epoch, j.head, j.durable.Load())
	if err := j.checkLength(record); err != nil {
		return 0, err
	}
	if err := j.makeRoom(recordWork(record, j.record.Zeros())); err != nil {
		return 0, fmt.Errorf("%w: %w", unix.EIO, err)
	}
	if err := j.write(j.head, record); err != nil {
		return 0, fmt.Errorf("%w: %w", unix.EIO, j.fail(err))
	}
	j.counts.transactions++
	settled := false
	defer func() {
		if !settled { // else the next record would take the place of this one
			j.fail(errUnsettled)
		}
	}()
	t.isDurable()
	settled = true
	if err := j.settle(record, recordWork(record, j.record.Zeros())); err != nil {
		return 0, err
	}
	j.head = j.durable.Load()
	lsn := j.head
	t.end(true)
	return lsn, nil
}

// finish ends a transaction that has nothing to become durable.
func (t *Tx) finish() {
	t.isDurable()
	t.end(true)
}

// isDurable calls what waits for that.
func (t *Tx) isDurable() {
	for _, fn := range t.last {
		fn()
	}
}

// encode turns the pages into the record's entries: the words that differ
// from what is in place.
func (t *Tx) encode() {
	t.j.record.Reset()
	for _, p := range t.order {
		base := p.number * layout.BlockSize
		old := t.j.View(base, layout.BlockSize)
		if p.zeroed {
			t.j.record.Zero(base)
			old = zeroBlock[:]
		}
		for i, dirty := range p.dirty {
			if dirty == 0 || dirty == allWords && p.same(old, i) {
				continue
			}
			for rest := p.changed(old, i, dirty); rest != 0; {
				from, to := firstRun(rest)
				rest &^= bitRange(from, to)
				at, end := int64(i)*groupBytes+from*layout.WordSize, int64(i)*groupBytes+to*layout.WordSize
				t.j.record.Write(base+at, p.bytes[at:end])
			}
		}
	}
}

const (
	allWords   = ^uint64(0)
	groupBytes = 64 * layout.WordSize // for which dirty has a word
)

// changed is those of a group's dirty words that are not as in old.
func (p *page) changed(old []byte, group int, dirty uint64) (set uint64) {
	now, old := p.bytes[group*groupBytes:][:groupBytes], old[group*groupBytes:][:groupBytes]
	for ; dirty != 0; dirty &= dirty - 1 {
		bit := bits.TrailingZeros64(dirty)
		at := bit * layout.WordSize
		if binary.LittleEndian.Uint64(now[at:]) != binary.LittleEndian.Uint64(old[at:]) {
			set |= 1 << bit
		}
	}
	return set
}

// same reports whether a group is as in old: a look at many words at once, for pages
// that were edited as a whole.
func (p *page) same(old []byte, group int) bool {
	from, to := group*groupBytes, (group+1)*groupBytes
	return string(p.bytes[from:to]) == string(old[from:to])
}
