package fusefs

import (
	"encoding/binary"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// The kernel may keep names, attributes and contents as long as nobody but itself can change them: while the mount is the
// pool's only client (alone). It then need not ask again, and knows of every change because it has made it.
//
// When others come (shared), everything it has is invalidated before the first of them can do anything, and nothing is
// valid for longer than one answer: each path is looked up again, and attributes are asked for whenever they are looked
// at. Files are opened past the page cache (FOPEN_DIRECT_IO). Of those that were opened before, the kernel asks for the
// attributes before each read (FUSE_AUTO_INVAL_DATA), and the answer is preceded by the invalidation of the pages, so
// that read(2) returns what others had stored when it was called. Only memory that is mapped through the mount stays
// behind until the next read, write or stat of the file: no system call is made that could be answered.
//
// A mount by way of a socket is never told that others come, and is shared always.

const (
	forever = time.Hour
	// replies under way to the kernel when others come have this long to get there, before all is invalidated.
	underWay = 10 * time.Millisecond
)

// attrValid is how long attributes and names are valid.
func (f *FS) attrValid() time.Duration {
	if f.shared.Load() {
		return 0
	}
	return forever
}

func (f *FS) entryValid() time.Duration {
	if f.shared.Load() || f.opts.Company && !f.epochs.Load() {
		return 0
	}
	return forever
}

// openFlags are for a regular file that is being opened.
func (f *FS) openFlags() uint32 {
	if f.shared.Load() {
		return fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES
	}
	return fuse.FOPEN_KEEP_CACHE
}

// Company is called when others come, before they can change anything, and when they have gone.
func (f *FS) Company(others bool) {
	if f.shared.Swap(others) == others {
		return
	}
	time.Sleep(underWay)
	f.notifier.forgetNames()
	f.mu.Lock()
	known := make([]uint64, 0, len(f.nodes))
	for id := range f.nodes {
		known = append(known, id)
	}
	f.mu.Unlock()
	for _, id := range known {
		f.notifier.invalidate(id)
	}
}

// refresh invalidates the pages of a file that others may have changed, before its attributes are told.
func (f *FS) refresh(id uint64) {
	if !f.shared.Load() {
		return
	}
	f.mu.Lock()
	n := f.nodes[id]
	open := n != nil && n.opens > 0
	f.mu.Unlock()
	if open {
		f.notifier.invalidate(id)
	}
}

// learn notes that the kernel is told of an inode.
func (f *FS) learn(a *wire.Attr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[a.Ino]
	if n == nil || n.generation != a.Generation {
		n = &node{generation: a.Generation}
		f.nodes[a.Ino] = n
	}
	n.lookups++
}

// opened counts opens of a file.
func (f *FS) opened(id uint64, by int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.nodes[id]; n != nil {
		n.opens += by
	}
}

// Forget is called when the kernel has dropped an inode as often as it was told of it.
func (f *FS) Forget(id, count uint64) {
	f.mu.Lock()
	n := f.nodes[id]
	if n == nil || id == fuse.FUSE_ROOT_ID {
		f.mu.Unlock()
		return
	}
	if n.lookups -= min(count, n.lookups); n.lookups == 0 {
		delete(f.nodes, id)
	}
	f.mu.Unlock()
	f.forgotten <- forgotten{id, count}
}

// forgotten is references that the kernel has given up. To end them can take as long as to free a large file, and the
// library reads no other request meanwhile, so that another goroutine does it, in their order.
type forgotten struct{ id, count uint64 }

func (f *FS) endReferences() {
	for n := range f.forgotten {
		f.do(&wire.Request{Op: wire.OpForget, Inode: n.id, Length: int64(n.count)})
	}
}

// entry tells the kernel of an inode that it has looked up or made.
func (f *FS) entry(out *fuse.EntryOut, a *wire.Attr) {
	f.learn(a)
	out.NodeId, out.Generation = a.Ino, uint64(uint32(a.Generation)) // the kernel keeps 32 bits
	out.SetEntryTimeout(f.entryValid())
	out.SetAttrTimeout(f.attrValid())
	fillAttr(&out.Attr, a)
}

// notifier tells the kernel what it must no longer believe.
type notifier struct {
	server *fuse.Server
	device int // /dev/fuse, to write what the library does not know of; -1: none
}

// invalidate drops an inode's attributes and pages.
func (n *notifier) invalidate(id uint64) {
	if n.server != nil {
		n.server.InodeNotify(id, 0, -1) // ENOENT: the kernel does not have it
	}
}

// forgetNames drops all names, and reports whether the kernel can do that (Linux 6.16).
func (n *notifier) forgetNames() bool {
	if n.device < 0 {
		return false
	}
	var b [16]byte // struct fuse_out_header: a notification is an answer to nothing, with its code in the place of an error
	binary.NativeEndian.PutUint32(b[:], uint32(len(b)))
	binary.NativeEndian.PutUint32(b[4:], -fuse.NOTIFY_INC_EPOCH)
	_, err := unix.Write(n.device, b[:])
	return err == nil
}
