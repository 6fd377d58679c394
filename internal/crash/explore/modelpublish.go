package explore

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// private is what a private clone knows of its file. Both sets are of blocks,
// counted from the clone's first one.
type private struct {
	of           *node
	merge        bool
	first, count int64
	changed      map[int64]bool // blocks of the clone of which the map has changed
	touched      map[int64]bool // blocks of the file, in the same way
}

func (p *private) clone(seen map[*node]*node) *private {
	if p == nil {
		return nil
	}
	c := *p
	c.of, c.changed, c.touched = p.of.clone(seen), maps.Clone(p.changed), maps.Clone(p.touched)
	return &c
}

func (p *private) reset() { p.changed, p.touched = map[int64]bool{}, map[int64]bool{} }

// note tells those who look for it that the map of [first, end) changes.
func (n *node) note(first, end int64) {
	add := func(p *private, set map[int64]bool, first, end int64) {
		for b := max(first, 0); b < min(end, p.count); b++ {
			set[b] = true
		}
	}
	if p := n.private; p != nil {
		add(p, p.changed, first, end)
	}
	for _, c := range n.privates {
		add(c.private, c.private.touched, first-c.private.first, end-c.private.first)
	}
}

// privateVerbs are the operations on private clones.
var privateVerbs = map[string]func(m *Model, n *node, o Op) error{
	"private": func(m *Model, n *node, o Op) error { return m.makePrivate(n, o, false) },
	"merging": func(m *Model, n *node, o Op) error { return m.makePrivate(n, o, true) },
	"publish": func(m *Model, n *node, _ Op) error { return m.publish(n) },
	"publishall": func(m *Model, n *node, o Op) error {
		other := m.handles[o.To]
		if other == nil {
			return unix.EBADF
		}
		return m.publish(n, other)
	},
	"discard": func(m *Model, n *node, _ Op) error {
		if n.private == nil {
			return unix.EINVAL
		}
		both := maps.Clone(n.private.changed)
		maps.Copy(both, n.private.touched)
		return m.follow(n, both)
	},
}

func (m *Model) makePrivate(n *node, o Op, merge bool) error {
	switch {
	case o.To[0] != '@':
		return unix.EINVAL
	case m.handles[o.To] != nil:
		return unix.EBUSY
	case n.kind != layout.ModeRegular:
		return notRegular(n, o.Verb)
	case o.Off%blockSize != 0 || o.N <= 0:
		return unix.EINVAL
	case o.Off+o.N > n.end():
		return unix.ENXIO
	case n.static:
		return core.ErrStatic
	}
	first, end := blocks(o.Off, o.N)
	m.still(n, first, end)
	to := m.newNode(layout.ModeRegular, 0o600)
	m.share(n, to, first, end, 0)
	to.nlink, to.size, to.opened = 0, o.N, 1
	to.private = &private{of: n, merge: merge, first: first, count: end - first}
	to.private.reset()
	n.privates = append(n.privates, to)
	n.opened++
	m.handles[o.To] = to
	return nil
}

// detach: a private clone is gone.
func (m *Model) detach(n *node) {
	if n.private == nil {
		return
	}
	of := n.private.of
	of.privates = slices.DeleteFunc(of.privates, func(c *node) bool { return c == n })
	of.opened--
	m.settle(of)
}

// conflict is the first block for which a private clone cannot be published, -1:
// there is none.
func (p *private) conflict() int64 {
	for _, b := range slices.Sorted(maps.Keys(p.touched)) {
		if !p.merge || p.changed[b] {
			return b
		}
	}
	return -1
}

// publish makes what private clones have changed the contents of their files, all
// at once, and durable.
func (m *Model) publish(clones ...*node) error {
	used := map[*node]bool{}
	for _, c := range clones {
		if c.private == nil {
			return unix.EINVAL
		}
		used[c], used[c.private.of] = true, true
	}
	if len(used) < 2*len(clones) {
		return unix.EINVAL
	}
	for _, c := range clones {
		p := c.private
		if b := p.conflict(); b >= 0 {
			return &core.ConflictError{Off: (p.first + b) * blockSize}
		}
		if p.of.static && len(c.published()) > 0 {
			return core.ErrStatic
		}
	}
	for _, c := range clones {
		m.publishOne(c)
	}
	for _, c := range clones {
		stale := c.private.touched
		c.private.reset()
		if m.follow(c, stale) != nil {
			c.private.touched = stale
		}
		m.sync(c.private.of)
	}
	return nil
}

// published is the blocks that a private clone has and its file has not.
func (n *node) published() (out []int64) {
	for _, b := range slices.Sorted(maps.Keys(n.private.changed)) {
		if n.data[b] != nil && !n.marked[b] {
			out = append(out, b)
		}
	}
	return out
}

func (m *Model) publishOne(n *node) {
	p := n.private
	stale := p.touched
	p.touched = map[int64]bool{} // what it publishes itself is no change to it
	for _, b := range n.published() {
		m.still(n, b, b+1)
		n.definite(b)
		to := p.first + b
		p.of.drop(to, to+1)
		p.of.setBlock(to, n.data[b])
		p.of.frames[to] = n.frames[b]
		p.of.mark(to)
		n.mark(b)
		p.of.set(m.now, m.now)
	}
	p.touched = stale
	for _, c := range []*node{n, p.of} {
		c.timesDurable()
		c.recorded = m.now
	}
}

// follow makes blocks of a private clone those of its file again.
func (m *Model) follow(n *node, blocks map[int64]bool) error {
	p := n.private
	switch {
	case len(blocks) == 0:
		return nil
	case p.of.static:
		return core.ErrStatic
	}
	for _, b := range slices.Sorted(maps.Keys(blocks)) {
		m.still(p.of, p.first+b, p.first+b+1)
		n.drop(b, b+1)
		m.share(p.of, n, p.first+b, p.first+b+1, b)
	}
	p.reset()
	return nil
}
