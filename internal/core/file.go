package core

import (
	"io"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// Node is an open inode: what it refers to lives until Close, even when its
// last name is removed.
type Node struct {
	in     *inode
	closed atomic.Bool
}

// Open returns an open inode. ENOENT when it was removed.
func (fs *FS) Open(ino layout.Ino) (*Node, error) {
	in, err := fs.get(ino)
	if err != nil {
		return nil, err
	}
	in.mu.RLock()
	gone := in.gone || in.Nlink == 0
	in.mu.RUnlock()
	if gone {
		in.put()
		return nil, unix.ENOENT
	}
	return &Node{in: in}, nil
}

// OpenPath resolves a path and opens what it leads to, so that the inode's
// number cannot become another file's meanwhile.
func (fs *FS) OpenPath(c Cred, path string, followLast bool) (*Node, error) {
	for range openAttempts {
		a, err := fs.Resolve(c, path, followLast)
		if err != nil {
			return nil, err
		}
		n, err := fs.Open(a.Ino)
		switch {
		case err == unix.ENOENT: // removed in between: resolve again
		case err != nil:
			return nil, err
		case n.Attr().Generation == a.Generation:
			return n, nil
		default:
			n.Close() // removed, and its number used again
		}
	}
	return nil, layout.Corrupt("directory", -1, "%q leads to an inode without links", path)
}

// openAttempts is how often OpenPath believes that somebody else was faster.
const openAttempts = 1000

// Close releases the inode; a second Close does nothing.
func (n *Node) Close() error {
	if !n.closed.Swap(true) {
		n.in.put()
	}
	return nil
}

// Ino is the inode's number.
func (n *Node) Ino() layout.Ino { return n.in.ino }

// Attr returns the attributes.
func (n *Node) Attr() Attr {
	n.in.mu.RLock()
	defer n.in.mu.RUnlock()
	return attr(&n.in.Inode)
}

// SetAttr changes attributes as FS.SetAttr does, of a removed file, too.
func (n *Node) SetAttr(c Cred, s SetAttr) (Attr, error) { return n.in.fs.SetAttr(c, n.in.ino, s) }

// Sync makes everything durable that was done to the inode: what is staged,
// contents, and the times of writes in place.
func (n *Node) Sync() error {
	if n.in.fs.readOnly {
		return nil
	}
	n.in.mu.Lock()
	err := n.in.writeTimes()
	lsn := n.in.metaLSN
	n.in.mu.Unlock()
	if err != nil {
		return err
	}
	return n.in.fs.commitTo(lsn)
}

func (n *Node) regular() error {
	switch n.in.kind {
	case layout.ModeRegular:
		return nil
	case layout.ModeDirectory:
		return unix.EISDIR
	}
	return unix.EINVAL
}

// ReadAt reads from off on; holes are zeros. io.EOF when less than len(p)
// bytes were there.
func (n *Node) ReadAt(p []byte, off int64) (int, error) {
	if err := n.regular(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, unix.EINVAL
	}
	in := n.in
	in.mu.RLock()
	defer in.mu.RUnlock()
	eof := off+int64(len(p)) > in.Size
	if off >= in.Size {
		p = nil
	} else if eof {
		p = p[:in.Size-off]
	}
	if len(p) > 0 {
		if err := in.read(p, off); err != nil {
			return 0, err
		}
	}
	if eof {
		return len(p), io.EOF
	}
	return len(p), nil
}

// read fills p from off on. in.mu is held.
func (in *inode) read(p []byte, off int64) error {
	fs := in.fs
	first, end := blocksOf(off, int64(len(p)))
	return fs.pieces(fs.journal.View, &in.Inode, first, end, func(q piece) error {
		lo := max(q.first*layout.BlockSize, off)
		hi := min(q.end()*layout.BlockSize, off+int64(len(p)))
		to := p[lo-off : hi-off]
		if q.zeros() {
			clear(to)
			return nil
		}
		return in.access(func() { fs.data.Read(q.block*layout.BlockSize+lo-q.first*layout.BlockSize, to) }, q)
	})
}

// blocksOf is the range of blocks that bytes [off, off+n) touch.
func blocksOf(off, n int64) (first, end int64) {
	return off / layout.BlockSize, (off + n + layout.BlockSize - 1) / layout.BlockSize
}

// writeStep is how much one transaction of a long write covers, in bytes.
const writeStep = 4 << 20

// WriteAt writes p at off. Bytes over existing blocks are stored in place:
// after a crash in the middle each aligned 8 bytes of them are old or new.
// Everything else (new blocks, the size) is atomic for each 4 MiB.
//
// Costs: over existing blocks the lines of p, streamed, and one fence; with
// new blocks or a new size the lines, a fence, and a transaction.
func (n *Node) WriteAt(p []byte, off int64) (int, error) {
	if err := n.writable(off, int64(len(p))); err != nil {
		return 0, err
	}
	n.in.mu.Lock()
	defer n.in.mu.Unlock()
	return n.in.writeAll(p, off)
}

// Append writes p at the end of the file, atomically with regard to other
// appends, and returns where that was.
func (n *Node) Append(p []byte) (off int64, written int, err error) {
	if err := n.writable(0, int64(len(p))); err != nil {
		return 0, 0, err
	}
	n.in.mu.Lock()
	defer n.in.mu.Unlock()
	off = n.in.Size
	if off+int64(len(p)) > layout.MaxFileSize {
		return 0, 0, unix.EFBIG
	}
	written, err = n.in.writeAll(p, off)
	return off, written, err
}

func (n *Node) writable(off, length int64) error {
	if err := n.regular(); err != nil {
		return err
	}
	switch {
	case n.in.fs.readOnly || n.in.frozen:
		return unix.EROFS
	case off < 0 || length < 0:
		return unix.EINVAL
	case off > layout.MaxFileSize || off+length > layout.MaxFileSize:
		return unix.EFBIG
	}
	return nil
}

func (in *inode) writeAll(p []byte, off int64) (written int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := in.finishTruncate(); err != nil {
		return 0, err
	}
	if err := in.mayWrite(off, int64(len(p))); err != nil {
		return 0, err
	}
	for written < len(p) {
		at := off + int64(written)
		n := min(len(p)-written, int(writeStep-at%writeStep))
		if err := in.write(p[written:written+n], at); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// write writes at most writeStep bytes. in.mu is held.
func (in *inode) write(p []byte, off int64) error {
	fs := in.fs
	end := off + int64(len(p))
	if err := in.ownPart(in.Size, min(off, layout.RoundUp(in.Size, layout.BlockSize))); err != nil {
		return err
	}
	plan, err := in.plan(blocksOf(off, int64(len(p))))
	if err != nil {
		return err
	}
	defer plan.release()
	if err := in.claim(plan.sole); err != nil {
		return err
	}
	if plan.inPlace() && end <= in.Size {
		if err := in.writeInPlace(plan, p, off); err != nil {
			return err
		}
		in.touch()
		return fs.fenceData()
	}
	if err := in.breakPlan(plan); err != nil {
		return err
	}
	if err := in.settleCut(); err != nil {
		return err
	}
	if err := plan.reserve(fs); err != nil {
		return err
	}
	err = in.writeInPlace(plan, p, off)
	if err == nil {
		err = in.fillNew(plan, p, off)
	}
	if err != nil {
		fs.cancel(plan.runs)
		return err
	}
	return in.commitPlan(plan, func(u *update, want *layout.Inode) error {
		want.Size = max(want.Size, end)
		in.modified(want)
		return nil
	})
}

// writeInPlace stores p to the blocks that the plan leaves where they are.
func (in *inode) writeInPlace(plan *plan, p []byte, off int64) error {
	for _, q := range plan.written {
		if err := in.overwrite(q, p, off, func() { in.fs.streamInto(q, p, off) }); err != nil {
			return err
		}
	}
	return nil
}

// streamInto stores the part of p (which begins at file offset off) that lies
// in q to q's blocks.
func (fs *FS) streamInto(q piece, p []byte, off int64) {
	base := q.first * layout.BlockSize
	lo, hi := max(base, off), min(q.end()*layout.BlockSize, off+int64(len(p)))
	fs.data.Stream(q.block*layout.BlockSize+lo-base, p[lo-off:hi-off])
}

// fillNew stores p where it is not stored in place, and around it, in the same
// blocks, what was there before; and zeros between the old end of the file and p;
// then it fences: all of it is durable before the transaction that makes it reachable.
func (in *inode) fillNew(plan *plan, p []byte, off int64) error {
	fs := in.fs
	end := off + int64(len(p))
	for m := range plan.targets() {
		q := m.from
		q.block = m.to.First
		base, limit := q.first*layout.BlockSize, q.end()*layout.BlockSize
		err := in.fillMove(m, func() {
			fs.streamInto(q, p, off)
			fs.carry(m, 0, off-base)
			fs.carry(m, end-base, limit-base)
		})
		if err != nil {
			return err
		}
	}
	if _, err := in.zeroTail(off); err != nil {
		return err
	}
	return fs.fenceData()
}

// settleCut makes durable what was taken away from the file. Who stores to
// blocks whose contents a crash could bring back calls it first: behind the end
// of the file, and in unwritten blocks.
func (in *inode) settleCut() error { return in.fs.journal.Commit(in.cutLSN) }

// carry stores to the new blocks of a move what its old ones hold, zeros where
// there are none, from byte lo to byte hi of them.
func (fs *FS) carry(m move, lo, hi int64) {
	to := m.to.First * layout.BlockSize
	switch {
	case lo >= hi:
	case m.from.zeros():
		fs.data.Zero(to+lo, hi-lo)
	default:
		fs.data.Copy(to+lo, m.from.block*layout.BlockSize+lo, hi-lo)
	}
}

// zeroTail streams zeros behind the end of the file up to offset to, in the
// last block, where a mapped store may have left bytes. It does so whether or
// not zeros are read there: a mapped store of zeros that was never flushed
// hides what the medium still has. Not fenced.
func (in *inode) zeroTail(to int64) (stored bool, err error) {
	q, at, n, err := in.tail(to)
	if err == nil && n > 0 {
		err = in.access(func() { in.fs.data.Zero(at, n) }, q)
	}
	return n > 0, err
}

// tail is the piece that has bytes behind the end of the file up to offset to, and
// where they are in the data area, as far as a block is written there.
func (in *inode) tail(to int64) (q piece, at, n int64, err error) {
	end := min(layout.RoundUp(in.Size, layout.BlockSize), to)
	if end <= in.Size {
		return q, 0, 0, nil
	}
	block := in.Size / layout.BlockSize
	q, err = in.fs.find(in.fs.journal.View, &in.Inode, block, block+1)
	if err != nil || q.zeros() {
		return q, 0, 0, err
	}
	return q, q.block*layout.BlockSize + in.Size - q.first*layout.BlockSize, end - in.Size, nil
}

// touch sets the times of a write in memory.
func (in *inode) touch() {
	in.Mtime = in.fs.now()
	in.Ctime = in.Mtime
	if !in.timesDirty {
		in.timesDirty = true
		in.fs.progress.TimesChanged(uint64(in.ino), 1)
	}
	in.unsettled.Store(true)
}

// modified and changed set the times that a transaction writes: of a change of
// the contents, or of other things only.
func (in *inode) modified(want *layout.Inode) {
	in.changed(want)
	want.Mtime = want.Ctime
}
func (in *inode) changed(want *layout.Inode) { want.Ctime = in.fs.now() }
