package core

import (
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// lockedDir returns dir locked for changes, after the checks that every
// change of a directory makes. The caller unlocks and puts it.
func (fs *FS) lockedDir(c Cred, ino layout.Ino) (*inode, error) {
	if fs.readOnly {
		return nil, unix.EROFS
	}
	dir, err := fs.get(ino)
	if err != nil {
		return nil, err
	}
	dir.mu.Lock()
	if err := dir.changeable(c); err != nil {
		dir.mu.Unlock()
		dir.put()
		return nil, err
	}
	return dir, nil
}

// changeable checks that names can be added to or removed from a directory.
func (in *inode) changeable(c Cred) error {
	switch {
	case in.Type() != layout.ModeDirectory:
		return unix.ENOTDIR
	case in.gone || in.Nlink == 0:
		return unix.ENOENT
	case in.frozen:
		return unix.EROFS
	}
	return c.allows(&in.Inode, CanWrite|CanExecute)
}

func (in *inode) unlockPut() {
	in.mu.Unlock()
	in.put()
}

// Lookup finds a name in a directory. The name "." is the directory, ".." its
// parent. ENOENT, ENOTDIR, EACCES.
func (fs *FS) Lookup(c Cred, dir layout.Ino, name string) (Attr, error) {
	if isDots(name) {
		ino, err := fs.lookupDots(c, dir, name)
		if err != nil {
			return Attr{}, err
		}
		return fs.GetAttr(ino)
	}
	d, err := fs.get(dir)
	if err != nil {
		return Attr{}, err
	}
	defer d.put()
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.searchable(c); err != nil {
		return Attr{}, err
	}
	// While the directory is locked the name cannot go, nor the inode's number
	// be used for another.
	in, err := fs.child(&d.Inode, name)
	if err != nil {
		return Attr{}, err
	}
	defer in.put()
	in.mu.RLock()
	defer in.mu.RUnlock()
	return attr(&in.Inode), nil
}

// searchable checks that names can be looked up in a directory.
func (in *inode) searchable(c Cred) error {
	if in.Type() != layout.ModeDirectory {
		return unix.ENOTDIR
	}
	return c.allows(&in.Inode, CanExecute)
}

func (fs *FS) lookupDots(c Cred, dir layout.Ino, name string) (layout.Ino, error) {
	d, err := fs.get(dir)
	if err != nil {
		return 0, err
	}
	defer d.put()
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.searchable(c); err != nil {
		return 0, err
	}
	if name == "." {
		return dir, nil
	}
	return d.Parent, nil
}

// Create makes a file, directory, fifo, socket or device (mode holds the type
// and the permissions, rdev a device's number). EEXIST when the name is taken,
// ENOSPC when there are no inodes, nodes left.
//
// Costs: one transaction, some five lines streamed (the inode, the directory's times
// and size, a slot of its bucket, a bit) and one fence; so do those of the others that
// make or remove a name.
func (fs *FS) Create(c Cred, dir layout.Ino, name string, mode uint32, rdev uint64) (Attr, error) {
	switch mode & layout.ModeType {
	case layout.ModeRegular, layout.ModeDirectory, layout.ModeFIFO, layout.ModeSocket, layout.ModeChar, layout.ModeBlock:
	default:
		return Attr{}, unix.EINVAL
	}
	return fs.create(c, dir, name, mode, func(u *update, in *inode) error {
		u.edit(in).Rdev = rdev
		return nil
	})
}

// CreateFile makes a regular file, as Create does, and opens it.
func (fs *FS) CreateFile(c Cred, dir layout.Ino, name string, mode uint32) (*Node, error) {
	var n *Node
	_, err := fs.create(c, dir, name, layout.ModeRegular|mode&layout.ModePerm, func(u *update, in *inode) error {
		u.enter(in, u.edit(in))
		n = &Node{in: in}
		return nil
	})
	if n != nil {
		n.in.mu.Unlock() // enter has locked it
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

// Symlink makes a symbolic link; target is 1 to 4095 bytes.
func (fs *FS) Symlink(c Cred, dir layout.Ino, name, target string) (Attr, error) {
	switch {
	case target == "":
		return Attr{}, unix.ENOENT
	case len(target) > layout.MaxTarget:
		return Attr{}, unix.ENAMETOOLONG
	}
	return fs.create(c, dir, name, layout.ModeSymlink|0o777, func(u *update, in *inode) (err error) {
		want := u.edit(in)
		want.Size = int64(len(target))
		want.Target, err = u.writeBlob(want, []byte(target))
		return err
	})
}

func (fs *FS) create(c Cred, parent layout.Ino, name string, mode uint32, fill func(*update, *inode) error) (Attr, error) {
	dir, err := fs.lockedDir(c, parent)
	if err != nil {
		return Attr{}, err
	}
	defer dir.unlockPut()
	if err := fs.absent(&dir.Inode, name); err != nil {
		return Attr{}, err
	}
	u, err := fs.begin()
	if err != nil {
		return Attr{}, err
	}
	defer u.Abort()
	in, want, err := u.newInode(c, &dir.Inode, mode)
	if err != nil {
		return Attr{}, err
	}
	if err := u.inherit(c, &dir.Inode, want); err != nil {
		return Attr{}, err
	}
	if err := fill(u, in); err != nil {
		return Attr{}, err
	}
	d := u.edit(dir)
	if err := u.addName(d, name, in.ino, mode); err != nil {
		return Attr{}, err
	}
	if want.Type() == layout.ModeDirectory {
		if d.Nlink++; d.Nlink >= layout.MaxLinks {
			return Attr{}, unix.EMLINK
		}
	}
	d.Mtime, d.Ctime = want.Btime, want.Btime
	if err := u.commit(); err != nil {
		return Attr{}, err
	}
	return attr(&in.Inode), nil
}

// absent returns nil when a locked directory can get the name: EEXIST when it has it.
func (fs *FS) absent(dir *layout.Inode, name string) error {
	if isDots(name) {
		return unix.EEXIST
	}
	_, err := fs.lookup(fs.journal.View, dir, name)
	switch err {
	case nil:
		return unix.EEXIST
	case unix.ENOENT:
		return nil
	}
	return err
}

// CreateUnnamed makes a regular file without a name, below a directory as to
// its group and ACL, and opens it: see O_TMPFILE in open(2). It goes with its
// last Node, unless Link has given it a name.
func (fs *FS) CreateUnnamed(c Cred, parent layout.Ino, mode uint32) (*Node, error) {
	dir, err := fs.lockedDir(c, parent)
	if err != nil {
		return nil, err
	}
	defer dir.unlockPut()
	u, err := fs.begin()
	if err != nil {
		return nil, err
	}
	defer u.Abort()
	in, want, err := u.newInode(c, &dir.Inode, layout.ModeRegular|mode&layout.ModePerm)
	if err != nil {
		return nil, err
	}
	want.Nlink = 0
	if err := u.inherit(c, &dir.Inode, want); err != nil {
		return nil, err
	}
	if err := u.setOrphan(in); err != nil {
		return nil, err
	}
	u.OnDone(func(committed bool) {
		if committed { // who loads it finds it to be an orphan
			fs.cacheMu.Lock()
			fs.left[in.ino] = true
			fs.cacheMu.Unlock()
		}
	})
	if err := u.commit(); err != nil {
		return nil, err
	}
	return fs.Adopt(in.ino, want.Generation)
}

// Link adds a name for an existing file. EPERM for directories, ENOENT for one
// without a name, unless c's checks are made already.
func (fs *FS) Link(c Cred, ino layout.Ino, dir layout.Ino, name string) (Attr, error) {
	in, err := fs.get(ino)
	if err != nil {
		return Attr{}, err
	}
	defer in.put()
	d, err := fs.lockedDir(c, dir)
	if err != nil {
		return Attr{}, err
	}
	defer d.unlockPut()
	switch {
	case in.kind == layout.ModeDirectory:
		return Attr{}, unix.EPERM
	case in.frozen:
		return Attr{}, unix.EROFS
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := fs.absent(&d.Inode, name); err != nil {
		return Attr{}, err
	}
	switch {
	case in.gone || in.Nlink == 0 && !c.Checked:
		return Attr{}, unix.ENOENT
	case in.Nlink+1 >= layout.MaxLinks:
		return Attr{}, unix.EMLINK
	}
	u, err := fs.begin()
	if err != nil {
		return Attr{}, err
	}
	defer u.Abort()
	now := fs.now()
	want, dw := u.edit(in), u.edit(d)
	if err := u.addName(dw, name, in.ino, in.Mode); err != nil {
		return Attr{}, err
	}
	if want.Nlink++; want.Nlink == 1 {
		if err := u.clearOrphan(in); err != nil {
			return Attr{}, err
		}
	}
	want.Ctime, dw.Mtime, dw.Ctime = now, now, now
	if err := u.commit(); err != nil {
		return Attr{}, err
	}
	return attr(&in.Inode), nil
}

// Unlink removes a name of a file. The file goes with its last name and its
// last open Node. EISDIR for a directory.
func (fs *FS) Unlink(c Cred, dir layout.Ino, name string) error {
	return fs.remove(c, dir, name, false)
}

// Rmdir removes an empty directory. ENOTEMPTY, ENOTDIR; EINVAL for ".".
func (fs *FS) Rmdir(c Cred, dir layout.Ino, name string) error {
	switch name {
	case ".":
		return unix.EINVAL
	case "..":
		return unix.ENOTEMPTY
	}
	return fs.remove(c, dir, name, true)
}

func (fs *FS) remove(c Cred, parent layout.Ino, name string, directory bool) error {
	var in *inode
	defer func() {
		if in != nil {
			in.put() // may free a large file: after the directory is unlocked
		}
	}()
	dir, err := fs.lockedDir(c, parent)
	if err != nil {
		return err
	}
	defer dir.unlockPut()
	if name == "." || name == ".." {
		return unix.EISDIR
	}
	if in, err = fs.child(&dir.Inode, name); err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := c.mayRemove(&dir.Inode, &in.Inode); err != nil {
		return err
	}
	if err := in.removable(directory); err != nil {
		return err
	}
	u, err := fs.begin()
	if err != nil {
		return err
	}
	defer u.Abort()
	d := u.edit(dir)
	if err := u.removeName(d, name); err != nil {
		return err
	}
	now := fs.now()
	d.Mtime, d.Ctime = now, now
	if directory {
		d.Nlink--
	}
	if err := u.dropLink(in, now); err != nil {
		return err
	}
	return u.commit()
}

// child returns the inode that a name of a locked directory leads to.
func (fs *FS) child(dir *layout.Inode, name string) (*inode, error) {
	slot, err := fs.lookup(fs.journal.View, dir, name)
	if err != nil {
		return nil, err
	}
	if slot.Ino == dir.Ino { // it would be locked twice
		return nil, layout.Corrupt("directory", -1, "%q in %v leads to itself", name, dir.Ino)
	}
	in, err := fs.get(slot.Ino)
	if err == unix.ENOENT {
		return nil, layout.Corrupt("directory", -1, "%q in %v leads to free %v", name, dir.Ino, slot.Ino)
	}
	return in, err
}

func (in *inode) removable(directory bool) error {
	isDir := in.Type() == layout.ModeDirectory
	switch {
	case directory && !isDir:
		return unix.ENOTDIR
	case !directory && isDir:
		return unix.EISDIR
	case in.frozen: // it goes with all of its snapshot: see FS.RemoveSnapshot
		return unix.EROFS
	case isDir && in.ino == layout.RootIno:
		return unix.EBUSY
	case isDir && in.Size > 0:
		return unix.ENOTEMPTY
	}
	return nil
}

// dropLink takes one link from a file, or all from an empty directory. What
// has none left is freed in the same transaction when nobody else uses it and
// it is small; otherwise it becomes an orphan and goes with its last
// reference. The caller holds in.mu and a reference.
func (u *update) dropLink(in *inode, now int64) error {
	want := u.edit(in)
	want.Ctime = now
	if want.Nlink--; want.Type() == layout.ModeDirectory {
		want.Nlink = 0
	}
	if want.Nlink > 0 {
		return nil
	}
	if in.lastReference() {
		done, err := u.freeContents(want)
		if err != nil {
			return err
		}
		if done {
			return u.freeInode(in)
		}
	}
	return u.setOrphan(in)
}
