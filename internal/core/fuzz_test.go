package core

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// liveStructure is a piece of metadata in use in an image.
type liveStructure struct {
	kind   string
	offset int64
	length int64
	seal   func(b []byte) // makes its checksum right again; nil: it cannot be
}

// image is a small pool with one of everything, and where its metadata lies.
type image struct {
	meta, data []byte
	live       []liveStructure
}

var builtImage = sync.OnceValue(func() *image {
	var t testing.T // only to fail in helpers, which does not happen
	meta, data := smallAreas(&t)
	fs := must[*FS](&t)(Mount(meta, data, Options{Now: clock()}))
	buildTree(&t, fs)
	for i := range 60 { // buckets of /d split
		name := fmt.Sprintf("%d%s", i, strings.Repeat("n", 200))
		must[Attr](&t)(fs.Create(root, 9, name, layout.ModeRegular|0o600, 0))
	}
	shared := create(&t, fs, layout.RootIno, "shared")
	shared.WriteAt(bytes.Repeat([]byte("both"), 3*page/4), 0)
	for _, name := range []string{"twin", "third"} {
		must[Attr](&t)(shared.Clone(root, layout.RootIno, name, 0o600))
	}
	shared.WriteAt([]byte("mine"), page)
	shared.Close()
	orphan := create(&t, fs, layout.RootIno, "orphan")
	orphan.WriteAt([]byte("removed"), 0)
	fs.Unlink(root, layout.RootIno, "orphan")
	if err := fs.Close(); err != nil {
		panic(err)
	}
	im := &image{meta: slices.Clone(meta.Bytes()), data: slices.Clone(data.Bytes())}
	im.find(must[*FS](&t)(Mount(meta, data, Options{ReadOnly: true})))
	return im
})

// find lists what is in use.
func (im *image) find(fs *FS) {
	sealWith := func(from int) func(b []byte) {
		return func(b []byte) { binary.LittleEndian.PutUint32(b[4:], layout.Checksum(b[from:])) }
	}
	add := func(kind string, offset, length int64, seal func(b []byte)) {
		im.live = append(im.live, liveStructure{kind, offset, length, seal})
	}
	for i := range int64(layout.SuperblockCopies) {
		add("superblock", i*layout.BlockSize, layout.SuperblockSize, func(b []byte) {
			binary.LittleEndian.PutUint32(b[12:], layout.Checksum(b[:12], b[16:]))
		})
	}
	for _, at := range layout.LogHeaderPlaces(fs.sb.LogHeaders) {
		add("log header", at, layout.LogHeaderSize, sealWith(8))
	}
	for name, r := range map[string]layout.BitmapRegions{
		"block": fs.sb.BlockBitmap, "node": fs.sb.NodeBitmap, "inode": fs.sb.InodeBitmap, "orphan": fs.sb.Orphans,
	} {
		add(name+" bits", r.Bits.Offset, r.Units/8, nil)
		add(name+" chunks", r.Chunks.Offset, r.Units/layout.ChunkUnits*layout.WordSize, nil)
		add(name+" groups", r.Groups.Offset, (r.Units+layout.GroupUnits-1)/layout.GroupUnits*layout.WordSize, nil)
	}
	c := &checker{fs: fs, ctx: context.Background(), nodes: newUnitSet(fs.sb.Nodes), inodes: make([]*infoChunk, 1)}
	if err := c.inodeBitmap(); err != nil {
		panic(err)
	}
	for i := layout.Ino(1); i < layout.ChunkUnits; i++ {
		if c.info(i) != nil || i == layout.CountsIno {
			_, at := c.slot(i)
			add("inode", at, layout.InodeSize, sealWith(8))
		}
	}
	fs.nodes.Each(func(unit int64) error {
		at := fs.sb.NodeArea.Offset + unit*layout.BlockSize
		switch string(im.meta[at : at+4]) {
		case "bckt":
			add("bucket", at, layout.BlockSize, sealWith(8))
		case "blob":
			add("blob", at, layout.BlockSize, sealWith(8))
		default:
			add("node", at, layout.BlockSize, nil)
		}
		return nil
	})
}

// areas returns the image to be changed.
func (im *image) areas() (meta, data medium.Area) {
	meta, data = medium.Memory(int64(len(im.meta))), medium.Memory(int64(len(im.data)))
	meta.Write(0, im.meta)
	data.Write(0, im.data)
	return meta, data
}

// noticed reports whether mounting or checking finds anything.
func noticed(meta, data medium.Area) bool {
	fs, err := Mount(meta, data, Options{ReadOnly: true})
	if err != nil {
		return true
	}
	defer fs.Close()
	sum, err := fs.Check(context.Background(), nil)
	return err != nil || sum.Problems+sum.Notes > 0
}

// TestEveryFlippedBit flips single bits everywhere in metadata that is in use:
// each is noticed. Of large structures it takes one bit of every 37.
func TestEveryFlippedBit(t *testing.T) {
	im := builtImage()
	meta, data := im.areas()
	if noticed(meta, data) {
		t.Fatal("the intact image is damaged")
	}
	flips := map[string]int{}
	for _, s := range im.live {
		step := int64(1)
		if s.length > layout.LineSize {
			step = 37 // prime to 8: every bit of a byte in turn
		}
		if raceDetector {
			step *= 31
		}
		for bit := int64(0); bit < s.length*8; bit += step {
			at := s.offset + bit/8
			old := meta.Bytes()[at]
			meta.Write(at, []byte{old ^ 1<<(bit%8)})
			flips[s.kind]++
			if !noticed(meta, data) {
				t.Errorf("%s at %#x: bit %d of byte %d flipped, and nobody notices", s.kind, s.offset, bit%8, bit/8)
			}
			meta.Write(at, []byte{old})
		}
	}
	for _, kind := range []string{"superblock", "log header", "block bits", "orphan groups", "inode", "bucket", "blob", "node"} {
		if flips[kind] == 0 {
			t.Errorf("no %s in the image", kind)
		}
	}
	t.Log(flips)
}

// TestFlippedBitsInTheLog damages records that later records show to have been
// durable. The last one cannot be told from one that the power cut tore.
func TestFlippedBitsInTheLog(t *testing.T) {
	meta, data := smallAreas(t)
	fs := mount(t, meta, data)
	tail := fs.journal.DurableLSN()
	buildTree(t, fs)
	last := fs.journal.DurableLSN()
	must[Attr](t)(fs.Create(root, layout.RootIno, "last", layout.ModeRegular, 0))
	if noticed(meta, data) {
		t.Fatal("the intact image is damaged")
	}
	for at := tail; at < last; at += 31 {
		off := fs.sb.Log.Offset + int64(at)
		old := meta.Bytes()[off]
		meta.Write(off, []byte{old ^ 1<<(at%8)})
		if !noticed(meta, data) {
			t.Errorf("bit %d of log byte %#x flipped, and nobody notices", at%8, at)
		}
		meta.Write(off, []byte{old})
	}
}

// TestImpossibleBucket adds names to a bucket whose prefix is longer than the
// entry that leads to it allows, with a checksum that matches.
func TestImpossibleBucket(t *testing.T) {
	im := builtImage()
	for _, s := range im.live {
		if s.kind != "bucket" {
			continue
		}
		for depth := range byte(80) {
			if raceDetector && depth%16 != 0 {
				continue // ten times slower, and nothing here runs at the same time
			}
			meta, data := im.areas()
			b := slices.Clone(meta.Bytes()[s.offset:][:s.length])
			if b[24] == depth {
				continue
			}
			b[24] = depth
			s.seal(b)
			meta.Write(s.offset, b)
			if !noticed(meta, data) {
				t.Errorf("bucket at %#x with depth %d: nobody notices", s.offset, depth)
			}
			fs := must[*FS](t)(Mount(meta, data, Options{}))
			for i := range 40 {
				for _, dir := range []layout.Ino{layout.RootIno, 9} {
					fs.Create(root, dir, fmt.Sprintf("%d%s", i, strings.Repeat("m", 240)), layout.ModeRegular, 0)
				}
			}
			fs.Close()
		}
	}
}

// TestNameOfItself points the first name of a directory to the directory, with
// a checksum that matches: nothing may lock it twice.
func TestNameOfItself(t *testing.T) {
	im := builtImage()
	for _, s := range im.live {
		if s.kind != "bucket" {
			continue
		}
		meta, data := im.areas()
		b := slices.Clone(meta.Bytes()[s.offset:][:s.length])
		copy(b[72:80], b[8:16]) // inode of the first entry, of the bucket
		s.seal(b)
		meta.Write(s.offset, b)
		if !noticed(meta, data) {
			t.Errorf("bucket at %#x: nobody notices", s.offset)
		}
		fs := must[*FS](t)(Mount(meta, data, Options{}))
		exercise(fs)
	}
}

// damage applies a fuzzer's input: commands of 16 bytes, op u8, seal u8, which
// u16, where u32, value u64.
func (im *image) damage(meta medium.Area, input []byte) {
	le := binary.LittleEndian
	for ; len(input) >= 16; input = input[16:] {
		s := im.live[int(le.Uint16(input[2:]))%len(im.live)]
		where := int64(le.Uint32(input[4:]))
		b := slices.Clone(meta.Bytes()[s.offset : s.offset+s.length])
		switch input[0] % 4 {
		case 0: // anywhere
			at := where * layout.WordSize % meta.Size()
			meta.Write(at, input[8:16])
			continue
		case 1: // a word of a structure
			copy(b[where%s.length/layout.WordSize*layout.WordSize:], input[8:16])
		case 2: // a byte
			b[where%s.length] = input[8]
		case 3: // another structure in its place
			other := im.live[int(where)%len(im.live)]
			copy(b, meta.Bytes()[other.offset:other.offset+other.length])
		}
		switch {
		case input[1]%2 == 1 && s.seal != nil:
			s.seal(b)
		case input[1]%2 == 1 && s.kind == "node":
			im.sealEntries(b, le.Uint64(input[8:]))
		}
		meta.Write(s.offset, b)
	}
}

// sealEntries makes the entries of a node right for some place: for one in few
// inputs the place at which the node stands.
func (im *image) sealEntries(b []byte, value uint64) {
	le := binary.LittleEndian
	place := layout.Place{Ino: layout.Ino(value % 16), Level: int(value >> 8 % 8), Directory: value>>16&1 == 1}
	for i := 0; i < len(b); i += layout.WordSize {
		if e := layout.Entry(le.Uint64(b[i:])); e != 0 {
			place.Position = uint64(i/layout.WordSize) << (9 * place.Level)
			e = layout.MakeEntry(e.Flags()&^layout.EntryPresent, e.Number(), place)
			le.PutUint64(b[i:], uint64(e))
		}
	}
}

// FuzzImage damages an image, some of the time with checksums that match.
// Whatever is done with it then, there is no panic and no hang.
func FuzzImage(f *testing.F) {
	f.Add([]byte{})
	for op := range byte(4) {
		for which := range byte(40) {
			if raceDetector && which%8 != 0 {
				continue
			}
			f.Add([]byte{op, 1, which, 0, 16 + which*3, 0, 0, 0, 0xff, which, 1, 0, 0, 0, 0, 0})
		}
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) > 16*64 {
			return
		}
		watchdog := time.AfterFunc(30*time.Second, func() { panic(fmt.Sprintf("hangs on %x", input)) })
		defer watchdog.Stop()
		im := builtImage()
		meta, data := im.areas()
		im.damage(meta, input)
		before := slices.Clone(meta.Bytes())
		if fs, err := Mount(meta, data, Options{ReadOnly: true}); err == nil {
			_, err := fs.Check(context.Background(), func(p Problem) {
				if p.Structure == "checker" {
					t.Error(p)
				}
			})
			if err != nil {
				t.Error(err)
			}
			if !looped(fs) {
				snapshot(fs)
			}
			fs.Close()
		}
		if !bytes.Equal(before, meta.Bytes()) {
			t.Error("a read-only mount stored something")
		}
		if fs, err := Mount(meta, data, Options{}); err == nil {
			exercise(fs)
		}
	})
}

// looped reports whether directories of a damaged image contain each other: a
// walk along names does not end then. Only Check and rename need to survive it.
func looped(fs *FS) bool {
	seen := map[layout.Ino]bool{}
	var walk func(dir layout.Ino) bool
	walk = func(dir layout.Ino) bool {
		if seen[dir] {
			return true
		}
		seen[dir] = true
		for from := Cookie(0); ; {
			list, err := fs.ReadDir(root, dir, from, 100)
			if err != nil || len(list) == 0 {
				return false
			}
			for _, e := range list {
				from = e.Next
				if a, err := fs.GetAttr(e.Ino); err == nil && a.Mode&layout.ModeType == layout.ModeDirectory && walk(e.Ino) {
					return true
				}
			}
		}
	}
	return walk(layout.RootIno)
}

// exercise uses a file system that may be damaged in every way there is;
// errors are fine.
func exercise(fs *FS) {
	fs.Reclaimed()
	size := int64(3000)
	for ino := layout.RootIno; ino < 24; ino++ {
		fs.Create(root, ino, "new", layout.ModeRegular|0o600, 0)
		fs.Create(root, ino, strings.Repeat("x", 250), layout.ModeDirectory|0o700, 0)
		fs.SetXattr(root, ino, "user.fuzz", make([]byte, 5000), 0)
		fs.Rename(root, ino, "new", layout.RootIno, "moved", 0)
		fs.Lookup(root, ino, "e")
		fs.Readlink(ino)
		if n, err := fs.Open(ino); err == nil {
			n.WriteAt(make([]byte, 9000), 1000)
			n.WriteAt(make([]byte, 9000), 5<<30)
			n.Fallocate(0, 1<<20, 3<<20)
			n.Fallocate(PunchHole|KeepSize, 100, 1<<20)
			n.Relocate(0, 4<<20)
			n.Fault(1, true, true, 512, 8, func(Run) error { return nil })
			n.Clone(root, layout.RootIno, fmt.Sprint("clone of ", ino), 0o600)
			n.CloneRange(2<<20, n, 0, 2*page)
			if c, err := n.Private(0, 2*page, true); err == nil {
				c.WriteAt([]byte("private"), 100)
				n.WriteAt([]byte("beside"), page)
				Publish(c)
				c.Close()
			}
			n.SeekData(0)
			n.SeekHole(0)
			fs.SetAttr(root, ino, SetAttr{Size: &size})
			n.Close()
		}
	}
	for dir := layout.RootIno; dir < 16; dir++ {
		list, _ := fs.ReadDir(root, dir, 0, 1000)
		for _, e := range list {
			if err := fs.Unlink(root, dir, e.Name); errors.Is(err, unix.EISDIR) {
				fs.Rmdir(root, dir, e.Name)
			}
		}
	}
	fs.Close()
}
