package server

import (
	"encoding/json"
	"sync/atomic"
	"time"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/grant"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// counters is what a server has done since it mounted the pool. There are as many as there are kinds of work, however
// many clients there are. Each request and each fault costs one atomic addition, some 2 ns, beside the microseconds
// that it takes to wake another process.
type counters struct {
	since    time.Time // immutable once mounted
	requests [wire.OpEnd]atomic.Uint64

	readFaults, writeFaults, failedFaults atomic.Uint64
}

// fault counts a fault that was resolved, or not.
func (c *counters) fault(write bool, err error) {
	switch {
	case err != nil:
		c.failedFaults.Add(1)
	case write:
		c.writeFaults.Add(1)
	default:
		c.readFaults.Add(1)
	}
}

// opNames are what operations are called in Stats.Requests: stable, as everything there.
var opNames = [wire.OpEnd]string{
	wire.OpHello: "hello", wire.OpInfo: "info", wire.OpStatfs: "statfs",

	wire.OpOpen: "open", wire.OpClose: "close", wire.OpRead: "read", wire.OpWrite: "write", wire.OpStat: "stat",
	wire.OpList: "list", wire.OpSync: "sync", wire.OpAlloc: "alloc", wire.OpSeek: "seek", wire.OpMap: "map",
	wire.OpExtent: "extent", wire.OpMove: "move", wire.OpSetAttr: "setattr",

	wire.OpLookup: "lookup", wire.OpMkdir: "mkdir", wire.OpRemove: "remove", wire.OpRename: "rename", wire.OpLink: "link",
	wire.OpSymlink: "symlink", wire.OpReadlink: "readlink",

	wire.OpGetXattr: "getxattr", wire.OpSetXattr: "setxattr", wire.OpListXattr: "listxattr",
	wire.OpRemoveXattr: "removexattr",

	wire.OpFill: "fill", wire.OpAllowDirect: "allow_direct", wire.OpSetStatic: "set_static", wire.OpStats: "stats",
	wire.OpExport: "export",

	wire.OpUnmap: "unmap", wire.OpPin: "pin", wire.OpUnpin: "unpin", wire.OpMapSync: "map_sync", wire.OpAdvise: "advise",
	wire.OpVerify: "verify",

	wire.OpMapClone: "map_clone", wire.OpPublish: "publish", wire.OpDiscard: "discard",

	wire.OpSnapshot: "snapshot", wire.OpSnapshots: "snapshots", wire.OpSnapshotDiff: "snapshot_diff",
	wire.OpSnapshotRestore: "snapshot_restore", wire.OpSnapshotRemove: "snapshot_remove",

	wire.OpFlush: "flush", wire.OpPowerCut: "power_cut",

	wire.OpClone: "clone", wire.OpCloneRange: "clone_range", wire.OpCopyRange: "copy_range",
	wire.OpDefrag: "defrag", wire.OpDefragLook: "defrag_look",

	wire.OpMknod: "mknod", wire.OpForget: "forget",
}

// Stats is what a server has to do with now, and what it has done since it mounted the pool. Stats is answered with its
// JSON form, which is stable.
type Stats struct {
	Policy  CommitPolicy  `json:"policy"`    // that is in force, never the default of a medium
	Uptime  time.Duration `json:"uptime_ns"` // since the pool was mounted; after an emulated power cut that is done again
	Clients int           `json:"clients"`   // sessions, the asking one included
	Exports int           `json:"exports"`   // open files that exported descriptors stand for
	Limits  Limits        `json:"limits"`    // of each client

	Journal core.JournalStats `json:"journal"`
	Faults  FaultStats        `json:"faults"`
	// Requests is how often each operation was asked for, this time included, whether it was done or refused: every
	// operation is in it. "hello" is clients that have come.
	Requests map[string]uint64 `json:"requests"`
	Frames   grant.Usage       `json:"frames"`
}

// FaultStats counts page faults of clients. Each run of blocks that Populate asks for counts as one.
type FaultStats struct {
	Read   uint64 `json:"read"`   // of loads, that were resolved
	Write  uint64 `json:"write"`  // of stores, that were resolved
	Failed uint64 `json:"failed"` // that were not: the access was an error in the client
}

// Stats says what the server has to do with now and has done. The numbers of the journal are of one instant, as are
// those of the frames; others may be of other instants. It may be called after Close.
func (s *Server) Stats() Stats {
	st := Stats{
		Policy: s.opts.Commit, Uptime: time.Since(s.counts.since), Limits: s.opts.Limits,
		Journal: s.fs.Stats().Journal, Frames: s.grants.Usage(),
		Faults: FaultStats{
			Read: s.counts.readFaults.Load(), Write: s.counts.writeFaults.Load(), Failed: s.counts.failedFaults.Load(),
		},
		Requests: make(map[string]uint64, len(opNames)),
	}
	for op, name := range opNames {
		if name != "" {
			st.Requests[name] = s.counts.requests[op].Load()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Clients, st.Exports = len(s.sessions), len(s.exports)
	return st
}

func (s *Session) stats(*wire.Request) (*wire.Reply, error) {
	data, err := json.Marshal(s.srv.Stats())
	return &wire.Reply{Data: data}, err
}
