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

// reclaimOrphans frees what a crash left: files and directories that were
// removed while open, and blocks beyond the end of files that were being
// truncated. It runs beside ordinary use; a failure leaves the orphan bit.
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
			slog.Error("reclaiming what was removed while open; pmemfs check names what is damaged", "inode", uint64(ino), "error", err)
		}
	}
}

func (fs *FS) reclaimOrphan(ino layout.Ino) error {
	in, err := fs.get(ino)
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

// Reclaimed waits until what a crash left is free.
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
