package core

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/alloc"
	"github.com/pmemfs/pmemfs/internal/crash"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// sealer is a Breaker with one seal, of the blocks [first, end) of every file.
type sealer struct {
	first, end int64
	breaks     int // that were made
}

var errSealed = fmt.Errorf("sealed: %w", unix.EBUSY)

func (s *sealer) Sealed(_ layout.Ino, first, count int64) error {
	if first < s.end && s.first < first+count {
		return errSealed
	}
	return nil
}

func (s *sealer) Stored(layout.Ino, int64, int64, func(first, count int64)) {}

func (s *sealer) Break(ino layout.Ino, _ Taking, runs ...alloc.Run) error {
	for _, r := range runs {
		if err := s.Sealed(ino, r.First, r.Count); err != nil {
			return err
		}
	}
	s.breaks++
	return nil
}

// frozenTree is a pool with a file whose map or a part of it is frozen.
type frozenTree struct {
	*opTree
	n *Node
}

func (f *frozenTree) allocate(mode uint32, off, length int64) error {
	return f.n.Fallocate(mode, off, length)
}

// frozenCase is an operation, and whether it is refused.
type frozenCase struct {
	name    string
	refused bool
	run     func(f *frozenTree) error
}

// check runs the case. What is refused has changed nothing, in the file or on the
// medium, and taken nothing from anybody.
func (c *frozenCase) check(t *testing.T, meta, data medium.Area, f *frozenTree, s *sealer, want error) {
	t.Helper()
	before := [][]byte{slices.Clone(meta.Bytes()), slices.Clone(data.Bytes())}
	attr := f.n.Attr()
	err := c.run(f)
	if !c.refused {
		if err != nil {
			t.Errorf("%v", err)
		}
		return
	}
	if !errors.Is(err, want) || !errors.Is(err, unix.EBUSY) {
		t.Errorf("%v, want %v", err, want)
	}
	if !bytes.Equal(before[0], meta.Bytes()) || !bytes.Equal(before[1], data.Bytes()) || f.n.Attr() != attr {
		t.Errorf("refused with %v, and something has changed: %+v, before %+v", err, f.n.Attr(), attr)
	}
	if s.breaks > 0 {
		t.Errorf("refused with %v, and something was taken from a client", err)
	}
}

// TestSealed does every operation on a file of which blocks are sealed or
// pinned: blocks 0 to 3 and 8 are written, 4 and 5 a hole, 6 and 7 unwritten;
// the last byte is byte 99 of block 8. The unit of a seal is the block.
func TestSealed(t *testing.T) {
	const size = 8*page + 100
	punch, zero := uint32(PunchHole|KeepSize), uint32(ZeroRange)
	cases := map[[2]int64][]frozenCase{
		{1, 3}: {
			{"write into it", false, func(f *frozenTree) error { return f.write(f.n, page+7, 2*page-100) }},
			{"write beside it", false, func(f *frozenTree) error { return f.write(f.n, 3*page, 4*page) }},
			{"append", false, func(f *frozenTree) error { return f.write(f.n, size, 3*page) }},
			{"truncate to its end", false, func(f *frozenTree) error { return f.truncate(f.n, 3*page) }},
			{"truncate by one byte of it", true, func(f *frozenTree) error { return f.truncate(f.n, 3*page-1) }},
			{"truncate to its middle", true, func(f *frozenTree) error { return f.truncate(f.n, 2*page) }},
			{"truncate to nothing", true, func(f *frozenTree) error { return f.truncate(f.n, 0) }},
			{"truncate to the same size", false, func(f *frozenTree) error { return f.truncate(f.n, size) }},
			{"truncate longer", false, func(f *frozenTree) error { return f.truncate(f.n, 1<<30) }},
			{"attributes with the size", true, func(f *frozenTree) error {
				mode, size := uint32(0o600), int64(0)
				return f.set(f.n.Ino(), SetAttr{Mode: &mode, Size: &size})
			}},
			{"punch its last block", true, func(f *frozenTree) error { return f.allocate(punch, 2*page, page) }},
			{"punch all", true, func(f *frozenTree) error { return f.allocate(punch, 0, 1<<30) }},
			{"punch a block of it and parts of others", true, func(f *frozenTree) error {
				return f.allocate(punch, 100, 2*page)
			}},
			{"punch a part of a block", false, func(f *frozenTree) error { return f.allocate(punch, page+8, 100) }},
			{"punch parts of two blocks", false, func(f *frozenTree) error { return f.allocate(punch, page+8, page) }},
			{"punch beside it and a part of it", false, func(f *frozenTree) error {
				return f.allocate(punch, 3*page-8, 3*page)
			}},
			{"zero its first block", true, func(f *frozenTree) error { return f.allocate(zero, page, page) }},
			{"zero around it", true, func(f *frozenTree) error { return f.allocate(zero|KeepSize, 8, 7*page) }},
			{"zero parts of blocks", false, func(f *frozenTree) error { return f.allocate(zero, page+8, page) }},
			{"zero beside it with a part of it", false, func(f *frozenTree) error { return f.allocate(zero, 3*page-8, 8*page) }},
			{"allocate all", false, func(f *frozenTree) error { return f.allocate(0, 0, 20*page) }},
			{"relocate a part of it", true, func(f *frozenTree) error { return f.n.Relocate(2*page+5, 1) }},
			{"relocate all", true, func(f *frozenTree) error { return f.n.Relocate(0, 1<<40) }},
			{"relocate beside it", false, func(f *frozenTree) error { return f.n.Relocate(3*page, 1<<40) }},
			{"fault in it", false, func(f *frozenTree) error { return f.fault(f.n, 2, true) }},
			{"fault beside it", false, func(f *frozenTree) error { return f.fault(f.n, 4, true) }},
			{"fill all", false, func(f *frozenTree) error { return f.n.Fill(0, size) }},
			{"freeze and thaw", false, func(f *frozenTree) error {
				return errors.Join(f.n.Fill(0, size), f.n.SetStatic(true), f.n.SetStatic(false))
			}},
			{"rename, attributes, remove", false, func(f *frozenTree) error {
				mode := uint32(0o600)
				return errors.Join(f.rename(f.b, "frozen", f.a, "other", 0), f.set(f.n.Ino(), SetAttr{Mode: &mode}),
					f.fs.SetXattr(root, f.n.Ino(), "user.x", make([]byte, 100), 0), f.fs.Unlink(root, f.a, "other"))
			}},
		},
		{8, 9}: { // the last block
			{"append in it", false, func(f *frozenTree) error { return f.write(f.n, size, 3*page) }},
			{"truncate it by one byte", true, func(f *frozenTree) error { return f.truncate(f.n, size-1) }},
			{"truncate it off", true, func(f *frozenTree) error { return f.truncate(f.n, 8*page) }},
			{"truncate longer", false, func(f *frozenTree) error { return f.truncate(f.n, size+1) }},
			{"punch behind the end", false, func(f *frozenTree) error { return f.allocate(punch, 9*page, page) }},
			{"punch beyond its end", true, func(f *frozenTree) error { return f.allocate(punch, 8*page, page) }},
		},
		{5, 7}: { // pinned by somebody who only reads: a hole and an unwritten block
			{"write into the hole", true, func(f *frozenTree) error { return f.write(f.n, 5*page, 8) }},
			{"write into the unwritten block", true, func(f *frozenTree) error { return f.write(f.n, 6*page+8, 8) }},
			{"write over blocks and then the hole", true, func(f *frozenTree) error { return f.write(f.n, 2*page, 4*page) }},
			{"write beside it", false, func(f *frozenTree) error { return f.write(f.n, 3*page, 2*page) }},
			{"fault in the hole", true, func(f *frozenTree) error { return f.fault(f.n, 5, true) }},
			{"fault in the unwritten block", true, func(f *frozenTree) error { return f.fault(f.n, 6, true) }},
			{"fault with blocks ahead", false, func(f *frozenTree) error { return f.fault(f.n, 4, true) }},
			{"read fault", false, func(f *frozenTree) error { return f.fault(f.n, 5, false) }},
			{"allocate the hole", true, func(f *frozenTree) error { return f.allocate(0, 0, size) }},
			{"allocate beside it", false, func(f *frozenTree) error { return f.allocate(0, 6*page, 9*page) }},
			{"zero a part of the hole", true, func(f *frozenTree) error { return f.allocate(zero, 5*page+8, 8) }},
			{"fill", true, func(f *frozenTree) error { return f.n.Fill(0, size) }},
			{"fill beside it", false, func(f *frozenTree) error { return f.n.Fill(0, 5*page) }},
		},
		{6, 7}: { // the unwritten block alone
			{"fill the hole before it, too", true, func(f *frozenTree) error { return f.n.Fill(3*page, 5*page) }},
			{"write into the hole before it, too", true, func(f *frozenTree) error { return f.write(f.n, 4*page, 4*page) }},
		},
	}
	for seal, list := range cases {
		for _, c := range list {
			t.Run(fmt.Sprint(c.name, seal), func(t *testing.T) {
				meta, data := smallAreas(t)
				o := prepare(t, meta, data)
				f := &frozenTree{o, create(t, o.fs, o.b, "frozen")}
				for _, err := range []error{
					f.write(f.n, 0, 4*page), f.write(f.n, 8*page, 100), f.n.Fallocate(KeepSize, 6*page, 2*page), f.n.Sync(),
				} {
					if err != nil {
						t.Fatal(err)
					}
				}
				s := &sealer{first: seal[0], end: seal[1]}
				o.fs.breaker = s
				c.check(t, meta, data, f, s, errSealed)
				f.n.Close()
				checkAreas(t, meta, data)
			})
		}
	}
}

// TestSealedSteps does operations that go in steps where the second one meets a
// hole that is pinned: the first one is not made either.
func TestSealedSteps(t *testing.T) {
	for _, c := range []frozenCase{
		{"write", true, func(f *frozenTree) error {
			_, err := f.n.WriteAt(make([]byte, 6<<20), 0)
			return err
		}},
		{"fill", true, func(f *frozenTree) error { return f.n.Fill(0, 6<<20) }},
		{"allocate", true, func(f *frozenTree) error { return f.n.Fallocate(0, 0, 6<<20) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			meta, data := smallAreas(t)
			o := prepare(t, meta, data)
			f := &frozenTree{o, create(t, o.fs, o.b, "frozen")}
			if err := errors.Join(f.write(f.n, 0, page), f.truncate(f.n, 6<<20)); err != nil {
				t.Fatal(err)
			}
			s := &sealer{first: 1500, end: 1501}
			o.fs.breaker = s
			c.check(t, meta, data, f, s, errSealed)
		})
	}
}

// TestStatic does every operation on a static file of 2 blocks and 100 bytes.
func TestStatic(t *testing.T) {
	const size = 2*page + 100
	punch, zero := uint32(PunchHole|KeepSize), uint32(ZeroRange)
	for _, c := range []frozenCase{
		{"write in place", false, func(f *frozenTree) error { return f.write(f.n, 7, size-7) }},
		{"write of nothing behind the end", false, func(f *frozenTree) error { return f.write(f.n, 1<<30, 0) }},
		{"write beyond the end", true, func(f *frozenTree) error { return f.write(f.n, page, page+101) }},
		{"long write beyond the end", true, func(f *frozenTree) error {
			_, err := f.n.WriteAt(make([]byte, 9<<20), 0)
			return err
		}},
		{"append", true, func(f *frozenTree) error {
			_, _, err := f.n.Append([]byte("x"))
			return err
		}},
		{"truncate to nothing", true, func(f *frozenTree) error { return f.truncate(f.n, 0) }},
		{"truncate by a byte", true, func(f *frozenTree) error { return f.truncate(f.n, size-1) }},
		{"truncate longer in the last block", true, func(f *frozenTree) error { return f.truncate(f.n, size+1) }},
		{"truncate to the same size", false, func(f *frozenTree) error { return f.truncate(f.n, size) }},
		{"punch a block", true, func(f *frozenTree) error { return f.allocate(punch, 5, 2*page) }},
		{"punch behind the end", true, func(f *frozenTree) error { return f.allocate(punch, 3*page, page) }},
		{"punch parts of blocks", false, func(f *frozenTree) error { return f.allocate(punch, 5, page) }},
		{"zero a block", true, func(f *frozenTree) error { return f.allocate(zero|KeepSize, page, page) }},
		{"zero parts of blocks", false, func(f *frozenTree) error { return f.allocate(zero, 5, page) }},
		{"zero beyond the end", true, func(f *frozenTree) error { return f.allocate(zero, 2*page+5, 96) }},
		{"zero beyond the end, keep size", false, func(f *frozenTree) error {
			return f.allocate(zero|KeepSize, 2*page+5, 96)
		}},
		{"allocate what there is", false, func(f *frozenTree) error { return f.allocate(0, 0, size) }},
		{"allocate beyond the end", true, func(f *frozenTree) error { return f.allocate(0, 0, size+1) }},
		{"allocate to the end of the last block, keep size", false, func(f *frozenTree) error {
			return f.allocate(KeepSize, 0, 3*page)
		}},
		{"allocate behind the end, keep size", true, func(f *frozenTree) error { return f.allocate(KeepSize, 3*page, 1) }},
		{"relocate", true, func(f *frozenTree) error { return f.n.Relocate(0, 1) }},
		{"relocate behind the end", false, func(f *frozenTree) error { return f.n.Relocate(3*page, page) }},
		{"fault", false, func(f *frozenTree) error { return f.fault(f.n, 2, true) }},
		{"fill", false, func(f *frozenTree) error { return f.n.Fill(0, size) }},
		{"attributes with a size", true, func(f *frozenTree) error {
			id, size := uint32(5), int64(1)
			return f.set(f.n.Ino(), SetAttr{UID: &id, Size: &size})
		}},
		{"attributes, names", false, func(f *frozenTree) error {
			id, mode, at := uint32(5), uint32(0o600), int64(77)
			_, err := f.fs.Link(root, f.n.Ino(), f.a, "second")
			return errors.Join(err, f.set(f.n.Ino(), SetAttr{UID: &id, Mode: &mode, Mtime: &at}),
				f.fs.SetXattr(root, f.n.Ino(), "user.x", make([]byte, 100), 0), f.rename(f.b, "frozen", f.a, "other", 0))
		}},
		{"remove while open", false, func(f *frozenTree) error { return f.fs.Unlink(root, f.b, "frozen") }},
		{"remove", false, func(f *frozenTree) error {
			f.n.Close()
			return f.fs.Unlink(root, f.b, "frozen")
		}},
		{"replace", false, func(f *frozenTree) error { return f.rename(f.a, "f", f.b, "frozen", 0) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			meta, data := smallAreas(t)
			o := prepare(t, meta, data)
			f := &frozenTree{o, create(t, o.fs, o.b, "frozen")}
			if err := errors.Join(f.write(f.n, 0, size), f.n.SetStatic(true)); err != nil {
				t.Fatal(err)
			}
			s := &sealer{}
			o.fs.breaker = s
			c.check(t, meta, data, f, s, ErrStatic)
			if err := checkMounted(f.fs); err != nil {
				t.Error(err)
			}
			f.n.Close()
			checkAreas(t, meta, data)
		})
	}
}

// TestSetStatic says what can be static, and that it lasts.
func TestSetStatic(t *testing.T) {
	meta, data := smallAreas(t)
	o := prepare(t, meta, data)
	wantUnfilled := func(n *Node, off int64, what string) {
		t.Helper()
		var unfilled *UnfilledError
		err := n.SetStatic(true)
		if !errors.As(err, &unfilled) || !errors.Is(err, unix.EINVAL) || *unfilled != (UnfilledError{off, what}) ||
			n.Attr().Static {
			t.Errorf("%v, want %s at %d", err, what, off)
		}
	}
	wantUnfilled(o.mapped, 2*page, "a hole")
	// Blocks behind the end may be allocated, and are frozen as the others.
	if err := o.big.SetStatic(true); err != nil {
		t.Error(err)
	}
	for _, mode := range []uint32{KeepSize, ZeroRange | KeepSize, PunchHole | KeepSize} {
		if err := o.big.Fallocate(mode, 4*page, page); err != ErrStatic {
			t.Errorf("mode %d behind the end: %v", mode, err)
		}
	}
	if err := o.big.SetStatic(false); err != nil {
		t.Error(err)
	}
	if err := o.truncate(o.big, 3*page+1); err != nil {
		t.Fatal(err)
	}
	wantUnfilled(o.big, 3*page, "unwritten")
	dir := must[*Node](t)(o.fs.Open(o.a))
	defer dir.Close()
	if err := dir.SetStatic(true); err != unix.EINVAL {
		t.Errorf("directory: %v", err)
	}
	for _, err := range []error{o.mapped.Fill(0, 30*page), o.mapped.SetStatic(true), o.open.SetStatic(true)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// What a mount finds is static still, and thawed it is as any file.
	o.reopen(t, meta, data, Options{})
	if a := o.mapped.Attr(); !a.Static || !o.open.Attr().Static || o.big.Attr().Static {
		t.Errorf("after a remount: %+v", a)
	}
	if err := o.truncate(o.mapped, 0); err != ErrStatic {
		t.Error(err)
	}
	if err := o.mapped.SetStatic(false); err != nil || o.mapped.Attr().Static {
		t.Error(err)
	}
	if err := o.truncate(o.mapped, 0); err != nil {
		t.Error(err)
	}
	// Nothing can be static in a read-only mount, nor be filled.
	ro := must[*FS](t)(Mount(meta, data, Options{ReadOnly: true}))
	n := must[*Node](t)(ro.Open(o.open.Ino()))
	for _, err := range []error{n.SetStatic(false), n.Fill(0, 1)} {
		if err != unix.EROFS {
			t.Error(err)
		}
	}
}

// TestStaticStaged: what Fill, SetStatic and Filled promise is durable when they
// return, also where other operations are only staged.
func TestStaticStaged(t *testing.T) {
	for _, o := range []Options{{Stage: true}, {Stage: true, Defer: true}} {
		r := crash.Record(smallAreas(t))
		fs := must[*FS](t)(Mount(r.Area(0), r.Area(1), o))
		n := create(t, fs, layout.RootIno, "f")
		size := int64(3*page + 5)
		must[Attr](t)(n.SetAttr(root, SetAttr{Size: &size}))
		// look calls found with the file as each power cut now would leave it.
		look := func(found func(n *Node) error) {
			t.Helper()
			_, err := r.Images(crash.Options{From: r.Now(), To: r.Now(), Lines: 16, Samples: 16}, func(m *crash.Image) error {
				fs, err := Mount(m.Areas[0], m.Areas[1], Options{ReadOnly: true})
				if err != nil {
					return err
				}
				defer fs.Close()
				a, err := fs.Resolve(root, "f", true)
				if err != nil {
					return err
				}
				n := must[*Node](t)(fs.Open(a.Ino))
				defer n.Close()
				return found(n)
			})
			if err != nil {
				t.Errorf("%+v: %v", o, err)
			}
		}
		zeros := func(n *Node) error {
			got := make([]byte, size)
			if _, err := n.ReadAt(got, 0); err != nil || !bytes.Equal(got, make([]byte, size)) {
				return fmt.Errorf("what was filled is not zeros: %.40q, %v", got, err)
			}
			return n.Filled(0, size, func() error { return nil })
		}
		if err := n.Fill(0, size); err != nil {
			t.Fatal(err)
		}
		look(zeros)
		if err := n.SetStatic(true); err != nil {
			t.Fatal(err)
		}
		look(func(n *Node) error {
			if !n.Attr().Static {
				return errors.New("not static")
			}
			return zeros(n)
		})
		if err := n.SetStatic(false); err != nil {
			t.Fatal(err)
		}
		look(func(n *Node) error {
			if n.Attr().Static {
				return errors.New("still static")
			}
			return nil
		})
	}
}

// TestFilled says which ranges are refused, and where.
func TestFilled(t *testing.T) {
	fs := newFS(t, 64<<20)
	n := create(t, fs, layout.RootIno, "f")
	defer n.Close()
	must[int](t)(n.WriteAt(make([]byte, 3*page), 0))
	must[int](t)(n.WriteAt([]byte("end"), 8*page)) // 3 to 7 are a hole, then 5 and 6 unwritten
	if err := n.Fallocate(KeepSize, 5*page, 2*page); err != nil {
		t.Fatal(err)
	}
	other := create(t, n.in.fs, layout.RootIno, "other")
	defer other.Close()
	if err := other.CloneRange(0, n, 2*page, page); err != nil {
		t.Fatal(err)
	}
	nothing := errors.New("nothing is wrong")
	for _, c := range []struct {
		off, length int64
		want        error
	}{
		{0, 2 * page, nothing},
		{page + 1, page - 1, nothing},
		{8 * page, page, nothing}, // to the end of the last block
		{8*page + 3, 1, nothing},
		{0, 3 * page, &UnfilledError{2 * page, "shared"}},
		{2*page + 4000, 2 * page, &UnfilledError{2 * page, "shared"}},
		{3*page + 5, 10 * page, unix.ENXIO},
		{3*page + 5, 5 * page, &UnfilledError{3 * page, "a hole"}},
		{4 * page, 1, &UnfilledError{4 * page, "a hole"}},
		{5*page + 17, 1, &UnfilledError{5 * page, "unwritten"}},
		{6 * page, 2 * page, &UnfilledError{6 * page, "unwritten"}},
		{9 * page, 1, unix.ENXIO},
		{8 * page, page + 1, unix.ENXIO},
		{1 << 62, 1 << 62, unix.ENXIO},
		{0, 1<<63 - 1, unix.ENXIO},
		{0, 0, unix.EINVAL},
		{0, -1, unix.EINVAL},
		{-page, 2 * page, unix.EINVAL},
	} {
		called := false
		err := n.Filled(c.off, c.length, func() error { called = true; return nothing })
		var got, want *UnfilledError
		same := err == c.want
		if errors.As(err, &got) && errors.As(c.want, &want) {
			same = *got == *want
		}
		if !same || called != (c.want == nothing) {
			t.Errorf("%d bytes at %d: %v, want %v; called %v", c.length, c.off, err, c.want, called)
		}
	}
	for _, c := range []struct {
		off, length int64
		want        error
	}{{9 * page, 1, unix.ENXIO}, {8 * page, page + 1, unix.ENXIO}, {0, 0, unix.EINVAL}, {-1, 5, unix.EINVAL}} {
		if err := n.Fill(c.off, c.length); err != c.want {
			t.Errorf("fill %d bytes at %d: %v, want %v", c.length, c.off, err, c.want)
		}
	}
	// A file that is cut while it is filled.
	for _, step := range []func(first, end int64) error{n.in.fillHoles, n.in.fillStep} {
		if err := step(3, 10); err != unix.ENXIO {
			t.Errorf("a step beyond the end: %v", err)
		}
	}
	// What is shared is copied.
	if err := errors.Join(n.Fill(0, 9*page), n.Filled(0, 9*page, func() error { return nil })); err != nil {
		t.Error(err)
	}
}

// leaves counts the leaves of a file's map by level.
func leaves(t *testing.T, n *Node) (count [layout.MaxLeafLevel + 1]int) {
	t.Helper()
	fs := n.in.fs
	_, end := blocksOf(0, n.in.Size)
	for at := int64(0); at < end; {
		s, err := fs.locate(fs.journal.View, &n.in.Inode, at)
		if err != nil {
			t.Fatal(err)
		}
		if !s.hole() {
			count[s.level]++
		}
		at = s.end()
	}
	return count
}

// TestFillLeaves fills files in all states before: the map is made of the
// largest leaves there can be, and of no more nodes than they need.
func TestFillLeaves(t *testing.T) {
	const huge, giant = layout.HugeBlocks * page, layout.GiantBlock * page
	for _, c := range []struct {
		name   string
		size   int64
		before func(n *Node) error
		leaves [3]int
		nodes  int64
	}{
		{"written first, then allocated in part", giant + 3*page, func(n *Node) error {
			_, err := n.WriteAt([]byte("here"), 0)
			return errors.Join(err, n.Fallocate(0, 0, giant))
		}, [3]int{3, 0, 1}, 2},
		{"hole", 5*huge + 3*page, func(*Node) error { return nil }, [3]int{3, 5, 0}, 1},
		{"allocated", 3 * huge, func(n *Node) error { return n.Fallocate(0, 0, 3*huge) }, [3]int{0, 3, 0}, 0},
		{"written block by block", 2 * huge, func(n *Node) error {
			if err := n.Fallocate(0, 0, 2*huge); err != nil {
				return err
			}
			for at := int64(0); at < huge; at += 2 * page {
				must[int](t)(n.WriteAt([]byte("here"), at))
			}
			return nil
		}, [3]int{0, 2, 0}, 0},
		{"contiguous, and not aligned", huge, func(n *Node) error {
			other := create(t, n.in.fs, layout.RootIno, "other")
			defer other.Close()
			must[int](t)(other.WriteAt([]byte("one block"), 0))
			for at := int64(0); at < huge-7*page; at += 7 * page {
				must[int](t)(n.WriteAt(make([]byte, 7*page), at))
			}
			extents := must[[]Extent](t)(n.Extents(0, huge))
			if len(extents) != 2 || extents[0].Block%layout.HugeBlocks == 0 {
				t.Fatalf("not what is to be tried: %+v", extents)
			}
			return nil
		}, [3]int{layout.HugeBlocks, 0, 0}, 1},
		{"not contiguous", huge, func(n *Node) error {
			must[int](t)(n.WriteAt([]byte("here"), 0))
			must[int](t)(n.WriteAt([]byte("here"), 2*page))
			must[int](t)(n.WriteAt([]byte("here"), page))
			return nil
		}, [3]int{layout.HugeBlocks, 0, 0}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := newFS(t, layout.RoundUp(c.size*5/4+32<<20, 1<<20))
			n := create(t, fs, layout.RootIno, "f")
			defer n.Close()
			must[Attr](t)(n.SetAttr(root, SetAttr{Size: &c.size}))
			if err := c.before(n); err != nil {
				t.Fatal(err)
			}
			mtime := n.Attr().Mtime
			if err := n.Fill(0, c.size); err != nil {
				t.Fatal(err)
			}
			if err := n.Filled(0, c.size, func() error { return nil }); err != nil {
				t.Fatal(err)
			}
			if got := leaves(t, n); got != c.leaves || n.in.Nodes != c.nodes {
				t.Errorf("%d leaves by level, %d nodes, want %d and %d", got, n.in.Nodes, c.leaves, c.nodes)
			}
			if n.Attr().Mtime != mtime {
				t.Error("the contents have not changed, but their time has")
			}
		})
	}
}

// TestFillFull fills more than there is room for: what was filled is whole, and
// no block is lost.
func TestFillFull(t *testing.T) {
	fs := newFS(t, 32<<20)
	n := create(t, fs, layout.RootIno, "f")
	size := int64(1 << 40)
	must[Attr](t)(n.SetAttr(root, SetAttr{Size: &size}))
	if err := n.Fill(0, size); !errors.Is(err, unix.ENOSPC) || n.Attr().Blocks != 0 {
		t.Errorf("%v, %d blocks", err, n.Attr().Blocks)
	}
	st := fs.Statfs()
	if err := n.Fill(page, st.FreeBlocks*page); err != nil {
		t.Error(err)
	}
	if err := n.Fill(0, page); !errors.Is(err, unix.ENOSPC) || fs.Statfs().FreeBlocks != 0 {
		t.Error(err)
	}
	n.Close()
	if err := fs.Unlink(root, layout.RootIno, "f"); err != nil || fs.Statfs().FreeBlocks != st.FreeBlocks {
		t.Errorf("%v, %d free, before %d", err, fs.Statfs().FreeBlocks, st.FreeBlocks)
	}
}

// TestFillWithoutNodes fails in the middle of allocating what is to be filled:
// the blocks are free again.
func TestFillWithoutNodes(t *testing.T) {
	fs := newFS(t, 32<<20)
	n := create(t, fs, layout.RootIno, "f")
	defer n.Close()
	must[int](t)(n.WriteAt([]byte("the map has its height"), 1030*page))
	var err error
	for i := 0; err == nil && i < minNodes; i++ { // each takes a node
		err = fillFile(fs, layout.RootIno, i, func(n *Node) error {
			_, err := n.WriteAt([]byte("far"), 100*page)
			return err
		})
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	// The first blocks need a node, the next ones are a leaf of 2 MiB.
	free := fs.Statfs().FreeBlocks
	if err := n.Fill(page, 1029*page); !errors.Is(err, unix.ENOSPC) || fs.Statfs().FreeBlocks != free || free < 1029 {
		t.Errorf("%v, %d free, before %d", err, fs.Statfs().FreeBlocks, free)
	}
}

// TestFillBesideOthers fills a file while others write to it, punch it and cut
// it: what was written last is there, and what was not is zeros.
func TestFillBesideOthers(t *testing.T) {
	fs := newFS(t, 128<<20)
	n := create(t, fs, layout.RootIno, "f")
	defer n.Close()
	const size = 24 << 20
	long := int64(size)
	must[Attr](t)(n.SetAttr(root, SetAttr{Size: &long}))
	var others sync.WaitGroup
	for g := range int64(3) { // each has the blocks to itself that are g modulo 3
		others.Go(func() {
			for i := range int64(400) {
				at := (i*131*3 + g) % (size / page) / 3 * 3 * page
				at += g * page
				text := fmt.Appendf(nil, "%d of %d", i, g)
				if _, err := n.WriteAt(text, at); err != nil {
					t.Errorf("%v", err)
				}
				got := make([]byte, page)
				if _, err := n.ReadAt(got, at); err != nil && err != io.EOF || !bytes.HasPrefix(got, text) {
					t.Errorf("%q of %d, %v", got[:20], g, err)
				}
				if i%2 == 1 {
					if err := n.Fallocate(PunchHole|KeepSize, at, page); err != nil {
						t.Error(err)
					}
					if _, err := n.ReadAt(got, at); err != nil && err != io.EOF || !bytes.Equal(got, zeroBlock) {
						t.Errorf("punched: %q, %v", got[:20], err)
					}
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { others.Wait(); close(done) }()
	for filling := true; filling; {
		select {
		case <-done:
			filling = false
		default:
		}
		if err := n.Fill(0, size); err != nil {
			t.Error(err)
		}
	}
	if err := n.Filled(0, size, func() error { return nil }); err != nil {
		t.Error(err)
	}
	// Cut meanwhile, Fill says so.
	cut := make(chan error)
	go func() {
		for {
			if err := n.Fill(0, size); err != nil {
				cut <- err
				return
			}
		}
	}()
	short := int64(5000)
	must[Attr](t)(n.SetAttr(root, SetAttr{Size: &short}))
	if err := <-cut; err != unix.ENXIO {
		t.Errorf("filled beyond the end: %v", err)
	}
}
