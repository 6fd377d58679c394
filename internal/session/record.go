package session

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// A record is 64 bytes, little endian; one of zeros is free:
//
//	offset 0   u32  CRC-32C of what follows, the file's nonce and the record's position
//	offset 4   u8   kind
//	offset 5   u8   bits: bitDirect
//	offset 6   u16  0
//	           handle                mapping                       pin
//	offset 8   u32  number           u32  number                   u32  number
//	offset 12  u32  flags            u32  handle                   u32  mapping
//	offset 16  u64  inode            u64  inode                    i64  first block of the file
//	offset 24  u64  generation       u64  generation               i64  blocks
//	offset 32  0                     i64  first block of the file  0
//	offset 40                        i64  length, bytes
//	offset 48                        u64  address
//	offset 56                        u32  flags
const recordSize = 64

const (
	kindHandle = 1 + iota
	kindMapping
	kindPin
)

const bitDirect = 1 // of a handle

const blockSize = 4096

// record is one thing that a client has: a Handle, a Mapping or a Pin.
type record interface {
	key() key
	// encode fills in the record, but for its checksum.
	encode(b *[recordSize]byte)
	valid() bool
}

// key tells the things of a session apart.
type key struct {
	kind            byte
	mapping, number uint32 // mapping: of a pin
}

// Handle is an open file or directory.
type Handle struct {
	Number          uint32 // not 0
	Ino, Generation uint64
	Flags           uint32 // of open(2)
	Direct          bool   // may be used to seal
}

// Mapping is a mapped range of a file. It lives on when its handle is closed, so it says itself which file that is.
type Mapping struct {
	Number          uint32 // not 0
	Handle          uint32 // by which it was made, open or closed by now; not 0
	Ino, Generation uint64
	First           int64  // block of the file where it begins
	Length          int64  // bytes, more than 0
	Address         uint64 // in the client; a multiple of 4096
	Flags           uint32 // as the client has asked for
}

// Pin is a pinned run of a mapping.
type Pin struct {
	Mapping, Number uint32 // not 0
	First, Count    int64  // blocks of the file, inside the mapping
}

func (h Handle) key() key  { return key{kind: kindHandle, number: h.Number} }
func (m Mapping) key() key { return key{kind: kindMapping, number: m.Number} }
func (p Pin) key() key     { return key{kind: kindPin, mapping: p.Mapping, number: p.Number} }

func (h Handle) valid() bool { return h.Number != 0 && h.Ino != 0 }

func (m Mapping) valid() bool {
	return m.Number != 0 && m.Handle != 0 && m.Ino != 0 && m.First >= 0 && m.Length > 0 &&
		m.Length <= math.MaxInt64-blockSize && m.First <= math.MaxInt64/blockSize-m.Blocks() &&
		m.Address%blockSize == 0 && m.Address != 0 && m.Address <= math.MaxInt64-uint64(m.Blocks())*blockSize
}

// Blocks is how many blocks of the file, and pages of the client, the mapping has.
func (m Mapping) Blocks() int64 { return (m.Length + blockSize - 1) / blockSize }

func (p Pin) valid() bool {
	return p.Mapping != 0 && p.Number != 0 && p.First >= 0 && p.Count > 0 && p.First <= math.MaxInt64-p.Count
}

// inside says whether a pin is one of the mapping.
func (p Pin) inside(m Mapping) bool {
	return p.First >= m.First && p.Count <= m.Blocks() && p.First-m.First <= m.Blocks()-p.Count
}

var le = binary.LittleEndian

func (h Handle) encode(b *[recordSize]byte) {
	b[4] = kindHandle
	if h.Direct {
		b[5] = bitDirect
	}
	le.PutUint32(b[8:], h.Number)
	le.PutUint32(b[12:], h.Flags)
	le.PutUint64(b[16:], h.Ino)
	le.PutUint64(b[24:], h.Generation)
}

func (m Mapping) encode(b *[recordSize]byte) {
	b[4] = kindMapping
	le.PutUint32(b[8:], m.Number)
	le.PutUint32(b[12:], m.Handle)
	le.PutUint64(b[16:], m.Ino)
	le.PutUint64(b[24:], m.Generation)
	le.PutUint64(b[32:], uint64(m.First))
	le.PutUint64(b[40:], uint64(m.Length))
	le.PutUint64(b[48:], m.Address)
	le.PutUint32(b[56:], m.Flags)
}

func (p Pin) encode(b *[recordSize]byte) {
	b[4] = kindPin
	le.PutUint32(b[8:], p.Number)
	le.PutUint32(b[12:], p.Mapping)
	le.PutUint64(b[16:], uint64(p.First))
	le.PutUint64(b[24:], uint64(p.Count))
}

// decode is the inverse of the encodes. It does not look at the checksum. nil: no such record is ever written.
func decode(b *[recordSize]byte) record {
	var r record
	switch b[4] {
	case kindHandle:
		r = Handle{
			Number: le.Uint32(b[8:]), Flags: le.Uint32(b[12:]), Ino: le.Uint64(b[16:]), Generation: le.Uint64(b[24:]),
			Direct: b[5]&bitDirect != 0,
		}
	case kindMapping:
		r = Mapping{
			Number: le.Uint32(b[8:]), Handle: le.Uint32(b[12:]), Ino: le.Uint64(b[16:]), Generation: le.Uint64(b[24:]),
			First: int64(le.Uint64(b[32:])), Length: int64(le.Uint64(b[40:])), Address: le.Uint64(b[48:]),
			Flags: le.Uint32(b[56:]),
		}
	case kindPin:
		r = Pin{
			Number: le.Uint32(b[8:]), Mapping: le.Uint32(b[12:]),
			First: int64(le.Uint64(b[16:])), Count: int64(le.Uint64(b[24:])),
		}
	default:
		return nil
	}
	var again [recordSize]byte
	copy(again[:4], b[:4])
	r.encode(&again)
	if again != *b || !r.valid() {
		return nil
	}
	return r
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal puts the checksum of a record that is to be written at a position into it.
func seal(b *[recordSize]byte, nonce *[16]byte, position int) {
	le.PutUint32(b[:], checksum(b, nonce, position))
}

func checksum(b *[recordSize]byte, nonce *[16]byte, position int) uint32 {
	var salt [24]byte
	copy(salt[:], nonce[:])
	le.PutUint64(salt[16:], uint64(position))
	return crc32.Update(crc32.Checksum(b[4:], castagnoli), castagnoli, salt[:])
}
