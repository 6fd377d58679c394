package core

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/journal"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// MediaError says that the medium has lost a block of a file. It matches EIO.
type MediaError struct {
	Ino    layout.Ino
	Offset int64 // byte of the file where the block begins
	Err    error // what the medium says
}

func (e *MediaError) Error() string {
	return fmt.Sprintf("the block at offset %d of %v is lost (%v): write all of its %d bytes to heal it",
		e.Offset, e.Ino, e.Err, layout.BlockSize)
}

func (e *MediaError) Unwrap() error { return e.Err }

// Guard calls f, an operation or a part of one, and turns an access to a bad block of the meta area into an error that
// names the structure, as every other damage has. Bad blocks of files are errors of their operations anyway. What begins
// outside, with a request or in a goroutine of its own, must be in a Guard.
func (fs *FS) Guard(f func() error) error { return journal.Guard(fs.sb, f) }

// access calls f, which accesses the blocks of pieces of the file. A *MediaError says which is bad.
func (in *inode) access(f func(), pieces ...piece) error {
	err := medium.Guard(func() error {
		f()
		return nil
	})
	if err == nil {
		return nil
	}
	bad := badBlock(err)
	if bad == nil {
		return err
	}
	for _, q := range pieces {
		if at, ok := q.holds(bad); ok {
			return &MediaError{Ino: in.ino, Offset: at * layout.BlockSize, Err: err}
		}
	}
	return err
}

// badBlock returns the error if a block of the data area is bad, else nil.
func badBlock(err error) *medium.BadBlockError {
	var bad *medium.BadBlockError
	if !errors.As(err, &bad) || bad.Meta() || errors.Is(err, unix.ENOSPC) {
		return nil
	}
	return bad
}

// holds returns the block of the file that is bad, if the piece has it.
func (p piece) holds(bad *medium.BadBlockError) (at int64, ok bool) {
	block := bad.Offset / layout.BlockSize
	if p.zeros() || block < p.block || block >= p.block+p.count {
		return 0, false
	}
	return p.first + block - p.block, true
}

// overwrite calls f, which stores p, a write at byte off of the file, to the blocks of a piece in place, and may be called
// again. A bad block that the write covers, as far as the file goes, is healed by that.
func (in *inode) overwrite(q piece, p []byte, off int64, f func()) error {
	end := off + int64(len(p))
	return in.healing(f, func(err *MediaError, bad *medium.BadBlockError) error {
		if err.Offset < off || end < in.Size && end < err.Offset+layout.BlockSize {
			return err
		}
		// Who has it mapped must map it anew: the kernel has spoilt the page for good.
		lost := alloc.Run{First: err.Offset / layout.BlockSize, Count: 1}
		if err := in.fs.breaker.Break(in.ino, TakeAll, lost); err != nil {
			return err
		}
		return in.heal(err, bad)
	}, q)
}

// fillMove calls f, which stores to all of the blocks that a move goes to, of which nobody knows, and may be called again. Bad
// ones are healed by that.
func (in *inode) fillMove(m move, f func()) error {
	target := m.from
	target.block, target.flags = m.to.First, 0
	return in.healing(f, in.heal, target, m.from)
}

// heal heals a block that is going to be overwritten.
func (in *inode) heal(err *MediaError, bad *medium.BadBlockError) error {
	if failed := in.fs.data.Heal(bad.Offset, layout.BlockSize); failed != nil {
		err.Err = failed
		return err
	}
	return nil
}

// healing calls f, which stores to the first of pieces of the file and loads from the others, until it has met no bad block of
// that, or heal returns an error about one.
func (in *inode) healing(f func(), heal func(*MediaError, *medium.BadBlockError) error, pieces ...piece) error {
	for healed := int64(-1); ; {
		err := in.access(f, pieces...)
		if err == nil {
			return nil
		}
		var lost *MediaError
		if !errors.As(err, &lost) {
			return err
		}
		bad := badBlock(lost)
		if _, ok := pieces[0].holds(bad); !ok || bad.Offset == healed {
			return err
		}
		if err := heal(lost, bad); err != nil {
			return err
		}
		healed = bad.Offset
	}
}

// flushRun flushes blocks. What is bad has nothing to be written back.
func (fs *FS) flushRun(r alloc.Run) error {
	off, end := r.First*layout.BlockSize, r.End()*layout.BlockSize
	flush := func(limit int64) error {
		return medium.Guard(func() error {
			fs.data.Flush(off, limit-off)
			return nil
		})
	}
	for off < end {
		err := flush(end)
		bad := badBlock(err)
		if bad == nil {
			return err
		}
		if err := flush(bad.Offset); err != nil {
			return err
		}
		off = bad.Offset + layout.BlockSize
	}
	return nil
}

// good is the part of runs that is not known to be bad.
func (fs *FS) good(runs []alloc.Run) (out []alloc.Run) {
	for _, r := range runs {
		for {
			bad := fs.data.FirstBad(r.First*layout.BlockSize, r.Count*layout.BlockSize)
			if bad < 0 {
				break
			}
			block := bad / layout.BlockSize
			if block > r.First {
				out = append(out, alloc.Run{First: r.First, Count: block - r.First})
			}
			r = alloc.Run{First: block + 1, Count: r.End() - block - 1}
			if r.Count == 0 {
				break
			}
		}
		if r.Count > 0 {
			out = append(out, r)
		}
	}
	return out
}

// spared is the part of a run around a block of the file that is not known to be bad. An error: the block itself is.
func (in *inode) spared(q piece, block int64) (piece, error) {
	bytes := func(first, end int64) (off, n int64) {
		return q.at(first) * layout.BlockSize, (end - first) * layout.BlockSize
	}
	if q.hole() || in.fs.data.FirstBad(bytes(q.first, q.end())) < 0 {
		return q, nil
	}
	if err := in.access(func() { in.fs.data.Read(q.at(block)*layout.BlockSize, make([]byte, 1)) }, q); err != nil {
		return q, err
	}
	first, end := q.first, q.end()
	for bad := int64(0); bad >= 0 && first < block; {
		if bad = in.fs.data.FirstBad(bytes(first, block)); bad >= 0 {
			first = bad/layout.BlockSize - q.block + q.first + 1
		}
	}
	if bad := in.fs.data.FirstBad(bytes(block, end)); bad >= 0 {
		end = bad/layout.BlockSize - q.block + q.first
	}
	return q.clip(first, end), nil
}
