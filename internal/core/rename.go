package core

import (
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// Rename flags, as in renameat2(2).
const (
	RenameNoReplace = unix.RENAME_NOREPLACE
	RenameExchange  = unix.RENAME_EXCHANGE
)

// rename is one rename on its way: everything in it is locked, once lock has returned.
type rename struct {
	fs               *FS
	c                Cred
	oldDir, newDir   *inode
	oldName, newName string
	source           *inode
	target           *inode    // nil: the new name is free
	dirs, files      [2]*inode // that are locked, in this order; some may be nil
	exchange         bool
	noReplace        bool
}

// Rename moves a name, atomically, replacing what has the new name: at every
// instant, and after a crash, the new name leads to the old or to the new
// file. EINVAL when a directory would come under itself; ENOTEMPTY, EISDIR,
// ENOTDIR, EEXIST (with RenameNoReplace).
//
// Costs: one transaction, three lines streamed in one directory, five in two, and one
// fence; those of the file that is replaced, if it goes.
func (fs *FS) Rename(c Cred, oldDir layout.Ino, oldName string, newDir layout.Ino, newName string, flags uint32) error {
	switch {
	case fs.readOnly:
		return unix.EROFS
	case flags&^(RenameNoReplace|RenameExchange) != 0 || flags == RenameNoReplace|RenameExchange:
		return unix.EINVAL
	case isDots(oldName) || isDots(newName):
		return unix.EBUSY
	}
	if err := checkName(newName); err != nil {
		return err
	}
	fs.renameMu.Lock()
	defer fs.renameMu.Unlock()
	r := rename{fs: fs, c: c, oldName: oldName, newName: newName, exchange: flags == RenameExchange, noReplace: flags == RenameNoReplace}
	defer r.unlock() // also when a bad block ends it
	if err := r.lock(oldDir, newDir); err != nil {
		return err
	}
	if r.source == r.target {
		return nil // two names of one file: POSIX says nothing happens
	}
	if err := r.check(); err != nil {
		return err
	}
	return r.commit()
}

func isDots(name string) bool { return name == "." || name == ".." }

// lock locks the directories, ancestors first, and then the files. No
// directory moves meanwhile, because renameMu is held. What it has got when it
// fails, too, unlock gives back.
func (r *rename) lock(oldDir, newDir layout.Ino) error {
	oldAbove, err := r.fs.above(oldDir, newDir)
	if err != nil {
		return err
	}
	order := [2]layout.Ino{oldDir, newDir}
	if !oldAbove {
		order = [2]layout.Ino{newDir, oldDir}
	}
	for i, ino := range order {
		if i == 1 && ino == order[0] {
			break
		}
		dir, err := r.fs.lockedDir(r.c, ino)
		if err != nil {
			return err
		}
		r.dirs[i] = dir
		if ino == oldDir {
			r.oldDir = dir
		}
		if ino == newDir {
			r.newDir = dir
		}
	}
	return r.lockChildren()
}

func (r *rename) lockChildren() (err error) {
	if r.source, err = r.fs.child(&r.oldDir.Inode, r.oldName); err != nil {
		return err
	}
	r.target, err = r.fs.child(&r.newDir.Inode, r.newName)
	if err != nil && err != unix.ENOENT {
		return err
	}
	switch {
	case r.target == nil && r.exchange:
		return unix.ENOENT
	case r.target != nil && r.noReplace:
		return unix.EEXIST
	}
	if err := r.checkCycles(); err != nil {
		return err
	}
	order := [2]*inode{r.source, r.target}
	switch {
	case r.target == r.source:
		order[1] = nil
	case r.target != nil && r.target.ino < r.source.ino:
		order = [2]*inode{r.target, r.source}
	}
	for i, in := range order {
		if in != nil {
			in.mu.Lock()
			r.files[i] = in
		}
	}
	return nil
}

// unlock unlocks what lock has locked, the files first.
func (r *rename) unlock() {
	for _, in := range r.files {
		if in != nil {
			in.mu.Unlock()
		}
	}
	for _, in := range [2]*inode{r.target, r.source} {
		if in != nil {
			in.put()
		}
	}
	for _, dir := range [2]*inode{r.dirs[1], r.dirs[0]} {
		if dir != nil {
			dir.unlockPut()
		}
	}
}

// checkCycles refuses to move a directory below itself, and finds the
// children that are locked already because they are one of the directories.
func (r *rename) checkCycles() error {
	if below, err := r.fs.above(r.source.ino, r.newDir.ino); err != nil {
		return err
	} else if below {
		return unix.EINVAL
	}
	if r.target == nil {
		return nil
	}
	if below, err := r.fs.above(r.target.ino, r.oldDir.ino); err != nil {
		return err
	} else if below {
		if r.exchange {
			return unix.EINVAL
		}
		return unix.ENOTEMPTY
	}
	return nil
}

// above reports whether directory a is b or an ancestor of b. renameMu is
// held, so parents do not change; each parent is read once.
func (fs *FS) above(a, b layout.Ino) (bool, error) {
	for depth := 0; ; depth++ {
		if a == b {
			return true, nil
		}
		if b == layout.RootIno {
			return false, nil
		}
		in, err := fs.get(b)
		if err != nil {
			return false, err
		}
		parent, directory := in.parent, in.kind == layout.ModeDirectory
		in.put()
		if !directory {
			return false, unix.ENOTDIR
		}
		if parent == b || depth > int(fs.sb.Inodes) {
			return false, layout.Corrupt("directory", -1, "%v is its own ancestor", b)
		}
		b = parent
	}
}

// check makes the checks that need the files locked.
func (r *rename) check() error {
	if err := r.c.mayRemove(&r.oldDir.Inode, &r.source.Inode); err != nil {
		return err
	}
	if r.source.frozen || r.target != nil && r.target.frozen {
		return unix.EROFS
	}
	sourceDir := r.source.Type() == layout.ModeDirectory
	if sourceDir && r.oldDir != r.newDir {
		if err := r.c.allows(&r.source.Inode, CanWrite); err != nil {
			return err // its ".." changes
		}
	}
	if r.target == nil {
		return nil
	}
	if err := r.c.mayRemove(&r.newDir.Inode, &r.target.Inode); err != nil {
		return err
	}
	if r.exchange {
		return nil
	}
	return r.target.removable(sourceDir)
}

// commit writes the rename: one transaction, one fence.
func (r *rename) commit() error {
	u, err := r.fs.begin()
	if err != nil {
		return err
	}
	defer u.Abort()
	now := r.fs.now()
	od, nd, source := u.edit(r.oldDir), u.edit(r.newDir), u.edit(r.source)
	source.Ctime = now
	od.Mtime, od.Ctime, nd.Mtime, nd.Ctime = now, now, now, now
	r.reparent(source, od, nd)
	switch {
	case r.exchange:
		target := u.edit(r.target)
		target.Ctime = now
		r.reparent(target, nd, od)
		err = u.replaceName(od, r.oldName, target.Ino, target.Mode)
		if err == nil {
			err = u.replaceName(nd, r.newName, source.Ino, source.Mode)
		}
	case r.target != nil:
		if r.target.Type() == layout.ModeDirectory {
			nd.Nlink--
		}
		if err = u.dropLink(r.target, now); err == nil {
			err = u.replaceName(nd, r.newName, source.Ino, source.Mode)
		}
		if err == nil {
			err = u.removeName(od, r.oldName)
		}
	default:
		if err = u.removeName(od, r.oldName); err == nil {
			err = u.addName(nd, r.newName, source.Ino, source.Mode)
		}
	}
	if err != nil {
		return err
	}
	if err := u.commit(); err != nil {
		return err
	}
	r.source.parent = r.newDir.ino
	if r.exchange {
		r.target.parent = r.oldDir.ino
	}
	return nil
}

// reparent moves a directory's ".." and the link it gives to its parent.
func (r *rename) reparent(in, from, to *layout.Inode) {
	if in.Type() == layout.ModeDirectory && from != to {
		in.Parent = to.Ino
		from.Nlink--
		to.Nlink++
	}
}
