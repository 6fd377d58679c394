package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

func (a *app) info() *cobra.Command {
	var require granularity
	cmd := a.command(verb{
		use: "info POOL [flags]", short: "Say what a pool is, and what its medium guarantees", args: [2]int{1, 1},
		long: `Prints what makes stores durable on the medium and how that was found out, the sizes of the pool and what of it is in
use, and the flags of Map that are supported, with the reason for those that are not. Frames are the owner's records of
who may access which blocks: grants, the seals of Direct mappings, and pins; there are some only for what is mapped.

POOL may also be a directory or a DAX device without a pool: then what a pool there would have is found out; in a
directory, by two small files that are removed at once.

With --require it fails unless the medium gives that granularity, and says what is missing.

With --json: pool, socket (of a server), pid (of the owner), uuid, label, format_version, commit (the policy: op or
interval=DURATION), map_mask, read_only;
medium: path, kind, file_system, domain, granularity, emulated, assumed (where a disk is treated as persistent
memory), power_cut (where power cuts are emulated), map_sync, meta_size, data_size, alignment, read_only, flush_method,
stream_method, evidence (what, how, result); use: block_size, blocks, free_blocks, inodes, free_inodes, meta_blocks,
free_meta_blocks; is_pool; clients (connections, this one included); exports (open files that exported descriptors stand for);
frames: clients, files, mappings, grants, pins, seals, granted_blocks, pinned_blocks, sealed_blocks, records (all of them),
bytes (of memory that they take), breaks (since the start). Without a pool only medium and is_pool are there.
`,
		example: `  pmemfs info /dev/shm/pool
  pmemfs info /run/pmemfs/pool.sock --require cache-line
  pmemfs info /mnt/pmem0 --json | jq -r .medium.domain`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			r, err := a.inspect(args[0], require.Granularity)
			if errors.Is(err, medium.ErrNoPool) || errors.Is(err, medium.ErrNotPool) {
				if place, placeErr := inspectPlace(args[0], require.Granularity); place != nil || placeErr != nil {
					return place, placeErr
				}
			}
			if err != nil {
				return nil, err
			}
			return r, nil
		},
	})
	requireFlag(cmd, &require)
	return cmd
}

// infoResult is a pool.
type infoResult struct {
	pmemfs.Info
	FormatVersion int               `json:"format_version"`
	Use           pmemfs.StatfsInfo `json:"use"`
	IsPool        bool              `json:"is_pool"`
	Clients       int               `json:"clients"`
	Exports       int               `json:"exports"`
	Frames        pmemfs.Frames     `json:"frames"`
}

func (a *app) inspect(pool string, require pmemfs.Granularity) (*infoResult, error) {
	r := &infoResult{FormatVersion: layout.Version, IsPool: true} // other versions are refused
	err := a.look(pool, func(fsys *pmemfs.FS) (err error) {
		r.Info = fsys.Info()
		if r.Use, err = fsys.Statfs(); err != nil {
			return err
		}
		s, err := fsys.Stats()
		r.Clients, r.Exports, r.Frames = s.Clients, s.Exports, s.Frames
		return err
	}, pmemfs.Require(require))
	return r, err
}

// guarantee says in a few words what a durable store takes.
func guarantee(m *pmemfs.MediumReport) string {
	s := fmt.Sprintf("%s, %v granularity, persistence domain %v", m.Kind, m.Granularity, m.Domain)
	switch {
	case m.PowerCut:
		s += " (EMULATED, with power cuts by command: for tests of programs only)"
	case m.Assumed:
		s += " (ASSUMED PERSISTENT, which it is not: stores do not survive power loss; for development only)"
	case m.Emulated:
		s += " (EMULATED: survives the crash of processes, not of the machine)"
	}
	return s
}

func (r *infoResult) guarantee() string { return guarantee(&r.Medium) }

func (r *infoResult) text(w io.Writer) {
	owner := "nobody"
	if r.Socket != "" {
		what := count(int64(r.Clients-1), "other client")
		if r.Exports > 0 {
			what += " and " + count(int64(r.Exports), "exported file")
		}
		owner = fmt.Sprintf("process %d, serving %s at %s", r.PID, what, r.Socket)
	}
	used := func(all, free, unit int64) string {
		return fmt.Sprintf("%s, %s free", formatSize(all*unit), formatSize(free*unit))
	}
	label := r.Label
	if label == "" {
		label = "(none)"
	}
	u := r.Use
	fields{
		{"pool", r.Pool}, {"label", label}, {"uuid", r.UUID}, {"format", fmt.Sprintf("version %d", r.FormatVersion)},
		{"owner", owner},
		{"commit", commitText(r.Commit)},
		{"data", used(u.Blocks, u.FreeBlocks, u.BlockSize)},
		{"meta", fmt.Sprintf("%s; for directories and block maps %s", formatSize(r.Medium.MetaSize), used(u.MetaBlocks, u.FreeMetaBlocks, u.BlockSize))},
		{"inodes", fmt.Sprintf("%d, %d free", u.Inodes, u.FreeInodes)},
		{"frames", framesText(&r.Frames)},
		{"map flags", flagNames(r.MapMask)},
	}.text(w)
	if why := r.refusedFlags(); why != "" {
		fields{{"not offered", why}}.text(w)
	}
	mediumText(w, &r.Medium)
}

func flagNames(f pmemfs.MapFlags) string { return strings.ReplaceAll(f.String(), "|", ", ") }

// refusedFlags says which flags of Map the pool does not support, and why.
func (r *infoResult) refusedFlags() string {
	const all = pmemfs.Shared | pmemfs.Sync | pmemfs.Direct | pmemfs.Unchecked | pmemfs.Populate | pmemfs.ReadOnly
	refused := all &^ r.MapMask
	switch {
	case refused == 0:
		return ""
	case r.MapMask == 0:
		return fmt.Sprintf("all: the medium can only be mapped in units of %s", formatSize(r.Medium.Alignment))
	case r.Medium.Granularity == pmemfs.Page:
		return flagNames(refused) + ": stores must become durable without a system call, and this medium lies behind a page cache"
	}
	return flagNames(refused) + ": page faults must be resolved by a server (pmemfs serve)"
}

// commitText says what a policy means.
func commitText(p pmemfs.CommitPolicy) string {
	if p == pmemfs.CommitOp {
		return "op: an operation is durable when it returns"
	}
	return fmt.Sprintf("%v: operations are durable after Sync, or when the interval is over", p)
}

// framesText says what there is of each kind of record.
func framesText(f *pmemfs.Frames) string {
	if f.Records == 0 {
		return "none"
	}
	list := []string{count(f.Clients, "client"), count(f.Mappings, "mapping") + " of " + count(f.Files, "file")}
	for _, kind := range []struct {
		n, blocks int64
		what      string
	}{{f.Grants, f.GrantedBlocks, "grant"}, {f.Seals, f.SealedBlocks, "seal"}, {f.Pins, f.PinnedBlocks, "pin"}} {
		if kind.n > 0 {
			list = append(list, fmt.Sprintf("%s of %s", count(kind.n, kind.what), count(kind.blocks, "block")))
		}
	}
	return fmt.Sprintf("%s, %s (%s); %s until now", count(f.Records, "record"), formatSize(f.Bytes), strings.Join(list, ", "),
		count(f.Breaks, "break"))
}

// fields are lines of a name and a value.
type fields [][2]string

func (f fields) text(w io.Writer) {
	for _, line := range f {
		fmt.Fprintf(w, "%-12s %s\n", line[0]+":", line[1])
	}
}

func mediumText(w io.Writer, m *pmemfs.MediumReport) {
	how := "ordinary mappings"
	if m.MapSync {
		how = "mappings with MAP_SYNC"
	}
	fields{
		{"medium", guarantee(m)},
		{"reached by", fmt.Sprintf("%s, alignment %s; flush by %s, stream by %s", how, formatSize(m.Alignment), m.FlushMethod, m.StreamMethod)},
	}.text(w)
	fmt.Fprintln(w, "what was found, and how:")
	for _, e := range m.Evidence {
		fmt.Fprintf(w, "  %s: %s\n      [%s]\n", e.What, e.Result, e.How)
	}
}

// placeResult is a place without a pool.
type placeResult struct {
	Medium pmemfs.MediumReport `json:"medium"`
	IsPool bool                `json:"is_pool"`
}

func (r *placeResult) text(w io.Writer) {
	fmt.Fprintf(w, "%s has no pool; one there would have:\n", r.Medium.Path)
	mediumText(w, &r.Medium)
}

// inspectPlace finds out about a directory or device without a pool. It returns nothing for anything else.
func inspectPlace(path string, require pmemfs.Granularity) (result, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, nil // the reason is known already
	}
	var report medium.Report
	switch {
	case st.IsDir():
		report, err = probeDirectory(path, require)
	case st.Mode()&fs.ModeCharDevice != 0:
		report, err = medium.Examine(path)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, unable(err)
	}
	report.Path = path
	return &placeResult{Medium: report}, nil
}

// probeDirectory makes the smallest areas there can be in the directory, and removes them.
func probeDirectory(dir string, require pmemfs.Granularity) (report medium.Report, err error) {
	probe, err := os.MkdirTemp(dir, ".pmemfs-probe-")
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(probe)) }()
	const least = 4096
	p, err := medium.Create(filepath.Join(probe, "pool"), least, least, medium.Options{Require: require})
	if err != nil {
		return report, err
	}
	report = p.Report()
	report.MetaSize, report.DataSize = 0, 0
	return report, p.Close()
}
