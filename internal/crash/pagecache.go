package crash

import (
	"math/rand/v2"
	"slices"
)

// Model is what a medium promises. One record can be looked at with both.
type Model uint8

const (
	// CPUCache is memory behind the CPU's caches, as the package describes.
	CPUCache Model = iota
	// PageCache is a file in the kernel's page cache, on a disk:
	//
	//   - A page that was stored to may be written back at any time, and again
	//     and again. What the disk has then is the page as it was at any
	//     instant since its area's last fence.
	//   - The disk writes sectors of 512 bytes, each for itself and in any
	//     order: so each sector of a page is as it was at another instant.
	//   - An instant may lie inside a store: of the words of one store any
	//     are there then, because nobody says in which order they are copied.
	//     An aligned 8-byte word is old or new.
	//   - Streaming stores are like any other: they go to the page cache.
	//   - Flush does nothing. A fence is an fdatasync of its own area's file;
	//     it makes all that was stored there before durable, and nothing of
	//     the other areas.
	//
	// What is not in it: a disk that reads a sector's memory while it changes
	// and gets the parts of two instants, which systems with stable pages rule
	// out.
	PageCache
)

const sectorSize = 512

// sector is a sector of a page with stores that no fence has covered: the page
// is dirty, or on its way to the disk.
type sector struct {
	at     place
	old    []byte        // what is durable
	stores []sectorStore // in program order
}

// sectorStore is the part of one store in one sector.
type sectorStore struct {
	off  int64 // in the sector
	data []byte
}

func newSector(at place, durable []byte) unit { return &sector{at: at, old: slices.Clone(durable)} }

func (p *sector) place() place   { return p.at }
func (p *sector) before() []byte { return p.old }
func (p *sector) empty() bool    { return len(p.stores) == 0 }
func (p *sector) flush()         {}

func (p *sector) store(_ kind, off int64, data []byte) {
	p.stores = append(p.stores, sectorStore{off, data})
}

// fence is an fdatasync of one area's file.
func (p *sector) fence(area int) bool {
	if area != p.at.area {
		return false
	}
	p.old, p.stores = p.whole(), nil
	return true
}

// words is how many words the store touches.
func (s *sectorStore) words() int {
	return int((s.off+int64(len(s.data))+wordSize-1)/wordSize - s.off/wordSize)
}

// into applies those of the store's words that choice has bits for.
func (s *sectorStore) into(b []byte, choice uint64) {
	for i, v := range s.data {
		at := s.off + int64(i)
		if choice>>(at/wordSize-s.off/wordSize)&1 == 1 {
			b[at] = v
		}
	}
}

// instant is the sector with the first n stores, and of the words of the next
// those that part has bits for.
func (p *sector) instant(n int, part uint64) []byte {
	b := slices.Clone(p.old)
	for i := range p.stores[:n] {
		copy(b[p.stores[i].off:], p.stores[i].data)
	}
	if n < len(p.stores) {
		p.stores[n].into(b, part)
	}
	return b
}

func (p *sector) whole() []byte { return p.instant(len(p.stores), 0) }

// random is the sector at a random instant, with a probability of bias
// sixteenths the last one. Half of the others lie between two stores.
func (p *sector) random(rng *rand.Rand, bias int) []byte {
	if rng.IntN(16) < bias {
		return p.whole()
	}
	n, part := rng.IntN(len(p.stores)+1), uint64(0)
	if rng.IntN(2) == 0 {
		part = rng.Uint64()
	}
	return p.instant(n, part)
}

// variants is the sector at every instant.
func (p *sector) variants(most int) [][]byte {
	ways := 1
	for i := range p.stores {
		n := p.stores[i].words()
		if n >= 16 || ways+1<<n > most {
			return nil
		}
		ways += 1 << n
	}
	seen := map[string]bool{}
	var out [][]byte
	for n := range len(p.stores) + 1 {
		parts := uint64(1) // after the last store there is no next
		if n < len(p.stores) {
			parts = 1 << p.stores[n].words()
		}
		for k := range parts {
			b := p.instant(n, k)
			if !seen[string(b)] {
				seen[string(b)] = true
				out = append(out, b)
			}
		}
	}
	return out
}
