package pmemfs_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

// The conformance table says which operation is allowed while another process holds a range of the file, for every way of
// holding it. Each of its cells is tried, and what comes of it is compared with what the rules below say, and with the
// table in docs/guarantees.md.

var rewriteTable = flag.Bool("update", false, "rewrite the conformance table in docs/guarantees.md")

// The file of a cell has 8 blocks, the last of them in part. Blocks 2 to 5 are held.
const (
	heldOff = 2 * page
	heldLen = 4 * page
	heldEnd = heldOff + heldLen
	inHeld  = 3 * page // an operation on some blocks of the range: blocks 3 and 4
	cellLen = 8*page - 1000
)

// holding is a column: how another process holds the range.
type holding struct {
	name   string
	flags  pmemfs.MapFlags // 0: not mapped
	pin    bool
	static bool
}

var holdings = []holding{
	{name: "none"},
	{name: "Shared", flags: pmemfs.Shared},
	{name: "Shared, ReadOnly", flags: pmemfs.Shared | pmemfs.ReadOnly},
	{name: "Sync", flags: pmemfs.Sync},
	{name: "Sync, Populate", flags: pmemfs.Sync | pmemfs.Populate},
	{name: "Sync, ReadOnly", flags: pmemfs.Sync | pmemfs.ReadOnly},
	{name: "Unchecked", flags: pmemfs.Unchecked},
	{name: "Direct", flags: pmemfs.Direct},
	{name: "Direct, ReadOnly", flags: pmemfs.Direct | pmemfs.ReadOnly},
	{name: "pin", flags: pmemfs.Shared, pin: true},
	{name: "pin, ReadOnly", flags: pmemfs.Shared | pmemfs.ReadOnly, pin: true},
	{name: "static file", static: true},
}

func (h *holding) sealed() bool { return h.pin || h.flags&pmemfs.Direct != 0 }

func (h *holding) writable() bool { return h.flags != 0 && h.flags&pmemfs.ReadOnly == 0 }

// impact is what an operation does to the map of the file's blocks. All the rest follows from it.
type impact int

const (
	inPlace    impact = iota // nothing: names, attributes, contents of blocks that stay
	elsewhere                // it changes the size, or blocks outside the range that is held
	cuts                     // it cuts the file inside the last block of the range; all blocks stay
	takes                    // it takes blocks of the range away, or puts others in their place
	fills                    // it puts a written block where a hole of the range was
	reserves                 // it puts an unwritten block there: what is read goes on to be zeros
	shares                   // it makes blocks of the range another file's, too
	copiesFrom               // the same, but where they must not be it copies what is in them
	yields                   // it puts blocks of others in the place of some, or stores to them where that must not be
)

// Outcomes of an operation.
const (
	allowed  = "yes"
	breaks   = "breaks"
	isSealed = "no: EBUSY sealed"
	isStatic = "no: EBUSY static"
	noHoles  = "–" // there can be no hole in the range
)

// rule is the specification: the outcome of an operation under a holding. Without page faults (embedded) no mapping that
// can be stored to has holes: they are filled when it is made, and again after each operation.
func rule(i impact, h *holding, embedded bool) string {
	switch {
	case i == inPlace || (i == copiesFrom || i == yields) && (h.static || h.sealed()):
		return allowed
	case (i == shares || i == copiesFrom) && !h.static && !h.sealed() && !h.writable():
		return allowed // nobody can store to them
	case (i == fills || i == reserves) && (h.static || h.flags&pmemfs.Direct != 0 || h.writable() && (h.pin || embedded)):
		return noHoles
	case h.static:
		return isStatic
	case i == elsewhere:
		return allowed
	case h.sealed():
		return isSealed
	case h.flags == 0 || i == cuts || i == reserves:
		return allowed
	}
	return breaks
}

// cell is one operation under one holding.
type cell struct {
	*testing.T
	fsys     *pmemfs.FS   // of whoever does the operation
	f        *pmemfs.File // open for reading and writing
	name     string
	holder   obeyer
	pid      int    // of the holder
	handle   uint32 // of the holder
	embedded bool
	left     bool              // blocks of the range must stay where they are
	maps     []*pmemfs.Mapping // made by the operation
}

// operation is a row.
type operation struct {
	name    string
	impact  impact
	do      func(*cell) error
	content func([]byte) []byte      // what the file holds afterwards, nil: what it held before
	after   func(*cell, pmemfs.Stat) // checks what else it did; the Stat is that of before
	before  func(*cell) error        // is done before the range is held
	byFault bool                     // it is a page fault: its error has no more than a number
	publish bool                     // it needs page faults to be resolved, and takes its own clone's right to store back
}

func (c *cell) map1(flags pmemfs.MapFlags) error {
	m, err := c.f.Map(heldOff, heldLen, flags)
	if err == nil {
		c.maps = append(c.maps, m)
		err = pmemfs.Catch(func() {
			for at := 0; at < heldLen; at += page {
				sink = m.Bytes()[at]
			}
		})
	}
	return err
}

// resized, zeroed and overwritten are contents.
func resized(size int) func([]byte) []byte {
	return func(b []byte) []byte {
		return append(bytes.Clone(b[:min(size, len(b))]), make([]byte, max(0, size-len(b)))...)
	}
}

func zeroed(off, n int) func([]byte) []byte {
	return func(b []byte) []byte { return overwritten(off, make([]byte, n))(b) }
}

func overwritten(off int, p []byte) func([]byte) []byte {
	return func(b []byte) []byte {
		b = resized(max(len(b), off+len(p)))(b)
		copy(b[off:], p)
		return b
	}
}

var cellData = bytes.Repeat([]byte("data"), 2*page/4)

// operations are the rows. Those on a hole find one at inHeld.
func operations() []operation {
	mapKind := func(flags pmemfs.MapFlags) operation {
		return operation{
			name: "map it with " + strings.ReplaceAll(flags.String(), "|", ", "), do: func(c *cell) error { return c.map1(flags) },
		}
	}
	write := func(off int, p []byte) func(*cell) error {
		return func(c *cell) error {
			_, err := c.f.WriteAt(p, int64(off))
			return err
		}
	}
	named := func(name string, do func(*cell) error, after func(*cell, pmemfs.Stat)) operation {
		return operation{name: name, do: do, after: after}
	}
	size := func(want int64) func(*cell, pmemfs.Stat) {
		return func(c *cell, _ pmemfs.Stat) {
			if got := c.stat().Size; got != want {
				c.Errorf("the file has %d bytes, want %d", got, want)
			}
		}
	}
	return []operation{
		// What frees or moves blocks of the range.
		{name: "truncate to a block inside it", impact: takes, content: resized(4 * page), after: size(4 * page),
			do: func(c *cell) error { return c.f.Truncate(4 * page) }},
		{name: "truncate inside its first block", impact: takes, content: resized(heldOff + 10), after: size(heldOff + 10),
			do: func(c *cell) error { return c.fsys.Truncate(c.name, heldOff+10) }},
		{name: "truncate inside its last block", impact: cuts, content: resized(heldEnd - 100), after: size(heldEnd - 100),
			do: func(c *cell) error { return c.f.Truncate(heldEnd - 100) }},
		{name: "open with `O_TRUNC`", impact: takes, content: resized(0), after: size(0), do: func(c *cell) error {
			f, err := c.fsys.OpenFile(c.name, os.O_RDWR|os.O_TRUNC, 0)
			if err == nil {
				err = f.Close()
			}
			return err
		}},
		{name: "punch whole blocks", impact: takes, content: zeroed(inHeld, 2*page),
			after: wantExtent(inHeld, pmemfs.Extent{Block: -1}),
			do:    func(c *cell) error { return c.f.PunchHole(inHeld, 2*page) }},
		{name: "zero range of whole blocks", impact: takes, content: zeroed(inHeld, 2*page),
			after: wantExtent(inHeld, pmemfs.Extent{Unwritten: true}),
			do:    func(c *cell) error { return c.f.ZeroRange(inHeld, 2*page) }},
		{name: "collapse a range of it", impact: takes, after: size(cellLen - 2*page), content: func(b []byte) []byte {
			return append(bytes.Clone(b[:inHeld]), b[inHeld+2*page:]...)
		}, do: func(c *cell) error { return c.f.CollapseRange(inHeld, 2*page) }},
		{name: "collapse what is before it", impact: takes, after: size(cellLen - page),
			content: func(b []byte) []byte { return b[page:] }, do: func(c *cell) error { return c.f.CollapseRange(0, page) }},
		{name: "insert a range into it", impact: takes, after: size(cellLen + page), content: func(b []byte) []byte {
			return append(append(bytes.Clone(b[:inHeld]), make([]byte, page)...), b[inHeld:]...)
		}, do: func(c *cell) error { return c.f.InsertRange(inHeld, page) }},
		{name: "relocate", impact: takes, do: func(c *cell) error { return c.f.Relocate(inHeld, 2*page) }, after: moved},
		{name: "relocate the whole file", impact: takes, do: func(c *cell) error { return c.f.Relocate(0, 8*page) }, after: moved},
		// What shares blocks of the range, or replaces them by others.
		{name: "clone", impact: shares, do: func(c *cell) error { return c.fsys.Clone(c.name, c.name+"-clone") },
			after: func(c *cell, _ pmemfs.Stat) {
				wantBytes(c.T, c.f, c.content(c.name+"-clone"))
				must(c, c.fsys.Remove(c.name+"-clone"))
			}},
		{name: "take a snapshot of its directory", impact: shares,
			before: func(c *cell) error {
				return errors.Join(c.fsys.Mkdir(c.name+"-dir", 0o755), c.fsys.Link(c.name, c.name+"-dir/f"))
			},
			do: func(c *cell) error { _, err := c.fsys.Snapshot(c.name+"-dir", "s", 0); return err },
			after: func(c *cell, _ pmemfs.Stat) {
				wantBytes(c.T, c.f, c.content(c.name+"-dir/.snapshots/s/f"))
				must(c, errors.Join(c.fsys.RemoveSnapshot(c.name+"-dir", "s"), c.fsys.RemoveAll(c.name+"-dir")))
			}},
		{name: "clone a range of it", impact: shares, do: func(c *cell) error { return c.f.CloneRange(10*page, c.f, inHeld, 2*page) },
			content: func(b []byte) []byte { return overwritten(10*page, b[inHeld:][:2*page])(b) }},
		{name: "clone a range to it", impact: takes, do: func(c *cell) error { return c.f.CloneRange(inHeld, c.f, 6*page, page) },
			content: func(b []byte) []byte { return overwritten(inHeld, b[6*page:][:page])(b) }},
		{name: "clone another file over it", impact: takes, content: overwritten(0, numbered(9*page)), do: func(c *cell) error {
			return c.withAnother(numbered(9*page), func(other *pmemfs.File) error { return c.f.CloneRange(0, other, 0, 0) })
		}},
		{name: "publish a change of it", impact: takes, publish: true, content: overwritten(inHeld+5, cellData), do: func(c *cell) error {
			m, err := c.f.MapClone(heldOff, heldLen)
			if err != nil {
				return err
			}
			copy(m.Bytes()[inHeld+5-heldOff:], cellData)
			return errors.Join(m.Publish(), m.Unmap())
		}},
		{name: "copy a range of it to another file", impact: copiesFrom, do: func(c *cell) error {
			return c.withAnother(nil, func(other *pmemfs.File) error {
				if n, err := other.CopyRange(0, c.f, inHeld, 2*page); n != 2*page || err != nil {
					return fmt.Errorf("%d bytes were copied: %w", n, err)
				}
				wantBytes(c.T, other, c.content(c.name)[inHeld:][:2*page])
				return nil
			})
		}},
		{name: "copy a range to it", impact: yields, content: func(b []byte) []byte { return overwritten(inHeld, b[6*page:][:page])(b) },
			do: func(c *cell) error {
				_, err := c.f.CopyRange(inHeld, c.f, 6*page, page)
				return err
			}},
		{name: "defragment", impact: yields, before: func(c *cell) error { return c.f.Relocate(inHeld, page) },
			do: func(c *cell) error {
				_, err := c.f.Defragment(c.Context(), pmemfs.DefragOptions{})
				return err
			}, after: func(c *cell, s pmemfs.Stat) {
				moved(c, s)
				if n := len(extentsOf(c, c.f)); n > 1 && !c.left {
					c.Errorf("it is in %d extents", n)
				}
			}},
		// What fills a hole of the range.
		{name: "write into a hole", impact: fills, do: write(inHeld+7, cellData[:100]),
			content: overwritten(inHeld+7, cellData[:100]), after: wantExtent(inHeld, pmemfs.Extent{})},
		{name: "store into a hole by another mapping", impact: fills, byFault: true, content: overwritten(inHeld, []byte{77}),
			after: wantExtent(inHeld, pmemfs.Extent{}), do: func(c *cell) error {
				m, err := c.f.Map(heldOff, heldLen, pmemfs.Shared)
				if err != nil {
					return err
				}
				c.maps = append(c.maps, m)
				return pmemfs.Catch(func() { m.Bytes()[inHeld-heldOff] = 77 })
			}},
		{name: "fill a hole", impact: fills, do: func(c *cell) error { return c.f.Fill(heldOff, heldLen) },
			after: wantExtent(inHeld, pmemfs.Extent{})},
		{name: "allocate into a hole", impact: reserves, do: func(c *cell) error { return c.f.Allocate(inHeld, page, false) },
			after: wantExtent(inHeld, pmemfs.Extent{Unwritten: true})},
		// What changes the size, or blocks elsewhere.
		{name: "truncate at its end", impact: elsewhere, content: resized(heldEnd), after: size(heldEnd),
			do: func(c *cell) error { return c.f.Truncate(heldEnd) }},
		{name: "extend", impact: elsewhere, content: resized(20 * page), after: size(20 * page),
			do: func(c *cell) error { return c.f.Truncate(20 * page) }},
		{name: "append", impact: elsewhere, content: overwritten(cellLen, cellData), after: size(cellLen + int64(len(cellData))),
			do: func(c *cell) error {
				f, err := c.fsys.OpenFile(c.name, os.O_WRONLY|os.O_APPEND, 0)
				if err != nil {
					return err
				}
				_, err = f.Write(cellData)
				return errors.Join(err, f.Close())
			}},
		{name: "write across the end of the file", impact: elsewhere, do: write(cellLen-page, cellData),
			content: overwritten(cellLen-page, cellData)},
		{name: "write beyond the end of the file", impact: elsewhere, do: write(12*page+1, cellData),
			content: overwritten(12*page+1, cellData)},
		{name: "allocate beyond the end, growing", impact: elsewhere, content: resized(10 * page), after: size(10 * page),
			do: func(c *cell) error { return c.f.Allocate(6*page, 4*page, false) }},
		{name: "allocate beyond the end, keeping the size", impact: elsewhere, after: size(cellLen),
			do: func(c *cell) error { return c.f.Allocate(6*page, 4*page, true) }},
		{name: "zero range beyond the end", impact: elsewhere, content: resized(10 * page), after: size(10 * page),
			do: func(c *cell) error { return c.f.ZeroRange(8*page, 2*page) }},
		{name: "collapse what is behind it", impact: elsewhere, after: size(cellLen - page), content: func(b []byte) []byte {
			return append(bytes.Clone(b[:heldEnd]), b[heldEnd+page:]...)
		}, do: func(c *cell) error { return c.f.CollapseRange(heldEnd, page) }},
		{name: "insert a range behind it", impact: elsewhere, after: size(cellLen + page), content: func(b []byte) []byte {
			return append(append(bytes.Clone(b[:heldEnd]), make([]byte, page)...), b[heldEnd:]...)
		}, do: func(c *cell) error { return c.f.InsertRange(heldEnd, page) }},
		{name: "publish a change of what is behind it", impact: elsewhere, publish: true, content: overwritten(heldEnd+5, cellData[:100]),
			do: func(c *cell) error {
				m, err := c.f.MapClone(heldEnd, page)
				if err != nil {
					return err
				}
				copy(m.Bytes()[5:], cellData[:100])
				return errors.Join(m.Publish(), m.Unmap())
			}},
		{name: "punch a block before or behind it", impact: elsewhere, content: zeroed(heldEnd, page),
			do: func(c *cell) error { return c.f.PunchHole(heldEnd, page) }},
		{name: "relocate the blocks before or behind it", impact: elsewhere,
			do: func(c *cell) error { return c.f.Relocate(0, heldOff) }},
		// What stays in place.
		{name: "read", do: func(c *cell) error {
			_, err := io.Copy(io.Discard, c.f)
			return err
		}},
		{name: "write in place", do: write(inHeld+5, cellData), content: overwritten(inHeld+5, cellData)},
		{name: "write all of the file in place", do: write(0, bytes.Repeat(cellData, 4)[:cellLen]),
			content: overwritten(0, bytes.Repeat(cellData, 4)[:cellLen])},
		{name: "punch inside one block", content: zeroed(inHeld+1, page-2),
			do: func(c *cell) error { return c.f.PunchHole(inHeld+1, page-2) }},
		{name: "zero range inside one block", content: zeroed(inHeld+9, page-9),
			do: func(c *cell) error { return c.f.ZeroRange(inHeld+9, page-9) }},
		{name: "punch the halves of two blocks", content: zeroed(inHeld+page/2, page),
			do: func(c *cell) error { return c.f.PunchHole(inHeld+page/2, page) }},
		{name: "allocate where blocks are", do: func(c *cell) error { return c.f.Allocate(heldOff, heldLen, false) }},
		{name: "fill where blocks are written", do: func(c *cell) error { return c.f.Fill(heldOff, heldLen) }},
		{name: "truncate to the size it has", do: func(c *cell) error { return c.f.Truncate(cellLen) }, after: size(cellLen)},
		{name: "sync", do: func(c *cell) error { return c.f.Sync() }},
		{name: "seek data and holes", do: func(c *cell) error {
			if hole, err := c.f.SeekHole(0); err != nil || hole != cellLen {
				return fmt.Errorf("the first hole is at %d: %w", hole, err)
			}
			_, err := c.f.SeekData(heldOff)
			return err
		}},
		{name: "extents", do: func(c *cell) error { _, err := c.f.Extents(); return err }},
		{name: "stat", do: func(c *cell) error { _, err := c.fsys.Stat(c.name); return err }},
		// Names and attributes.
		named("rename", func(c *cell) error { return c.fsys.Rename(c.name, c.name+"-renamed") },
			func(c *cell, s pmemfs.Stat) { c.wantName(c.name+"-renamed", s.Ino) }),
		named("rename another file over it", func(c *cell) error {
			must(c, c.fsys.WriteFile(c.name+"-over", []byte("over"), 0o600))
			return c.fsys.Rename(c.name+"-over", c.name)
		}, func(c *cell, s pmemfs.Stat) { wantContent(c.T, c.fsys, c.name, "over"); c.wantLinks(0) }),
		named("link", func(c *cell) error { return c.fsys.Link(c.name, c.name+"-linked") },
			func(c *cell, s pmemfs.Stat) { c.wantName(c.name+"-linked", s.Ino); c.wantLinks(2) }),
		named("remove", func(c *cell) error { return c.fsys.Remove(c.name) }, func(c *cell, s pmemfs.Stat) { c.wantLinks(0) }),
		named("chmod", func(c *cell) error { return c.fsys.Chmod(c.name, 0o604) }, func(c *cell, s pmemfs.Stat) {
			if got := c.stat().Mode & 0o777; got != 0o604 {
				c.Errorf("mode %o", got)
			}
		}),
		named("chown", func(c *cell) error { return c.fsys.Chown(c.name, 11, 22) }, func(c *cell, s pmemfs.Stat) {
			if got := c.stat(); got.UID != 11 || got.GID != 22 {
				c.Errorf("%+v", got)
			}
		}),
		named("chtimes", func(c *cell) error { return c.fsys.Chtimes(c.name, time.Unix(5, 6), time.Time{}) },
			func(c *cell, s pmemfs.Stat) {
				if got := c.stat().Atime; got != 5e9+6 {
					c.Errorf("access time %d", got)
				}
			}),
		named("set an extended attribute", func(c *cell) error { return c.fsys.Setxattr(c.name, "user.x", []byte("y"), 0) },
			func(c *cell, s pmemfs.Stat) {
				if v, err := c.fsys.Getxattr(c.name, "user.x"); string(v) != "y" || err != nil {
					c.Error(v, err)
				}
			}),
		// Other holders.
		mapKind(pmemfs.Shared), mapKind(pmemfs.Shared | pmemfs.ReadOnly), mapKind(pmemfs.Sync),
		mapKind(pmemfs.Sync | pmemfs.Populate), mapKind(pmemfs.Unchecked), mapKind(pmemfs.Direct), mapKind(pmemfs.Direct | pmemfs.Populate),
		named("pin it", func(c *cell) error {
			if err := c.map1(pmemfs.Shared); err != nil {
				return err
			}
			_, err := c.maps[0].Pin(0, heldLen) // ends with the mapping
			return err
		}, nil),
		named("allow direct mappings by a handle", func(c *cell) error { return c.f.AllowDirect() }, nil),
		named("freeze", func(c *cell) error { return c.f.SetStatic(true) }, func(c *cell, s pmemfs.Stat) {
			if !c.stat().Static {
				c.Error("the file is not static")
			}
		}),
		named("thaw", func(c *cell) error { return c.f.SetStatic(false) }, func(c *cell, s pmemfs.Stat) {
			if c.stat().Static {
				c.Error("the file is still static")
			}
		}),
	}
}

// content is what a file holds.
func (c *cell) content(name string) []byte {
	c.Helper()
	b, err := c.fsys.ReadFile(name)
	must(c, err)
	return b
}

// withAnother calls do with another file, of which nothing is left afterwards.
func (c *cell) withAnother(content []byte, do func(*pmemfs.File) error) error {
	name := c.name + "-other"
	other, err := c.fsys.Create(name)
	if err != nil {
		return err
	}
	if _, err = other.WriteAt(content, 0); err == nil {
		err = do(other)
	}
	must(c, errors.Join(other.Close(), c.fsys.Remove(name)))
	return err
}

func (c *cell) stat() pmemfs.Stat {
	c.Helper()
	return statOf(c, c.f)
}

func statOf(t testing.TB, f *pmemfs.File) pmemfs.Stat {
	t.Helper()
	fi, err := f.Stat()
	must(t, err)
	return *fi.Sys().(*pmemfs.Stat)
}

func (c *cell) wantName(name string, ino uint64) {
	c.Helper()
	fi, err := c.fsys.Stat(name)
	must(c, err)
	if fi.Sys().(*pmemfs.Stat).Ino != ino {
		c.Errorf("%s is another file", name)
	}
}

func (c *cell) wantLinks(n uint32) {
	c.Helper()
	if got := c.stat().Nlink; got != n {
		c.Errorf("%d links, want %d", got, n)
	}
}

// extentAt returns the extent that a byte of the file is in.
func extentAt(t testing.TB, f *pmemfs.File, off int64) pmemfs.Extent {
	t.Helper()
	list, err := f.Extents()
	must(t, err)
	for _, e := range list {
		if e.Offset <= off && off < e.Offset+e.Length {
			return e
		}
	}
	t.Fatalf("no extent has byte %d: %+v", off, list)
	return pmemfs.Extent{}
}

// wantExtent checks whether a byte is in a hole, in an unwritten block or in a written one. When embedded, a mapping that
// can be stored to has had its holes filled again.
func wantExtent(off int64, want pmemfs.Extent) func(*cell, pmemfs.Stat) {
	return func(c *cell, _ pmemfs.Stat) {
		got := extentAt(c, c.f, off)
		if (got.Block < 0) != (want.Block < 0) || got.Unwritten != want.Unwritten {
			if c.embedded && got.Block >= 0 && !got.Unwritten {
				return
			}
			c.Errorf("byte %d is in %+v", off, got)
		}
	}
}

// moved checks that a relocation is no modification. When embedded, mappings that can be stored to are populated again,
// which may be one.
func moved(c *cell, before pmemfs.Stat) {
	if got := c.stat(); got.Blocks != before.Blocks || got.Mtime != before.Mtime && !c.embedded {
		c.Errorf("%+v, before %+v", got, before)
	}
}

// snapshot is everything about a file and its pool that an operation which is refused must leave as it was.
type snapshot struct {
	content []byte
	stat    pmemfs.Stat
	extents []pmemfs.Extent
	names   []string
	xattrs  []string
	statfs  pmemfs.StatfsInfo
	frames  pmemfs.Frames
}

func (c *cell) snapshot() (s snapshot) {
	c.Helper()
	var err error
	s.stat = c.stat()
	s.content = make([]byte, s.stat.Size)
	if _, err := c.f.ReadAt(s.content, 0); err != nil && err != io.EOF {
		c.Fatal(err)
	}
	s.extents, err = c.f.Extents()
	must(c, err)
	list, err := c.fsys.ReadDir(".")
	must(c, err)
	for _, e := range list {
		s.names = append(s.names, e.Name())
	}
	s.xattrs, err = c.fsys.Listxattr(c.name)
	must(c, err)
	s.statfs, err = c.fsys.Statfs()
	must(c, err)
	s.frames = frames(c, c.fsys)
	return s
}

func frames(t testing.TB, fsys *pmemfs.FS) pmemfs.Frames {
	t.Helper()
	s, err := fsys.Stats()
	must(t, err)
	return s.Frames
}

// hold has the holder hold the range, with a hole in it when one is wanted and can be. holes is false when there can be none.
func (c *cell) hold(h *holding, hole bool) (holes bool) {
	c.Helper()
	c.handle = do(c, c.holder, order{Do: "open", Name: c.name, Flags: unix.O_RDWR}).Handle
	punch := order{Do: "punch", Off: inHeld, N: page}
	if hole {
		do(c, c.holder, punch)
	}
	take := order{Do: "freeze"}
	if h.flags != 0 {
		take = order{Do: "map", Off: heldOff, N: heldLen, Flags: uint32(h.flags)}
	}
	if h.flags != 0 || h.static {
		a := c.holder.obey(take)
		var unfilled *pmemfs.UnfilledError
		if hole && errors.As(a.err(), &unfilled) && unfilled.Offset == inHeld && unfilled.What == "a hole" {
			return false
		}
		must(c, a.err())
	}
	if h.pin {
		do(c, c.holder, order{Do: "pin", N: heldLen})
	}
	if hole && extentAt(c, c.f, inHeld).Block >= 0 { // the mapping or the pin has filled it
		if a := c.holder.obey(punch); a.Err != nil {
			wantError(c.T, a.err(), pmemfs.ErrSealed, c.name)
			return false
		}
		if extentAt(c, c.f, inHeld).Block >= 0 {
			return false
		}
	}
	if h.flags != 0 {
		do(c, c.holder, order{Do: "touch"})
	}
	return hole
}

// release ends what hold has begun.
func (c *cell) release(h *holding) {
	c.Helper()
	for _, m := range c.maps {
		must(c, m.Unmap())
	}
	for _, what := range []order{{Do: "unpin"}, {Do: "unmap"}, {Do: "thaw"}, {Do: "close"}} {
		a := c.holder.obey(what)
		if a.Err != nil && a.Err.Text != errNothing.Error() {
			c.Error(a.Err)
		}
	}
	must(c, c.f.Close())
	must(c, errors.Join(c.fsys.RemoveAll(c.name), c.fsys.RemoveAll(c.name+"-renamed"), c.fsys.RemoveAll(c.name+"-linked")))
	if got := frames(c, c.fsys); got.Records != 0 {
		c.Errorf("records remain: %+v", got)
	}
}

// try finds out what becomes of an operation under a holding, and checks everything about it.
func (c *cell) try(op *operation, h *holding) string {
	c.Helper()
	c.f = create(c, c.fsys, c.name)
	data := make([]byte, cellLen)
	for i := range data {
		data[i] = byte(i/page + 1)
	}
	_, err := c.f.WriteAt(data, 0)
	must(c, err)
	if op.before != nil {
		must(c, op.before(c))
	}
	c.left = h.static || h.sealed()
	defer c.release(h)
	hole := op.impact == fills || op.impact == reserves
	if holes := c.hold(h, hole); hole && !holes {
		return noHoles
	}
	before := c.snapshot()
	err = op.do(c)
	if err != nil {
		return c.refused(op, h, err, before)
	}
	took := frames(c, c.fsys).Breaks - before.frames.Breaks
	if op.publish {
		took--
	}
	want := before.content
	if op.content != nil {
		want = op.content(want)
	}
	got := make([]byte, len(want)+1)
	if n, err := c.f.ReadAt(got, 0); n != len(want) || err != io.EOF || !bytes.Equal(got[:n], want) {
		c.Errorf("the file holds something else than it should: %d bytes, want %d, %v", n, len(want), err)
	}
	if op.after != nil {
		op.after(c, before.stat)
	}
	if h.flags != 0 {
		do(c, c.holder, order{Do: "compare"})
	}
	if took > 0 {
		return breaks
	}
	return allowed
}

// refused checks that the error says who is in the way, and that nothing has changed.
func (c *cell) refused(op *operation, h *holding, err error, before snapshot) string {
	c.Helper()
	for _, m := range c.maps {
		must(c, m.Unmap())
	}
	c.maps = nil
	after := c.snapshot()
	if !bytes.Equal(before.content, after.content) {
		c.Error("refused, and the contents have changed")
	}
	before.content, after.content = nil, nil
	if op.byFault { // pages before the one that cannot be had may have been granted, for storing
		after.stat.Mtime, after.stat.Ctime = before.stat.Mtime, before.stat.Ctime
	}
	if !reflect.DeepEqual(before, after) {
		c.Errorf("refused, and something has changed:\nbefore %+v\nafter  %+v", before, after)
	}
	if h.flags != 0 {
		do(c, c.holder, order{Do: "compare"})
	}
	var sealed *pmemfs.SealedError
	switch {
	case !errors.Is(err, unix.EBUSY):
		return "no: " + err.Error()
	case errors.Is(err, pmemfs.ErrStatic):
		if !errors.Is(err, pmemfs.ErrSealed) {
			c.Errorf("%v does not match ErrSealed", err)
		}
		return isStatic
	case errors.As(err, &sealed):
		want := pmemfs.SealedError{PID: c.pid, Handle: c.handle, Offset: heldOff, Length: heldLen, Pin: h.pin}
		if *sealed != want || !errors.Is(err, pmemfs.ErrSealed) {
			c.Errorf("%+v is in the way, want %+v", *sealed, want)
		}
		for _, part := range []string{c.name, fmt.Sprintf("process %d", c.pid), fmt.Sprintf("handle %d", c.handle)} {
			if !strings.Contains(err.Error(), part) {
				c.Errorf("%q does not say %q", err, part)
			}
		}
		return isSealed
	case op.byFault:
		return isSealed
	}
	return "no: EBUSY"
}

// conform tries every cell, and returns the table.
func conform(t *testing.T, fsys *pmemfs.FS, holder obeyer, pid int, embedded bool) string {
	var table strings.Builder
	table.WriteString("| operation |")
	for _, h := range holdings {
		table.WriteString(" " + h.name + " |")
	}
	table.WriteString("\n|---|" + strings.Repeat("---|", len(holdings)) + "\n")
	for row, op := range operations() {
		table.WriteString("| " + op.name + " |")
		for column, h := range holdings {
			if embedded && (op.publish || h.flags&pmemfs.Sync != 0 || strings.Contains(op.name, "Sync")) {
				continue
			}
			t.Run(op.name+"/"+h.name, func(t *testing.T) {
				c := &cell{T: t, fsys: fsys, holder: holder, pid: pid, embedded: embedded, name: fmt.Sprintf("cell-%d-%d", row, column)}
				got := c.try(&op, &h)
				if want := rule(op.impact, &h, embedded); got != want {
					t.Errorf("the outcome is %q, the rule says %q", got, want)
				}
				table.WriteString(" " + got + " |")
			})
		}
		table.WriteString("\n")
	}
	return table.String()
}

const conformancePage = "docs/guarantees.md"

// TestConformance tries every operation under every way in which another process can hold a range of the file.
func TestConformance(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	holder := startClient(t, socket)
	table := conform(t, dial(t, socket), holder, holder.Cmd.Process.Pid, false)
	if t.Failed() {
		return
	}
	text, err := os.ReadFile(conformancePage)
	must(t, err)
	const begin, end = "<!-- conformance: rewritten by go test -run TestConformance -update . -->\n\n", "\n<!-- conformance: end -->"
	before, rest, found := strings.Cut(string(text), begin)
	old, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no place for the table", conformancePage)
	}
	if old == table {
		return
	}
	if !*rewriteTable {
		t.Fatalf("the table in %s is not what was found out; if that is meant, run with -update:\n%s", conformancePage, table)
	}
	must(t, os.WriteFile(conformancePage, []byte(before+begin+table+end+after), 0o644))
}

// An embedded pool has the same table for this process's own mappings, as far as it has these kinds.
func TestConformanceEmbedded(t *testing.T) {
	fsys := openPool(t, newPool(t))
	conform(t, fsys, newClient(fsys), os.Getpid(), true)
}
