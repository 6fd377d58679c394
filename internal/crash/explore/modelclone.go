package explore

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// cloneVerbs are the operations by which files come to share blocks: leaves that
// map one place have its number in frames, and are marked.
var cloneVerbs = map[string]func(m *Model, n *node, o Op) error{
	"clone":      (*Model).cloneFile,
	"clonerange": (*Model).cloneRange,
}

func (m *Model) cloneFile(n *node, o Op) error {
	dir, name, err := m.split(o.To)
	switch {
	case err != nil:
		return err
	case dir.entries[name] != nil:
		return unix.EEXIST
	case n.static && n.size > 0:
		return core.ErrStatic
	}
	to := m.newNode(layout.ModeRegular, 0o644)
	_, end := blocks(0, n.size)
	m.still(n, 0, end)
	m.share(n, to, 0, end, 0)
	to.size = n.size
	m.put(dir, name, to)
	return nil
}

func (m *Model) cloneRange(n *node, o Op) error {
	to, err := m.resolve(o.To)
	if err != nil {
		return err
	}
	if to.kind != layout.ModeRegular {
		return notRegular(to, o.Verb)
	}
	length := o.N
	if length == 0 {
		length = max(n.size-o.Off, 0)
	}
	whole := length%blockSize == 0 || o.Off+length == n.size && o.At+length >= to.size
	overlap := n == to && o.At < o.Off+length && o.Off < o.At+length
	switch {
	case (o.Off|o.At)%blockSize != 0 || !whole || overlap || o.Off+length > n.size:
		return unix.EINVAL
	case length == 0:
		return nil
	case n.static || to.static:
		return core.ErrStatic
	}
	first, end := blocks(o.Off, length)
	m.still(n, first, end)
	m.growTail(to, o.At)
	to.drop(blocks(o.At, length))
	m.share(n, to, first, end, o.At/blockSize)
	to.size = max(to.size, o.At+length)
	to.set(m.now, m.now)
	m.settle(to)
	return nil
}

// still takes [first, end) from those who can store to it, and makes durable what
// they have stored: before the next record.
func (m *Model) still(n *node, first, end int64) {
	for b := range n.held {
		if b < first || b >= end {
			continue
		}
		delete(n.held, b)
		if !m.setting.PageCache {
			m.persisted(n, b*blockSize, blockSize)
			continue
		}
		// The next commit does it for what there was before, too.
		m.older(m.past, n, b*blockSize, 1, func(to *node, at, _ int64) {
			maps.DeleteFunc(to.mapped, func(w int64, _ bool) bool { return w*wordSize/blockSize == at/blockSize })
		})
		n.definite(b)
	}
}

// definite: what is read of a block is what the medium has.
func (n *node) definite(b int64) {
	maps.DeleteFunc(n.loose, func(w int64, _ []uint64) bool { return w*wordSize/blockSize == b })
	maps.DeleteFunc(n.mapped, func(w int64, _ bool) bool { return w*wordSize/blockSize == b })
}

// share makes the blocks [first, end) of a file those of another one, too, at
// block at, where that has none. They may be one file.
func (m *Model) share(from, to *node, first, end, at int64) {
	for _, b := range slices.Sorted(maps.Keys(from.data)) {
		if b < first || b >= end {
			continue
		}
		from.mark(b)
		to.take(at+b-first, from, b)
	}
	from.timesDurable()
	from.recorded = m.now
}

// take makes block b of a file block at of this one, in the same place.
func (n *node) take(at int64, from *node, b int64) {
	n.setBlock(at, from.data[b])
	n.frames[at] = from.frames[b]
	if from.marked[b] {
		n.mark(at)
	}
	for w := b * blockSize / wordSize; w < (b+1)*blockSize/wordSize; w++ {
		if values, ok := from.loose[w]; ok {
			v := w + (at-b)*blockSize/wordSize
			n.setLoose(v, n.word(v), values)
			n.setMapped(v, from.mapped[w])
		}
	}
}

func (n *node) mark(b int64) {
	if n.marked == nil {
		n.marked = map[int64]bool{}
	}
	n.marked[b] = true
}

// shared reports whether another leaf maps the place of a block, too.
func (m *Model) shared(n *node, b int64) (yes bool) {
	m.nodes(func(k *node) {
		for at, frame := range k.frames {
			yes = yes || frame == n.frames[b] && (k != n || at != b)
		}
	})
	return yes
}

// claim: before anything is stored in place to blocks that are marked, and are
// the file's alone by now, they lose the mark, in a record that is durable then.
func (m *Model) claim(n *node, first, end int64) {
	claimed := false
	for b := range n.marked {
		if b >= first && b < end && !m.shared(n, b) {
			delete(n.marked, b)
			n.replace(b) // states of before do not have what is stored from now on
			claimed = true
		}
	}
	if claimed {
		n.set(n.mtime, m.now)
		m.record()
		m.stage()
		m.sync(n)
	}
}

// own gives the file copies of those of [first, end) that others have, too. It is
// for the caller to record that.
func (m *Model) own(n *node, first, end int64) (copied bool) {
	m.claim(n, first, end)
	for b := range n.marked {
		if b >= first && b < end {
			delete(n.marked, b)
			n.replace(b)
			n.definite(b)
			copied = true
		}
	}
	return copied
}

// ownPart is own for the blocks of bytes lo to hi, with a record of its own.
func (m *Model) ownPart(n *node, lo, hi int64) {
	if lo >= hi {
		return
	}
	if first, end := blocks(lo, hi-lo); m.own(n, first, end) {
		n.set(n.mtime, m.now)
		m.record()
		m.stage()
	}
}

// growTail: before a file grows to a size its last block is cleared behind the end.
func (m *Model) growTail(n *node, size int64) { m.ownPart(n, n.size, min(size, n.end())) }
