package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

func (a *app) defrag() *cobra.Command {
	var dryRun bool
	cmd := a.command(verb{
		use: "defrag POOL [PATH...] [flags]", short: "Make files contiguous, while programs use them", args: [2]int{1, -1},
		long: `Of each 2 MiB of a file, what is allocated is moved to blocks one behind the other; when all of it is allocated, to an
aligned 2 MiB, for which one entry of the file's block map then stands. What lies so already stays. A PATH is a file or a
directory, of which all files are looked at; without one it is all of the pool.

Programs may have the files mapped and store to them: they wait for the 2 MiB that are being moved, at most. What is
sealed, pinned, static or shared with another file is left alone, and so are snapshots. Each step is atomic, and Ctrl-C
ends it after one: what is done stays done.

With --json: looked (files), and files, those that were not as they should be, each with path; before and after: blocks,
extents (contiguous runs), leaves_4k, leaves_2m, leaves_1g (entries of the block map); moved_blocks, merged_leaves (of
2 MiB); and in blocks what was left: left_shared, left_sealed (or pinned), left_static, left_no_space, left_bad (what would
have to move together with a bad block of the medium). With --dry-run the moves are those that would be made if there were
room for all.
`,
		example: `  pmemfs defrag --dry-run /run/pmemfs/pool.sock
  pmemfs defrag /run/pmemfs/pool.sock /data/index.db
  pmemfs defrag /dev/shm/pool --json | jq '[.files[].moved_blocks] | add'`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			paths := args[1:]
			if len(paths) == 0 {
				paths = []string{"/"}
			}
			d := &defragmenter{app: a, dryRun: dryRun, seen: map[uint64]bool{}, result: defragResult{Files: []defragEntry{}, dryRun: dryRun}}
			use := a.use
			if dryRun {
				use = a.look
			}
			err := use(args[0], func(fsys *pmemfs.FS) error { return d.run(fsys, paths) })
			return &d.result, err
		},
	})
	cmd.Flags().BoolVarP(&dryRun, "dry-run", "n", false, "change nothing; tell what would be done")
	return cmd
}

// defragmenter is one run over files and trees.
type defragmenter struct {
	*app
	fsys   *pmemfs.FS
	dryRun bool
	bar    progress
	done   int64           // bytes of files before the present one
	seen   map[uint64]bool // inodes: a file with several names is looked at once
	failed several
	result defragResult
}

type defragEntry struct {
	Path string `json:"path"`
	pmemfs.Defragmentation
	After pmemfs.Fragmentation `json:"after"`
}

type defragResult struct {
	Looked int64         `json:"looked"`
	Files  []defragEntry `json:"files"`

	dryRun bool
}

func (d *defragmenter) run(fsys *pmemfs.FS, paths []string) error {
	d.fsys = fsys
	if d.terminal() {
		var total int64
		for _, name := range paths {
			_, bytes := tree.Size(d.ctx, tree.Pool{FS: fsys}, name)
			total += bytes
		}
		d.bar = d.newProgress("defrag", total, true)
		defer d.bar.clear()
	}
	for _, name := range paths {
		err := fs.WalkDir(fsys, tree.PoolName(name), d.visit)
		if err != nil {
			d.failed = append(d.failed, err)
		}
		if d.ctx.Err() != nil {
			break
		}
	}
	if len(d.failed) == 0 {
		return nil
	}
	return d.failed
}

// visit takes note of what fails, and goes on with other files, unless nothing more is to be done.
func (d *defragmenter) visit(name string, entry fs.DirEntry, err error) error {
	if cause := context.Cause(d.ctx); cause != nil {
		return &fs.PathError{Op: "defrag", Path: name, Err: cause}
	}
	if err == nil && entry.IsDir() && entry.Name() == pmemfs.SnapshotsName {
		return fs.SkipDir
	}
	if err == nil && entry.Type().IsRegular() {
		err = d.file(name, entry)
	}
	switch {
	case errors.Is(err, pmemfs.ErrServerGone), d.ctx.Err() != nil:
		return err
	case err != nil && !errors.Is(err, fs.ErrNotExist): // removed meanwhile
		d.failed = append(d.failed, err)
	case err != nil && entry == nil:
		d.failed = append(d.failed, err) // the user has named it
	}
	return nil
}

func (d *defragmenter) file(name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	st := info.Sys().(*pmemfs.Stat) // what package pmemfs always gives
	if d.seen[st.Ino] {
		return nil
	}
	d.seen[st.Ino] = true
	flag := os.O_RDWR
	if d.dryRun {
		flag = os.O_RDONLY
	}
	f, err := d.fsys.OpenFile(name, flag, 0)
	if err != nil {
		return err
	}
	d.result.Looked++
	err = errors.Join(d.defragment(f), f.Close())
	d.done += st.Size
	d.bar.set(d.done)
	return err
}

func (d *defragmenter) defragment(f *pmemfs.File) error {
	did, err := f.Defragment(d.ctx, pmemfs.DefragOptions{DryRun: d.dryRun, Progress: func(off int64) { d.bar.set(d.done + off) }})
	e := defragEntry{Path: path.Join("/", f.Name()), After: did.Before, Defragmentation: did}
	if did.Moved+did.Merged+e.left() == 0 {
		return err
	}
	if !d.dryRun {
		now, lookErr := f.Defragment(context.WithoutCancel(d.ctx), pmemfs.DefragOptions{DryRun: true})
		e.After, err = now.Before, errors.Join(err, lookErr)
	}
	d.result.Files = append(d.result.Files, e)
	return err
}

func (e *defragEntry) left() int64 { return e.Shared + e.Sealed + e.Static + e.NoSpace + e.Bad }

func (r *defragResult) text(w io.Writer) {
	verb := "moved"
	if r.dryRun {
		verb = "to be moved"
	}
	var moved int64
	for _, e := range r.Files {
		text := []string{fmt.Sprintf("%s in %s", formatSize(e.Before.Blocks*4096), count(e.Before.Extents, "extent"))}
		if !r.dryRun && e.After != e.Before {
			text[0] += fmt.Sprintf(", now in %d", e.After.Extents)
		}
		if e.Moved > 0 {
			text = append(text, fmt.Sprintf("%s %s", formatSize(e.Moved*4096), verb))
		}
		if e.Merged > 0 {
			text = append(text, fmt.Sprintf("%s of the block map for 2 MiB each", count(e.Merged, "entry")))
		}
		for _, left := range []struct {
			blocks int64
			why    string
		}{{e.Shared, "shared"}, {e.Sealed, "sealed"}, {e.Static, "static"}, {e.NoSpace, "no room"}, {e.Bad, "beside a bad block"}} {
			if left.blocks > 0 {
				text = append(text, fmt.Sprintf("%s left: %s", formatSize(left.blocks*4096), left.why))
			}
		}
		fmt.Fprintf(w, "%s: %s\n", e.Path, strings.Join(text, "; "))
		moved += e.Moved
	}
	fmt.Fprintf(w, "%s looked at, %d not contiguous, %s %s\n", count(r.Looked, "file"), len(r.Files), formatSize(moved*4096), verb)
}
