package explore

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// Mutant is a fault that is put in between the file system and the medium, to
// see that it is found.
type Mutant struct {
	Name string
	// rule decides what becomes of a call. It may keep state: it is made anew
	// for each mount.
	rule func(sb *layout.Superblock) func(c *call) action
	// Recovery changes what a mount sees of the meta area after a power cut.
	Recovery func(sb *layout.Superblock, meta []byte)
}

type action uint8

const (
	pass         action = iota
	drop                // nothing happens
	weaken              // a streaming store becomes a cached one that is not flushed
	hold                // it happens when a later call is answered by release
	release             // it happens, and before it what was held
	releaseAfter        // it happens, and after it what was held
)

type callKind uint8

const (
	callWrite callKind = iota
	callStream
	callZero
	callCopy
	callFlush
	callFence
)

// call is a call to an area.
type call struct {
	kind   callKind
	region region
	off, n int64
	p      []byte
	do     func()
}

func (c *call) stores() bool { return c.kind <= callCopy }

// region is a part of the pool.
type region string

const (
	regionSuper  region = "superblock"
	regionHeader region = "log header"
	regionLog    region = "log"
	regionInodes region = "inode table"
	regionNodes  region = "nodes"
	regionData   region = "data"
	regionMeta   region = "meta" // of fences
)

// regionOf names the region of a meta offset.
func regionOf(sb *layout.Superblock, off int64) region {
	in := func(r layout.Region) bool { return off >= r.Offset && off < r.End() }
	for _, b := range []struct {
		name string
		r    layout.BitmapRegions
	}{
		{"block bitmap", sb.BlockBitmap}, {"node bitmap", sb.NodeBitmap},
		{"inode bitmap", sb.InodeBitmap}, {"orphan bitmap", sb.Orphans},
	} {
		switch {
		case in(b.r.Bits):
			return region(b.name)
		case in(b.r.Chunks):
			return region(b.name + " chunk counts")
		case in(b.r.Groups):
			return region(b.name + " group counts")
		}
	}
	switch {
	case in(sb.LogHeaders):
		return regionHeader
	case in(sb.Log):
		return regionLog
	case in(sb.InodeTable):
		return regionInodes
	case in(sb.NodeArea):
		return regionNodes
	}
	return regionSuper
}

// faults is the state of a mutant in one mount, for both areas.
type faults struct {
	sb   *layout.Superblock
	rule func(*call) action
	held []func()
}

// areas puts the mutant before a medium.
func (m *Mutant) areas(sb *layout.Superblock, meta, data medium.Area) (medium.Area, medium.Area) {
	if m.rule == nil {
		return meta, data
	}
	f := &faults{sb: sb, rule: m.rule(sb)}
	return &faultyArea{meta, f, false}, &faultyArea{data, f, true}
}

// recovered is what a mount sees of an image.
func (m *Mutant) recovered(sb *layout.Superblock, areas []medium.Area) []medium.Area {
	meta := medium.Memory(areas[0].Size())
	b := slices.Clone(areas[0].Bytes())
	m.Recovery(sb, b)
	meta.Write(0, b)
	return []medium.Area{meta, areas[1]}
}

func (f *faults) flushHeld() {
	held := f.held
	f.held = nil
	for _, do := range held {
		do()
	}
}

// faultyArea is a medium that breaks its promises.
type faultyArea struct {
	medium.Area
	f    *faults
	data bool
}

func (a *faultyArea) call(kind callKind, off, n int64, p []byte, do, weak func()) {
	c := &call{kind: kind, off: off, n: n, p: p, do: do}
	switch {
	case a.data:
		c.region = regionData
	case kind == callFence:
		c.region = regionMeta
	default:
		c.region = regionOf(a.f.sb, off)
	}
	switch a.f.rule(c) {
	case pass:
		do()
	case weaken:
		weak()
	case hold:
		a.f.held = append(a.f.held, do)
	case release:
		a.f.flushHeld()
		do()
	case releaseAfter:
		do()
		a.f.flushHeld()
	}
}

func (a *faultyArea) Write(off int64, p []byte) {
	do := func() { a.Area.Write(off, p) }
	a.call(callWrite, off, int64(len(p)), p, do, do)
}

func (a *faultyArea) Stream(off int64, p []byte) {
	p = slices.Clone(p) // it may be held
	a.call(callStream, off, int64(len(p)), p, func() { a.Area.Stream(off, p) }, func() { a.Area.Write(off, p) })
}

func (a *faultyArea) Zero(off, n int64) {
	a.call(callZero, off, n, nil, func() { a.Area.Zero(off, n) }, func() { a.Area.Write(off, make([]byte, n)) })
}

func (a *faultyArea) Copy(dst, src, n int64) {
	a.call(callCopy, dst, n, nil, func() { a.Area.Copy(dst, src, n) },
		func() { a.Area.Write(dst, slices.Clone(a.Area.Bytes()[src:src+n])) })
}

func (a *faultyArea) Flush(off, n int64) {
	do := func() { a.Area.Flush(off, n) }
	a.call(callFlush, off, n, nil, do, do)
}

func (a *faultyArea) Fence() (err error) {
	do := func() { err = a.Area.Fence() }
	a.call(callFence, 0, 0, nil, do, do)
	return err
}

// Mutants is all of them.
func Mutants() []*Mutant {
	out := slices.Concat(logMutants, headerMutants, dataMutants)
	for _, r := range []region{
		"block bitmap", "block bitmap chunk counts", "block bitmap group counts", "node bitmap", "inode bitmap",
		"orphan bitmap", regionInodes, regionNodes,
	} {
		out = append(out, &Mutant{
			Name: "places not flushed when the log is trimmed: " + string(r),
			rule: func(*layout.Superblock) func(*call) action {
				mounted := false
				return func(c *call) action {
					mounted = mounted || c.region == regionHeader
					return when(mounted && c.kind == callFlush && c.region == r, drop)
				}
			},
		})
	}
	return out
}

func findMutant(name string) *Mutant {
	for _, m := range Mutants() {
		if m.Name == name {
			return m
		}
	}
	return nil
}

func when(condition bool, a action) action {
	if condition {
		return a
	}
	return pass
}

// simple is a mutant without state.
func simple(name string, rule func(*call) action) *Mutant {
	return &Mutant{Name: name, rule: func(*layout.Superblock) func(*call) action { return rule }}
}

// fenceAfter drops fences of an area (regionMeta or regionData) before which
// the last call of that area was such a one. nth: only the nth in a row, from
// 1; 0: each.
func fenceAfter(name string, area region, nth int, last func(*call) bool) *Mutant {
	return &Mutant{Name: name, rule: func(*layout.Superblock) func(*call) action {
		hit, n := false, 0
		return func(c *call) action {
			switch {
			case (c.region == regionData) != (area == regionData):
			case c.kind != callFence:
				if hit = last(c); !hit {
					n = 0
				}
			case hit:
				n++
				return when(nth == 0 || n == nth, drop)
			}
			return pass
		}
	}}
}

var logMutants = []*Mutant{
	fenceAfter("record not fenced", regionMeta, 0, func(c *call) bool { return c.region == regionLog }),
	simple("record stored without flush", func(c *call) action {
		return when(c.kind == callStream && c.region == regionLog, weaken)
	}),
	{Name: "changes applied in place before the record is fenced", rule: func(*layout.Superblock) func(*call) action {
		return delayed(func(c *call) bool { return false })
	}},
	{Name: "changes applied in place before the record is written", rule: func(*layout.Superblock) func(*call) action {
		return delayed(func(c *call) bool { return c.region == regionLog })
	}},
	simple("record without its last line", func(c *call) action {
		if c.kind == callStream && c.region == regionLog && c.n > lineSize {
			clear(c.p[c.n-lineSize:])
		}
		return pass
	}),
	{Name: "freed blocks used again before the record that frees them is fenced", rule: freesUnfenced},
	{Name: "static flag not in the journal", rule: func(sb *layout.Superblock) func(*call) action {
		return func(c *call) action { return when(setsStatic(sb, c), drop) }
	}},
	{Name: "checksum of records not verified", Recovery: fixRecords},
	{Name: "record without its second line", rule: tornMiddle},
	{Name: "places not flushed in replay", rule: func(*layout.Superblock) func(*call) action {
		return inReplay(func(c *call) action { return when(c.kind == callFlush, drop) })
	}},
	{Name: "replay not fenced", rule: func(*layout.Superblock) func(*call) action {
		return inReplay(func(c *call) action { return when(c.kind == callFence, drop) })
	}},
}

// delayed holds the fence of a group of records, and what also says, until their
// changes are in place.
func delayed(also func(*call) bool) func(*call) action {
	left, inLog := 0, false
	return func(c *call) action {
		switch {
		case c.kind == callStream && c.region == regionLog:
			if !inLog {
				left = 0
				for r := c.p; len(r) > 0; r = r[layout.RecordSize(r):] {
					left += int(binary.LittleEndian.Uint32(r[36:])) // entries, each one write
				}
			}
			inLog = true
			return when(also(c), hold)
		case c.kind == callFence && inLog:
			inLog = false
			return hold
		case c.kind == callWrite && left > 0:
			if left--; left == 0 {
				return releaseAfter
			}
		}
		return pass
	}
}

// freesUnfenced drops the fence of records that clear bits of the block
// bitmap; the next fence does it.
func freesUnfenced(sb *layout.Superblock) func(*call) action {
	frees := false
	return func(c *call) action {
		switch {
		case c.kind == callStream && c.region == regionLog && len(c.p) > layout.RecordHeader:
			eachChange(sb, c.p, func(ch layout.Change) {
				// The group's count comes with the bits: it falls when blocks are freed.
				frees = frees || regionOf(sb, ch.Offset) == "block bitmap"
			})
		case c.kind == callFence && c.region == regionMeta && frees:
			frees = false
			return drop
		}
		return pass
	}
}

// eachChange calls fn for the changes of records that are appended together.
func eachChange(sb *layout.Superblock, records []byte, fn func(layout.Change)) {
	for len(records) > 0 {
		n := layout.RecordSize(records)
		layout.Changes(records[:n], sb.MetaSize, fn)
		records = records[n:]
	}
}

// setsStatic reports whether a call appends a record in which an inode becomes
// static.
func setsStatic(sb *layout.Superblock, c *call) (sets bool) {
	if c.kind != callStream || c.region != regionLog || len(c.p) <= layout.RecordHeader {
		return false
	}
	eachChange(sb, c.p, func(ch layout.Change) {
		if regionOf(sb, ch.Offset) != regionInodes {
			return
		}
		at := layout.InodeFlags - (ch.Offset-sb.InodeTable.Offset)%layout.InodeSize
		sets = sets || at >= 0 && at < ch.Length() && ch.Bytes[at]&layout.FlagStatic != 0
	})
	return sets
}

// tornMiddle leaves out the second line of records of three lines and more.
func tornMiddle(*layout.Superblock) func(*call) action {
	return func(c *call) action {
		if c.kind == callStream && c.region == regionLog && c.n >= 3*lineSize {
			clear(c.p[lineSize : 2*lineSize])
		}
		return pass
	}
}

// inReplay applies a rule before the first log header is written.
func inReplay(rule func(*call) action) func(*call) action {
	over := false
	return func(c *call) action {
		over = over || c.region == regionHeader
		if over || c.region == regionData {
			return pass
		}
		return rule(c)
	}
}

// fixRecords makes the checksums of the records that follow the tail right.
func fixRecords(sb *layout.Superblock, meta []byte) {
	h, _, err := layout.ReadLogHeader(meta[sb.LogHeaders.Offset:sb.LogHeaders.End()], sb.LogHeaders)
	if err != nil || h.Clean {
		return
	}
	for lsn := h.Tail; ; {
		at := sb.Log.Offset + int64(lsn%uint64(sb.Log.Length))
		n := layout.RecordLength(meta[at:at+lineSize], h.Epoch, lsn, sb.Log.Length/4)
		if n == 0 || at+n > sb.Log.End() {
			return
		}
		binary.LittleEndian.PutUint32(meta[at+4:], layout.Checksum(meta[at+8:at+n]))
		lsn += uint64(n)
	}
}

func isHeader(c *call) bool { return c.region == regionHeader }

var headerMutants = []*Mutant{
	fenceAfter("places not fenced when the log is trimmed", regionMeta, 0, func(c *call) bool { return c.kind == callFlush }),
	fenceAfter("first copy of the log header not fenced", regionMeta, 1, isHeader),
	simple("log header stored without flush", func(c *call) action {
		return when(c.kind == callStream && c.region == regionHeader, weaken)
	}),
	{Name: "log header written before the places are flushed", rule: func(*layout.Superblock) func(*call) action {
		headers := 0
		return func(c *call) action {
			switch {
			case c.region == regionData:
			case c.kind == callFlush:
				headers = 0
				return hold
			case c.kind == callFence && headers >= 2:
				headers = 0
				return releaseAfter
			case isHeader(c):
				headers++
			}
			return pass
		}
	}},
}

var dataMutants = []*Mutant{
	fenceAfter("written data not fenced", regionData, 0, func(c *call) bool { return c.kind == callStream }),
	fenceAfter("zeros not fenced", regionData, 0, func(c *call) bool { return c.kind == callZero }),
	fenceAfter("moved data not fenced", regionData, 0, func(c *call) bool { return c.kind == callCopy }),
	fenceAfter("mapped stores not fenced", regionData, 0, func(c *call) bool { return c.kind == callFlush }),
	simple("mapped stores not flushed", func(c *call) action {
		return when(c.kind == callFlush && c.region == regionData, drop)
	}),
	simple("written data stored without flush", func(c *call) action {
		return when(c.kind == callStream && c.region == regionData, weaken)
	}),
	simple("zeros stored without flush", func(c *call) action {
		return when(c.kind == callZero && c.region == regionData, weaken)
	}),
	simple("moved data stored without flush", func(c *call) action {
		return when(c.kind == callCopy && c.region == regionData, weaken)
	}),
	simple("unaligned edges of data stored without flush", func(c *call) action {
		return when(c.kind == callStream && c.region == regionData && (c.off|c.n)%lineSize != 0, weaken)
	}),
	simple("zeros around new data left out", func(c *call) action {
		return when(c.kind == callZero && c.region == regionData, drop)
	}),
	{Name: "blocks marked written before their zeros are durable", rule: func(*layout.Superblock) func(*call) action {
		held := false
		return func(c *call) action {
			switch {
			case c.region == regionData && (c.kind == callZero || c.kind == callFence && held):
				held = true
				return hold
			case c.kind == callFence && c.region == regionMeta && held:
				held = false
				return releaseAfter
			}
			return pass
		}
	}},
	simple("copies left out", func(c *call) action {
		return when(c.kind == callCopy && c.region == regionData, drop)
	}),
	{Name: "copies made after the record", rule: func(*layout.Superblock) func(*call) action {
		held := false
		return func(c *call) action {
			switch {
			case c.region == regionData && (c.kind == callCopy || c.kind == callFence && held):
				held = true
				return hold
			case c.kind == callFence && c.region == regionMeta && held:
				held = false
				return releaseAfter
			}
			return pass
		}
	}},
	{Name: "data written after the record", rule: func(*layout.Superblock) func(*call) action {
		return func(c *call) action {
			switch {
			case c.region == regionData && (c.stores() && c.kind != callWrite || c.kind == callFence):
				return hold
			case c.kind == callFence && c.region == regionMeta:
				return releaseAfter
			}
			return pass
		}
	}},
}

// Catch looks for the shortest sequence that shows a mutant; known is one that
// did, or none.
func (m *Mutant) Catch(ctx context.Context, s Setting, known []Op) (*Violation, error) {
	return catch(ctx, Case{Mutant: m.Name, Setting: s}, known)
}

// catch looks for the shortest sequence that shows a violation in a case like
// one. With a sequence that is known to, it tries its parts and then itself;
// else, or when that shows nothing, single operations, then each followed by a
// remount, then all pairs.
func catch(ctx context.Context, like Case, known []Op) (*Violation, error) {
	w, err := newWorker(ctx, &verdicts{})
	if err != nil {
		return nil, err
	}
	var found *Violation
	try := func(ops []Op) bool {
		for _, ending := range like.Setting.endings() {
			c := like
			c.Ops, c.Effort, c.Seed = slices.Concat(ops, ending), mutantEffort, seedOf(1, ops)
			violations, _, e := w.run(&c)
			if err = e; len(violations) > 0 {
				found = violations[0]
			}
			if found != nil || err != nil {
				return false
			}
		}
		return true
	}
	for i := 0; len(known) > 1 && i < len(known); i++ {
		if !try(known[i : i+1]) {
			return found, err
		}
	}
	if len(known) > 0 && !try(known) {
		return found, err
	}
	alphabet := like.Setting.alphabet(1)
	sequences(alphabet, 1, try)
	for i := 0; found == nil && err == nil && i < len(alphabet); i++ {
		try([]Op{alphabet[i], {Verb: "remount"}})
	}
	if found == nil && err == nil {
		sequences(alphabet, 2, try)
	}
	return found, err
}

var mutantEffort = Effort{Exhaustive: 64, Lines: 16, Samples: 16, Deep: 16}
