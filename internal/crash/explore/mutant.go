package explore

import (
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// Mutant is a fault.
type Mutant struct {
	Name     string
	Recovery func(sb *layout.Superblock, meta []byte)
}

func findMutant(string) *Mutant { return nil }

func (m *Mutant) areas(sb *layout.Superblock, meta, data medium.Area) (medium.Area, medium.Area) {
	return meta, data
}
func (m *Mutant) recovered(sb *layout.Superblock, areas []medium.Area) []medium.Area { return areas }
