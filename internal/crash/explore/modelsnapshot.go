package explore

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// snapshotVerbs are the operations on snapshots of a directory, by name. Each is
// durable on return, whatever the setting.
var snapshotVerbs = map[string]func(m *Model, dir *node, name string) error{
	"snapshot":   func(m *Model, dir *node, name string) error { return m.snapshot(dir, name, true) },
	"wsnapshot":  func(m *Model, dir *node, name string) error { return m.snapshot(dir, name, false) },
	"rmsnapshot": (*Model).removeSnapshot,
	"restore":    (*Model).restore,
}

// inSnapshots calls fn for the nodes of a tree that are part of a snapshot of it, each
// once, directories before what they hold.
func (n *node) inSnapshots(fn func(n *node)) {
	seen := map[*node]bool{}
	var walk func(n *node)
	walk = func(n *node) {
		if seen[n] {
			return
		}
		seen[n] = true
		fn(n)
		for _, name := range slices.Sorted(maps.Keys(n.entries)) {
			if name != core.SnapshotsName {
				walk(n.entries[name])
			}
		}
	}
	walk(n)
}

// cloneTree makes a tree like another one, of which the files share their blocks.
func (m *Model) cloneTree(n *node, frozen bool, seen map[*node]*node) *node {
	if c := seen[n]; c != nil {
		c.nlink++
		return c
	}
	c := m.newNode(n.kind, n.mode)
	seen[n], c.frozen = c, frozen
	c.uid, c.gid, c.target, c.xattrs = n.uid, n.gid, n.target, maps.Clone(n.xattrs)
	c.mtime, c.ctime = n.mtime, n.ctime
	if n.kind != layout.ModeDirectory {
		c.size = n.size
	}
	if len(n.data) > 0 {
		_, end := blocks(0, n.size)
		m.share(n, c, 0, end, 0)
	}
	for _, name := range slices.Sorted(maps.Keys(n.entries)) {
		if name == core.SnapshotsName {
			continue
		}
		sub := m.cloneTree(n.entries[name], frozen, seen)
		c.entries[name] = sub
		if c.size++; sub.isDir() {
			sub.parent = c
			c.nlink++
		}
	}
	return c
}

func (m *Model) snapshot(dir *node, name string, frozen bool) error {
	snapshots := dir.entries[core.SnapshotsName]
	if snapshots != nil && snapshots.entries[name] != nil {
		return unix.EEXIST
	}
	static := false
	dir.inSnapshots(func(n *node) { static = static || n.static })
	if static {
		return core.ErrStatic
	}
	dir.inSnapshots(func(n *node) {
		if n.kind == layout.ModeRegular {
			_, end := blocks(0, n.size)
			m.still(n, 0, end)
		}
	})
	top := m.cloneTree(dir, frozen, map[*node]*node{})
	m.record()
	m.stage() // it has no name yet
	if snapshots == nil {
		snapshots = m.newNode(layout.ModeDirectory, dir.mode&0o755)
		snapshots.uid, snapshots.gid = dir.uid, dir.gid
		m.put(dir, core.SnapshotsName, snapshots)
	}
	m.put(snapshots, name, top)
	m.commit()
	return nil
}

// named returns the directory of snapshots, and one of them.
func (n *node) named(name string) (snapshots, top *node, err error) {
	if snapshots = n.entries[core.SnapshotsName]; snapshots == nil || snapshots.entries[name] == nil {
		return nil, nil, unix.ENOENT
	}
	return snapshots, snapshots.entries[name], nil
}

func (m *Model) removeSnapshot(dir *node, name string) error {
	snapshots, top, err := dir.named(name)
	if err != nil {
		return err
	}
	m.take(snapshots, name)
	m.drop(top)
	m.commit()
	return nil
}

// restore exchanges the names; then what was there loses its links.
func (m *Model) restore(dir *node, name string) error {
	_, top, err := dir.named(name)
	if err != nil {
		return err
	}
	nested := false
	dir.inSnapshots(func(n *node) {
		if s := n.entries[core.SnapshotsName]; n != dir && s != nil && len(s.entries) > 0 {
			nested = true
		}
	})
	if nested {
		return unix.ENOTEMPTY
	}
	top = m.cloneTree(top, false, map[*node]*node{})
	var old []*node
	for _, name := range slices.Sorted(maps.Keys(dir.entries)) {
		if name != core.SnapshotsName {
			old = append(old, dir.entries[name])
			m.take(dir, name)
		}
	}
	for name, n := range top.entries {
		m.put(dir, name, n)
	}
	dir.mode, dir.uid, dir.gid, dir.xattrs = top.mode, top.uid, top.gid, top.xattrs
	dir.set(top.mtime, m.now)
	m.commit()
	m.stage()
	m.dropAll(old)
	return nil
}

// dropAll takes the links away that nodes without a name in the tree had there.
func (m *Model) dropAll(old []*node) {
	for _, n := range old {
		m.drop(n)
		m.dropAll(slices.Collect(maps.Values(n.entries)))
	}
}
