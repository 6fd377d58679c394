package pmemfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
)

// The model: a few processes open, map, seal, pin, freeze, write, cut and move a few files, and are killed, in any order. What
// becomes of each step is predicted: what the files hold, where they have holes, who is in whose way. More of it by
// -rapid.checks=10000.

const (
	modelBlocks  = 8 // of a file, at most
	modelFiles   = 2
	modelClients = 3
)

// block is what a block of a file is in the model.
type block byte

const (
	hole block = iota
	unwritten
	written
)

// modelFile is a file as it must be.
//
// Invariant: what is behind size in data is zero.
type modelFile struct {
	name   string
	open   *pmemfs.File // of the test, which only looks
	size   int64
	data   []byte
	blocks [modelBlocks]block
	static bool
}

// modelMapping is a mapping of a client; ids are those of orders.
type modelMapping struct {
	id, client, file int
	handle           uint32
	off, n           int64
	flags            pmemfs.MapFlags
	pins             map[int]span
}

// span is a range in bytes.
type span struct{ off, n int64 }

func (s span) blocks() (first, end int64) { return s.off / page, (s.off + s.n + page - 1) / page }

// within is the range of blocks that lie wholly in s; empty when first is not below end.
func (s span) within() (first, end int64) { return (s.off + page - 1) / page, (s.off + s.n) / page }

// verdict is what an operation must come to: the zero value is success.
type verdict struct {
	errno    error
	static   bool
	sealed   []pmemfs.SealedError // one of these is named
	unfilled *pmemfs.UnfilledError
	byFault  bool // the error tells no more than its number
}

func (v verdict) ok() bool {
	return v.errno == nil && !v.static && v.sealed == nil && v.unfilled == nil
}

func (v verdict) String() string {
	switch {
	case v.ok():
		return "done"
	case v.byFault:
		return "by fault"
	case v.static:
		return "static"
	case v.sealed != nil:
		return "sealed"
	case v.unfilled != nil:
		return "unfilled"
	}
	return "errno"
}

// check returns what is wrong with the outcome of an operation.
func (v verdict) check(err error) error {
	var sealed *pmemfs.SealedError
	var unfilled *pmemfs.UnfilledError
	good := false
	switch {
	case v.ok():
		good = err == nil
	case v.byFault && v.errno == nil:
		good = errors.Is(err, unix.EBUSY)
	case v.static:
		good = errors.Is(err, pmemfs.ErrStatic)
	case v.sealed != nil:
		good = errors.As(err, &sealed) && slices.Contains(v.sealed, *sealed)
	case v.unfilled != nil:
		good = errors.As(err, &unfilled) && *unfilled == *v.unfilled
	default:
		good = errors.Is(err, v.errno)
	}
	if good {
		return nil
	}
	return fmt.Errorf("the outcome is %v, the model says %+v", err, v)
}

// world is a server and its clients, which outlive the checks.
type world struct {
	t       *testing.T
	since   time.Time
	server  *pooltest.Child
	socket  string
	fsys    *pmemfs.FS
	clients [modelClients]*remoteClient
	looks   [modelFiles]*pmemfs.File // of the last check

	outcomes map[string]int // how often there was which
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, since: time.Now()}
	w.socket, w.server = serve(t, newPool(t))
	w.fsys = dial(t, w.socket)
	for i := range w.clients {
		w.clients[i] = startClient(t, w.socket)
	}
	return w
}

// end makes room for another world.
func (w *world) end() {
	for _, c := range w.clients {
		c.Finish()
	}
	must(w.t, w.fsys.Close())
	w.server.Finish()
}

// model is one check.
type model struct {
	*world
	rt     *rapid.T
	files  [modelFiles]*modelFile
	maps   []*modelMapping
	lastID int
}

// begin makes new files, after what an earlier check has left.
func (w *world) begin(rt *rapid.T) *model {
	m := &model{world: w, rt: rt}
	for _, c := range w.clients {
		do(w.t, c, order{Do: "reset"})
	}
	for i := range m.files {
		f := &modelFile{name: fmt.Sprint("model-", i), data: make([]byte, modelBlocks*page)}
		if old, err := w.fsys.OpenFile(f.name, unix.O_RDWR, 0); err == nil {
			must(w.t, errors.Join(old.SetStatic(false), old.Close(), w.looks[i].Close(), w.fsys.Remove(f.name)))
		}
		w.looks[i] = create(w.t, w.fsys, f.name)
		f.open = w.looks[i]
		m.files[i] = f
		for c := range w.clients {
			m.open(c, i)
		}
	}
	return m
}

func (m *model) open(client, file int) {
	do(m.t, m.clients[client], order{Do: "open", File: file, Name: m.files[file].name, Flags: unix.O_RDWR})
}

// holders are the seals and pins of a file that touch the blocks [first, end).
func (m *model) holders(file int, first, end int64) (list []pmemfs.SealedError) {
	for _, mp := range m.maps {
		if mp.file != file {
			continue
		}
		add := func(s span, pin bool) {
			lo, hi := s.blocks()
			if lo < end && first < hi {
				list = append(list, pmemfs.SealedError{
					PID: m.clients[mp.client].Cmd.Process.Pid, Handle: mp.handle, Offset: lo * page, Length: (hi - lo) * page, Pin: pin,
				})
			}
		}
		if mp.flags&pmemfs.Direct != 0 {
			add(span{mp.off, mp.n}, false)
		}
		for _, p := range mp.pins {
			add(span{mp.off + p.off, p.n}, true)
		}
	}
	return list
}

// mayChange is the verdict on a change of the map of the blocks [first, end).
func (m *model) mayChange(file int, first, end int64) verdict {
	if m.files[file].static {
		return verdict{static: true}
	}
	return verdict{sealed: m.holders(file, first, end)}
}

// mayFill is the verdict on blocks for what reads as zeros in [first, end); holesOnly leaves out what is unwritten.
func (m *model) mayFill(file int, first, end int64, holesOnly bool) verdict {
	for b := first; b < end; b++ {
		state := m.files[file].blocks[b]
		if state == written || holesOnly && state == unwritten {
			continue
		}
		// Where holes follow each other anyone who holds any of them may be named: it is the run that is asked for.
		last := b + 1
		for last < end && m.files[file].blocks[last] == state {
			last++
		}
		if v := m.mayChange(file, b, last); !v.ok() {
			return v
		}
		b = last - 1
	}
	return verdict{}
}

func (m *model) mayResize(file int, size int64) verdict {
	f := m.files[file]
	switch {
	case size == f.size:
		return verdict{}
	case f.static:
		return verdict{static: true}
	case size > f.size:
		return verdict{}
	}
	return m.mayChange(file, size/page, (f.size+page-1)/page)
}

// firstOf returns the first verdict that is no success.
func firstOf(list ...verdict) verdict {
	for _, v := range list {
		if !v.ok() {
			return v
		}
	}
	return verdict{}
}

func (f *modelFile) end() int64 { return (f.size + page - 1) / page }

func (f *modelFile) set(first, end int64, to block) {
	for b := first; b < end; b++ {
		f.blocks[b] = to
	}
}

// unfilled is the first block of [first, end) that cannot be sealed.
func (f *modelFile) unfilled(first, end int64) *pmemfs.UnfilledError {
	for b := first; b < end; b++ {
		switch f.blocks[b] {
		case hole:
			return &pmemfs.UnfilledError{Offset: b * page, What: "a hole"}
		case unwritten:
			return &pmemfs.UnfilledError{Offset: b * page, What: "unwritten"}
		}
	}
	return nil
}

// change predicts an order on a file, and applies it to the model when it will succeed.
func (m *model) change(o order) verdict {
	f := m.files[o.File]
	s := span{o.Off, o.N}
	first, end := s.blocks()
	lo, hi := s.within()
	limit := o.Off + o.N
	switch o.Do {
	case "truncate":
		v := m.mayResize(o.File, o.N)
		if v.ok() {
			if o.N < f.size {
				clear(f.data[o.N:])
				f.set((o.N+page-1)/page, modelBlocks, hole)
			}
			f.size = o.N
		}
		return v
	case "write":
		v := firstOf(m.mayResize(o.File, max(f.size, limit)), m.mayFill(o.File, first, end, false))
		if v.ok() {
			copy(f.data[o.Off:limit], bytes.Repeat([]byte{o.Byte}, int(o.N)))
			f.set(first, end, written)
			f.size = max(f.size, limit)
		}
		return v
	case "punch":
		if lo < hi {
			if v := m.mayChange(o.File, lo, hi); !v.ok() {
				return v
			}
			f.set(lo, hi, hole)
		}
		clear(f.data[o.Off:limit])
		return verdict{}
	case "zero", "allocate", "reserve":
		return m.allocate(f, o)
	case "relocate":
		if end = min(end, f.end()); first < end {
			return m.mayChange(o.File, first, end)
		}
		return verdict{}
	case "fill":
		if end > f.end() {
			return verdict{errno: unix.ENXIO}
		}
		return m.fill(o.File, first, end)
	case "freeze":
		if unfilled := f.unfilled(0, f.end()); unfilled != nil && !f.static {
			return verdict{unfilled: unfilled}
		}
		f.static = true
		return verdict{}
	case "thaw":
		f.static = false
		return verdict{}
	}
	panic(o.Do)
}

func (m *model) allocate(f *modelFile, o order) verdict {
	s := span{o.Off, o.N}
	first, end := s.blocks()
	limit := o.Off + o.N
	var list []verdict
	if o.Do != "reserve" {
		list = append(list, m.mayResize(o.File, max(f.size, limit)))
	}
	if f.static && end > f.end() {
		list = append(list, verdict{static: true})
	}
	lo, hi := s.within()
	if o.Do == "zero" && lo < hi {
		list = append(list, m.mayChange(o.File, lo, hi))
	}
	if v := firstOf(append(list, m.mayFill(o.File, first, end, true))...); !v.ok() {
		return v
	}
	for b := first; b < end; b++ {
		if f.blocks[b] == hole || o.Do == "zero" && lo <= b && b < hi {
			f.blocks[b] = unwritten
		}
	}
	if o.Do == "zero" {
		clear(f.data[o.Off:limit])
	}
	if o.Do != "reserve" {
		f.size = max(f.size, limit)
	}
	return verdict{}
}

func (m *model) fill(file int, first, end int64) verdict {
	v := m.mayFill(file, first, end, false)
	if v.ok() {
		m.files[file].set(first, end, written)
	}
	return v
}

// mapping predicts Map.
func (m *model) mapping(o order) verdict {
	f := m.files[o.File]
	flags := pmemfs.MapFlags(o.Flags)
	first, end := span{o.Off, o.N}.blocks()
	switch {
	case flags&pmemfs.Direct != 0 && end > f.end():
		return verdict{errno: unix.ENXIO}
	case flags&(pmemfs.Direct|pmemfs.Populate) == pmemfs.Direct:
		if unfilled := f.unfilled(first, end); unfilled != nil {
			return verdict{unfilled: unfilled}
		}
	case flags&pmemfs.Direct != 0:
		return m.fill(o.File, first, end)
	case flags&pmemfs.Populate != 0 && flags&pmemfs.ReadOnly == 0:
		// Page after page: those before the one that cannot be had are filled.
		for b := first; b < min(end, f.end()); b++ {
			if v := m.fill(o.File, b, b+1); !v.ok() {
				v.byFault = true
				return v
			}
		}
	}
	return verdict{}
}

// pin predicts Pin.
func (m *model) pin(mp *modelMapping, s span) verdict {
	f := m.files[mp.file]
	first, end := span{mp.off + s.off, s.n}.blocks()
	switch {
	case end > f.end():
		return verdict{errno: unix.ENXIO}
	case mp.flags&pmemfs.ReadOnly == 0:
		return m.fill(mp.file, first, end)
	}
	return verdict{}
}

// access predicts a load from or a store to bytes of one page of a mapping, which do not straddle the end of the file.
func (m *model) access(mp *modelMapping, s span, store bool) verdict {
	f := m.files[mp.file]
	b := (mp.off + s.off) / page
	switch {
	case store && mp.flags&pmemfs.ReadOnly != 0:
		return verdict{errno: unix.EACCES, byFault: true}
	case b >= f.end():
		return verdict{errno: unix.ENXIO, byFault: true}
	case store:
		v := m.fill(mp.file, b, b+1)
		v.byFault = true
		return v
	}
	return verdict{}
}

// Drawing.

func (m *model) draw(what string, below int) int { return rapid.IntRange(0, below-1).Draw(m.rt, what) }

// position is a byte of a file: most often where a block begins.
func (m *model) position(what string, blocks int) int64 {
	at := int64(m.draw(what, blocks+1)) * page
	return min(at+rapid.SampledFrom([]int64{0, 0, 0, 1, 100, page - 1}).Draw(m.rt, what+" in its block"), int64(blocks)*page)
}

// span is some bytes of a range of so many blocks, at least one.
func (m *model) span(blocks int) span {
	a, b := m.position("from", blocks), m.position("to", blocks)
	if a > b {
		a, b = b, a
	}
	if a == b {
		b = min(a+1, int64(blocks)*page)
		a = b - 1
	}
	return span{a, b - a}
}

func (m *model) client() int { return m.draw("client", modelClients) }

// ask has a client carry an order out, and compares the outcome with the prediction.
func (m *model) ask(client int, o order, v verdict) answer {
	a := m.clients[client].obey(o)
	if err := v.check(a.err()); err != nil {
		m.rt.Fatalf("client %d: %+v: %v", client, o, err)
	}
	m.outcomes[v.String()]++
	return a
}

// onFile is an action: an operation on a file.
func (m *model) onFile(what string) func(*rapid.T) {
	return func(*rapid.T) {
		o := order{Do: what, File: m.draw("file", modelFiles)}
		switch what {
		case "freeze", "thaw":
		case "truncate":
			o.N = m.position("size", modelBlocks)
		default:
			s := m.span(modelBlocks)
			o.Off, o.N, o.Byte = s.off, s.n, byte(1+m.draw("byte", 255))
		}
		client := m.client()
		m.ask(client, o, m.change(o))
	}
}

var modelKinds = []pmemfs.MapFlags{
	pmemfs.Shared, pmemfs.Sync, pmemfs.Sync | pmemfs.Populate, pmemfs.Unchecked, pmemfs.Shared | pmemfs.ReadOnly,
	pmemfs.Shared | pmemfs.ReadOnly | pmemfs.Populate,
	pmemfs.Direct, pmemfs.Direct | pmemfs.Populate, pmemfs.Direct | pmemfs.ReadOnly,
	pmemfs.Direct | pmemfs.ReadOnly | pmemfs.Populate,
}

func (m *model) doMap(rt *rapid.T) {
	s := m.span(modelBlocks)
	s.off -= s.off % page
	m.lastID++
	o := order{
		Do: "map", File: m.draw("file", modelFiles), Map: m.lastID, Off: s.off, N: s.n,
		Flags: uint32(rapid.SampledFrom(modelKinds).Draw(rt, "kind")),
	}
	client := m.client()
	v := m.mapping(o)
	a := m.ask(client, o, v)
	if v.ok() {
		m.maps = append(m.maps, &modelMapping{
			id: o.Map, client: client, file: o.File, handle: a.Handle, off: o.Off, n: o.N, flags: pmemfs.MapFlags(o.Flags),
			pins: map[int]span{},
		})
	}
}

// look has every mapping show what it has of the files, as often as not: pages that nobody has accessed are another case.
func (m *model) look() {
	if m.draw("look", 2) == 0 {
		return
	}
	for _, mp := range m.maps {
		if n := min(mp.n, m.files[mp.file].size-mp.off); n > 0 {
			m.load(mp, span{0, n})
		}
	}
}

func (m *model) someMapping() *modelMapping {
	return m.maps[m.draw("mapping", len(m.maps))]
}

func (m *model) doUnmap(*rapid.T) {
	mp := m.someMapping()
	m.ask(mp.client, order{Do: "unmap", Map: mp.id}, verdict{})
	m.maps = slices.DeleteFunc(m.maps, func(other *modelMapping) bool { return other == mp })
}

func (m *model) doPin(*rapid.T) {
	mp := m.someMapping()
	s := m.span(int((mp.n + page - 1) / page))
	s.off = min(s.off, mp.n-1)
	s.n = min(s.n, mp.n-s.off)
	m.lastID++
	v := m.pin(mp, s)
	m.ask(mp.client, order{Do: "pin", Map: mp.id, Pin: m.lastID, Off: s.off, N: s.n}, v)
	if v.ok() {
		mp.pins[m.lastID] = s
	}
}

func (m *model) doUnpin(rt *rapid.T) {
	mp := m.someMapping()
	if len(mp.pins) == 0 {
		m.doPin(rt)
		return
	}
	ids := slices.Sorted(maps.Keys(mp.pins))
	id := ids[m.draw("pin", len(ids))]
	m.ask(mp.client, order{Do: "unpin", Pin: id}, verdict{})
	delete(mp.pins, id)
}

// accessed draws bytes of one page of a mapping that do not straddle the end of the file.
func (m *model) accessed(mp *modelMapping) span {
	s := m.span(int((mp.n + page - 1) / page))
	s.off = min(s.off, mp.n-1)
	s.n = min(s.n, mp.n-s.off, page-s.off%page)
	if left := m.files[mp.file].size - mp.off - s.off; left > 0 {
		s.n = min(s.n, left)
	} else if (mp.off+s.off)/page < m.files[mp.file].end() {
		m.rt.Skip("behind the end, in the last block") // what is there is nobody's
	}
	return s
}

func (m *model) doStore(*rapid.T) {
	mp := m.someMapping()
	s := m.accessed(mp)
	f := m.files[mp.file]
	at := mp.off + s.off
	o := order{Do: "store", Map: mp.id, Off: s.off, N: s.n, Byte: byte(1 + m.draw("byte", 255))}
	was := f.blocks[at/page]
	v := m.access(mp, s, true)
	m.ask(mp.client, o, v)
	if !v.ok() {
		return
	}
	copy(f.data[at:at+s.n], bytes.Repeat([]byte{o.Byte}, int(s.n)))
	if was != written {
		m.ahead(f, at/page+1)
	}
}

// ahead takes over what the server has filled ahead of a store: blocks like the one that was stored to, right behind it.
func (m *model) ahead(f *modelFile, from int64) {
	list, err := f.open.Extents()
	must(m.t, err)
	for b := from; b < f.end() && f.blocks[b] != written; b++ {
		if !slices.ContainsFunc(list, func(e pmemfs.Extent) bool {
			return e.Offset <= b*page && b*page < e.Offset+e.Length && e.Block >= 0 && !e.Unwritten
		}) {
			break
		}
		f.blocks[b] = written
	}
}

func (m *model) doLoad(*rapid.T) {
	mp := m.someMapping()
	m.load(mp, m.accessed(mp))
}

func (m *model) load(mp *modelMapping, s span) {
	v := m.access(mp, s, false)
	a := m.ask(mp.client, order{Do: "load", Map: mp.id, Off: s.off, N: s.n}, v)
	at := mp.off + s.off
	switch {
	case v.ok() && !bytes.Equal(a.Data, m.files[mp.file].data[at:at+s.n]):
		m.rt.Fatalf("%+v: %d bytes at %d are not what the file holds", *mp, s.n, s.off)
	case !v.ok() && (*a.Err.Fault < at || *a.Err.Fault >= at+s.n): // a copy may begin at any of its bytes
		m.rt.Fatalf("%+v: %v, accessed was %d", *mp, a.Err, at)
	}
}

// doKill kills a client, and another one takes its place when all that it held is gone.
func (m *model) doKill(rt *rapid.T) {
	if m.draw("kill", 4) > 0 { // it takes long
		m.onFile("write")(rt)
		return
	}
	i := m.client()
	m.clients[i].Kill()
	m.maps = slices.DeleteFunc(m.maps, func(mp *modelMapping) bool { return mp.client == i })
	eventually(m.t, "a killed client holds nothing", func() bool {
		return frames(m.t, m.fsys).Mappings == int64(len(m.maps))
	})
	m.clients[i] = startClient(m.t, m.socket)
	for file := range m.files {
		m.open(i, file)
	}
}

// check compares everything with the model.
func (m *model) check(*rapid.T) {
	var want pmemfs.Frames
	for _, mp := range m.maps {
		if mp.flags&pmemfs.Direct != 0 {
			first, end := span{mp.off, mp.n}.blocks()
			want.Seals++
			want.SealedBlocks += end - first
		}
		runs := map[span]bool{}
		for _, p := range mp.pins {
			first, end := span{mp.off + p.off, p.n}.blocks()
			runs[span{first, end}] = true
			want.PinnedBlocks += end - first
		}
		want.Pins += int64(len(runs))
	}
	got := frames(m.t, m.fsys)
	if got.Mappings != int64(len(m.maps)) || got.Seals != want.Seals || got.SealedBlocks != want.SealedBlocks ||
		got.Pins != want.Pins || got.PinnedBlocks != want.PinnedBlocks {
		m.rt.Fatalf("there are %+v, the model has %d mappings and %+v", got, len(m.maps), want)
	}
	for _, f := range m.files {
		m.checkFile(f)
	}
}

func (m *model) checkFile(f *modelFile) {
	st := statOf(m.t, f.open)
	if st.Size != f.size || st.Static != f.static {
		m.rt.Fatalf("%s: %+v, want size %d, static %v", f.name, st, f.size, f.static)
	}
	if at := firstDifference(contentOf(m.t, f.open), f.data[:f.size]); at >= 0 {
		m.rt.Fatalf("%s is not what the model holds at %d, in block %d", f.name, at, at/page)
	}
	var got [modelBlocks]block
	for _, e := range extentsOf(m.t, f.open) {
		for b := e.Offset / page; b < (e.Offset+e.Length)/page; b++ {
			switch {
			case e.Unwritten:
				got[b] = unwritten
			case e.Block >= 0:
				got[b] = written
			}
		}
	}
	if n := f.end(); !slices.Equal(got[:n], f.blocks[:n]) {
		m.rt.Fatalf("%s: blocks %v, the model has %v (0: hole, 1: unwritten, 2: written)", f.name, got[:n], f.blocks[:n])
	}
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// maplike is how many of the steps need a mapping.
const maplike = 5

// steps are what may happen, what is to happen often first: rapid prefers what comes first.
func (m *model) steps() (names []string, actions map[string]func(*rapid.T)) {
	names = []string{
		"store", "load", "pin", "unpin", "unmap", "map", "punch", "write", "truncate", "fill", "relocate", "allocate",
		"zero", "thaw", "map", "freeze", "kill", "reserve",
	}
	actions = map[string]func(*rapid.T){
		"map": m.doMap, "unmap": m.doUnmap, "pin": m.doPin, "unpin": m.doUnpin, "store": m.doStore, "load": m.doLoad, "kill": m.doKill,
	}
	for _, what := range names {
		if actions[what] == nil {
			actions[what] = m.onFile(what)
		}
	}
	return names, actions
}

func TestSealModel(t *testing.T) {
	var w *world
	done, outcomes := map[string]int{}, map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		if w != nil && time.Since(w.since) > time.Minute { // children do not live for long
			w.end()
			w = nil
		}
		if w == nil {
			w = newWorld(t)
			w.outcomes = outcomes
		}
		m := w.begin(rt)
		names, actions := m.steps()
		rt.Repeat(map[string]func(*rapid.T){
			"": m.check,
			"step": func(rt *rapid.T) {
				m.rt = rt
				what := rapid.SampledFrom(names).Draw(rt, "step")
				switch concerned := slices.Contains(names[:maplike], what); {
				case concerned && len(m.maps) == 0:
					what = "map"
				case what == "map" && len(m.maps) == 12:
					what = "unmap"
				}
				actions[what](rt)
				m.look()
				done[what]++
			},
		})
	})
	t.Log(done, outcomes)
	for _, want := range []string{"done", "sealed", "static", "unfilled", "errno", "by fault"} {
		if outcomes[want] == 0 && !testing.Short() {
			t.Errorf("no operation was ever %q", want)
		}
	}
}
