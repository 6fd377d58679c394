package grant

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
)

// Table records every grant and pin of a file system.
//
// Invariants, whenever mu is free:
//   - A mapping that is not unmapped is in exactly one file's mappings, at its range; an unmapped one is in none, and has
//     neither runs nor pins. A file without mappings is not in files.
//   - The runs of a mapping are inside its range, do not overlap, and never touch with the same state: they are as few
//     as can be. No run has access None; a run of zeros has at least Read.
//   - Whatever access a client has to a block of a file, the table has a run that covers it with that access or more.
//     (It may have more: see state.) Runs leave the table only after TakeBack has succeeded or the mapping is unmapped.
//   - A pin of a mapping is in its file's pins once, however often it was taken; its count is in the mapping's pins. A
//     seal is in its file's pins, too, with the mapping's own id.
//   - holdings has what each client has now, for clients that have something.
type Table struct {
	limits Limits // immutable

	mu       sync.Mutex
	files    map[uint64]*file // protected by mu, and so is everything below
	holdings map[Client]*holding
	lastID   uint64
	breaks   int64
}

// Limits bound what one client may have, so that none can use up the owner's memory or keep everything where it is. 0: no
// limit.
type Limits struct {
	Grants       int64 // runs
	PinnedBlocks int64 // each pin counts, however often the same run is pinned
	SealedBlocks int64
}

// file is what is recorded of one file. Protected by Table.mu.
type file struct {
	mappings tree[*Mapping]
	pins     tree[*Mapping]
}

// holding is what one client has. Protected by Table.mu.
type holding struct {
	mappings, grants, blocks int64
	pins, pinnedBlocks       int64
	seals, sealedBlocks      int64
}

// state is what a client may have over a run.
//
// Answers to faults reach a client in an unknown order: a read answer given after a write answer may be mapped before
// it. So states only grow, by Grant, and shrink, by Break, which waits for answers under way; they are never replaced.
type state struct {
	access Access
	zeros  bool // the client may have mapped zeros, not the file's blocks
}

// Mapping is a range of a file mapped into a client.
type Mapping struct {
	table        *Table
	client       Client
	handle       uint32 // for errors
	file         uint64
	first, count int64  // in blocks of the file
	address      uint64 // of block first
	id           uint64

	// Protected by Table.mu.
	unmapped bool
	sealed   bool
	held     *holding // of the client
	runs     tree[state]
	pins     map[Run]pin
}

// Run is a run of blocks of a file.
type Run struct{ First, Count int64 }

// pin is how often a run is pinned, and its key in the file's pins.
type pin struct {
	taken int
	id    uint64
}

// NewTable returns an empty table.
func NewTable(l Limits) *Table {
	return &Table{limits: l, files: make(map[uint64]*file), holdings: make(map[Client]*holding)}
}

// Map records that the client has mapped count blocks of the file, from block first on, at address (bytes, a multiple of
// BlockSize), by a handle that errors name. Nothing is granted yet. Numbers that are not possible panic: the caller has
// checked what a client said.
func (t *Table) Map(c Client, ino uint64, first, count int64, address uint64, handle uint32) *Mapping {
	if first < 0 || count <= 0 || first >= math.MaxInt64-count || address%BlockSize != 0 ||
		uint64(count) > (math.MaxUint64-address)/BlockSize {
		panic(fmt.Sprintf("grant: mapping of %d blocks from %d at address %#x", count, first, address))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.holdings[c]
	if h == nil {
		h = new(holding)
		t.holdings[c] = h
	}
	h.mappings++
	m := &Mapping{
		table: t, client: c, handle: handle, file: ino, first: first, count: count, address: address,
		id: t.newID(), held: h, pins: make(map[Run]pin),
	}
	f := t.files[ino]
	if f == nil {
		f = new(file)
		t.files[ino] = f
	}
	f.mappings.insert(first, first+count, m.id, m)
	return m
}

// newID returns a number that was never used. Needs mu.
func (t *Table) newID() uint64 {
	t.lastID++
	return t.lastID
}

// Unmap forgets the mapping, its grants and its pins. The client has unmapped it and will not act upon answers that are
// still under way, or is dead. Unmapping again does nothing.
func (t *Table) Unmap(m *Mapping) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.unmapped {
		return
	}
	m.setRange(m.first, m.first+m.count, func(state) state { return state{} })
	f := t.files[m.file]
	for r, p := range m.pins {
		f.pins.remove(r.First, p.id)
		m.held.pins--
		m.held.pinnedBlocks -= r.Count * int64(p.taken)
	}
	clear(m.pins)
	if m.sealed {
		f.pins.remove(m.first, m.id)
		m.held.seals--
		m.held.sealedBlocks -= m.count
	}
	f.mappings.remove(m.first, m.id)
	if f.mappings.size == 0 {
		delete(t.files, m.file)
	}
	if m.held.mappings--; m.held.mappings == 0 {
		delete(t.holdings, m.client)
	}
	m.unmapped = true
}

// Client is who has mapped.
func (m *Mapping) Client() Client { return m.client }

// File is the inode number of the file.
func (m *Mapping) File() uint64 { return m.file }

// Range is what is mapped, in blocks of the file.
func (m *Mapping) Range() (first, count int64) { return m.first, m.count }

// Address is where block first of Range is mapped, in bytes.
func (m *Mapping) Address() uint64 { return m.address }

// Grant records that the client is about to get access a, Read or Write, to a run of blocks of the file. It is called
// before the answer is visible to the client, under the inode's lock. The run must be inside the mapping (panic).
//
// It fails with ErrUnmapped if the mapping has been unmapped meanwhile: then the client must not get the access.
func (m *Mapping) Grant(first, count int64, a Access) error {
	return m.grant(first, count, state{access: a})
}

// GrantZero is Grant of Read to zeros that stand for a hole. It is a Read grant in every respect; in addition BreakZero
// takes it back.
func (m *Mapping) GrantZero(first, count int64) error {
	return m.grant(first, count, state{access: Read, zeros: true})
}

func (m *Mapping) grant(first, count int64, s state) error {
	m.check(first, count)
	if s.access != Read && s.access != Write {
		panic("grant: grant of access " + s.access.String())
	}
	m.table.mu.Lock()
	defer m.table.mu.Unlock()
	if m.unmapped {
		return ErrUnmapped
	}
	after := func(old state) state {
		return state{access: max(old.access, s.access), zeros: old.zeros || s.zeros}
	}
	if err := m.within("grants", m.held.grants, 1, m.table.limits.Grants); err != nil && !m.has(first, first+count, after) {
		return err
	}
	m.setRange(first, first+count, after)
	return nil
}

// has says whether after changes nothing about [first, end): a fault in what was granted already. Needs mu.
func (m *Mapping) has(first, end int64, after func(state) state) bool {
	n := m.runs.any(first, end)
	return n != nil && n.first <= first && n.end >= end && after(n.value) == n.value
}

// within checks a limit of the mapping's client. Needs mu.
func (m *Mapping) within(what string, have, more, limit int64) error {
	if limit > 0 && more > limit-have {
		return &LimitError{PID: pidOf(m.client), What: what, Have: have, More: more, Limit: limit}
	}
	return nil
}

func (m *Mapping) check(first, count int64) {
	if count <= 0 || first < m.first || first > m.first+m.count-count {
		panic(fmt.Sprintf("grant: run of %d blocks from %d in a mapping of %d from %d", count, first, m.count, m.first))
	}
}

// Seal makes every break that touches the mapping fail until Unmap. It grants nothing: under the same hold of the inode's
// lock the caller has made sure that nothing needs to be done before any of the blocks can be granted. It fails with
// ErrUnmapped or a *LimitError. A second Seal does nothing.
func (m *Mapping) Seal() error {
	t := m.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.unmapped {
		return ErrUnmapped
	}
	if m.sealed {
		return nil
	}
	if err := m.within("sealed blocks", m.held.sealedBlocks, m.count, t.limits.SealedBlocks); err != nil {
		return err
	}
	m.seal()
	return nil
}

// seal is Seal of a mapping that is not sealed. Needs Table.mu.
func (m *Mapping) seal() {
	m.table.files[m.file].pins.insert(m.first, m.first+m.count, m.id, m)
	m.sealed = true
	m.held.seals++
	m.held.sealedBlocks += m.count
}

// Pin seals a run of blocks of the file until Unpin or Unmap: until then every break that touches it fails. A run may be
// pinned several times, and pins may overlap. Like Seal it grants nothing and is called under the inode's lock. The run
// must be inside the mapping (panic). It fails with ErrUnmapped or a *LimitError.
func (m *Mapping) Pin(first, count int64) error {
	m.check(first, count)
	t := m.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.unmapped {
		return ErrUnmapped
	}
	if err := m.within("pinned blocks", m.held.pinnedBlocks, count, t.limits.PinnedBlocks); err != nil {
		return err
	}
	m.pin(Run{first, count})
	return nil
}

// pin is Pin without its checks. Needs Table.mu.
func (m *Mapping) pin(r Run) {
	p := m.pins[r]
	if p.taken == 0 {
		p.id = m.table.newID()
		m.table.files[m.file].pins.insert(r.First, r.First+r.Count, p.id, m)
		m.held.pins++
	}
	m.held.pinnedBlocks += r.Count
	p.taken++
	m.pins[r] = p
}

// Unpin takes one Pin of exactly this run back. It fails with ErrUnmapped if there is none.
func (m *Mapping) Unpin(first, count int64) error {
	t := m.table
	t.mu.Lock()
	defer t.mu.Unlock()
	r := Run{first, count}
	p := m.pins[r]
	switch p.taken {
	case 0:
		return ErrUnmapped
	case 1:
		t.files[m.file].pins.remove(first, p.id)
		delete(m.pins, r)
		m.held.pins--
	default:
		p.taken--
		m.pins[r] = p
	}
	m.held.pinnedBlocks -= count
	return nil
}

// Sealed returns the *SealedError with which a break of the run would fail at once, nil if there is no seal or pin.
func (t *Table) Sealed(ino uint64, first, count int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.files[ino]; f != nil {
		return f.sealed(first, endOf(first, count))
	}
	return nil
}

// sealed is Sealed for a range. Needs Table.mu.
func (f *file) sealed(first, end int64) error {
	n := f.pins.any(first, end)
	if n == nil {
		return nil
	}
	m := n.value
	return &SealedError{
		PID: pidOf(m.client), Handle: m.handle, File: m.file, First: n.first, Count: n.end - n.first,
		Address: m.addressOf(n.first), Pin: n.id != m.id,
	}
}

// Writable calls fn for the runs of a part of the file to which clients may store, mapping by mapping. It must not call
// the table.
func (t *Table) Writable(ino uint64, first, count int64, fn func(first, count int64)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.files[ino]
	if f == nil {
		return
	}
	end := endOf(first, count)
	for n := range f.mappings.overlapping(first, end) {
		for r := range n.value.runs.overlapping(first, end) {
			if r.value.access == Write {
				lo, hi := max(r.first, first), min(r.end, end)
				fn(lo, hi-lo)
			}
		}
	}
}

// endOf is where a run ends. "To the end of the file" may be said by any large count.
func endOf(first, count int64) int64 { return first + min(count, math.MaxInt64-first) }

// Break takes back what clients may do with runs of blocks of the file, until they have at most the access given: all
// of it (None), or the right to store (Read; clients that can only load keep what they have). Clients are asked in
// parallel, each once; it returns when all have answered. The runs do not overlap.
//
// If any part of a run is pinned it fails at once with a *SealedError, and nobody is asked. If clients fail, the error
// has a *BreakError for each: their grants stay recorded, as they were; those of the others are forgotten (or reduced to
// Read). A client that is unmapped meanwhile has given everything back, whatever it answers.
//
// The caller holds the inode's lock from before the break until the blocks have changed.
func (t *Table) Break(ino uint64, to Access, runs ...Run) error {
	return t.takeBack(ino, to, runs, func(s state) state {
		s.access = min(s.access, to)
		s.zeros = s.zeros && to != None
		return s
	})
}

// BreakZero is Break to None of those grants alone that were made by GrantZero: for an allocation in a hole, which
// leaves the blocks around it where they are. Grants of blocks that the client may show as zeros as well (GrantZero and
// then Grant, without a break between) are taken back too.
func (t *Table) BreakZero(ino uint64, runs ...Run) error {
	return t.takeBack(ino, None, runs, func(s state) state {
		if s.zeros {
			return state{}
		}
		return s
	})
}

// demand is what one client is to give back.
type demand struct {
	client Client
	parts  []part
	err    error // TakeBack's answer
}

// part is a run of one mapping.
type part struct {
	m          *Mapping
	first, end int64
}

// takeBack makes every state over the runs what after makes of it, having asked the clients for which that is a change.
func (t *Table) takeBack(ino uint64, to Access, runs []Run, after func(state) state) error {
	for _, r := range runs {
		if r.First < 0 || r.Count < 0 {
			panic(fmt.Sprintf("grant: break of %d blocks from %d", r.Count, r.First))
		}
	}
	demands, err := t.demands(ino, runs, after)
	if err != nil {
		return err
	}
	ask(demands, to)

	t.mu.Lock()
	defer t.mu.Unlock()
	var failed []error
	for _, d := range demands {
		if d.err != nil {
			if slices.ContainsFunc(d.parts, func(p part) bool { return !p.m.unmapped }) {
				failed = append(failed, &BreakError{Client: d.client, PID: pidOf(d.client), Err: d.err})
			}
			continue
		}
		for _, p := range d.parts {
			p.m.setRange(p.first, p.end, after)
		}
	}
	return errors.Join(failed...)
}

// demands finds what must be asked of whom, in the order of the clients' first mappings.
func (t *Table) demands(ino uint64, runs []Run, after func(state) state) ([]*demand, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.files[ino]
	if f == nil {
		return nil, nil
	}
	for _, r := range runs {
		if err := f.sealed(r.First, endOf(r.First, r.Count)); err != nil {
			return nil, err
		}
	}
	var demands []*demand
	of := make(map[Client]*demand)
	for _, r := range runs {
		end := endOf(r.First, r.Count)
		for n := range f.mappings.overlapping(r.First, end) {
			m := n.value
			for granted := range m.runs.overlapping(r.First, end) {
				if after(granted.value) == granted.value {
					continue
				}
				d := of[m.client]
				if d == nil {
					d = &demand{client: m.client}
					of[m.client] = d
					demands = append(demands, d)
				}
				d.parts = append(d.parts, part{m, max(granted.first, r.First), min(granted.end, end)})
			}
		}
	}
	t.breaks += int64(len(demands))
	return demands, nil
}

// ask calls TakeBack of all clients in parallel and waits for the answers.
func ask(demands []*demand, to Access) {
	var wg sync.WaitGroup
	for i, d := range demands {
		one := func() { d.err = d.client.TakeBack(d.addresses(), to) }
		if i == len(demands)-1 {
			one() // the last one here: most breaks have but one client, and need no goroutine
		} else {
			wg.Go(one)
		}
	}
	wg.Wait()
}

// addresses returns the runs of address space of the parts, ascending, joined where they touch or overlap.
func (d *demand) addresses() []AddressRun {
	all := make([]AddressRun, len(d.parts))
	for i, p := range d.parts {
		all[i] = AddressRun{Address: p.m.addressOf(p.first), Length: uint64(p.end-p.first) * BlockSize}
	}
	slices.SortFunc(all, func(a, b AddressRun) int {
		if a.Address < b.Address {
			return -1
		}
		return 1
	})
	joined := all[:1]
	for _, r := range all[1:] {
		last := &joined[len(joined)-1]
		if r.Address <= last.Address+last.Length {
			last.Length = max(last.Length, r.Address+r.Length-last.Address)
		} else {
			joined = append(joined, r)
		}
	}
	return joined
}

func (m *Mapping) addressOf(block int64) uint64 {
	return m.address + uint64(block-m.first)*BlockSize
}

// setRange makes every state in [first, end) what f makes of it, state{} where there is no run, and joins runs that
// become alike. Needs mu. It does nothing to an unmapped mapping.
func (m *Mapping) setRange(first, end int64, f func(state) state) {
	if m.unmapped {
		return
	}
	var old []node[state] // with what touches at either side, which may be joined to it
	for n := range m.runs.overlapping(first-1, end+1) {
		if n.first <= first && n.end >= end && f(n.value) == n.value {
			return // a fault in what was granted already, by two threads at once, say
		}
		old = append(old, node[state]{first: n.first, end: n.end, value: n.value})
	}
	var runs joiner
	at := first // up to here [first, end) is done
	for _, n := range old {
		runs.add(n.first, min(n.end, first), n.value)
		if inside, insideEnd := max(n.first, first), min(n.end, end); inside < insideEnd {
			runs.add(at, inside, f(state{}))
			runs.add(inside, insideEnd, f(n.value))
			at = insideEnd
		}
		if n.end > end {
			runs.add(at, end, f(state{}))
			at = end
			runs.add(max(n.first, end), n.end, n.value)
		}
	}
	runs.add(at, end, f(state{}))
	m.exchange(old, runs)
}

// joiner collects runs in ascending order and joins those that touch and are alike.
type joiner []node[state]

func (j *joiner) add(first, end int64, s state) {
	if first >= end || s.access == None {
		return
	}
	if n := len(*j); n > 0 && (*j)[n-1].end == first && (*j)[n-1].value == s {
		(*j)[n-1].end = end
		return
	}
	*j = append(*j, node[state]{first: first, end: end, value: s})
}

// exchange replaces runs and keeps the client's sums.
func (m *Mapping) exchange(old, runs []node[state]) {
	for _, n := range old {
		m.runs.remove(n.first, 0)
		m.held.grants--
		m.held.blocks -= n.end - n.first
	}
	for _, n := range runs {
		m.runs.insert(n.first, n.end, 0, n.value)
		m.held.grants++
		m.held.blocks += n.end - n.first
	}
}
