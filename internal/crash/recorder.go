// Package crash is a medium that can lose its power: a Recorder stands between
// a program and its areas and records every store, flush and fence; from the
// record it makes the images that a power cut may leave.
//
// What a power cut may leave follows from what the medium promises, no more:
//
//   - An aligned 8-byte word is old or new, never half of each.
//   - A cached store (Write) may be missing until its line was flushed and a
//     fence has passed, however long ago it was made; or it may have arrived,
//     flushed or not. Cached stores to one line arrive in order. The words of
//     one Write are stored in any order.
//   - A streaming store (Stream, Zero, Copy) may be missing until a fence has
//     passed, each word for itself.
//   - Different lines are independent of each other.
//   - A fence is one for all areas of a Recorder, as one instruction of one
//     CPU is.
//
// Between two fences (an epoch) every moment's images are among those of the
// epoch's end, because what was not stored yet may be missing as well. So
// images are made once per epoch.
package crash

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/pmemfs/pmemfs/internal/medium"
)

const (
	lineSize = 64
	wordSize = 8
)

type kind uint8

const (
	cached kind = iota
	streamed
	flush
	fence
)

// event is one call that reached the medium.
type event struct {
	kind kind
	area int
	off  int64
	n    int64
	data []byte // of stores
}

// Recorder records what is stored to its areas.
//
// Invariant: initial with all events applied in order equals the areas; spare,
// when there is one, equals initial.
type Recorder struct {
	initial [][]byte
	areas   []medium.Area
	loaded  []part // what initial held before Load

	mu     sync.Mutex
	events []event // protected by mu
	spare  *spare  // protected by mu
}

// spare is memory for Images, kept so that it is not copied each time.
type spare struct {
	base [][]byte
	work []medium.Area
}

// part is the content of an area from a place on.
type part struct {
	at    place
	bytes []byte
}

// set makes base and work hold p at a place.
func (s *spare) set(at place, p []byte) {
	copy(s.base[at.area][at.off:], p)
	s.work[at.area].Write(at.off, p)
}

// Record returns a recorder whose areas are copies of images: all that they
// hold is durable.
func Record(images ...medium.Area) *Recorder {
	r := &Recorder{}
	for _, image := range images {
		below := medium.Memory(image.Size())
		below.Write(0, image.Bytes())
		r.initial = append(r.initial, append([]byte(nil), image.Bytes()...))
		r.areas = append(r.areas, below)
	}
	return r
}

// Reset forgets the record: the areas hold again what they were made of. Marks
// and images of before are void. Costs what was stored since.
func (r *Recorder) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.data != nil {
			r.areas[e.area].Write(e.off, r.initial[e.area][e.off:e.off+e.n])
		}
	}
	clear(r.events)
	r.events = r.events[:0]
	for _, l := range r.loaded {
		r.setInitial(l.at, l.bytes)
	}
	r.loaded = r.loaded[:0]
}

// Load makes the areas hold an image, all of it durable, until Reset. r was
// just made of (or Reset to) the same as the image's recorder, so that they
// differ in few lines.
func (r *Recorder) Load(m *Image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range m.under {
		r.load(m, l.at, int64(len(l.bytes)))
	}
	for _, at := range m.lines {
		r.load(m, at, m.size)
	}
}

func (r *Recorder) load(m *Image, at place, n int64) {
	p := m.Areas[at.area].Bytes()[at.off:min(at.off+n, m.Areas[at.area].Size())]
	old := r.initial[at.area][at.off:][:len(p)]
	if !bytes.Equal(p, old) {
		r.loaded = append(r.loaded, part{at, bytes.Clone(old)})
		r.setInitial(at, p)
	}
}

func (r *Recorder) setInitial(at place, p []byte) {
	copy(r.initial[at.area][at.off:], p)
	r.areas[at.area].Write(at.off, p)
	if r.spare != nil {
		r.spare.set(at, p)
	}
}

// takeSpare returns memory with the initial content, for the caller alone.
func (r *Recorder) takeSpare() *spare {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.spare
	r.spare = nil
	if s != nil {
		return s
	}
	s = &spare{}
	for _, image := range r.initial {
		s.base = append(s.base, append([]byte(nil), image...))
		s.work = append(s.work, medium.Memory(int64(len(image))))
		s.work[len(s.work)-1].Write(0, image)
	}
	return s
}

// giveSpare takes the memory back; lines, of a size, is where it may
// differ.
func (r *Recorder) giveSpare(s *spare, lines []place, size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, at := range lines {
		image := r.initial[at.area][at.off:]
		s.set(at, image[:min(size, int64(len(image)))])
	}
	r.spare = s
}

// Area returns the i-th area, which records.
func (r *Recorder) Area(i int) medium.Area { return &area{r, i, r.areas[i]} }

// Mark is a moment in the record.
type Mark int

// Now returns the present moment.
func (r *Recorder) Now() Mark {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Mark(len(r.events))
}

// Fences is how many fences were recorded since a moment.
func (r *Recorder) Fences(since Mark) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events[since:] {
		if e.kind == fence {
			n++
		}
	}
	return n
}

// area is a recording medium.Area.
type area struct {
	r     *Recorder
	index int
	below medium.Area
}

func (a *area) record(e event, apply func()) {
	a.r.mu.Lock()
	defer a.r.mu.Unlock()
	apply() // first, because it panics when out of range
	e.area = a.index
	a.r.events = append(a.r.events, e)
}

func (a *area) store(k kind, off int64, p []byte, apply func()) {
	if len(p) > 0 {
		a.record(event{kind: k, off: off, n: int64(len(p)), data: append([]byte(nil), p...)}, apply)
	}
}

// Size is the size of the image.
func (a *area) Size() int64 { return a.below.Size() }

// Bytes is what the program sees: every store, durable or not.
func (a *area) Bytes() []byte { return a.below.Bytes() }

// Read is not recorded.
func (a *area) Read(off int64, p []byte) { a.below.Read(off, p) }

// FirstBad finds none: the simulated medium loses power, not blocks.
func (a *area) FirstBad(off, n int64) int64 { return a.below.FirstBad(off, n) }

// Heal has nothing to do.
func (a *area) Heal(off, n int64) error { return a.below.Heal(off, n) }

// Write records cached stores.
func (a *area) Write(off int64, p []byte) { a.store(cached, off, p, func() { a.below.Write(off, p) }) }

// Stream records streaming stores.
func (a *area) Stream(off int64, p []byte) {
	a.store(streamed, off, p, func() { a.below.Stream(off, p) })
}

// Zero records streaming stores of zeros.
func (a *area) Zero(off, n int64) {
	a.store(streamed, off, make([]byte, n), func() { a.below.Zero(off, n) })
}

// Copy records streaming stores of what is at src now.
func (a *area) Copy(dst, src, n int64) {
	if src < 0 || n < 0 || src > a.Size()-n {
		panic(fmt.Sprintf("crash: copy of %d bytes from offset %d: out of range", n, src))
	}
	a.store(streamed, dst, a.below.Bytes()[src:src+n], func() { a.below.Copy(dst, src, n) })
}

// Flush records that the lines of a range are written back.
func (a *area) Flush(off, n int64) {
	if n > 0 {
		a.record(event{kind: flush, off: off, n: n}, func() { a.below.Flush(off, n) })
	}
}

// Fence records the end of an epoch, for all areas.
func (a *area) Fence() error {
	a.record(event{kind: fence}, func() {})
	return a.below.Fence()
}
