package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/child"
)

// torture has writers append records while it kills them, and the server, at random moments.
func (d *demo) torture(ctx context.Context) (err error) {
	if d.shared, err = newShared(d.scale.writers); err != nil {
		return err
	}
	err = d.use(func(fsys *pmemfs.FS) error {
		return errors.Join(fsys.Mkdir("writers", 0o755), fsys.WriteFile(scratchName, nil, 0o666), fsys.Truncate(scratchName, scratchSize))
	})
	if err != nil {
		return err
	}
	d.writers = make([]*child.Process, d.scale.writers)
	for i := range d.writers {
		if err := d.startWriter(i); err != nil {
			return err
		}
	}
	how := "mapped Sync, and acknowledge each after Persist"
	if d.result.DurableStore == nil {
		how = "mapped Shared (this medium has no Sync mappings), and acknowledge many at a time after Mapping.Sync"
	}
	d.log("%d processes append records to files %s, by a store to shared memory", len(d.writers), how)
	stopMoving := d.moveBlocks(ctx)
	defer func() { err = errors.Join(err, stopMoving()) }()
	return d.killAround(ctx)
}

// killAround kills writers and servers, and then waits until there are as many records as there must be.
func (d *demo) killAround(ctx context.Context) error {
	var back []time.Duration
	for round := range d.rounds {
		for range d.kills {
			if err := d.killWriter(ctx, rand.IntN(len(d.writers))); err != nil {
				return err
			}
		}
		took, err := d.killServer(ctx)
		if err != nil {
			return err
		}
		back = append(back, took)
		d.log("round %d of %d: %d records acknowledged so far", round+1, d.rounds, d.shared.sum(acknowledged))
	}
	d.result.RecoveryMilli = median(back).Milliseconds()
	return d.fill(ctx)
}

func (d *demo) startWriter(i int) (err error) {
	d.writers[i], err = d.children.Start(fmt.Sprintf("writer %d", i), []*os.File{d.shared.file},
		"demo-writer", "--socket", d.socket, "--index", strconv.Itoa(i), "--writers", strconv.Itoa(len(d.writers)))
	return err
}

// until waits for something, as long as everybody who should be is alive.
func (d *demo) until(ctx context.Context, what string, reached func() bool) error {
	for deadline := time.Now().Add(patience); !reached(); time.Sleep(20 * time.Microsecond) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		for _, p := range append(slices.Clone(d.writers), d.server) {
			if err := p.Alive(); err != nil {
				d.result.Lost = int64(d.shared.sum(lost))
				return err
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %v", what, patience)
		}
	}
	return nil
}

// duringBurst lets all writers append, and returns at a random moment at which the given one does so.
func (d *demo) duringBurst(ctx context.Context, victim int) error {
	for i := range d.writers {
		b := d.shared.at(i, budget)
		b.Store(max(b.Load(), d.shared.at(i, acknowledged).Load()+d.burst))
	}
	acked := d.shared.at(victim, acknowledged)
	moment := acked.Load() + 1 + rand.Uint64N(d.burst*3/4)
	return d.until(ctx, fmt.Sprintf("writer %d appends", victim), func() bool { return acked.Load() >= moment })
}

// session waits for a writer to have connected, verified all its records, and gone on.
func (d *demo) session(ctx context.Context, i int, before uint64) error {
	return d.until(ctx, fmt.Sprintf("writer %d goes on", i), func() bool { return d.shared.at(i, sessions).Load() > before })
}

func (d *demo) killWriter(ctx context.Context, i int) error {
	if err := d.session(ctx, i, 0); err != nil {
		return err
	}
	if err := d.duringBurst(ctx, i); err != nil {
		return err
	}
	p := d.writers[i]
	p.Kill()
	start := time.Now()
	d.result.WriterKills++
	before, acked := d.shared.at(i, sessions).Load(), d.shared.at(i, acknowledged).Load()
	if err := d.startWriter(i); err != nil {
		return err
	}
	if err := d.session(ctx, i, before); err != nil {
		return err
	}
	d.log("killed writer %d (process %d), which had acknowledged %d records; the next found %d after %d ms, and goes on",
		i, p.PID(), acked, d.shared.at(i, found).Load(), time.Since(start).Milliseconds())
	return nil
}

func (d *demo) killServer(ctx context.Context) (back time.Duration, err error) {
	for i := range d.writers {
		if err := d.session(ctx, i, 0); err != nil {
			return 0, err
		}
	}
	before := make([]uint64, len(d.writers))
	if err := d.duringBurst(ctx, rand.IntN(len(d.writers))); err != nil {
		return 0, err
	}
	for i := range before {
		before[i] = d.shared.at(i, sessions).Load()
	}
	pid := d.server.PID()
	d.server.Kill()
	start := time.Now()
	d.result.ServerKills++
	if err := d.startServer(ctx); err != nil {
		return 0, err
	}
	back = time.Since(start)
	survived := 0
	for i := range d.writers {
		if err := d.served(ctx, i); err != nil {
			return back, err
		}
		if d.shared.at(i, sessions).Load() == before[i] {
			survived++
		}
	}
	d.result.Survived += int64(survived)
	d.log("killed the server (process %d); the next was ready after %d ms; after %d ms all writers go on: "+
		"%d did not notice, %d have connected anew and found their records",
		pid, back.Milliseconds(), time.Since(start).Milliseconds(), survived, len(d.writers)-survived)
	return back, nil
}

// served waits for a writer to append, served by the server that is now.
func (d *demo) served(ctx context.Context, i int) error {
	pid := uint64(d.server.PID())
	err := d.until(ctx, fmt.Sprintf("writer %d is served again", i), func() bool {
		// Until it has nothing to do it does not look who serves it.
		d.shared.at(i, budget).Store(d.shared.at(i, acknowledged).Load())
		return d.shared.at(i, served).Load() == pid
	})
	if err != nil {
		return err
	}
	target := d.shared.at(i, acknowledged).Load() + 1 + d.burst/8
	d.shared.at(i, budget).Store(target)
	return d.until(ctx, fmt.Sprintf("writer %d goes on", i), func() bool { return d.shared.at(i, acknowledged).Load() >= target })
}

// fill waits until there are as many records as there must be.
func (d *demo) fill(ctx context.Context) error {
	share := d.records/uint64(len(d.writers)) + 1
	for i := range d.writers {
		b := d.shared.at(i, budget)
		b.Store(max(b.Load(), share))
	}
	return d.until(ctx, "the writers finish", func() bool {
		for i := range d.writers {
			if d.shared.at(i, acknowledged).Load() < d.shared.at(i, budget).Load() {
				return false
			}
		}
		return true
	})
}

// finish ends the writers and the server, as they would end on any day.
func (d *demo) finish(ctx context.Context) error {
	for i := range d.writers {
		d.shared.at(i, stop).Store(1)
	}
	for _, p := range d.writers {
		if err := p.Wait(ctx); err != nil {
			return err
		}
	}
	if err := d.server.Terminate(ctx); err != nil {
		return err
	}
	r := d.result
	r.Acknowledged, r.Lost = int64(d.shared.sum(acknowledged)), int64(d.shared.sum(lost))
	r.Rotations, r.Caught = int64(d.shared.sum(rotations)), int64(d.shared.sum(caught))
	d.log("meanwhile: blocks moved under a writer %d times, files renamed while mapped %d times, a mapped file cut off %d times (%d stores beyond its end were caught)",
		r.Relocations, r.Rotations, r.Truncations, r.Caught)
	d.log("writers and server have ended")
	return nil
}

// moveBlocks moves the blocks of files that writers are storing to, and cuts off one that all have mapped, until stop
// is called, which returns what went wrong.
func (d *demo) moveBlocks(ctx context.Context) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			time.Sleep(time.Millisecond)
			fsys, err := pmemfs.Dial(d.socket)
			if err != nil {
				continue // the server was killed, and the next is not ready
			}
			for err == nil && ctx.Err() == nil {
				time.Sleep(10 * time.Millisecond)
				err = d.disturb(fsys)
			}
			fsys.Close() // of no consequence: every operation has been durable
			if err != nil && !errors.Is(err, pmemfs.ErrServerGone) {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	return func() error {
		cancel()
		return <-ended
	}
}

// disturb does each of the things once. A writer that does not run for seconds (EBUSY) is none of its business.
func (d *demo) disturb(fsys *pmemfs.FS) error {
	f, err := fsys.OpenFile(path.Join(writerDir(rand.IntN(len(d.writers))), currentName), os.O_RDWR, 0)
	if err == nil {
		err = f.Relocate(0, segmentSize)
		if err == nil {
			d.result.Relocations++
		}
		err = errors.Join(err, f.Close())
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EBUSY) { // not there: it is being rotated
		err = fsys.Truncate(scratchName, rand.Int64N(scratchSize))
	}
	if err == nil {
		d.result.Truncations++
		time.Sleep(time.Millisecond)
		err = fsys.Truncate(scratchName, scratchSize)
	}
	if errors.Is(err, unix.EBUSY) {
		return nil
	}
	return err
}
