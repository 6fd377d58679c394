package core

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// SnapshotsName is the directory in which the snapshots of the directory above it
// are. Directories of this name are not part of what a snapshot is taken of.
const SnapshotsName = ".snapshots"

// tree is the directories and files under a directory, all locked at the same time.
//
// Invariant: dirs are locked, ancestors first, the first by who has made the tree and
// the others by it, for reading or, if exclusive, for writing: so no name in them
// changes. files are in the order of their numbers; those that are locked cannot be
// stored to once they are still. Each inode is in one of the two once.
//
// Costs: some 600 bytes of memory for each file.
type tree struct {
	fs        *FS
	exclusive bool
	dirs      []*treeDir
	files     []*treeFile
	dirOf     map[layout.Ino]*treeDir
	fileOf    map[layout.Ino]*treeFile
	nested    []string // directories of snapshots of its directories, if there are any in them
}

// treeDir is a directory of a tree.
type treeDir struct {
	in      *inode
	above   *treeDir // nil: it is the first
	name    string   // in above; of the first one the path in errors
	names   []DirEntry
	subdirs uint32 // of these

	clone    *inode // that treeClone has made of it
	finished bool   // with all names
}

// treeFile is what is no directory, by whatever names it is in the tree.
type treeFile struct {
	in      *inode
	dir     *treeDir // has one of the names
	name    string
	locked  bool
	skipped bool   // it cannot be part of a snapshot
	clone   *inode // that treeClone has made of it, if it may have other names
}

func (d *treeDir) path(name string) string {
	for ; d != nil; d = d.above {
		name = path.Join(d.name, name)
	}
	return name
}

// lockDirs locks the directories under one that is locked, and has a name in errors.
// renameMu is held until it returns: which directory is above which does not change.
func (f *FS) lockDirs(top *inode, exclusive bool, name string) (*tree, error) {
	first := &treeDir{in: top, name: name}
	t := &tree{fs: f, exclusive: exclusive, dirs: []*treeDir{first}, dirOf: map[layout.Ino]*treeDir{top.ino: first}}
	for i := 0; i < len(t.dirs); i++ { // which grows
		if err := f.Guard(func() error { return t.read(t.dirs[i]) }); err != nil {
			t.release()
			return nil, err
		}
	}
	return t, nil
}

// read reads the names of a directory of the tree and locks the directories in it.
func (t *tree) read(d *treeDir) error {
	const some = 1000
	for from := Cookie(0); ; {
		list, err := t.fs.readDir(t.fs.journal.View, &d.in.Inode, from, some)
		if err != nil {
			return err
		}
		for _, e := range list {
			from = e.Next
			switch {
			case e.Type != layout.ModeDirectory:
			case e.Name == SnapshotsName:
				if err := t.noteNested(d, e.Ino); err != nil {
					return err
				}
				continue
			default:
				if err := t.addDir(d, e); err != nil {
					return err
				}
			}
			d.names = append(d.names, e)
		}
		if len(list) == 0 {
			return nil
		}
	}
}

func (t *tree) noteNested(d *treeDir, ino layout.Ino) error {
	a, err := t.fs.GetAttr(ino)
	if a.Size > 0 {
		t.nested = append(t.nested, d.path(SnapshotsName))
	}
	return err
}

func (t *tree) addDir(above *treeDir, e DirEntry) error {
	in, err := t.fs.child(&above.in.Inode, e.Name)
	if err != nil {
		return err
	}
	if t.dirOf[e.Ino] != nil || in.kind != layout.ModeDirectory || in.parent != above.in.ino {
		in.put()
		return layout.Corrupt("directory", -1, "%q in %v leads to %v, which is elsewhere, too", e.Name, above.in.ino, e.Ino)
	}
	if t.exclusive {
		in.mu.Lock()
	} else {
		in.mu.RLock()
	}
	d := &treeDir{in: in, above: above, name: e.Name}
	above.subdirs++
	t.dirs, t.dirOf[e.Ino] = append(t.dirs, d), d
	return nil
}

// lockFiles locks the files, too.
func (t *tree) lockFiles() error {
	t.fileOf = map[layout.Ino]*treeFile{}
	for _, d := range t.dirs {
		for _, e := range d.names {
			if e.Type == layout.ModeDirectory || t.fileOf[e.Ino] != nil {
				continue
			}
			in, err := t.fs.child(&d.in.Inode, e.Name)
			if err != nil {
				return err
			}
			f := &treeFile{in: in, dir: d, name: e.Name}
			t.fileOf[e.Ino] = f
			t.files = append(t.files, f)
			if in.kind == layout.ModeDirectory {
				return layout.Corrupt("directory", -1, "%q in %v leads to a directory", e.Name, d.in.ino)
			}
		}
	}
	slices.SortFunc(t.files, func(a, b *treeFile) int { return cmp.Compare(a.in.ino, b.in.ino) })
	for _, f := range t.files {
		f.in.mu.Lock()
		f.locked = true
	}
	return nil
}

// still makes the locked files still, so that what they all hold is what they hold at
// one instant, or marks those as skipped of which blocks must stay the file's own.
// Without skip the first of them is an error, before anything has been taken from
// anybody.
func (t *tree) still(skip bool) error {
	for _, f := range t.files {
		if f.in.kind != layout.ModeRegular || f.in.frozen {
			continue
		}
		_, end := blocksOf(0, f.in.Size)
		switch err := f.in.mayChange(0, end); {
		case err != nil && !skip:
			return f.error(err)
		case err != nil:
			f.skipped = true
			f.unlock()
			continue
		}
		if err := f.in.finishTruncate(); err != nil {
			return f.error(err)
		}
	}
	return t.breakAll()
}

// breakers is how many files are made still at the same time: what takes time is that
// a client, of which each may have some of the files, is scheduled and answers.
const breakers = 32

func (t *tree) breakAll() error {
	var next atomic.Int64
	var all sync.WaitGroup
	errs := make([]error, min(breakers, len(t.files)))
	for i := range errs {
		all.Go(func() {
			for n := next.Add(1) - 1; n < int64(len(t.files)) && errs[i] == nil; n = next.Add(1) - 1 {
				f := t.files[n]
				if _, end := blocksOf(0, f.in.Size); f.in.kind == layout.ModeRegular && !f.skipped {
					if err := t.fs.Guard(func() error { return f.in.still(0, end) }); err != nil {
						errs[i] = f.error(err)
					}
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// FileError is an error about one of the files under a directory.
type FileError struct {
	Path string // from the directory on
	Err  error
}

func (e *FileError) Error() string { return e.Path + ": " + e.Err.Error() }
func (e *FileError) Unwrap() error { return e.Err }

func (f *treeFile) error(err error) error { return &FileError{f.dir.path(f.name), err} }

func (f *treeFile) unlock() {
	if f.locked {
		f.locked = false
		f.in.mu.Unlock()
	}
}

// skippedPaths is the names of the skipped files.
func (t *tree) skippedPaths() (out []string) {
	for _, d := range t.dirs {
		for _, e := range d.names {
			if f := t.fileOf[e.Ino]; f != nil && f.skipped {
				out = append(out, d.path(e.Name))
			}
		}
	}
	slices.Sort(out)
	return out
}

// release unlocks everything but the first directory.
func (t *tree) release() {
	for _, f := range t.files {
		f.unlock()
	}
	for _, d := range t.dirs[1:] {
		if t.exclusive {
			d.in.mu.Unlock()
		} else {
			d.in.mu.RUnlock()
		}
	}
	for _, f := range t.files {
		f.in.put()
	}
	for _, d := range t.dirs[1:] {
		d.in.put()
	}
}

// refuseNested is the error of what would remove the tree with snapshots of its own.
// Those of the first directory count with own.
func (t *tree) refuseNested(own bool) error {
	for _, p := range t.nested {
		if own || p != SnapshotsName {
			return &FileError{p, fmt.Errorf("there are snapshots in it, which are to be removed first: %w", unix.ENOTEMPTY)}
		}
	}
	return nil
}

// treeClone makes clones of all of a tree, under a directory without a name: an
// orphan, so that a crash leaves nothing of it. It goes in steps.
//
// Invariant: between the steps the clones of directories that are not finished are
// locked, with a reference; what files they have nobody can know.
type treeClone struct {
	t     *tree
	flags uint8  // of the clones
	dirs  uint32 // directories in the first one

	dir, name int // the next name to be cloned
	sharing   *cloning
	file      *treeFile  // whose blocks are being shared
	doneDirs  []*treeDir // finished in this step
	doneFiles []*treeFile
}

// clone clones the tree and unlocks each file as soon as it is done. It returns an
// orphan directory, also with an error if it has got so far, and how many directories
// are in it. When the last reference to it goes, which the caller has, all of it goes.
//
// Costs: for each file an inode and what its block map has, in as few transactions as
// hold them.
func (t *tree) clone(flags uint8) (top *inode, dirs uint32, err error) {
	c := &treeClone{t: t, flags: flags}
	for done := false; !done && err == nil; {
		c.doneDirs, c.doneFiles = c.doneDirs[:0], c.doneFiles[:0]
		err = t.fs.transact(func(u *update) (err error) {
			done, err = c.step(u)
			return err
		})
		top = t.dirs[0].clone
		if err == nil {
			c.finish(c.doneDirs)
			for _, f := range c.doneFiles {
				f.unlock()
			}
		}
	}
	c.finish(t.dirs) // those that are not
	if top != nil && top.gone {
		top.put()
		top = nil
	}
	return top, c.dirs, err
}

// finish unlocks clones of directories.
func (c *treeClone) finish(dirs []*treeDir) {
	for _, d := range dirs {
		if d.clone == nil || d.finished {
			continue
		}
		d.finished = true
		d.clone.mu.Unlock()
		if d.above != nil {
			d.clone.put()
		}
	}
}

// full says that a transaction has enough to write: the inodes come to its pages when
// it commits.
func (u *update) full() bool { return u.Pages()+len(u.inodes)/16 >= stepPages }

// step goes on until the transaction is full.
func (c *treeClone) step(u *update) (done bool, err error) {
	if c.t.dirs[0].clone == nil {
		if err := c.begin(u); err != nil {
			return false, err
		}
	}
	for !u.full() {
		if c.dir == len(c.t.dirs) && c.sharing == nil {
			return true, nil
		}
		if err := c.next(u); err != nil {
			return false, err
		}
	}
	return false, nil
}

// begin makes the first directory.
func (c *treeClone) begin(u *update) error {
	d := c.t.dirs[0]
	in, want, err := c.inode(u, d.in)
	if err != nil {
		return err
	}
	want.Nlink, want.Parent = 0, d.in.ino
	u.enter(in, want)
	d.clone = in
	return u.setOrphan(in)
}

// next makes one name and what it leads to, or shares some blocks of that.
func (c *treeClone) next(u *update) error {
	d := c.t.dirs[min(c.dir, len(c.t.dirs)-1)]
	switch {
	case c.sharing != nil:
		done, err := c.sharing.step(u)
		if done {
			want := u.edit(c.sharing.to)
			want.Changes = want.Origin.Changes // see inode.lineage
			c.sharing, c.doneFiles = nil, append(c.doneFiles, c.file)
		}
		return err
	case c.name == len(d.names):
		c.dir, c.name, c.doneDirs = c.dir+1, 0, append(c.doneDirs, d)
		return nil
	}
	c.name++
	return c.entry(u, d, d.names[c.name-1])
}

func (c *treeClone) entry(u *update, d *treeDir, e DirEntry) error {
	var in *inode
	var err error
	if e.Type == layout.ModeDirectory {
		in, err = c.directory(u, d, c.t.dirOf[e.Ino])
	} else {
		in, err = c.link(u, c.t.fileOf[e.Ino])
	}
	if err != nil || in == nil {
		return err
	}
	return u.addName(u.edit(d.clone), e.Name, in.ino, e.Type)
}

func (c *treeClone) directory(u *update, d, sub *treeDir) (*inode, error) {
	in, want, err := c.inode(u, sub.in)
	if err != nil {
		return nil, err
	}
	want.Nlink, want.Parent = 2, d.clone.ino
	u.enter(in, want)
	sub.clone = in
	if d.above == nil {
		c.dirs++ // the first has no links yet
	} else {
		u.edit(d.clone).Nlink++
	}
	return in, nil
}

// link adds a link to a file's clone, and makes that for the first one. It returns nil
// for a file that is skipped.
func (c *treeClone) link(u *update, f *treeFile) (*inode, error) {
	switch {
	case f.skipped:
		return nil, nil
	case f.clone != nil:
		u.edit(f.clone).Nlink++
		return f.clone, nil
	}
	in, want, err := c.inode(u, f.in)
	if err != nil {
		return nil, err
	}
	if want.Nlink = 1; f.in.Nlink > 1 { // perhaps by other names of the tree
		f.clone = in
	}
	if f.in.Root != ([rootFanout]layout.Entry{}) && f.in.kind == layout.ModeRegular {
		_, end := blocksOf(0, f.in.Size)
		c.sharing, c.file = &cloning{from: f.in, to: in, end: end}, f
	} else {
		c.doneFiles = append(c.doneFiles, f)
	}
	return in, nil
}

// inode makes an inode like another one, but for its names, blocks and links.
func (c *treeClone) inode(u *update, of *inode) (*inode, *layout.Inode, error) {
	in, want, err := u.newInode(Cred{}, &layout.Inode{}, of.Mode)
	if err != nil {
		return nil, nil, err
	}
	fresh := *want
	*want = of.Inode
	want.Ino, want.Generation, want.Parent = fresh.Ino, fresh.Generation, 0
	want.Root, want.Height, want.Blocks, want.Nodes = [rootFanout]layout.Entry{}, 0, 0, 0
	want.Flags = want.Flags&^(layout.FlagStatic|layout.FlagReadOnly) | c.flags
	want.Origin = of.lineage()
	want.Changes = want.Origin.Changes
	if want.Type() == layout.ModeDirectory {
		want.Size = 0 // names
	}
	for _, blob := range []*layout.Node{&want.Xattrs, &want.Target} {
		if *blob, err = u.copyBlob(of.ino, *blob, want); err != nil {
			return nil, nil, err
		}
	}
	return in, want, nil
}
