package layout

import "encoding/binary"

// A bucket is a directory's leaf: a node that holds the entries whose name
// hashes begin with a prefix.
//
//	 0  magic u32 | 4 checksum u32 (of the rest) | 8 inode u64 | 16 prefix u64
//	24  depth u8: bits of the prefix | 26 used u16: end of the entries
//	28  live u16: bytes of entries that are not removed | 64 entries
//
// An entry: 0 hash u64 | 8 inode u64 (0: removed) | 16 type u8 | 17 length u8
// | 18 name | zeros to a multiple of 8.
//
// Invariant: entries follow each other without gaps from bucketHeader to
// used; every hash begins with the prefix; names are 1 to 255 bytes without
// '/' or NUL; a name stands at most once in a directory.
const (
	magicBucket  = 0x746b6362 // "bckt"
	bucketHeader = 64
	slotHeader   = 18
	HashBits     = 63 // so that a position fits a signed 64-bit directory offset
)

// Slot is a directory entry inside a bucket.
type Slot struct {
	Hash   uint64
	Ino    Ino
	Type   uint8 // Mode's type bits >> 12, as d_type
	Name   string
	offset int
}

// SlotSize is the bytes a name's entry takes.
func SlotSize(name int) int { return (slotHeader + name + 7) &^ 7 }

// Bucket is a bucket in memory. Bytes is a private copy or a read-only view.
// Add, Remove and Replace change a slot, by which Place returns where it is, and the
// header, of whose checksum they make the new one. They look at nothing else.
type Bucket struct {
	Bytes []byte
}

// BucketHeader is how long the header is, in bytes.
const BucketHeader = bucketHeader

// Refill formats the bucket anew, with those of the slots that it covers.
func (k Bucket) Refill(ino Ino, prefix uint64, depth int, slots []Slot) {
	clear(k.Bytes)
	le := binary.LittleEndian
	le.PutUint32(k.Bytes, magicBucket)
	le.PutUint64(k.Bytes[8:], uint64(ino))
	le.PutUint64(k.Bytes[16:], prefix)
	k.Bytes[24] = byte(depth)
	le.PutUint16(k.Bytes[26:], bucketHeader)
	for _, s := range slots {
		if k.Covers(s.Hash) {
			k.add(s)
		}
	}
	k.Seal()
}

// OpenBucket checks the header and the checksum of a bucket of directory ino
// that stands at offset, and that it covers hash.
func OpenBucket(b []byte, ino Ino, hash uint64, offset int64) (Bucket, error) {
	if k, err := OpenVerified(b, ino, hash, offset); err != nil || k.Sum() == Checksum(b[8:]) {
		return k, err
	}
	return Bucket{}, Corrupt("directory bucket", offset, "checksum does not match")
}

// OpenVerified is OpenBucket without a look at the checksum.
func OpenVerified(b []byte, ino Ino, hash uint64, offset int64) (Bucket, error) {
	k := Bucket{b}
	le := binary.LittleEndian
	switch {
	case le.Uint32(b) != magicBucket:
		return k, Corrupt("directory bucket", offset, "no magic")
	case Ino(le.Uint64(b[8:])) != ino:
		return k, Corrupt("directory bucket", offset, "belongs to %v, not to %v", Ino(le.Uint64(b[8:])), ino)
	case k.Depth() > HashBits || k.used() < bucketHeader || k.used() > BlockSize || k.live() > k.used()-bucketHeader:
		return k, Corrupt("directory bucket", offset, "depth %d, %d bytes used, %d live", k.Depth(), k.used(), k.live())
	case k.Prefix()&(1<<(HashBits-k.Depth())-1) != 0 || k.Prefix()>>HashBits != 0:
		return k, Corrupt("directory bucket", offset, "prefix %#x has more than %d bits", k.Prefix(), k.Depth())
	case !k.Covers(hash):
		return k, Corrupt("directory bucket", offset, "prefix %#x/%d does not cover hash %#x", k.Prefix(), k.Depth(), hash)
	}
	return k, nil
}

// Seal makes the checksum of all the bucket.
func (k Bucket) Seal() { binary.LittleEndian.PutUint32(k.Bytes[4:], Checksum(k.Bytes[8:])) }

// Sum is the checksum that the header says.
func (k Bucket) Sum() uint32 { return binary.LittleEndian.Uint32(k.Bytes[4:]) }

func (k Bucket) Prefix() uint64 { return binary.LittleEndian.Uint64(k.Bytes[16:]) }
func (k Bucket) Depth() int     { return int(k.Bytes[24]) }
func (k Bucket) used() int      { return int(binary.LittleEndian.Uint16(k.Bytes[26:])) }
func (k Bucket) live() int      { return int(binary.LittleEndian.Uint16(k.Bytes[28:])) }
func (k Bucket) setUsed(n int)  { binary.LittleEndian.PutUint16(k.Bytes[26:], uint16(n)) }
func (k Bucket) setLive(n int)  { binary.LittleEndian.PutUint16(k.Bytes[28:], uint16(n)) }

// Covers reports whether hash begins with the bucket's prefix.
func (k Bucket) Covers(hash uint64) bool {
	return hash>>(HashBits-k.Depth()) == k.Prefix()>>(HashBits-k.Depth())
}

// Room reports whether an entry of size bytes fits, perhaps after Compact.
func (k Bucket) Room(size int) (now, compacted bool) {
	return k.used()+size <= BlockSize, bucketHeader+k.live()+size <= BlockSize
}

// slotAt decodes the entry at offset; ok is false when it does not fit.
func (k Bucket) slotAt(at int) (hash uint64, size int, ok bool) {
	if at+slotHeader > k.used() {
		return 0, 0, false
	}
	size = SlotSize(int(k.Bytes[at+17]))
	return binary.LittleEndian.Uint64(k.Bytes[at:]), size, at+size <= k.used()
}

// Find returns the entry with that hash and name.
func (k Bucket) Find(hash uint64, name string) (Slot, bool) {
	for at := bucketHeader; ; {
		h, size, ok := k.slotAt(at)
		if !ok {
			return Slot{}, false
		}
		if h == hash {
			if s := k.slot(at); s.Ino != 0 && string(k.name(at)) == name {
				s.Name = name
				return s, true
			}
		}
		at += size
	}
}

// slot is the entry at a place, but for its name.
func (k Bucket) slot(at int) Slot {
	b := k.Bytes[at:]
	return Slot{Hash: binary.LittleEndian.Uint64(b), Ino: Ino(binary.LittleEndian.Uint64(b[8:])), Type: b[16], offset: at}
}

func (k Bucket) name(at int) []byte { return k.Bytes[at+slotHeader:][:k.Bytes[at+17]] }

// Slots returns the live entries in the order they stand.
func (k Bucket) Slots(offset int64) ([]Slot, error) {
	var all []Slot
	live := 0
	at := bucketHeader
	for at < k.used() {
		_, size, ok := k.slotAt(at)
		if !ok {
			return nil, Corrupt("directory bucket", offset, "entry at %d runs over the end", at)
		}
		if s := k.slot(at); s.Ino != 0 {
			s.Name = string(k.name(at))
			if !ValidName(s.Name) || !k.Covers(s.Hash) {
				return nil, Corrupt("directory bucket", offset, "entry at %d: name %q, hash %#x", at, s.Name, s.Hash)
			}
			live += size
			all = append(all, s)
		}
		at += size
	}
	if live != k.live() {
		return nil, Corrupt("directory bucket", offset, "%d bytes live, header says %d", live, k.live())
	}
	return all, nil
}

// Place is where a slot is in the bucket: one that Find returned, or the one that Add
// would append for it.
func (k Bucket) Place(s Slot) (at, size int) {
	if s.offset == 0 {
		s.offset = k.used()
	}
	return s.offset, SlotSize(len(s.Name))
}

// Add appends an entry; Room(SlotSize) must have said now.
func (k Bucket) Add(s Slot) {
	k.amend(k.used(), SlotSize(len(s.Name)), func() { k.add(s) })
}

func (k Bucket) add(s Slot) {
	at, size := k.used(), SlotSize(len(s.Name))
	b := k.Bytes[at:]
	clear(b[:size])
	binary.LittleEndian.PutUint64(b, s.Hash)
	binary.LittleEndian.PutUint64(b[8:], uint64(s.Ino))
	b[16], b[17] = s.Type, byte(len(s.Name))
	copy(b[slotHeader:], s.Name)
	k.setUsed(at + size)
	k.setLive(k.live() + size)
}

// Remove removes an entry that Find returned.
func (k Bucket) Remove(s Slot) {
	at, size := k.Place(s)
	k.amend(at, size, func() {
		binary.LittleEndian.PutUint64(k.Bytes[at+8:], 0)
		k.setLive(k.live() - size)
		if k.live() == 0 {
			k.setUsed(bucketHeader)
		}
	})
}

// Replace points an entry that Find returned to another inode.
func (k Bucket) Replace(s Slot, ino Ino, typ uint8) {
	at, size := k.Place(s)
	k.amend(at, size, func() {
		binary.LittleEndian.PutUint64(k.Bytes[at+8:], uint64(ino))
		k.Bytes[at+16] = typ
	})
}

// amend calls change, which changes a slot and the header's counts, and makes the
// new checksum of the old one: that of all the bucket takes several times as long.
func (k Bucket) amend(at, size int, change func()) {
	const counts, countsEnd = 24, 32
	slot, header := k.Bytes[at:at+size], k.Bytes[counts:countsEnd]
	ofSlot, ofHeader := remainder(slot), remainder(header)
	change()
	ofSlot ^= remainder(slot)
	ofHeader ^= remainder(header)
	delta := follow(follow(ofHeader, at+size-countsEnd)^ofSlot, BlockSize-at-size)
	binary.LittleEndian.PutUint32(k.Bytes[4:], k.Sum()^delta)
}

// ValidName reports whether name can be a directory entry's.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > MaxName || name == "." || name == ".." {
		return false
	}
	for i := 0; i < len(name); i++ {
		if name[i] == '/' || name[i] == 0 {
			return false
		}
	}
	return true
}
