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
// Invariants: bytes of data at and behind size are zeros; frames has the blocks
// of data, and marked, held and loose such or words of them only. mapped tells
// nothing of others than loose words.
type node struct {
	id       int // the same in all copies of a model
	kind     uint32
	mode     uint32
	uid, gid uint32
	nlink    uint32
	size     int64
	static   bool
	frozen   bool // it is of a read-only snapshot
	target   string
	xattrs   map[string]string
	entries  map[string]*node
	parent   *node
	data     map[int64]*content // the blocks that were written; immutable, replaced as a whole
	frames   map[int64]int      // where they lie: the same number as long as it is the same place, in other files, too
	marked   map[int64]bool     // blocks of which the map says that they are shared
	held     map[int64]bool     // blocks that can be stored to through mappings
	frame    int                // the last number that was given
	loose    map[int64][]uint64 // by word: what the medium may hold instead
	mapped   map[int64]bool     // words stored to through a mapping: no commit makes them durable
	private  *private           // of a private clone
	privates []*node            // that look for changes of this file
	opened   int
	mtime    int64
	ctime    int64
	durable  [][2]int64 // mtime and ctime that the medium may have instead; immutable but for its length
	recorded int64      // time of the last operation with a record that concerns it
}

// Model is a plain file system in memory: what core should be.
//
// What a power cut may leave is one of a list of states, each as it was after
// some operation, but for what loose and durable say. A store in place is made
// in all of them that have the same block there: it needs no record. It is loose
// where it may be missing, in the states after it, too; but not behind a record
// that was made after the store, because what was stored before a record is
// durable before it is.
type Model struct {
	setting Setting
	root    *node
	handles map[string]*node
	next    int
	now     int64 // time of the last operation

	// states is what a power cut during the present operation may leave besides
	// its end, past what one after it may: copies of before, and of stages
	// between. Oldest first.
	states, past []*Model
}

func newModel() *Model {
	m := &Model{handles: map[string]*node{}}
	m.root = m.newNode(layout.ModeDirectory, 0o755)
	m.root.parent = m.root
	return m
}

func (m *Model) newNode(kind, mode uint32) *node {
	m.next++
	n := &node{id: m.next, kind: kind, mode: mode, nlink: 1, frame: m.next << 32}
	if kind == layout.ModeDirectory {
		n.nlink, n.entries = 2, map[string]*node{}
	}
	n.set(m.now, m.now)
	return n
}

// clone copies everything but states and past.
func (m *Model) clone() *Model {
	seen := map[*node]*node{}
	out := &Model{setting: m.setting, handles: map[string]*node{}, next: m.next, now: m.now, root: m.root.clone(seen)}
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
	c.xattrs, c.data, c.frames = maps.Clone(n.xattrs), maps.Clone(n.data), maps.Clone(n.frames)
	c.marked, c.held = maps.Clone(n.marked), maps.Clone(n.held)
	c.loose, c.mapped = maps.Clone(n.loose), maps.Clone(n.mapped)
	c.parent, c.private, c.privates = n.parent.clone(seen), n.private.clone(seen), nil
	for _, p := range n.privates {
		c.privates = append(c.privates, p.clone(seen))
	}
	if n.entries != nil {
		c.entries = make(map[string]*node, len(n.entries))
		for name, e := range n.entries {
			c.entries[name] = e.clone(seen)
		}
	}
	return c
}

// nodes calls fn for each node of this copy, some of them more than once.
func (m *Model) nodes(fn func(n *node)) {
	var walk func(n *node)
	walk = func(n *node) {
		fn(n)
		for _, e := range n.entries {
			walk(e)
		}
	}
	walk(m.root)
	for _, n := range m.handles {
		walk(n)
		if n.private != nil {
			walk(n.private.of)
		}
	}
}

// find returns a node of this copy.
func (m *Model) find(id int) (found *node) {
	m.nodes(func(n *node) {
		if n.id == id {
			found = n
		}
	})
	return found
}

// set makes times durable, as every transaction that changes the inode does.
// ctime is now.
func (n *node) set(mtime, ctime int64) {
	n.mtime, n.ctime, n.recorded = mtime, ctime, ctime
	n.timesDurable()
}

// touch sets the times in memory only, as a write in place does.
func (n *node) touch(now int64) {
	n.durable = append(slices.Clone(n.durable), [2]int64{n.mtime, n.ctime})
	n.mtime, n.ctime = now, now
}

func (n *node) timesDurable() { n.durable = nil }

// settle: who uses a file last makes its times durable.
func (m *Model) settle(n *node) {
	if n.opened == 0 {
		m.writeTimes(n)
	}
}

// writeTimes makes a record of times that are only in memory.
func (m *Model) writeTimes(n *node) {
	if len(n.durable) > 0 {
		n.timesDurable()
		n.recorded = m.now
		m.record()
	}
}

func (n *node) isDir() bool { return n.kind == layout.ModeDirectory }

// stage notes that the present state is one that a power cut may leave.
func (m *Model) stage() {
	m.states = append(m.states, m.clone())
	m.past = append(m.past, m.clone())
}

// begin: what an operation finds may be left by a power cut in it.
func (m *Model) begin(now int64) {
	m.states = nil
	for _, s := range m.past {
		m.states = append(m.states, s.clone())
	}
	m.stage()
	m.now = now
}

// end drops what a power cut after the operation cannot leave any more. One that
// fails is not followed by a commit.
func (m *Model) end(o Op, err error) {
	changed := false
	m.nodes(func(n *node) { changed = changed || n.recorded == m.now })
	if changed && !o.mapped() { // whose record comes first, or is that of the times
		m.record()
	}
	switch {
	case m.setting == Setting{}:
		m.past = nil
	case err == nil && m.setting.commits(o):
		m.commit()
	}
}

// record: what was stored before a record is durable when that is, but through
// mappings: those who have them see to that.
func (m *Model) record() {
	if m.setting.PageCache {
		m.nodes(func(n *node) {
			maps.DeleteFunc(n.loose, func(w int64, _ []uint64) bool { return !n.mapped[w] })
		})
	}
}

// fenced: what was written to a disk is durable.
func (m *Model) fenced() {
	for _, s := range append(m.past, m) {
		s.record()
	}
}

// commit makes everything durable.
func (m *Model) commit() {
	m.past = nil
	m.fenced()
}

// sync makes durable what concerns a node, and all that is older.
func (m *Model) sync(n *node) {
	m.past = slices.DeleteFunc(m.past, func(s *Model) bool { return s.now < n.recorded })
	m.fenced()
}

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
	switch {
	case err != nil:
	case !dir.isDir():
		err = unix.ENOTDIR
	case dir.frozen:
		err = unix.EROFS
	}
	return dir, path[at+1:], err
}

// Apply does an operation; tag makes its data different from others'. When it
// fails nothing has changed.
func (m *Model) Apply(o Op, tag int, now int64) error {
	m.begin(now)
	err := m.apply(o, tag)
	m.end(o, err)
	return err
}

func (m *Model) apply(o Op, tag int) error {
	if do := namespaceVerbs[o.Verb]; do != nil {
		return do(m, o)
	}
	switch o.Verb {
	case "commit":
		m.commit()
		return nil
	case "remount":
		return m.remount()
	}
	if err := o.valid(); err != nil {
		return err
	}
	n, err := m.resolve(o.Path)
	if err != nil {
		return err
	}
	if n.frozen && !harmless[o.Verb] {
		return unix.EROFS
	}
	if do := privateVerbs[o.Verb]; do != nil {
		return do(m, n, o)
	}
	if do := snapshotVerbs[o.Verb]; do != nil {
		if !n.isDir() {
			return unix.ENOTDIR
		}
		return do(m, n, o.Arg)
	}
	data, share := fileVerbs[o.Verb], cloneVerbs[o.Verb]
	if (data != nil || share != nil) && n.kind != layout.ModeRegular {
		return notRegular(n, o.Verb)
	}
	if share != nil {
		err = share(m, n, o)
		m.settle(n)
		return err
	}
	if data != nil {
		if change := changes[o.Verb]; n.static && change != nil && change(n, o) {
			return core.ErrStatic
		}
		err = data(m, n, o, tag)
		m.settle(n)
		return err
	}
	return m.applyOther(n, o, tag)
}

// harmless operations are allowed on what is read-only.
var harmless = map[string]bool{"open": true, "close": true, "sync": true, "clone": true, "clonerange": true}

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
		m.settle(n)
		m.detach(n)
	case "sync":
		m.writeTimes(n)
		m.sync(n)
	}
	return nil
}

// remount makes all times durable, and nothing is open any more.
func (m *Model) remount() error {
	for name, n := range m.handles {
		n.opened--
		n.timesDurable()
		delete(m.handles, name)
		m.detach(n)
	}
	m.nodes(func(n *node) { n.held = nil })
	m.commit()
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
	case n.frozen:
		return unix.EROFS
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
		n.data, n.frames = map[int64]*content{}, map[int64]int{}
	}
	if n.data[block] == nil {
		n.replace(block)
	}
	n.data[block] = b
}

// replace has the file map another block, which whoever looks for changes is told
// of.
func (n *node) replace(block int64) {
	n.note(block, block+1)
	n.move(block)
}

// move gives a block another place.
func (n *node) move(block int64) {
	n.frame++
	n.frames[block] = n.frame
}

// forget forgets a block.
func (n *node) forget(block int64) {
	n.note(block, block+1)
	delete(n.data, block)
	delete(n.frames, block)
	delete(n.marked, block)
	delete(n.held, block)
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

// inPlace stores p, which ends before n does, over written blocks. Until the
// operation ends each word is old or new; after it, if it is durable, new. That
// it is when it was written to memory, and not through a mapping.
func (m *Model) inPlace(n *node, p []byte, off int64, mapped bool) {
	for len(p) > 0 {
		part := p[:min(int64(len(p)), blockSize-off%blockSize)]
		if n.data[off/blockSize] != nil {
			m.inBlock(n, part, off, mapped)
		}
		p, off = p[len(part):], off+int64(len(part))
	}
}

func (m *Model) inBlock(n *node, p []byte, off int64, mapped bool) {
	durable := !mapped && !m.setting.PageCache
	store := func(to *node, part []byte, off int64, during bool) {
		words(off, int64(len(part)), func(w int64) {
			old := to.values(w)
			var now []uint64
			for _, v := range old {
				now = append(now, over(v, w, part, off))
			}
			switch {
			case during:
				to.setLoose(w, old[0], append(old, now...))
			case durable:
				to.setWord(w, now[0], now)
			default:
				to.setWord(w, now[0], append(now, old...))
				to.setMapped(w, mapped)
			}
		})
	}
	length := int64(len(p))
	m.older(m.states, n, off, length, func(to *node, at, length int64) { store(to, p[:length], at, true) })
	m.older(m.past, n, off, length, func(to *node, at, length int64) { store(to, p[:length], at, false) })
	store(n, p, off, false)
}

// setMapped says how a word was stored last.
func (n *node) setMapped(w int64, mapped bool) {
	if !mapped {
		delete(n.mapped, w)
		return
	}
	if n.mapped == nil {
		n.mapped = map[int64]bool{}
	}
	n.mapped[w] = true
}

// older calls fn for a node in states, from the last one back, where it has the
// block of n with length bytes at off: with their offset there, and as many of them
// as the file had from then on. What was cut off meanwhile is made durable before
// something else is stored there.
func (m *Model) older(states []*Model, n *node, off, length int64, fn func(to *node, off, length int64)) {
	b := off / blockSize
	for i := len(states) - 1; i >= 0; i-- {
		to := states[i].find(n.id)
		if to == nil {
			return
		}
		k := to.at(n.frames[b], b)
		if k < 0 {
			continue
		}
		at := off + (k-b)*blockSize
		if length = min(length, to.size-at); length <= 0 {
			return
		}
		fn(to, at, length)
	}
}

// at is the block that lies in a place, -1 when there is none; mostly it is likely.
func (n *node) at(frame int, likely int64) int64 {
	if n.frames[likely] == frame {
		return likely
	}
	for b, f := range n.frames {
		if f == frame {
			return b
		}
	}
	return -1
}

// persisted: the lines of [off, off+length), in one block, are durable.
func (m *Model) persisted(n *node, off, length int64) {
	settle := func(to *node, at, _ int64) {
		first := at / lineSize * lineSize
		words(first, (at+length+lineSize-1)/lineSize*lineSize-first, func(w int64) { delete(to.loose, w) })
	}
	m.older(m.past, n, off, 1, settle)
	settle(n, off, 0)
}
