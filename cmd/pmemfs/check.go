package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs"
)

func (a *app) check() *cobra.Command {
	return a.command(verb{
		use: "check POOL", short: "Verify every structure of a pool", args: [2]int{1, 1},
		long: `POOL is the path of a pool that nobody uses: stop its server first. Every checksum, reference, link count, block map,
directory and bitmap is verified; nothing is changed. Each damage is named on a line of its own. Notes are states that a
crash may leave and the next mount mends; they are no damage.

Exit code 0: clean; 1: damage; 2: it could not be checked.

With --json: pool, uuid, label, clean, files, directories, symlinks, others, names, orphans, blocks (that files map, each
as often as they do), shared (of these, mappings of a block besides its first one), nodes, problems and notes (how many),
seconds, and list: problems and notes, each with structure, where (path), inode, offset (bytes in the meta area, -1: no
single place), text and note.
`,
		example: `  pmemfs check /dev/shm/pool
  pmemfs check /dev/dax0.0 --json | jq -r '.list[].text'`,
		run: func(_ *cobra.Command, args []string) (result, error) { return a.checkPool(args[0]) },
	})
}

// maxListed bounds the problems of a JSON object.
const maxListed = 10000

type checkResult struct {
	pmemfs.CheckResult
	OK   bool             `json:"clean"`
	List []pmemfs.Problem `json:"list"`
}

func (a *app) checkPool(pool string) (result, error) {
	if isSocket(pool) {
		return nil, &failure{fmt.Errorf("check %s: a pool that is being served cannot be checked", pool), exitUnable,
			"stop the server and check the pool itself"}
	}
	r := &checkResult{List: []pmemfs.Problem{}}
	var bar progress
	o := pmemfs.CheckOptions{Report: func(p pmemfs.Problem) {
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
		bar = a.newProgress("check", 1, false)
		o.Progress = func(done, total int64) {
			bar.bar.ChangeMax64(max(total, 1))
			bar.set(done)
		}
	}
	var err error
	r.CheckResult, err = pmemfs.Check(a.ctx, pool, o)
	bar.clear()
	if err != nil {
		return nil, checkRemedy(pool, err)
	}
	r.OK = r.Clean()
	if !r.OK {
		return r, fmt.Errorf("%s is damaged: %s", pool, count(r.Problems, "problem"))
	}
	return r, nil
}

func checkRemedy(pool string, err error) error {
	var f *failure
	if errors.As(openRemedy(pool, err), &f) && f.try == "" {
		f.try = "pmemfs info " + pool + " says what is there"
	}
	return f
}

func (r *checkResult) text(w io.Writer) {
	state := "clean"
	if !r.OK {
		state = "DAMAGED"
	}
	fmt.Fprintf(w, "%s: %s, %s, %s, %s, %s, %d shared; %s, %s\n", r.Pool, state, count(r.Files, "file"),
		count(r.Directories, "directory"), count(r.Symlinks, "symlink"), count(r.Blocks, "block"), r.Shared, count(r.Problems, "problem"), count(r.Notes, "note"))
}
