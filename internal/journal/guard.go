package journal

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// Guard is medium.Guard for a function that accesses the meta area: a bad block there damages the structure that stands in
// it, and the error is a *layout.CorruptError that names it.
func Guard(sb *layout.Superblock, f func() error) error {
	err := medium.Guard(f)
	if err == nil {
		return nil
	}
	var bad *medium.BadBlockError
	if errors.As(err, &bad) && bad.Meta() && !errors.Is(err, unix.ENOSPC) {
		return layout.Corrupt(sb.Structure(bad.Offset), bad.Offset, "bad block: %v", bad.Cause)
	}
	return err
}
