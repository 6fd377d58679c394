// Package wire defines the messages between a pmemfs client and its server, and their encoding.
//
// A connection is a unix stream socket. Both directions carry frames:
//
//	offset 0   4 bytes  length of the body, little endian, at most MaxFrame
//	offset 4   n bytes  body
//
// A body is a fixed head and those fields of one wide struct that are not zero, in the order of their bits:
//
//	request   u32 id, u16 op,    u32 bits of the fields that follow
//	reply     u32 id, u16 errno, u32 bits of the fields that follow
//
// Numbers are little endian and of fixed width; strings and byte strings carry a u32 length, lists a u32 count.
// The encoding is canonical: a field whose bit is set must not hold its zero value, and nothing may follow
// the last field, so that every accepted body has exactly one meaning and every message exactly one body.
// Every length and count is checked against a bound and against what is left of the body before memory is
// taken for it.
//
// Short requests (Request.Short) can also be made through the fault page, where the bodies of the request and the reply
// lie in a slot: see package fault. The id is of no use there.
//
// Replies can carry descriptors (SCM_RIGHTS, with the first byte of the frame): those to Hello, Export and of snapshots do.
//
// # Requests relative to inodes
//
// A request with Inode names what it is about by inodes in place of paths, as a kernel does that has the pool mounted:
// Path is one name in the directory Inode, or empty for Inode itself; so is Path2 in Inode2, where there are two names.
// Generation and Generation2 tell what the number was given to: ESTALE when it is another's by now. Nothing is checked
// but what the file system itself needs: the sender has checked what his caller may do, which is why only a peer may
// send it that may do anything anyway (EPERM). What is made belongs to UID and GID (not in SetAttr, where these are
// attributes) with the permissions that Umask leaves of Mode. Open with O_TMPFILE makes a file without a name. Every
// reply to Lookup, Open with O_CREAT or O_TMPFILE, Mknod, Link and Symlink gives the session a reference to the inode,
// which keeps its number, and the inode itself should it be removed, until Forget or the session ends it.
//
// # Exported descriptors
//
// What Export gives is one end of a SOCK_SEQPACKET pair; who sends the frame of Hello over it, in one packet, with
// one descriptor, gets a connection of his own. The descriptor is one end of a stream pair that he has made, over
// which the reply comes: what it says about mapping, the file (Handle, Attr, Name; N: the flags it was opened with),
// and descriptors: the connection, and those that come with Hello. On the connection everything is as after Hello.
// The server never writes to the exported end, so that nobody who holds a copy of it can take what is meant for
// another.
package wire

// Version is the protocol's version, sent in Hello by both sides. There is no negotiation: both must be equal.
const Version = 7

// Bounds of a message. A peer that exceeds one has broken the protocol and is disconnected.
const (
	MaxData    = 1 << 20          // bytes of Data
	MaxFrame   = MaxData + 64<<10 // bytes of a body
	MaxPath    = 4096             // bytes of Path, Path2, Name
	MaxDetail  = 1024             // bytes of Detail; longer ones are cut when they are encoded
	MaxEntries = 1024             // directory entries in a reply
	MaxExtents = 1024             // extents in a reply
	MaxNames   = 1024             // names in a reply to ListXattr
	maxName    = 255              // bytes of a directory entry's name
)

// Op says what a request asks for. The comment at each names the fields it uses besides ID and Op.
type Op uint16

const (
	opInvalid Op = iota

	// OpHello: Offset: Version; Flags: HelloReadOnly → Hello, Data: a token if the session outlives the server, and
	// three descriptors: fault page, data area, progress page. Or Offset: Version; Flags: HelloResume, Data: Resume →
	// Hello.
	OpHello
	OpInfo   // → Data: JSON
	OpStatfs // → Statfs

	OpOpen    // Path, Flags: O_*, Mode: permission of a file that is created, Valid: 0 or SetDropPrivileges → Handle, Attr
	OpClose   // Handle
	OpRead    // Handle, Offset, Length → Data, N: 1 at the end of the file
	OpWrite   // Handle, Offset, Data, Flags: O_APPEND, O_SYNC, FlagDropPrivileges → N: bytes written, Offset: where they begin
	OpStat    // Handle → Attr
	OpList    // Handle, Offset: cookie, 0 at first, Length: entries at most → Entries
	OpSync    // Handle
	OpAlloc   // Handle, Offset, Length, Flags: FALLOC_FL_*, FlagDropPrivileges
	OpSeek    // Handle, Offset, Flags: SEEK_DATA or SEEK_HOLE → Offset
	OpMap     // Handle, Offset, Length: bytes, Flags: Map*, Address: in the client → Handle: mapping
	OpExtent  // Handle, Offset → Extents, Offset: where to go on, the same when there are no more
	OpMove    // Handle, Offset, Length: relocate
	OpSetAttr // Handle, or Path with Flags: AT_SYMLINK_NOFOLLOW; Valid, Mode, UID, GID, Size (in Length), Atime, Mtime → Attr

	OpLookup   // Path, Flags: AT_SYMLINK_NOFOLLOW → Attr
	OpMkdir    // Path, Mode
	OpRemove   // Path, Flags: 0 or AT_REMOVEDIR
	OpRename   // Path, Path2, Flags: RENAME_*
	OpLink     // Path: existing, Path2: new
	OpSymlink  // Path2: target, Path: new
	OpReadlink // Path → Name

	OpGetXattr    // Path, Path2: name, Flags: AT_SYMLINK_NOFOLLOW → Data
	OpSetXattr    // Path, Path2: name, Data, Flags: XATTR_CREATE, XATTR_REPLACE or AT_SYMLINK_NOFOLLOW
	OpListXattr   // Path, Flags → Names
	OpRemoveXattr // Path, Path2: name, Flags

	OpFill        // Handle, Offset, Length: allocate, unshare and write out
	OpAllowDirect // Handle: may be mapped with MapDirect from now on, by whoever has it
	OpSetStatic   // Handle, Flags: 0 or 1
	OpStats       // → Data: JSON
	OpExport      // Handle, Path: the name that it was opened by → a descriptor that stands for it

	OpUnmap   // Handle: mapping. Its grants are forgotten before the reply, and no break of it is under way
	OpPin     // Handle: mapping, Offset, Length: bytes in the mapping; fills it when the mapping is writable → Handle: pin
	OpUnpin   // Handle: mapping, Flags: pin
	OpMapSync // Handle: mapping, Offset, Length: bytes in the mapping; the metadata that finds them is made durable
	OpAdvise  // Handle: mapping, Flags: MapShared or MapSync, what it becomes
	OpVerify  // Handle: mapping, Offset: byte in the mapping; reads the block there: ReasonMedia when it is lost

	OpFlush    // Handle: mapping, Offset, Length: bytes in the mapping, Flags: Flush*; where power cuts are emulated
	OpPowerCut // → Data: JSON; the connection ends behind it

	OpMapClone // as OpMap, Flags: 0 or CloneMerge: a clone of the range, to be published → Handle: mapping
	OpPublish  // Data: numbers of mappings of clones, 4 bytes each, ascending
	OpDiscard  // Handle: mapping of a clone

	OpClone      // Handle, or Path: existing; Path2: new → Attr
	OpCloneRange // Handle, Offset, Length: 0 to the end of the source; Source, SourceOffset
	OpCopyRange  // the same, Length at most → N: bytes copied, fewer than that at will, 0 at the end of the source

	OpDefrag     // Handle, Offset: a multiple of 2 MiB → Offset: where to go on, -1: nowhere, Data: JSON
	OpDefragLook // the same, but nothing is changed

	// Of snapshots of the directory Path. The JSON is in a file of which the descriptor comes with the reply: it may be long.
	OpSnapshot        // Path, Path2: name, Flags: Snapshot* → JSON: the paths of the files that were skipped
	OpSnapshots       // Path → JSON
	OpSnapshotDiff    // Path, Path2: name, Data: name of another one, or none → JSON
	OpSnapshotRestore // Path, Path2: name
	OpSnapshotRemove  // Path, Path2: name

	// OpMknod: Path, Mode: type and permissions, Address: device number → Attr; only relative to an inode.
	OpMknod
	OpForget // Inode, Length: how many of the references end that the session has got with attributes of the inode

	OpEnd // not an operation: one more than the last
)

// FlagDropPrivileges in Flags of Write and Alloc: the writer has no privileges, so that those of the file go. ACLDropSGID in Flags of SetXattr: setting an ACL clears the set-group-ID bit.
const (
	FlagDropPrivileges = 1 << 31
	ACLDropSGID        = 1 << 16
)

// ExportPrefix is how the address begins that the server's end of an exported descriptor has, so that who is given
// the other end can tell what it is before he sends anything.
const ExportPrefix = "@pmemfs-export-"

// Flags of Hello.
const (
	HelloReadOnly = 1 << iota // the data descriptor is to be one that cannot be mapped for writing
	HelloResume               // the session is one of a server that has died
)

// Flags of OpSnapshot.
const (
	SnapshotWritable   = 1 << iota // it can be changed
	SnapshotSkipSealed             // without static, sealed and pinned files; else they are an error
	SnapshotAll        = 1<<iota - 1
)

// Flags of OpFlush.
const (
	FlushLines = 1 << iota // flush the lines of the range
	FlushFence             // then fence
	FlushAll   = 1<<iota - 1
)

// Flags of Map, and the bits of Hello.MapMask.
const (
	MapShared = 1 << iota
	MapSync
	MapDirect
	MapUnchecked
	MapPopulate // fill before a seal; else only the client acts on it
	MapReadOnly
	MapAll = 1<<iota - 1
)

// Flags of OpMapClone.
const (
	CloneMerge = 1 << iota // what the file changes meanwhile is no conflict, but in blocks that the clone changes, too
	CloneAll   = 1<<iota - 1
)

// MaxPublish is how many clones can be published at once.
const MaxPublish = 256

// Bits of Request.Valid: which attributes SetAttr changes.
const (
	SetMode = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
	SetAtimeNow       // with SetAtime: the server's time
	SetMtimeNow       // with SetMtime: the server's time
	SetDropPrivileges // see core.SetAttr
	setAll            = 1<<iota - 1
)

// Request is every request there is: one wide struct, of which each Op uses some fields.
type Request struct {
	ID      uint32 // chosen by the client, returned in the reply
	Op      Op
	Handle  uint32
	Flags   uint32
	Mode    uint32
	Valid   uint32
	UID     uint32
	GID     uint32
	Offset  int64
	Length  int64
	Address uint64
	Atime   int64 // ns since 1970
	Mtime   int64 // ns since 1970
	Path    string
	Path2   string
	Data    []byte

	Source       uint32 // handle of another file, or of the same
	SourceOffset int64

	Inode       uint64 // what Path is relative to; 0: the root, by a path that is resolved and checked
	Generation  uint64
	Inode2      uint64 // what Path2 is relative to
	Generation2 uint64
	Umask       uint32

	// Closed is another handle, or 0: it is closed before the request is served, as by OpClose, and without an answer: a
	// handle that there is not is no error.
	Closed uint32

	// Into is where Read puts its data when the request is served in this process. It is not encoded.
	Into []byte
}

// MaxShort bounds the body of a short request, and of the reply to one.
const MaxShort = 8000

// Short says whether a request may be made through shared memory, where one is served after the other, unless it has to wait
// for the medium: it takes little time, its reply is short, too, and carries no descriptors. Whether the request itself is at
// most MaxShort long is for who encodes it.
func (q *Request) Short() bool {
	switch q.Op {
	case OpOpen, OpClose, OpWrite, OpStat, OpSync, OpSeek, OpLookup, OpMkdir, OpRemove, OpRename, OpLink, OpSymlink, OpReadlink,
		OpMapSync, OpMknod, OpForget, OpStatfs:
		return true
	case OpRead:
		return q.Length <= MaxShort-2*MaxDetail // a reply with data has no names
	case OpSetAttr:
		return q.Valid&SetSize == 0
	}
	return false
}

// Reason refines an errno where a program must tell two causes apart.
type Reason uint8

const (
	ReasonNone     Reason = iota
	ReasonSealed          // EBUSY because a sealed or pinned run is in the way; Sealed says whose
	ReasonCorrupt         // EIO because a structure on the medium is damaged; Detail names it
	ReasonStatic          // EBUSY because the file is static
	ReasonUnfilled        // EINVAL because a block is not what a seal needs; Offset: its byte of the file, Name: what it is
	ReasonConflict        // ESTALE because the file of a clone has changed; N: its inode, Offset: byte of the first block that has
	ReasonMedia           // EIO because the medium has lost a block; N: inode of the file, Offset: byte of it where the block begins
	reasonEnd
)

// Reply is every reply there is.
type Reply struct {
	ID      uint32
	Errno   uint16 // 0: done
	Reason  Reason
	Handle  uint32
	N       int64
	Offset  int64
	Attr    *Attr
	Statfs  *Statfs
	Hello   *Hello
	Sealed  *Sealed
	Detail  string // says more than Errno does, for people
	Name    string
	Entries []Entry
	Extents []Extent
	Names   []string
	Data    []byte

	// Files are the descriptors that come with the message. The body holds their number only: from DecodeReply they are
	// all -1, and a Receiver puts the descriptors in.
	Files []int
}

// Attr is what stat(2) says about a file. Times are ns since 1970, Size bytes, Blocks data blocks of 4 KiB.
type Attr struct {
	Ino, Generation            uint64
	Mode, Nlink, UID, GID      uint32
	Size, Blocks               int64
	Rdev                       uint64
	Atime, Mtime, Ctime, Btime int64
	Flags                      uint32 // AttrStatic
}

// AttrStatic: the file's block map and size are frozen.
const (
	AttrStatic = 1 << iota
	attrAll    = 1<<iota - 1
)

// Sealed is the seal or pin that is in the way of an operation.
type Sealed struct {
	PID         int64  // of the process that holds it
	Handle      uint32 // by which that process has mapped the file
	Off, Length int64  // bytes of the file
	Pin         uint32 // 1: a pin
}

// Statfs counts what a pool has and what of it is free: data blocks of 4 KiB, inodes, meta blocks.
type Statfs struct {
	Blocks, FreeBlocks, Inodes, FreeInodes, MetaBlocks, FreeMetaBlocks int64
}

// Hello is what a client must know before it can map.
type Hello struct {
	Version     uint32
	MapMask     uint32 // map flags that this server supports
	MapFlags    uint32 // flags for mmap(2) of the data descriptor
	Granularity uint32 // medium.Granularity
	Base        int64  // offset of the data area in the descriptor
	Align       int64  // alignment that mmap(2) of the descriptor needs, bytes
	DataBytes   int64  // size of the data area
	PID         int64  // the server's process
	ReadOnly    uint32 // 1: nothing can be changed
}

// Entry is a directory entry. Type holds the S_IFMT bits; Next is the cookie to go on after it.
type Entry struct {
	Name string
	Ino  uint64
	Type uint32
	Next uint64
}

// Extent is a run of a file. Off and Len are bytes in the file; Block is the first data block, -1 for a hole.
type Extent struct {
	Off, Len, Block int64
	Flags           uint32 // ExtentUnwritten, ExtentShared
}

const (
	ExtentUnwritten = 1 << iota // allocated, reads as zeros
	ExtentShared                // also part of another file
	extentAll       = 1<<iota - 1
)
