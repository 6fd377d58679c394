package main

import (
	"fmt"
	"io"
	"path"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

// snapshot has a verb below it for each thing to do with a snapshot.
func (a *app) snapshot() *cobra.Command {
	var writable, skip bool
	cmd := a.command(verb{
		use: "snapshot POOL [DIR] NAME [flags]", short: "Take a snapshot of a directory", args: [2]int{2, 3},
		long: `Makes DIR/.snapshots/NAME, which holds all files and directories under DIR (by default the root) as they are at one
instant, also while programs store to them through mappings. It shares the blocks with the files until these change, so it
takes no space at first, and time by the number of files. Directories named .snapshots are not part of it.

Nothing of it can be changed, unless --writable is given; "pmemfs snapshot delete" removes it. Files that cannot share blocks
because they are static, sealed or pinned make it fail, or are left out with --skip-sealed. It takes the owner of DIR, or root.
It is durable when it returns. A snapshot whose name is one of the verbs below is taken with DIR given.

With --json: dir, name, readonly, skipped (paths from DIR on).
`,
		example: `  pmemfs snapshot /run/pmemfs/pool.sock before-upgrade
  pmemfs snapshot /run/pmemfs/pool.sock /data hourly-17 --skip-sealed
  pmemfs snapshot diff /run/pmemfs/pool.sock /data hourly-17
  pmemfs snapshot restore /run/pmemfs/pool.sock /data hourly-17`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			r := newSnapshotResult(args)
			r.ReadOnly = !writable
			var flags pmemfs.SnapshotFlags
			if writable {
				flags |= pmemfs.SnapshotWritable
			}
			if skip {
				flags |= pmemfs.SnapshotSkipSealed
			}
			err := a.use(args[0], func(fsys *pmemfs.FS) error {
				skipped, err := fsys.Snapshot(r.dir(), r.Name, flags)
				r.Skipped = append(r.Skipped, skipped...)
				return err
			})
			if err != nil {
				return nil, snapshotRemedy(remedy(err, "without these files: --skip-sealed", pmemfs.ErrStatic, pmemfs.ErrSealed))
			}
			return r, nil
		},
	})
	cmd.Flags().BoolVar(&writable, "writable", false, "make one that can be changed")
	cmd.Flags().BoolVar(&skip, "skip-sealed", false, "leave out files that are static, sealed or pinned")
	cmd.AddCommand(a.snapshotList(), a.snapshotDiff(), a.snapshotRestore(), a.snapshotDelete())
	return cmd
}

func (a *app) snapshotList() *cobra.Command {
	return a.command(verb{
		use: "list POOL [DIR]", short: "List the snapshots of a directory", args: [2]int{1, 2},
		long: `The oldest comes first. Files counts the names in a snapshot that lead to something else than a directory.

With --json: dir, snapshots: each with name, time, readonly, files.
`,
		example: `  pmemfs snapshot list /run/pmemfs/pool.sock
  pmemfs snapshot list /run/pmemfs/pool.sock /data --json | jq -r '.snapshots[].name'`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			r := &snapshotList{Dir: snapshotDir(args[1:]), Snapshots: []pmemfs.SnapshotInfo{}}
			err := a.look(args[0], func(fsys *pmemfs.FS) error {
				list, err := fsys.Snapshots(tree.PoolName(r.Dir))
				r.Snapshots = append(r.Snapshots, list...)
				return err
			})
			if err != nil {
				return nil, err
			}
			return r, nil
		},
	})
}

func (a *app) snapshotDiff() *cobra.Command {
	var other string
	cmd := a.command(verb{
		use: "diff POOL [DIR] NAME [flags]", short: "Show what has changed since a snapshot", args: [2]int{2, 3},
		long: `Compares the snapshot NAME with DIR as it is now, or with a later snapshot. A file or directory may be added, removed or
renamed; of one that stays, contents may differ, by blocks of 4 KiB, and attributes: permissions, owner, extended attributes,
or else the time. It takes the owner of DIR, or root, and looks at block maps, not at data.

With --json: dir, name, to (the other snapshot), changes: each with path, from (the path that it had), type, added, removed,
contents, attributes, and, of a file whose contents differ, ranges: each with offset and length (bytes).
`,
		example: `  pmemfs snapshot diff /run/pmemfs/pool.sock before-upgrade
  pmemfs snapshot diff /run/pmemfs/pool.sock /data hourly-16 --to hourly-17 --json`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			s := newSnapshotResult(args)
			r := &snapshotDiff{Dir: s.Dir, Name: s.Name, To: other, Changes: []snapshotChange{}}
			err := a.look(args[0], func(fsys *pmemfs.FS) error {
				list, err := fsys.SnapshotDiff(s.dir(), s.Name, other)
				for _, c := range list {
					r.Changes = append(r.Changes, snapshotChange{
						c.Path, c.From, typeName(c.Mode), c.Added, c.Removed, c.Contents, c.Attributes, c.Ranges,
					})
				}
				return err
			})
			if err != nil {
				return nil, snapshotRemedy(err)
			}
			return r, nil
		},
	})
	cmd.Flags().StringVar(&other, "to", "", "compare with this snapshot, not with what is there now")
	return cmd
}

func (a *app) snapshotRestore() *cobra.Command {
	return a.command(verb{
		use: "restore POOL [DIR] NAME", short: "Make a directory again what it was when a snapshot was taken", args: [2]int{2, 3},
		long: `All files and directories under DIR, but its snapshots, become what they are in the snapshot, atomically: whoever looks, and
whoever looks after a crash, sees everything as it was before, or as it is then. What was there is removed; programs that have it
open or mapped keep it until they close it. The snapshot stays. It takes the owner of DIR, or root.

With --json: dir, name.
`,
		example: `  pmemfs snapshot restore /run/pmemfs/pool.sock /data hourly-17`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			return a.onSnapshot(args, "restored from", (*pmemfs.FS).RestoreSnapshot)
		},
	})
}

func (a *app) snapshotDelete() *cobra.Command {
	return a.command(verb{
		use: "delete POOL [DIR] NAME", short: "Remove a snapshot", args: [2]int{2, 3},
		long: `Removes the snapshot with all that is in it, also a read-only one, and frees the blocks that no other file has. It takes the
owner of DIR, or root.

With --json: dir, name.
`,
		example: `  pmemfs snapshot delete /run/pmemfs/pool.sock /data hourly-17`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			return a.onSnapshot(args, "without", (*pmemfs.FS).RemoveSnapshot)
		},
	})
}

func (a *app) onSnapshot(args []string, done string, do func(fsys *pmemfs.FS, dir, name string) error) (result, error) {
	r := newSnapshotResult(args)
	if err := a.use(args[0], func(fsys *pmemfs.FS) error { return do(fsys, r.dir(), r.Name) }); err != nil {
		return nil, snapshotRemedy(err)
	}
	return &snapshotDone{r.Dir, r.Name, done}, nil
}

func snapshotRemedy(err error) error {
	err = remedy(err, "as the owner of the directory, or root", unix.EPERM)
	err = remedy(err, "pmemfs snapshot list POOL DIR shows what there is", unix.ENOENT)
	return remedy(err, "delete the snapshots of directories below first, or move them", unix.ENOTEMPTY)
}

// snapshotDir is the directory that is given, or the root.
func snapshotDir(args []string) string {
	if len(args) == 0 {
		return "/"
	}
	return path.Join("/", args[0])
}

type snapshotResult struct {
	Dir      string   `json:"dir"`
	Name     string   `json:"name"`
	ReadOnly bool     `json:"readonly"`
	Skipped  []string `json:"skipped"`
}

// newSnapshotResult takes POOL [DIR] NAME apart.
func newSnapshotResult(args []string) *snapshotResult {
	last := len(args) - 1
	return &snapshotResult{Dir: snapshotDir(args[1:last]), Name: args[last], Skipped: []string{}}
}

func (r *snapshotResult) dir() string { return tree.PoolName(r.Dir) }

func (r *snapshotResult) text(w io.Writer) {
	fmt.Fprintln(w, path.Join(r.Dir, pmemfs.SnapshotsName, r.Name))
	for _, name := range r.Skipped {
		fmt.Fprintf(w, "skipped: %s\n", name)
	}
}

type snapshotDone struct {
	Dir  string `json:"dir"`
	Name string `json:"name"`

	done string
}

func (r *snapshotDone) text(w io.Writer) { fmt.Fprintf(w, "%s: %s %s\n", r.Dir, r.done, r.Name) }

type snapshotList struct {
	Dir       string                `json:"dir"`
	Snapshots []pmemfs.SnapshotInfo `json:"snapshots"`
}

func (r *snapshotList) text(w io.Writer) {
	tab := tabwriter.NewWriter(w, 0, 1, 2, ' ', 0)
	for _, s := range r.Snapshots {
		kind := "writable"
		if s.ReadOnly {
			kind = "read-only"
		}
		fmt.Fprintf(tab, "%s\t%s\t%s\t%s\n", s.Name, s.Time.Local().Format("2006-01-02 15:04"), kind, count(s.Files, "file"))
	}
	tab.Flush()
}

type snapshotDiff struct {
	Dir     string           `json:"dir"`
	Name    string           `json:"name"`
	To      string           `json:"to,omitempty"`
	Changes []snapshotChange `json:"changes"`
}

type snapshotChange struct {
	Path       string             `json:"path"` // from Dir on
	From       string             `json:"from,omitempty"`
	Type       string             `json:"type"`
	Added      bool               `json:"added"`
	Removed    bool               `json:"removed"`
	Contents   bool               `json:"contents"`
	Attributes bool               `json:"attributes"`
	Ranges     []pmemfs.ByteRange `json:"ranges,omitempty"`
}

func (r *snapshotDiff) text(w io.Writer) {
	tab := tabwriter.NewWriter(w, 0, 1, 2, ' ', 0)
	for _, c := range r.Changes {
		fmt.Fprintf(tab, "%s\t%s\n", c.what(), c.details())
	}
	tab.Flush()
}

// what says what has happened, in words that scripts can look for.
func (c *snapshotChange) what() string {
	var words []string
	for _, w := range []struct {
		yes  bool
		word string
	}{
		{c.Added, "added"}, {c.Removed, "removed"}, {c.From != "", "renamed"}, {c.Contents, "contents"}, {c.Attributes, "attributes"},
	} {
		if w.yes {
			words = append(words, w.word)
		}
	}
	return strings.Join(words, ",")
}

func (c *snapshotChange) details() string {
	text := c.Path
	if c.Type == "directory" && text != "." {
		text += "/"
	}
	if c.From != "" {
		text += " from " + c.From
	}
	var bytes int64
	for _, r := range c.Ranges {
		bytes += r.Length
	}
	if len(c.Ranges) > 0 {
		text += fmt.Sprintf(" (%s in %s)", formatSize(bytes), count(int64(len(c.Ranges)), "range"))
	}
	return text
}
