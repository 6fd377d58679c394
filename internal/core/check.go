package core

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// Problem is one thing that Check found wrong. The JSON names are a contract
// with scripts.
type Problem struct {
	Structure string     `json:"structure"`       // as named in docs/format.md
	Where     string     `json:"where,omitempty"` // path of the inode, when it is known
	Ino       layout.Ino `json:"inode,omitempty"` // that the structure belongs to, 0: none
	Offset    int64      `json:"offset"`          // in the meta area, -1 when it has no single place
	Text      string     `json:"text"`
	// Note marks what is not damage: a power cut leaves it now and then, nothing
	// is lost by it, and the next mount for writing mends it.
	Note bool `json:"note,omitempty"`
}

func (p Problem) String() string {
	s := p.Structure
	if p.Ino != 0 {
		s += fmt.Sprintf(" of %v", p.Ino)
	}
	if p.Where != "" {
		s += fmt.Sprintf(" (%s)", p.Where)
	}
	if p.Offset >= 0 {
		s += fmt.Sprintf(" at meta offset %#x", p.Offset)
	}
	return s + ": " + p.Text
}

// Summary counts what Check saw. The JSON names are a contract with scripts.
type Summary struct {
	Files       int64 `json:"files"`
	Directories int64 `json:"directories"`
	Symlinks    int64 `json:"symlinks"`
	Others      int64 `json:"others"`  // fifos, sockets, devices
	Names       int64 `json:"names"`   // directory entries
	Orphans     int64 `json:"orphans"` // inodes whose reclaiming is not finished
	Blocks      int64 `json:"blocks"`  // data blocks that files map, each as often as they do
	Shared      int64 `json:"shared"`  // of these, mappings of a block besides the first one
	Nodes       int64 `json:"nodes"`
	Problems    int64 `json:"problems"`
	Notes       int64 `json:"notes"`
}

// CheckOptions for CheckWith.
type CheckOptions struct {
	Report   func(Problem)           // nil: problems are only counted
	Progress func(done, total int64) // called now and then; nil: not at all
}

// Check verifies every structure of the file system and every reference
// between them, and calls report for each violation as it is found. It stores
// nothing. Nothing may change meanwhile: it is for a read-only mount, or one
// that nobody uses (after Reclaimed).
//
// An error means that the check could not be finished: ctx was cancelled.
//
// Costs: two bits of memory for each block, node and inode that is in use or
// lies near one that is; the time grows with what is in use.
func (fs *FS) Check(ctx context.Context, report func(Problem)) (Summary, error) {
	return fs.CheckWith(ctx, CheckOptions{Report: report})
}

// CheckWith is Check with progress.
func (fs *FS) CheckWith(ctx context.Context, o CheckOptions) (Summary, error) {
	c := fs.newChecker(ctx, o)
	for _, step := range []func() error{
		c.superblocks, c.logHeaders, c.inodeBitmap, c.orphanBitmap,
		c.directories, c.others, c.references, c.blockBitmap, c.nodeBitmap,
	} {
		if err := c.guarded(step); err != nil {
			return c.sum, err
		}
	}
	return c.sum, nil
}

// checker is one run of Check.
//
// Invariant: blocks (without those that are marked shared, before references) and
// nodes hold exactly what the inodes looked at so far refer to, shared the runs
// that are marked so, once for each leaf; inodes holds what is known of each inode
// in use.
type checker struct {
	fs     *FS
	ctx    context.Context
	opts   CheckOptions
	sum    Summary
	blocks *unitSet
	nodes  *unitSet
	shared []alloc.Run
	inodes []*infoChunk // by chunk of the inode bitmap, nil: none in use
	used   int64        // inodes in use
	done   int64        // inodes looked at, twice each
}

func (fs *FS) newChecker(ctx context.Context, o CheckOptions) *checker {
	return &checker{
		fs: fs, ctx: ctx, opts: o,
		blocks: newUnitSet(fs.sb.DataBlocks), nodes: newUnitSet(fs.sb.Nodes),
		inodes: make([]*infoChunk, fs.sb.Inodes/layout.ChunkUnits),
	}
}

// guarded runs a step. Damage that ends it, such as a bad block of the medium, is
// reported, as is a panic, which is a mistake of this program that damage brought to
// light, and the check goes on.
func (c *checker) guarded(step func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			c.problem(Problem{Structure: "checker", Offset: -1, Text: fmt.Sprintf("panic: %v\n%s", r, debug.Stack())})
		}
	}()
	if err := c.ctx.Err(); err != nil {
		return err
	}
	err = c.fs.Guard(step)
	if _, ok := AsProblem(err); ok {
		c.damage(0, err)
		return nil
	}
	return err
}

func (c *checker) problem(p Problem) {
	const named = 1000 // finding a path costs a walk: enough for people
	if p.Note {
		c.sum.Notes++
	} else {
		c.sum.Problems++
	}
	if p.Ino != 0 && p.Where == "" && c.sum.Problems <= named {
		p.Where = c.path(p.Ino)
	}
	if c.opts.Report != nil {
		c.opts.Report(p)
	}
}

// AsProblem turns an error that damage caused into a Problem. ok is false for
// other errors.
func AsProblem(err error) (p Problem, ok bool) {
	var corrupt *layout.CorruptError
	if !errors.As(err, &corrupt) {
		return p, false
	}
	return Problem{Structure: corrupt.Structure, Offset: corrupt.Offset, Text: corrupt.Reason}, true
}

// damage reports an error that a decoder returned.
func (c *checker) damage(ino layout.Ino, err error) {
	p, ok := AsProblem(err)
	if !ok {
		p = Problem{Structure: "inode", Offset: -1, Text: err.Error()}
	}
	p.Ino = ino
	c.problem(p)
}

func (c *checker) progress() {
	if c.done++; c.opts.Progress != nil && c.done%1024 == 0 {
		c.opts.Progress(c.done, 2*c.used)
	}
}

// superblocks checks that both copies are intact and the same.
func (c *checker) superblocks() error {
	var copies [layout.SuperblockCopies][]byte
	for i := range copies {
		at := int64(i) * layout.BlockSize
		copies[i] = c.fs.journal.View(at, layout.SuperblockSize)
		if _, err := layout.DecodeSuperblock(copies[i], at); err != nil {
			c.damage(0, err)
			return nil
		}
	}
	if string(copies[0]) != string(copies[1]) {
		c.problem(Problem{Structure: "superblock", Offset: layout.BlockSize, Text: "the two copies differ"})
	}
	return nil
}

// logHeaders checks that both copies are intact and the same. Between the
// writing of the first and the second a power cut leaves them different.
func (c *checker) logHeaders() error {
	var headers [2]layout.LogHeader
	for i, at := range layout.LogHeaderPlaces(c.fs.sb.LogHeaders) {
		var err error
		if headers[i], err = layout.DecodeLogHeader(c.fs.meta.Bytes()[at:], at); err != nil {
			c.problem(Problem{Structure: "log header", Offset: at, Text: "copy is not valid; the other one is used", Note: true})
			return nil
		}
	}
	if headers[0] != headers[1] {
		c.problem(Problem{
			Structure: "log header", Offset: c.fs.sb.LogHeaders.Offset, Note: true,
			Text: fmt.Sprintf("copies have sequence numbers %d and %d; the higher one is used", headers[0].Sequence, headers[1].Sequence),
		})
	}
	return nil
}

// inodeBitmap verifies it and finds out which inodes are in use.
func (c *checker) inodeBitmap() error {
	return c.fs.inodes.Verify(c.bitmapDamage, func(chunk int64, l *alloc.Line) error {
		if *l == (alloc.Line{}) {
			return c.ctx.Err()
		}
		page := &infoChunk{}
		c.inodes[chunk] = page
		for i := range page {
			if l[i/64]>>(i%64)&1 == 1 {
				page[i].used = true
				c.used++
			}
		}
		if chunk == 0 {
			for ino := range layout.FirstIno {
				if !page[ino].used {
					c.problem(Problem{Structure: "inode bitmap", Offset: -1, Text: fmt.Sprintf("%v, which is no file's, is free", ino)})
				}
			}
			c.used -= 2
			page[0], page[layout.CountsIno] = inodeInfo{}, inodeInfo{}
		}
		return c.ctx.Err()
	})
}

// orphanBitmap verifies it and marks the orphans.
func (c *checker) orphanBitmap() error {
	return c.fs.orphans.Verify(c.bitmapDamage, func(chunk int64, l *alloc.Line) error {
		for i := 0; *l != (alloc.Line{}) && i < layout.ChunkUnits; i++ {
			if l[i/64]>>(i%64)&1 == 0 {
				continue
			}
			ino := layout.Ino(chunk*layout.ChunkUnits + int64(i))
			if info := c.info(ino); info != nil {
				info.orphan = true
				c.sum.Orphans++
			} else {
				c.problem(Problem{Structure: "orphan bitmap", Offset: -1, Text: fmt.Sprintf("%v is in it, but free", ino)})
			}
		}
		return c.ctx.Err()
	})
}

func (c *checker) bitmapDamage(err error) { c.damage(0, err) }

func (c *checker) blockBitmap() error { return c.compare("block bitmap", c.fs.blocks, c.blocks) }
func (c *checker) nodeBitmap() error  { return c.compare("node bitmap", c.fs.nodes, c.nodes) }

// compare reports where a bitmap differs from what inodes refer to.
func (c *checker) compare(name string, b *alloc.Bitmap, reached *unitSet) error {
	lost := runReporter{c: c, name: name, text: "used in the bitmap, but nothing refers to them"}
	free := runReporter{c: c, name: name, text: "free in the bitmap, but in use"}
	err := b.Verify(c.bitmapDamage, func(chunk int64, l *alloc.Line) error {
		var want alloc.Line
		if r := reached.line(chunk); r != nil {
			want = *r
		}
		if *l == want {
			return c.ctx.Err()
		}
		for i := range layout.ChunkUnits {
			has, should := l[i/64]>>(i%64)&1 == 1, want[i/64]>>(i%64)&1 == 1
			unit := chunk*layout.ChunkUnits + int64(i)
			switch {
			case has && !should:
				lost.add(unit)
			case should && !has:
				free.add(unit)
			}
		}
		return c.ctx.Err()
	})
	lost.flush()
	free.flush()
	return err
}

// runReporter makes one problem of units that follow each other.
type runReporter struct {
	c          *checker
	name, text string
	run        alloc.Run
}

func (r *runReporter) add(unit int64) {
	if r.run.Count > 0 && r.run.End() == unit {
		r.run.Count++
		return
	}
	r.flush()
	r.run = alloc.Run{First: unit, Count: 1}
}

func (r *runReporter) flush() {
	if r.run.Count > 0 {
		r.c.problem(Problem{Structure: r.name, Offset: -1, Text: fmt.Sprintf("units %d to %d: %s", r.run.First, r.run.End()-1, r.text)})
	}
	r.run = alloc.Run{}
}
