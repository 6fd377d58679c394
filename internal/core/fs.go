// Package core is the file system: names, inodes, block maps and their
// contents, on two areas (meta and data) of a medium. It knows nothing of
// sockets, signals or FUSE; who holds a mapping it learns through Breaker.
//
// Every operation is durable when it returns (with Options.Stage, when Commit
// has returned after it), and after a crash it has happened wholly or not at
// all, in order; exceptions (data written in place, very long
// punches and allocations, which go in steps) say so where they are declared.
//
// Lock order, outermost first:
//
//	FS.renameMu                one rename at a time
//	  inode.mu of directories  ancestors before descendants
//	    inode.mu of others     in the order of their numbers
//	      journal's builder    one transaction at a time; protects the allocators
//	        FS.cacheMu         a leaf: nothing is taken under it
package core

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/journal"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/progress"
)

// Taking says what a break takes back.
type Taking uint8

const (
	TakeAll    Taking = iota // every access: the blocks leave the range
	TakeWrites               // write access: the blocks become shared
	TakeZeros                // read access to zeros: blocks come where a hole was
)

// Breaker takes back what clients were granted. It is called with the inode
// locked.
type Breaker interface {
	// Break is called before the block map changes. When it returns nil nobody
	// can access the runs of blocks of the file any longer as far as what says.
	// An error (EBUSY) ends the operation: nothing has changed. Runs is the caller's.
	Break(ino layout.Ino, what Taking, runs ...alloc.Run) error
	// Sealed returns the error with which a Break of the run would fail at once
	// because of seals and pins, nil when there are none. It is asked before
	// every change of the block map, also of one that breaks nothing.
	Sealed(ino layout.Ino, first, count int64) error
	// Stored calls fn for the runs of the file to which clients can store: what
	// is there may not be durable.
	Stored(ino layout.Ino, first, count int64, fn func(first, count int64))
}

type noBreaker struct{}

func (noBreaker) Break(layout.Ino, Taking, ...alloc.Run) error { return nil }
func (noBreaker) Sealed(layout.Ino, int64, int64) error        { return nil }

func (noBreaker) Stored(layout.Ino, int64, int64, func(first, count int64)) {}

// Options for Mount. The zero value is a writable mount without clients.
type Options struct {
	ReadOnly bool    // nothing is stored; the log is replayed in memory
	Breaker  Breaker // nil: nobody holds mappings
	// HoldOrphans: what a crash left is reclaimed when Reclaim is called, not
	// before, so that it can be adopted.
	HoldOrphans bool
	Now         func() int64 // ns since 1970; nil: the system's clock
	Random      io.Reader    // nil: crypto/rand; a seeded one makes stores the same in each run
	// Stage has operations return when what they change can be seen; Commit
	// and Node.Sync make it durable.
	Stage bool
	// Defer, with Stage, has contents, too, made durable by Commit and
	// Node.Sync only: where a fence is a system call.
	Defer bool
	// Progress is told what is durable and what is pending. nil: nobody else
	// wants to know.
	Progress *progress.Page
}

// FS is a mounted file system.
type FS struct {
	meta, data medium.Area
	sb         *layout.Superblock
	journal    *journal.Journal
	blocks     *alloc.Bitmap
	nodes      *alloc.Bitmap
	inodes     *alloc.Bitmap
	orphans    *alloc.Bitmap
	counts     layout.Inode // protected by the journal's builder lock; see refs.go
	breaker    Breaker
	now        func() int64
	readOnly   bool
	stage      bool          // immutable, see Options
	deferData  bool          // immutable: Options.Defer
	stored     atomic.Uint64 // with deferData: how often contents were stored
	fenced     atomic.Uint64 // of these, how many are durable
	cutLSN     atomic.Uint64 // behind the last record that took contents away from any file
	progress   *progress.Page
	verified   verified

	renameMu sync.Mutex

	cacheMu sync.Mutex
	cache   map[layout.Ino]*inode // protected by cacheMu: inodes with references
	closed  bool                  // protected by cacheMu
	left    map[layout.Ino]bool   // protected by cacheMu: orphans of before the mount

	reclaim sync.WaitGroup        // the reclaiming of what a crash left
	started bool                  // protected by cacheMu: Reclaim was called
	held    map[layout.Ino]*inode // immutable: with HoldOrphans a reference to each, until it is reclaimed
	stop    chan struct{}
}

// FormatOptions for Format and Sizes. Zero values mean defaults.
type FormatOptions struct {
	Label    string // at most 32 bytes
	Inodes   int64  // default: one for every 16 KiB of data
	Nodes    int64  // default: one for every 128 KiB of data, at least 1024
	LogBytes int64  // default: 1/64 of the pool, 1 MiB to 16 MiB
	UID, GID uint32 // owner of the root directory
	Zeroed   bool   // the meta area is known to be zeros (a new sparse file)

	Now    func() int64 // as in Options
	Random io.Reader    // as in Options
}

const (
	bytesPerInode = 16 << 10
	bytesPerNode  = 128 << 10
	minNodes      = 1024
	maxLogDefault = 16 << 20
)

// Sizes divides total bytes into a meta and a data area. EINVAL with the
// least size when total is too small.
func Sizes(total int64, o FormatOptions) (meta, data int64, err error) {
	for blocks := total / layout.BlockSize / layout.ChunkUnits * layout.ChunkUnits; blocks > 0; {
		sb := arrange(total, blocks, o)
		meta, data = sb.MetaSize, blocks*layout.BlockSize
		if meta+data <= total {
			return meta, data, nil
		}
		over := (meta + data - total) / layout.BlockSize * 9 / 10
		blocks -= max(over/layout.ChunkUnits, 1) * layout.ChunkUnits
	}
	least := arrange(0, layout.ChunkUnits, o).MetaSize + layout.ChunkUnits*layout.BlockSize
	return 0, 0, fmt.Errorf("a pool of %d bytes is too small, it takes at least %d: %w", total, least, unix.EINVAL)
}

func arrange(total, blocks int64, o FormatOptions) *layout.Superblock {
	data := blocks * layout.BlockSize
	pick := func(chosen, byDefault int64) int64 {
		if chosen > 0 {
			byDefault = chosen
		}
		return layout.RoundUp(max(byDefault, layout.ChunkUnits), layout.ChunkUnits)
	}
	sb := &layout.Superblock{
		Version: layout.Version, DataBlocks: blocks,
		Inodes: pick(o.Inodes, data/bytesPerInode),
		Nodes:  pick(o.Nodes, max(data/bytesPerNode, minNodes)),
	}
	log := o.LogBytes
	if log == 0 {
		log = min(max(total/64, layout.MinLog), maxLogDefault)
	}
	sb.Arrange(layout.RoundUp(log, layout.BlockSize))
	return sb
}

// Format makes an empty file system. The superblocks are written last: an
// interrupted Format leaves no pool.
func Format(meta, data medium.Area, o FormatOptions) error {
	blocks := data.Size() / layout.BlockSize / layout.ChunkUnits * layout.ChunkUnits
	sb := arrange(meta.Size()+data.Size(), blocks, o)
	switch {
	case blocks == 0 || sb.MetaSize > meta.Size():
		return fmt.Errorf("format: areas of %d and %d bytes are too small: %w", meta.Size(), data.Size(), unix.EINVAL)
	case len(o.Label) > layout.MaxLabel:
		return fmt.Errorf("format: label of %d bytes, at most %d: %w", len(o.Label), layout.MaxLabel, unix.EINVAL)
	case sb.Log.Length < layout.MinLog || sb.Log.Length > layout.MaxLog:
		return fmt.Errorf("format: log of %d bytes, it takes %d to %d: %w", sb.Log.Length, layout.MinLog, layout.MaxLog, unix.EINVAL)
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Now == nil {
		o.Now = systemClock
	}
	sb.Label, sb.Created = o.Label, o.Now()
	io.ReadFull(o.Random, sb.UUID[:]) // crypto/rand never fails
	io.ReadFull(o.Random, sb.HashKey[:])
	return journal.Guard(sb, func() error { return format(meta, data, sb, o) })
}

func format(meta, data medium.Area, sb *layout.Superblock, o FormatOptions) error {
	meta.Zero(0, layout.SuperblockCopies*layout.BlockSize)
	if !o.Zeroed {
		for _, r := range []layout.BitmapRegions{sb.BlockBitmap, sb.NodeBitmap, sb.InodeBitmap, sb.Orphans} {
			meta.Zero(r.Bits.Offset, r.Groups.End()-r.Bits.Offset)
		}
		meta.Zero(sb.InodeTable.Offset, sb.InodeTable.Length)
	}
	if err := meta.Fence(); err != nil {
		return err
	}
	if err := makeRoot(meta, data, sb, o); err != nil {
		return err
	}
	for i := int64(0); i < layout.SuperblockCopies; i++ {
		meta.Stream(i*layout.BlockSize, sb.Encode())
	}
	return meta.Fence()
}

// makeRoot makes the log and the root directory.
func makeRoot(meta, data medium.Area, sb *layout.Superblock, o FormatOptions) error {
	if err := journal.Format(meta, sb, journal.Options{Random: o.Random}); err != nil {
		return err
	}
	fs, err := open(meta, data, sb, Options{Now: o.Now, Random: o.Random})
	if err != nil {
		return err
	}
	u, err := fs.begin()
	if err != nil {
		return err
	}
	defer u.Abort()
	first, err := fs.inodes.Reserve(nil, int64(layout.FirstIno), 0)
	if err != nil {
		return err
	}
	if err := fs.inodes.Take(&u.Tx, first...); err != nil {
		return err
	}
	root := &inode{fs: fs, ino: layout.RootIno}
	now := fs.now()
	*u.edit(root) = layout.Inode{
		Ino: layout.RootIno, Generation: 1, Mode: layout.ModeDirectory | 0o755, Nlink: 2, UID: o.UID, GID: o.GID,
		Parent: layout.RootIno, Atime: now, Mtime: now, Ctime: now, Btime: now,
	}
	*u.editCounts() = layout.Inode{Ino: layout.CountsIno, Generation: 1, Mode: layout.ModeRegular, Nlink: 1, Btime: now}
	if err := u.commit(); err != nil {
		return err
	}
	return fs.journal.Close()
}

// MetaSize returns the size of the meta area from its first bytes: for a
// device that holds both areas.
func MetaSize(start []byte) (int64, error) {
	sb, err := layout.ReadSuperblock(start)
	if err != nil {
		return 0, err
	}
	return sb.MetaSize, nil
}

func systemClock() int64 { return time.Now().UnixNano() }

func open(meta, data medium.Area, sb *layout.Superblock, o Options) (*FS, error) {
	fs := &FS{
		meta: meta, data: data, sb: sb, breaker: o.Breaker, now: o.Now, readOnly: o.ReadOnly,
		stage: o.Stage, deferData: o.Stage && o.Defer, progress: o.Progress,
		cache: map[layout.Ino]*inode{}, stop: make(chan struct{}),
	}
	if fs.breaker == nil {
		fs.breaker = noBreaker{}
	}
	if fs.now == nil {
		fs.now = systemClock
	}
	var err error
	if fs.progress == nil {
		fs.progress = progress.New()
	}
	jo := journal.Options{ReadOnly: o.ReadOnly, Random: o.Random, Durable: fs.progress.Durable()}
	if fs.deferData {
		jo.Barrier = fs.fenceStored
		fs.stored.Store(1) // those before may have left what is seen and not durable
	}
	if fs.journal, err = journal.Open(meta, sb, jo); err != nil {
		return nil, err
	}
	for _, b := range []struct {
		to       **alloc.Bitmap
		name     string
		regions  layout.BitmapRegions
		contents bool
	}{
		{&fs.blocks, "block bitmap", sb.BlockBitmap, true}, {&fs.nodes, "node bitmap", sb.NodeBitmap, false},
		{&fs.inodes, "inode bitmap", sb.InodeBitmap, false}, {&fs.orphans, "orphan bitmap", sb.Orphans, false},
	} {
		if *b.to, err = alloc.New(b.name, fs.journal, b.regions, b.contents); err != nil {
			return nil, err
		}
	}
	return fs, nil
}

// Mount opens the file system: the log is replayed, in time bounded by its
// length; what was removed while open before a crash is reclaimed in the
// background.
func Mount(meta, data medium.Area, o Options) (fs *FS, err error) {
	copies, bad := medium.Readable(meta, 0, min(layout.SuperblockCopies*layout.BlockSize, meta.Size()))
	sb, err := layout.ReadSuperblock(copies)
	if err != nil {
		return nil, errors.Join(err, bad)
	}
	if meta.Size() < sb.MetaSize || data.Size() < sb.DataBlocks*layout.BlockSize {
		return nil, layout.Corrupt("pool", -1, "truncated: areas of %d and %d bytes, the superblock says %d and %d",
			meta.Size(), data.Size(), sb.MetaSize, sb.DataBlocks*layout.BlockSize)
	}
	if sb.ReadOnly != 0 && !o.ReadOnly {
		return nil, fmt.Errorf("the pool has features (%#x) that this program can only read: %w", sb.ReadOnly, unix.EROFS)
	}
	err = journal.Guard(sb, func() (err error) {
		fs, err = load(meta, data, sb, o)
		return err
	})
	return fs, err
}

func load(meta, data medium.Area, sb *layout.Superblock, o Options) (*FS, error) {
	fs, err := open(meta, data, sb, o)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(fs.loadCounts(), fs.findOrphans()); err != nil {
		return nil, err
	}
	root, err := fs.get(layout.RootIno) // for as long as it is mounted: paths begin there
	if err != nil {
		return nil, err
	}
	if root.Type() != layout.ModeDirectory {
		return nil, layout.Corrupt("inode", -1, "the root is not a directory")
	}
	if o.HoldOrphans {
		fs.holdOrphans()
	} else {
		fs.Reclaim()
	}
	return fs, nil
}

// Close makes everything durable in its place and marks the pool clean.
// Nodes that are still open become useless: EBADF.
func (fs *FS) Close() error {
	fs.cacheMu.Lock()
	if fs.closed {
		fs.cacheMu.Unlock()
		return nil
	}
	fs.closed = true
	var open []*inode
	for _, in := range fs.cache {
		open = append(open, in)
	}
	fs.cacheMu.Unlock()
	close(fs.stop)
	fs.reclaim.Wait()
	var errs []error
	if !fs.readOnly {
		for _, in := range open {
			in.mu.Lock()
			errs = append(errs, in.writeTimes())
			in.mu.Unlock()
		}
	}
	if fs.deferData {
		errs = append(errs, fs.data.Fence())
	}
	return errors.Join(append(errs, fs.journal.Close())...)
}

// Commit makes everything durable that operations have done before.
// Costs: nothing when it is; else the lines of the staged records and one
// fence, which all share who call it at the same time.
func (fs *FS) Commit() error { return fs.commitTo(fs.journal.HeadLSN()) }

// commitTo makes what was staged up to an LSN durable, with the contents that
// were stored before. Contents that were stored in place may have come after
// the barrier of the group that had the LSN.
func (fs *FS) commitTo(lsn uint64) error {
	if err := fs.journal.Commit(lsn); err != nil {
		return err
	}
	return fs.fenceStored()
}

// fenceData makes contents durable that were stored before, unless Commit is to
// do that.
func (fs *FS) fenceData() error {
	if fs.deferData {
		fs.stored.Add(1)
		return nil
	}
	return fs.data.Fence()
}

// fenceStored makes contents durable that fenceData has left to Commit.
func (fs *FS) fenceStored() error {
	stored := fs.stored.Load()
	if fs.fenced.Load() >= stored {
		return nil
	}
	if err := fs.data.Fence(); err != nil {
		return err
	}
	raise(&fs.fenced, stored)
	return nil
}

// raise makes a word at least v.
func raise(w *atomic.Uint64, v uint64) {
	for old := w.Load(); old < v && !w.CompareAndSwap(old, v); {
		old = w.Load()
	}
}

// Statfs is the pool's use, in blocks of 4 KiB, inodes and nodes. The last 32
// free nodes are kept for operations that free blocks.
type Statfs struct {
	Blocks, FreeBlocks int64
	Inodes, FreeInodes int64
	Nodes, FreeNodes   int64
	LogBytes, LogUsed  int64
	MetaBytes          int64
	UUID, Label        string
	Created            int64 // ns since 1970
}

// Statfs returns the pool's use.
func (fs *FS) Statfs() Statfs {
	log := fs.journal.Stats()
	return Statfs{
		Blocks: fs.blocks.Units(), FreeBlocks: fs.blocks.Free(),
		Inodes: fs.inodes.Units(), FreeInodes: fs.inodes.Free(),
		Nodes: fs.nodes.Units(), FreeNodes: fs.nodes.Free(),
		LogBytes: log.SizeBytes, LogUsed: log.UsedBytes, MetaBytes: fs.sb.MetaSize,
		UUID: hex.EncodeToString(fs.sb.UUID[:]), Label: fs.sb.Label, Created: fs.sb.Created,
	}
}

// JournalStats is what the journal holds and has done.
type JournalStats = journal.Stats

// Stats is what the file system has done since it was mounted.
type Stats struct {
	Journal JournalStats `json:"journal"`
}

// Stats returns what the file system has done since it was mounted. It may be
// called after Close.
func (fs *FS) Stats() Stats { return Stats{Journal: fs.journal.Stats()} }
