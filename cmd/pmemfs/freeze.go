package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

func (a *app) freeze() *cobra.Command {
	var fill bool
	cmd := a.command(verb{
		use: "freeze POOL FILE... [flags]", short: "Make files static: freeze their size and the place of their blocks", args: [2]int{2, -1},
		long: `A static file stays so over restarts and power cuts, until "pmemfs thaw". What would change its size or where its blocks
lie is refused, for everybody: appends, truncation, making holes, moving. Writes over what is there, stores to mappings,
names, permissions and times go on, and it may be removed. "pmemfs put" does not replace it.

Each block must be written and the file's own; --fill makes it so, as "pmemfs fill" does. It takes the capability
CAP_LINUX_IMMUTABLE, which root has, or membership in a group that the server was given with --direct-group. It is
durable when it returns.

With --json: files, those that are frozen, each with path, static and, with --fill, filled_bytes.
`,
		example: `  pmemfs freeze /dev/shm/pool /data/index.db
  pmemfs freeze --fill /run/pmemfs/pool.sock /data/index.db /data/heap.db`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			return a.eachBlocks(args, fill, func(f *pmemfs.File) (blocksEntry, error) {
				if fill {
					filled, err := a.freezeFilled(f)
					return blocksEntry{Static: true, Filled: &filled}, freezeRemedy("stop the programs that make holes in it, and repeat", err)
				}
				try := fmt.Sprintf("pmemfs freeze --fill %s /%s", args[0], f.Name())
				return blocksEntry{Static: true}, freezeRemedy(try, f.SetStatic(true))
			})
		},
	})
	cmd.Flags().BoolVar(&fill, "fill", false, "write the blocks first that are holes or unwritten, and copy those that are shared")
	return cmd
}

func (a *app) thaw() *cobra.Command {
	return a.command(verb{
		use: "thaw POOL FILE...", short: "Let the blocks of static files go again", args: [2]int{2, -1},
		long: `Ends what "pmemfs freeze" has begun, and takes the same capability. Seals of mappings are not concerned. It is durable when
it returns. It is no error if a file is not static.

With --json: files, those that are thawed, each with path and static.
`,
		example: `  pmemfs thaw /run/pmemfs/pool.sock /data/index.db`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			return a.eachBlocks(args, false, func(f *pmemfs.File) (blocksEntry, error) {
				return blocksEntry{}, freezeRemedy("", f.SetStatic(false))
			})
		},
	})
}

// freezeAttempts is how often a file is filled before it is left as it is, because somebody makes holes in it.
const freezeAttempts = 8

// freezeFilled freezes a file and fills it before that, if it must be: whoever may not freeze it shall not fill it either.
func (a *app) freezeFilled(f *pmemfs.File) (filled int64, err error) {
	for attempt := 0; ; attempt++ {
		err := f.SetStatic(true)
		if attempt == freezeAttempts || !errors.As(err, new(*pmemfs.UnfilledError)) {
			return filled, err
		}
		n, err := a.fillRange(f, 0, -1)
		filled += n
		if err != nil && !errors.Is(err, unix.ENXIO) { // it has become shorter meanwhile
			return filled, err
		}
	}
}

// freezeRemedy adds a remedy to an error of SetStatic. unfilled is the one for a file that is not filled.
func freezeRemedy(unfilled string, err error) error {
	if errors.As(err, new(*pmemfs.UnfilledError)) {
		return &failure{err, exitFailed, unfilled}
	}
	err = remedy(err, "a regular file: nothing else can be static", unix.EINVAL)
	return remedy(err, "do it with the capability CAP_LINUX_IMMUTABLE (as root), or at a server that was started with "+
		"--direct-group and a group of yours", unix.EPERM)
}

// eachBlocks calls do with each of the files after the pool, opened for writing if it writes, and takes note of what it
// did.
func (a *app) eachBlocks(args []string, writes bool, do func(*pmemfs.File) (blocksEntry, error)) (result, error) {
	r := &blocksResult{Files: []blocksEntry{}}
	flag := os.O_RDONLY
	if writes {
		flag = os.O_RDWR
	}
	err := a.use(args[0], func(fsys *pmemfs.FS) error {
		return each(args[1:], func(name string) error {
			f, err := fsys.OpenFile(tree.PoolName(name), flag, 0)
			if err != nil {
				return err
			}
			e, err := do(f)
			if err == nil {
				e.Path = path.Join("/", f.Name())
				r.Files = append(r.Files, e)
			}
			return errors.Join(err, f.Close())
		})
	})
	return r, err
}

// blocksEntry is what freeze, thaw or fill has done to the blocks of a file.
type blocksEntry struct {
	Path   string `json:"path"`
	Static bool   `json:"static"`                 // now
	Filled *int64 `json:"filled_bytes,omitempty"` // in blocks; nil: it was not to be filled
}

type blocksResult struct {
	Files []blocksEntry `json:"files"`
}

func (r *blocksResult) text(w io.Writer) {
	for _, e := range r.Files {
		state := "not static"
		if e.Static {
			state = "static"
		}
		if e.Filled != nil {
			state += fmt.Sprintf(", %s filled", formatSize(*e.Filled))
		}
		fmt.Fprintf(w, "%s: %s\n", e.Path, state)
	}
}
