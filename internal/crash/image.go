package crash

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/pmemfs/pmemfs/internal/medium"
)

// Options for Images. The zero value takes the defaults.
type Options struct {
	Model      Model  // what the medium promises; default CPUCache
	From, To   Mark   // epochs that overlap this part of the record; To 0: to its end
	Exhaustive int    // an epoch with at most this many images gives all of them; default 512
	Samples    int    // random images of every other epoch; default 32
	Seed       uint64 // of the samples
	// Lines bounds for how many lines of such an epoch, evenly chosen, there is
	// an image without the line and one with nothing else; default 64.
	Lines int
}

func (o *Options) defaults(events int) {
	for p, v := range map[*int]int{&o.Exhaustive: 512, &o.Samples: 32, &o.Lines: 64} {
		if *p == 0 {
			*p = v
		}
	}
	if o.To == 0 {
		o.To = Mark(events)
	}
}

// Image is what a power cut may leave. It is valid until the visitor returns.
type Image struct {
	Epoch int  // number of fences since From
	Last  bool // no fence follows: To is reached without another
	Areas []medium.Area
	// Sum identifies the content among all images of recorders that were made of
	// the same areas, in this process.
	Sum   uint64
	lines []place // where it may differ from those areas, each size long
	size  int64
	under []part // what the recorder had loaded: it may differ there as well
	what  func() string
}

// String says which lines arrived.
func (m *Image) String() string { return fmt.Sprintf("epoch %d, %s", m.Epoch, m.what()) }

// Clone returns areas of their own with the image's bytes: to be stored to.
func (m *Image) Clone() []medium.Area {
	var out []medium.Area
	for _, a := range m.Areas {
		c := medium.Memory(a.Size())
		c.Write(0, a.Bytes())
		out = append(out, c)
	}
	return out
}

// Stats counts what Images did.
type Stats struct {
	Epochs, Exhaustive, Images, Duplicates int
}

// Images calls visit with the images that a power cut between two moments may
// leave, each once; it ends with the first error and returns it. In an epoch
// with many it gives: that with nothing, that with everything, for each line
// one without it and one with it alone, and seeded samples, in which each
// word of each line arrived or not.
//
// Visitors must not store to the image's areas: see Clone.
func (r *Recorder) Images(o Options, visit func(*Image) error) (Stats, error) {
	r.mu.Lock()
	events := slices.Clone(r.events)
	r.mu.Unlock()
	o.defaults(len(events))
	spare := r.takeSpare()
	s := newState(o.Model, spare.base)
	defer func() { r.giveSpare(spare, s.order, s.size) }()
	g := &generator{
		state: s, opts: o, visit: visit, seen: map[uint64]bool{}, initial: r.initial, under: r.loaded, work: spare.work,
		rng: rand.New(rand.NewPCG(o.Seed, 0)),
	}
	for i, e := range events[:o.To] {
		if e.kind == fence {
			if Mark(i) >= o.From {
				if err := g.epoch(false); err != nil {
					return g.stats, err
				}
			}
			g.settle(s.fence(e.area))
			continue
		}
		s.apply(e)
	}
	return g.stats, g.epoch(true)
}

// generator makes the images of one epoch after the other.
//
// Invariant: between images work equals state.base.
type generator struct {
	*state
	opts  Options
	visit func(*Image) error
	work  []medium.Area
	seen  map[uint64]bool
	rng   *rand.Rand
	stats Stats

	initial [][]byte
	under   []part
	durable uint64   // sum of the lines of base that are not pending, in this epoch
	chosen  [][]byte // the present image's lines
}

var sumSeed = maphash.MakeSeed()

// sum is what a line adds to an image's sum: nothing when it is as it was.
func (g *generator) sum(at place, p []byte) uint64 {
	if string(p) == string(g.initial[at.area][at.off:][:len(p)]) {
		return 0
	}
	return maphash.Bytes(sumSeed, p) ^ maphash.Comparable(sumSeed, at)
}

// settle takes over lines of base that became durable.
func (g *generator) settle(lines []place) {
	for _, at := range lines {
		g.work[at.area].Write(at.off, g.base[at.area][at.off:][:g.length(at)])
	}
}

// epoch visits the images of the epoch that ends now.
func (g *generator) epoch(last bool) error {
	defer func() { g.stats.Epochs++ }()
	lines := g.sorted()
	g.durable = 0
	for _, at := range g.order {
		if g.pending[at] == nil {
			g.durable ^= g.sum(at, g.base[at.area][at.off:][:g.length(at)])
		}
	}
	variants, exhaustive := g.variants(lines)
	if exhaustive {
		g.stats.Exhaustive++
		return g.all(lines, variants, last)
	}
	choose := func(pick func(i int) []byte) error { return g.image(lines, pick, last) }
	none := func(i int) []byte { return lines[i].before() }
	every := func(i int) []byte { return lines[i].whole() }
	if err := choose(none); err != nil {
		return err
	}
	if err := choose(every); err != nil {
		return err
	}
	step := max(1, len(lines)/g.opts.Lines)
	for k := g.stats.Epochs % step; k < len(lines); k += step {
		for _, pick := range []func(int) []byte{
			func(i int) []byte {
				if i == k {
					return none(i)
				}
				return every(i)
			},
			func(i int) []byte {
				if i == k {
					return every(i)
				}
				return none(i)
			},
		} {
			if err := choose(pick); err != nil {
				return err
			}
		}
	}
	for range g.opts.Samples {
		bias := 1 + g.rng.IntN(15) // in sixteenths: how much arrived
		if err := choose(func(i int) []byte { return lines[i].random(g.rng, bias) }); err != nil {
			return err
		}
	}
	return nil
}

// variants lists what each line may hold, if all images together are few.
func (g *generator) variants(lines []unit) (out [][][]byte, ok bool) {
	total := 1
	for _, l := range lines {
		v := l.variants(g.opts.Exhaustive)
		if v == nil || total*len(v) > g.opts.Exhaustive {
			return nil, false
		}
		total *= len(v)
		out = append(out, v)
	}
	return out, true
}

// all visits every combination.
func (g *generator) all(lines []unit, variants [][][]byte, last bool) error {
	at := make([]int, len(lines))
	for {
		if err := g.image(lines, func(i int) []byte { return variants[i][at[i]] }, last); err != nil {
			return err
		}
		i := 0
		for ; i < len(at); i++ {
			if at[i]++; at[i] < len(variants[i]) {
				break
			}
			at[i] = 0
		}
		if i == len(at) {
			return nil
		}
	}
}

// image visits one image unless it was visited before.
func (g *generator) image(lines []unit, pick func(i int) []byte, last bool) error {
	chosen, sum := g.chosen[:0], g.durable
	for i, l := range lines {
		at := l.place()
		chosen = append(chosen, pick(i)[:g.length(at)])
		sum ^= g.sum(at, chosen[i])
	}
	g.chosen = chosen
	// The last epoch's images are judged more strictly: they count apart.
	key := sum
	if last {
		key = ^key
	}
	if g.seen[key] {
		g.stats.Duplicates++
		return nil
	}
	g.seen[key] = true
	for i, l := range lines {
		at := l.place()
		g.work[at.area].Write(at.off, chosen[i])
	}
	defer func() {
		for _, l := range lines {
			at := l.place()
			g.work[at.area].Write(at.off, l.before()[:g.length(at)])
		}
	}()
	g.stats.Images++
	m := &Image{
		Epoch: g.stats.Epochs, Last: last, Areas: g.work, Sum: sum, lines: g.order, size: g.size, under: g.under,
		what: func() string { return describe(lines, chosen) },
	}
	return g.visit(m)
}

func describe(lines []unit, chosen [][]byte) string {
	var missing, partly []string
	whole := 0
	for i, l := range lines {
		n := len(chosen[i])
		switch name := fmt.Sprintf("%d:%#x", l.place().area, l.place().off); {
		case bytes.Equal(chosen[i], l.whole()[:n]):
			whole++
		case bytes.Equal(chosen[i], l.before()[:n]):
			missing = append(missing, name)
		default:
			partly = append(partly, name)
		}
	}
	short := func(s []string) string {
		if len(s) > 8 {
			s = append(s[:8:8], fmt.Sprintf("and %d more", len(s)-8))
		}
		return strings.Join(s, " ")
	}
	return fmt.Sprintf("of %d lines not durable %d arrived, %d in part [%s], %d did not [%s]",
		len(lines), whole, len(partly), short(partly), len(missing), short(missing))
}
