package grant

// Adopt records what a client of an owner before this one has of a mapping: as much access to all of it as it may
// have, to blocks or to zeros, and a seal if it is sealed. No limit is in its way: the client has all that. It is for
// mappings that were just made by Map, before anything is broken.
func (m *Mapping) Adopt(writable, sealed bool) {
	t := m.table
	t.mu.Lock()
	defer t.mu.Unlock()
	has := state{access: Read, zeros: true}
	if writable {
		has.access = Write
	}
	m.setRange(m.first, m.first+m.count, func(state) state { return has })
	if sealed && !m.sealed {
		m.seal()
	}
}

// AdoptPin is Pin of a run that a client of an owner before this one has pinned. The run must be inside the mapping
// (panic).
func (m *Mapping) AdoptPin(first, count int64) {
	m.check(first, count)
	m.table.mu.Lock()
	defer m.table.mu.Unlock()
	m.pin(Run{first, count})
}
