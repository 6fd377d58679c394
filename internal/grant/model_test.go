package grant

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// checkTree checks the invariants of a tree and returns how many intervals it has.
func checkTree[V any](n *node[V]) (count int, err error) {
	if n == nil {
		return 0, nil
	}
	if n.first >= n.end {
		return 0, fmt.Errorf("empty interval [%d, %d)", n.first, n.end)
	}
	count, maxEnd := 1, n.end
	for _, child := range []*node[V]{n.left, n.right} {
		if child == nil {
			continue
		}
		if child.priority > n.priority {
			return 0, fmt.Errorf("a child of %d has a higher priority", n.first)
		}
		if child.before(n.first, n.id) != (child == n.left) {
			return 0, fmt.Errorf("%d is on the wrong side of %d", child.first, n.first)
		}
		maxEnd = max(maxEnd, child.maxEnd)
		below, err := checkTree(child)
		if err != nil {
			return 0, err
		}
		count += below
	}
	if n.maxEnd != maxEnd {
		return 0, fmt.Errorf("%d: maxEnd is %d, not %d", n.first, n.maxEnd, maxEnd)
	}
	return count, nil
}

func TestTree(t *testing.T) {
	type key struct {
		first, end int64
		id         uint64
	}
	rapid.Check(t, func(t *rapid.T) {
		var tr tree[int]
		model := make(map[key]int)
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			first := rapid.Int64Range(0, 40).Draw(t, "first")
			end := first + rapid.Int64Range(1, 20).Draw(t, "length")
			switch rapid.SampledFrom([]string{"insert", "remove", "find"}).Draw(t, "step") {
			case "insert":
				tr.insert(first, end, uint64(step), step)
				model[key{first, end, uint64(step)}] = step
			case "remove":
				id := rapid.Uint64Range(0, uint64(step)).Draw(t, "id")
				had := false
				for k := range model {
					if k.first == first && k.id == id {
						delete(model, k)
						had = true
					}
				}
				if tr.remove(first, id) != had {
					t.Fatalf("remove of (%d, %d), which was there: %v", first, id, had)
				}
			case "find":
				if rapid.IntRange(0, 9).Draw(t, "nothing") == 0 {
					end = first
				}
				var want, got []int
				for k, v := range model {
					if k.first < end && k.end > first && first < end {
						want = append(want, v)
					}
				}
				var lastFirst int64 = -1
				for n := range tr.overlapping(first, end) {
					if n.first < lastFirst {
						t.Fatalf("%d comes after %d", n.first, lastFirst)
					}
					lastFirst = n.first
					got = append(got, n.value)
				}
				slices.Sort(want)
				slices.Sort(got)
				if !slices.Equal(got, want) || (tr.any(first, end) != nil) != (len(want) > 0) {
					t.Fatalf("in [%d, %d): %v, want %v", first, end, got, want)
				}
			}
			if n, err := checkTree(tr.root); err != nil || n != len(model) || tr.size != n {
				t.Fatalf("%d intervals, size %d, want %d: %v", n, tr.size, len(model), err)
			}
		}
	})
}

// TestTreeIsShallow: ascending insertions, which degenerate a plain search tree, are what sequential access makes.
func TestTreeIsShallow(t *testing.T) {
	const n = 1 << 16
	var tr tree[int]
	for i := range int64(n) {
		tr.insert(2*i, 2*i+1, 0, 0)
	}
	var depth func(*node[int]) int
	depth = func(n *node[int]) int {
		if n == nil {
			return 0
		}
		return 1 + max(depth(n.left), depth(n.right))
	}
	// The depth of a treap is below 4 log2 n but for a chance of about n to the power of -4.
	if d := depth(tr.root); d > 4*16 {
		t.Errorf("%d intervals, depth %d", n, d)
	}
}

// The model keeps a state for each block of each mapping, and nothing else.
type modelMapping struct {
	m      *Mapping
	client *fakeClient
	states map[int64]state
	pins   []Run
	sealed bool
}

type model struct {
	table    *Table
	clients  []*fakeClient
	mappings []*modelMapping
	breaks   int64
}

const modelFile = 3 // file 4 is another one, to which nothing may leak

func (mo *model) mapSome(t *rapid.T) {
	first := rapid.Int64Range(0, 20).Draw(t, "first")
	count := rapid.Int64Range(1, 40).Draw(t, "count")
	c := rapid.SampledFrom(mo.clients).Draw(t, "client")
	ino := rapid.SampledFrom([]uint64{modelFile, modelFile, modelFile, modelFile + 1}).Draw(t, "file")
	m := mo.table.Map(c, ino, first, count, uint64(mo.table.lastID+1)<<32, 3)
	mo.mappings = append(mo.mappings, &modelMapping{m: m, client: c, states: make(map[int64]state)})
}

func (mo *model) pick(t *rapid.T) (mm *modelMapping, first, count int64) {
	if len(mo.mappings) == 0 {
		t.Skip("nothing is mapped")
	}
	mm = rapid.SampledFrom(mo.mappings).Draw(t, "mapping")
	first = rapid.Int64Range(mm.m.first, mm.m.first+mm.m.count-1).Draw(t, "first")
	return mm, first, rapid.Int64Range(1, mm.m.first+mm.m.count-first).Draw(t, "count")
}

func (mo *model) unmap(t *rapid.T) {
	mm, _, _ := mo.pick(t)
	mo.table.Unmap(mm.m)
	mo.mappings = slices.DeleteFunc(mo.mappings, func(x *modelMapping) bool { return x == mm })
}

func (mo *model) grant(t *rapid.T) {
	mm, first, count := mo.pick(t)
	s := rapid.SampledFrom([]state{{access: Read}, {access: Write}, {access: Read, zeros: true}}).Draw(t, "state")
	var err error
	if s.zeros {
		err = mm.m.GrantZero(first, count)
	} else {
		err = mm.m.Grant(first, count, s.access)
	}
	if err != nil {
		t.Fatal(err)
	}
	for b := first; b < first+count; b++ {
		old := mm.states[b]
		mm.states[b] = state{max(old.access, s.access), old.zeros || s.zeros}
	}
}

func (mo *model) pin(t *rapid.T) {
	mm, first, count := mo.pick(t)
	if err := mm.m.Pin(first, count); err != nil {
		t.Fatal(err)
	}
	mm.pins = append(mm.pins, Run{first, count})
}

func (mo *model) seal(t *rapid.T) {
	mm, _, _ := mo.pick(t)
	if err := mm.m.Seal(); err != nil {
		t.Fatal(err)
	}
	mm.sealed = true
}

func (mo *model) unpin(t *rapid.T) {
	mm, first, count := mo.pick(t)
	r := Run{first, count}
	if len(mm.pins) > 0 && rapid.Bool().Draw(t, "there is one") {
		r = rapid.SampledFrom(mm.pins).Draw(t, "pin")
	}
	i := slices.Index(mm.pins, r)
	if err := mm.m.Unpin(r.First, r.Count); (err == nil) != (i >= 0) {
		t.Fatalf("unpin of %v, pins %v: %v", r, mm.pins, err)
	}
	if i >= 0 {
		mm.pins = slices.Delete(mm.pins, i, i+1)
	}
}

// demand is what one client must give back: pages of its address space.
func (mo *model) demand(first, end int64, after func(state) state) map[*fakeClient]map[uint64]bool {
	all := make(map[*fakeClient]map[uint64]bool)
	for _, mm := range mo.mappings {
		for b, s := range mm.states {
			if mm.m.file != modelFile || b < first || b >= end || after(s) == s {
				continue
			}
			if all[mm.client] == nil {
				all[mm.client] = make(map[uint64]bool)
			}
			all[mm.client][mm.m.address+uint64(b-mm.m.first)*BlockSize] = true
		}
	}
	return all
}

func (mo *model) breakRun(t *rapid.T) {
	first := rapid.Int64Range(0, 70).Draw(t, "first")
	count := rapid.Int64Range(0, 70).Draw(t, "count")
	end := first + count
	to, after := None, func(state) state { return state{} }
	call := func() error { return mo.table.Break(modelFile, to, Run{first, count}) }
	switch rapid.SampledFrom([]string{"none", "read", "zeros"}).Draw(t, "break") {
	case "read":
		to, after = Read, func(s state) state { return state{min(s.access, Read), s.zeros} }
	case "zeros":
		call = func() error { return mo.table.BreakZero(modelFile, Run{first, count}) }
		after = func(s state) state {
			if s.zeros {
				return state{}
			}
			return s
		}
	}
	for _, c := range mo.clients {
		c.fail, c.taken = nil, nil
		if rapid.IntRange(0, 4).Draw(t, "fails") == 0 {
			c.fail = ErrBusy
		}
	}
	want := mo.demand(first, end, after)
	sealed := mo.table.Sealed(modelFile, first, count)
	err := call()
	if mo.pinned(first, end) != (sealed != nil) {
		t.Fatalf("%d blocks from %d are sealed: %v", count, first, sealed)
	}
	if mo.pinned(first, end) {
		if want = nil; !errors.Is(err, ErrSealed) {
			t.Fatalf("break of a pinned run: %v", err)
		}
	}
	mo.breaks += int64(len(want))
	failed := 0
	for _, c := range mo.clients {
		checkTaken(t, c, want[c], to)
		if want[c] != nil && c.fail != nil {
			failed++
		}
	}
	if !errors.Is(err, ErrSealed) && (err != nil) != (failed > 0) {
		t.Fatalf("%d clients failed: %v", failed, err)
	}
	for _, mm := range mo.mappings {
		for b, s := range mm.states {
			if page := mm.m.address + uint64(b-mm.m.first)*BlockSize; mm.client.fail == nil && want[mm.client][page] {
				mm.states[b] = after(s)
			}
		}
	}
}

func (mo *model) pinned(first, end int64) bool {
	for _, mm := range mo.mappings {
		held := mm.pins
		if mm.sealed {
			held = append(slices.Clone(held), Run{mm.m.first, mm.m.count})
		}
		for _, r := range held {
			if mm.m.file == modelFile && first < end && r.First < end && r.First+r.Count > first {
				return true
			}
		}
	}
	return false
}

// checkTaken checks that a client was asked for exactly these pages, in one call, in as few runs as can be.
func checkTaken(t *rapid.T, c *fakeClient, want map[uint64]bool, to Access) {
	if len(want) == 0 {
		if len(c.taken) != 0 {
			t.Fatalf("client %d was asked for %v, want nothing", c.pid, c.taken)
		}
		return
	}
	if len(c.taken) != 1 || c.taken[0].to != to {
		t.Fatalf("client %d was asked %v, want one call to %v", c.pid, c.taken, to)
	}
	got := make(map[uint64]bool)
	var lastEnd uint64
	for _, r := range c.taken[0].runs {
		if r.Address <= lastEnd {
			t.Fatalf("client %d: runs %v touch or are not ascending", c.pid, c.taken[0].runs)
		}
		lastEnd = r.Address + r.Length
		for a := r.Address; a < lastEnd; a += BlockSize {
			got[a] = true
		}
	}
	if !maps.Equal(got, want) {
		t.Fatalf("client %d was asked for %v, want %v", c.pid, got, want)
	}
}

// check compares the table with the model and checks the table's invariants.
func (mo *model) check(t *rapid.T) {
	want := Usage{Mappings: int64(len(mo.mappings)), Breaks: mo.breaks}
	clients, files := make(map[Client]bool), make(map[uint64]bool)
	for _, mm := range mo.mappings {
		clients[mm.client], files[mm.m.file] = true, true
		distinct := make(map[Run]bool)
		for _, r := range mm.pins {
			distinct[r] = true
			want.PinnedBlocks += r.Count
		}
		want.Pins += int64(len(distinct))
		if mm.sealed {
			want.Seals++
			want.SealedBlocks += mm.m.count
		}
		var last *node[state]
		got := make(map[int64]state)
		for n := range mm.m.runs.overlapping(math.MinInt64, math.MaxInt64) {
			if last != nil && (last.end > n.first || last.end == n.first && last.value == n.value) {
				t.Fatalf("runs %s are not joined", mm.m.text())
			}
			last = n
			want.Grants++
			for b := n.first; b < n.end; b++ {
				got[b] = n.value
				want.GrantedBlocks++
			}
		}
		maps.DeleteFunc(mm.states, func(_ int64, s state) bool { return s == state{} })
		if !maps.Equal(got, mm.states) {
			t.Fatalf("mapping of %d blocks from %d: %v, want %v", mm.m.count, mm.m.first, got, mm.states)
		}
		if _, err := checkTree(mm.m.runs.root); err != nil {
			t.Fatal(err)
		}
	}
	want.Clients, want.Files = int64(len(clients)), int64(len(files))
	want.Records = want.Clients + want.Files + want.Mappings + want.Grants + want.Pins + want.Seals
	got := mo.table.Usage()
	if want.Bytes = got.Bytes; got != want || (got.Bytes == 0) != (got.Records == 0) {
		t.Fatalf("usage %+v, want %+v", got, want)
	}
	mapped := 0
	for _, f := range mo.table.files {
		n, err := checkTree(f.mappings.root)
		if _, err2 := checkTree(f.pins.root); err != nil || err2 != nil || n == 0 {
			t.Fatalf("%d mappings: %v, %v", n, err, err2)
		}
		mapped += n
	}
	if mapped != len(mo.mappings) {
		t.Fatalf("%d mappings in the table, want %d", mapped, len(mo.mappings))
	}
}

func TestTableAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mo := &model{table: NewTable(Limits{}), clients: []*fakeClient{{pid: 1}, {pid: 2}, {pid: 3}}}
		t.Repeat(map[string]func(*rapid.T){
			"map":    mo.mapSome,
			"unmap":  mo.unmap,
			"grant":  mo.grant,
			"grant2": mo.grant,
			"pin":    mo.pin,
			"unpin":  mo.unpin,
			"seal":   mo.seal,
			"break":  mo.breakRun,
			"break2": mo.breakRun,
			"":       mo.check,
		})
	})
}

// pages is a client with a page table of its own, which must never allow more than the table records.
type pages struct {
	mu     sync.Mutex
	access map[uint64]Access
	rng    *rand.Rand
}

func (p *pages) TakeBack(runs []AddressRun, to Access) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rng.IntN(20) == 0 {
		return ErrBusy
	}
	for _, r := range runs {
		for a := r.Address; a < r.Address+r.Length; a += BlockSize {
			p.access[a] = min(p.access[a], to)
		}
	}
	return nil
}

func (p *pages) set(address uint64, count int64, a Access) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range count {
		p.access[address] = max(p.access[address], a)
		address += BlockSize
	}
}

// exceeds says whether any page of the run allows more than a.
func (p *pages) exceeds(address uint64, count int64, a Access) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range count {
		if p.access[address] > a {
			return true
		}
		address += BlockSize
	}
	return false
}

// TestNothingIsReachedAfterABreak has clients fault, unmap, pin and break the same files at the same time. After a good
// break no client has access, and a pinned run is never taken from its owner.
func TestNothingIsReachedAfterABreak(t *testing.T) {
	const files, workers, rounds, blocks = 2, 8, 1000, 64
	table := NewTable(Limits{})
	var inode [files]sync.Mutex
	var mapMu sync.Mutex
	live := make(map[*Mapping]*pages)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			client := &pages{access: make(map[uint64]Access), rng: rand.New(rand.NewPCG(2, uint64(w)))}
			for round := range rounds {
				ino := rng.IntN(files)
				address := uint64(w)<<40 | uint64(round)<<24
				m := table.Map(client, uint64(ino), 0, blocks, address, 3)
				mapMu.Lock()
				live[m] = client
				mapMu.Unlock()
				for range 4 {
					first := rng.Int64N(blocks)
					count := 1 + rng.Int64N(blocks-first)
					inode[ino].Lock()
					switch a := Access(1 + rng.IntN(2)); rng.IntN(3) {
					case 0, 1:
						if err := m.Grant(first, count, a); err != nil {
							t.Error(err)
						}
						client.set(address+uint64(first)*BlockSize, count, a)
					default:
						if table.Break(uint64(ino), a-1, Run{first, count}) == nil {
							mapMu.Lock()
							for other, p := range live {
								if other.file == uint64(ino) && p.exceeds(other.addressOf(first), count, a-1) {
									t.Errorf("after a break to %v of %d blocks from %d a client has more", a-1, count, first)
								}
							}
							mapMu.Unlock()
						}
					}
					inode[ino].Unlock()
				}
				pinAndLook(t, &inode[ino], m, client, rng.Int64N(blocks))
				mapMu.Lock()
				delete(live, m)
				mapMu.Unlock()
				table.Unmap(m)
			}
		})
	}
	wg.Wait()
	if u := table.Usage(); u.Records != 0 || u.Bytes != 0 || u.GrantedBlocks != 0 {
		t.Errorf("all is unmapped: %+v", u)
	}
}

// pinAndLook pins a block and checks that it can be stored to until it is unpinned, without the inode's lock.
func pinAndLook(t *testing.T, inode *sync.Mutex, m *Mapping, client *pages, block int64) {
	inode.Lock()
	if err := errors.Join(m.Grant(block, 1, Write), m.Pin(block, 1)); err != nil {
		t.Error(err)
	}
	client.set(m.addressOf(block), 1, Write)
	inode.Unlock()
	for range 3 {
		if !client.exceeds(m.addressOf(block), 1, Read) {
			t.Errorf("block %d was taken away while it was pinned", block)
		}
	}
	if err := m.Unpin(block, 1); err != nil {
		t.Error(err)
	}
}

func BenchmarkGrant(b *testing.B) {
	for _, runs := range []int64{1, 1000, 60000} {
		b.Run(fmt.Sprintf("runs=%d", runs), func(b *testing.B) {
			m := NewTable(Limits{}).Map(&fakeClient{}, 7, 0, 2*runs+2, 0, 3)
			for i := range runs {
				m.Grant(2*i, 1, Read)
			}
			for b.Loop() {
				m.Grant(2*runs, 1, Read)
				m.table.takeBack(7, None, []Run{{2 * runs, 1}}, func(state) state { return state{} })
			}
		})
	}
}
