// Package progress is a page of words that the owner of a pool shares, read-only, with its clients: how far the log is
// durable, and which files have changes that are not. A client that has flushed its stores finds out by a few loads that
// nothing else is to be waited for, and does not ask.
package progress

import "sync/atomic"

// slots is how many groups of files are told apart. Files share a slot by their inode numbers, so that a file needs no state
// of its own here; one with changes makes others of its slot look so, too, which costs them a request.
const slots = 4096

// Page tells what is pending.
//
// Invariants: a slot's staged is at least the LSN behind each record that concerns one of its files and can be seen, and
// times counts its files whose times are only in memory. Words only grow, but for times. durable never exceeds what is
// on the medium.
type Page struct{ words *words }

// words is what is shared. durable has a line of its own: it is stored by each commit.
type words struct {
	durable atomic.Uint64
	_       [56]byte
	slots   [slots]slot
}

type slot struct {
	staged atomic.Uint64
	times  atomic.Int64
}

// New returns a page that nobody shares.
func New() *Page { return &Page{words: new(words)} }

// Durable is the word that holds the LSN up to which the log is durable.
func (p *Page) Durable() *atomic.Uint64 { return &p.words.durable }

func (p *Page) slot(ino uint64) *slot { return &p.words.slots[ino%slots] }

// Staged says that a record that concerns a file can be seen, and is durable when the log is durable up to lsn.
func (p *Page) Staged(ino, lsn uint64) {
	w := &p.slot(ino).staged
	for old := w.Load(); old < lsn; old = w.Load() {
		if w.CompareAndSwap(old, lsn) {
			return
		}
	}
}

// TimesChanged says that the times of one more file (1), or of one less (-1), are only in memory.
func (p *Page) TimesChanged(ino uint64, by int64) { p.slot(ino).times.Add(by) }

// Pending says whether anything that was done to a file before the call may not be durable. It costs three loads.
func (p *Page) Pending(ino uint64) bool {
	s := p.slot(ino)
	// First what is wanted, then what there is: both only grow.
	return s.times.Load() > 0 || s.staged.Load() > p.words.durable.Load()
}
