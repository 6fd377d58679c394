package layout

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is CRC-32C over parts one after the other.
func Checksum(parts ...[]byte) uint32 {
	var sum uint32
	for _, p := range parts {
		sum = crc32.Update(sum, castagnoli, p)
	}
	return sum
}

// ChecksumShort is Checksum of a few bytes, which can stay on the caller's stack.
func ChecksumShort(b []byte) uint32 {
	sum := ^uint32(0)
	for _, v := range b {
		sum = castagnoli[byte(sum)^v] ^ sum>>8
	}
	return ^sum
}

// A CRC is linear: the checksum of changed bytes differs from that of the old ones by
// the remainder of what has changed, as a polynomial, whatever else there is. So that
// of a block of which little changes need not be made from all of it.

// remainder is that of b alone: a CRC that begins with 0 and is not inverted.
func remainder(b []byte) uint32 { return ^crc32.Update(^uint32(0), castagnoli, b) }

// follow is the remainder r when so many bytes of zeros follow, a multiple of 8, less
// than a block.
func follow(r uint32, zeros int) uint32 {
	for i, words := 0, zeros/WordSize; words != 0; i, words = i+1, words>>1 {
		if words&1 != 0 {
			r = zeroWords[i].follow(r)
		}
	}
	return r
}

// zeroWords are follow for 1, 2, 4 … 256 words of zeros, by the remainder's digits.
var zeroWords = func() (all [9]zeroTable) {
	for d := range 8 {
		for v := range uint32(16) {
			r := v << (4 * d)
			for range WordSize {
				r = castagnoli[byte(r)] ^ r>>8
			}
			all[0][d][v] = r
		}
	}
	for i := 1; i < len(all); i++ {
		for d := range 8 {
			for v := range uint32(16) {
				all[i][d][v] = all[i-1].follow(all[i-1].follow(v << (4 * d)))
			}
		}
	}
	return all
}()

// zeroTable has a remainder for each value of each of the eight digits of another.
type zeroTable [8][16]uint32

func (t *zeroTable) follow(r uint32) uint32 {
	return t[0][r&15] ^ t[1][r>>4&15] ^ t[2][r>>8&15] ^ t[3][r>>12&15] ^
		t[4][r>>16&15] ^ t[5][r>>20&15] ^ t[6][r>>24&15] ^ t[7][r>>28]
}
