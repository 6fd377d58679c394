package core

import (
	"cmp"
	"fmt"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// SnapshotOptions for FS.Snapshot. The zero value is a read-only snapshot of all files.
type SnapshotOptions struct {
	Writable bool // it can be changed as any other files
	// SkipSealed leaves those files out of which blocks must stay where they are
	// and be nobody else's: static, sealed and pinned ones. Else they are an error.
	SkipSealed bool
}

// Snapshot makes a clone of all files and directories under a directory, which then
// is the directory name in SnapshotsName in it. It shows one instant, of all files,
// also of what clients store through mappings: they lose the right to store, in all
// files, before the first is cloned. Attributes, times, extended attributes and hard
// links between the files are kept; directories of the name SnapshotsName are not part
// of it. After a crash it is there wholly or not at all.
//
// Of a read-only snapshot nothing can be changed by anybody: EROFS; it can be removed
// as a whole. It is durable on return.
//
// It takes the owner of the directory (or user 0), who may write to it: EPERM, EACCES.
// Errors about a file are a *FileError: ErrStatic or that of the Breaker for what
// SkipSealed leaves out, EBUSY when a client does not give up the right to store.
// ENOSPC, EEXIST; ENOTDIR when SnapshotsName is none. Nothing has changed then. It
// returns the paths of the files that were skipped.
//
// Costs: for each file what tree and treeClone say; the names in the directories stay
// as they are meanwhile, and each file until it is cloned.
func (f *FS) Snapshot(c Cred, dir layout.Ino, name string, o SnapshotOptions) (skipped []string, err error) {
	if f.readOnly {
		return nil, unix.EROFS
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	err = f.withSnapshots(c, dir, true, func(_, snapshots *inode) error { return f.mayName(snapshots, name) })
	if err != nil {
		return nil, err // now rather than when all is cloned
	}
	var flags uint8
	if !o.Writable {
		flags = layout.FlagReadOnly
	}
	d, err := f.get(dir)
	if err != nil {
		return nil, err
	}
	defer d.put()
	top, dirs, skipped, err := f.cloneTree(d, "", flags, o.SkipSealed)
	if top != nil {
		defer top.put() // if it has got no name all of it goes
	}
	if err != nil {
		return nil, err
	}
	if err := f.nameSnapshot(c, dir, name, top, dirs); err != nil {
		return nil, err
	}
	return skipped, f.Commit()
}

// cloneTree clones the tree of a directory, which has a name in errors: see tree.clone.
func (f *FS) cloneTree(
	d *inode, name string, flags uint8, skip bool,
) (top *inode, dirs uint32, skipped []string, err error) {
	f.renameMu.Lock()
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.searchable(Cred{}); err != nil || d.gone || d.Nlink == 0 {
		f.renameMu.Unlock()
		return nil, 0, nil, cmp.Or(err, error(unix.ENOENT))
	}
	t, err := f.lockDirs(d, false, name)
	f.renameMu.Unlock()
	if err != nil {
		return nil, 0, nil, err
	}
	defer t.release()
	if err := t.lockFiles(); err != nil {
		return nil, 0, nil, err
	}
	if err := t.still(skip); err != nil {
		return nil, 0, nil, err
	}
	top, dirs, err = t.clone(flags)
	return top, dirs, t.skippedPaths(), err
}

// ownedDir is lockedDir for the owner of the directory. EPERM.
func (f *FS) ownedDir(c Cred, dir layout.Ino) (*inode, error) {
	d, err := f.lockedDir(c, dir)
	if err == nil && !c.owns(&d.Inode) {
		d.unlockPut()
		return nil, unix.EPERM
	}
	return d, err
}

// withSnapshots calls fn with a directory, which belongs to who asks, and with that of
// its snapshots, both locked for changes. When there is none that is nil with create,
// else it is ENOENT.
func (f *FS) withSnapshots(c Cred, dir layout.Ino, create bool, fn func(d, snapshots *inode) error) error {
	d, err := f.ownedDir(c, dir)
	if err != nil {
		return err
	}
	defer d.unlockPut()
	snapshots, err := f.child(&d.Inode, SnapshotsName)
	switch {
	case err == unix.ENOENT && create:
		return fn(d, nil)
	case err == unix.ENOENT:
		return fmt.Errorf("the directory has no snapshots: %w", err)
	case err != nil:
		return err
	}
	defer snapshots.put()
	if snapshots.kind != layout.ModeDirectory {
		return fmt.Errorf("%s is no directory: %w", SnapshotsName, unix.ENOTDIR)
	}
	snapshots.mu.Lock()
	defer snapshots.mu.Unlock()
	return fn(d, snapshots)
}

// mayName checks that a snapshot can have a name. snapshots is nil or locked.
func (f *FS) mayName(snapshots *inode, name string) error {
	if snapshots == nil {
		return nil
	}
	return f.absent(&snapshots.Inode, name)
}

// nameSnapshot gives a cloned tree its name, in one transaction.
func (f *FS) nameSnapshot(c Cred, dir layout.Ino, name string, top *inode, dirs uint32) error {
	f.renameMu.Lock() // the parent changes
	defer f.renameMu.Unlock()
	return f.withSnapshots(c, dir, true, func(d, snapshots *inode) error {
		if err := f.mayName(snapshots, name); err != nil {
			return err
		}
		top.mu.Lock()
		defer top.mu.Unlock()
		return f.transact(func(u *update) error {
			sw, err := u.snapshotsDir(d, snapshots)
			if err != nil {
				return err
			}
			want, now := u.edit(top), f.now()
			want.Nlink, want.Parent, want.Btime = 2+dirs, sw.Ino, now
			sw.Mtime, sw.Ctime = now, now
			if sw.Nlink++; sw.Nlink >= layout.MaxLinks {
				return unix.EMLINK
			}
			if err := u.addName(sw, name, top.ino, top.Mode); err != nil {
				return err
			}
			u.OnDone(func(committed bool) {
				if committed {
					top.parent = sw.Ino
				}
			})
			return u.clearOrphan(top)
		})
	})
}

// snapshotsDir is the directory of the snapshots of d. One that is made belongs to whom
// d belongs, who alone can change it.
func (u *update) snapshotsDir(d, snapshots *inode) (*layout.Inode, error) {
	if snapshots != nil {
		return u.edit(snapshots), nil
	}
	dw := u.edit(d)
	owner := Cred{UID: d.UID, GID: d.GID}
	_, want, err := u.newInode(owner, &layout.Inode{Ino: d.ino}, layout.ModeDirectory|d.Mode&0o755)
	if err != nil {
		return nil, err
	}
	dw.Nlink, dw.Mtime, dw.Ctime = dw.Nlink+1, want.Btime, want.Btime
	return want, u.addName(dw, SnapshotsName, want.Ino, want.Mode)
}

// snapshot reports whether the inode is the first directory of a snapshot.
func (in *inode) snapshot() bool { return in.kind == layout.ModeDirectory && in.Origin.Ino != 0 }

// errNoSnapshot: what is in the directory of the snapshots need not be one.
var errNoSnapshot = fmt.Errorf("it is no snapshot: %w", unix.EINVAL)

// RemoveSnapshot removes a snapshot of a directory, read-only or not, with all files in
// it: atomically, by its name, durably. On return what it had is free, but for what others have
// open, and blocks that other files share. It takes what Snapshot takes. ENOENT; EINVAL
// for what is no snapshot; ENOTEMPTY when it has snapshots of its own.
//
// Costs: one transaction; then for each file a part of another one and what its block
// map has. After a crash in that the next mount goes on with it, in the background.
func (f *FS) RemoveSnapshot(c Cred, dir layout.Ino, name string) error {
	var top *inode
	defer func() {
		if top != nil {
			top.put() // when nothing is locked any more
		}
	}()
	f.renameMu.Lock()
	defer f.renameMu.Unlock()
	err := f.withSnapshots(c, dir, false, func(_, snapshots *inode) (err error) {
		if top, err = f.child(&snapshots.Inode, name); err != nil {
			return err
		}
		top.mu.Lock()
		defer top.mu.Unlock()
		if !top.snapshot() {
			return errNoSnapshot
		}
		if err := f.refuseNested(top, name); err != nil {
			return err
		}
		return f.transact(func(u *update) error {
			sw, now := u.edit(snapshots), f.now()
			sw.Nlink, sw.Mtime, sw.Ctime = sw.Nlink-1, now, now
			if err := u.removeName(sw, name); err != nil {
				return err
			}
			return u.dropLink(top, now)
		})
	})
	if err != nil {
		return err
	}
	return f.Commit()
}

// refuseNested refuses to remove a snapshot that has snapshots of its own.
func (f *FS) refuseNested(top *inode, name string) error {
	if top.frozen { // none could be made
		return nil
	}
	t, err := f.lockDirs(top, false, path.Join(SnapshotsName, name))
	if err != nil {
		return err
	}
	defer t.release()
	return t.refuseNested(true)
}

// SnapshotInfo describes a snapshot. The JSON names are a contract with scripts.
type SnapshotInfo struct {
	Name     string `json:"name"`
	Time     int64  `json:"time"` // ns since 1970
	ReadOnly bool   `json:"readonly"`
	Files    int64  `json:"files"` // names that lead to something else than a directory
}

// Snapshots lists the snapshots of a directory, the oldest first. It takes the right to
// read the directory of the snapshots.
//
// Costs: a look at each name in them.
func (f *FS) Snapshots(c Cred, dir layout.Ino) ([]SnapshotInfo, error) {
	a, err := f.Lookup(c, dir, SnapshotsName)
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []SnapshotInfo
	err = f.eachName(c, a.Ino, func(e DirEntry) error {
		in, err := f.get(e.Ino)
		if err == unix.ENOENT {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		defer in.put()
		in.mu.RLock()
		info, ok := SnapshotInfo{Name: e.Name, Time: in.Btime, ReadOnly: in.frozen}, in.snapshot()
		in.mu.RUnlock()
		if !ok {
			return nil
		}
		if info.Files, err = f.countFiles(e.Ino); err == nil {
			out = append(out, info)
		}
		return err
	})
	slices.SortFunc(out, func(a, b SnapshotInfo) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Name, b.Name))
	})
	return out, err
}

// eachName calls fn for the names in a directory.
func (f *FS) eachName(c Cred, dir layout.Ino, fn func(DirEntry) error) error {
	const some = 1000
	for from := Cookie(0); ; {
		list, err := f.ReadDir(c, dir, from, some)
		if err != nil || len(list) == 0 {
			return err
		}
		for _, e := range list {
			if err := fn(e); err != nil {
				return err
			}
			from = e.Next
		}
	}
}

// countFiles counts the names under a directory that lead to no directory.
func (f *FS) countFiles(dir layout.Ino) (files int64, err error) {
	for dirs := []layout.Ino{dir}; err == nil && len(dirs) > 0; {
		at := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		err = f.eachName(Cred{}, at, func(e DirEntry) error {
			switch {
			case e.Type != layout.ModeDirectory:
				files++
			case e.Name != SnapshotsName:
				dirs = append(dirs, e.Ino)
			}
			return nil
		})
		if err == unix.ENOENT {
			err = nil // removed meanwhile
		}
	}
	return files, err
}
