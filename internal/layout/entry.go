package layout

import "fmt"

// Entry is one word of a node: it maps a part of a file to blocks (block map)
// or a part of the hash space to a bucket (directory), or points to a node
// that divides the part further. 0 is a hole.
//
//	bits  0..7   flags
//	bits  8..47  number: a block, or a Node
//	bits 48..63  CRC-16 of the bits below, seeded with the place of the entry
//
// Invariant: a non-zero entry is Present and its check matches the inode, the
// level and the position at which it stands, so an entry that was torn,
// flipped or copied elsewhere is found out when it is read. One entry changes
// by one aligned 8-byte store.
type Entry uint64

const (
	EntryPresent   Entry = 1 << 0
	EntryLeaf      Entry = 1 << 1 // number is a block (file) or a bucket (directory), not a node
	EntryUnwritten Entry = 1 << 2 // allocated, reads as zeros
	EntryShared    Entry = 1 << 3 // another file may map the block: unshare before a store

	entryFlags    = EntryPresent | EntryLeaf | EntryUnwritten | EntryShared
	numberShift   = 8
	numberBits    = 40
	checkShift    = 48
	entryPayload  = 1<<checkShift - 1
	MaxNumber     = 1<<numberBits - 1
	MaxLevel      = 4 // 512^4 blocks of 4 KiB: 256 TiB
	MaxLeafLevel  = 2 // 1 GiB
	MaxDirectory  = 7 // levels of a directory: 63 bits of hash
	levelDirShift = 7 // directory levels are marked, so that the kinds never match
)

// Place is where an entry stands: what its check is seeded with.
type Place struct {
	Ino       Ino
	Level     int    // 0: maps one block; level n covers 512^n blocks
	Position  uint64 // first block (file) or first hash (directory) under the entry
	Directory bool
}

func (p Place) seed() uint16 {
	level := uint64(p.Level)
	if p.Directory {
		level |= 1 << levelDirShift
	}
	h := uint64(p.Ino)*0x9e3779b97f4a7c15 ^ p.Position*0xc2b2ae3d27d4eb4f ^ level*0x165667b19e3779f9
	h ^= h >> 29
	h *= 0xbf58476d1ce4e5b9
	return uint16(h >> 48)
}

// crc16Tables are for CRC-16/CCITT (polynomial 0x1021), which finds every
// error of up to three bits and every burst of up to 16 bits in a word. Table
// k is the checksum of a byte followed by k zero bytes, so that the six bytes
// of a payload are looked up side by side.
var crc16Tables = func() (t [checkShift / 8][256]uint16) {
	for i := range 256 {
		c := uint16(i) << 8
		for k := range t {
			for range 8 {
				if c&0x8000 != 0 {
					c = c<<1 ^ 0x1021
				} else {
					c <<= 1
				}
			}
			t[k][i] = c
		}
	}
	return t
}()

func crc16(seed uint16, payload uint64) uint16 {
	t := &crc16Tables
	return t[5][byte(payload)^byte(seed>>8)] ^ t[4][byte(payload>>8)^byte(seed)] ^ t[3][byte(payload>>16)] ^
		t[2][byte(payload>>24)] ^ t[1][byte(payload>>32)] ^ t[0][byte(payload>>40)]
}

// MakeEntry encodes an entry that will stand at place.
func MakeEntry(flags Entry, number uint64, at Place) Entry {
	if number > MaxNumber || flags&^entryFlags != 0 {
		panic(fmt.Sprintf("layout: entry number %#x flags %#x out of range", number, flags))
	}
	e := uint64(flags|EntryPresent) | number<<numberShift
	return Entry(e | uint64(crc16(at.seed(), e))<<checkShift)
}

// Verify reports whether the entry may stand at place.
func (e Entry) Verify(at Place, offset int64) error {
	if e == 0 {
		return nil
	}
	low := uint64(e) & entryPayload
	switch {
	case crc16(at.seed(), low) != uint16(e>>checkShift):
		return Corrupt("map entry", offset, "check does not match (%v, level %d, position %#x)", at.Ino, at.Level, at.Position)
	case e&EntryPresent == 0 || low&0xff&^uint64(entryFlags) != 0:
		return Corrupt("map entry", offset, "flags %#x are unknown", low&0xff)
	case e&EntryLeaf == 0 && (e&(EntryUnwritten|EntryShared) != 0 || at.Level == 0 && !at.Directory):
		return Corrupt("map entry", offset, "flags %#x cannot be at level %d", low&0xff, at.Level)
	case e&EntryLeaf != 0 && !at.Directory && at.Level > MaxLeafLevel:
		return Corrupt("map entry", offset, "leaf at level %d", at.Level)
	}
	return nil
}

// Number is the block or node the entry points to.
func (e Entry) Number() uint64 { return uint64(e) >> numberShift & MaxNumber }

func (e Entry) Leaf() bool      { return e&EntryLeaf != 0 }
func (e Entry) Unwritten() bool { return e&EntryUnwritten != 0 }
func (e Entry) Shared() bool    { return e&EntryShared != 0 }

// Table reports whether the entry points to a node.
func (e Entry) Table() bool { return e != 0 && e&EntryLeaf == 0 }

// Flags are the leaf's flags, to be passed to MakeEntry for another place.
func (e Entry) Flags() Entry { return e & entryFlags }

// Span is how many blocks an entry at level covers.
func Span(level int) int64 { return 1 << (9 * level) }
