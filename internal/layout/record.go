package layout

import (
	"encoding/binary"
)

// The log is a ring of records. An LSN counts the bytes ever appended, so a
// record with LSN n stands at offset n modulo the log's length; a record may
// wrap around the end. A record is a multiple of LineSize:
//
//	 0  magic u32 | 4 checksum u32 (of the rest) | 8 epoch u64 | 16 lsn u64
//	24  durable u64 | 32 length u32 | 36 entries u32 | 40 entries, then zeros
//
// An entry is a word, offset in the meta area <<16 | kind <<15 | bytes, and
// for a write the bytes themselves. Offset and bytes are multiples of 8. A
// zero entry has no bytes of its own and covers one block.
//
// The epoch is a random number drawn at each mount for writing. It tells a
// record from what earlier mounts, or a file's contents, left in the ring: a
// torn record at the end of the log has a wrong checksum, an older one a wrong
// epoch or LSN. Durable is the LSN up to which the log was known to be on the
// medium when the record was appended: a record that is not intact although a
// later one says that it was durable is not torn but damaged.
const (
	magicRecord  = 0x64636572 // "recd"
	RecordHeader = 40
	entryHeader  = 8
	kindZero     = 1 << 15
	maxWrite     = BlockSize
)

// RecordWriter collects the entries of one record.
type RecordWriter struct {
	buf     []byte
	entries uint32
	zeros   int64
	last    int   // where the last entry stands in buf, if it is a write
	end     int64 // of that in the meta area
}

// Reset empties the writer.
func (w *RecordWriter) Reset() {
	var header [RecordHeader]byte
	w.buf = append(w.buf[:0], header[:]...)
	w.entries, w.zeros, w.end = 0, 0, 0
}

// Write adds the bytes p at meta offset off, in one block; both multiples of 8. What
// continues the last write of the block takes no entry of its own.
func (w *RecordWriter) Write(off int64, p []byte) {
	le := binary.LittleEndian
	if off == w.end && off%BlockSize != 0 {
		le.PutUint64(w.buf[w.last:], le.Uint64(w.buf[w.last:])+uint64(len(p)))
	} else {
		w.last = len(w.buf)
		w.buf = le.AppendUint64(w.buf, uint64(off)<<16|uint64(len(p)))
		w.entries++
	}
	w.buf = append(w.buf, p...)
	w.end = off + int64(len(p))
}

// Zero adds that the block at meta offset off becomes zeros.
func (w *RecordWriter) Zero(off int64) {
	w.buf = binary.LittleEndian.AppendUint64(w.buf, uint64(off)<<16|kindZero)
	w.entries++
	w.zeros++
	w.end = 0
}

// Zeros is how many blocks the record zeroes.
func (w *RecordWriter) Zeros() int64 { return w.zeros }

// Empty reports whether nothing was added.
func (w *RecordWriter) Empty() bool { return w.entries == 0 }

// Finish pads the record and fills in its header.
func (w *RecordWriter) Finish(epoch, lsn, durable uint64) []byte {
	for len(w.buf)%LineSize != 0 {
		w.buf = append(w.buf, 0)
	}
	le := binary.LittleEndian
	le.PutUint32(w.buf, magicRecord)
	le.PutUint64(w.buf[8:], epoch)
	le.PutUint64(w.buf[16:], lsn)
	le.PutUint64(w.buf[24:], durable)
	le.PutUint32(w.buf[32:], uint32(len(w.buf)))
	le.PutUint32(w.buf[36:], w.entries)
	le.PutUint32(w.buf[4:], Checksum(w.buf[8:]))
	return w.buf
}

// RecordLength returns the length of the record whose header is b, or 0 when
// b is no header of a record with that epoch and LSN or is longer than limit.
func RecordLength(b []byte, epoch, lsn uint64, limit int64) int64 {
	le := binary.LittleEndian
	n := int64(le.Uint32(b[32:]))
	if le.Uint32(b) != magicRecord || le.Uint64(b[8:]) != epoch || le.Uint64(b[16:]) != lsn ||
		n < LineSize || n%LineSize != 0 || n > limit {
		return 0
	}
	return n
}

// RecordSize is the length of the record at the start of b, which is intact.
func RecordSize(b []byte) int { return int(binary.LittleEndian.Uint32(b[32:])) }

// RecordIntact reports whether the whole record's checksum matches.
func RecordIntact(record []byte) bool {
	return binary.LittleEndian.Uint32(record[4:]) == Checksum(record[8:])
}

// RecordDurable is the durable LSN in an intact record.
func RecordDurable(record []byte) uint64 { return binary.LittleEndian.Uint64(record[24:]) }

// Change is one entry of a record: Bytes at Offset, or (nil) a zeroed block.
type Change struct {
	Offset int64
	Bytes  []byte
}

// Length is how many bytes the change covers.
func (c Change) Length() int64 {
	if c.Bytes == nil {
		return BlockSize
	}
	return int64(len(c.Bytes))
}

// Changes calls fn for each entry of an intact record; metaSize bounds the
// offsets. An entry that cannot be is a CorruptError: its checksum matched, so
// the record was made by a faulty program.
func Changes(record []byte, metaSize int64, fn func(Change)) error {
	le := binary.LittleEndian
	at := RecordHeader
	for range le.Uint32(record[36:]) {
		if at+entryHeader > len(record) {
			return Corrupt("journal record", -1, "entries run over its end")
		}
		word := le.Uint64(record[at:])
		c := Change{Offset: int64(word >> 16)}
		at += entryHeader
		n := int(word & (kindZero - 1))
		if word&kindZero == 0 {
			if n == 0 || n > maxWrite || n%WordSize != 0 || at+n > len(record) {
				return Corrupt("journal record", -1, "entry of %d bytes", n)
			}
			c.Bytes = record[at : at+n]
			at += n
		}
		if c.Offset%WordSize != 0 || c.Offset < SuperblockCopies*BlockSize || c.Offset+c.Length() > metaSize {
			return Corrupt("journal record", -1, "entry for meta offset %#x", c.Offset)
		}
		fn(c)
	}
	return nil
}

// LogHeader says where the log begins. It stands in two blocks, and both are
// written, one after the other with a fence between, before log space is used
// again. The one that is relied on is written last: the other may have been
// torn by the last power cut. So one of them is always whole.
//
//	0 magic u32 | 4 checksum u32 | 8 sequence u64 | 16 epoch u64 | 24 tail u64
//	32 state u64
//
// The header with the higher sequence counts.
type LogHeader struct {
	Sequence uint64 // incremented by each write
	Epoch    uint64
	Tail     uint64 // LSN of the first record that must be replayed
	Clean    bool   // the pool was closed; nothing follows the tail
}

const (
	magicLog      = 0x676f6c70 // "plog"
	LogHeaderSize = LineSize
)

// Encode returns the header as it stands on the medium.
func (h LogHeader) Encode() []byte {
	b := make([]byte, LogHeaderSize)
	le := binary.LittleEndian
	le.PutUint32(b, magicLog)
	le.PutUint64(b[8:], h.Sequence)
	le.PutUint64(b[16:], h.Epoch)
	le.PutUint64(b[24:], h.Tail)
	if h.Clean {
		b[32] = 1
	}
	le.PutUint32(b[4:], Checksum(b[8:]))
	return b
}

// DecodeLogHeader reads one copy, which stands at offset. b is at least
// LogHeaderSize long.
func DecodeLogHeader(b []byte, offset int64) (LogHeader, error) {
	le := binary.LittleEndian
	b = b[:LogHeaderSize]
	h := LogHeader{le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:]), b[32] == 1}
	switch {
	case le.Uint32(b) != magicLog:
		return h, Corrupt("log header", offset, "no magic")
	case le.Uint32(b[4:]) != Checksum(b[8:]):
		return h, Corrupt("log header", offset, "checksum does not match")
	case h.Tail%LineSize != 0 || le.Uint64(b[32:]) > 1:
		return h, Corrupt("log header", offset, "tail %#x, state %d", h.Tail, le.Uint64(b[32:]))
	}
	return h, nil
}

// LogHeaderPlaces are the offsets of the two copies.
func LogHeaderPlaces(headers Region) [2]int64 {
	return [2]int64{headers.Offset, headers.Offset + BlockSize}
}

// ReadLogHeader returns the newest valid header of the bytes of its region, and which copy it is.
func ReadLogHeader(b []byte, headers Region) (best LogHeader, number int, err error) {
	number = -1
	for i, at := range LogHeaderPlaces(headers) {
		h, err := DecodeLogHeader(b[at-headers.Offset:], at)
		if err == nil && (number < 0 || h.Sequence > best.Sequence) {
			best, number = h, i
		}
	}
	if number < 0 {
		return best, number, Corrupt("log header", headers.Offset, "neither copy is valid")
	}
	return best, number, nil
}
