package crash

import (
	"cmp"
	"maps"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// place is a line of an area.
type place struct {
	area int
	off  int64
}

type lineBytes [lineSize]byte

// store is the part of one recorded store in one line.
type store struct {
	kind    kind
	flushed bool     // a cached one whose line was flushed since
	mask    [8]uint8 // bytes that are stored, by word
	data    lineBytes
}

// words is the words that the store touches, as bits.
func (s *store) words() (w uint8) {
	for i, m := range s.mask {
		if m != 0 {
			w |= 1 << i
		}
	}
	return w
}

// into applies the store's words in choice.
func (s *store) into(b *lineBytes, choice uint8) {
	for i := range b {
		if choice>>(i/wordSize)&1 == 1 && s.mask[i/wordSize]>>(i%wordSize)&1 == 1 {
			b[i] = s.data[i]
		}
	}
}

// pending is a line with stores that are not known to be durable.
type pending struct {
	at     place
	old    lineBytes // what is durable
	stores []store   // in program order
}

// whole is the line with all stores.
func (p *pending) whole() []byte {
	b := p.old
	for i := range p.stores {
		p.stores[i].into(&b, 0xff)
	}
	return b[:]
}

// choose is the line with the first n cached stores, the words in part of the
// next one, and of the streaming ones what stream says.
func (p *pending) choose(n int, part uint8, stream func(i int) uint8) lineBytes {
	b := p.old
	for i := range p.stores {
		s := &p.stores[i]
		switch {
		case s.kind == streamed:
			s.into(&b, stream(i))
		case n > 0:
			s.into(&b, 0xff)
			n--
		case n == 0:
			s.into(&b, part)
			n--
		}
	}
	return b
}

func (p *pending) cached() (n int) {
	for i := range p.stores {
		if p.stores[i].kind == cached {
			n++
		}
	}
	return n
}

// random is the line with a random part of its stores; each arrived with a
// probability of bias sixteenths.
func (p *pending) random(rng *rand.Rand, bias int) []byte {
	some := func() (w uint8) {
		for i := range 8 {
			if rng.IntN(16) < bias {
				w |= 1 << i
			}
		}
		return w
	}
	n := p.cached()
	if rng.IntN(16) >= bias {
		n = rng.IntN(n + 1)
	}
	b := p.choose(n, some(), func(int) uint8 { return some() })
	return b[:]
}

func (p *pending) variants(most int) [][]byte {
	ways, parts := 1, 1
	for i := range p.stores {
		n := 1 << bits.OnesCount8(p.stores[i].words())
		if p.stores[i].kind == cached {
			parts += n
		} else if ways *= n; ways > most {
			return nil
		}
	}
	if ways*parts > most {
		return nil
	}
	seen := map[lineBytes]bool{}
	var out [][]byte
	add := func(b lineBytes) {
		if !seen[b] {
			seen[b] = true
			out = append(out, b[:])
		}
	}
	for way := range ways {
		p.eachPrefix(func(n int, part uint8) {
			rest := way
			add(p.choose(n, part, func(i int) uint8 {
				words := p.stores[i].words()
				choice := spread(rest, words)
				rest >>= bits.OnesCount8(words)
				return choice
			}))
		})
	}
	return out
}

// eachPrefix calls fn for each number of whole cached stores with each part of
// the next.
func (p *pending) eachPrefix(fn func(n int, part uint8)) {
	n := 0
	for i := range p.stores {
		if p.stores[i].kind != cached {
			continue
		}
		words := p.stores[i].words()
		for k := range 1 << bits.OnesCount8(words) {
			fn(n, spread(k, words))
		}
		n++
	}
	fn(n, 0)
}

// spread puts the low bits of k where words has ones.
func spread(k int, words uint8) (out uint8) {
	for i := range 8 {
		if words>>i&1 == 1 {
			out |= uint8(k&1) << i
			k >>= 1
		}
	}
	return out
}

// unit is the smallest part of an area that a power cut treats for itself,
// with stores that are not known to be durable.
type unit interface {
	place() place
	store(k kind, off int64, p []byte) // off is in the unit
	flush()
	// fence makes durable what a fence of an area covers, in before, and says
	// whether that changed; empty says that nothing is left.
	fence(area int) (changed bool)
	empty() bool

	before() []byte                               // what is durable
	whole() []byte                                // with all stores
	random(rng *rand.Rand, sixteenths int) []byte // with a random part of them
	// variants is every different content; nil: there are more ways than most
	// to get there.
	variants(most int) [][]byte
}

// state is a moment of the record.
//
// Invariant: base holds what is durable; every store that may be missing is in
// pending.
type state struct {
	base    [][]byte
	size    int64 // of a unit, in bytes
	make    func(at place, durable []byte) unit
	pending map[place]unit
	touched map[place]bool
	order   []place // the units of touched, in the order of their first store
}

// newState begins with what is durable in base, and changes that.
func newState(m Model, base [][]byte) *state {
	s := &state{base: base, size: lineSize, make: newLine, pending: map[place]unit{}, touched: map[place]bool{}}
	if m == PageCache {
		s.size, s.make = sectorSize, newSector
	}
	return s
}

// length is how long a unit is: the last one of an area may be shorter.
func (s *state) length(at place) int64 {
	return min(s.size, int64(len(s.base[at.area]))-at.off)
}

func (s *state) sorted() []unit {
	out := slices.Collect(maps.Values(s.pending))
	slices.SortFunc(out, func(a, b unit) int {
		return cmp.Or(cmp.Compare(a.place().area, b.place().area), cmp.Compare(a.place().off, b.place().off))
	})
	return out
}

// apply adds a store or a flush.
func (s *state) apply(e event) {
	for off := e.off / s.size * s.size; off < e.off+e.n; off += s.size {
		at := place{e.area, off}
		p := s.pending[at]
		if e.kind == flush {
			if p != nil {
				p.flush()
			}
			continue
		}
		if p == nil {
			p = s.make(at, s.base[e.area][off:][:s.length(at)])
			s.pending[at] = p
			if !s.touched[at] {
				s.touched[at] = true
				s.order = append(s.order, at)
			}
		}
		lo, hi := max(off, e.off), min(off+s.size, e.off+e.n)
		p.store(e.kind, lo-off, e.data[lo-e.off:hi-e.off])
	}
}

// fence makes durable what a fence of an area covers, and returns the units
// that changed.
func (s *state) fence(area int) (changed []place) {
	for at, p := range s.pending {
		if p.fence(area) {
			copy(s.base[at.area][at.off:][:s.length(at)], p.before())
			changed = append(changed, at)
		}
		if p.empty() {
			delete(s.pending, at)
		}
	}
	return changed
}

func newLine(at place, durable []byte) unit {
	p := &pending{at: at}
	copy(p.old[:], durable)
	return p
}

func (p *pending) place() place   { return p.at }
func (p *pending) before() []byte { return p.old[:] }
func (p *pending) empty() bool    { return len(p.stores) == 0 }

func (p *pending) store(k kind, off int64, data []byte) {
	s := store{kind: k}
	copy(s.data[off:], data)
	for b := off; b < off+int64(len(data)); b++ {
		s.mask[b/wordSize] |= 1 << (b % wordSize)
	}
	p.stores = append(p.stores, s)
}

func (p *pending) flush() {
	for i := range p.stores {
		p.stores[i].flushed = true
	}
}

// fence makes streaming and flushed stores durable. What an earlier cached
// store, not flushed, has under a later durable one can never come back.
func (p *pending) fence(int) (changed bool) {
	var left []store
	for i := range p.stores {
		st := p.stores[i]
		if st.kind == cached && !st.flushed {
			left = append(left, st)
			continue
		}
		st.into(&p.old, 0xff)
		for k := range left {
			for w := range st.mask {
				left[k].mask[w] &^= st.mask[w]
			}
		}
		changed = true
	}
	p.stores = slices.DeleteFunc(left, func(st store) bool { return st.words() == 0 })
	return changed
}
