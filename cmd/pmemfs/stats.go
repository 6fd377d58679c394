package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/term"

	"github.com/pmemfs/pmemfs"
)

const statsHelp = `Without PATH the numbers of whoever owns the pool are printed, a server or, for the path of a pool, this process: what
there is now, and what was done since the pool was opened. With --watch they are printed again and again, with rates.

With --json and without PATH: pool, socket (of a server), uuid, policy (when operations become durable), uptime_ns,
clients (connections, this one included), exports (open files that exported descriptors stand for); limits of each
client: handles, mappings, grants, pinned_bytes, sealed_bytes; journal: size_bytes, used_bytes, staged_bytes (visible, not
durable yet), head_lsn, durable_lsn (bytes, over the life of the pool), transactions, staged (of them), commits (writes
of the log with a fence), combined (transactions that a commit has made durable, on average), trims; faults (of pages,
in clients; what Populate asks for included): read, write, failed; requests, by operation: hello (clients that have
come), info, statfs, open, close, read, write, stat, list, sync, alloc, seek, map, extent, move, setattr, lookup, mkdir,
remove, rename, link, symlink, readlink, getxattr, setxattr, listxattr, removexattr, fill, allow_direct, set_static,
stats, export, unmap, pin, unpin, map_sync, advise, verify, flush, power_cut, map_clone, publish, discard, clone,
clone_range, copy_range, defrag, defrag_look, snapshot, snapshots, snapshot_diff, snapshot_restore, snapshot_remove,
mknod, forget; frames (as of "pmemfs info"): clients, files, mappings, grants, pins, seals, granted_blocks, pinned_blocks,
sealed_blocks, records, bytes, breaks.
`

// statsResult is what the owner of a pool has done.
type statsResult struct {
	Pool   string `json:"pool"`
	Socket string `json:"socket,omitempty"`
	UUID   string `json:"uuid"`
	pmemfs.Stats

	before *pmemfs.Stats // of when rates are since; nil: there are none
	pid    int
}

func newStatsResult(fsys *pmemfs.FS) (*statsResult, error) {
	i := fsys.Info()
	s, err := fsys.Stats()
	return &statsResult{Pool: i.Pool, Socket: i.Socket, UUID: i.UUID, Stats: s, pid: i.PID}, err
}

func (a *app) ownerStats(pool string) (result, error) {
	var r *statsResult
	err := a.look(pool, func(fsys *pmemfs.FS) (err error) {
		r, err = newStatsResult(fsys)
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// minWatch is the least interval of --watch: below it, it would itself be much of what it shows.
const minWatch = 100 * time.Millisecond

// watchStats prints the numbers of a server until the user has enough. On a terminal they are always at the same place.
func (a *app) watchStats(socket string, every time.Duration) error {
	separator := "\n"
	if f, ok := a.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		separator = "\x1b[H\x1b[2J" // home, clear
	}
	return a.look(socket, func(fsys *pmemfs.FS) error {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for before := (*pmemfs.Stats)(nil); ; {
			r, err := newStatsResult(fsys)
			if err != nil {
				return err
			}
			var page bytes.Buffer
			if before != nil {
				page.WriteString(separator)
			}
			r.before, before = before, &r.Stats
			r.text(&page)
			if _, err := a.stdout.Write(page.Bytes()); err != nil {
				return err
			}
			select {
			case <-a.ctx.Done():
				return nil
			case <-ticker.C:
			}
		}
	})
}

func (r *statsResult) text(w io.Writer) {
	owner := "this process"
	if r.Socket != "" {
		owner = fmt.Sprintf("process %d, serving %s at %s", r.pid, count(int64(r.Clients-1), "other client"), r.Socket)
	}
	j, l := &r.Journal, &r.Limits
	fields{
		{"pool", r.Pool}, {"uuid", r.UUID}, {"owner", fmt.Sprintf("%s, for %v", owner, r.Uptime.Round(time.Second))},
		{"commit", commitText(r.Policy)},
		{"journal", fmt.Sprintf("%s, %s used; LSN %#x is durable, %#x visible",
			formatSize(j.SizeBytes), formatSize(j.UsedBytes), j.DurableLSN, j.HeadLSN)},
		{"staged", fmt.Sprintf("%s of %s, not durable yet",
			count(int64(j.Staged), "transaction"), formatSize(j.StagedBytes))},
		{"frames", framesText(&r.Frames)}, {"exports", count(int64(r.Exports), "open file")},
		{"limits", fmt.Sprintf("each client: %d handles, %d mappings, %d grants, %s pinned, %s sealed",
			l.Handles, l.Mappings, l.Grants, formatSize(l.PinnedBytes), formatSize(l.SealedBytes))},
	}.text(w)
	r.table(w)
}

// table prints what only grows, with rates if it is known how it was before.
func (r *statsResult) table(w io.Writer) {
	before := r.before
	if before == nil {
		before = &pmemfs.Stats{}
	}
	elapsed := (r.Uptime - before.Uptime).Seconds()
	line := func(name string, now, then uint64) {
		fmt.Fprintf(w, "%-26s %14d", name, now)
		if r.before != nil {
			fmt.Fprintf(w, " %12.1f", float64(now-then)/elapsed)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "\n%-26s %14s", "since it was opened", "total")
	if r.before != nil {
		fmt.Fprintf(w, " %12s", "per second")
	}
	fmt.Fprintln(w)
	j, was := &r.Journal, &before.Journal
	line("transactions", j.Transactions, was.Transactions)
	line("commits", j.Commits, was.Commits)
	fmt.Fprintf(w, "%-26s %14.1f", "transactions per commit", j.Combined)
	if commits := j.Commits - was.Commits; r.before != nil && commits > 0 {
		fmt.Fprintf(w, " %12.1f", float64(j.Transactions-j.Staged-was.Transactions+was.Staged)/float64(commits))
	}
	fmt.Fprintln(w)
	line("trims of the log", j.Trims, was.Trims)
	line("read faults", r.Faults.Read, before.Faults.Read)
	line("write faults", r.Faults.Write, before.Faults.Write)
	line("failed faults", r.Faults.Failed, before.Faults.Failed)
	line("breaks", uint64(r.Frames.Breaks), uint64(before.Frames.Breaks))
	for _, op := range slices.Sorted(maps.Keys(r.Requests)) {
		if r.Requests[op] > 0 {
			line("requests: "+op, r.Requests[op], before.Requests[op])
		}
	}
}
