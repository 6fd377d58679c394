package explore

import (
	"maps"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// fileVerbs are the operations on the contents of regular files.
var fileVerbs = map[string]func(m *Model, n *node, o Op, tag int) error{
	"write": func(m *Model, n *node, o Op, tag int) error {
		m.write(n, pattern(tag, o.Off, o.N), o.Off)
		return nil
	},
	"append": func(m *Model, n *node, o Op, tag int) error {
		m.write(n, pattern(tag, n.size, o.N), n.size)
		return nil
	},
	"truncate": func(m *Model, n *node, o Op, _ int) error {
		m.growTail(n, o.N)
		m.ownPart(n, o.N, min(n.size, (o.N+blockSize-1)/blockSize*blockSize))
		n.cut(o.N)
		n.set(m.now, m.now)
		return nil
	},
	"fallocate": func(m *Model, n *node, o Op, _ int) error {
		m.growTail(n, o.Off+o.N)
		n.size = max(n.size, o.Off+o.N)
		n.set(m.now, m.now)
		return nil
	},
	"keepsize": func(m *Model, n *node, o Op, _ int) error {
		n.set(m.now, m.now)
		return nil
	},
	"punch":    (*Model).punch,
	"zero":     func(m *Model, n *node, o Op, _ int) error { return m.zero(n, o, true) },
	"zerokeep": func(m *Model, n *node, o Op, _ int) error { return m.zero(n, o, false) },
	"collapse": func(m *Model, n *node, o Op, _ int) error { return m.shift(n, o.Off, o.Off+o.N, o) },
	"insert":   func(m *Model, n *node, o Op, _ int) error { return m.shift(n, o.Off+o.N, o.Off, o) },
	"relocate": (*Model).relocate,
	"fill":     (*Model).fill,
	"store":    func(m *Model, n *node, o Op, tag int) error { return m.store(n, pattern(tag, o.Off, o.N), o.Off, true) },
	"loose": func(m *Model, n *node, o Op, tag int) error {
		return m.store(n, pattern(tag, o.Off, o.N), o.Off, false)
	},
	"clear": func(m *Model, n *node, o Op, _ int) error { return m.store(n, make([]byte, o.N), o.Off, false) },
}

// changes says whether an operation would change the size or the blocks of a
// file. Those that are not here never do so to one whose blocks are all written.
var changes = map[string]func(n *node, o Op) bool{
	"write":     func(n *node, o Op) bool { return o.N > 0 && o.Off+o.N > n.size },
	"append":    func(n *node, o Op) bool { return o.N > 0 },
	"truncate":  func(n *node, o Op) bool { return o.N != n.size },
	"fallocate": func(n *node, o Op) bool { return o.Off+o.N > n.size },
	"keepsize":  func(n *node, o Op) bool { return o.Off+o.N > n.end() },
	"punch":     func(n *node, o Op) bool { return o.whole() },
	"zero":      func(n *node, o Op) bool { return o.Off+o.N > n.size || o.whole() },
	"zerokeep":  func(n *node, o Op) bool { return o.Off+o.N > n.end() || o.whole() },
	"relocate":  func(n *node, o Op) bool { return o.N > 0 && o.Off < n.end() },
}

// end is where the last block ends.
func (n *node) end() int64 {
	_, end := blocks(0, n.size)
	return end * blockSize
}

// whole reports whether there are whole blocks in the operation's range.
func (o Op) whole() bool {
	first, end := inner(o.Off, o.N)
	return first < end
}

// blocks is the blocks that [off, off+n) touches; inner those wholly in it.
func blocks(off, n int64) (first, end int64) {
	return off / blockSize, (off + n + blockSize - 1) / blockSize
}

func inner(off, n int64) (first, end int64) {
	return (off + blockSize - 1) / blockSize, (off + n) / blockSize
}

func (m *Model) write(n *node, p []byte, off int64) {
	end := off + int64(len(p))
	m.growTail(n, off)
	first, last := blocks(off, int64(len(p)))
	placed := !m.own(n, first, last) && end <= n.size
	for b := first; b < last; b++ {
		placed = placed && n.data[b] != nil
	}
	// What lies behind the end of the file does not show before the new size.
	if visible := min(int64(len(p)), n.size-off); visible > 0 {
		m.inPlace(n, p[:visible], off, false)
	}
	if placed {
		n.touch(m.now)
		return
	}
	for b := first; b < last; b++ {
		if n.data[b] == nil {
			n.setBlock(b, new(content))
		}
	}
	words(off, int64(len(p)), func(w int64) {
		var values []uint64
		for _, v := range n.values(w) {
			values = append(values, over(v, w, p, off))
		}
		n.setWord(w, values[0], values)
	})
	n.size = max(n.size, end)
	n.set(m.now, m.now)
}

// cut sets the size; what was behind it is gone.
func (n *node) cut(size int64) {
	_, keep := blocks(0, size)
	n.note(keep, n.end()/blockSize)
	n.size = size
	for b, old := range n.data {
		switch {
		case b >= keep:
			n.forget(b)
		case (b+1)*blockSize > size:
			c := *old
			clear(c[size-b*blockSize:])
			n.data[b] = &c
		}
	}
	for w, values := range n.loose {
		var left []uint64
		for _, v := range values {
			left = append(left, below(v, w, size))
		}
		if w*wordSize >= size {
			left = nil
		}
		n.setLoose(w, n.word(w), left)
	}
}

// edges zeroes in place what a range covers of its first and last block.
func (m *Model) edges(n *node, off, length int64) (stored bool) {
	first, end := inner(off, length)
	limit := off + length
	parts := [][2]int64{{off, min(first*blockSize, limit)}, {max(end*blockSize, off), limit}}
	if first > end {
		parts = [][2]int64{{off, limit}}
	}
	for _, part := range parts {
		m.ownPart(n, part[0], part[1])
	}
	for _, part := range parts {
		lo, hi := part[0], part[1]
		if lo < hi && n.data[lo/blockSize] != nil {
			stored = true
			if hi = min(hi, n.size); lo < hi {
				m.inPlace(n, make([]byte, hi-lo), lo, false)
			}
		}
	}
	return stored
}

// drop forgets blocks: they read as zeros.
func (n *node) drop(first, end int64) {
	for b := range n.data {
		if b >= first && b < end {
			n.forget(b)
		}
	}
	for w := range n.loose {
		if b := w * wordSize / blockSize; b >= first && b < end {
			delete(n.loose, w)
		}
	}
}

func (m *Model) punch(n *node, o Op, _ int) error {
	m.edges(n, o.Off, o.N)
	n.touch(m.now)
	if first, end := inner(o.Off, o.N); first < end {
		n.drop(first, end)
		n.set(m.now, m.now)
	}
	return nil
}

func (m *Model) zero(n *node, o Op, grow bool) error {
	if grow {
		m.growTail(n, o.Off+o.N)
	}
	m.edges(n, o.Off, o.N)
	n.drop(inner(o.Off, o.N))
	if grow {
		n.size = max(n.size, o.Off+o.N)
	}
	n.set(m.now, m.now)
	return nil
}

// shift moves what lies from byte cut on to byte to, each in the place that it has.
func (m *Model) shift(n *node, to, cut int64, o Op) error {
	switch {
	case o.N == 0 || (o.Off|o.N)%blockSize != 0 || cut >= n.size:
		return unix.EINVAL
	case n.static:
		return core.ErrStatic
	}
	from, by := cut/blockSize, (to-cut)/blockSize
	old := n.clone(map[*node]*node{})
	n.note(o.Off/blockSize, max(n.end(), n.end()+to-cut)/blockSize)
	n.drop(o.Off/blockSize, n.end()/blockSize)
	for b := range old.data {
		if b >= from {
			n.take(b+by, old, b)
		}
	}
	n.size += to - cut
	n.set(m.now, m.now)
	return nil
}

// relocate copies what is read: it is durable then, as the times are. What is
// shared stays.
func (m *Model) relocate(n *node, o Op, _ int) error {
	first, end := blocks(o.Off, o.N)
	for b := range n.data {
		if b >= first && b < end && !n.marked[b] {
			n.timesDurable()
			n.recorded = m.now
			n.move(b)
			n.definite(b)
		}
	}
	maps.DeleteFunc(n.held, func(b int64, _ bool) bool { return b >= first && b < end })
	return nil
}

// fill makes blocks of zeros of what was never written.
func (m *Model) fill(n *node, o Op, _ int) error {
	switch {
	case o.N <= 0:
		return unix.EINVAL
	case o.Off+o.N > n.end():
		return unix.ENXIO
	}
	first, end := blocks(o.Off, o.N)
	if m.own(n, first, end) {
		n.set(n.mtime, m.now)
	}
	for b := first; b < end; b++ {
		if n.data[b] == nil {
			n.setBlock(b, new(content))
			n.set(n.mtime, m.now)
		}
	}
	m.sync(n)
	return nil
}

// setStatic refuses to freeze a file with a block that was never written, or is
// marked.
func (m *Model) setStatic(n *node, static bool) error {
	if n.kind != layout.ModeRegular {
		return unix.EINVAL
	}
	if n.static == static {
		m.sync(n)
		return nil
	}
	for off := int64(0); static && off < n.size; off += blockSize {
		if b := off / blockSize; n.data[b] == nil || n.marked[b] {
			return &core.UnfilledError{Off: off}
		}
	}
	n.static = static
	n.set(n.mtime, m.now)
	m.sync(n)
	return nil
}

// fault lets clients store to a block.
func (m *Model) fault(n *node, block int64) {
	changed := m.own(n, block, block+1)
	if n.data[block] == nil {
		n.setBlock(block, new(content))
		changed = true
	}
	if changed {
		n.set(m.now, m.now)
		m.record()
		m.stage()
	} else {
		n.touch(m.now)
	}
	if n.held == nil {
		n.held = map[int64]bool{}
	}
	n.held[block] = true
}

// store is a store through a mapping. Who has the block does not ask for it again,
// but through a Sync mapping, which is another one.
func (m *Model) store(n *node, p []byte, off int64, persist bool) error {
	block := off / blockSize
	if _, end := blocks(0, n.size); block >= end {
		return unix.ENXIO
	}
	if off+int64(len(p)) > n.size || (off+int64(len(p))-1)/blockSize != block {
		return unix.EINVAL
	}
	if persist || !n.held[block] {
		m.fault(n, block)
	}
	m.inPlace(n, p, off, true)
	if persist {
		m.persisted(n, off, int64(len(p)))
		m.sync(n)
	}
	return nil
}
