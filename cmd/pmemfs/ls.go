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
		long: `Without PATH the root is listed. A symbolic link given as PATH is followed. With -l a "!" behind the permissions marks
static files (see "pmemfs freeze").

With --json: entries, each with path, type (file, directory, symlink, fifo, socket, device), permissions (as of ls -l),
target (of a symlink) and the fields of "pmemfs stat": ino, generation, mode, nlink, uid, gid, size, blocks, atime,
mtime, ctime, btime, static.
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

	name string // as ls shows it
}

// newEntry describes a file, with all attributes.
func newEntry(fsys *pmemfs.FS, name string, info fs.FileInfo) (*entry, error) {
	st, _ := info.Sys().(*pmemfs.Stat)
	e := &entry{
		Path: path.Join("/", name), Type: typeName(info.Mode()), Permissions: permissionText(info.Mode()), Stat: st,
		name: path.Base(name),
	}
	if info.Mode().Type() == fs.ModeSymlink {
		var err error
		if e.Target, err = fsys.ReadLink(name); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// permissionText is what ls(1) shows for st_mode.
func permissionText(m fs.FileMode) string {
	text := []byte("-" + m.Perm().String()[1:])
	text[0] = map[string]byte{"file": '-', "directory": 'd', "symlink": 'l', "fifo": 'p', "socket": 's'}[typeName(m)]
	switch {
	case m&fs.ModeCharDevice != 0:
		text[0] = 'c'
	case m&fs.ModeDevice != 0:
		text[0] = 'b'
	}
	for _, special := range []struct {
		bit      fs.FileMode
		at       int
		x, plain byte
	}{{fs.ModeSetuid, 3, 's', 'S'}, {fs.ModeSetgid, 6, 's', 'S'}, {fs.ModeSticky, 9, 't', 'T'}} {
		if m&special.bit == 0 {
			continue
		}
		if text[special.at] == 'x' {
			text[special.at] = special.x
		} else {
			text[special.at] = special.plain
		}
	}
	return string(text)
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

	long   bool
	groups []group
}

// group is a directory's part of the entries, up to the next group.
type group struct {
	name string // empty: not to be shown
	from int
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
			r.groups = append(r.groups, group{"", len(r.Entries)})
			r.Entries = append(r.Entries, e)
		}
		return err
	}
	list, err := fsys.ReadDir(name)
	if err != nil {
		return err
	}
	g := group{"", len(r.Entries)}
	if grouped {
		g.name = path.Join("/", name)
	}
	r.groups = append(r.groups, g)
	for _, d := range list {
		e, err := listed(fsys, path.Join(name, d.Name()), d, full)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		r.Entries = append(r.Entries, e)
	}
	return nil
}

func listed(fsys *pmemfs.FS, name string, d fs.DirEntry, full bool) (*entry, error) {
	if !full {
		return &entry{name: d.Name()}, nil
	}
	info, err := d.Info()
	if err != nil {
		return nil, err
	}
	return newEntry(fsys, name, info)
}

func (r *lsResult) text(w io.Writer) {
	var owners owners
	for i, g := range r.groups {
		entries := r.Entries[g.from:]
		if i+1 < len(r.groups) {
			entries = r.Entries[g.from:r.groups[i+1].from]
		}
		if g.name != "" {
			if i > 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintf(w, "%s:\n", g.name)
		}
		tab := tabwriter.NewWriter(w, 0, 1, 1, ' ', 0)
		for _, e := range entries {
			if r.long {
				e.longText(tab, &owners)
			} else {
				fmt.Fprintln(w, e.name)
			}
		}
		tab.Flush()
	}
}

// longText is a line of ls -l.
func (e *entry) longText(w io.Writer, o *owners) {
	permissions := e.Permissions
	if e.Static {
		permissions += "!"
	}
	fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%s\t%s", permissions, e.Nlink, o.user(e.UID), o.group(e.GID), e.Size,
		time.Unix(0, e.Mtime).Format("2006-01-02 15:04"), e.name)
	if e.Target != "" {
		fmt.Fprintf(w, " -> %s", e.Target)
	}
	fmt.Fprintln(w)
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
