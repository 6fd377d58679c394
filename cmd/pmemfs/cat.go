package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

// maxInline is how many bytes of a file fit into a JSON object.
const maxInline = 64 << 20

func (a *app) cat() *cobra.Command {
	return a.command(verb{
		use: "cat POOL PATH...", short: "Write the contents of files to standard output", args: [2]int{2, -1},
		long: `With --json: files, each with path, size (bytes) and content, in base64; at most 64 MiB in all.
`,
		example: `  pmemfs cat /dev/shm/pool /data/orders.log | tail
  pmemfs cat /dev/shm/pool /motd --json | jq -r '.files[0].content' | base64 -d`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			r := &catResult{Files: []catFile{}}
			err := a.look(args[0], func(fsys *pmemfs.FS) error {
				return each(args[1:], func(name string) error {
					if a.json {
						return r.add(fsys, tree.PoolName(name))
					}
					return a.catFile(fsys, tree.PoolName(name))
				})
			})
			return r, err
		},
	})
}

type catFile struct {
	Path    string `json:"path"`
	Size    int    `json:"size"`
	Content []byte `json:"content"`
}

type catResult struct {
	Files []catFile `json:"files"`
	total int64
}

func (*catResult) text(io.Writer) {} // it is out already

func (r *catResult) add(fsys *pmemfs.FS, name string) error {
	info, err := fsys.Stat(name)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return &fs.PathError{Op: "read", Path: name, Err: unix.EISDIR}
	}
	if r.total += info.Size(); r.total > maxInline {
		return &failure{&fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("more than %s in one object: %w", formatSize(maxInline), unix.EFBIG)},
			exitFailed, "without --json, or pmemfs get"}
	}
	content, err := fsys.ReadFile(name)
	if err == nil {
		r.Files = append(r.Files, catFile{path.Join("/", name), len(content), content})
	}
	return err
}

func (a *app) catFile(fsys *pmemfs.FS, name string) error {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteTo(stopper{a.ctx, a.stdout})
	return errors.Join(err, f.Close())
}

// stopper is a writer that fails once the user wants it to end.
type stopper struct {
	ctx context.Context
	w   io.Writer
}

func (s stopper) Write(p []byte) (int, error) {
	if err := context.Cause(s.ctx); err != nil {
		return 0, err
	}
	return s.w.Write(p)
}
