package explore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// item is all that can be seen of a file under one of its names.
type item struct {
	path     string
	id       uint64 // the same for names of the same file, otherwise meaningless
	mode     uint32 // with the type
	uid, gid uint32
	nlink    uint32
	size     int64
	static   bool
	times    [2]int64 // mtime, ctime
	xattrs   string
	target   string
	blocks   []block // that hold anything but zeros, in order
	node     *node   // of the model
}

type block struct {
	number int64
	bytes  []byte
}

// tree is a whole file system, sorted by path.
type tree []item

var (
	treeSeed  = maphash.MakeSeed()
	zeroBlock content
)

// digest is equal for equal trees, and in practice for no others.
func (t tree) digest() uint64 {
	var h maphash.Hash
	h.SetSeed(treeSeed)
	var b [57]byte
	first := make(map[uint64]int, len(t))
	for i := range t {
		it := &t[i]
		if _, ok := first[it.id]; !ok {
			first[it.id] = i
		}
		le := binary.LittleEndian
		le.PutUint32(b[0:], it.mode)
		le.PutUint32(b[4:], it.uid)
		le.PutUint32(b[8:], it.gid)
		le.PutUint32(b[12:], it.nlink)
		le.PutUint64(b[16:], uint64(it.size))
		le.PutUint64(b[24:], uint64(it.times[0]))
		le.PutUint64(b[32:], uint64(it.times[1]))
		le.PutUint64(b[40:], uint64(first[it.id]))
		le.PutUint64(b[48:], uint64(len(it.blocks)))
		b[56] = 0
		if it.static {
			b[56] = 1
		}
		h.Write(b[:])
		for _, s := range [...]string{it.path, it.xattrs, it.target} {
			h.WriteString(s)
			h.WriteByte(0)
		}
		for _, k := range it.blocks {
			le.PutUint64(b[:], uint64(k.number))
			h.Write(b[:8])
			h.Write(k.bytes)
		}
	}
	return h.Sum64()
}

// tree of the model; with durable, with the times that the medium may have
// instead of those that are only in memory.
func (m *Model) tree(durable bool) tree {
	var t tree
	var walk func(path string, n *node)
	walk = func(path string, n *node) {
		it := item{
			path: path, id: uint64(n.id), mode: n.kind | n.mode, uid: n.uid, gid: n.gid, nlink: n.nlink, size: n.size, static: n.static,
			times: [2]int64{n.mtime, n.ctime}, target: n.target, node: n,
		}
		if durable && len(n.durable) > 0 {
			it.times = n.durable[0]
		}
		for _, name := range slices.Sorted(maps.Keys(n.xattrs)) {
			it.xattrs += fmt.Sprintf("%s=%q;", name, n.xattrs[name])
		}
		for _, b := range slices.Sorted(maps.Keys(n.data)) {
			if *n.data[b] != zeroBlock {
				it.blocks = append(it.blocks, block{b, n.data[b][:]})
			}
		}
		t = append(t, it)
		for _, name := range slices.Sorted(maps.Keys(n.entries)) {
			walk(join(path, name), n.entries[name])
		}
	}
	walk("/", m.root)
	return t
}

func join(dir, name string) string { return strings.TrimSuffix(dir, "/") + "/" + name }

// root is who asks.
var root core.Cred

// reader reads trees of mounted file systems. Its memory is used again for
// the next one.
type reader struct {
	tree tree
	mem  []byte
	used int
}

func (r *reader) read(fs *core.FS) (tree, error) {
	r.tree, r.used = r.tree[:0], 0
	return r.tree, r.add(fs, "/", layout.RootIno)
}

func (r *reader) block() []byte {
	if r.used+blockSize > len(r.mem) {
		r.mem, r.used = make([]byte, 64*blockSize), 0
	}
	r.used += blockSize
	return r.mem[r.used-blockSize : r.used]
}

func (r *reader) add(fs *core.FS, path string, ino layout.Ino) error {
	a, err := fs.GetAttr(ino)
	if err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	it := item{
		path: path, id: uint64(ino), mode: a.Mode, uid: a.UID, gid: a.GID, nlink: a.Nlink, size: a.Size, static: a.Static,
		times: [2]int64{a.Mtime, a.Ctime},
	}
	names, err := fs.ListXattr(root, ino)
	if err != nil {
		return fmt.Errorf("extended attributes of %s: %w", path, err)
	}
	for _, name := range names {
		value, err := fs.GetXattr(root, ino, name)
		if err != nil {
			return fmt.Errorf("extended attribute %s of %s: %w", name, path, err)
		}
		it.xattrs += fmt.Sprintf("%s=%q;", name, value)
	}
	switch a.Mode & layout.ModeType {
	case layout.ModeSymlink:
		if it.target, err = fs.Readlink(ino); err != nil {
			return fmt.Errorf("readlink %s: %w", path, err)
		}
	case layout.ModeRegular:
		n, err := fs.Open(ino)
		if err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		defer n.Close()
		if it.blocks, err = r.contents(n); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	r.tree = append(r.tree, it)
	if a.Mode&layout.ModeType == layout.ModeDirectory {
		return r.names(fs, path, ino)
	}
	return nil
}

func (r *reader) names(fs *core.FS, path string, ino layout.Ino) error {
	var all []core.DirEntry
	for from := core.Cookie(0); ; {
		list, err := fs.ReadDir(root, ino, from, 100)
		if err != nil {
			return fmt.Errorf("list %s: %w", path, err)
		}
		if len(list) == 0 {
			break
		}
		all = append(all, list...)
		from = list[len(list)-1].Next
	}
	slices.SortFunc(all, func(a, b core.DirEntry) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range all {
		if err := r.add(fs, join(path, e.Name), e.Ino); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) contents(n *core.Node) ([]block, error) {
	extents, err := n.Extents(0, layout.MaxFileSize)
	if err != nil {
		return nil, err
	}
	var out []block
	for _, e := range extents {
		if e.Block < 0 {
			continue
		}
		for off := e.Off; off < e.Off+e.Len; off += blockSize {
			b := r.block()
			k, err := n.ReadAt(b, off)
			if err != nil && err != io.EOF {
				return nil, err
			}
			clear(b[k:])
			if !bytes.Equal(b, zeroBlock[:]) {
				out = append(out, block{off / blockSize, b})
			}
		}
	}
	return out, nil
}

// differs says how got, read from a file system, differs from what the model
// allows; empty: it does not. It is exact where the digest is not: of loose
// words any value will do, of times that are only in memory either.
func (m *Model) differs(got tree) string {
	want := m.tree(false)
	var out []string
	i, k := 0, 0
	ids := map[uint64]uint64{}
	for i < len(want) || k < len(got) {
		switch {
		case k == len(got) || i < len(want) && want[i].path < got[k].path && !slices.ContainsFunc(got, samePath(want[i])):
			out = append(out, want[i].path+" is missing")
			i++
		case i == len(want) || !slices.ContainsFunc(want, samePath(got[k])):
			out = append(out, got[k].path+" should not be there")
			k++
		default:
			out = append(out, want[i].differs(&got[k])...)
			if id, ok := ids[want[i].id]; ok && id != got[k].id {
				out = append(out, got[k].path+" is another file than its other name")
			}
			ids[want[i].id] = got[k].id
			i, k = i+1, k+1
		}
	}
	return strings.Join(out, "; ")
}

func samePath(a item) func(item) bool { return func(b item) bool { return a.path == b.path } }

// differs compares one file; want is the model's.
func (want *item) differs(got *item) (out []string) {
	add := func(what string, w, g any) {
		if w != g {
			out = append(out, fmt.Sprintf("%s: %s %v, want %v", want.path, what, g, w))
		}
	}
	add("mode", want.mode, got.mode)
	add("uid", want.uid, got.uid)
	add("gid", want.gid, got.gid)
	add("links", want.nlink, got.nlink)
	add("size", want.size, got.size)
	add("static", want.static, got.static)
	if want.xattrs != got.xattrs {
		out = append(out, fmt.Sprintf("%s: extended attributes %.60s, want %.60s", want.path, got.xattrs, want.xattrs))
	}
	add("target", want.target, got.target)
	n := want.node
	for i, what := range []string{"mtime", "ctime"} {
		if g := got.times[i]; g != want.times[i] && !slices.ContainsFunc(n.durable, func(d [2]int64) bool { return d[i] == g }) {
			out = append(out, fmt.Sprintf("%s: %s %d, want %d", want.path, what, g, want.times[i]))
		}
	}
	return append(out, want.contents(got)...)
}

// contents compares the words of the blocks.
func (want *item) contents(got *item) (out []string) {
	numbers := map[int64][2][]byte{}
	for _, b := range want.blocks {
		numbers[b.number] = [2][]byte{b.bytes, zeroBlock[:]}
	}
	for w := range want.node.loose {
		if b := w * wordSize / blockSize; numbers[b][0] == nil {
			numbers[b] = [2][]byte{zeroBlock[:], zeroBlock[:]}
		}
	}
	for _, b := range got.blocks {
		if numbers[b.number][0] == nil {
			numbers[b.number] = [2][]byte{zeroBlock[:], nil}
		}
		numbers[b.number] = [2][]byte{numbers[b.number][0], b.bytes}
	}
	for _, number := range slices.Sorted(maps.Keys(numbers)) {
		pair := numbers[number]
		for at := 0; at < blockSize; at += wordSize {
			w := (number*blockSize + int64(at)) / wordSize
			g := binary.LittleEndian.Uint64(pair[1][at:])
			v := binary.LittleEndian.Uint64(pair[0][at:])
			if g == v || slices.ContainsFunc(want.node.loose[w], func(l uint64) bool { return below(l, w, want.size) == g }) {
				continue
			}
			out = append(out, fmt.Sprintf("%s: bytes at %d are %q, want %q", want.path, w*wordSize,
				pair[1][at:at+wordSize], pair[0][at:at+wordSize]))
			break
		}
	}
	return out
}
