package crash

import (
	"cmp"
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
func (p *pending) whole() lineBytes {
	b := p.old
	for i := range p.stores {
		p.stores[i].into(&b, 0xff)
	}
	return b
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
func (p *pending) random(rng *rand.Rand, bias int) lineBytes {
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
	return p.choose(n, some(), func(int) uint8 { return some() })
}

// variants is every different content that the line may have; nil when there
// are more ways than most to get there.
func (p *pending) variants(most int) []lineBytes {
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
	var out []lineBytes
	add := func(b lineBytes) {
		if !seen[b] {
			seen[b] = true
			out = append(out, b)
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

// state is a moment of the record.
//
// Invariant: base holds what is durable; every store that may be missing is in
// pending.
type state struct {
	base    [][]byte
	pending map[place]*pending
	touched map[place]bool
	order   []place // the lines of touched, in the order of their first store
}

// length is how long a line is: the last one of an area may be shorter.
func (s *state) length(at place) int64 {
	return min(lineSize, int64(len(s.base[at.area]))-at.off)
}

func (s *state) sorted() []*pending {
	var out []*pending
	for _, p := range s.pending {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *pending) int {
		return cmp.Or(cmp.Compare(a.at.area, b.at.area), cmp.Compare(a.at.off, b.at.off))
	})
	return out
}

// apply adds a store or a flush.
func (s *state) apply(e event) {
	for off := e.off / lineSize * lineSize; off < e.off+e.n; off += lineSize {
		at := place{e.area, off}
		if e.kind == flush {
			if p := s.pending[at]; p != nil {
				for i := range p.stores {
					p.stores[i].flushed = true
				}
			}
			continue
		}
		p := s.pending[at]
		if p == nil {
			p = &pending{at: at}
			copy(p.old[:], s.base[e.area][off:])
			s.pending[at] = p
			if !s.touched[at] {
				s.touched[at] = true
				s.order = append(s.order, at)
			}
		}
		st := store{kind: e.kind}
		for b := max(off, e.off); b < min(off+lineSize, e.off+e.n); b++ {
			st.data[b-off] = e.data[b-e.off]
			st.mask[(b-off)/wordSize] |= 1 << ((b - off) % wordSize)
		}
		p.stores = append(p.stores, st)
	}
}

// fence makes durable what it covers, and returns the lines that changed.
func (s *state) fence() (changed []place) {
	for at, p := range s.pending {
		if p.fence() {
			copy(s.base[at.area][at.off:], p.old[:s.length(at)])
			changed = append(changed, at)
		}
		if len(p.stores) == 0 {
			delete(s.pending, at)
		}
	}
	return changed
}

// fence makes streaming and flushed stores durable. What an earlier cached
// store, not flushed, has under a later durable one can never come back.
func (p *pending) fence() (changed bool) {
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
