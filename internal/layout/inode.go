package layout

import "encoding/binary"

// InodeSize is the size of an inode in the inode table, in bytes: four lines.
const (
	InodeSize  = 256
	magicInode = 0x646f6e69 // "inod"

	// RootEntries is how many entries an inode holds itself: 8 blocks, or 8
	// nodes, so that a file of up to 32 KiB needs no node.
	RootEntries = 8
	InodeRoot   = 136 // offset of the first of them in the inode
	InodeFlags  = 97  // offset of the flags in the inode
)

// File types in Inode.Mode, as in stat(2).
const (
	ModeType      = 0o170000
	ModeFIFO      = 0o010000
	ModeChar      = 0o020000
	ModeDirectory = 0o040000
	ModeBlock     = 0o060000
	ModeRegular   = 0o100000
	ModeSymlink   = 0o120000
	ModeSocket    = 0o140000
	ModePerm      = 0o7777
)

// Flags of an inode.
const (
	// FlagStatic freezes the size of a regular file and the place of its blocks.
	FlagStatic = 1 << 0

	inodeFlags = FlagStatic
)

// Inode is a file, directory, symbolic link or special file. The one with the
// number CountsIno is none of them: what Root maps is blocks of the data area to
// how many references there are to each besides the first.
//
// Invariants: Blocks counts the blocks of the leaves under Root, Nodes the
// nodes (block map nodes, or directory nodes and buckets, and the nodes of
// the two blobs). The entries in Root are of level Height, so a file's leaves
// lie below 8*512^Height blocks; a directory uses the first one only. Nlink is 0 only
// while the inode's orphan bit is set. A static file has, up to its size, neither
// holes nor unwritten or shared blocks. Changes grows with each change of the size
// or of what Root maps, but for moves of blocks; a store in place, which is none, is
// possible only where a change after the inode was last cloned has made the block its
// own. So two equal values say that the contents are as they were.
type Inode struct {
	Ino        Ino
	Generation uint64 // changes whenever the number is used again
	Mode       uint32
	Nlink      uint32
	UID, GID   uint32
	Height     uint8
	Flags      uint8
	Size       int64 // bytes; a directory's number of entries
	Blocks     int64
	Nodes      int64
	Atime      int64 // ns since 1970, as the other times
	Mtime      int64
	Ctime      int64
	Btime      int64
	Root       [RootEntries]Entry
	Parent     Ino // of a directory
	Rdev       uint64
	Xattrs     Node // blob, 0: none
	Target     Node // blob with a symbolic link's target
	Changes    uint64
	Origin     Origin
}

// Origin says what an inode is a clone of. All is 0 when it is none.
type Origin struct {
	Ino        Ino
	Generation uint64
	Block      uint64 // of the origin, which became the clone's first
	Changes    uint64 // of the origin, when it was cloned
}

func (in *Inode) lineage() []*uint64 {
	o := &in.Origin
	return []*uint64{&in.Changes, (*uint64)(&o.Ino), &o.Generation, &o.Block, &o.Changes}
}

// Type is the file type bits of the mode.
func (in *Inode) Type() uint32 { return in.Mode & ModeType }

func (in *Inode) words() []*int64 {
	return []*int64{&in.Size, &in.Blocks, &in.Nodes, &in.Atime, &in.Mtime, &in.Ctime, &in.Btime}
}

// Encode writes the inode into b, which is InodeSize long.
func (in *Inode) Encode(b []byte) {
	le := binary.LittleEndian
	clear(b[:InodeSize])
	le.PutUint32(b[0:], magicInode)
	le.PutUint64(b[8:], uint64(in.Ino))
	le.PutUint64(b[16:], in.Generation)
	le.PutUint32(b[24:], in.Mode)
	le.PutUint32(b[28:], in.Nlink)
	le.PutUint32(b[32:], in.UID)
	le.PutUint32(b[36:], in.GID)
	for i, w := range in.words() {
		le.PutUint64(b[40+8*i:], uint64(*w))
	}
	b[96], b[InodeFlags] = in.Height, in.Flags
	le.PutUint64(b[104:], uint64(in.Parent))
	le.PutUint64(b[112:], in.Rdev)
	le.PutUint64(b[120:], uint64(in.Xattrs))
	le.PutUint64(b[128:], uint64(in.Target))
	for i, e := range in.Root {
		le.PutUint64(b[InodeRoot+8*i:], uint64(e))
	}
	for i, w := range in.lineage() {
		le.PutUint64(b[200+8*i:], *w)
	}
	le.PutUint32(b[4:], Checksum(b[8:InodeSize]))
}

// DecodeInode reads inode ino from b, which is InodeSize long and stands at
// offset.
func DecodeInode(b []byte, ino Ino, offset int64) (Inode, error) {
	le := binary.LittleEndian
	var in Inode
	switch {
	case le.Uint32(b) != magicInode:
		return in, Corrupt("inode", offset, "%v has no inode magic", ino)
	case le.Uint32(b[4:]) != Checksum(b[8:InodeSize]):
		return in, Corrupt("inode", offset, "%v: checksum does not match", ino)
	case Ino(le.Uint64(b[8:])) != ino:
		return in, Corrupt("inode", offset, "%v holds inode %d", ino, le.Uint64(b[8:]))
	}
	in = Inode{
		Ino: ino, Generation: le.Uint64(b[16:]), Mode: le.Uint32(b[24:]), Nlink: le.Uint32(b[28:]),
		UID: le.Uint32(b[32:]), GID: le.Uint32(b[36:]), Height: b[96], Flags: b[InodeFlags],
		Parent: Ino(le.Uint64(b[104:])), Rdev: le.Uint64(b[112:]),
		Xattrs: Node(le.Uint64(b[120:])), Target: Node(le.Uint64(b[128:])),
	}
	for i := range in.Root {
		in.Root[i] = Entry(le.Uint64(b[InodeRoot+8*i:]))
	}
	for i, w := range in.words() {
		*w = int64(le.Uint64(b[40+8*i:]))
	}
	for i, w := range in.lineage() {
		*w = le.Uint64(b[200+8*i:])
	}
	return in, in.validate(offset)
}

func (in *Inode) validate(offset int64) error {
	switch in.Type() {
	case ModeFIFO, ModeChar, ModeDirectory, ModeBlock, ModeRegular, ModeSymlink, ModeSocket:
	default:
		return Corrupt("inode", offset, "%v has file type %#o", in.Ino, in.Type())
	}
	if in.Size < 0 || in.Size > MaxFileSize || in.Height > MaxLevel || in.Blocks < 0 || in.Nodes < 0 {
		return Corrupt("inode", offset, "%v: size %d, height %d, %d blocks, %d nodes", in.Ino, in.Size, in.Height, in.Blocks, in.Nodes)
	}
	if in.Flags&^inodeFlags != 0 || in.Flags&FlagStatic != 0 && in.Type() != ModeRegular {
		return Corrupt("inode", offset, "%v: flags %#x of a file of type %#o", in.Ino, in.Flags, in.Type())
	}
	return nil
}

// FreeInode writes into b a slot that holds no inode. The generation is kept
// in its place, so that a number used again gets another one.
func FreeInode(b []byte, generation uint64) {
	clear(b[:InodeSize])
	binary.LittleEndian.PutUint64(b[16:], generation)
}

// SlotGeneration is the generation in an inode slot, free or not.
func SlotGeneration(b []byte) uint64 { return binary.LittleEndian.Uint64(b[16:]) }

// SlotFree reports whether an inode slot holds no inode.
func SlotFree(b []byte) bool { return binary.LittleEndian.Uint32(b) == 0 }
