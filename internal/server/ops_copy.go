package server

import (
	"errors"
	"io"
	"math"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// maxShared is how much one request copies where it need not be copied, bytes; what has to be copied goes by wire.MaxData.
const maxShared = 1 << 30

// copyRange copies from one open file to another, or the same, as copy_file_range(2): by sharing blocks where the two ranges
// have whole ones, at the same place in them.
func (s *Session) copyRange(q *wire.Request) (*wire.Reply, error) {
	return s.useFile(q, false, true, func(to *handle) (*wire.Reply, error) {
		source := &wire.Request{Handle: q.Flags}
		return s.useFile(source, true, false, func(from *handle) (*wire.Reply, error) {
			if q.Offset < 0 || q.Length < 0 || q.Address > math.MaxInt64-uint64(q.Length) || q.Offset > math.MaxInt64-q.Length {
				return nil, invalid("copy of %d bytes from %d to %d", q.Length, q.Address, q.Offset)
			}
			at := int64(q.Address)
			length := min(q.Length, maxShared, from.node.Attr().Size-at)
			if length <= 0 {
				return nil, nil
			}
			if shared := shareable(q.Offset, at, length); shared > 0 {
				if err := to.node.CloneRange(q.Offset, from.node, at, shared); err == nil {
					return &wire.Reply{N: shared}, nil
				} // what must not be shared can still be copied, and if not, that tells why
			}
			b := make([]byte, min(length, wire.MaxData))
			n, err := from.node.ReadAt(b, at)
			if err != nil && !errors.Is(err, io.EOF) {
				return nil, err
			}
			if n, err = to.node.WriteAt(b[:n], q.Offset); err != nil && n == 0 {
				return nil, err
			}
			return &wire.Reply{N: int64(n)}, nil
		})
	})
}

// shareable is how many bytes from the beginning of two ranges on are whole blocks.
func shareable(to, from, length int64) int64 {
	if to%layout.BlockSize != 0 || from%layout.BlockSize != 0 {
		return 0
	}
	return length / layout.BlockSize * layout.BlockSize
}
