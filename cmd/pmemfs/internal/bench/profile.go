package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/report"
	"github.com/pmemfs/pmemfs/pmem"
)

// ProfileOptions are those of MeasureProfile.
type ProfileOptions struct {
	CompareOptions
	Size int64 // bytes of the file that is stored to, a multiple of 2 MiB
}

// profile says where the time of an operation goes. Nothing is measured inside of the product: each stage is done by itself,
// by the code that does it there, in turn with all others.
type profile struct {
	*arena
	size  int64
	order []int // of pages: far apart, one after the other
	pool  *medium.Pool
	core  *core.FS
	all   []*contestant
	rests []rest
}

// rest is a figure that is what others leave of a whole.
type rest struct {
	figure, whole *figure
	parts         []*figure
}

// recordOfCreate is how long the record of a create is in the log, in bytes: see costs.golden of internal/core.
const recordOfCreate = 5 * pmem.LineSize

const (
	wholeOf = "all of it"

	whatFault  = "first store to a page of a hole, through a Sync mapping"
	whatCreate = "create and close of a file, in the program's own process"
	whatServed = "create and close of a file, through a server"
)

// MeasureProfile takes page faults and a durable create to pieces. It leaves nothing behind, however it ends.
func MeasureProfile(ctx context.Context, o ProfileOptions) (_ *report.Part, err error) {
	o.Dirs, o.Ext4 = nil, nil // nobody is compared
	a, err := newArena(ctx, &o.CompareOptions, room{served: 2 * o.Size, embedded: o.Size, plain: o.Size})
	if err != nil {
		return nil, err
	}
	p := &profile{arena: a, size: o.Size, order: rand.New(rand.NewPCG(1, 2)).Perm(int(o.Size / pageSize))}
	defer func() { err = errors.Join(err, a.close(ctx)) }()
	if p.embedded == nil {
		return nil, fmt.Errorf("profiles need pools in a directory: %w", errors.ErrUnsupported)
	}
	for _, add := range []func() error{p.openCore, p.addFault, p.addCreate} {
		if err := errors.Join(add(), context.Cause(ctx)); err != nil {
			return nil, err
		}
	}
	if err := compare(ctx, &o.CompareOptions, "stages", p.all); err != nil {
		return nil, err
	}
	p.leave()
	return p.part("Where the time goes", p.all), nil
}

// openCore makes a pool that this process uses without sessions and messages.
func (p *profile) openCore() error {
	meta, data, err := core.Sizes(2*p.size+64<<20, core.FormatOptions{})
	if err != nil {
		return err
	}
	if p.pool, err = medium.Create(filepath.Join(p.dir, "core"), meta, data, medium.Options{Preallocate: true}); err != nil {
		return err
	}
	p.later(p.pool.Close)
	if err := core.Format(p.pool.Meta(), p.pool.Data(), core.FormatOptions{Zeroed: true}); err != nil {
		return err
	}
	p.core, err = core.Mount(p.pool.Meta(), p.pool.Data(), core.Options{})
	if err == nil {
		p.later(p.core.Close)
	}
	return err
}

// stage adds a part of something, that is done up to most times in a turn.
func (p *profile) stage(what, peer, note string, most int, before func() error, do func(i int) error, after func() error) *figure {
	f := &figure{what: what, peer: peer, note: note, durable: peer == wholeOf}
	turn := func(n int) error {
		if before != nil {
			if err := before(); err != nil {
				return err
			}
		}
		err := f.measure(n, do)
		if after != nil {
			err = errors.Join(err, after())
		}
		return err
	}
	p.all = append(p.all, newContestant(fewPages, most, turn, f))
	return f
}

// rest adds what parts leave of a whole.
func (p *profile) rest(note string, whole *figure, parts ...*figure) {
	f := &figure{what: whole.what, peer: "the rest", note: note}
	p.rests = append(p.rests, rest{f, whole, parts})
}

// leave works out the rests, each behind the parts of its whole.
func (p *profile) leave() {
	for _, r := range p.rests {
		for round, ns := range r.whole.ns {
			for _, part := range r.parts {
				ns -= part.ns[round]
			}
			r.figure.ns = append(r.figure.ns, ns)
		}
		p.all = append(p.all, &contestant{figures: []*figure{r.figure}})
	}
}

// addFault takes a page fault to pieces.
func (p *profile) addFault() error {
	f, err := p.fsys.OpenFile("faults", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	p.later(f.Close)
	if err := f.Truncate(p.size); err != nil {
		return err
	}
	var m *pmemfs.Mapping
	begin := func() (err error) {
		if err := f.PunchHole(0, p.size); err != nil {
			return err
		}
		m, err = f.Map(0, int(p.size), pmemfs.Sync)
		return err
	}
	whole := p.stage(whatFault, wholeOf, "a store at a random place", len(p.order), begin,
		func(i int) error { m.Bytes()[p.order[i]*pageSize] = 1; return nil }, func() error { return m.Unmap() })
	trip := p.stage(whatFault, "round trip", "stat of an open file, a request through the fault page", 1<<30, nil,
		func(int) error { _, err := f.Stat(); return err }, nil)
	resolve, err := p.coreFault()
	if err != nil {
		return err
	}
	mapped, err := p.mapRun()
	if err != nil {
		return err
	}
	for _, f := range []*figure{whole, trip, resolve, mapped} {
		f.each = newHistogram() // faults that are interrupted are no sums of such parts
	}
	p.rest("the trap, the return, the record of the grant", whole, trip, resolve, mapped)
	return nil
}

// coreFault is what the server does in the file system.
func (p *profile) coreFault() (*figure, error) {
	a, err := p.core.Create(core.Cred{}, layout.RootIno, "faults", layout.ModeRegular|0o600, 0)
	if err != nil {
		return nil, err
	}
	n, err := p.core.Open(a.Ino)
	if err != nil {
		return nil, err
	}
	p.later(n.Close)
	sized := func(size int64) error { _, err := n.SetAttr(core.Cred{}, core.SetAttr{Size: &size}); return err }
	begin := func() error { return errors.Join(sized(0), sized(p.size)) }
	granted := func(core.Run) error { return nil }
	resolve := p.stage(whatFault, "file system", "allocate, zero, commit", len(p.order), begin,
		func(i int) error { return n.Fault(int64(p.order[i]), true, true, 1, 1, granted) }, nil)
	v, err := p.plainMemory()
	if err != nil {
		return nil, err
	}
	p.stage(whatFault, "of that: zeros", "4 KiB streamed, and a fence", 1<<30, nil, func(i int) error {
		pmem.Zero(v[p.order[i%len(p.order)]*pageSize:][:pageSize])
		pmem.Fence()
		return nil
	}, nil)
	p.transaction(whatFault, a.Ino)
	return resolve, nil
}

// transaction is the least that there is.
func (p *profile) transaction(what string, ino layout.Ino) {
	p.stage(what, "of that: a transaction", "chmod: the least that there is", 1<<30, nil, func(i int) error {
		mode := uint32(0o600 + i%2)
		_, err := p.core.SetAttr(core.Cred{}, ino, core.SetAttr{Mode: &mode})
		return err
	}, nil)
}

func (p *profile) plainMemory() ([]byte, error) {
	v, err := p.plain.mmap(unix.MAP_SHARED | unix.MAP_POPULATE)
	if err == nil {
		p.later(func() error { return unix.Munmap(v) })
	}
	return v, err
}

// mapRun is what the client does with the answer.
func (p *profile) mapRun() (*figure, error) {
	data, err := os.OpenFile(p.plain.Name(), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	c, err := fault.NewClient(fault.ClientOptions{Data: data, MapFlags: unix.MAP_SHARED, ServerPidfd: -1})
	if err != nil {
		return nil, errors.Join(err, data.Close())
	}
	p.later(c.Close)
	var r *fault.Range
	begin := func() (err error) {
		if r, err = c.Reserve(p.size); err == nil {
			r.Activate(1)
		}
		return err
	}
	return p.stage(whatFault, "map", "mmap of the block, and its page table", len(p.order), begin, func(i int) error {
		at := int64(p.order[i])
		reply := fault.Reply{FirstPage: at, Count: 1, Offset: at * pageSize, Writable: true, Populate: true}
		if code := r.MapRun(reply); code != fault.CodeOK {
			return fmt.Errorf("map a block: %v", code)
		}
		return nil
	}, func() error { return r.Release() }), nil
}

// created is a file system in which files are created and, behind the turn, removed again.
func (p *profile) created(what, peer, note string, create func(name string) error, remove func(name string) error) *figure {
	n := 0
	name := func(i int) string { return fmt.Sprintf("file-%07d", i) }
	return p.stage(what, peer, note, 2000, func() error { n = 0; return nil }, func(i int) error { n = i + 1; return create(name(i)) }, func() (err error) {
		for i := range n {
			err = errors.Join(err, remove(name(i)))
		}
		return err
	})
}

// addCreate takes a durable create to pieces.
func (p *profile) addCreate() error {
	through := func(what string, fsys *pmemfs.FS) *figure {
		names := poolNames(fsys)
		return p.created(what, wholeOf, "", names.create, names.unlink)
	}
	whole := through(whatCreate, p.embedded)
	made := p.created(whatCreate, "file system", "look up, change bitmaps, inodes and directory, commit", func(name string) error {
		n, err := p.core.CreateFile(core.Cred{}, layout.RootIno, name, 0o600)
		if err != nil {
			return err
		}
		return n.Close()
	}, func(name string) error { return p.core.Unlink(core.Cred{}, layout.RootIno, name) })
	p.stage(whatCreate, "of that: a name", "looked up that is not there", 1<<30, nil, func(int) error {
		if _, err := p.core.Lookup(core.Cred{}, layout.RootIno, "nothing"); err != unix.ENOENT {
			return fmt.Errorf("a name that is not there: %v", err)
		}
		return nil
	}, nil)
	a, err := p.core.Create(core.Cred{}, layout.RootIno, "changed", layout.ModeRegular|0o600, 0)
	if err != nil {
		return err
	}
	p.transaction(whatCreate, a.Ino)
	v, err := p.plainMemory()
	if err != nil {
		return err
	}
	l := &ring{mem: v}
	p.stage(whatCreate, "of that: the record", fmt.Sprintf("%d bytes streamed, and a fence", recordOfCreate), 1<<30, nil, func(int) error {
		l.stream([]int{recordOfCreate})
		return nil
	}, nil)
	p.rest("the path, the handle, the messages", whole, made)
	served := through(whatServed, p.fsys)
	p.rest("but for what it takes in one process: two round trips, the record of the handle for the next server", served, whole)
	return nil
}
