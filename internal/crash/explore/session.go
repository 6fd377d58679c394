package explore

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

const (
	firstTime = 1_700_000_000_000_000_000 // of the first operation
	opTime    = 1_000_000_000             // from one operation to the next, ns
)

// session is a mounted pool on which operations are done.
type session struct {
	meta, data medium.Area
	fs         *core.FS
	handles    map[string]*core.Node
	now        int64
	random     *rand.ChaCha8
	setting    Setting
	mappings   mappings
}

// mappings is the blocks that programs were granted for stores, and have not lost
// since: core's Breaker.
type mappings map[layout.Ino]*mapping

// mapping is the blocks of one file, and where they lie in the data area.
type mapping struct {
	generation uint64
	at         map[int64]int64
}

// of returns what is granted of a file.
func (m mappings) of(n *core.Node) map[int64]int64 {
	generation := n.Attr().Generation
	if m[n.Ino()] == nil || m[n.Ino()].generation != generation {
		m[n.Ino()] = &mapping{generation, map[int64]int64{}}
	}
	return m[n.Ino()].at
}

// Break takes the right to store away, but where only zeros are to be taken.
func (m mappings) Break(ino layout.Ino, what core.Taking, runs ...alloc.Run) error {
	for _, r := range runs {
		if m[ino] != nil && what != core.TakeZeros {
			maps.DeleteFunc(m[ino].at, func(b, _ int64) bool { return b >= r.First && b-r.First < r.Count })
		}
	}
	return nil
}

// Sealed finds no seals.
func (mappings) Sealed(layout.Ino, int64, int64) error { return nil }

// Stored calls fn for each block.
func (m mappings) Stored(ino layout.Ino, first, count int64, fn func(first, count int64)) {
	if m[ino] == nil {
		return
	}
	for _, b := range slices.Sorted(maps.Keys(m[ino].at)) {
		if b >= first && b-first < count {
			fn(b, 1)
		}
	}
}

func (s *session) options() core.Options {
	o := s.setting.options()
	o.Now, o.Random, o.Breaker = func() int64 { return s.now }, s.random, s.mappings
	return o
}

// newSession mounts the pool. now is the time of the operations until it is
// changed.
func newSession(meta, data medium.Area, now int64, setting Setting) (*session, error) {
	s := &session{
		meta: meta, data: data, now: now, setting: setting, handles: map[string]*core.Node{},
		random: rand.NewChaCha8([32]byte{byte(now >> 8), byte(now >> 16), byte(now >> 24), 1}),
	}
	return s, s.mount()
}

func (s *session) mount() (err error) {
	s.mappings = mappings{}
	s.fs, err = core.Mount(s.meta, s.data, s.options())
	if err == nil {
		s.fs.Reclaimed()
	}
	return err
}

func (s *session) close() error {
	for name, n := range s.handles {
		n.Close()
		delete(s.handles, name)
	}
	return s.fs.Close()
}

// run does an operation.
func (s *session) run(o Op, tag int) error {
	if err := s.do(o, tag); err != nil || !s.setting.commits(o) {
		return err
	}
	return s.fs.Commit()
}

func (s *session) do(o Op, tag int) error {
	switch o.Verb {
	case "commit":
		return s.fs.Commit()
	case "remount":
		if err := s.fs.Close(); err != nil { // with files still open, as a server may
			return err
		}
		for name, n := range s.handles {
			n.Close()
			delete(s.handles, name)
		}
		return s.mount()
	}
	if namespaceVerbs[o.Verb] != nil {
		return s.name(o)
	}
	if err := o.valid(); err != nil {
		return err
	}
	n, temporary, err := s.node(o.Path)
	if err != nil {
		return err
	}
	if temporary {
		defer n.Close()
	}
	if privateVerbs[o.Verb] != nil {
		return s.private(n, o)
	}
	if snapshotVerbs[o.Verb] != nil {
		return s.snapshot(n.Ino(), o)
	}
	if fileVerbs[o.Verb] != nil || cloneVerbs[o.Verb] != nil {
		if kind := n.Attr().Mode & layout.ModeType; kind != layout.ModeRegular {
			return notRegular(&node{kind: kind}, o.Verb)
		}
		if cloneVerbs[o.Verb] != nil {
			return s.clone(n, o)
		}
		return s.file(n, o, tag)
	}
	return s.other(n, o, tag)
}

// node opens what a path leads to, or returns what is open.
func (s *session) node(path string) (n *core.Node, temporary bool, err error) {
	if path[0] == '@' {
		if n := s.handles[path]; n != nil {
			return n, false, nil
		}
		return nil, false, unix.EBADF
	}
	n, err = s.fs.OpenPath(root, strings.TrimPrefix(path, "/"), false)
	return n, true, err
}

func (s *session) parent(path string) (layout.Ino, string, error) {
	at := strings.LastIndexByte(path, '/')
	if at < 0 {
		return 0, "", unix.EBADF
	}
	dir, err := s.fs.Resolve(root, strings.Trim(path[:at], "/"), false)
	return dir.Ino, path[at+1:], err
}

// name does an operation on names.
func (s *session) name(o Op) error {
	if o.Verb == "link" {
		n, temporary, err := s.node(o.Path)
		if err != nil {
			return err
		}
		if temporary {
			defer n.Close()
		}
		dir, name, err := s.parent(o.To)
		if err != nil {
			return err
		}
		_, err = s.fs.Link(root, n.Ino(), dir, name)
		return err
	}
	dir, name, err := s.parent(o.Path)
	if err != nil {
		return err
	}
	switch o.Verb {
	case "create":
		_, err = s.fs.Create(root, dir, name, layout.ModeRegular|0o644, 0)
	case "mkdir":
		_, err = s.fs.Create(root, dir, name, layout.ModeDirectory|0o755, 0)
	case "fifo":
		_, err = s.fs.Create(root, dir, name, layout.ModeFIFO|0o644, 0)
	case "symlink":
		_, err = s.fs.Symlink(root, dir, name, o.Arg)
	case "unlink":
		err = s.fs.Unlink(root, dir, name)
	case "rmdir":
		err = s.fs.Rmdir(root, dir, name)
	default:
		to, newName, e := s.parent(o.To)
		if e != nil {
			return e
		}
		flags := map[string]uint32{"exchange": core.RenameExchange, "noreplace": core.RenameNoReplace}[o.Verb]
		err = s.fs.Rename(root, dir, name, to, newName, flags)
	}
	return err
}

// file does an operation on the contents of a regular file.
func (s *session) file(n *core.Node, o Op, tag int) (err error) {
	switch o.Verb {
	case "write":
		_, err = n.WriteAt(pattern(tag, o.Off, o.N), o.Off)
	case "append":
		_, _, err = n.Append(pattern(tag, n.Attr().Size, o.N))
	case "truncate":
		_, err = n.SetAttr(root, core.SetAttr{Size: &o.N})
	case "fallocate":
		err = n.Fallocate(0, o.Off, o.N)
	case "keepsize":
		err = n.Fallocate(core.KeepSize, o.Off, o.N)
	case "punch":
		err = n.Fallocate(core.PunchHole|core.KeepSize, o.Off, o.N)
	case "zero":
		err = n.Fallocate(core.ZeroRange, o.Off, o.N)
	case "zerokeep":
		err = n.Fallocate(core.ZeroRange|core.KeepSize, o.Off, o.N)
	case "collapse":
		err = n.Fallocate(core.CollapseRange, o.Off, o.N)
	case "insert":
		err = n.Fallocate(core.InsertRange, o.Off, o.N)
	case "relocate":
		err = n.Relocate(o.Off, o.N)
	case "fill":
		err = n.Fill(o.Off, o.N)
	case "store":
		err = s.store(n, pattern(tag, o.Off, o.N), o.Off, true)
	case "loose":
		err = s.store(n, pattern(tag, o.Off, o.N), o.Off, false)
	case "clear":
		err = s.store(n, make([]byte, o.N), o.Off, false)
	}
	return err
}

// store does what a program with a mapping does: the fault, if it has not got the
// block, stores to it, and with persist, as in a Sync mapping (which is another
// one, with faults of its own), a flush and a fence.
func (s *session) store(n *core.Node, p []byte, off int64, persist bool) error {
	size, block := n.Attr().Size, off/blockSize
	if _, end := blocks(0, size); block >= end {
		return unix.ENXIO
	}
	if off+int64(len(p)) > size || (off+int64(len(p))-1)/blockSize != block {
		return unix.EINVAL
	}
	granted := s.mappings.of(n)
	if _, ok := granted[block]; persist || !ok {
		err := n.Fault(block, true, persist, layout.HugeBlocks, 1, func(r core.Run) error {
			if !r.Writable {
				return errors.New("a write fault was answered without the right to write")
			}
			granted[block] = (r.Block + block - r.First) * blockSize
			return nil
		})
		if err != nil {
			return err
		}
	}
	at := granted[block] + off%blockSize
	s.data.Write(at, p)
	if !persist {
		return nil
	}
	s.data.Flush(at, int64(len(p)))
	return s.data.Fence()
}

// snapshot does an operation on snapshots.
func (s *session) snapshot(dir layout.Ino, o Op) (err error) {
	switch o.Verb {
	case "snapshot", "wsnapshot":
		_, err = s.fs.Snapshot(root, dir, o.Arg, core.SnapshotOptions{Writable: o.Verb == "wsnapshot"})
	case "rmsnapshot":
		err = s.fs.RemoveSnapshot(root, dir, o.Arg)
	case "restore":
		err = s.fs.RestoreSnapshot(root, dir, o.Arg)
	}
	return err
}

// clone shares blocks of a regular file.
func (s *session) clone(n *core.Node, o Op) error {
	if o.Verb == "clone" {
		dir, name, err := s.parent(o.To)
		if err != nil {
			return err
		}
		_, err = n.Clone(root, dir, name, 0o644)
		return err
	}
	to, temporary, err := s.node(o.To)
	if err != nil {
		return err
	}
	if temporary {
		defer to.Close()
	}
	return to.CloneRange(o.At, n, o.Off, o.N)
}

// private does an operation on private clones, or makes one.
func (s *session) private(n *core.Node, o Op) (err error) {
	switch o.Verb {
	case "publish":
		return core.Publish(n)
	case "discard":
		return n.Discard()
	case "publishall":
		other := s.handles[o.To]
		if other == nil {
			return unix.EBADF
		}
		return core.Publish(n, other)
	}
	switch {
	case o.To[0] != '@':
		return unix.EINVAL
	case s.handles[o.To] != nil:
		return unix.EBUSY
	}
	if n, err = n.Private(o.Off, o.N, o.Verb == "merging"); err == nil {
		s.handles[o.To] = n
	}
	return err
}

// other does an operation on any kind of file.
func (s *session) other(n *core.Node, o Op, tag int) (err error) {
	value := uint32(o.N)
	switch o.Verb {
	case "setstatic":
		err = n.SetStatic(true)
	case "clearstatic":
		err = n.SetStatic(false)
	case "chmod":
		_, err = n.SetAttr(root, core.SetAttr{Mode: &value})
	case "chown":
		_, err = n.SetAttr(root, core.SetAttr{UID: &value, GID: &value})
	case "utimes":
		_, err = n.SetAttr(root, core.SetAttr{Mtime: &o.N})
	case "setxattr":
		err = s.fs.SetXattr(root, n.Ino(), o.Arg, pattern(tag, 0, o.N), 0)
	case "rmxattr":
		err = s.fs.RemoveXattr(root, n.Ino(), o.Arg)
	case "open":
		if s.handles[o.To] != nil {
			return unix.EBUSY
		}
		s.handles[o.To], _, err = s.node(o.Path)
	case "close":
		err = s.handles[o.Path].Close()
		delete(s.handles, o.Path)
	case "sync":
		err = n.Sync()
	default:
		err = fmt.Errorf("no operation %q", o.Verb)
	}
	return err
}
