// Package fusefs has the kernel mount a pool: any program then uses its files by the system calls that it knows.
//
// Each request of the kernel becomes one of package wire, relative to an inode, and goes the way that those of other
// clients go: to a session in this process, or to a server's socket. Node numbers are inode numbers, file handles are
// those of the session; what is kept here is only what the kernel knows (nodes).
//
// The kernel checks permissions (default_permissions), with all that belongs to that: supplementary groups, ACLs,
// capabilities, sticky directories. It keeps record locks, too: they are of one mount. What may be kept in the kernel's
// caches, and until when, is decided in cache.go.
package fusefs

import (
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// Transport carries a request to whoever serves the pool. An error means that there is no reply.
type Transport func(*wire.Request) (*wire.Reply, error)

// FS answers the kernel's requests.
type FS struct {
	fuse.RawFileSystem // what is not here is not there: ENOSYS

	send Transport
	opts Options

	shared   atomic.Bool // see cache.go
	epochs   atomic.Bool // the kernel forgets all names when it is told to
	notifier notifier

	forgotten chan forgotten // closed when there will be no more
	ending    atomic.Int64   // references in it, or just being ended
	removed   atomic.Int64   // when something was last removed, ns since 1970

	mu    sync.Mutex
	nodes map[uint64]*node // protected by mu
}

// node is an inode that the kernel knows.
//
// Invariant: lookups is how often the kernel was told of it, less what it has forgotten; the root is known always.
type node struct {
	generation uint64
	lookups    uint64
}

func newFS(send Transport, o Options) (*FS, error) {
	f := &FS{RawFileSystem: fuse.NewDefaultRawFileSystem(), send: send, opts: o, nodes: map[uint64]*node{}, forgotten: make(chan forgotten, 1024)}
	f.shared.Store(!o.Alone)
	r, status := f.do(&wire.Request{Op: wire.OpLookup, Path: "/"})
	if status != fuse.OK {
		return nil, fmt.Errorf("the root directory: %w", unix.Errno(status))
	}
	f.nodes[fuse.FUSE_ROOT_ID] = &node{generation: r.Attr.Generation, lookups: 1}
	return f, nil
}

// String is the file system's type, behind "fuse.".
func (f *FS) String() string { return fsType }

// do has a request served. When there is no room it waits for what was just removed.
func (f *FS) do(q *wire.Request) (*wire.Reply, fuse.Status) {
	r, status := f.once(q)
	for range freeingAttempts {
		if status != fuse.Status(unix.ENOSPC) || !f.freeing() {
			break
		}
		time.Sleep(freeingPause)
		r, status = f.once(q)
	}
	return r, status
}

// once is do without waiting.
func (f *FS) once(q *wire.Request) (*wire.Reply, fuse.Status) {
	// The pool's memory is a file's, which somebody may cut off: who serves the request turns the panic into EIO.
	debug.SetPanicOnFault(true)
	r, err := f.send(q)
	if status := f.errno(q, r, err); status != fuse.OK {
		return nil, status
	}
	return r, fuse.OK
}

// errno is the one place where errors become the kernel's numbers. What is refused because of seals or of a static file is
// refused as writing to a running program is.
func (f *FS) errno(q *wire.Request, r *wire.Reply, err error) fuse.Status {
	switch {
	case err != nil:
		f.logf("operation %d: %v", q.Op, err)
		return fuse.EIO
	case r.Reason == wire.ReasonSealed || r.Reason == wire.ReasonStatic:
		return fuse.Status(unix.ETXTBSY)
	case r.Errno == uint16(unix.EIO):
		f.logf("operation %d on inode %d: %s", q.Op, q.Inode, r.Detail)
	}
	return fuse.Status(r.Errno)
}

func (f *FS) logf(format string, args ...any) { f.opts.Logf("pmemfs: "+format, args...) }

// relative makes a request about a node, on behalf of whoever called the kernel.
func (f *FS) relative(h *fuse.InHeader, op wire.Op, name string) *wire.Request {
	return &wire.Request{
		Op: op, Inode: h.NodeId, Generation: f.generation(h.NodeId), Path: name, UID: h.Uid, GID: h.Gid,
	}
}

func (f *FS) generation(id uint64) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.nodes[id]; n != nil {
		return n.generation
	}
	return 0 // the kernel has forgotten it: ESTALE
}
