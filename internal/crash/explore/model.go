package explore

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/layout"
)

const (
	blockSize = layout.BlockSize
	wordSize  = layout.WordSize
	lineSize  = layout.LineSize
)

// content is a block's bytes.
type content [blockSize]byte

// node is a file, directory or symbolic link of the model.
//
// Invariants: bytes of data at and behind size are zeros; loose has words of
// blocks in data only.
type node struct {
	id       int // the same in all copies of a model
	kind     uint32
	mode     uint32
	uid, gid uint32
	nlink    uint32
	size     int64
	static   bool
	target   string
	xattrs   map[string]string
	entries  map[string]*node
	parent   *node
	data     map[int64]*content // the blocks that were written; immutable, replaced as a whole
	loose    map[int64][]uint64 // by word: what the medium may hold instead
	opened   int
	mtime    int64
	ctime    int64
	durable  [][2]int64 // mtime and ctime that the medium may have instead; immutable but for its length
}

// Model is a plain file system in memory: what core should be. A change is
// durable when the operation returns, but for what loose and durable say.
type Model struct {
	root    *node
	handles map[string]*node
	next    int
	now     int64

	// states is what a power cut during the present operation may leave besides
	// its end: copies of before, and of stages between.
	states []*Model
}

func newModel() *Model {
	m := &Model{handles: map[string]*node{}}
	m.root = m.newNode(layout.ModeDirectory, 0o755)
	m.root.parent = m.root
	return m
}

func (m *Model) newNode(kind, mode uint32) *node {
	m.next++
	n := &node{id: m.next, kind: kind, mode: mode, nlink: 1}
	if kind == layout.ModeDirectory {
		n.nlink, n.entries = 2, map[string]*node{}
	}
	n.set(m.now, m.now)
	return n
}

// clone copies everything but states.
func (m *Model) clone() *Model {
	seen := map[*node]*node{}
	out := &Model{handles: map[string]*node{}, next: m.next, now: m.now, root: m.root.clone(seen)}
	for name, n := range m.handles {
		out.handles[name] = n.clone(seen)
	}
	return out
}

func (n *node) clone(seen map[*node]*node) *node {
	if n == nil {
		return nil
	}
	if c := seen[n]; c != nil {
		return c
	}
	c := new(node)
	*c = *n
	seen[n] = c
	c.xattrs, c.data, c.loose = maps.Clone(n.xattrs), maps.Clone(n.data), maps.Clone(n.loose)
	c.parent = n.parent.clone(seen)
	if n.entries != nil {
		c.entries = make(map[string]*node, len(n.entries))
		for name, e := range n.entries {
			c.entries[name] = e.clone(seen)
		}
	}
	return c
}

// find returns a node of this copy.
func (m *Model) find(id int) (found *node) {
	var walk func(n *node)
	walk = func(n *node) {
		if n.id == id {
			found = n
		}
		for _, e := range n.entries {
			walk(e)
		}
	}
	walk(m.root)
	for _, n := range m.handles {
		walk(n)
	}
	return found
}

// set makes times durable, as every transaction that changes the inode does.
func (n *node) set(mtime, ctime int64) {
	n.mtime, n.ctime = mtime, ctime
	n.timesDurable()
}

// touch sets the times in memory only, as a write in place does.
func (n *node) touch(now int64) {
	n.durable = append(slices.Clone(n.durable), [2]int64{n.mtime, n.ctime})
	n.mtime, n.ctime = now, now
}

func (n *node) timesDurable() { n.durable = nil }

// settle: who uses a file last makes its times durable.
func (n *node) settle() {
	if n.opened == 0 {
		n.timesDurable()
	}
}

func (n *node) isDir() bool { return n.kind == layout.ModeDirectory }

// stage notes that the present state is one that a power cut may leave.
func (m *Model) stage() { m.states = append(m.states, m.clone()) }

// resolve returns what a path leads to; symbolic links are not followed.
func (m *Model) resolve(path string) (*node, error) {
	if path[0] == '@' {
		if n := m.handles[path]; n != nil {
			return n, nil
		}
		return nil, unix.EBADF
	}
	n := m.root
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if name == "" {
			continue
		}
		if !n.isDir() {
			return nil, unix.ENOTDIR
		}
		if n = n.entries[name]; n == nil {
			return nil, unix.ENOENT
		}
	}
	return n, nil
}

// split returns the directory of a path and the last name.
func (m *Model) split(path string) (*node, string, error) {
	at := strings.LastIndexByte(path, '/')
	if at < 0 {
		return nil, "", unix.EBADF
	}
	dir, err := m.resolve("/" + path[:at])
	if err == nil && !dir.isDir() {
		err = unix.ENOTDIR
	}
	return dir, path[at+1:], err
}

// Apply does an operation; tag makes its data different from others'. When it
// fails nothing has changed.
func (m *Model) Apply(o Op, tag int, now int64) error {
	m.now, m.states = now, nil
	m.stage()
	if do := namespaceVerbs[o.Verb]; do != nil {
		return do(m, o)
	}
	if o.Verb == "remount" {
		return m.remount()
	}
	if err := o.valid(); err != nil {
		return err
	}
	n, err := m.resolve(o.Path)
	if err != nil {
		return err
	}
	if do := fileVerbs[o.Verb]; do != nil {
		if n.kind != layout.ModeRegular {
			return notRegular(n, o.Verb)
		}
		if change := changes[o.Verb]; n.static && change != nil && change(n, o) {
			return core.ErrStatic
		}
		err = do(m, n, o, tag)
		n.settle()
		return err
	}
	return m.applyOther(n, o, tag)
}

// valid checks that what is opened is named by a path, and what is closed by
// the name it is open under.
func (o Op) valid() error {
	switch held := o.Path[0] == '@'; {
	case o.Verb == "close" && !held:
		return unix.EBADF
	case o.Verb == "open" && held:
		return unix.EINVAL
	}
	return nil
}

func notRegular(n *node, verb string) error {
	if n.isDir() {
		return unix.EISDIR
	}
	return unix.EINVAL
}

// applyOther does what works on every kind of file.
func (m *Model) applyOther(n *node, o Op, tag int) error {
	switch o.Verb {
	case "setstatic":
		return m.setStatic(n, true)
	case "clearstatic":
		return m.setStatic(n, false)
	case "chmod":
		n.mode = uint32(o.N)
		n.set(n.mtime, m.now)
	case "chown":
		n.uid, n.gid = uint32(o.N), uint32(o.N)
		n.set(n.mtime, m.now)
	case "utimes":
		n.set(o.N, m.now)
	case "setxattr":
		if n.xattrs == nil {
			n.xattrs = map[string]string{}
		}
		n.xattrs[o.Arg] = string(pattern(tag, 0, o.N))
		n.set(n.mtime, m.now)
	case "rmxattr":
		if _, ok := n.xattrs[o.Arg]; !ok {
			return unix.ENODATA
		}
		delete(n.xattrs, o.Arg)
		n.set(n.mtime, m.now)
	case "open":
		if m.handles[o.To] != nil {
			return unix.EBUSY
		}
		m.handles[o.To] = n
		n.opened++
	case "close":
		delete(m.handles, o.Path)
		n.opened--
		n.settle()
	case "sync":
		n.timesDurable()
	}
	return nil
}

// remount makes all times durable, and nothing is open any more.
func (m *Model) remount() error {
	for name, n := range m.handles {
		n.opened--
		n.timesDurable()
		delete(m.handles, name)
	}
	return nil
}

// pattern is n bytes of data for file offset off on: no byte is zero, and
// words next to each other differ.
func pattern(tag int, off, n int64) []byte {
	p := make([]byte, n)
	for i := range p {
		at := off + int64(i)
		p[i] = byte(33 + (int64(tag)*41+at/wordSize*7+at%wordSize)%89)
	}
	return p
}

var namespaceVerbs = map[string]func(m *Model, o Op) error{
	"create":    func(m *Model, o Op) error { return m.create(o, layout.ModeRegular, 0o644) },
	"mkdir":     func(m *Model, o Op) error { return m.create(o, layout.ModeDirectory, 0o755) },
	"fifo":      func(m *Model, o Op) error { return m.create(o, layout.ModeFIFO, 0o644) },
	"symlink":   func(m *Model, o Op) error { return m.create(o, layout.ModeSymlink, 0o777) },
	"link":      (*Model).link,
	"unlink":    func(m *Model, o Op) error { return m.remove(o, false) },
	"rmdir":     func(m *Model, o Op) error { return m.remove(o, true) },
	"rename":    func(m *Model, o Op) error { return m.rename(o, 0) },
	"exchange":  func(m *Model, o Op) error { return m.rename(o, unix.RENAME_EXCHANGE) },
	"noreplace": func(m *Model, o Op) error { return m.rename(o, unix.RENAME_NOREPLACE) },
}

func (m *Model) put(dir *node, name string, n *node) {
	if _, ok := dir.entries[name]; !ok {
		dir.size++
	}
	dir.entries[name] = n
	dir.set(m.now, m.now)
	if n.isDir() {
		n.parent = dir
		dir.nlink++
	}
}

func (m *Model) take(dir *node, name string) {
	if dir.entries[name].isDir() {
		dir.nlink--
	}
	delete(dir.entries, name)
	dir.size--
	dir.set(m.now, m.now)
}

func (m *Model) create(o Op, kind, mode uint32) error {
	dir, name, err := m.split(o.Path)
	if err != nil {
		return err
	}
	if dir.entries[name] != nil {
		return unix.EEXIST
	}
	n := m.newNode(kind, mode)
	if kind == layout.ModeSymlink {
		n.target, n.size = o.Arg, int64(len(o.Arg))
	}
	m.put(dir, name, n)
	return nil
}

func (m *Model) link(o Op) error {
	n, err := m.resolve(o.Path)
	if err != nil {
		return err
	}
	dir, name, err := m.split(o.To)
	switch {
	case err != nil:
		return err
	case n.isDir():
		return unix.EPERM
	case dir.entries[name] != nil:
		return unix.EEXIST
	case n.nlink == 0:
		return unix.ENOENT
	}
	m.put(dir, name, n)
	n.nlink++
	n.set(n.mtime, m.now)
	return nil
}

func (m *Model) remove(o Op, directory bool) error {
	dir, name, err := m.split(o.Path)
	if err != nil {
		return err
	}
	n := dir.entries[name]
	if n == nil {
		return unix.ENOENT
	}
	if err := n.removable(directory); err != nil {
		return err
	}
	m.take(dir, name)
	m.drop(n)
	return nil
}

func (n *node) removable(directory bool) error {
	switch {
	case directory && !n.isDir():
		return unix.ENOTDIR
	case !directory && n.isDir():
		return unix.EISDIR
	case len(n.entries) > 0:
		return unix.ENOTEMPTY
	}
	return nil
}

// drop takes a link from a node whose name is gone.
func (m *Model) drop(n *node) {
	if n.nlink--; n.isDir() {
		n.nlink = 0
	}
	n.set(n.mtime, m.now)
}

// under reports whether n is dir or below it.
func (n *node) under(dir *node) bool {
	for ; n != dir; n = n.parent {
		if n.parent == n {
			return false
		}
	}
	return true
}

func (m *Model) rename(o Op, flags int) error {
	from, oldName, err := m.split(o.Path)
	if err != nil {
		return err
	}
	to, newName, err := m.split(o.To)
	if err != nil {
		return err
	}
	source, target := from.entries[oldName], to.entries[newName]
	exchange := flags == unix.RENAME_EXCHANGE
	switch {
	case source == nil:
		return unix.ENOENT
	case source.isDir() && to.under(source):
		return unix.EINVAL
	case target != nil && target.isDir() && from.under(target):
		if exchange {
			return unix.EINVAL
		}
		return unix.ENOTEMPTY
	case target == nil && exchange:
		return unix.ENOENT
	case target != nil && flags == unix.RENAME_NOREPLACE:
		return unix.EEXIST
	case source == target:
		return nil
	}
	if target != nil && !exchange {
		if err := target.removable(source.isDir()); err != nil {
			return err
		}
	}
	m.take(from, oldName)
	if target != nil {
		m.take(to, newName)
	}
	m.put(to, newName, source)
	source.set(source.mtime, m.now)
	switch {
	case exchange:
		m.put(from, oldName, target)
		target.set(target.mtime, m.now)
	case target != nil:
		m.drop(target)
	}
	return nil
}

// word returns a word of a file as it is read.
func (n *node) word(w int64) uint64 {
	b := n.data[w*wordSize/blockSize]
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b[w*wordSize%blockSize:])
}

// values is what the medium may hold of a word.
func (n *node) values(w int64) []uint64 { return append([]uint64{n.word(w)}, n.loose[w]...) }

func (n *node) setWord(w int64, v uint64, loose []uint64) {
	block := w * wordSize / blockSize
	b := new(content)
	if n.data[block] != nil {
		*b = *n.data[block]
	}
	binary.LittleEndian.PutUint64(b[w*wordSize%blockSize:], v)
	n.setBlock(block, b)
	n.setLoose(w, v, loose)
}

func (n *node) setBlock(block int64, b *content) {
	if n.data == nil {
		n.data = map[int64]*content{}
	}
	n.data[block] = b
}

func (n *node) setLoose(w int64, now uint64, values []uint64) {
	values = slices.DeleteFunc(slices.Clone(values), func(v uint64) bool { return v == now })
	slices.Sort(values)
	if values = slices.Compact(values); len(values) == 0 {
		delete(n.loose, w)
		return
	}
	if n.loose == nil {
		n.loose = map[int64][]uint64{}
	}
	n.loose[w] = values
}

// over is word w of value v with the part of p, which begins at off, that
// lies in it.
func over(v uint64, w int64, p []byte, off int64) uint64 {
	var b [wordSize]byte
	binary.LittleEndian.PutUint64(b[:], v)
	for i := range b {
		if at := w*wordSize + int64(i) - off; at >= 0 && at < int64(len(p)) {
			b[i] = p[at]
		}
	}
	return binary.LittleEndian.Uint64(b[:])
}

// below clears the bytes of word w at and behind file offset size.
func below(v uint64, w, size int64) uint64 {
	switch keep := size - w*wordSize; {
	case keep <= 0:
		return 0
	case keep >= wordSize:
		return v
	default:
		return v & (1<<(8*keep) - 1)
	}
}

// words calls fn for the words that [off, off+n) touches.
func words(off, n int64, fn func(w int64)) {
	for w := off / wordSize; n > 0 && w*wordSize < off+n; w++ {
		fn(w)
	}
}

// inPlace stores p over written blocks. Until the operation ends each word is
// old or new; after it, if it is durable, new.
func (m *Model) inPlace(n *node, p []byte, off int64, durable bool) {
	during := m.states[len(m.states)-1].find(n.id)
	words(off, int64(len(p)), func(w int64) {
		if n.data[w*wordSize/blockSize] == nil {
			return
		}
		old := n.values(w)
		var now []uint64
		for _, v := range old {
			now = append(now, over(v, w, p, off))
		}
		if during != nil && during.data[w*wordSize/blockSize] != nil {
			during.setLoose(w, during.word(w), append(slices.Clone(during.loose[w]), now...))
		}
		if !durable {
			now = append(now, old...)
		}
		n.setWord(w, now[0], now)
	})
}
