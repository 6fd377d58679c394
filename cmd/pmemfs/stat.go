package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

func (a *app) stat() *cobra.Command {
	var (
		follow bool
		watch  time.Duration
	)
	cmd := a.command(verb{
		use: "stat POOL [PATH...] [flags]", args: [2]int{1, -1},
		short: "Print all attributes of files, or the numbers of a server",
		long: statsHelp + `
With PATHs their attributes are printed. With --json: files, each with path, type, permissions, target (of a symlink),
ino, generation, mode (st_mode of stat(2)), nlink, uid, gid, size (bytes), blocks (of 4 KiB), atime, mtime, ctime,
btime (ns since 1970), static (see "pmemfs freeze"), and xattrs, from names to values in base64.
`,
		example: `  pmemfs stat /run/pmemfs/pool.sock
  pmemfs stat /run/pmemfs/pool.sock --watch 1s
  pmemfs stat /run/pmemfs/pool.sock --json | jq .journal.combined
  pmemfs stat /dev/shm/pool /data/orders.log
  pmemfs stat /run/pmemfs/pool.sock / --json | jq '.files[0].mtime'`,
		run: func(cmd *cobra.Command, args []string) (result, error) {
			switch watching := cmd.Flags().Changed("watch"); {
			case watching && (len(args) > 1 || a.json || !isSocket(args[0])):
				return nil, usageError(cmd, "--watch goes with the socket of a server, and with neither PATH nor --json")
			case watching && watch < minWatch:
				return nil, usageError(cmd, "--watch %v: it must be at least %v", watch, minWatch)
			case watching:
				return nil, a.watchStats(args[0], watch)
			case len(args) == 1 && follow:
				return nil, usageError(cmd, "--dereference goes with PATH")
			case len(args) == 1:
				return a.ownerStats(args[0])
			}
			r := &statResult{Files: []*statEntry{}}
			err := a.look(args[0], func(fsys *pmemfs.FS) error {
				return each(args[1:], func(name string) error { return r.add(fsys, tree.PoolName(name), follow) })
			})
			return r, err
		},
	})
	cmd.Flags().BoolVarP(&follow, "dereference", "L", false, "follow symbolic links")
	cmd.Flags().DurationVar(&watch, "watch", 0, "print the numbers of a server at this interval, with rates, until Ctrl-C")
	return cmd
}

type statEntry struct {
	*entry
	Xattrs map[string][]byte `json:"xattrs"`
}

type statResult struct {
	Files []*statEntry `json:"files"`
}

func (r *statResult) add(fsys *pmemfs.FS, name string, follow bool) error {
	stat := fsys.Lstat
	if follow {
		stat = fsys.Stat
	}
	info, err := stat(name)
	if err != nil {
		return err
	}
	e, err := newEntry(fsys, name, info)
	if err != nil {
		return err
	}
	s := &statEntry{e, map[string][]byte{}}
	names, err := fsys.Listxattr(name)
	if err != nil {
		return err
	}
	for _, attr := range names {
		if s.Xattrs[attr], err = fsys.Getxattr(name, attr); err != nil {
			return err
		}
	}
	r.Files = append(r.Files, s)
	return nil
}

func (r *statResult) text(w io.Writer) {
	var owners owners
	for i, s := range r.Files {
		if i > 0 {
			fmt.Fprintln(w)
		}
		name := s.Path
		if s.Target != "" {
			name += " -> " + s.Target
		}
		at := func(ns int64) string { return time.Unix(0, ns).Format("2006-01-02 15:04:05.000000000 -0700") }
		fields{
			{"path", name}, {"type", s.Type},
			{"mode", fmt.Sprintf("%04o (%s)", s.Mode&0o7777, s.Permissions)},
			{"size", fmt.Sprintf("%d bytes, %s", s.Size, count(s.Blocks, "block"))},
			{"inode", fmt.Sprintf("%d, generation %d", s.Ino, s.Generation)},
			{"links", fmt.Sprint(s.Nlink)},
			{"owner", fmt.Sprintf("%s (%d)", owners.user(s.UID), s.UID)},
			{"group", fmt.Sprintf("%s (%d)", owners.group(s.GID), s.GID)},
			{"accessed", at(s.Atime)}, {"modified", at(s.Mtime)}, {"changed", at(s.Ctime)}, {"created", at(s.Btime)},
		}.text(w)
		if s.Static {
			fields{{"static", "yes: its size and the place of its blocks are frozen"}}.text(w)
		}
		for _, attr := range slices.Sorted(maps.Keys(s.Xattrs)) {
			fields{{"xattr", fmt.Sprintf("%s = %q", attr, s.Xattrs[attr])}}.text(w)
		}
	}
}
