package core

import (
	"errors"
	"log/slog"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// findOrphans lists what a crash left.
func (fs *FS) findOrphans() error {
	fs.left = map[layout.Ino]bool{}
	return fs.orphans.Each(func(unit int64) error {
		fs.left[layout.Ino(unit)] = true
		return nil
	})
}

// holdOrphans takes a reference to each, so that none is freed by whoever looks
// at it. One that cannot be loaded is reported when it is to be reclaimed.
func (fs *FS) holdOrphans() {
	fs.held = map[layout.Ino]*inode{}
	for ino := range fs.left {
		if in, err := fs.get(ino); err == nil {
			fs.held[ino] = in
		}
	}
}

// Adopt opens an inode that a client of before a crash had open, by its number
// and generation, whether it has a name or not. With Options.HoldOrphans it is
// there as long as Reclaim was not called. ENOENT when the inode is free,
// ESTALE when another one has its number.
func (fs *FS) Adopt(ino layout.Ino, generation uint64) (*Node, error) {
	in, err := fs.get(ino)
	if err != nil {
		return nil, err
	}
	in.mu.RLock()
	switch {
	case in.gone:
		err = unix.ENOENT
	case in.Generation != generation:
		err = unix.ESTALE
	}
	in.mu.RUnlock()
	if err != nil {
		in.put()
		return nil, err
	}
	return &Node{in: in}, nil
}

// Reclaim begins to free what a crash left and nobody has open, in the
// background: files and directories that were removed while open, trees that were
// removed, or not yet named, as a whole, and blocks beyond the end of files that
// were being truncated. What is open goes with its
// last Node. A second call does nothing.
func (fs *FS) Reclaim() {
	fs.cacheMu.Lock()
	defer fs.cacheMu.Unlock()
	if fs.started || fs.closed || fs.readOnly {
		return
	}
	fs.started = true
	fs.reclaim.Go(fs.reclaimOrphans)
}

// reclaimOrphans runs beside ordinary use; a failure leaves the orphan bit.
func (fs *FS) reclaimOrphans() {
	fs.cacheMu.Lock()
	left := slices.Sorted(maps.Keys(fs.left))
	fs.cacheMu.Unlock()
	for _, ino := range left {
		select {
		case <-fs.stop:
			return
		default:
		}
		if err := fs.Guard(func() error { return fs.reclaimOrphan(ino) }); err != nil && !errors.Is(err, unix.EBADF) {
			slog.Error("reclaiming what was removed while open; pmemfs check names what is damaged",
				"inode", uint64(ino), "error", err)
		}
		if in := fs.held[ino]; in != nil {
			in.put()
		}
	}
}

func (fs *FS) reclaimOrphan(ino layout.Ino) error {
	in, err := fs.get(ino)
	if err == unix.ENOENT && !fs.isLeft(ino) {
		return nil // somebody has finished it, and removed it
	}
	if err != nil {
		return err
	}
	defer in.put() // frees the inode when it has no links
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.gone || in.Nlink == 0 || !in.orphan {
		return nil
	}
	_, first := blocksOf(0, in.Size)
	return fs.freeTail(in, first)
}

func (fs *FS) isLeft(ino layout.Ino) bool {
	fs.cacheMu.Lock()
	defer fs.cacheMu.Unlock()
	return fs.left[ino]
}

// Reclaimed waits until what a crash left is free, as far as Reclaim has begun
// with that.
func (fs *FS) Reclaimed() { fs.reclaim.Wait() }

// reclaimInode frees a removed inode, step by step. in.mu is held and nobody
// else has a reference.
func (fs *FS) reclaimInode(in *inode) error {
	if in.kind == layout.ModeDirectory && in.Size > 0 {
		return unix.ENOTEMPTY // removeNames has failed
	}
	for freed := false; !freed; {
		err := fs.transact(func(u *update) error {
			done, err := u.freeContents(u.edit(in))
			if err == nil && done {
				freed, err = true, u.freeInode(in)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// freeContents frees what an inode holds, but the names of a directory, until the
// step is full.
func (u *update) freeContents(in *layout.Inode) (done bool, err error) {
	switch {
	case in.Type() == layout.ModeDirectory && in.Size > 0:
		return false, nil // its names first
	case in.Type() == layout.ModeDirectory:
		done, err = u.freeDirStep(in)
	default:
		var at int64
		at, err = u.freeStep(in, 0, mapEnd)
		done = at >= mapEnd
	}
	if err != nil || !done {
		return false, err
	}
	for _, blob := range []*layout.Node{&in.Xattrs, &in.Target} {
		if err := u.freeBlob(in, *blob); err != nil {
			return false, err
		}
		*blob = 0
	}
	return true, nil
}

// descent is a directory of a tree that is being removed, and how far that is.
type descent struct {
	in   *inode
	from Cookie // names before it are removed
}

// removeBatch bounds the names that one transaction removes.
const removeBatch = 64

// removeNames removes all names under a directory that has none itself, the deepest
// first, and what they lead to, unless somebody has it open. Each transaction leaves
// a smaller tree behind, of which the next mount goes on with the rest: nothing is
// kept of the way but a position for each directory down to where it is.
func (fs *FS) removeNames(top *inode) error {
	way := []descent{{in: top}}
	defer func() {
		for _, d := range way[1:] {
			d.in.put()
		}
	}()
	top.mu.RLock()
	doomed := top.orphan && top.Nlink == 0 && top.Size > 0 && !top.gone
	top.mu.RUnlock()
	for doomed {
		select {
		case <-fs.stop:
			return unix.EBADF // the next mount goes on
		default:
		}
		below, done, err := fs.removeSome(&way[len(way)-1])
		switch {
		case err != nil:
			return err
		case below != nil && int64(len(way)) > fs.sb.Inodes:
			below.put()
			return layout.Corrupt("directory", -1, "%v is its own ancestor", below.ino)
		case below != nil:
			way = append(way, descent{in: below})
		case done && len(way) == 1:
			return nil
		case done:
			way[len(way)-1].in.put()
			way = way[:len(way)-1]
		}
	}
	return nil
}

// removeSome removes the next names of a directory in one transaction, up to one that
// leads to a directory with names: below, with a reference. done: there are none.
func (fs *FS) removeSome(d *descent) (below *inode, done bool, err error) {
	var children []*inode
	locked := 0
	d.in.mu.Lock()
	defer func() {
		for _, in := range children[:locked] {
			in.mu.Unlock()
		}
		d.in.mu.Unlock()
		for _, in := range children {
			if in != below {
				in.put() // may free it, if it is large
			}
		}
	}()
	list, err := fs.readDir(fs.journal.View, &d.in.Inode, d.from, removeBatch)
	switch {
	case err != nil || d.in.Size == 0:
		return nil, true, err
	case len(list) == 0 && d.from == 0:
		return nil, false, layout.Corrupt("directory", -1, "%v has %d names that are not there", d.in.ino, d.in.Size)
	case len(list) == 0:
		d.from = 0 // names have come meanwhile
		return nil, false, nil
	}
	for _, e := range list {
		in, err := fs.child(&d.in.Inode, e.Name)
		if err != nil {
			return nil, false, err
		}
		children = append(children, in)
		// The others only as far as nobody has them: the order of locks is that of numbers.
		if len(children) == 1 {
			in.mu.Lock()
		} else if !in.mu.TryLock() {
			break
		}
		if locked++; in.kind == layout.ModeDirectory && in.Size > 0 {
			if locked == 1 {
				return in, false, nil
			}
			in.mu.Unlock()
			locked--
			break
		}
	}
	return nil, false, fs.transact(func(u *update) error {
		want, now := u.edit(d.in), fs.now()
		for i, in := range children[:locked] {
			if i > 0 && u.Pages() >= stepPages/2 {
				break
			}
			if err := u.removeName(want, list[i].Name); err != nil {
				return err
			}
			if in.kind == layout.ModeDirectory && want.Nlink > 0 {
				want.Nlink--
			}
			if err := u.dropLink(in, now); err != nil {
				return err
			}
			d.from = list[i].Next
		}
		return nil
	})
}
