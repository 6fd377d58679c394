package core

import (
	"bytes"
	"cmp"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// SnapshotChange says how a file or directory differs. The JSON names are a contract
// with scripts.
type SnapshotChange struct {
	Path string `json:"path"`           // from the directory on; if it is removed, the one it had
	From string `json:"from,omitempty"` // the path that it had: it was renamed
	Mode uint32 `json:"mode"`           // st_mode

	Added      bool    `json:"added,omitempty"`
	Removed    bool    `json:"removed,omitempty"`
	Attributes bool    `json:"attributes,omitempty"` // permissions, owner, extended ones, device; or the time alone
	Contents   bool    `json:"contents,omitempty"`
	Ranges     []Range `json:"ranges,omitempty"` // of the contents of a regular file, ascending
}

// Range is bytes of a file.
type Range struct {
	Off int64 `json:"offset"`
	Len int64 `json:"length"`
}

// SnapshotDiff says what has changed in a directory since a snapshot of it: until
// another one, or until now if other is empty; then it is no cut: what changes while it
// is compared may be found before or after. It is sorted by path. It takes the owner of
// the directory, or user 0.
//
// A file that has another name than before is found by what it is a clone of, and if
// somebody else has its name, too. Contents are compared by block maps: a block that was
// stored to, or copied, counts as changed, whether or not other bytes are there.
//
// Costs: some 300 bytes of memory for each file; two looks at each inode; for files of
// which the contents may differ one at both block maps.
func (f *FS) SnapshotDiff(c Cred, dir layout.Ino, name, other string) ([]SnapshotChange, error) {
	from, err := f.findSnapshot(c, dir, name)
	if err != nil {
		return nil, err
	}
	defer from.put()
	to, err := f.get(dir)
	if err != nil {
		return nil, err
	}
	defer func() { to.put() }()
	if other != "" {
		snapshot, err := f.findSnapshot(c, dir, other)
		if err != nil {
			return nil, err
		}
		to.put()
		to = snapshot
	}
	var d treeDiff
	if d.from, err = f.listTree(from.ino); err == nil {
		d.to, err = f.listTree(to.ino)
	}
	if err != nil {
		return nil, err
	}
	d.pair()
	return d.changes(f)
}

// findSnapshot returns a snapshot, with a reference, on behalf of the owner of its
// directory. EPERM.
func (f *FS) findSnapshot(c Cred, dir layout.Ino, name string) (snapshot *inode, err error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	d, err := f.get(dir)
	if err != nil {
		return nil, err
	}
	defer d.put()
	d.mu.RLock()
	defer d.mu.RUnlock()
	if !c.owns(&d.Inode) {
		return nil, unix.EPERM
	}
	if err := d.searchable(c); err != nil {
		return nil, err
	}
	snapshots, err := f.child(&d.Inode, SnapshotsName)
	if err != nil {
		return nil, err
	}
	defer snapshots.put()
	snapshots.mu.RLock()
	defer snapshots.mu.RUnlock()
	if err := snapshots.searchable(c); err != nil {
		return nil, err
	}
	if snapshot, err = f.child(&snapshots.Inode, name); err != nil {
		return nil, err
	}
	snapshot.mu.RLock()
	is := snapshot.snapshot()
	snapshot.mu.RUnlock()
	if !is {
		snapshot.put()
		return nil, errNoSnapshot
	}
	return snapshot, nil
}

// listed is a name in a tree that is compared.
type listed struct {
	name       string
	above      *listed // nil: the directory itself
	ino        layout.Ino
	generation uint64
	kind       uint32
	origin     origin
	peer       *listed // what it is in the other tree
}

// origin is the inode that others were cloned from.
type origin struct {
	ino        layout.Ino
	generation uint64
}

func (l *listed) path() string {
	if l.above == nil {
		return "."
	}
	return path.Join(l.above.path(), l.name)
}

// listTree lists a tree, ancestors first, without what comes or goes meanwhile.
func (f *FS) listTree(top layout.Ino) ([]*listed, error) {
	first := &listed{ino: top}
	if err := f.describe(first); err != nil {
		return nil, err
	}
	out := []*listed{first}
	for i := 0; i < len(out); i++ {
		at := out[i]
		if at.kind != layout.ModeDirectory {
			continue
		}
		err := f.eachName(Cred{}, at.ino, func(e DirEntry) error {
			if e.Type == layout.ModeDirectory && e.Name == SnapshotsName {
				return nil
			}
			l := &listed{name: e.Name, above: at, ino: e.Ino}
			err := f.describe(l)
			if err == nil {
				out = append(out, l)
			}
			return gone(err)
		})
		if gone(err) != nil {
			return nil, err
		}
		if int64(len(out)) > f.sb.Inodes*layout.ChunkUnits {
			return nil, layout.Corrupt("directory", -1, "%v is its own ancestor", at.ino)
		}
	}
	return out, nil
}

// gone is nil for the error of what was removed meanwhile.
func gone(err error) error {
	if err == unix.ENOENT {
		return nil
	}
	return err
}

// describe looks at the inode of a name, and at those that it was cloned from, as far as
// they are still there.
func (f *FS) describe(l *listed) error {
	ino := l.ino
	for depth := 0; depth < 64; depth++ {
		in, err := f.get(ino)
		if err == unix.ENOENT && depth > 0 {
			return nil
		}
		if err != nil {
			return err
		}
		in.mu.RLock()
		kind, generation, o := in.kind, in.Generation, in.Origin
		in.mu.RUnlock()
		in.put()
		if depth == 0 {
			l.kind, l.generation = kind, generation
			l.origin = origin{ino, generation}
		} else if generation != l.origin.generation {
			return nil
		}
		if o.Ino == 0 {
			return nil
		}
		l.origin, ino = origin{o.Ino, o.Generation}, o.Ino
	}
	return nil
}

// treeDiff compares two trees.
type treeDiff struct{ from, to []*listed }

// pair finds for each name what it is in the other tree: the same file under the same
// name; else the same file under another one; else whatever has the name.
func (d *treeDiff) pair() {
	type key struct {
		above *listed
		name  string
	}
	byName := make(map[key]*listed, len(d.to))
	for _, l := range d.to {
		byName[key{l.above, l.name}] = l
	}
	named := func(same func(a, b *listed) bool) {
		for _, l := range d.from {
			if l.peer != nil || l.above != nil && l.above.peer == nil {
				continue
			}
			k := key{name: l.name}
			if l.above != nil {
				k.above = l.above.peer
			}
			if p := byName[k]; p != nil && p.peer == nil && p.kind == l.kind && same(l, p) {
				l.peer, p.peer = p, l
			}
		}
	}
	named(func(a, b *listed) bool { return a.above == nil || a.origin == b.origin })
	byOrigin := map[origin][]*listed{}
	for _, l := range d.to {
		if l.peer == nil {
			byOrigin[l.origin] = append(byOrigin[l.origin], l)
		}
	}
	for _, l := range d.from {
		if same := byOrigin[l.origin]; l.peer == nil && len(same) > 0 && same[0].kind == l.kind {
			l.peer, same[0].peer = same[0], l
			byOrigin[l.origin] = same[1:]
		}
	}
	named(func(a, b *listed) bool { return true })
}

// changes says what differs.
func (d *treeDiff) changes(f *FS) (out []SnapshotChange, err error) {
	for _, l := range d.from {
		if l.peer == nil {
			out = append(out, SnapshotChange{Path: l.path(), Removed: true, Mode: l.kind})
		}
	}
	for _, l := range d.to {
		change := SnapshotChange{Path: l.path(), Mode: l.kind}
		if l.peer == nil {
			change.Added = true
			out = append(out, change)
			continue
		}
		if l.above != nil && (l.name != l.peer.name || l.above != l.peer.above.peer) {
			change.From = l.peer.path()
		}
		if err := f.compare(l.peer, l, &change); gone(err) != nil {
			return nil, err
		}
		if change.From != "" || change.Attributes || change.Contents {
			out = append(out, change)
		}
	}
	slices.SortFunc(out, func(a, b SnapshotChange) int { return cmp.Compare(a.Path, b.Path) })
	return out, nil
}

// compare compares two inodes of the same kind. ENOENT: one of them is gone.
func (f *FS) compare(from, to *listed, change *SnapshotChange) error {
	if from.ino == to.ino {
		return nil
	}
	a, err := f.get(from.ino)
	if err != nil {
		return err
	}
	defer a.put()
	b, err := f.get(to.ino)
	if err != nil {
		return err
	}
	defer b.put()
	defer rlockBoth(a, b)()
	if a.gone || b.gone || a.Generation != from.generation || b.Generation != to.generation {
		return unix.ENOENT
	}
	if err := compareContents(a, b, change); err != nil {
		return err
	}
	ax, err := f.readBlob(a.ino, a.Xattrs)
	if err != nil {
		return err
	}
	bx, err := f.readBlob(b.ino, b.Xattrs)
	timeAlone := a.kind != layout.ModeDirectory && !change.Contents && a.Mtime != b.Mtime
	change.Attributes = a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || a.Rdev != b.Rdev ||
		timeAlone || !bytes.Equal(ax, bx)
	change.Mode = b.Mode
	return err
}

// compareContents compares what two locked inodes hold: bytes, or a target.
func compareContents(a, b *inode, change *SnapshotChange) error {
	switch {
	case a.kind == layout.ModeSymlink:
		at, err := a.fs.readBlob(a.ino, a.Target)
		if err != nil {
			return err
		}
		bt, err := a.fs.readBlob(b.ino, b.Target)
		change.Contents = !bytes.Equal(at, bt)
		return err
	case a.kind != layout.ModeRegular || a.lineage() == b.lineage():
		return nil
	}
	ranges, err := differences(a, b)
	change.Ranges, change.Contents = ranges, len(ranges) > 0
	return err
}

// differences is the bytes in which two files may differ, by their block maps: equal is
// what is zeros in both, and what is the same block in both.
func differences(a, b *inode) (out []Range, err error) {
	size, longest := min(a.Size, b.Size), max(a.Size, b.Size)
	add := func(off, end int64) {
		if n := len(out); n > 0 && out[n-1].Off+out[n-1].Len == off {
			out[n-1].Len += end - off
		} else if off < end {
			out = append(out, Range{off, end - off})
		}
	}
	_, end := blocksOf(0, size)
	v := a.fs.journal.View
	for at := int64(0); at < end; {
		p, err := a.fs.find(v, &a.Inode, at, end)
		if err != nil {
			return nil, err
		}
		q, err := a.fs.find(v, &b.Inode, at, end)
		if err != nil {
			return nil, err
		}
		p, q = p.clip(at, end), q.clip(at, end)
		next := min(p.end(), q.end())
		if p.zeros() != q.zeros() || !p.zeros() && p.block != q.block {
			add(at*layout.BlockSize, min(next*layout.BlockSize, size))
		}
		at = next
	}
	add(size, longest)
	return out, nil
}
