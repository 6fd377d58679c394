package pmemfs

// Info says what is behind an FS. Its JSON form is stable.
type Info struct {
	Pool   string     `json:"pool"`             // path of the pool, as its owner opened it
	Socket string     `json:"socket,omitempty"` // the server's socket; empty when embedded
	PID    int        `json:"pid"`              // the process that owns the pool
	UUID   string     `json:"uuid"`
	Label  string     `json:"label"`
	Medium MediumInfo `json:"medium"`
	Map    MapFlags   `json:"map_mask"`
}

// MediumInfo says what makes stores durable on the medium, and how that was found out.
type MediumInfo struct {
	Kind        string   `json:"kind"`        // "tmpfs", "fsdax", "devdax", "page-cache"
	Domain      string   `json:"domain"`      // the persistence domain
	Granularity string   `json:"granularity"` // "byte", "cache-line", "page"
	Evidence    []string `json:"evidence"`    // what was found: how
	MetaBytes   int64    `json:"meta_bytes"`
	DataBytes   int64    `json:"data_bytes"`
	Alignment   int64    `json:"alignment"` // of mappings, bytes
}

// StatfsInfo counts what a pool has and what of it is free.
type StatfsInfo struct {
	BlockSize      int64 `json:"block_size"` // bytes
	Blocks         int64 `json:"blocks"`     // data blocks
	FreeBlocks     int64 `json:"free_blocks"`
	Inodes         int64 `json:"inodes"`
	FreeInodes     int64 `json:"free_inodes"`
	MetaBlocks     int64 `json:"meta_blocks"`
	FreeMetaBlocks int64 `json:"free_meta_blocks"`
}

// Extent is a run of a file that is contiguous on the medium.
type Extent struct {
	Offset    int64 `json:"offset"` // byte of the file
	Length    int64 `json:"length"` // bytes
	Block     int64 `json:"block"`  // first data block, -1 for a hole
	Unwritten bool  `json:"unwritten,omitempty"`
	Shared    bool  `json:"shared,omitempty"`
}

// Stat is what FileInfo.Sys returns: a *Stat.
type Stat struct {
	Ino        uint64 `json:"ino"`
	Generation uint64 `json:"generation"`
	Mode       uint32 `json:"mode"` // st_mode of stat(2)
	Nlink      uint32 `json:"nlink"`
	UID        uint32 `json:"uid"`
	GID        uint32 `json:"gid"`
	Size       int64  `json:"size"`   // bytes
	Blocks     int64  `json:"blocks"` // data blocks of 4 KiB
	Atime      int64  `json:"atime"`  // ns since 1970, as the other three
	Mtime      int64  `json:"mtime"`
	Ctime      int64  `json:"ctime"`
	Btime      int64  `json:"btime"`
}
