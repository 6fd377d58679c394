package medium

const linesPerPage = pageSize / lineSize

// maxFlushed bounds what an issuer may have flushed and not fenced, in pages. A flush may be complete before the fence, so
// that what is more becomes durable earlier.
const maxFlushed = 8192

// Issuer is somebody whose flushes complete at its own fences: a program, or whoever stores through the areas.
//
// Invariant: each line in flushed is newer than the durable one.
type Issuer struct {
	p       *PowerCut
	flushed map[flushedAt]*flushedPage // protected by p.mu
}

type flushedAt struct {
	area *volatile
	page int64 // its offset
}

// flushedPage is lines of a page as they were flushed.
type flushedPage struct {
	lines uint64               // which, as bits
	when  [linesPerPage]uint64 // the number of the flush
	data  [pageSize]byte
}

// Issuer returns a new one. It is to be closed.
func (p *PowerCut) Issuer() *Issuer {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := &Issuer{p: p, flushed: map[flushedAt]*flushedPage{}}
	p.issuers[i] = struct{}{}
	return i
}

// Close forgets what was flushed and not fenced.
func (i *Issuer) Close() {
	i.p.mu.Lock()
	defer i.p.mu.Unlock()
	delete(i.p.issuers, i)
}

// Flush has the lines that [off, off+n) of the data area touches, as they are now, durable after the next Fence.
func (i *Issuer) Flush(off, n int64) error {
	checkRange("flush", off, n, i.p.data.Size())
	return i.flush(i.p.data, off, n)
}

func (i *Issuer) flush(a *volatile, off, n int64) error {
	i.p.mu.Lock()
	defer i.p.mu.Unlock()
	if n == 0 {
		return nil
	}
	if i.p.cut || i.p.closed {
		return ErrPowerCut
	}
	i.p.flushes++
	for at := off / lineSize * lineSize; at < off+n; at += lineSize {
		key := flushedAt{a, at / pageSize * pageSize}
		f := i.flushed[key]
		if f == nil {
			if len(i.flushed) == maxFlushed {
				i.arrive()
			}
			f = &flushedPage{}
			i.flushed[key] = f
		}
		line := at % pageSize / lineSize
		f.lines |= 1 << line
		f.when[line] = i.p.flushes
		copy(f.data[line*lineSize:(line+1)*lineSize], a.mem[at:])
	}
	return nil
}

// Fence makes durable what was flushed before. An error means that it is lost.
func (i *Issuer) Fence() error {
	i.p.mu.Lock()
	defer i.p.mu.Unlock()
	if i.p.cut || i.p.closed {
		return ErrPowerCut
	}
	i.arrive()
	return i.p.fence()
}

// arrive stores what was flushed to the pool's own areas. What others have flushed earlier can never come back.
func (i *Issuer) arrive() {
	for at, f := range i.flushed {
		for line := range int64(linesPerPage) {
			if f.lines>>line&1 == 0 {
				continue
			}
			at.area.durable.Write(at.page+line*lineSize, f.data[line*lineSize:(line+1)*lineSize])
			for other := range i.p.issuers {
				if o := other.flushed[at]; other != i && o != nil && o.when[line] < f.when[line] {
					o.lines &^= 1 << line
				}
			}
		}
		at.area.durable.Flush(at.page, pageSize)
	}
	clear(i.flushed)
}

// flushed returns a line as somebody has flushed it and not fenced, the latest; nil if nobody has.
func (p *PowerCut) flushed(a *volatile, off int64) (content []byte) {
	at, line := flushedAt{a, off / pageSize * pageSize}, off%pageSize/lineSize
	latest := uint64(0)
	for i := range p.issuers {
		if f := i.flushed[at]; f != nil && f.lines>>line&1 == 1 && f.when[line] > latest {
			latest, content = f.when[line], f.data[line*lineSize:(line+1)*lineSize]
		}
	}
	return content
}

// undisturbed calls f, which stores, when the power is not being cut.
func (a *volatile) undisturbed(f func()) {
	a.p.storing.RLock()
	defer a.p.storing.RUnlock()
	f()
}

// streamed is the flush that streaming stores need none of.
func (a *volatile) streamed(off, n int64) {
	a.p.own.flush(a, off, n) // an error is that of the Fence as well
}

// Write stores to the copy alone.
func (a *volatile) Write(off int64, p []byte) { a.undisturbed(func() { a.mapped.Write(off, p) }) }

// Stream stores to the copy, and to the pool with the next Fence.
func (a *volatile) Stream(off int64, p []byte) {
	a.undisturbed(func() { a.mapped.Stream(off, p) })
	a.streamed(off, int64(len(p)))
}

// Zero is Stream of zeros.
func (a *volatile) Zero(off, n int64) {
	a.undisturbed(func() { a.mapped.Zero(off, n) })
	a.streamed(off, n)
}

// Copy is Stream of what is at src.
func (a *volatile) Copy(dst, src, n int64) {
	a.undisturbed(func() { a.mapped.Copy(dst, src, n) })
	a.streamed(dst, n)
}

// Flush has the lines, as they are now, in the pool with the next Fence.
func (a *volatile) Flush(off, n int64) {
	a.mapped.Flush(off, n)
	a.p.own.flush(a, off, n) // an error is that of the Fence as well
}

// Fence makes durable what was flushed and streamed, in both areas, as an instruction of the CPU does.
func (a *volatile) Fence() error { return a.p.own.Fence() }
