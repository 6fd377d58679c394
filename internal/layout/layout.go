// Package layout is the on-media format: the structures of the meta area,
// their encoding, their checksums and the rules by which untrusted bytes are
// refused. It moves no bytes to a medium and holds no state.
//
// All integers are little-endian. Offsets are in bytes from the start of the
// meta area unless they are numbered: a block is numbered from the start of
// the data area, a node from the start of the nodes region. docs/format.md
// describes every structure byte by byte; a test compares its sizes with the
// constants here.
package layout

import "fmt"

const (
	BlockSize = 4096 // unit of the data area and of the nodes region
	LineSize  = 64   // a CPU cache line: what one flush writes back
	WordSize  = 8    // what one aligned store changes atomically

	Fanout     = 512             // entries of a node: BlockSize / WordSize
	HugeBlocks = Fanout          // blocks under a 2 MiB leaf
	GiantBlock = Fanout * Fanout // blocks under a 1 GiB leaf

	MaxName     = 255     // bytes of a name, as NAME_MAX
	MaxTarget   = 4095    // bytes of a symbolic link's target, as PATH_MAX less the NUL
	MaxXattrs   = 65536   // bytes of all extended attributes of an inode, encoded
	MaxFileSize = 1 << 44 // 16 TiB
	MaxLinks    = 1 << 31
)

// Ino is an inode number: its place in the inode table. 0 is never used.
type Ino uint64

// RootIno is the root directory's inode; CountsIno holds the reference counts of
// blocks. No name leads to either. FirstIno is the first of other inodes.
const (
	RootIno   Ino = 1
	CountsIno Ino = 2
	FirstIno  Ino = 3
)

func (i Ino) String() string { return fmt.Sprintf("inode %d", uint64(i)) }

// Node numbers a 4 KiB block of the nodes region, plus one: 0 means none.
type Node uint64

// Region is a part of the meta area.
type Region struct{ Offset, Length int64 }

// End is the offset of the first byte behind the region.
func (r Region) End() int64 { return r.Offset + r.Length }

// CorruptError says that bytes on the medium are not what the format allows.
// Nothing was changed and nothing of the structure was used.
type CorruptError struct {
	Structure string // the structure's name, as in docs/format.md
	Offset    int64  // in the meta area, -1 when it has no single place
	Reason    string
}

func (e *CorruptError) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("damaged %s: %s", e.Structure, e.Reason)
	}
	return fmt.Sprintf("damaged %s at meta offset %#x: %s", e.Structure, e.Offset, e.Reason)
}

// Corrupt makes a CorruptError.
func Corrupt(structure string, offset int64, format string, args ...any) error {
	return &CorruptError{Structure: structure, Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

// RoundUp rounds n up to a multiple of unit.
func RoundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
