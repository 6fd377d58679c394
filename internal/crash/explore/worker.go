package explore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/crash"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// base is the pool that all cases begin with, closed.
type base struct {
	meta, data medium.Area
	model      *Model
	sb         *layout.Superblock
}

var theBase = sync.OnceValues(makeBase)

func makeBase() (*base, error) {
	o := core.FormatOptions{
		Inodes: layout.ChunkUnits, Nodes: layout.ChunkUnits, LogBytes: layout.MinLog, Zeroed: true,
		Now: func() int64 { return firstTime }, Random: rand.NewChaCha8([32]byte{}),
	}
	metaSize, dataSize, err := core.Sizes(6<<20, o)
	if err != nil {
		return nil, err
	}
	b := &base{meta: medium.Memory(metaSize), data: medium.Memory(dataSize), model: newModel()}
	b.data.Write(0, bytes.Repeat([]byte("stale\xff\xfe\xfd"), int(dataSize/8))) // never to be seen
	if err := core.Format(b.meta, b.data, o); err != nil {
		return nil, err
	}
	if b.sb, err = layout.ReadSuperblock(b.meta.Bytes()); err != nil {
		return nil, err
	}
	s, err := newSession(b.meta, b.data, firstTime, Setting{})
	if err != nil {
		return nil, err
	}
	b.model.now = firstTime
	b.model.root.set(firstTime, firstTime)
	for _, o := range baseTree {
		if err := errors.Join(s.run(o, 0), b.model.Apply(o, 0, firstTime)); err != nil {
			return nil, fmt.Errorf("%v: %w", o, err)
		}
	}
	return b, s.close()
}

// verdict is what is known of an image that was looked at: the digest of its
// tree, or 0 when it could not be read or checked.
type verdict = uint64

// verdicts is the images that were looked at, by crash.Image.Sum: shared by
// all workers.
type verdicts struct {
	shards [64]struct {
		sync.Mutex
		m map[uint64]verdict
	}
}

func (v *verdicts) get(sum uint64) (verdict, bool) {
	s := &v.shards[sum%64]
	s.Lock()
	defer s.Unlock()
	d, ok := s.m[sum]
	return d, ok
}

// put returns whether the image is new.
func (v *verdicts) put(sum uint64, d verdict) bool {
	s := &v.shards[sum%64]
	s.Lock()
	defer s.Unlock()
	_, known := s.m[sum]
	if s.m == nil {
		s.m = map[uint64]verdict{}
	}
	s.m[sum] = d
	return !known
}

// worker runs cases, one after the other.
type worker struct {
	base     *base
	verdicts *verdicts
	ctx      context.Context
	cases    *crash.Recorder // made of base, as the others
	replay   *crash.Recorder
	again    *crash.Recorder
	reader   reader
	report   Report // of this worker

	// of the present case
	c      *Case
	mutant *Mutant
	during []allowed // states that may be left in the last operation
	after  []allowed // and when it has returned
	found  []*Violation
	fresh  int
}

// allowed is a state that an image may show.
type allowed struct {
	model   *Model
	digests [2]uint64
}

func allow(states []*Model) (out []allowed) {
	for _, m := range states {
		out = append(out, allowed{m, [2]uint64{m.tree(false).digest(), m.tree(true).digest()}})
	}
	return out
}

func newWorker(ctx context.Context, v *verdicts) (*worker, error) {
	b, err := theBase()
	if err != nil {
		return nil, err
	}
	record := func() *crash.Recorder { return crash.Record(b.meta, b.data) }
	return &worker{base: b, verdicts: v, ctx: ctx, cases: record(), replay: record(), again: record()}, nil
}

var errEnough = errors.New("enough violations")

func (w *worker) violation(image, format string, args ...any) error {
	v := &Violation{Case: w.c, Image: image, What: fmt.Sprintf(format, args...)}
	w.found = append(w.found, v)
	if len(w.found) >= 3 {
		return errEnough
	}
	return nil
}

// run runs a case and returns the violations that it shows, at most three.
// skipped: an operation before the last one fails, so that a shorter sequence
// shows the same.
func (w *worker) run(c *Case) (found []*Violation, skipped bool, err error) {
	if hopeless(w.base.model, c.Ops) {
		return nil, true, nil
	}
	w.c, w.mutant, w.found, w.fresh = c, findMutant(c.Mutant), nil, 0
	w.cases.Reset()
	defer func() {
		if r := recover(); r != nil {
			w.violation("", "panic: %v\n%s", r, debug.Stack())
			found, err = w.found, nil
		}
	}()
	err = w.operations(c)
	if err == errEnough {
		err = nil
	}
	return w.found, false, err
}

// hopeless reports whether an operation before the last one fails.
func hopeless(m *Model, ops []Op) bool {
	m = m.clone()
	for i, o := range slices.Concat(before(ops), ops[:len(ops)-1]) {
		if m.Apply(o, i, firstTime) != nil {
			return true
		}
	}
	return false
}

// operations does the case's operations, and looks at the last one.
func (w *worker) operations(c *Case) error {
	w.report.Sequences++
	meta, data := w.cases.Area(0), w.cases.Area(1)
	if w.mutant != nil {
		meta, data = w.mutant.areas(w.base.sb, meta, data)
	}
	s, err := newSession(meta, data, firstTime, c.Setting)
	if err != nil {
		return w.violation("", "mount: %v", err)
	}
	m := w.base.model.clone()
	m.setting = c.Setting
	for _, o := range before(c.Ops) {
		if err := errors.Join(s.run(o, 0), m.Apply(o, 0, firstTime)); err != nil {
			return w.violation("", "%v: %v", o, err)
		}
	}
	options := c.options()
	for i, o := range c.Ops {
		options.From = w.cases.Now()
		s.now += opTime
		got, want := s.run(o, i+1), m.Apply(o, i+1, s.now)
		if !sameError(got, want) {
			return w.violation("", "%v: error %v, want %v", o, got, want)
		}
	}
	options.To = w.cases.Now()
	t, err := w.reader.read(s.fs)
	if err != nil {
		return w.violation("", "when all is done: %v", err)
	}
	if d := m.differs(t); d != "" {
		return w.violation("", "when all is done: %s", d)
	}
	w.during, w.after = allow(append(m.states, m)), allow(append(m.past, m))
	stats, err := w.cases.Images(options, w.image)
	w.report.Epochs += int64(stats.Epochs)
	return err
}

func sameError(got, want error) bool {
	var conflict, wanted *core.ConflictError
	if errors.As(want, &wanted) { // the model does not know the inode's number
		return errors.As(got, &conflict) && conflict.Off == wanted.Off
	}
	var unfilled, expected *core.UnfilledError
	if errors.As(want, &expected) { // the model does not know what the block lacks
		return errors.As(got, &unfilled) && unfilled.Off == expected.Off
	}
	return (got == nil) == (want == nil) && (want == nil || errors.Is(got, want))
}

// image looks at an image: it must mount, be whole, and show a state that is
// allowed.
func (w *worker) image(m *crash.Image) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	w.report.Made++
	states := w.during
	if m.Last {
		states = w.after
	}
	d, known := verdict(0), false
	if w.mutant == nil || w.mutant.Recovery == nil {
		d, known = w.verdicts.get(m.Sum)
	}
	if known && expected(states, d) {
		return nil
	}
	t, err := w.look(m.Areas)
	if err != nil {
		w.verdicts.put(m.Sum, 0)
		return w.violation(m.String(), "%v", err)
	}
	if !known {
		d = t.digest()
		if w.verdicts.put(m.Sum, d) {
			w.report.Images++
			w.fresh++
		}
	}
	if !expected(states, d) {
		if problem := nearest(states, t); problem != "" {
			return w.violation(m.String(), "%s", problem)
		}
	}
	if deep := w.c.Effort.Deep; !known && deep > 0 && w.fresh%deep == 0 {
		if err := w.further(m); err != nil {
			return w.violation(m.String(), "used further: %v", err)
		}
	}
	return nil
}

func expected(states []allowed, d verdict) bool {
	for _, s := range states {
		if d == s.digests[0] || d == s.digests[1] {
			return true
		}
	}
	return false
}

// nearest says how a tree differs from the state that it is most like; empty:
// it is allowed.
func nearest(states []allowed, t tree) (problem string) {
	for _, s := range states {
		d := s.model.differs(t)
		if d == "" {
			return ""
		}
		if problem == "" || len(d) < len(problem) {
			problem = d
		}
	}
	return fmt.Sprintf("of %d states that are allowed the nearest differs: %s", len(states), problem)
}

// look mounts an image without storing to it, checks and reads it.
func (w *worker) look(areas []medium.Area) (t tree, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	if w.mutant != nil && w.mutant.Recovery != nil {
		areas = w.mutant.recovered(w.base.sb, areas)
	}
	fs, err := core.Mount(areas[0], areas[1], core.Options{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	defer fs.Close()
	if err := check(fs); err != nil {
		return nil, err
	}
	return w.reader.read(fs)
}

func check(fs *core.FS) error {
	var problems []string
	_, err := fs.Check(context.Background(), func(p core.Problem) {
		if !p.Note {
			problems = append(problems, p.String())
		}
	})
	if len(problems) > 0 {
		return fmt.Errorf("check: %s", strings.Join(problems, "\n\t"))
	}
	return err
}
