package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/user"
	"path"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
)

func (a *app) ls() *cobra.Command {
	var long, itself bool
	cmd := a.command(verb{
		use: "ls POOL [PATH...] [flags]", short: "List directories", args: [2]int{1, -1},
		long: `Without PATH the root is listed. A symbolic link given as PATH is followed.

With --json: entries, each with path, type (file, directory, symlink, fifo, socket, device), permissions (as of ls -l),
target (of a symlink) and the fields of "pmemfs stat": ino, generation, mode, nlink, uid, gid, size, blocks, atime,
mtime, ctime, btime.
`,
		example: `  pmemfs ls /dev/shm/pool
  pmemfs ls -l /run/pmemfs/pool.sock /data /etc
  pmemfs ls /dev/shm/pool /data --json | jq -r '.entries[].path'`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			r := &lsResult{long: long, Entries: []*entry{}}
			paths := args[1:]
			if len(paths) == 0 {
				paths = []string{"/"}
			}
			err := a.look(args[0], func(fsys *pmemfs.FS) error {
				return each(paths, func(name string) error {
					return r.list(fsys, tree.PoolName(name), itself, long || a.json, len(paths) > 1)
				})
			})
			return r, err
		},
	})
	cmd.Flags().BoolVarP(&long, "long", "l", false, "with type, permissions, links, owner, size and time")
	cmd.Flags().BoolVarP(&itself, "directory", "d", false, "list directories themselves, not what is in them")
	return cmd
}

// entry is a file as ls and stat tell of it.
type entry struct {
	Path        string `json:"path"` // from the root
	Type        string `json:"type"`
	Permissions string `json:"permissions"`
	Target      string `json:"target,omitempty"`
	*pmemfs.Stat

	name  string      // as ls shows it
	group string      // the directory it is listed under; empty: none
	mode  fs.FileMode // as far as it is known
}

// newEntry describes a file, with all attributes.
func newEntry(fsys *pmemfs.FS, name string, info fs.FileInfo) (*entry, error) {
	st, _ := info.Sys().(*pmemfs.Stat)
	e := &entry{
		Path: path.Join("/", name), Type: typeName(info.Mode()), Permissions: info.Mode().String(), Stat: st,
		name: path.Base(name), mode: info.Mode(),
	}
	if info.Mode().Type() == fs.ModeSymlink {
		var err error
		if e.Target, err = fsys.ReadLink(name); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func typeName(m fs.FileMode) string {
	switch {
	case m.IsRegular():
		return "file"
	case m.IsDir():
		return "directory"
	case m&fs.ModeSymlink != 0:
		return "symlink"
	case m&fs.ModeNamedPipe != 0:
		return "fifo"
	case m&fs.ModeSocket != 0:
		return "socket"
	}
	return "device"
}

type lsResult struct {
	Entries []*entry `json:"entries"`

	long bool
}

// list adds a file, or what is in a directory. full: with all attributes; grouped: under the directory's name.
func (r *lsResult) list(fsys *pmemfs.FS, name string, itself, full, grouped bool) error {
	stat := fsys.Stat
	if itself {
		stat = fsys.Lstat
	}
	info, err := stat(name)
	if err != nil {
		return err
	}
	if itself || !info.IsDir() {
		e, err := newEntry(fsys, name, info)
		if err == nil {
			e.name = name
			r.Entries = append(r.Entries, e)
		}
		return err
	}
	list, err := fsys.ReadDir(name)
	if err != nil {
		return err
	}
	for _, d := range list {
		e, err := listed(fsys, path.Join(name, d.Name()), d, full)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		if grouped {
			e.group = path.Join("/", name)
		}
		r.Entries = append(r.Entries, e)
	}
	return nil
}

func listed(fsys *pmemfs.FS, name string, d fs.DirEntry, full bool) (*entry, error) {
	if !full {
		return &entry{name: d.Name(), mode: d.Type()}, nil
	}
	info, err := d.Info()
	if err != nil {
		return nil, err
	}
	return newEntry(fsys, name, info)
}

func (r *lsResult) text(w io.Writer) {
	var owners owners
	tab := tabwriter.NewWriter(w, 0, 1, 1, ' ', 0)
	group := ""
	for _, e := range r.Entries {
		if e.group != group {
			tab.Flush()
			fmt.Fprintf(w, "%s:\n", e.group)
			group = e.group
		}
		if !r.long {
			fmt.Fprintln(w, e.name)
			continue
		}
		fmt.Fprintf(tab, "%s\t%d\t%s\t%s\t%d\t%s\t%s", e.Permissions, e.Nlink, owners.user(e.UID), owners.group(e.GID), e.Size,
			time.Unix(0, e.Mtime).Format("2006-01-02 15:04"), e.name)
		if e.Target != "" {
			fmt.Fprintf(tab, " -> %s", e.Target)
		}
		fmt.Fprintln(tab)
	}
	tab.Flush()
}

// owners remembers the names of users and groups.
type owners struct{ users, groups map[uint32]string }

func (o *owners) user(id uint32) string {
	return remember(&o.users, id, func(s string) (string, error) {
		u, err := user.LookupId(s)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

func (o *owners) group(id uint32) string {
	return remember(&o.groups, id, func(s string) (string, error) {
		g, err := user.LookupGroupId(s)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
}

func remember(m *map[uint32]string, id uint32, find func(string) (string, error)) string {
	if *m == nil {
		*m = map[uint32]string{}
	}
	if (*m)[id] == "" {
		number := strconv.FormatUint(uint64(id), 10)
		name, err := find(number)
		if err != nil {
			name = number
		}
		(*m)[id] = name
	}
	return (*m)[id]
}
