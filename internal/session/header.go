package session

import (
	"fmt"
	"hash/crc32"
)

// A file begins with a header, little endian, of a multiple of 64 bytes; what is behind the groups is 0:
//
//	offset 0   u64  magic
//	offset 8   u32  CRC-32C of everything from offset 12 to the header's end
//	offset 12  u32  length of the header
//	offset 16  16   boot
//	offset 32  16   nonce
//	offset 48  u64  PID namespace
//	offset 56  u64  start time of the process
//	offset 64  u32  pid
//	offset 68  u32  slot
//	offset 72  u32  uid
//	offset 76  u32  gid
//	offset 80  u32  bits
//	offset 84  u32  number of groups
//	offset 88       groups, u32 each
const (
	magic      = 0x31736573666d6570 // "pemfses1"
	headerBase = 88
)

const (
	bitReadOnly = 1 << iota
	bitImported
	bitsAll = 1<<iota - 1
)

// Nonce is the secret by which a client shows that a session is its own.
type Nonce [16]byte

// Client is who a session is of. The process is the one that had the number PID when the session was created.
type Client struct {
	PID      int
	UID, GID uint32
	Groups   []uint32
	ReadOnly bool
	Imported bool // may use only what was handed to it
	Nonce    Nonce

	at    place  // where PID means the process
	start uint64 // when the process began
}

func headerLength(groups int) int {
	return (headerBase + 4*groups + recordSize - 1) / recordSize * recordSize
}

func (c *Client) encode(slot int) []byte {
	b := make([]byte, headerLength(len(c.Groups)))
	le.PutUint64(b, magic)
	le.PutUint32(b[12:], uint32(len(b)))
	copy(b[16:], c.at.boot[:])
	copy(b[32:], c.Nonce[:])
	le.PutUint64(b[48:], c.at.namespace)
	le.PutUint64(b[56:], c.start)
	var bits uint32
	if c.ReadOnly {
		bits |= bitReadOnly
	}
	if c.Imported {
		bits |= bitImported
	}
	for i, n := range append([]uint32{uint32(c.PID), uint32(slot), c.UID, c.GID, bits, uint32(len(c.Groups))}, c.Groups...) {
		le.PutUint32(b[64+4*i:], n)
	}
	le.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return b
}

// decodeHeader reads the header that a file begins with, and returns its length.
func decodeHeader(b []byte, slot int) (c Client, length int, err error) {
	if len(b) < headerLength(0) || le.Uint64(b) != magic {
		return c, 0, fmt.Errorf("it is no record of a session")
	}
	length = int(min(le.Uint32(b[12:]), 1<<30))
	groups := int(min(le.Uint32(b[84:]), 1<<30))
	switch {
	case groups > maxGroups || length != headerLength(groups) || length > len(b):
		return c, 0, fmt.Errorf("its header of %d bytes has %d groups", length, groups)
	case le.Uint32(b[8:]) != crc32.Checksum(b[12:length], castagnoli):
		return c, 0, fmt.Errorf("its header does not match its checksum")
	}
	pid, bits := le.Uint32(b[64:]), le.Uint32(b[80:])
	if pid == 0 || pid > 1<<30 || bits&^bitsAll != 0 || le.Uint32(b[68:]) != uint32(slot) {
		return c, 0, fmt.Errorf("its header is of process %d, slot %d, bits %#x", pid, le.Uint32(b[68:]), bits)
	}
	c = Client{
		PID: int(pid), UID: le.Uint32(b[72:]), GID: le.Uint32(b[76:]),
		ReadOnly: bits&bitReadOnly != 0, Imported: bits&bitImported != 0,
		Nonce: Nonce(b[32:48]), at: place{boot: [16]byte(b[16:32]), namespace: le.Uint64(b[48:])}, start: le.Uint64(b[56:]),
	}
	for i := range groups {
		c.Groups = append(c.Groups, le.Uint32(b[headerBase+4*i:]))
	}
	return c, length, nil
}
