package main

import (
	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

func (a *app) ln() *cobra.Command {
	var symbolic bool
	cmd := a.command(verb{
		use: "ln POOL TARGET NAME [flags]", short: "Give a file another name, or make a symbolic link", args: [2]int{3, 3},
		long: `If NAME is a directory, the link is made in it, under the last element of TARGET. A name that is taken is an error. The
target of a symbolic link is kept as it is given; when the link is followed, it is looked up from the link's directory
or, if it begins with a slash, from the root of the pool. It is durable when it returns.

With --json: done, the name that was made.
`,
		example: `  pmemfs ln /dev/shm/pool /data/orders.log /backup/orders.log
  pmemfs ln -s /run/pmemfs/pool.sock orders.log /data/current`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			target, name := args[1], args[2]
			r := &doneResult{Done: []string{}}
			return r, a.use(args[0], func(fsys *pmemfs.FS) error {
				name = inside(name, target, isDirectory(tree.Pool{FS: fsys}, name))
				if symbolic {
					return r.note(name, fsys.Symlink(target, tree.PoolName(name)))
				}
				return r.note(name, fsys.Link(tree.PoolName(target), tree.PoolName(name)))
			})
		},
	})
	cmd.Flags().BoolVarP(&symbolic, "symbolic", "s", false, "make a symbolic link")
	return cmd
}
