package pmemfs

import (
	"encoding/json"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/grant"
	"github.com/pmemfs/pmemfs/internal/server"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// Info says what is behind an FS. Its JSON form is stable.
type Info struct {
	Pool     string       `json:"pool"`             // path of the pool, as its owner opened it
	Socket   string       `json:"socket,omitempty"` // the server's socket; empty when embedded or imported
	PID      int          `json:"pid"`              // the process that owns the pool
	UUID     string       `json:"uuid"`
	Label    string       `json:"label"`
	Medium   MediumReport `json:"medium"`
	Commit   CommitPolicy `json:"commit"`    // when what operations do becomes durable
	MapMask  MapFlags     `json:"map_mask"`  // flags that Map supports
	ReadOnly bool         `json:"read_only"` // nothing can be changed through this FS
}

// StatfsInfo counts what a pool has and what of it is free.
type StatfsInfo struct {
	BlockSize      int64 `json:"block_size"` // bytes
	Blocks         int64 `json:"blocks"`     // data blocks
	FreeBlocks     int64 `json:"free_blocks"`
	Inodes         int64 `json:"inodes"`
	FreeInodes     int64 `json:"free_inodes"`
	MetaBlocks     int64 `json:"meta_blocks"` // for directories, block maps and attributes
	FreeMetaBlocks int64 `json:"free_meta_blocks"`
}

// Extent is a run of a file that is contiguous on the medium, or a hole.
type Extent struct {
	Offset    int64 `json:"offset"`              // byte of the file
	Length    int64 `json:"length"`              // bytes
	Block     int64 `json:"block"`               // first data block, -1 for a hole
	Unwritten bool  `json:"unwritten,omitempty"` // allocated, reads as zeros
	Shared    bool  `json:"shared,omitempty"`    // also part of another file
}

// Stat is what the Sys method of this package's fs.FileInfo returns: a *Stat.
type Stat struct {
	Ino        uint64 `json:"ino"`
	Generation uint64 `json:"generation"` // tells files apart that had the same Ino one after the other
	Mode       uint32 `json:"mode"`       // st_mode of stat(2)
	Nlink      uint32 `json:"nlink"`
	UID        uint32 `json:"uid"`
	GID        uint32 `json:"gid"`
	Size       int64  `json:"size"`   // bytes
	Blocks     int64  `json:"blocks"` // data blocks of 4 KiB
	Atime      int64  `json:"atime"`  // ns since 1970, as the other three
	Mtime      int64  `json:"mtime"`
	Ctime      int64  `json:"ctime"`
	Btime      int64  `json:"btime"`
	Static     bool   `json:"static"` // size and place of the blocks are frozen; see File.SetStatic
}

// Stats says what the owner of a pool has to do with at the moment, and what it has done since it opened the pool. Its
// JSON form is stable.
type Stats = server.Stats

// JournalStats is the part of Stats about the log: how full it is, what waits to become durable, and how many
// transactions share a commit. Its JSON form is stable.
type JournalStats = core.JournalStats

// FaultStats is the part of Stats about page faults of clients. Its JSON form is stable.
type FaultStats = server.FaultStats

// ClientLimits is the part of Stats about what each client may have. Its JSON form is stable.
type ClientLimits = server.Limits

// Frames counts the records that the owner of a pool has of who may access which blocks: there are some only for what is
// mapped or pinned, and one for each run of blocks, however long it is. Its JSON form is stable.
type Frames = grant.Usage

// Stats returns what the owner of the pool has to do with at the moment, and what it has done.
func (fsys *FS) Stats() (s Stats, err error) {
	r, err := fsys.call(&wire.Request{Op: wire.OpStats})
	if err == nil {
		err = json.Unmarshal(r.Data, &s)
	}
	return s, pathError("stats of", fsys.info.Pool, err)
}
