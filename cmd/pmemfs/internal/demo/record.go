package demo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"

	"github.com/pmemfs/pmemfs"
)

// A record is what writers append. Everything in it follows from the writer and the sequence number, so that whoever
// reads it back knows each of its bytes:
//
//	offset 0   4 bytes  magic
//	offset 4   4 bytes  CRC-32C of everything behind it
//	offset 8   4 bytes  length of the whole record, a multiple of 8
//	offset 12  4 bytes  writer
//	offset 16  8 bytes  sequence number, from 0
//	offset 24           payload, pseudo-random
const (
	recordMagic  = 0x72656331 // "rec1"
	recordHeader = 24
	maxRecord    = recordHeader + 1024
	segmentSize  = 1 << 20 // bytes of a writer's file; then it begins another
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// generator is splitmix64.
type generator uint64

func (g *generator) next() uint64 {
	*g += 0x9e3779b97f4a7c15
	z := uint64(*g)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func newGenerator(writer int, sequence uint64) generator {
	return generator(uint64(writer)<<48 ^ sequence)
}

// recordLength is the length in bytes of a record.
func recordLength(writer int, sequence uint64) int {
	g := newGenerator(writer, sequence)
	return recordHeader + 8 + int(g.next()%((maxRecord-recordHeader)/8))*8
}

// appendRecord makes a record.
func appendRecord(b []byte, writer int, sequence uint64) []byte {
	start := len(b)
	g := newGenerator(writer, sequence)
	length := recordHeader + 8 + int(g.next()%((maxRecord-recordHeader)/8))*8
	le := binary.LittleEndian
	b = le.AppendUint32(b, recordMagic)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, uint32(length))
	b = le.AppendUint32(b, uint32(writer))
	b = le.AppendUint64(b, sequence)
	for len(b)-start < length {
		b = le.AppendUint64(b, g.next())
	}
	le.PutUint32(b[start+4:], crc32.Checksum(b[start+8:], castagnoli))
	return b
}

// place is where a writer's next record goes.
type place struct {
	segment  int
	offset   int    // bytes in the segment
	sequence uint64 // of the next record: so many there are
}

// fits says whether the next record goes into the segment. If not, the segment is full.
func (p place) fits(writer int) bool { return p.offset+recordLength(writer, p.sequence) <= segmentSize }

// walk goes over the intact records of a segment from p on.
func (p place) walk(segment []byte, writer int, buf []byte) place {
	for p.fits(writer) {
		want := appendRecord(buf[:0], writer, p.sequence)
		end := p.offset + len(want)
		if end > len(segment) || !bytes.Equal(segment[p.offset:end], want) {
			break
		}
		p.offset, p.sequence = end, p.sequence+1
	}
	return p
}

const currentName = "current"

func writerDir(writer int) string { return fmt.Sprintf("writers/%d", writer) }

// segmentName is the name of a full segment.
func segmentName(writer, segment int) string {
	return path.Join(writerDir(writer), fmt.Sprintf("%06d", segment))
}

// find reads back all records of a writer, and returns where the next goes.
func find(fsys *pmemfs.FS, writer int) (p place, err error) {
	buf := make([]byte, 0, maxRecord)
	for {
		name := segmentName(writer, p.segment)
		data, err := fsys.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			name = path.Join(writerDir(writer), currentName)
			data, err = fsys.ReadFile(name)
			if errors.Is(err, fs.ErrNotExist) {
				return p, nil
			}
		}
		if err != nil {
			return p, err
		}
		p = p.walk(data, writer, buf)
		if p.fits(writer) || path.Base(name) == currentName {
			return p, nil // the last one, or it is damaged
		}
		p.segment, p.offset = p.segment+1, 0
	}
}
