package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

var errNotDirectory error = unix.ENOTDIR

const copyRules = `
As cp -a does: if DEST is a directory, each SOURCE goes into it under its own name; else the one SOURCE becomes DEST, whose
parent must be there. SOURCE/. stands for what is in a directory. Directories that are there already are filled; files
that are there are replaced, atomically: a file appears complete or not at all. Static files of a pool are not replaced.
Permissions, times, symbolic links (which are not followed), hard links and holes are kept; owners with --owner.
Sockets, devices and FIFOs are skipped, with a note.

With --json: files, directories, symlinks, hard_links, bytes (of file contents, holes included), skipped (a list of
names), failed.
`

func (a *app) put() *cobra.Command {
	c := &copyVerb{app: a, op: "put"}
	cmd := a.command(verb{
		use: "put POOL SOURCE... [DEST] [flags]", short: "Copy files and trees into a pool", args: [2]int{2, -1},
		long: "With one path only, DEST is the root of the pool. SOURCE may be -, standard input; then DEST is a file.\n" + copyRules,
		example: `  pmemfs put /dev/shm/pool ./data /data
  pmemfs put /run/pmemfs/pool.sock a.txt b.txt /docs
  tar c . | pmemfs put /dev/shm/pool - /backup.tar`,
		run: func(cmd *cobra.Command, args []string) (result, error) {
			return c.run(cmd, args, "/", func(fsys *pmemfs.FS) (from, to tree.Side) { return tree.Host{}, tree.Pool{FS: fsys} })
		},
	})
	cmd.Flags().BoolVar(&c.owner, "owner", false, "keep owner and group (for root)")
	return cmd
}

// copyVerb is put, get or cp.
type copyVerb struct {
	*app
	op      string
	owner   bool
	plain   bool         // see tree.Copier
	reflink tree.Reflink // likewise
	flat    bool         // directories are refused
}

func (c *copyVerb) run(cmd *cobra.Command, args []string, dest string, sides func(*pmemfs.FS) (from, to tree.Side)) (result, error) {
	pool, sources := args[0], args[1:]
	if n := len(sources); n > 1 {
		sources, dest = sources[:n-1], sources[n-1]
	}
	use := c.use
	if c.op == "get" {
		use = c.look
	}
	r := &copyResult{op: c.op}
	err := use(pool, func(fsys *pmemfs.FS) error {
		from, to := sides(fsys)
		into, err := c.destination(to, sources, dest)
		if err != nil {
			return err
		}
		r.begun = true
		return c.copy(r, from, to, sources, dest, into)
	})
	if !r.begun {
		return nil, err
	}
	return r, err
}

// destination says where each source goes.
func (c *copyVerb) destination(to tree.Side, sources []string, dest string) (into bool, err error) {
	into = isDirectory(to, dest)
	switch {
	case c.op == "put" && sources[0] == "-" && (into || len(sources) > 1 || strings.HasSuffix(dest, "/")):
		return false, &failure{errors.New("standard input needs the name of a file as DEST"), exitUnable, "pmemfs put POOL - /NAME"}
	case into:
		return true, nil
	case len(sources) > 1 || strings.HasSuffix(dest, "/"):
		if _, err := to.Stat(dest); err != nil {
			return false, err
		}
		return false, &fs.PathError{Op: c.op, Path: dest, Err: errNotDirectory}
	}
	return false, nil
}

func (c *copyVerb) copy(r *copyResult, from, to tree.Side, sources []string, dest string, into bool) (err error) {
	var failed several
	bar := c.progress(from, sources)
	copier := &tree.Copier{
		From: from, To: to, Owner: c.owner, Plain: c.plain, Reflink: c.reflink, Workers: 4,
		Copied:  func(_, bytes int64) { bar.add(bytes) },
		Failed:  func(err error) { failed = append(failed, err) },
		Skipped: func(name string) { bar.clear(); c.say("skipped %s: not a file, directory or symbolic link", name) },
	}
	for _, name := range sources {
		switch {
		case c.op == "put" && name == "-":
			err = copier.Stream(c.ctx, c.stdin, dest, 0o644)
		case c.flat && isDirectory(from, name):
			refused := &fs.PathError{Op: c.op, Path: name, Err: unix.EISDIR}
			failed = append(failed, &failure{refused, exitFailed, "--recursive copies directories"})
		default:
			err = copier.Copy(c.ctx, name, inside(dest, name, into))
		}
		if err != nil {
			break
		}
	}
	bar.clear()
	r.Counts = copier.Counts()
	if err != nil {
		failed = append(several{err}, failed...)
	}
	if len(failed) == 0 {
		return nil
	}
	return failed
}

// progress counts what there is to do, if somebody is watching.
func (c *copyVerb) progress(from tree.Side, sources []string) progress {
	if !c.terminal() {
		return progress{}
	}
	var total int64
	for _, name := range sources {
		if name != "-" {
			_, bytes := tree.Size(c.ctx, from, name)
			total += bytes
		}
	}
	return c.newProgress(c.op, total, true)
}

type copyResult struct {
	tree.Counts
	op    string
	begun bool
}

func (r *copyResult) text(w io.Writer) {
	fmt.Fprintf(w, "%s %s, %s", r.op, count(r.Files, "file"), formatSize(r.Bytes))
	for _, n := range []struct {
		n    int64
		what string
	}{
		{r.Directories, "directory"}, {r.Symlinks, "symlink"}, {r.HardLinks, "hard link"},
	} {
		if n.n > 0 {
			fmt.Fprintf(w, ", %s", count(n.n, n.what))
		}
	}
	if r.Cloned > 0 {
		fmt.Fprintf(w, ", %d cloned", r.Cloned)
	}
	if n := len(r.Skipped); n > 0 {
		fmt.Fprintf(w, ", %d skipped", n)
	}
	if r.Failed > 0 {
		fmt.Fprintf(w, "; %d FAILED", r.Failed)
	}
	fmt.Fprintln(w)
}
