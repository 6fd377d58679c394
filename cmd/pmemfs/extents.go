package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

func (a *app) extents() *cobra.Command {
	return a.command(verb{
		use: "extents POOL PATH", short: "Show where the blocks of a file lie", args: [2]int{2, 2},
		long: `Prints the runs of the file that are contiguous on the medium, and its holes. Blocks are numbered from the beginning of
the data area, 4 KiB each. Unwritten blocks are allocated and read as zeros; shared ones
are, or were, part of another file, too: a store to one goes to a copy, if the other is still there.

With --json: path, size, extents: each with offset and length (bytes of the file), block (-1: a hole), unwritten, shared.
`,
		example: `  pmemfs extents /dev/shm/pool /data/orders.log
  pmemfs extents /run/pmemfs/pool.sock /data/orders.log --json | jq '.extents | length'`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			r := &extentsResult{Path: path.Join("/", tree.PoolName(args[1])), Extents: []pmemfs.Extent{}}
			err := a.look(args[0], func(fsys *pmemfs.FS) error { return r.read(fsys, tree.PoolName(args[1])) })
			if err != nil {
				return nil, err
			}
			return r, nil
		},
	})
}

type extentsResult struct {
	Path    string          `json:"path"`
	Size    int64           `json:"size"` // bytes
	Extents []pmemfs.Extent `json:"extents"`
}

func (r *extentsResult) read(fsys *pmemfs.FS, name string) error {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		r.Size = info.Size()
		var list []pmemfs.Extent
		list, err = f.Extents()
		r.Extents = append(r.Extents, list...)
	}
	return errors.Join(err, f.Close())
}

func (r *extentsResult) text(w io.Writer) {
	var blocks, runs, shared int64
	tab := tabwriter.NewWriter(w, 0, 1, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tab, "offset\tlength\tblock\t\t")
	for _, e := range r.Extents {
		block, notes := "hole", []string{}
		if e.Block >= 0 {
			block = fmt.Sprint(e.Block)
			blocks += (e.Length + 4095) / 4096
			runs++
		}
		if e.Unwritten {
			notes = append(notes, "unwritten")
		}
		if e.Shared {
			notes = append(notes, "shared")
			shared += (e.Length + 4095) / 4096
		}
		fmt.Fprintf(tab, "%d\t%d\t%s\t%s\t\n", e.Offset, e.Length, block, strings.Join(notes, ","))
	}
	tab.Flush()
	fmt.Fprintf(w, "%s: %d bytes, %s in %s", r.Path, r.Size, count(blocks, "block"), count(runs, "run"))
	if shared > 0 {
		fmt.Fprintf(w, ", %d shared", shared)
	}
	fmt.Fprintln(w)
}
