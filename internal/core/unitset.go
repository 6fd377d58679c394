package core

import (
	"errors"
	"math/bits"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// unitSet is a set of units: a bitmap whose empty parts take no memory.
type unitSet struct {
	groups []*[layout.GroupUnits / layout.ChunkUnits]alloc.Line
}

func newUnitSet(units int64) *unitSet {
	return &unitSet{make([]*[layout.GroupUnits / layout.ChunkUnits]alloc.Line, (units+layout.GroupUnits-1)/layout.GroupUnits)}
}

// line returns a chunk's bits, nil when none was ever set.
func (s *unitSet) line(chunk int64) *alloc.Line {
	const perGroup = layout.GroupUnits / layout.ChunkUnits
	if g := s.groups[chunk/perGroup]; g != nil {
		return &g[chunk%perGroup]
	}
	return nil
}

// add adds units, which are in range, and returns the first that was in the
// set already, -1 when none was.
func (s *unitSet) add(first, count int64) (twice int64) {
	const perGroup = layout.GroupUnits / layout.ChunkUnits
	twice = -1
	for unit := first; unit < first+count; {
		chunk := unit / layout.ChunkUnits
		g := &s.groups[chunk/perGroup]
		if *g == nil {
			*g = new([perGroup]alloc.Line)
		}
		at := unit % layout.ChunkUnits
		n := min(64-at%64, first+count-unit)
		word := &(*g)[chunk%perGroup][at/64]
		m := ^uint64(0) >> (64 - n) << (at % 64)
		if *word&m != 0 && twice < 0 {
			twice = unit
		}
		*word |= m
		unit += n
	}
	return twice
}

// runs calls fn for the maximal runs of units in the set, ascending, until it
// returns an error, which it returns.
func (s *unitSet) runs(fn func(alloc.Run) error) error {
	var run alloc.Run
	for g, group := range s.groups {
		for chunk := 0; group != nil && chunk < len(group); chunk++ {
			for w, word := range group[chunk] {
				base := int64(g)*layout.GroupUnits + int64(chunk)*layout.ChunkUnits + int64(w)*64
				for word != 0 {
					at := bits.TrailingZeros64(word)
					n := bits.TrailingZeros64(^(word >> at))
					if word &^= (1<<n - 1) << at; run.Count > 0 && run.End() == base+int64(at) {
						run.Count += int64(n)
						continue
					}
					if run.Count > 0 {
						if err := fn(run); err != nil {
							return err
						}
					}
					run = alloc.Run{First: base + int64(at), Count: int64(n)}
				}
			}
		}
	}
	if run.Count == 0 {
		return nil
	}
	return fn(run)
}

// first returns the first unit in the set, -1: it is empty.
func (s *unitSet) first() int64 {
	first := int64(-1)
	s.runs(func(r alloc.Run) error {
		first = r.First
		return errFound
	})
	return first
}

var errFound = errors.New("found")

// common returns the first unit that is in both sets, -1: there is none. They are
// of as many units.
func (s *unitSet) common(t *unitSet) int64 {
	for g := range s.groups {
		for chunk := 0; s.groups[g] != nil && t.groups[g] != nil && chunk < len(s.groups[g]); chunk++ {
			for w := range s.groups[g][chunk] {
				if word := s.groups[g][chunk][w] & t.groups[g][chunk][w]; word != 0 {
					return int64(g)*layout.GroupUnits + int64(chunk)*layout.ChunkUnits + int64(w*64+bits.TrailingZeros64(word))
				}
			}
		}
	}
	return -1
}
