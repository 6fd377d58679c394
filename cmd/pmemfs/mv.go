package main

import (
	"io/fs"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

func (a *app) mv() *cobra.Command {
	var keep, exchange bool
	cmd := a.command(verb{
		use: "mv POOL SOURCE... DEST [flags]", short: "Rename files and directories within a pool", args: [2]int{3, -1},
		long: `As mv(1): if DEST is a directory, each SOURCE goes into it under its own name; else the one SOURCE gets the name DEST,
atomically replacing a file that has it. Programs that have a file open or mapped keep it. It is durable when it returns.

With --json: done, the sources that were renamed.
`,
		example: `  pmemfs mv /dev/shm/pool /data/new.log /data/orders.log
  pmemfs mv /run/pmemfs/pool.sock /a /b /archive
  pmemfs mv --exchange /run/pmemfs/pool.sock /current /next`,
		run: func(cmd *cobra.Command, args []string) (result, error) {
			sources, dest := args[1:len(args)-1], args[len(args)-1]
			if exchange && (keep || len(sources) > 1) {
				return nil, usageError(cmd, "--exchange takes two names and no --no-clobber")
			}
			r := &doneResult{Done: []string{}}
			return r, a.use(args[0], func(fsys *pmemfs.FS) error {
				rename := fsys.Rename
				if keep {
					rename = fsys.RenameNoReplace
				}
				into := false
				if exchange {
					rename = fsys.Exchange
				} else if into = isDirectory(tree.Pool{FS: fsys}, dest); !into && (len(sources) > 1 || strings.HasSuffix(dest, "/")) {
					return &fs.PathError{Op: "mv", Path: dest, Err: errNotDirectory}
				}
				return each(sources, func(name string) error {
					return r.note(name, rename(tree.PoolName(name), tree.PoolName(inside(dest, name, into))))
				})
			})
		},
	})
	cmd.Flags().BoolVarP(&keep, "no-clobber", "n", false, "fail when the name is taken")
	cmd.Flags().BoolVar(&exchange, "exchange", false, "swap the two names atomically")
	return cmd
}

func isDirectory(side tree.Side, name string) bool {
	info, err := side.Stat(name)
	return err == nil && info.IsDir()
}

// inside is where a file goes: to dest, or under its own name into dest.
func inside(dest, name string, into bool) string {
	base := path.Base(name)
	if base == ".." {
		base = "." // what is in it; not the directory above dest
	}
	if into {
		return path.Join(dest, base)
	}
	return dest
}
