package layout

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// The superblock stands twice, in blocks 0 and 1 of the meta area, so that a
// damaged block does not cost the pool. It is written by mkfs and never
// changed by a mounted pool: what changes is in the log headers.
const (
	SuperblockCopies = 2
	SuperblockSize   = 512
	Version          = 2
	magicSuperblock  = "pmemfs\x00\x01"
	MaxLabel         = 32
)

// Superblock locates everything else in the meta area.
//
// Invariant (Validate): regions lie inside the meta area, in the order of the
// fields, 4 KiB aligned, without overlap, and are as long as the counts need.
type Superblock struct {
	Version      uint32
	Incompatible uint64 // feature bits: an unknown one forbids to open
	ReadOnly     uint64 // feature bits: an unknown one forbids to write
	UUID         [16]byte
	HashKey      [16]byte // SipHash key of directory hashes
	Label        string
	Created      int64 // ns since 1970
	MetaSize     int64 // bytes
	DataBlocks   int64
	Nodes        int64
	Inodes       int64

	LogHeaders  Region // two blocks, one header each
	Log         Region
	BlockBitmap BitmapRegions
	NodeBitmap  BitmapRegions
	InodeBitmap BitmapRegions
	Orphans     BitmapRegions // a bit an inode: removed while open, or being truncated
	InodeTable  Region
	NodeArea    Region
}

// BitmapRegions are the three levels of a bitmap over units (blocks, nodes or
// inodes): Bits has a bit a unit; Chunks a word for each 512 units (a line of
// Bits); Groups a word for each 512 chunks. Zero everywhere means all free, so
// a sparse meta area needs no initialisation.
type BitmapRegions struct {
	Units                int64
	Bits, Chunks, Groups Region
}

const (
	ChunkUnits = 512              // units of a chunk: one line of bits
	GroupUnits = ChunkUnits * 512 // units of a group
)

// place lays regions one after the other.
type place struct{ next int64 }

func (p *place) take(n int64) Region {
	r := Region{p.next, RoundUp(n, BlockSize)}
	p.next = r.End()
	return r
}

func (p *place) bitmap(units int64) BitmapRegions {
	return BitmapRegions{
		Units:  units,
		Bits:   p.take(units / 8),
		Chunks: p.take(units / ChunkUnits * WordSize),
		Groups: p.take(RoundUp(units, GroupUnits) / GroupUnits * WordSize),
	}
}

// Arrange fills in the regions from the counts and the log's length, and
// MetaSize. Counts are multiples of ChunkUnits.
func (s *Superblock) Arrange(logBytes int64) {
	p := place{next: SuperblockCopies * BlockSize}
	s.LogHeaders = p.take(2 * BlockSize)
	s.Log = p.take(logBytes)
	s.BlockBitmap = p.bitmap(s.DataBlocks)
	s.NodeBitmap = p.bitmap(s.Nodes)
	s.InodeBitmap = p.bitmap(s.Inodes)
	s.Orphans = p.bitmap(s.Inodes)
	s.InodeTable = p.take(s.Inodes * InodeSize)
	s.NodeArea = p.take(s.Nodes * BlockSize)
	s.MetaSize = p.next
}

// Structure names what stands at an offset of the meta area.
func (s *Superblock) Structure(offset int64) string {
	in := func(regions ...Region) bool {
		return slices.ContainsFunc(regions, func(r Region) bool { return r.Offset <= offset && offset < r.End() })
	}
	bitmap := func(b BitmapRegions) bool { return in(b.Bits, b.Chunks, b.Groups) }
	switch {
	case offset < SuperblockCopies*BlockSize:
		return "superblock"
	case in(s.LogHeaders):
		return "log header"
	case in(s.Log):
		return "log"
	case bitmap(s.BlockBitmap):
		return "block bitmap"
	case bitmap(s.NodeBitmap):
		return "node bitmap"
	case bitmap(s.InodeBitmap):
		return "inode bitmap"
	case bitmap(s.Orphans):
		return "orphan bitmap"
	case in(s.InodeTable):
		first := (offset - s.InodeTable.Offset) / BlockSize * (BlockSize / InodeSize)
		return fmt.Sprintf("inodes %d to %d", first, first+BlockSize/InodeSize-1)
	case in(s.NodeArea):
		return fmt.Sprintf("node %d", (offset-s.NodeArea.Offset)/BlockSize+1)
	}
	return "meta area"
}

// Encode returns the superblock as it stands on the medium.
func (s *Superblock) Encode() []byte {
	b := make([]byte, SuperblockSize)
	copy(b, magicSuperblock)
	le := binary.LittleEndian
	le.PutUint32(b[8:], s.Version)
	le.PutUint64(b[16:], s.Incompatible)
	le.PutUint64(b[24:], s.ReadOnly)
	copy(b[32:], s.UUID[:])
	copy(b[48:], s.HashKey[:])
	copy(b[64:64+MaxLabel], s.Label)
	for i, v := range s.numbers() {
		le.PutUint64(b[96+8*i:], uint64(*v))
	}
	le.PutUint32(b[12:], Checksum(b[:12], b[16:]))
	return b
}

// numbers lists the fields that are stored as plain 8-byte numbers, in order.
func (s *Superblock) numbers() []*int64 {
	return []*int64{&s.Created, &s.MetaSize, &s.DataBlocks, &s.Nodes, &s.Inodes, &s.Log.Length}
}

// DecodeSuperblock reads one copy. b is at least SuperblockSize long.
func DecodeSuperblock(b []byte, offset int64) (*Superblock, error) {
	le := binary.LittleEndian
	b = b[:SuperblockSize]
	if !bytes.Equal(b[:8], []byte(magicSuperblock)) {
		return nil, Corrupt("superblock", offset, "no pmemfs magic: not a pool, or overwritten")
	}
	if v := le.Uint32(b[8:]); v != Version {
		return nil, Corrupt("superblock", offset, "format version %d, this program knows version %d", v, Version)
	}
	if le.Uint32(b[12:]) != Checksum(b[:12], b[16:]) {
		return nil, Corrupt("superblock", offset, "checksum does not match")
	}
	s := &Superblock{Version: Version, Incompatible: le.Uint64(b[16:]), ReadOnly: le.Uint64(b[24:])}
	copy(s.UUID[:], b[32:])
	copy(s.HashKey[:], b[48:])
	s.Label = strings.TrimRight(string(b[64:64+MaxLabel]), "\x00")
	for i, v := range s.numbers() {
		*v = int64(le.Uint64(b[96+8*i:]))
	}
	return s, s.validate(offset)
}

const (
	MinLog    = 1 << 20
	MaxLog    = 1 << 30
	maxBlocks = 1 << 40
)

// validate checks the counts, and that the regions that follow from them end
// where MetaSize says.
func (s *Superblock) validate(offset int64) error {
	for _, c := range []struct {
		name  string
		value int64
	}{{"data blocks", s.DataBlocks}, {"nodes", s.Nodes}, {"inodes", s.Inodes}} {
		if c.value < ChunkUnits || c.value > maxBlocks || c.value%ChunkUnits != 0 {
			return Corrupt("superblock", offset, "%s: %d is not a multiple of %d in range", c.name, c.value, ChunkUnits)
		}
	}
	if s.Log.Length < MinLog || s.Log.Length > MaxLog || s.Log.Length%BlockSize != 0 {
		return Corrupt("superblock", offset, "log of %d bytes", s.Log.Length)
	}
	size := s.MetaSize
	s.Arrange(s.Log.Length)
	if s.MetaSize != size {
		return Corrupt("superblock", offset, "meta area of %d bytes, the counts need %d", size, s.MetaSize)
	}
	if s.Incompatible != 0 {
		return Corrupt("superblock", offset, "unknown incompatible features %#x: a newer program made this pool", s.Incompatible)
	}
	return nil
}

// ReadSuperblock returns the first valid copy in meta, which may be of any
// length.
func ReadSuperblock(meta []byte) (*Superblock, error) {
	var first error
	for i := int64(0); i < SuperblockCopies; i++ {
		var err error
		if int64(len(meta)) < i*BlockSize+SuperblockSize {
			err = Corrupt("superblock", i*BlockSize, "meta area of %d bytes is too short", len(meta))
		} else {
			var s *Superblock
			if s, err = DecodeSuperblock(meta[i*BlockSize:], i*BlockSize); err == nil {
				return s, nil
			}
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}
