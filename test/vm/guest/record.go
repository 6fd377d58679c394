//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// recordSize is a cache line: a record that was under way when the machine died may be there in part.
const recordSize = 64

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// makeRecord fills b with the record of a number: the number, who has written it, and a checksum of both, repeated so that
// every eight bytes are different ones.
func makeRecord(b []byte, who string, n uint64) {
	seed := crc32.Checksum([]byte(who), castagnoli)
	binary.LittleEndian.PutUint64(b, n+1) // zeros are no record
	for i := 8; i < recordSize; i += 8 {
		sum := crc32.Update(seed, castagnoli, b[:i])
		binary.LittleEndian.PutUint64(b[i:], uint64(sum)<<32|uint64(^sum))
	}
}

// parseRecord returns the number of a record, and whether all of it is as it was made.
func parseRecord(who string, b []byte) (n uint64, intact bool) {
	var want [recordSize]byte
	n = binary.LittleEndian.Uint64(b) - 1
	makeRecord(want[:], who, n)
	return n, bytes.Equal(b, want[:])
}
