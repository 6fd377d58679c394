package adapter

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

// Mappings makes mappings to store to, of the kind whose stores are the cheapest to make durable in a pool.
type Mappings struct {
	kind    pmemfs.MapFlags
	persist bool // Persist makes stores durable; else it takes Sync
}

// NewMappings looks for the kind. Without a server that is Unchecked, if each operation is durable when it returns: populating
// the mapping has filled the range then, and there is nothing that is not durable to vouch for.
func NewMappings(fsys *pmemfs.FS) Mappings {
	mask := fsys.MapMask()
	switch {
	case mask&pmemfs.Sync != 0:
		return Mappings{pmemfs.Sync, true}
	case mask&pmemfs.Unchecked != 0 && fsys.Info().Commit == pmemfs.CommitOp:
		return Mappings{pmemfs.Unchecked, true}
	}
	return Mappings{pmemfs.Shared, false}
}

// Map maps n bytes of a file from off on, filled as far as the file goes.
func (k Mappings) Map(f *pmemfs.File, off, n int64) (*pmemfs.Mapping, error) {
	return f.Map(off, int(n), k.kind|pmemfs.Populate)
}

// Persist makes the stores to a range of a mapping durable: with a server, or commit policy op, by the flush of their lines,
// and one fence. Without a server an operation like a snapshot takes pages away for a moment, which it waits for.
func (k Mappings) Persist(m *pmemfs.Mapping, off, n int) error {
	how := m.Sync
	if k.persist {
		how = m.Persist
	}
	err := how(off, n)
	for wait := 10 * time.Microsecond; errors.Is(err, unix.EFAULT) && wait < 5*time.Second; wait *= 2 {
		time.Sleep(wait)
		err = how(off, n)
	}
	return err
}
