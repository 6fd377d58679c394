package core

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// modelFile is what a file should be, in plain memory.
type modelFile struct {
	typ    uint32
	ino    layout.Ino
	links  int
	size   int64
	static bool
	blocks map[int64][]byte // contents; a missing block is zeros
	xattrs map[string]string
	target string
	names  map[string]*modelFile // of a directory
	parent *modelFile            // of a directory
}

func (f *modelFile) dir() bool { return f.typ == layout.ModeDirectory }

func (f *modelFile) write(p []byte, off int64) {
	for i := 0; i < len(p); {
		block, at := (off+int64(i))/page, (off+int64(i))%page
		if f.blocks[block] == nil {
			f.blocks[block] = make([]byte, page)
		}
		i += copy(f.blocks[block][at:], p[i:])
	}
	f.size = max(f.size, off+int64(len(p)))
}

// grows is the error of an operation that makes the file end at end, if it is
// shorter.
func (f *modelFile) grows(end int64) syscall.Errno {
	if f.static && end > f.size {
		return unix.EBUSY
	}
	return 0
}

// zero makes [off, end) zeros, whatever the size.
func (f *modelFile) zero(off, end int64) {
	for block, b := range f.blocks {
		lo, hi := max(off-block*page, 0), min(end-block*page, page)
		if lo < hi {
			clear(b[lo:hi])
		}
	}
}

func (f *modelFile) read(p []byte, off int64) (int, error) {
	n := min(max(f.size-off, 0), int64(len(p)))
	for i := int64(0); i < n; {
		block, at := (off+i)/page, (off+i)%page
		k := min(page-at, n-i)
		clear(p[i : i+k])
		if b := f.blocks[block]; b != nil {
			copy(p[i:i+k], b[at:])
		}
		i += k
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// openModel is a Node and what it should be.
type openModel struct {
	n *Node
	f *modelFile
}

// model runs a file system and its model side by side.
type model struct {
	meta, data medium.Area
	fs         *FS
	root       *modelFile
	open       []openModel
}

func newModel(t *rapid.T) *model {
	metaSize, dataSize, err := Sizes(64<<20, FormatOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := &model{meta: medium.Memory(metaSize), data: medium.Memory(dataSize)}
	if err := Format(m.meta, m.data, FormatOptions{Zeroed: true}); err != nil {
		t.Fatal(err)
	}
	if m.fs, err = Mount(m.meta, m.data, Options{}); err != nil {
		t.Fatal(err)
	}
	m.root = &modelFile{typ: layout.ModeDirectory, ino: layout.RootIno, links: 2, names: map[string]*modelFile{}, xattrs: map[string]string{}}
	m.root.parent = m.root
	return m
}

// all returns the files that names lead to, in a fixed order.
func (m *model) all(want func(*modelFile) bool) (out []*modelFile) {
	seen := map[*modelFile]bool{}
	var walk func(f *modelFile)
	walk = func(f *modelFile) {
		if seen[f] {
			return
		}
		seen[f] = true
		if want(f) {
			out = append(out, f)
		}
		for _, name := range slices.Sorted(maps.Keys(f.names)) {
			walk(f.names[name])
		}
	}
	walk(m.root)
	return out
}

func anyFile(*modelFile) bool       { return true }
func regular(f *modelFile) bool     { return f.typ == layout.ModeRegular }
func (m *model) dirs() []*modelFile { return m.all((*modelFile).dir) }

var modelNames = []string{"a", "b", "c", "d", "é", strings.Repeat("long", 63) + "123", "with space", "..."}

func drawName(t *rapid.T) string { return rapid.SampledFrom(modelNames).Draw(t, "name") }

func (m *model) drawDir(t *rapid.T) *modelFile {
	return rapid.SampledFrom(m.all(func(f *modelFile) bool { return f.dir() || f.typ == layout.ModeSymlink })).Draw(t, "dir")
}

// drawNode returns an open file, or skips the action when there is none.
func (m *model) drawNode(t *rapid.T) openModel {
	if len(m.open) == 0 {
		t.Skip("nothing is open")
	}
	return m.open[rapid.IntRange(0, len(m.open)-1).Draw(t, "open")]
}

func drawOffset(t *rapid.T) int64 {
	base := rapid.SampledFrom([]int64{0, page, 8 * page, 512 * page, 1 << 30, 1<<40 + page, layout.MaxFileSize - 64*page}).Draw(t, "base")
	return max(base+int64(rapid.IntRange(-3, 3).Draw(t, "blocks"))*page+int64(rapid.SampledFrom([]int{0, 0, 1, 8, 2000, 4095}).Draw(t, "byte")), 0)
}

func (m *model) same(t *rapid.T, what string, got error, want syscall.Errno) bool {
	if want == 0 && got != nil || want != 0 && !errors.Is(got, want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
	return want == 0
}

func (m *model) create(t *rapid.T) {
	dir, name := m.drawDir(t), drawName(t)
	typ := rapid.SampledFrom([]uint32{layout.ModeRegular, layout.ModeRegular, layout.ModeDirectory, layout.ModeDirectory, layout.ModeSymlink, layout.ModeFIFO}).Draw(t, "type")
	f := &modelFile{typ: typ, links: 1, xattrs: map[string]string{}}
	want := syscall.Errno(0)
	switch {
	case !dir.dir():
		want = unix.ENOTDIR
	case dir.names[name] != nil:
		want = unix.EEXIST
	}
	var a Attr
	var err error
	if typ == layout.ModeSymlink {
		f.target = strings.Repeat("t", rapid.IntRange(1, 4095).Draw(t, "target"))
		f.size = int64(len(f.target))
		a, err = m.fs.Symlink(root, dir.ino, name, f.target)
	} else {
		a, err = m.fs.Create(root, dir.ino, name, typ|0o600, 0)
	}
	if !m.same(t, "create", err, want) {
		return
	}
	f.ino = a.Ino
	switch typ {
	case layout.ModeRegular:
		f.blocks = map[int64][]byte{}
	case layout.ModeDirectory:
		f.names, f.parent, f.links = map[string]*modelFile{}, dir, 2
		dir.links++
	}
	dir.names[name] = f
}

func (m *model) openFile(t *rapid.T) {
	files := m.all(regular)
	if len(files) == 0 || len(m.open) > 5 {
		t.Skip("nothing to open")
	}
	f := rapid.SampledFrom(files).Draw(t, "file")
	n, err := m.fs.Open(f.ino)
	if m.same(t, "open", err, 0) {
		m.open = append(m.open, openModel{n, f})
	}
}

func (m *model) closeFile(t *rapid.T) {
	o := m.drawNode(t)
	o.n.Close()
	m.open = slices.DeleteFunc(m.open, func(x openModel) bool { return x.n == o.n })
}

func (m *model) link(t *rapid.T) {
	files := m.all(anyFile)
	f, dir, name := rapid.SampledFrom(files).Draw(t, "file"), rapid.SampledFrom(m.dirs()).Draw(t, "dir"), drawName(t)
	want := syscall.Errno(0)
	switch {
	case f.dir():
		want = unix.EPERM
	case dir.names[name] != nil:
		want = unix.EEXIST
	}
	if _, err := m.fs.Link(root, f.ino, dir.ino, name); m.same(t, "link", err, want) {
		dir.names[name] = f
		f.links++
	}
}

func (m *model) remove(t *rapid.T) {
	dir, name, rmdir := rapid.SampledFrom(m.dirs()).Draw(t, "dir"), drawName(t), rapid.Bool().Draw(t, "rmdir")
	f, want, remove := dir.names[name], syscall.Errno(0), m.fs.Unlink
	if rmdir {
		remove = m.fs.Rmdir
	}
	switch {
	case f == nil:
		want = unix.ENOENT
	case rmdir && !f.dir():
		want = unix.ENOTDIR
	case !rmdir && f.dir():
		want = unix.EISDIR
	case rmdir && len(f.names) > 0:
		want = unix.ENOTEMPTY
	}
	if m.same(t, "remove", remove(root, dir.ino, name), want) {
		delete(dir.names, name)
		m.unlinked(dir, f)
	}
}

// unlinked takes a link from a file whose name in dir went.
func (m *model) unlinked(dir, f *modelFile) {
	f.links--
	if f.dir() {
		f.links = 0
		dir.links--
	}
}

func (f *modelFile) below(top *modelFile) bool {
	for ; f.parent != f; f = f.parent {
		if f == top {
			return true
		}
	}
	return f == top
}

func (m *model) rename(t *rapid.T) {
	from, to := rapid.SampledFrom(m.dirs()).Draw(t, "from"), rapid.SampledFrom(m.dirs()).Draw(t, "to")
	oldName, newName := drawName(t), drawName(t)
	flags := rapid.SampledFrom([]uint32{0, 0, 0, RenameNoReplace, RenameExchange}).Draw(t, "flags")
	f, target := from.names[oldName], to.names[newName]
	want := syscall.Errno(0)
	switch {
	case f == nil:
		want = unix.ENOENT
	case target == nil && flags == RenameExchange:
		want = unix.ENOENT
	case target != nil && flags == RenameNoReplace:
		want = unix.EEXIST
	case f.dir() && to.below(f):
		want = unix.EINVAL
	case target != nil && target.dir() && from.below(target) && flags == RenameExchange:
		want = unix.EINVAL
	case target != nil && target.dir() && from.below(target):
		want = unix.ENOTEMPTY
	case target == nil || target == f || flags == RenameExchange:
	case f.dir() && !target.dir():
		want = unix.ENOTDIR
	case !f.dir() && target.dir():
		want = unix.EISDIR
	case target.dir() && len(target.names) > 0:
		want = unix.ENOTEMPTY
	}
	if !m.same(t, "rename", m.fs.Rename(root, from.ino, oldName, to.ino, newName, flags), want) || target == f {
		return
	}
	if flags == RenameExchange {
		from.names[oldName] = target
		target.moved(to, from)
	} else {
		delete(from.names, oldName)
		if target != nil {
			m.unlinked(to, target)
		}
	}
	to.names[newName] = f
	f.moved(from, to)
}

func (f *modelFile) moved(from, to *modelFile) {
	if f.dir() {
		f.parent = to
		from.links--
		to.links++
	}
}

func (m *model) write(t *rapid.T) {
	o, off := m.drawNode(t), drawOffset(t)
	p := bytes.Repeat([]byte{byte(rapid.IntRange(1, 255).Draw(t, "content"))}, rapid.IntRange(0, 20000).Draw(t, "length"))
	if rapid.Bool().Draw(t, "append") && o.f.size+int64(len(p)) <= layout.MaxFileSize {
		at, n, err := o.n.Append(p)
		if !m.same(t, "append", err, o.f.grows(at+int64(len(p)))) {
			return
		}
		if at != o.f.size || n != len(p) {
			t.Fatalf("append of %d bytes at %d: %d bytes at %d", len(p), o.f.size, n, at)
		}
		off = at
	} else {
		want := o.f.grows(off + int64(len(p)))
		if len(p) == 0 {
			want = 0
		}
		n, err := o.n.WriteAt(p, off)
		if !m.same(t, "write", err, want) {
			return
		}
		if n != len(p) {
			t.Fatalf("write of %d bytes: %d", len(p), n)
		}
	}
	if len(p) > 0 {
		o.f.write(p, off)
	}
}

func (m *model) readFile(t *rapid.T) {
	o, off := m.drawNode(t), drawOffset(t)
	m.compareRead(t, o, off, rapid.IntRange(1, 20000).Draw(t, "length"))
}

func (m *model) compareRead(t *rapid.T, o openModel, off int64, length int) {
	got, want := make([]byte, length), make([]byte, length)
	n, err := o.n.ReadAt(got, off)
	wantN, wantErr := o.f.read(want, off)
	if n != wantN || err != wantErr || !bytes.Equal(got[:n], want[:n]) {
		t.Fatalf("read of %d bytes at %d of %d: %d, %v, want %d, %v, equal %v", length, off, o.f.size, n, err, wantN, wantErr, bytes.Equal(got[:n], want[:n]))
	}
}

func (m *model) truncate(t *rapid.T) {
	o, size := m.drawNode(t), drawOffset(t)
	want := syscall.Errno(0)
	if o.f.static && size != o.f.size {
		want = unix.EBUSY
	}
	_, err := m.fs.SetAttr(root, o.f.ino, SetAttr{Size: &size})
	if !m.same(t, "truncate", err, want) {
		return
	}
	o.f.zero(min(size, o.f.size), layout.MaxFileSize)
	o.f.size = size
}

func (m *model) fallocate(t *rapid.T) {
	o, off := m.drawNode(t), drawOffset(t)
	length := int64(rapid.IntRange(1, 300000).Draw(t, "length"))
	mode := rapid.SampledFrom([]uint32{0, KeepSize, PunchHole | KeepSize, ZeroRange, ZeroRange | KeepSize}).Draw(t, "mode")
	want := syscall.Errno(0)
	first, end := inner(off, length)
	switch {
	case off+length > layout.MaxFileSize:
		want = unix.EFBIG
	case mode&PunchHole == 0 && o.f.grows(off+length) != 0 && (mode&KeepSize == 0 || o.f.end() < off+length):
		want = unix.EBUSY
	case o.f.static && mode&(PunchHole|ZeroRange) != 0 && first < end:
		want = unix.EBUSY
	}
	if !m.same(t, "fallocate", o.n.Fallocate(mode, off, length), want) {
		return
	}
	if mode&(PunchHole|ZeroRange) != 0 {
		o.f.zero(off, off+length)
	}
	if mode&KeepSize == 0 {
		o.f.size = max(o.f.size, off+length)
	}
}

func (m *model) shift(t *rapid.T) {
	o := m.drawNode(t)
	off, length := drawOffset(t)/page*page, int64(rapid.IntRange(1, 70).Draw(t, "length"))*page+int64(rapid.SampledFrom([]int{0, 0, 0, 8}).Draw(t, "byte"))
	insert := rapid.Bool().Draw(t, "insert")
	want, cut, by, mode := syscall.Errno(0), off+length, -length, uint32(CollapseRange)
	if insert {
		cut, by, mode = off, length, InsertRange
	}
	switch {
	case off+length > layout.MaxFileSize:
		want = unix.EFBIG
	case length%page != 0 || cut >= o.f.size:
		want = unix.EINVAL
	case o.f.size+by > layout.MaxFileSize:
		want = unix.EFBIG
	case o.f.static:
		want = unix.EBUSY
	}
	if !m.same(t, "shift", o.n.Fallocate(mode, off, length), want) {
		return
	}
	blocks := map[int64][]byte{}
	for n, b := range o.f.blocks {
		switch {
		case n*page >= cut:
			blocks[n+by/page] = b
		case n*page < off:
			blocks[n] = b
		}
	}
	o.f.blocks, o.f.size = blocks, o.f.size+by
}

func (m *model) relocate(t *rapid.T) {
	o, off := m.drawNode(t), drawOffset(t)
	length := min(int64(rapid.IntRange(1, 300000).Draw(t, "length")), layout.MaxFileSize-off)
	want := syscall.Errno(0)
	if o.f.static && off < o.f.end() && length > 0 {
		want = unix.EBUSY
	}
	m.same(t, "relocate", o.n.Relocate(off, length), want)
}

// defragment changes nothing that is read.
func (m *model) defragment(t *rapid.T) {
	o := m.drawNode(t)
	for off := int64(0); off >= 0; {
		next, d, err := o.n.Defragment(off, false)
		if !m.same(t, "defragment", err, 0) {
			return
		}
		if o.f.static && d.Moved+d.Merged > 0 {
			t.Fatalf("of a static file: %+v", d)
		}
		off = next
	}
}

// end is where the last block ends.
func (f *modelFile) end() int64 { return layout.RoundUp(f.size, page) }

func (m *model) fill(t *rapid.T) {
	o, off := m.drawNode(t), drawOffset(t)
	length := int64(rapid.IntRange(1, 300000).Draw(t, "length"))
	want := syscall.Errno(0)
	if off+length > o.f.end() {
		want = unix.ENXIO
	}
	if m.same(t, "fill", o.n.Fill(off, length), want) {
		m.same(t, "filled", o.n.Filled(off, length, func() error { return nil }), 0)
	}
}

func (m *model) clone(t *rapid.T) {
	o, dir, name := m.drawNode(t), rapid.SampledFrom(m.dirs()).Draw(t, "dir"), drawName(t)
	want := syscall.Errno(0)
	switch {
	case dir.names[name] != nil:
		want = unix.EEXIST
	case o.f.static && o.f.size > 0:
		want = unix.EBUSY
	}
	a, err := o.n.Clone(root, dir.ino, name, 0o600)
	if m.same(t, "clone", err, want) {
		f := &modelFile{typ: layout.ModeRegular, links: 1, ino: a.Ino, size: o.f.size, blocks: map[int64][]byte{}, xattrs: map[string]string{}}
		for n, b := range o.f.blocks {
			f.blocks[n] = slices.Clone(b)
		}
		dir.names[name] = f
	}
}

func (m *model) cloneRange(t *rapid.T) {
	to, from := m.drawNode(t), m.drawNode(t)
	round := func(off int64) int64 { return off / page * page }
	off, srcOff, length := round(drawOffset(t)), round(drawOffset(t)), int64(rapid.IntRange(0, 70).Draw(t, "length"))*page
	if rapid.Bool().Draw(t, "whole") {
		length = from.f.size - srcOff
	}
	all := length
	if length == 0 {
		all = max(from.f.size-srcOff, 0)
	}
	want := syscall.Errno(0)
	first, _ := blocksOf(off, 0)
	switch {
	case length < 0:
		want = unix.EINVAL
	case off+length > layout.MaxFileSize || off+all > layout.MaxFileSize:
		want = unix.EFBIG
	case srcOff+all > from.f.size || to.f == from.f && off < srcOff+all && srcOff < off+all || all%page != 0 && off+all < to.f.size:
		want = unix.EINVAL
	case all > 0 && (to.f.grows(off+all) != 0 || to.f.static || from.f.static):
		want = unix.EBUSY
	}
	if !m.same(t, "clone range", to.n.CloneRange(off, from.n, srcOff, length), want) || all == 0 {
		return
	}
	copied := map[int64][]byte{}
	for n, b := range from.f.blocks {
		if at := n*page - srcOff; at >= 0 && at < all {
			copied[first+at/page] = slices.Clone(b)
		}
	}
	to.f.zero(off, first*page+layout.RoundUp(all, page))
	maps.Copy(to.f.blocks, copied)
	to.f.size = max(to.f.size, off+all)
}

func (m *model) setStatic(t *rapid.T) {
	o, static := m.drawNode(t), rapid.Bool().Draw(t, "static")
	want := syscall.Errno(0)
	if static && o.f.size > 0 && o.n.Filled(0, o.f.size, func() error { return nil }) != nil {
		want = unix.EINVAL
	}
	if m.same(t, "static", o.n.SetStatic(static), want) {
		o.f.static = static
	}
}

func (m *model) fault(t *rapid.T) {
	o, block := m.drawNode(t), drawOffset(t)/page
	write, ahead := rapid.Bool().Draw(t, "write"), int64(rapid.IntRange(1, 20).Draw(t, "ahead"))
	want := syscall.Errno(0)
	if block*page >= o.f.size {
		want = unix.ENXIO
	}
	err := o.n.Fault(block, write, true, 512, ahead, func(r Run) error {
		if r.Block < 0 {
			return nil
		}
		// What is granted is what the file holds, and nothing of others.
		for i := range r.Count {
			got, want := m.data.Bytes()[(r.Block+i)*page:][:page], make([]byte, page)
			copy(want, o.f.blocks[r.First+i])
			valid := min(max(o.f.size-(r.First+i)*page, 0), page)
			if !bytes.Equal(got[:valid], want[:valid]) {
				return fmt.Errorf("block %d of the file: what is granted differs from the content", r.First+i)
			}
		}
		return nil
	})
	m.same(t, "fault", err, want)
}

func (m *model) xattr(t *rapid.T) {
	files := m.all(anyFile)
	f := rapid.SampledFrom(files).Draw(t, "file")
	name := "user." + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")
	_, there := f.xattrs[name]
	if rapid.Bool().Draw(t, "remove") {
		want := syscall.Errno(0)
		if !there {
			want = unix.ENODATA
		}
		if m.same(t, "removexattr", m.fs.RemoveXattr(root, f.ino, name), want) {
			delete(f.xattrs, name)
		}
		return
	}
	flags := rapid.SampledFrom([]int{0, unix.XATTR_CREATE, unix.XATTR_REPLACE}).Draw(t, "flags")
	want := syscall.Errno(0)
	switch {
	case there && flags == unix.XATTR_CREATE:
		want = unix.EEXIST
	case !there && flags == unix.XATTR_REPLACE:
		want = unix.ENODATA
	}
	value := strings.Repeat("v", rapid.SampledFrom([]int{0, 1, 100, 4064, 4065, 20000}).Draw(t, "length"))
	if m.same(t, "setxattr", m.fs.SetXattr(root, f.ino, name, []byte(value), flags), want) {
		f.xattrs[name] = value
	}
}

// remount closes the pool, or drops it as a crash of the process does.
func (m *model) remount(t *rapid.T) {
	if rapid.Bool().Draw(t, "clean") {
		for _, o := range m.open {
			o.n.Close()
		}
		m.same(t, "close", m.fs.Close(), 0)
	}
	m.open = nil
	fs, err := Mount(m.meta, m.data, Options{})
	m.same(t, "mount", err, 0)
	fs.Reclaimed()
	m.fs = fs
}

// check compares everything there is.
func (m *model) check(t *rapid.T) {
	for _, f := range m.all(anyFile) {
		m.compare(t, f)
	}
	for _, o := range m.open {
		for block := range o.f.blocks {
			m.compareRead(t, o, block*page, page)
		}
		if a := o.n.Attr(); a.Size != o.f.size || int(a.Nlink) != o.f.links {
			t.Fatalf("open file %+v, want size %d, %d links", a, o.f.size, o.f.links)
		}
	}
}

func (m *model) compare(t *rapid.T, f *modelFile) {
	a, err := m.fs.GetAttr(f.ino)
	m.same(t, "stat", err, 0)
	if a.Mode&layout.ModeType != f.typ || int(a.Nlink) != f.links || !f.dir() && a.Size != f.size || a.Static != f.static {
		t.Fatalf("%+v, want type %#o, %d links, size %d, static %v", a, f.typ, f.links, f.size, f.static)
	}
	names, err := m.fs.ListXattr(root, f.ino)
	if m.same(t, "listxattr", err, 0); !slices.Equal(names, slices.Sorted(maps.Keys(f.xattrs))) {
		t.Fatalf("attributes %q, want %q", names, f.xattrs)
	}
	for _, name := range names {
		value, err := m.fs.GetXattr(root, f.ino, name)
		if m.same(t, "getxattr", err, 0); string(value) != f.xattrs[name] {
			t.Fatalf("attribute %s: %d bytes, want %d", name, len(value), len(f.xattrs[name]))
		}
	}
	switch f.typ {
	case layout.ModeSymlink:
		if target, err := m.fs.Readlink(f.ino); err != nil || target != f.target {
			t.Fatalf("link to %q, %v, want %q", target, err, f.target)
		}
	case layout.ModeDirectory:
		m.compareNames(t, f)
	case layout.ModeRegular:
		n, err := m.fs.Open(f.ino)
		m.same(t, "open", err, 0)
		for block := range f.blocks {
			m.compareRead(t, openModel{n, f}, block*page, page)
		}
		n.Close()
	}
}

func (m *model) compareNames(t *rapid.T, dir *modelFile) {
	found := map[string]layout.Ino{}
	for from := Cookie(0); ; {
		list, err := m.fs.ReadDir(root, dir.ino, from, 3)
		if m.same(t, "readdir", err, 0); len(list) == 0 {
			break
		}
		for _, e := range list {
			if found[e.Name] != 0 {
				t.Fatalf("name %q twice", e.Name)
			}
			found[e.Name], from = e.Ino, e.Next
		}
	}
	want := map[string]layout.Ino{}
	for name, f := range dir.names {
		want[name] = f.ino
		if a, err := m.fs.Lookup(root, dir.ino, name); err != nil || a.Ino != f.ino {
			t.Fatalf("lookup of %q: %v, %v, want %v", name, a.Ino, err, f.ino)
		}
	}
	if !maps.Equal(found, want) {
		t.Fatalf("names %v, want %v", found, want)
	}
	if up, err := m.fs.Lookup(root, dir.ino, ".."); err != nil || up.Ino != dir.parent.ino {
		t.Fatalf("..: %v, %v, want %v", up.Ino, err, dir.parent.ino)
	}
}

// TestModel compares the file system with a model in plain memory, under
// random operations, and checks every structure at the end.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		t.Repeat(map[string]func(*rapid.T){
			"create": m.create, "link": m.link, "remove": m.remove, "rename": m.rename, "xattr": m.xattr,
			"open": m.openFile, "close": m.closeFile, "write": m.write, "read": m.readFile, "write again": m.write,
			"truncate": m.truncate, "fallocate": m.fallocate, "shift": m.shift, "relocate": m.relocate, "fault": m.fault,
			"fill": m.fill, "static": m.setStatic, "clone": m.clone, "clone range": m.cloneRange, "defragment": m.defragment,
			"write once more": m.write,
			"remount":         m.remount, "": m.check,
		})
		fs, err := Mount(m.meta, m.data, Options{ReadOnly: true})
		if err == nil {
			err = checkMounted(fs)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}
