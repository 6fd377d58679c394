package core

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// RestoreSnapshot makes a directory what it was when a snapshot of it was taken: names,
// contents and attributes, but for SnapshotsName, atomically and durably. What is there becomes a
// clone of the snapshot, which stays. What was there goes: programs that have it open
// keep it, as files that were removed; so sealed and static files are no hindrance. It
// takes what Snapshot takes.
//
// All names in the directory itself change in one transaction. EFBIG: that would be
// longer than a quarter of the log, in which about 3,500 names fit for each MiB of the
// log. ENOTEMPTY: directories under it have snapshots of their own, which would go; the
// error names one. Nothing has changed then.
//
// Costs: those of Snapshot; one transaction; those of RemoveSnapshot.
func (f *FS) RestoreSnapshot(c Cred, dir layout.Ino, name string) error {
	if f.readOnly {
		return unix.EROFS
	}
	snapshot, err := f.findSnapshot(c, dir, name)
	if err != nil {
		return err
	}
	defer snapshot.put()
	top, dirs, _, err := f.cloneTree(snapshot, path.Join(SnapshotsName, name), 0, false)
	if top != nil {
		defer top.put() // whatever it holds then
	}
	if err != nil {
		return err
	}
	f.renameMu.Lock()
	defer f.renameMu.Unlock()
	d, err := f.ownedDir(c, dir)
	if err != nil {
		return err
	}
	defer d.unlockPut()
	if err := f.restore(d, top, dirs); err != nil {
		return err
	}
	return f.Commit()
}

// restore exchanges the names of a locked directory with those of an orphan that has
// dirs directories. renameMu is held.
func (f *FS) restore(d, top *inode, dirs uint32) error {
	t, err := f.lockDirs(d, true, "")
	if err != nil {
		return err
	}
	defer t.release()
	if err := t.refuseNested(false); err != nil {
		return err
	}
	top.mu.Lock()
	defer top.mu.Unlock()
	r, err := f.lockDirs(top, true, "")
	if err != nil {
		return err
	}
	defer r.release()
	old, restored := t.dirs[0], r.dirs[0]
	// Each name takes a word at least, and another one that says where it is.
	if n := int64(len(old.names) + len(restored.names)); n > f.sb.Log.Length/4/(2*layout.WordSize) {
		return tooManyNames(n)
	}
	err = f.transact(func(u *update) error {
		dw, tw := u.edit(d), u.edit(top)
		dw.Nlink += dirs
		dw.Nlink -= old.subdirs
		dw.Mode, dw.UID, dw.GID, dw.Atime, dw.Mtime, dw.Ctime = top.Mode, top.UID, top.GID, top.Atime, top.Mtime, f.now()
		if err := u.exchangeNames(dw, tw, old.names, restored.names); err != nil {
			return err
		}
		t.reparent(u, top.ino)
		r.reparent(u, d.ino)
		if err := u.freeBlob(dw, dw.Xattrs); err != nil {
			return err
		}
		dw.Xattrs, err = u.copyBlob(top.ino, top.Xattrs, dw)
		return err
	})
	if errors.Is(err, unix.EFBIG) {
		return tooManyNames(int64(len(old.names) + len(restored.names)))
	}
	return err
}

func tooManyNames(n int64) error {
	return fmt.Errorf("%d names stand in the directory and in its snapshot, not counting those below: too many to be "+
		"exchanged at once with a journal of this size (mkfs --journal): %w", n, unix.EFBIG)
}

// exchangeNames gives two directories each other's names.
func (u *update) exchangeNames(a, b *layout.Inode, as, bs []DirEntry) error {
	other := make(map[string]DirEntry, len(bs))
	for _, e := range bs {
		other[e.Name] = e
	}
	for _, e := range as {
		err := error(nil)
		if o, both := other[e.Name]; both {
			delete(other, e.Name)
			if err = u.replaceName(a, e.Name, o.Ino, o.Type); err == nil {
				err = u.replaceName(b, e.Name, e.Ino, e.Type)
			}
		} else {
			err = u.moveName(a, b, e)
		}
		if err != nil {
			return err
		}
	}
	for _, e := range bs { // not by the map: in the same order each time
		if _, left := other[e.Name]; left {
			if err := u.moveName(b, a, e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (u *update) moveName(from, to *layout.Inode, e DirEntry) error {
	if err := u.removeName(from, e.Name); err != nil {
		return err
	}
	return u.addName(to, e.Name, e.Ino, e.Type)
}

// reparent makes ".." of the directories in the first one another directory.
func (t *tree) reparent(u *update, parent layout.Ino) {
	for _, sub := range t.dirs[1:] {
		if sub.above.above != nil {
			break // those that are deeper come behind
		}
		u.edit(sub.in).Parent = parent
		u.OnDone(func(committed bool) {
			if committed {
				sub.in.parent = parent
			}
		})
	}
}
