package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs"
)

func (a *app) check() *cobra.Command {
	var media bool
	cmd := a.command(verb{
		use: "check POOL [flags]", short: "Verify every structure of a pool", args: [2]int{1, 1},
		long: `POOL is the path of a pool that nobody uses: stop its server first. Every checksum, reference, link count, block map,
directory and bitmap is verified; nothing is changed. Each damage is named on a line of its own. Notes are states that a
crash may leave and the next mount mends; they are no damage.

With --media every block of the pool is read, too, but for holes of its files, and the bad ones are named: bytes of files
that are lost (to write all of these heals them), blocks that are free (whoever gets them heals them), and metadata, which
is damage. What the kernel lists as bad (badblocks in sysfs, of the block device, or of a device-DAX device's region) is
not touched by that.

Exit code 0: clean; 1: damage, or a file has lost bytes; 2: it could not be checked.

With --json: pool, uuid, label, clean, files, directories, symlinks, others, names, orphans, blocks (that files map, each
as often as they do), shared (of these, mappings of a block besides its first one), nodes, problems and notes (how many),
seconds, and list: problems and notes, each with structure, where (path), inode, offset (bytes in the meta area, -1: no
single place), text and note. With --media as well media: files (path, inode, offset and length in bytes, unwritten: it
reads as zeros), free (offset and length in the data area), metadata (structure, offset and length in the meta area),
unknown (offset and length: the pool is too damaged to say whose they are), and listed (list, sector of 512 bytes, count).
`,
		example: `  pmemfs check /dev/shm/pool
  pmemfs check /dev/dax0.0 --json | jq -r '.list[].text'
  pmemfs check --media /mnt/pmem/pool`,
		run: func(_ *cobra.Command, args []string) (result, error) { return a.checkPool(args[0], media) },
	})
	cmd.Flags().BoolVar(&media, "media", false, "read every block, and name the bad ones")
	return cmd
}

// maxListed bounds the problems of a JSON object.
const maxListed = 10000

type checkResult struct {
	pmemfs.CheckResult
	OK   bool             `json:"clean"`
	List []pmemfs.Problem `json:"list"`
}

func (a *app) checkPool(pool string, media bool) (result, error) {
	if isSocket(pool) {
		return nil, &failure{fmt.Errorf("check %s: a pool that is being served cannot be checked", pool), exitUnable,
			"stop the server and check the pool itself"}
	}
	r := &checkResult{List: []pmemfs.Problem{}}
	var bar progress
	o := pmemfs.CheckOptions{Media: media, Report: func(p pmemfs.Problem) {
		if len(r.List) < maxListed {
			r.List = append(r.List, p)
		}
		if !a.json {
			bar.clear()
			kind := "damage"
			if p.Note {
				kind = "note"
			}
			fmt.Fprintf(a.stdout, "%s: %v\n", kind, p)
		}
	}}
	if a.terminal() {
		show := func(what string, isBytes bool) func(done, total int64) {
			var now progress
			return func(done, total int64) {
				if now.bar == nil {
					bar.clear()
					now = a.newProgress(what, total, isBytes)
					bar = now
				}
				bar.bar.ChangeMax64(max(total, 1))
				bar.set(done)
			}
		}
		o.MediaProgress, o.Progress = show("read", true), show("check", false)
	}
	var err error
	r.CheckResult, err = pmemfs.Check(a.ctx, pool, o)
	bar.clear()
	if err != nil {
		return nil, checkRemedy(pool, err)
	}
	r.OK = r.Clean()
	if !r.OK {
		return r, r.damage()
	}
	return r, nil
}

// damage is what is said of a pool that is not clean.
func (r *checkResult) damage() error {
	if r.Problems > 0 {
		return fmt.Errorf("%s is damaged: %s", r.Pool, count(r.Problems, "problem"))
	}
	return &failure{fmt.Errorf("the medium of %s has lost %s of files or metadata", r.Pool, count(r.Media.Lost(), "byte")), exitFailed,
		"write all of the lost blocks of a file, or remove it; from a pool whose metadata is lost, copy what can be read"}
}

func checkRemedy(pool string, err error) error {
	var f *failure
	if errors.As(openRemedy(pool, err), &f) && f.try == "" {
		f.try = "pmemfs info " + pool + " says what is there"
	}
	return f
}

func (r *checkResult) text(w io.Writer) {
	if r.Media != nil {
		textOfMedia(w, r.Media)
	}
	state := "clean"
	if !r.OK {
		state = "DAMAGED"
	}
	fmt.Fprintf(w, "%s: %s, %s, %s, %s, %s, %d shared; %s, %s\n", r.Pool, state, count(r.Files, "file"),
		count(r.Directories, "directory"), count(r.Symlinks, "symlink"), count(r.Blocks, "block"), r.Shared, count(r.Problems, "problem"), count(r.Notes, "note"))
}

func textOfMedia(w io.Writer, b *pmemfs.BadBlocks) {
	for _, x := range b.Files {
		what := "lost"
		if x.Unwritten {
			what = "bad, but unwritten"
		}
		fmt.Fprintf(w, "%s: %s: bytes %d to %d of the file (inode %d)\n", what, x.Path, x.Offset, x.Offset+x.Length-1, uint64(x.Ino))
	}
	for _, x := range b.Meta {
		fmt.Fprintf(w, "lost: metadata: %s at meta offset %#x, %d bytes\n", x.Structure, x.Offset, x.Length)
	}
	for _, x := range b.Unknown {
		fmt.Fprintf(w, "lost: data offset %#x, %d bytes; whose they are cannot be told\n", x.Offset, x.Length)
	}
	for _, x := range b.Free {
		fmt.Fprintf(w, "bad, but free: data offset %#x, %d bytes\n", x.Offset, x.Length)
	}
	for _, x := range b.Listed {
		fmt.Fprintf(w, "listed by the kernel: sectors %d to %d (%s)\n", x.Sector, x.Sector+x.Count-1, x.List)
	}
}
