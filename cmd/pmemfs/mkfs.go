package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

func (a *app) mkfs() *cobra.Command {
	var (
		o          pmemfs.FormatOptions
		total, log size
		require    granularity
	)
	cmd := a.command(verb{
		use: "mkfs POOL [flags]", short: "Make a pool", args: [2]int{1, 1},
		long: `POOL is a directory, which is made or must be empty, or a device such as /dev/dax0.0, which is used whole. The files in
a directory are sparse: they take room as they are filled, unless --preallocate is given. The pool belongs to you.

With --json: the fields of "pmemfs info".
`,
		example: `  pmemfs mkfs /dev/shm/pool --size 1G
  pmemfs mkfs /mnt/pmem0/pool --size 1T --label orders --require cache-line
  pmemfs mkfs /dev/dax0.0`,
		run: func(cmd *cobra.Command, args []string) (result, error) {
			o.Size, o.LogBytes, o.Require = int64(total), int64(log), require.Granularity
			return a.makePool(cmd, args[0], o)
		},
	})
	f := cmd.Flags()
	f.Var(&total, "size", "bytes, or with K, M, G, T; meta and data area together (a directory's default: 1G)")
	f.StringVar(&o.Label, "label", "", "a name for people, at most 32 bytes")
	f.Int64Var(&o.Inodes, "inodes", 0, "how many files it can hold (default: one for every 16 KiB)")
	f.Var(&log, "journal", "size of the journal (default: 1/64 of the pool, 1M to 16M)")
	requireFlag(cmd, &require)
	f.BoolVar(&o.Preallocate, "preallocate", false, "have the host allocate all of a directory's files now")
	f.BoolVar(&o.Force, "force", false, "overwrite a pool that nobody uses")
	return cmd
}

func (a *app) makePool(cmd *cobra.Command, pool string, o pmemfs.FormatOptions) (result, error) {
	st, err := os.Stat(pool)
	switch {
	case err == nil && st.Mode()&fs.ModeCharDevice != 0 && o.Size != 0:
		return nil, usageError(cmd, "a device is used whole: --size is for directories")
	case o.Inodes < 0:
		return nil, usageError(cmd, "--inodes: %d is negative", o.Inodes)
	case len(o.Label) > layout.MaxLabel:
		return nil, usageError(cmd, "--label: %s, at most %d", count(int64(len(o.Label)), "byte"), layout.MaxLabel)
	case o.LogBytes != 0 && (o.LogBytes < layout.MinLog || o.LogBytes > layout.MaxLog):
		return nil, usageError(cmd, "--journal: it takes %s to %s", formatSize(layout.MinLog), formatSize(layout.MaxLog))
	}
	if err := pmemfs.Format(pool, o); err != nil {
		return nil, formatRemedy(pool, err)
	}
	r, err := a.inspect(pool, 0)
	if err != nil {
		return nil, err
	}
	return made{r}, nil
}

func formatRemedy(pool string, err error) error {
	switch {
	case errors.Is(err, medium.ErrExists):
		for _, name := range []string{"meta", "data"} {
			if _, statErr := os.Lstat(filepath.Join(pool, name)); statErr == nil {
				return &failure{err, exitFailed, "pmemfs mkfs " + pool + " --force, if what is in it may be lost"}
			}
		}
		return &failure{err, exitFailed, "another path: nothing but a pool is ever overwritten"}
	case errors.Is(err, medium.ErrInUse), errors.Is(err, medium.ErrSurvivors), errors.Is(err, medium.ErrGranularity):
		return openRemedy(pool, err)
	case errors.Is(err, medium.ErrTooSmall):
		return &failure{err, exitFailed, "a larger device, or one of a smaller alignment"}
	case errors.Is(err, unix.ENOSPC):
		return &failure{err, exitFailed, "a smaller --size, or room on the file system of " + pool}
	case errors.Is(err, unix.EINVAL) && !errors.Is(err, medium.ErrNotPool):
		return &failure{err, exitFailed, "a larger --size"}
	}
	return err
}

// made is a pool as mkfs tells of it.
type made struct{ *infoResult }

func (m made) text(w io.Writer) {
	fmt.Fprintf(w, "made the pool %s: %s for data, %s, %s\n", m.Pool, formatSize(m.Use.Blocks*m.Use.BlockSize), count(m.Use.Inodes, "inode"), m.guarantee())
}
