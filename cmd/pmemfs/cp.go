package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

func (a *app) cp() *cobra.Command {
	var recursive, preserve bool
	c := &copyVerb{app: a, op: "cp"}
	reflink := reflink(tree.ReflinkAuto)
	cmd := a.command(verb{
		use: "cp POOL SOURCE... DEST [flags]", short: "Copy files within a pool, by sharing their blocks", args: [2]int{3, -1},
		long: `As cp(1): if DEST is a directory, each SOURCE goes into it under its own name; else the one SOURCE becomes DEST. A file that
is there is replaced, atomically: it appears complete or not at all. Static files are not replaced. Permissions and holes
are kept. Symbolic links are followed, but with --recursive copied as links.

A copy is a clone: it shares its blocks with the original until one of the two is changed, so it takes no time and no
space worth speaking of. It is the file at one instant, whatever programs store to it meanwhile. Blocks that are sealed
or pinned, and static files, must not be shared: with --reflink=auto their bytes are copied, with always such a file is
refused; with never all bytes are copied.

With --json: files, directories, symlinks, hard_links, bytes (of file contents, holes included), cloned (of the files,
those that share all their blocks with the original), skipped (a list of names), failed.
`,
		example: `  pmemfs cp /run/pmemfs/pool.sock /data/index.db /data/index.before
  pmemfs cp -rp /dev/shm/pool /data /backup
  pmemfs cp --reflink=never /dev/shm/pool /a /b /archive`,
		run: func(cmd *cobra.Command, args []string) (result, error) {
			c.plain, c.flat, c.reflink = !preserve, !recursive, tree.Reflink(reflink)
			return c.run(cmd, args, "", func(fsys *pmemfs.FS) (from, to tree.Side) {
				return tree.Pool{FS: fsys, Follow: !recursive}, tree.Pool{FS: fsys}
			})
		},
	})
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "copy directories, with everything in them; keep symbolic and hard links")
	cmd.Flags().BoolVarP(&preserve, "preserve", "p", false, "keep times, and setuid, setgid and sticky bits")
	cmd.Flags().BoolVar(&c.owner, "owner", false, "keep owner and group (for root)")
	cmd.Flags().Var(&reflink, "reflink", "share blocks: as far as they may be shared, or not at all")
	cmd.Flags().Lookup("reflink").NoOptDefVal = "always"
	return cmd
}

// reflink is the flag --reflink.
type reflink tree.Reflink

var reflinkNames = map[reflink]string{
	reflink(tree.ReflinkAuto): "auto", reflink(tree.ReflinkAlways): "always", reflink(tree.ReflinkNever): "never",
}

func (r *reflink) String() string { return reflinkNames[*r] }
func (r *reflink) Type() string   { return "auto|always|never" }

func (r *reflink) Set(text string) error {
	for value, name := range reflinkNames {
		if name == text {
			*r = value
			return nil
		}
	}
	return errors.New("must be auto, always or never")
}
