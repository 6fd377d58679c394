package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

func (a *app) rm() *cobra.Command {
	var recursive, force bool
	cmd := a.command(verb{
		use: "rm POOL PATH... [flags]", short: "Remove files and directories", args: [2]int{2, -1},
		long: `A file that a program has open or mapped lives on without a name until it lets go of it. Symbolic links are removed
themselves. It is durable when it returns.

With --json: done, the paths that were removed.
`,
		example: `  pmemfs rm /dev/shm/pool /data/old.log
  pmemfs rm -r /run/pmemfs/pool.sock /data`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			r := &doneResult{Done: []string{}}
			return r, a.use(args[0], func(fsys *pmemfs.FS) error {
				return each(args[1:], func(name string) error {
					err := remove(fsys, tree.PoolName(name), recursive)
					if force && errors.Is(err, fs.ErrNotExist) {
						return nil
					}
					return r.note(name, err)
				})
			})
		},
	})
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "remove directories with everything in them")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "no error for what is not there")
	return cmd
}

func remove(fsys *pmemfs.FS, name string, recursive bool) error {
	info, err := fsys.Lstat(name)
	switch {
	case err != nil:
		return err
	case name == ".":
		return &fs.PathError{Op: "remove", Path: "/", Err: fmt.Errorf("the root stays: %w", unix.EBUSY)}
	case recursive:
		return fsys.RemoveAll(name)
	case info.IsDir():
		return &failure{&fs.PathError{Op: "remove", Path: name, Err: unix.EISDIR}, exitFailed, "-r removes it with everything in it"}
	}
	return fsys.Remove(name)
}
