package core

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// ErrStatic is the error of operations that would change the size or the block
// map of a static file: nothing has changed. It matches EBUSY.
var ErrStatic error = staticError{}

type staticError struct{}

func (staticError) Error() string { return "the file is static: its size and its blocks are frozen" }
func (staticError) Unwrap() error { return unix.EBUSY }

// UnfilledError says which block keeps a range from being sealed, or a file
// from being static. It matches EINVAL.
type UnfilledError struct {
	Off  int64  // byte of the file where the first such block of the range begins
	What string // "a hole", "unwritten" or "shared"
}

func (e *UnfilledError) Error() string { return fmt.Sprintf("the block at %d is %s", e.Off, e.What) }
func (e *UnfilledError) Unwrap() error { return unix.EINVAL }

func (in *inode) static() bool { return in.Flags&layout.FlagStatic != 0 }

// mayChange returns the error with which an operation fails that would change
// the map of the blocks [first, end). Every such operation asks before it
// changes anything. in.mu is held.
func (in *inode) mayChange(first, end int64) error {
	if in.static() {
		return ErrStatic
	}
	return in.fs.breaker.Sealed(in.ino, first, end-first)
}

func (in *inode) mayChangeAll(pieces []piece) error {
	for _, p := range pieces {
		if err := in.mayChange(p.first, p.end()); err != nil {
			return err
		}
	}
	return nil
}

// mayResize is mayChange for a new size: a seal forbids to cut into its last
// block, too.
func (in *inode) mayResize(size int64) error {
	switch {
	case size == in.Size:
		return nil
	case in.static():
		return ErrStatic
	case size > in.Size:
		return nil
	}
	_, end := blocksOf(0, in.Size)
	return in.mayChange(size/layout.BlockSize, end)
}

// mayWrite is mayChange for a write of any length: nothing of it is stored when
// a part of it is refused.
func (in *inode) mayWrite(off, length int64) error {
	if err := in.mayResize(max(in.Size, off+length)); err != nil {
		return err
	}
	first, end := blocksOf(off, length)
	if in.mayChange(first, end) == nil {
		return nil
	}
	plan, err := in.plan(first, end)
	if err != nil {
		return err
	}
	defer plan.release()
	for q := range plan.changes() {
		if err := in.mayChange(q.first, q.end()); err != nil {
			return err
		}
	}
	return nil
}

// SetStatic freezes the size and the block map of a regular file until it is
// called with false, across remounts; it is durable on return. Operations that
// would change them fail with ErrStatic; stores, writes in place, names,
// attributes and removal are as before.
//
// An *UnfilledError names the first block of the file that is a hole,
// unwritten or shared. EINVAL for what is no regular file.
func (n *Node) SetStatic(static bool) error {
	in := n.in
	switch {
	case in.kind != layout.ModeRegular:
		return unix.EINVAL
	case in.fs.readOnly || in.frozen:
		return unix.EROFS
	}
	if err := in.setStatic(static); err != nil {
		return err
	}
	return n.commit()
}

func (in *inode) setStatic(static bool) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.static() == static {
		return nil
	}
	if static {
		if err := in.finishTruncate(); err != nil {
			return err
		}
		_, end := blocksOf(0, in.Size)
		if err := in.filled(0, end); err != nil {
			return err
		}
	}
	return in.setAttr(func(want *layout.Inode) { want.Flags ^= layout.FlagStatic })
}
