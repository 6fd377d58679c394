package main

import (
	"io"
	"io/fs"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

func (a *app) mkdir() *cobra.Command {
	var (
		parents bool
		mode    = permissions(0o755)
	)
	cmd := a.command(verb{
		use: "mkdir POOL PATH... [flags]", short: "Make directories", args: [2]int{2, -1},
		long: `They are durable when it returns.

With --json: done, the paths that were made (with --parents, or were there already).
`,
		example: `  pmemfs mkdir /dev/shm/pool /data
  pmemfs mkdir -p --mode 0700 /run/pmemfs/pool.sock /a/b/c`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			r := &doneResult{Done: []string{}}
			return r, a.use(args[0], func(fsys *pmemfs.FS) error {
				return each(args[1:], func(name string) error {
					return r.note(name, makeDirectory(fsys, tree.PoolName(name), fs.FileMode(mode), parents))
				})
			})
		},
	})
	cmd.Flags().BoolVarP(&parents, "parents", "p", false, "also make those above that are missing; no error if it is there")
	cmd.Flags().VarP(&mode, "mode", "m", "permission bits, octal")
	return cmd
}

func makeDirectory(fsys *pmemfs.FS, name string, mode fs.FileMode, parents bool) error {
	if parents {
		return fsys.MkdirAll(name, mode)
	}
	return remedy(fsys.Mkdir(name, mode), "--parents makes the directories above it, too", fs.ErrNotExist)
}

// doneResult is what verbs have to say that succeed silently.
type doneResult struct {
	Done []string `json:"done"`
}

func (*doneResult) text(io.Writer) {}

// note records a name that was dealt with, and passes an error on.
func (r *doneResult) note(name string, err error) error {
	if err == nil {
		r.Done = append(r.Done, name)
	}
	return err
}

// permissions is a flag of octal permission bits, without setuid and the like.
type permissions fs.FileMode

func (p *permissions) String() string { return "0" + strconv.FormatUint(uint64(*p), 8) }

func (p *permissions) Set(s string) error {
	n, err := strconv.ParseUint(s, 8, 9)
	if err == nil {
		*p = permissions(n)
	}
	return err
}

func (p *permissions) Type() string { return "MODE" }
