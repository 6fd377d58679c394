package medium

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrPowerCut is returned by a Fence after the power was cut: what it should have made durable is lost.
var ErrPowerCut error = kind{errors.New("the power was cut"), unix.EIO}

// PowerCutOptions for NewPowerCut.
type PowerCutOptions struct {
	// Seed of what survives a cut although nobody made it durable, as if the CPU had evicted it from its caches in time.
	// 0: nothing does.
	Seed uint64
	// Require refuses what is emulated, memory behind CPU caches, when it is weaker.
	Require Granularity
}

// PowerCut emulates, over the files of a pool, persistent memory that loses its power: a store reaches them only when its
// line was flushed, as it was then, and a fence has passed; what nobody flushed is lost when the power is cut. Everybody
// works on copies of the areas in volatile memory, and clients map such a copy.
//
// It is for testing programs: every flush copies the lines. A program's stores are seen only when it tells of its flushes
// by an Issuer.
//
// Invariants: the pool's own areas hold what is durable and nothing else, until Close, which makes everything durable; so
// whatever ends this process leaves what a power cut may leave. A line of theirs never becomes older.
type PowerCut struct {
	pool *Pool
	opts PowerCutOptions
	cuts int // before this one
	meta *volatile
	data *volatile
	own  *Issuer // whoever stores through the areas

	storing sync.RWMutex // held for reading while an area is stored to, and for writing while the power is cut

	mu      sync.Mutex
	flushes uint64               // protected by mu: how many there were
	issuers map[*Issuer]struct{} // protected by mu
	cut     bool                 // protected by mu: nothing becomes durable any more
	closed  bool                 // protected by mu
}

// volatile is the copy of an area.
type volatile struct {
	*mapped
	p       *PowerCut
	file    *os.File
	durable *mapped // the pool's own
	from    *os.File
	base    int64 // of durable in from
}

// NewPowerCut takes over a pool that is open for writing. Its Close closes the pool; when it fails the pool stays with the
// caller.
func NewPowerCut(pool *Pool, o PowerCutOptions) (*PowerCut, error) {
	if pool.readOnly {
		return nil, &fs.PathError{Op: "emulate power cuts", Path: pool.path, Err: fmt.Errorf("%w: it is open read-only", unix.EROFS)}
	}
	if err := satisfy(o.Require, DomainVolatile); err != nil {
		return nil, withPath(err, pool.path)
	}
	return newPowerCut(pool, o, 0)
}

func newPowerCut(pool *Pool, o PowerCutOptions, cuts int) (_ *PowerCut, err error) {
	p := &PowerCut{pool: pool, opts: o, cuts: cuts, issuers: map[*Issuer]struct{}{}}
	p.own = p.Issuer()
	p.meta = &volatile{p: p, durable: pool.meta, from: pool.metaFile}
	p.data = &volatile{p: p, durable: pool.data, from: pool.dataFile, base: pool.base}
	for _, a := range []*volatile{p.meta, p.data} {
		if err := a.fill(); err != nil {
			return nil, errors.Join(fmt.Errorf("a copy of the pool in memory: %w", err), p.drop())
		}
	}
	return p, nil
}

// fill makes the copy, with holes where the pool's file has them.
func (a *volatile) fill() error {
	fd, err := unix.MemfdCreate("pmemfs-power-cut", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	a.file = os.NewFile(uintptr(fd), "pmemfs-power-cut")
	if err := a.file.Truncate(a.durable.Size()); err != nil {
		return err
	}
	// A client that cuts the file off would have this process die of SIGBUS.
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(a.file.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return os.NewSyscallError("fcntl F_ADD_SEALS", err)
	}
	if a.mapped, err = mapArea(a.durable.name, a.file, 0, a.durable.Size(), finding{domain: DomainVolatile}, false); err != nil {
		return err
	}
	return Guard(func() error {
		return eachData(a.from, a.base, a.durable.Size(), func(off, n int64) { a.durable.Read(off, a.mem[off:off+n]) })
	})
}

// eachData calls fn with the runs of bytes [base, base+size) of a file that are no holes, counted from base.
func eachData(f *os.File, base, size int64, fn func(off, n int64)) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() { // a device has no holes, and may ignore a seek
		fn(0, size)
		return nil
	}
	for at := base; at < base+size; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO): // a hole up to the end
			return nil
		case errors.Is(err, unix.EINVAL): // a file system that cannot tell
			fn(at-base, base+size-at)
			return nil
		case err != nil:
			return os.NewSyscallError("lseek SEEK_DATA", err)
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return os.NewSyscallError("lseek SEEK_HOLE", err)
		}
		if start, end = min(start, base+size), min(end, base+size); start < end {
			fn(start-base, end-start)
		}
		at = end
	}
	return nil
}

// Meta is the copy of the area for metadata.
func (p *PowerCut) Meta() Area { return p.meta }

// Data is the copy of the area for the contents of files.
func (p *PowerCut) Data() Area { return p.data }

// Report says what the pool is on, and that it is emulated.
func (p *PowerCut) Report() Report {
	r := p.pool.Report()
	was := r.Domain
	r.PowerCut, r.Emulated, r.MapSync = true, true, false
	r.Domain, r.Granularity = DomainVolatile, DomainVolatile.Granularity()
	r.Alignment = int64(os.Getpagesize())
	survives := "only what was flushed and fenced survives a cut"
	if p.opts.Seed != 0 {
		survives = fmt.Sprintf("what was flushed and fenced survives a cut, and a random part of the rest (seed %d)", p.opts.Seed)
	}
	r.Evidence = append(r.Evidence, Evidence{
		What: "emulation of power cuts", How: "asked for by whoever opened the pool",
		Result: fmt.Sprintf("programs work on a copy in memory, whatever the medium (persistence domain %v) could do; %s: for tests only", was, survives),
	})
	return r
}

// ClientFile returns the copy of the data area for a client to map. The caller closes it. The copy is of no use to another
// owner, so that no slot is locked.
func (p *PowerCut) ClientFile(readOnly bool, _ int) (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, &fs.PathError{Op: "client file", Path: p.pool.path, Err: fs.ErrClosed}
	}
	flags := unix.O_RDWR
	if readOnly {
		flags = unix.O_RDONLY
	}
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", p.data.file.Fd()), flags, 0)
}

// ClientMapping is Pool.ClientMapping for the file of ClientFile.
func (p *PowerCut) ClientMapping() (base int64, flags int, align int64) {
	return 0, unix.MAP_SHARED, int64(os.Getpagesize())
}

// Close makes everything durable, as a machine does that is switched off in good order, and closes the pool. After a cut
// there is nothing left to make durable.
func (p *PowerCut) Close() error {
	p.storing.Lock()
	defer p.storing.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	var err error
	if !p.cut {
		_, err = p.settle(func(_ *volatile, now []byte, _ int64) []byte { return now })
	}
	return errors.Join(err, p.drop(), p.pool.Close())
}

// drop gives up the copies.
func (p *PowerCut) drop() (err error) {
	for _, a := range []*volatile{p.meta, p.data} {
		err = errors.Join(err, a.mapped.close())
		if a.file != nil {
			err = errors.Join(err, a.file.Close())
		}
	}
	return err
}

// CutReport counts the lines of 64 bytes that were not durable when the power was cut. Its JSON form is stable.
type CutReport struct {
	Lines   int64  `json:"lines"`   // not durable: lost and evicted
	Lost    int64  `json:"lost"`    // what was stored there is gone
	Evicted int64  `json:"evicted"` // survived by chance
	Seed    uint64 `json:"seed"`
	Cut     int    `json:"cut"` // which one it was, from 1
}

// Cut cuts the power. What is not durable by now is lost, except for lines that a seed has chosen: they survive as they are
// or, when flushed but not fenced, as they were flushed. A line survives whole, because the order of the stores in it is not
// known, and CPUs keep it. Nothing becomes durable any more: every later Fence fails with ErrPowerCut. The same seed, number
// of cuts and content give the same choice. Clients should not be storing while it runs.
func (p *PowerCut) Cut() (CutReport, error) {
	p.storing.Lock()
	defer p.storing.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut || p.closed {
		return CutReport{}, ErrPowerCut
	}
	p.cut = true
	p.cuts++
	rng := rand.New(rand.NewPCG(p.opts.Seed, uint64(p.cuts)))
	chance := 0 // in sixteenths
	if p.opts.Seed != 0 {
		chance = 1 + rng.IntN(15)
	}
	r, err := p.settle(func(a *volatile, now []byte, off int64) []byte {
		if rng.IntN(16) >= chance {
			return nil
		}
		if rng.IntN(2) == 0 {
			if flushed := p.flushed(a, off); flushed != nil {
				return flushed
			}
		}
		return now
	})
	r.Seed, r.Cut = p.opts.Seed, p.cuts
	return r, err
}

// settle goes through the lines that are not durable, in order, and makes those durable that survives returns the content
// of. mu is held.
func (p *PowerCut) settle(survives func(a *volatile, now []byte, off int64) []byte) (r CutReport, err error) {
	for _, a := range []*volatile{p.meta, p.data} {
		err = errors.Join(err, eachData(a.file, 0, a.Size(), func(off, n int64) {
			for page := off; page < off+n; page += pageSize {
				if bytes.Equal(a.mem[page:page+pageSize], a.durable.mem[page:page+pageSize]) {
					continue
				}
				for at := page; at < page+pageSize; at += lineSize {
					now := a.mem[at : at+lineSize]
					if bytes.Equal(now, a.durable.mem[at:at+lineSize]) {
						continue
					}
					r.Lines++
					if content := survives(a, now, at); content != nil {
						r.Evicted++
						a.durable.Write(at, content)
						a.durable.Flush(at, lineSize)
					}
				}
			}
		}))
	}
	r.Lost = r.Lines - r.Evicted
	return r, errors.Join(err, p.fence())
}

// fence makes what was written to the pool's own areas durable there.
func (p *PowerCut) fence() error {
	return errors.Join(p.meta.durable.Fence(), p.data.durable.Fence())
}

// Restart is the power coming back, after Cut: it returns an emulation that begins with what is durable, and takes the
// pool with it. Nobody uses the areas of p any more. When it fails the pool is closed.
func (p *PowerCut) Restart() (*PowerCut, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.cut || p.closed {
		return nil, fs.ErrClosed
	}
	p.closed = true
	err := p.drop()
	if err == nil {
		var next *PowerCut
		if next, err = newPowerCut(p.pool, p.opts, p.cuts); err == nil {
			return next, nil
		}
	}
	return nil, errors.Join(err, p.pool.Close())
}
