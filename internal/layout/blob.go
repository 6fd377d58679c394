package layout

import "encoding/binary"

// A blob is bytes that belong to one inode (its extended attributes, or a
// symbolic link's target) in a chain of nodes.
//
//	 0  magic u32 | 4 checksum u32 (of the rest) | 8 inode u64
//	16  next u64: Node, 0 at the end | 24 length u32: bytes here | 28 total u32
//	32  the bytes
const (
	magicBlob   = 0x626f6c62 // "blob"
	blobHeader  = 32
	BlobPayload = BlockSize - blobHeader
)

// EncodeBlob fills b (BlockSize) with one node of a blob.
func EncodeBlob(b []byte, ino Ino, next Node, part []byte, total int) {
	clear(b)
	le := binary.LittleEndian
	le.PutUint32(b, magicBlob)
	le.PutUint64(b[8:], uint64(ino))
	le.PutUint64(b[16:], uint64(next))
	le.PutUint32(b[24:], uint32(len(part)))
	le.PutUint32(b[28:], uint32(total))
	copy(b[blobHeader:], part)
	le.PutUint32(b[4:], Checksum(b[8:]))
}

// DecodeBlob checks one node of a blob and returns its bytes, which alias b.
func DecodeBlob(b []byte, ino Ino, offset int64) (part []byte, next Node, total int, err error) {
	le := binary.LittleEndian
	length := le.Uint32(b[24:])
	switch {
	case le.Uint32(b) != magicBlob:
		return nil, 0, 0, Corrupt("blob", offset, "no magic")
	case le.Uint32(b[4:]) != Checksum(b[8:]):
		return nil, 0, 0, Corrupt("blob", offset, "checksum does not match")
	case Ino(le.Uint64(b[8:])) != ino:
		return nil, 0, 0, Corrupt("blob", offset, "belongs to inode %d, not to %v", le.Uint64(b[8:]), ino)
	case length == 0 || length > BlobPayload || le.Uint32(b[28:]) > MaxXattrs:
		return nil, 0, 0, Corrupt("blob", offset, "%d bytes of %d", length, le.Uint32(b[28:]))
	}
	return b[blobHeader : blobHeader+length], Node(le.Uint64(b[16:])), int(le.Uint32(b[28:])), nil
}
