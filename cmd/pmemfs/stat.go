package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
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
btime (ns since 1970), static (see "pmemfs freeze"), shared_blocks (of blocks, those that another file has or had,
too; of files that may be read), and xattrs, from names to values in base64.
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
	Shared *int64            `json:"shared_blocks,omitempty"` // nil: not known
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
	s := &statEntry{entry: e, Xattrs: map[string][]byte{}}
	if info.Mode().IsRegular() {
		if s.Shared, err = sharedBlocks(fsys, name); err != nil {
			return err
		}
	}
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

// sharedBlocks counts the blocks of a file that are marked shared; nil if it may not be read.
func sharedBlocks(fsys *pmemfs.FS, name string) (*int64, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, ignore(err, fs.ErrPermission)
	}
	list, err := f.Extents()
	n := new(int64)
	for _, e := range list {
		if e.Shared {
			*n += (e.Length + 4095) / 4096
		}
	}
	return n, errors.Join(err, f.Close())
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
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
		size := fmt.Sprintf("%d bytes, %s", s.Size, count(s.Blocks, "block"))
		if s.Shared != nil && *s.Shared > 0 {
			size += fmt.Sprintf(", %d shared", *s.Shared)
		}
		at := func(ns int64) string { return time.Unix(0, ns).Format("2006-01-02 15:04:05.000000000 -0700") }
		fields{
			{"path", name}, {"type", s.Type},
			{"mode", fmt.Sprintf("%04o (%s)", s.Mode&0o7777, s.Permissions)},
			{"size", size},
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
