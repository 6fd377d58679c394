package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pmemfs/pmemfs/internal/report"
)

var errUnavailable = errors.New("not measured")

type options struct {
	dir, disk string
	rounds    int
	turn      time.Duration // of one database with one size of transactions, in a round
	chosen    func(name string) bool
}

const (
	keys      = 1_000_000 // that puts choose from at random
	keySize   = 16        // bytes
	valueSize = 100       // bytes
)

var batches = []int{1, 100} // puts in a transaction

// put is a key and the value that it gets.
type put struct {
	key   [keySize]byte
	value [valueSize]byte
}

// database is one that is measured, at one place.
type database interface {
	// run commits transactions of that many puts for d, each durable before the next begins where the place makes things
	// durable at all, and returns how many there were.
	run(puts int, d time.Duration) (transactions int, took time.Duration, err error)
	close() error
}

// contender is a database at a place.
type contender struct {
	engine  string
	place   *place
	db      database
	figures map[int][]float64 // transactions per second, by puts in each
}

func (c *contender) name() string { return c.engine + ", " + c.place.name }

// looped is a database that commits by a function.
type looped struct {
	busy   func() bool // something goes on in the background; nil: never
	commit func([]put) error
	end    func() error
	random *rand.Rand
	batch  []put
}

func newLooped(commit func([]put) error, end func() error) *looped {
	return &looped{commit: commit, end: end, random: rand.New(rand.NewPCG(1, 2))}
}

func (l *looped) close() error { return l.end() }

// settle waits, for a while, until nothing goes on in the background.
func (l *looped) settle() {
	for range 500 {
		if l.busy == nil || !l.busy() {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (l *looped) run(puts int, d time.Duration) (n int, took time.Duration, err error) {
	if len(l.batch) != puts {
		l.batch = make([]put, puts)
	}
	start := time.Now()
	for ; took < d; took = time.Since(start) {
		for i := range l.batch {
			p := &l.batch[i]
			binary.BigEndian.PutUint64(p.key[8:], l.random.Uint64N(keys)*0x9e3779b97f4a7c15)
			binary.LittleEndian.PutUint64(p.value[:], l.random.Uint64())
		}
		if err := l.commit(l.batch); err != nil {
			return n, took, err
		}
		n++
	}
	return n, took, nil
}

// measure has all take turns, round by round.
func measure(ctx context.Context, o options) (part *report.Part, err error) {
	part = &report.Part{Title: "Databases", Machine: report.ThisMachine()}
	places, notes, err := newPlaces(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, places.close()) }()
	part.Notes = notes
	part.Machine.Medium, part.Machine.Granularity, part.Machine.Emulated = places.medium()
	var all []*contender
	defer func() {
		for _, c := range all {
			err = errors.Join(err, c.db.close())
		}
	}()
	for _, e := range engines {
		for _, p := range places.list {
			c := &contender{engine: e.name, place: p, figures: map[int][]float64{}}
			if !o.chosen(c.name()) || p.fsys != nil && !e.pool {
				continue
			}
			c.db, err = e.open(p)
			if errors.Is(err, errUnavailable) {
				part.Notes = append(part.Notes, fmt.Sprintf("%s: %v", c.name(), err))
				err = nil
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("open %s: %w", c.name(), err)
			}
			all = append(all, c)
		}
	}
	random := rand.New(rand.NewPCG(3, 4))
	for round := range o.rounds + 1 {
		for _, i := range random.Perm(len(all)) { // nobody always comes after the same one
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if err := all[i].turn(o.turn, round > 0); err != nil { // the first round is for caches and files to fill
				return nil, fmt.Errorf("%s: %w", all[i].name(), err)
			}
		}
	}
	part.Rows = rows(all)
	return part, nil
}

// turn runs transactions of each size, and leaves nothing in the background that the next one's figures would suffer from.
func (c *contender) turn(d time.Duration, counts bool) error {
	for _, puts := range batches {
		n, took, err := c.db.run(puts, d)
		if err != nil {
			return err
		}
		if counts {
			c.figures[puts] = append(c.figures[puts], float64(n)/took.Seconds())
		}
		if busy, ok := c.db.(interface{ settle() }); ok {
			busy.settle()
		}
	}
	return nil
}

// rows compares each with the same database on tmpfs.
func rows(all []*contender) (rows []report.Row) {
	for _, puts := range batches {
		what := fmt.Sprintf("durable transactions of %d puts", puts)
		if puts == 1 {
			what = "durable transactions of one put"
		}
		byName := map[string]report.Row{}
		for _, c := range all {
			byName[c.name()] = report.NewRow(what, c.name(), "1/s", c.figures[puts])
		}
		for _, c := range all {
			r := byName[c.name()]
			if tmpfs, ok := byName[c.engine+", "+tmpfsName]; ok {
				r.Compare(tmpfs.Median)
			}
			r.Durable = c.place.durable
			rows = append(rows, r)
		}
	}
	return rows
}
