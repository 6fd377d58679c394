package core

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// fileState is all that can be seen of an inode.
type fileState struct {
	Attr   Attr
	Xattrs string
	Target string
	Blocks map[int64]string // contents of blocks that hold something else than zeros
}

// treeState is all that can be seen of a file system, by path.
type treeState map[string]fileState

// snapshot reads the whole tree. Errors become states of their own, which
// equal no other.
func snapshot(fs *FS) treeState {
	s := treeState{}
	s.add(fs, "/", layout.RootIno)
	return s
}

func (s treeState) add(fs *FS, path string, ino layout.Ino) {
	a, err := fs.GetAttr(ino)
	if err != nil {
		s[path] = fileState{Target: fmt.Sprint("stat: ", err)}
		return
	}
	a.Atime = 0
	f := fileState{Attr: a}
	names, err := fs.ListXattr(root, ino)
	for _, name := range names {
		value, e := fs.GetXattr(root, ino, name)
		f.Xattrs += fmt.Sprintf("%s=%q %v;", name, value, e)
	}
	if err != nil {
		f.Xattrs += err.Error()
	}
	switch a.Mode & layout.ModeType {
	case layout.ModeSymlink:
		if f.Target, err = fs.Readlink(ino); err != nil {
			f.Target = fmt.Sprint("readlink: ", err)
		}
	case layout.ModeRegular:
		f.read(fs, ino)
	case layout.ModeDirectory:
		f.Target = s.addNames(fs, path, ino)
	}
	s[path] = f
}

func (s treeState) addNames(fs *FS, path string, ino layout.Ino) string {
	for from := Cookie(0); ; {
		list, err := fs.ReadDir(root, ino, from, 100)
		if err != nil {
			return fmt.Sprint("readdir: ", err)
		}
		for _, e := range list {
			from = e.Next
			s.add(fs, strings.TrimSuffix(path, "/")+"/"+e.Name, e.Ino)
		}
		if len(list) == 0 {
			return ""
		}
	}
}

func (f *fileState) read(fs *FS, ino layout.Ino) {
	n, err := fs.Open(ino)
	if err != nil {
		f.Target = fmt.Sprint("open: ", err)
		return
	}
	defer n.Close()
	extents, err := n.Extents(0, layout.MaxFileSize)
	if err != nil {
		f.Target = fmt.Sprint("extents: ", err)
		return
	}
	f.Blocks = map[int64]string{}
	b := make([]byte, layout.BlockSize)
	for _, e := range extents {
		for off := e.Off; e.Block >= 0 && !e.Unwritten && off < e.Off+e.Len; off += layout.BlockSize {
			k, err := n.ReadAt(b, off)
			if err != nil && err != io.EOF {
				f.Target = fmt.Sprint("read: ", err)
				return
			}
			clear(b[k:])
			if !bytes.Equal(b, zeroBlock) {
				f.Blocks[off/layout.BlockSize] = string(b)
			}
		}
	}
}

var zeroBlock = make([]byte, layout.BlockSize)

// without returns the state without what fn clears.
func (s treeState) without(fn func(*Attr)) treeState {
	out := treeState{}
	for path, f := range s {
		fn(&f.Attr)
		out[path] = f
	}
	return out
}

func noTimes(a *Attr)  { a.Mtime, a.Ctime = 0, 0 }
func noBlocks(a *Attr) { a.Blocks = 0 }

func (s treeState) equal(other treeState) bool {
	if len(s) != len(other) {
		return false
	}
	for path, f := range s {
		g, ok := other[path]
		if !ok || f.Attr != g.Attr || f.Xattrs != g.Xattrs || f.Target != g.Target || len(f.Blocks) != len(g.Blocks) {
			return false
		}
		for block, content := range f.Blocks {
			if g.Blocks[block] != content {
				return false
			}
		}
	}
	return true
}

// diff says how the state differs from the nearest of states.
func (s treeState) diff(states []treeState) string {
	best := ""
	for _, want := range states {
		d := cmp.Diff(want.short(), s.short())
		if best == "" || len(d) < len(best) {
			best = d
		}
	}
	return best
}

// short is the state with contents cut for people to read.
func (s treeState) short() map[string]string {
	out := map[string]string{}
	for path, f := range s {
		var blocks []string
		for b, content := range f.Blocks {
			blocks = append(blocks, fmt.Sprintf("%d:%08x", b, layout.Checksum([]byte(content))))
		}
		slices.Sort(blocks)
		out[path] = fmt.Sprintf("%+v xattrs %.60q target %q blocks %v", f.Attr, f.Xattrs, f.Target, blocks)
	}
	return out
}

// matches reports whether the state is one that an operation of that kind may
// leave when the power is cut: the first of states is the one before it, the
// last the one after. done: the operation had returned.
func (s treeState) matches(kind opKind, states []treeState, done bool) bool {
	if done {
		states = states[len(states)-1:]
	}
	switch kind {
	case several:
		for _, want := range states {
			if s.without(noBlocks).equal(want.without(noBlocks)) {
				return true
			}
		}
		return false
	case inPlace, mixed, nothing:
		return s.matchesInPlace(states[0], states[len(states)-1])
	}
	return s.equal(states[0]) || s.equal(states[len(states)-1])
}

// matchesInPlace allows each aligned 8 bytes to be old or new, except where
// there was no block before and the metadata is the new one.
func (s treeState) matchesInPlace(before, after treeState) bool {
	if len(s) != len(before) {
		return false
	}
	for path, f := range s {
		old, now := before[path], after[path]
		for _, a := range []*Attr{&f.Attr, &old.Attr, &now.Attr} {
			noTimes(a)
		}
		isNew := f.Attr == now.Attr && old.Attr != now.Attr
		if f.Attr != old.Attr && f.Attr != now.Attr || f.Xattrs != old.Xattrs || f.Target != old.Target {
			return false
		}
		for block := range union(f.Blocks, old.Blocks, now.Blocks) {
			_, existed := old.Blocks[block]
			if !wordsOf(f.Blocks[block], old.Blocks[block], now.Blocks[block], existed || !isNew) {
				return false
			}
		}
	}
	return true
}

func union(maps ...map[int64]string) map[int64]bool {
	out := map[int64]bool{}
	for _, m := range maps {
		for k := range m {
			out[k] = true
		}
	}
	return out
}

// wordsOf reports whether each word of got is that of now, or with mayBeOld
// that of old. An empty string is zeros.
func wordsOf(got, old, now string, mayBeOld bool) bool {
	full := func(s string) string {
		if s == "" {
			return string(zeroBlock)
		}
		return s
	}
	got, old, now = full(got), full(old), full(now)
	for i := 0; i < layout.BlockSize; i += layout.WordSize {
		w := got[i : i+layout.WordSize]
		if w != now[i:i+layout.WordSize] && !(mayBeOld && w == old[i:i+layout.WordSize]) {
			return false
		}
	}
	return true
}
