package tree

import (
	"errors"

	"github.com/pmemfs/pmemfs"
)

// Reflink says whether copies within a pool share the blocks of what they are copied from.
type Reflink int

const (
	ReflinkNever  Reflink = iota // the bytes are copied
	ReflinkAuto                  // as far as blocks may be shared
	ReflinkAlways                // a file whose blocks may not be shared is not copied
)

// copyRange is how many bytes are asked to be copied at a time, where they cannot be shared.
const copyRange = 8 << 20

// reflink makes a new file of a pool share the blocks of another one, at one instant; with ReflinkAuto it copies what must not
// be shared.
func (t transfer) reflink() error {
	in, out := t.in.(*pmemfs.File), t.out.(*pmemfs.File) // whoever sets Reflink copies within a pool
	err := out.CloneRange(0, in, 0, 0)
	switch {
	case err == nil:
		t.cloned.Add(1)
		t.copied(0, t.info.Size())
		return nil
	case t.Reflink == ReflinkAlways || !errors.Is(err, pmemfs.ErrSealed):
		return at("clone", t.from, -1, err)
	}
	for off := int64(0); ; {
		if t.ctx.Err() != nil {
			return errStopped
		}
		n, err := out.CopyRange(off, in, off, copyRange)
		if err != nil {
			return at("copy", t.from, off, err)
		}
		if n == 0 {
			return nil
		}
		off += n
		t.copied(0, n)
	}
}
