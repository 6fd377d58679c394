package main

import (
	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

func (a *app) get() *cobra.Command {
	c := &copyVerb{app: a, op: "get"}
	cmd := a.command(verb{
		use: "get POOL SOURCE... [DEST] [flags]", short: "Copy files and trees out of a pool", args: [2]int{2, -1},
		long: "With one path only, DEST is the current directory. What \"cat\" does is not done here: DEST is never standard output.\n" + copyRules,
		example: `  pmemfs get /dev/shm/pool /data ./data
  pmemfs get /run/pmemfs/pool.sock /docs/a.txt /docs/b.txt /tmp
  pmemfs get /dev/shm/pool /. ./everything`,
		run: func(cmd *cobra.Command, args []string) (result, error) {
			return c.run(cmd, args, ".", func(fsys *pmemfs.FS) (from, to tree.Side) { return tree.Pool{FS: fsys}, tree.Host{} })
		},
	})
	cmd.Flags().BoolVar(&c.owner, "owner", false, "keep owner and group (for root)")
	return cmd
}
