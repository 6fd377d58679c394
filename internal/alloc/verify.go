package alloc

import (
	"encoding/binary"
	"math/bits"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// Line is the bits of one chunk, unit 0 in bit 0 of word 0.
type Line = line

// Verify compares the three levels of the bitmap with each other and reports
// every difference as a CorruptError. For each chunk, in order, it calls fn
// with the bits as they stand, right or wrong, until fn returns an error,
// which it returns. Nothing may change meanwhile.
func (b *Bitmap) Verify(report func(error), fn func(chunk int64, l *Line) error) error {
	const perGroup = layout.GroupUnits / layout.ChunkUnits
	chunks := b.regions.Units / layout.ChunkUnits
	for g := int64(0); g*perGroup < chunks; g++ {
		used, err := b.group(b.journal.View, g)
		if err != nil {
			report(err)
		}
		var total int64
		for chunk := g * perGroup; chunk < min((g+1)*perGroup, chunks); chunk++ {
			l, ones := b.verifyChunk(chunk, report)
			total += ones
			if err := fn(chunk, &l); err != nil {
				return err
			}
		}
		if err == nil && total != used {
			report(layout.Corrupt(b.name+" group count", b.regions.Groups.Offset+g*layout.WordSize,
				"%d units used, %d bits are set", used, total))
		}
	}
	return nil
}

// verifyChunk reports what is wrong with a chunk's word and its line.
func (b *Bitmap) verifyChunk(chunk int64, report func(error)) (line, int64) {
	var l line
	raw := b.journal.View(b.regions.Bits.Offset+chunk*lineBytes, lineBytes)
	ones := 0
	for i := range l {
		l[i] = binary.LittleEndian.Uint64(raw[i*8:])
		ones += bits.OnesCount64(l[i])
	}
	_, used, err := b.line(b.journal.View, chunk)
	switch {
	case err != nil:
		report(err)
	case used != int64(ones):
		report(layout.Corrupt(b.name+" chunk count", b.regions.Chunks.Offset+chunk*layout.WordSize,
			"%d units used, %d bits are set", used, ones))
	}
	return l, int64(ones)
}
