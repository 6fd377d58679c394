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
// background: files and directories that were removed while open, and blocks
// beyond the end of files that were being truncated. What is open goes with its
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
		if err := fs.reclaimOrphan(ino); err != nil && !errors.Is(err, unix.EBADF) {
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

// freeContents frees what an inode holds, until the step is full.
func (u *update) freeContents(in *layout.Inode) (done bool, err error) {
	if in.Type() == layout.ModeDirectory {
		done, err = u.freeDirStep(in)
	} else {
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
