package core

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/journal"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// inode is an inode in memory, shared by all who use it.
//
// Invariant: the embedded Inode equals the inode table's, except that Mtime
// and Ctime may be newer while timesDirty: a write in place changes them in
// memory only (as with Linux's lazytime), so that it costs no record.
type inode struct {
	fs   *FS
	ino  layout.Ino
	refs int // protected by fs.cacheMu

	mu           sync.RWMutex
	layout.Inode      // protected by mu
	timesDirty   bool // protected by mu
	// metaLSN is behind the last record that concerns the inode, cutLSN behind
	// the last one that took contents away: until that is durable, blocks of
	// the file may hold what a crash brings back. Protected by mu.
	metaLSN, cutLSN uint64
	orphan          bool // protected by mu: its orphan bit is set
	tailLeft        bool // protected by mu: a truncate that is not finished may have left blocks behind the end
	gone            bool // protected by mu: freed, or could not be loaded

	private  *private   // immutable once others can get the inode; see publish.go
	privates []*private // protected by mu: those that are clones of this one

	unsettled atomic.Bool // the last reference has something to do: settle

	once    sync.Once
	loadErr error      // immutable once once is done
	kind    uint32     // immutable: the type bits of Mode
	frozen  bool       // immutable: FlagReadOnly, what would change it is EROFS
	parent  layout.Ino // protected by fs.renameMu: a directory's Parent
}

// get returns the inode with one more reference. ENOENT when the slot holds
// none.
func (fs *FS) get(ino layout.Ino) (*inode, error) {
	if ino == 0 || ino == layout.CountsIno || uint64(ino) >= uint64(fs.sb.Inodes) {
		return nil, layout.Corrupt("inode number", -1, "%d is out of range", uint64(ino))
	}
	fs.cacheMu.Lock()
	if fs.closed {
		fs.cacheMu.Unlock()
		return nil, unix.EBADF
	}
	in := fs.cache[ino]
	if in == nil {
		in = &inode{fs: fs, ino: ino}
		fs.cache[ino] = in
	}
	in.refs++
	fs.cacheMu.Unlock()
	in.once.Do(func() {
		// The slot may be free and a transaction about to use it: it is read
		// between transactions, and who comes after that one reads again.
		fs.journal.Locked(func() error {
			if in.displaced() {
				in.loadErr = errDisplaced
			} else if in.loadErr = fs.Guard(in.load); in.loadErr != nil {
				in.forget()
			}
			return nil
		})
		// Records that concern it may be staged.
		in.metaLSN, in.cutLSN = fs.journal.HeadLSN(), fs.cutLSN.Load()
	})
	switch {
	case in.loadErr == errDisplaced:
		in.put()
		return fs.get(ino)
	case in.loadErr != nil:
		in.put()
		return nil, in.loadErr
	}
	return in, nil
}

// errDisplaced: what was being loaded was free, and has been made meanwhile.
var errDisplaced = errors.New("the inode is being made")

func (in *inode) displaced() bool {
	in.fs.cacheMu.Lock()
	defer in.fs.cacheMu.Unlock()
	return in.fs.cache[in.ino] != in
}

// enter makes an inode that the transaction creates one that others can get, locked,
// with a reference for the caller: who still has its number from an earlier use
// waits until it is unlocked, and so finished. If the transaction fails it is gone.
func (u *update) enter(in *inode, want *layout.Inode) {
	in.mu.Lock() // nobody else has it
	in.once.Do(func() { in.describe(want) })
	u.fs.cacheMu.Lock()
	in.refs = 1
	u.fs.cache[in.ino] = in
	u.fs.cacheMu.Unlock()
	u.decide(in, entered)
}

// adoptNew makes an inode that a transaction has created, and nobody knows, one
// that others can get, with a reference for the caller.
func (fs *FS) adoptNew(in *inode) {
	in.once.Do(func() { in.describe(&in.Inode) })
	fs.cacheMu.Lock()
	defer fs.cacheMu.Unlock()
	in.refs = 1
	fs.cache[in.ino] = in
}

// hold adds a reference to an inode to which the caller has one.
func (in *inode) hold() {
	in.fs.cacheMu.Lock()
	defer in.fs.cacheMu.Unlock()
	in.refs++
}

func (in *inode) offset() int64 { return in.fs.inodeOffset(in.ino) }

// inodeOffset is where an inode stands in the meta area.
func (fs *FS) inodeOffset(ino layout.Ino) int64 {
	return fs.sb.InodeTable.Offset + int64(ino)*layout.InodeSize
}

func (in *inode) load() error {
	raw := in.fs.journal.View(in.offset(), layout.InodeSize)
	if layout.SlotFree(raw) {
		return unix.ENOENT
	}
	var err error
	in.Inode, err = layout.DecodeInode(raw, in.ino, in.offset())
	in.describe(&in.Inode)
	in.orphan = in.fs.isLeft(in.ino)
	in.tailLeft = in.orphan && in.kind == layout.ModeRegular
	in.unsettled.Store(in.orphan)
	return err
}

// describe sets what does not change with the contents.
func (in *inode) describe(i *layout.Inode) {
	in.kind, in.parent, in.frozen = i.Type(), i.Parent, i.Flags&layout.FlagReadOnly != 0
}

// put drops a reference. The last one of a removed inode frees it, the last
// one of a written file makes its times durable.
func (in *inode) put() {
	fs := in.fs
	for {
		fs.cacheMu.Lock()
		if in.refs > 1 || fs.closed || fs.readOnly || !in.unsettled.Load() {
			if in.refs--; in.refs == 0 && fs.cache[in.ino] == in {
				delete(fs.cache, in.ino)
			}
			fs.cacheMu.Unlock()
			return
		}
		fs.cacheMu.Unlock()
		in.unsettled.Store(false)
		in.settle()
	}
}

// settle does what the last user of an inode leaves to be done. What fails
// (the journal is stopped then, and the next operation reports it) is found
// by the next mount.
func (in *inode) settle() {
	if in.kind == layout.ModeDirectory {
		in.fs.Guard(func() error { return in.fs.removeNames(in) })
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.gone:
	case in.orphan && in.Nlink == 0:
		in.fs.Guard(func() error { return in.fs.reclaimInode(in) })
		in.private.detach()
	default:
		in.writeTimes()
	}
}

// forget takes an inode that is free out of the cache, so that its number can
// be used again while others still hold it. The builder's lock is held: nobody
// can have used the number since. in.mu is held, too.
func (in *inode) forget() {
	in.gone = true
	in.fs.cacheMu.Lock()
	if in.fs.cache[in.ino] == in {
		delete(in.fs.cache, in.ino)
	}
	in.fs.cacheMu.Unlock()
}

// lastReference reports whether the caller holds the only reference.
func (in *inode) lastReference() bool {
	in.fs.cacheMu.Lock()
	defer in.fs.cacheMu.Unlock()
	return in.refs == 1
}

// writeTimes makes times changed in memory durable. in.mu is held.
func (in *inode) writeTimes() error {
	if !in.timesDirty {
		return nil
	}
	return in.fs.Guard(func() error {
		return in.fs.transact(func(u *update) error {
			u.edit(in)
			return nil
		})
	})
}

// update is a transaction with the inodes that it changes: they get their new
// contents when it commits.
//
// Invariant: it is memory that is used again. It belongs to who has called begin,
// until Abort, which is called once, whether it has committed or not, and is the last
// that is done with it.
type update struct {
	journal.Tx
	fs     *FS
	inodes []*edited
	fates  []fate
	settle func(committed bool) // its OnDone, made once
	edits  []mapChange
	counts *layout.Inode // what it makes of FS.counts; nil: it leaves them as they are
	frees  bool          // it only frees: it may have the nodes that are kept for that
	cuts   bool          // it takes contents away: see inode.cutLSN
	quiet  bool          // it moves blocks, and contents stay as they are: see mapEdit
}

// edited is an inode that a transaction changes, and what it makes of it.
type edited struct {
	in   *inode
	want layout.Inode
}

// fate is what becomes of an inode when the transaction has committed, but for what
// the inode table says of it.
type fate struct {
	in *inode
	is uint8
}

const (
	entered uint8 = iota // others can get it: but not when the transaction has failed
	freed                // its slot is free
	orphan               // its orphan bit is set
	named                // its orphan bit is clear
)

// updates is memory for updates that were aborted: every operation makes one.
var updates = sync.Pool{New: func() any {
	u := new(update)
	u.settle = u.settleFates
	return u
}}

// begin starts a transaction; the locks of all inodes to be edited are held.
func (fs *FS) begin() (*update, error) {
	u := updates.Get().(*update)
	if err := fs.journal.Begin(&u.Tx); err != nil {
		updates.Put(u)
		return nil, err
	}
	u.fs = fs
	return u, nil
}

// Abort ends the transaction, and the use of u. After commit nothing is undone.
func (u *update) Abort() {
	u.Tx.Abort()
	for _, e := range u.inodes {
		e.in = nil
	}
	clear(u.fates)
	clear(u.edits)
	*u = update{inodes: u.inodes[:0], fates: u.fates[:0], edits: u.edits[:0], settle: u.settle}
	updates.Put(u)
}

func (u *update) decide(in *inode, is uint8) {
	if len(u.fates) == 0 {
		u.OnDone(u.settle)
	}
	u.fates = append(u.fates, fate{in, is})
}

// settleFates brings it about. The builder's lock is held, and so is in.mu of all.
func (u *update) settleFates(committed bool) {
	for _, f := range u.fates {
		switch {
		case f.is == entered:
			if !committed {
				f.in.forget()
			}
		case !committed:
		case f.is == freed:
			f.in.forget()
		case f.is == orphan:
			f.in.orphan = true
			f.in.unsettled.Store(true)
		case f.is == named:
			f.in.orphan = false
			u.fs.cacheMu.Lock()
			delete(u.fs.left, f.in.ino)
			u.fs.cacheMu.Unlock()
		}
	}
}

// edit returns the inode's contents as the transaction wants them.
func (u *update) edit(in *inode) *layout.Inode {
	for _, e := range u.inodes {
		if e.in == in {
			return &e.want
		}
	}
	n := len(u.inodes)
	if n == cap(u.inodes) {
		u.inodes = append(u.inodes, new(edited))
	}
	u.inodes = u.inodes[:n+1] // behind the end is memory of earlier transactions
	if u.inodes[n] == nil {
		u.inodes[n] = new(edited)
	}
	e := u.inodes[n]
	e.in, e.want = in, in.Inode
	return &e.want
}

// noteSizes counts new sizes of files as changes, also where no block comes or
// goes: one that ends earlier has changed up to where it ended. One that is being
// made has not changed: a clone begins with the changes of its origin.
func (u *update) noteSizes() {
	for _, e := range u.inodes {
		if e.want.Type() != layout.ModeRegular || e.want.Size == e.in.Size || e.in.Mode == 0 {
			continue
		}
		e.want.Changes++
		_, keep := blocksOf(0, e.want.Size)
		if _, end := blocksOf(0, e.in.Size); keep < end {
			u.noteEdit(&e.want, keep, end)
		}
	}
}

// commit writes the edited inodes and commits.
func (u *update) commit() error {
	u.noteSizes()
	for _, e := range u.inodes {
		if raw := u.Edit(e.in.offset(), layout.InodeSize); e.want.Mode == 0 {
			layout.FreeInode(raw, e.in.Generation)
		} else {
			e.want.Encode(raw)
		}
	}
	if u.counts != nil {
		u.counts.Encode(u.Edit(u.fs.inodeOffset(layout.CountsIno), layout.InodeSize))
	}
	end := u.Tx.Commit
	if u.fs.stage {
		end = u.Tx.Stage
	}
	lsn, err := end()
	if err != nil {
		return err
	}
	if u.cuts {
		raise(&u.fs.cutLSN, lsn)
	}
	for _, e := range u.inodes {
		in := e.in
		if u.fs.stage {
			u.fs.progress.Staged(uint64(in.ino), lsn)
		}
		if in.timesDirty {
			u.fs.progress.TimesChanged(uint64(in.ino), -1)
		}
		in.Inode, in.timesDirty, in.metaLSN = e.want, false, lsn
		if u.cuts {
			in.cutLSN = lsn
		}
	}
	for _, c := range u.edits {
		c.in.note(c.first, c.end)
	}
	return nil
}

// transact runs fn in a transaction and commits it.
func (fs *FS) transact(fn func(*update) error) error {
	u, err := fs.begin()
	if err != nil {
		return err
	}
	defer u.Abort()
	if err := fn(u); err != nil {
		return err
	}
	return u.commit()
}

// newInode allocates an inode. The caller holds the only reference to it and
// publishes it when the transaction has committed.
func (u *update) newInode(c Cred, dir *layout.Inode, mode uint32) (*inode, *layout.Inode, error) {
	fs := u.fs
	unit, err := fs.inodes.TakeOne(&u.Tx, -1)
	if err != nil {
		return nil, nil, fmt.Errorf("no free inodes: %w", err)
	}
	in := &inode{fs: fs, ino: layout.Ino(unit)}
	now := fs.now()
	want := u.edit(in)
	*want = layout.Inode{
		Ino: in.ino, Generation: layout.SlotGeneration(u.Read(in.offset(), layout.InodeSize)) + 1,
		Mode: mode, Nlink: 1, UID: c.UID, GID: c.GID, Atime: now, Mtime: now, Ctime: now, Btime: now,
	}
	if dir.Mode&unix.S_ISGID != 0 {
		want.GID = dir.GID
		if want.Type() == layout.ModeDirectory {
			want.Mode |= unix.S_ISGID
		}
	}
	if want.Type() == layout.ModeDirectory {
		want.Nlink, want.Parent = 2, dir.Ino
	}
	return in, want, nil
}

// freeInode gives the inode's slot back.
func (u *update) freeInode(in *inode) error {
	*u.edit(in) = layout.Inode{}
	u.decide(in, freed)
	if in.orphan {
		if err := u.clearOrphan(in); err != nil {
			return err
		}
	}
	return u.fs.inodes.Release(&u.Tx, alloc.Run{First: int64(in.ino), Count: 1})
}

// setOrphan sets the inode's orphan bit, so that mount finds it after a crash.
func (u *update) setOrphan(in *inode) error {
	if in.orphan {
		return nil
	}
	unit := int64(in.ino)
	taken, err := u.fs.orphans.TakeOne(&u.Tx, unit)
	if err != nil {
		return err
	}
	if taken != unit {
		return layout.Corrupt("orphan bitmap", -1, "%v is in it already", in.ino)
	}
	u.decide(in, orphan)
	return nil
}

// clearOrphan clears it again.
func (u *update) clearOrphan(in *inode) error {
	u.decide(in, named)
	return u.fs.orphans.Release(&u.Tx, alloc.Run{First: int64(in.ino), Count: 1})
}

// keptNodes is how many nodes only operations have that free blocks: to cut
// leaves of 1 GiB and 2 MiB at both ends of a range takes up to four.
const keptNodes = 32

// newNode allocates a node, zeroed, and returns it with its offset.
func (u *update) newNode(owner *layout.Inode) (layout.Node, int64, error) {
	if !u.frees && u.fs.nodes.Free() <= keptNodes {
		return 0, 0, fmt.Errorf("no free nodes in the meta area, but those kept for operations that free blocks: %w",
			unix.ENOSPC)
	}
	unit, err := u.fs.nodes.TakeOne(&u.Tx, -1)
	if err != nil {
		return 0, 0, fmt.Errorf("no free nodes in the meta area: %w", err)
	}
	n := layout.Node(unit + 1)
	off, _ := u.fs.nodeOffset(n)
	u.Zero(off)
	owner.Nodes++
	return n, off, nil
}

func (u *update) freeNode(owner *layout.Inode, n layout.Node) error {
	owner.Nodes--
	off, err := u.fs.nodeOffset(n)
	if err != nil {
		return err
	}
	u.Forget(off)
	return u.fs.nodes.Release(&u.Tx, alloc.Run{First: int64(n) - 1, Count: 1})
}

// nodeOffset is where a node stands; numbers come from the medium, so they
// are checked.
func (fs *FS) nodeOffset(n layout.Node) (int64, error) {
	if n == 0 || uint64(n) > uint64(fs.sb.Nodes) {
		return 0, layout.Corrupt("node number", -1, "%d is out of range", uint64(n))
	}
	return fs.sb.NodeArea.Offset + (int64(n)-1)*layout.BlockSize, nil
}
