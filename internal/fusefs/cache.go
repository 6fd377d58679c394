package fusefs

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// The kernel may keep names, attributes and contents as long as nobody but itself can change them. It then need not ask again,
// and knows of every change because it has made it. There are three cases:
//
//   - Nobody else can come (Alone): it keeps everything.
//   - Others may come (Company): contents it never keeps, because who has a file mapped stores to it without a word to
//     anybody; files are opened past the page cache (FOPEN_DIRECT_IO). Names and attributes change by requests only. They
//     are kept until the first of the others comes, and everything is invalidated before he can do anything; then, as
//     long as others are there (shared), nothing is valid for longer than one answer.
//   - Others are there and nobody tells of their coming and going, as by way of a socket: as above, shared always.
//
// What remains is memory that is mapped through the mount: no system call is made when it is looked at. It is in the page
// cache, from where it is dropped whenever the file is opened again, and as far as the mount itself writes to it.

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
	if f.opts.Company || !f.opts.Alone {
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
	f.ending.Add(1)
	f.forgotten <- forgotten{id, count}
}

// forgotten is references that the kernel has given up. To end them can take as long as to free a large file, and the
// library reads no other request meanwhile, so that another goroutine does it, in their order.
type forgotten struct{ id, count uint64 }

func (f *FS) endReferences() {
	for n := range f.forgotten {
		if len(f.forgotten) == 0 {
			time.Sleep(gathering)
		}
		f.do(&wire.Request{Op: wire.OpForget, Inode: n.id, Length: int64(n.count)})
		f.ending.Add(-1)
	}
}

// What was removed is free when the kernel has forgotten it and its references are ended, a moment after unlink(2) has returned.
// Whoever then needs the room, or asks how much there is, waits for it.
const (
	gathering       = time.Millisecond // so that programs that remove many files are not interrupted at each
	freeingPause    = 5 * time.Millisecond
	freeingAttempts = 10
	freeingTime     = time.Second // the kernel has forgotten long before
)

// freeing says whether something that was removed may not be free yet.
func (f *FS) freeing() bool {
	return f.ending.Load() > 0 || time.Since(time.Unix(0, f.removed.Load())) < freeingTime
}

// freed waits until what was removed is free, as far as is known.
func (f *FS) freed() {
	if !f.freeing() {
		return
	}
	time.Sleep(freeingPause)
	for range freeingAttempts {
		if f.ending.Load() == 0 {
			return
		}
		time.Sleep(freeingPause)
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
	mu     sync.RWMutex
	server *fuse.Server // protected by mu; nil: not yet mounted, or no longer
	device int          // protected by mu: /dev/fuse, to write what the library does not know of; -1: none
}

// invalidate drops an inode's attributes and pages.
func (n *notifier) invalidate(id uint64) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.server != nil {
		n.server.InodeNotify(id, 0, -1) // ENOENT: the kernel does not have it
	}
}

// forgetNames drops all names, and reports whether the kernel can do that (Linux 6.16).
func (n *notifier) forgetNames() bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.device < 0 {
		return false
	}
	var b [16]byte // struct fuse_out_header: a notification is an answer to nothing, with its code in the place of an error
	binary.NativeEndian.PutUint32(b[:], uint32(len(b)))
	binary.NativeEndian.PutUint32(b[4:], -fuse.NOTIFY_INC_EPOCH)
	_, err := unix.Write(n.device, b[:])
	return err == nil
}

// close ends the notifications: there is no kernel any more to be told.
func (n *notifier) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	device := n.device
	n.server, n.device = nil, -1
	if device < 0 {
		return nil
	}
	return unix.Close(device)
}
