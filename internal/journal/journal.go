// Package journal is the one mechanism of crash consistency: metadata changes
// only through its transactions.
//
// A transaction collects changes to the meta area in memory. Commit then
//
//  1. appends one checksummed redo record to the log (streaming stores) and
//     fences: from here on the transaction is durable;
//  2. applies the changes in place with cached stores, neither flushed nor
//     fenced.
//
// Stage, instead, makes a transaction visible at once and durable later: its
// changed pages are kept in memory, over those of the medium, and its record
// waits. Journal.Commit takes both steps for all that is staged, so that those
// who need durability at the same time share the fences (group commit).
//
// The places are flushed only when the log is trimmed: the ranges of the
// oldest records are flushed, fenced, and then the log header is moved past
// them. Mount replays what the header says is left; replaying twice does no
// harm, because a record holds the new bytes themselves.
//
// Costs: a commit pays the lines of its record (streamed) and one fence; a
// group of them pays the lines of all records, and one fence.
// Trimming pays its flushes and three fences once for 3/8 of the log.
//
// Why redo and not undo or copy-on-write: an undo log fences before every
// change in place, copy-on-write rewrites the path to the root; a redo record
// orders everything by one fence.
package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// Journal is the log of a mounted pool.
//
// Invariants: tail ≤ durable ≤ head and durable-tail ≤ the log's length; every
// record in [tail, durable) is intact on the medium and applied in place; what
// lies before tail is durable in place. The records in [durable, head) are
// staged: what they change is in over, and nowhere on the medium.
//
// Lock order: committing, then mu, the builder's lock, which is taken after
// every inode lock. One transaction is built at a time.
type Journal struct {
	area    medium.Area
	sb      *layout.Superblock
	barrier func() error // immutable; see Options

	committing sync.Mutex // one group at a time; it changes durable, and what is in the log

	mu      sync.Mutex
	header  layout.LogHeader // protected by mu
	relied  int              // protected by mu: the copy of the header that is surely whole
	head    uint64           // protected by mu: LSN of the next record
	durable atomic.Uint64    // LSN up to which the log is on the medium; changed with mu held
	told    *atomic.Uint64   // Options.Durable: follows durable, and is never read; immutable, nil: nobody wants to know
	failed  error            // protected by mu: sticky, set when the medium failed
	work    int64            // protected by mu: what replaying [tail, durable) takes, see recordWork
	record  layout.RecordWriter
	free    []*page         // protected by mu: pages for transactions
	pages   map[int64]*page // protected by mu: memory for Tx.pages
	order   []*page         // protected by mu: memory for its lists, too
	done    []func(bool)    // protected by mu
	last    []func()        // protected by mu
	copied  []byte          // protected by mu: a record read back from the log
	staged  group           // protected by mu: what is not taken by a group commit yet
	counts  counts          // protected by mu
	over    overlay         // changed with mu held

	// replayed holds the pages that a read-only mount changed by replaying:
	// nothing is stored to the medium then. Immutable after Open.
	replayed map[int64]*[layout.BlockSize]byte
	readOnly bool
}

// Format makes an empty log.
func Format(area medium.Area, sb *layout.Superblock, o Options) error {
	j := &Journal{area: area, sb: sb}
	return j.writeHeader(layout.LogHeader{Sequence: 1, Epoch: o.newEpoch(), Clean: true})
}

// Options for Format and Open.
type Options struct {
	ReadOnly bool
	Random   io.Reader // of epochs; nil: crypto/rand
	// Durable is told the LSN up to which the log is on the medium. Others may
	// have it in their memory: it is not read. nil: nobody wants to know.
	Durable *atomic.Uint64
	// Barrier is called before staged records are written to the log: when it
	// returns, everything that they make reachable is durable. nil: it was
	// before they were staged.
	Barrier func() error
}

func (o Options) newEpoch() uint64 {
	if o.Random == nil {
		o.Random = rand.Reader
	}
	var b [8]byte
	io.ReadFull(o.Random, b[:]) // crypto/rand never fails
	return binary.LittleEndian.Uint64(b[:])
}

// Open replays the log. A writable journal's changes are then in place and
// durable and the log is empty; a read-only one keeps them in memory and
// stores nothing.
func Open(area medium.Area, sb *layout.Superblock, o Options) (*Journal, error) {
	readOnly := o.ReadOnly
	copies, bad := medium.Readable(area, sb.LogHeaders.Offset, sb.LogHeaders.Length)
	header, relied, err := layout.ReadLogHeader(copies, sb.LogHeaders)
	if err != nil {
		return nil, errors.Join(err, bad)
	}
	j := &Journal{area: area, sb: sb, header: header, relied: relied, head: header.Tail, readOnly: readOnly, barrier: o.Barrier, pages: map[int64]*page{}}
	j.over = newOverlay(sb.MetaSize)
	j.told = o.Durable
	if readOnly {
		j.replayed = map[int64]*[layout.BlockSize]byte{}
	}
	if !header.Clean {
		if err := Guard(sb, j.replay); err != nil {
			return nil, err
		}
	}
	j.setDurable(j.head)
	if readOnly {
		return j, nil
	}
	if err := j.area.Fence(); err != nil {
		return nil, err
	}
	next := layout.LogHeader{Sequence: header.Sequence + 1, Epoch: o.newEpoch(), Tail: j.head}
	return j, j.writeHeader(next)
}

// replay applies the records from the tail on, as far as they are intact, and
// flushes the places.
func (j *Journal) replay() error {
	for {
		record, err := j.readRecord(j.head)
		if err != nil || record == nil {
			return err
		}
		err = layout.Changes(record, j.sb.MetaSize, func(c layout.Change) {
			j.apply(c)
			if !j.readOnly {
				j.area.Flush(c.Offset, c.Length())
			}
		})
		if err != nil {
			return err
		}
		j.head += uint64(len(record))
	}
}

// recordWork is what replaying a record takes: the bytes that are read from
// the log, and the blocks that are zeroed, which are eight bytes each there.
// Trimming keeps the sum below the log's length, so that the time of a mount
// is bounded by that, whatever the records hold.
func recordWork(record []byte, zeros int64) int64 { return int64(len(record)) + zeros*layout.BlockSize }

// maxRecord bounds a record, so that trimming always makes room.
func (j *Journal) maxRecord() int64 { return j.sb.Log.Length / 4 }

// readRecord returns the record at lsn, valid until the next call; nil at the end
// of the log.
func (j *Journal) readRecord(lsn uint64) ([]byte, error) {
	record := j.intactAt(lsn)
	if record != nil {
		return record, nil
	}
	// Torn, or never written: unless a later record says it was durable.
	for next := lsn + layout.LineSize; next < lsn+uint64(j.maxRecord()); next += layout.LineSize {
		if later := j.intactAt(next); later != nil && layout.RecordDurable(later) > lsn {
			return nil, layout.Corrupt("journal record", j.place(lsn),
				"the record of LSN %#x is damaged: LSN %#x follows it", lsn, next)
		}
	}
	return nil, nil
}

// buffer is n bytes, the same ones each time.
func (j *Journal) buffer(n int) []byte {
	if n > len(j.copied) {
		j.copied = make([]byte, max(n, 1<<16))
	}
	return j.copied[:n]
}

func (j *Journal) intactAt(lsn uint64) []byte {
	at := j.place(lsn)
	head := j.area.Bytes()[at : at+layout.LineSize]
	n := layout.RecordLength(head, j.header.Epoch, lsn, j.maxRecord())
	if n == 0 {
		return nil
	}
	var record []byte
	if first := j.sb.Log.End() - at; n <= first {
		record = j.area.Bytes()[at : at+n]
	} else {
		record = j.buffer(int(n))
		copy(record, j.area.Bytes()[at:at+first])
		copy(record[first:], j.area.Bytes()[j.sb.Log.Offset:])
	}
	if !layout.RecordIntact(record) {
		return nil
	}
	return record
}

// place is where an LSN stands in the meta area.
func (j *Journal) place(lsn uint64) int64 {
	return j.sb.Log.Offset + int64(lsn%uint64(j.sb.Log.Length))
}

// apply makes a change in place with cached stores; in memory when read-only.
func (j *Journal) apply(c layout.Change) {
	switch {
	case j.readOnly:
		for done := int64(0); done < c.Length(); {
			p := j.replayedPage((c.Offset + done) / layout.BlockSize)
			at := (c.Offset + done) % layout.BlockSize
			n := min(c.Length()-done, layout.BlockSize-at)
			if c.Bytes == nil {
				clear(p[at : at+n])
			} else {
				copy(p[at:], c.Bytes[done:done+n])
			}
			done += n
		}
	case c.Bytes == nil:
		j.area.Write(c.Offset, zeroBlock[:])
	default:
		j.area.Write(c.Offset, c.Bytes)
	}
}

var zeroBlock [layout.BlockSize]byte

func (j *Journal) replayedPage(number int64) *[layout.BlockSize]byte {
	p := j.replayed[number]
	if p == nil {
		p = new([layout.BlockSize]byte)
		copy(p[:], j.area.Bytes()[number*layout.BlockSize:])
		j.replayed[number] = p
	}
	return p
}

// View returns n bytes of the meta area at off as the last applied
// transaction left them. They do not cross a block boundary and must not be
// changed; they stay valid while the caller holds the lock of the object they
// belong to.
func (j *Journal) View(off, n int64) []byte {
	at := off % layout.BlockSize
	if j.readOnly {
		if p := j.replayed[off/layout.BlockSize]; p != nil {
			return p[at : at+n]
		}
	}
	if p := j.over.find(off / layout.BlockSize); p != nil {
		return p.bytes[at : at+n]
	}
	return j.area.Bytes()[off : off+n]
}

// Locked calls fn with the builder's lock held: for reservations of the
// allocators, which that lock protects, outside a transaction.
func (j *Journal) Locked(fn func() error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return fn()
}

// HeadLSN is the LSN behind everything that is visible.
func (j *Journal) HeadLSN() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.head
}

// DurableLSN is the LSN up to which the log is on the medium.
func (j *Journal) DurableLSN() uint64 { return j.durable.Load() }

// Close commits what is staged, flushes what is in the log to its places and
// marks the log clean.
func (j *Journal) Close() error {
	j.committing.Lock()
	defer j.committing.Unlock()
	if err := j.commitGroup(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.readOnly || j.failed != nil {
		return j.failed
	}
	if err := j.trim(0, true); err != nil {
		return err
	}
	j.failed = fmt.Errorf("the pool is closed")
	return nil
}

func (j *Journal) setDurable(lsn uint64) {
	j.durable.Store(lsn)
	if j.told != nil {
		j.told.Store(lsn)
	}
}

// trim makes the places of the oldest records durable and gives their log
// space free, until what is left takes at most keep to replay.
// Fences: one for the places, two for the header's copies.
func (j *Journal) trim(keep int64, clean bool) error {
	tail := j.header.Tail
	err := Guard(j.sb, func() error {
		for tail < j.durable.Load() && j.work > keep {
			record := j.intactAt(tail)
			if record == nil {
				return layout.Corrupt("journal record", j.place(tail), "LSN %#x changed while in use", tail)
			}
			zeros, err := j.flushPlaces(record)
			if err != nil {
				return err
			}
			tail += uint64(len(record))
			j.work -= recordWork(record, zeros)
		}
		return j.area.Fence()
	})
	if err != nil {
		return j.fail(err)
	}
	next := j.header
	next.Sequence++
	next.Tail, next.Clean = tail, clean
	j.counts.trims++
	return j.writeHeader(next)
}

// flushPlaces flushes the places of a record, and returns how many blocks it zeroes.
func (j *Journal) flushPlaces(record []byte) (zeros int64, err error) {
	err = layout.Changes(record, j.sb.MetaSize, func(c layout.Change) {
		j.area.Flush(c.Offset, c.Length())
		if c.Bytes == nil {
			zeros++
		}
	})
	return zeros, err
}

// writeHeader writes both copies, fenced one after the other; the one that
// is relied on stays until the other one is durable.
func (j *Journal) writeHeader(h layout.LogHeader) error {
	places := layout.LogHeaderPlaces(j.sb.LogHeaders)
	for _, at := range [2]int64{places[1-j.relied], places[j.relied]} {
		write := func() error {
			j.area.Stream(at, h.Encode())
			return j.area.Fence()
		}
		err := Guard(j.sb, write)
		if bad := j.area.FirstBad(at, layout.BlockSize); bad >= 0 { // it holds nothing else, and the other copy is there
			if err = j.area.Heal(bad, layout.BlockSize); err == nil {
				err = Guard(j.sb, write)
			}
		}
		if err != nil {
			return j.fail(err)
		}
	}
	j.header = h
	return nil
}

// fail makes err sticky: after a failed fence nobody knows what the medium
// holds, so nothing more is stored.
func (j *Journal) fail(err error) error {
	if j.failed == nil {
		j.failed = fmt.Errorf("journal stopped: %w", err)
	}
	return j.failed
}
