package layout

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func sampleSuperblock() *Superblock {
	s := &Superblock{
		Version: Version, UUID: [16]byte{1, 2, 3}, HashKey: [16]byte{4, 5}, Label: "a label",
		Created: 12345, DataBlocks: 4096, Nodes: 1024, Inodes: 512,
	}
	s.Arrange(MinLog)
	return s
}

func sampleInode() Inode {
	return Inode{
		Ino: 7, Generation: 3, Mode: ModeRegular | 0o640, Nlink: 2, UID: 10, GID: 20, Height: 1, Flags: FlagStatic, Size: 123456,
		Blocks: 31, Nodes: 2, Atime: -1, Mtime: 2, Ctime: 3, Btime: 4, Root: [RootEntries]Entry{1, 2, 3, 4, 5, 6, 7, 8},
		Parent: 9, Rdev: 11, Xattrs: 12, Target: 13, Changes: 14, Origin: Origin{Ino: 15, Generation: 16, Block: 17, Changes: 18},
	}
}

func wantCorrupt(t *testing.T, what string, err error) {
	t.Helper()
	var c *CorruptError
	if !errors.As(err, &c) || c.Structure == "" || c.Reason == "" {
		t.Errorf("%s: %v, want a CorruptError that names the structure", what, err)
	}
}

func TestSuperblock(t *testing.T) {
	s := sampleSuperblock()
	meta := make([]byte, 2*BlockSize)
	copy(meta, s.Encode())
	copy(meta[BlockSize:], s.Encode())
	got, err := ReadSuperblock(meta)
	if diff := cmp.Diff(s, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	meta[20] ^= 1 // the first copy is damaged
	if got, err = ReadSuperblock(meta); err != nil || got.UUID != s.UUID {
		t.Error("second copy:", err)
	}
	meta[BlockSize+20] ^= 1
	_, err = ReadSuperblock(meta)
	wantCorrupt(t, "both copies damaged", err)
	for _, n := range []int{0, 1, 511, 512, 4096, 4097} {
		_, err := ReadSuperblock(make([]byte, n))
		wantCorrupt(t, fmt.Sprintf("%d bytes", n), err)
	}
	for name, change := range map[string]func(*Superblock){
		"other version":     func(s *Superblock) { s.Version = 1 },
		"unknown feature":   func(s *Superblock) { s.Incompatible = 1 << 40 },
		"no blocks":         func(s *Superblock) { s.DataBlocks = 0 },
		"negative nodes":    func(s *Superblock) { s.Nodes = -512 },
		"odd inodes":        func(s *Superblock) { s.Inodes = 513 },
		"log too small":     func(s *Superblock) { s.Log.Length = 4096 },
		"wrong size":        func(s *Superblock) { s.MetaSize += 4096 },
		"far too many":      func(s *Superblock) { s.DataBlocks = 1 << 62 },
		"log of no blocks":  func(s *Superblock) { s.Log.Length = MinLog + 1 },
		"huge log, no room": func(s *Superblock) { s.Log.Length = 1 << 60 },
	} {
		s := sampleSuperblock()
		change(s)
		_, err := DecodeSuperblock(s.Encode(), 0)
		wantCorrupt(t, name, err)
	}
}

// TestRegions checks the superblock's invariant for pools of all sizes.
func TestRegions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		units := func(name string) int64 { return rapid.Int64Range(1, 1<<22).Draw(t, name) * ChunkUnits }
		s := &Superblock{DataBlocks: units("blocks"), Nodes: units("nodes"), Inodes: units("inodes")}
		s.Arrange(MinLog)
		at := int64(SuperblockCopies * BlockSize)
		bitmaps := []BitmapRegions{s.BlockBitmap, s.NodeBitmap, s.InodeBitmap, s.Orphans}
		all := []Region{s.LogHeaders, s.Log}
		for _, b := range bitmaps {
			all = append(all, b.Bits, b.Chunks, b.Groups)
			if b.Bits.Length*8 < b.Units || b.Chunks.Length/WordSize*ChunkUnits < b.Units || b.Groups.Length/WordSize*GroupUnits < b.Units {
				t.Fatalf("too short for %d units: %+v", b.Units, b)
			}
		}
		for _, r := range append(all, s.InodeTable, s.NodeArea) {
			if r.Offset != at || r.Length <= 0 || r.Length%BlockSize != 0 {
				t.Fatalf("region %+v, the last ended at %#x", r, at)
			}
			at = r.End()
		}
		if s.MetaSize != at || s.InodeTable.Length < s.Inodes*InodeSize || s.NodeArea.Length != s.Nodes*BlockSize {
			t.Fatalf("%+v", s)
		}
	})
}

func TestInode(t *testing.T) {
	in := sampleInode()
	b := make([]byte, InodeSize)
	in.Encode(b)
	got, err := DecodeInode(b, 7, 0)
	if diff := cmp.Diff(in, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	_, err = DecodeInode(b, 8, 0)
	wantCorrupt(t, "the inode of another slot", err)
	for i := range b {
		b[i] ^= 0x10
		_, err := DecodeInode(b, 7, 0)
		wantCorrupt(t, fmt.Sprintf("byte %d changed", i), err)
		b[i] ^= 0x10
	}
	for name, change := range map[string]func(*Inode){
		"an unknown flag":    func(in *Inode) { in.Flags |= 4 },
		"the highest flag":   func(in *Inode) { in.Flags |= 0x80 },
		"a static directory": func(in *Inode) { in.Mode = ModeDirectory | 0o700 },
	} {
		bad := sampleInode()
		change(&bad)
		bad.Encode(b)
		_, err := DecodeInode(b, 7, 0)
		wantCorrupt(t, name, err)
	}
	FreeInode(b, 99)
	if !SlotFree(b) || SlotGeneration(b) != 99 {
		t.Error("a free slot")
	}
}

// TestEntry shows that an entry is right only where it was made to stand, and
// that each flipped bit is found.
func TestEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := Place{
			Ino: Ino(rapid.Uint64Range(1, 1<<40).Draw(t, "ino")), Level: rapid.IntRange(0, 2).Draw(t, "level"),
			Position: rapid.Uint64Range(0, 1<<40).Draw(t, "position"),
		}
		flags := rapid.SampledFrom([]Entry{EntryLeaf, EntryLeaf | EntryUnwritten, EntryLeaf | EntryShared}).Draw(t, "flags")
		number := rapid.Uint64Range(0, MaxNumber).Draw(t, "number")
		e := MakeEntry(flags, number, at)
		if err := e.Verify(at, 0); err != nil || e.Number() != number || e.Flags() != flags|EntryPresent || !e.Leaf() {
			t.Fatalf("%#x: %v", uint64(e), err)
		}
		for i := range 64 {
			if (e^1<<i).Verify(at, 0) == nil {
				t.Fatalf("bit %d flipped, and nobody notices", i)
			}
		}
	})
}

// TestEntryElsewhere counts how many wrong places an entry is taken for right
// at: a 16-bit check lets one in 65,536 pass.
func TestEntryElsewhere(t *testing.T) {
	passed, tried := 0, 0
	for ino := Ino(1); ino < 200; ino++ {
		for position := uint64(0); position < 200; position++ {
			e := MakeEntry(EntryLeaf, 77, Place{Ino: ino, Position: position})
			for _, other := range []Place{
				{Ino: ino + 1, Position: position}, {Ino: ino, Position: position + 1}, {Ino: ino, Position: position + 512},
				{Ino: ino, Level: 1, Position: position}, {Ino: ino, Position: position, Directory: true},
			} {
				tried++
				if e.Verify(other, 0) == nil {
					passed++
				}
			}
		}
	}
	if passed > tried/65536*4 {
		t.Errorf("%d of %d entries pass at another place", passed, tried)
	}
}

func newBucket(ino Ino, prefix uint64, depth int) Bucket {
	k := Bucket{make([]byte, BlockSize)}
	k.Refill(ino, prefix, depth, nil)
	return k
}

// TestBucket compares a bucket with a map.
func TestBucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const ino = 5
		k := newBucket(ino, 0, 0)
		want := map[string]Slot{}
		hash := func(name string) uint64 { return uint64(Checksum([]byte(name))) << 20 }
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				name := rapid.StringMatching(`[a-z]{1,3}|[a-z]{100,255}`).Draw(t, "name")
				size := SlotSize(len(name))
				now, compacted := k.Room(size)
				if _, there := want[name]; there || !now && !compacted {
					t.Skip()
				}
				s := Slot{Hash: hash(name), Ino: Ino(rapid.Uint64Range(1, 1<<40).Draw(t, "ino")), Type: 8, Name: name}
				if !now {
					slots, err := k.Slots(0)
					if err != nil {
						t.Fatal(err)
					}
					k.Refill(ino, 0, 0, slots)
					if now, _ = k.Room(size); !now {
						t.Fatal("Room promised room after compacting")
					}
				}
				k.Add(s)
				want[name] = s
			},
			"remove": func(t *rapid.T) {
				if len(want) == 0 {
					t.Skip()
				}
				name := rapid.SampledFrom(slices.Sorted(maps.Keys(want))).Draw(t, "name")
				s, ok := k.Find(hash(name), name)
				if !ok {
					t.Fatalf("%q is not found", name)
				}
				k.Remove(s)
				delete(want, name)
			},
			"replace": func(t *rapid.T) {
				if len(want) == 0 {
					t.Skip()
				}
				name := rapid.SampledFrom(slices.Sorted(maps.Keys(want))).Draw(t, "name")
				s, _ := k.Find(hash(name), name)
				k.Replace(s, 77, 4)
				s.Ino, s.Type = 77, 4
				want[name] = s
			},
			"": func(t *rapid.T) {
				opened, err := OpenBucket(k.Bytes, ino, 0, 0)
				if err != nil {
					t.Fatal(err)
				}
				slots, err := opened.Slots(0)
				if err != nil {
					t.Fatal(err)
				}
				got := map[string]Slot{}
				for _, s := range slots {
					got[s.Name] = s
				}
				if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Slot{})); diff != "" || len(got) != len(slots) {
					t.Fatal(diff)
				}
			},
		})
	})
}

func TestBucketPrefix(t *testing.T) {
	const prefix = uint64(0b101) << (HashBits - 3)
	k := newBucket(5, prefix, 3)
	k.Seal()
	for _, hash := range []uint64{prefix, prefix | (1<<(HashBits-3) - 1)} {
		if _, err := OpenBucket(k.Bytes, 5, hash, 0); err != nil {
			t.Error(err)
		}
	}
	for _, hash := range []uint64{0, prefix - 1, prefix + 1<<(HashBits-3)} {
		_, err := OpenBucket(k.Bytes, 5, hash, 0)
		wantCorrupt(t, "hash outside of the prefix", err)
	}
	_, err := OpenBucket(k.Bytes, 6, prefix, 0)
	wantCorrupt(t, "bucket of another directory", err)
}

func TestRecord(t *testing.T) {
	var w RecordWriter
	w.Reset()
	if !w.Empty() {
		t.Error("a new writer is not empty")
	}
	w.Write(0x3000, []byte("12345678"))
	w.Zero(0x5000)
	w.Write(0x4008, bytes.Repeat([]byte{7}, BlockSize-8))
	record := bytes.Clone(w.Finish(11, 640, 320))
	if len(record)%LineSize != 0 || RecordLength(record, 11, 640, 1<<20) != int64(len(record)) || !RecordIntact(record) || RecordDurable(record) != 320 {
		t.Fatalf("%x", record[:64])
	}
	var got []Change
	if err := Changes(record, 1<<20, func(c Change) { got = append(got, c) }); err != nil {
		t.Fatal(err)
	}
	want := []Change{{0x3000, []byte("12345678")}, {0x5000, nil}, {0x4008, bytes.Repeat([]byte{7}, BlockSize-8)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name, n := range map[string]int64{
		"epoch": RecordLength(record, 12, 640, 1<<20), "LSN": RecordLength(record, 11, 704, 1<<20), "limit": RecordLength(record, 11, 640, 4096),
	} {
		if n != 0 {
			t.Errorf("wrong %s: length %d", name, n)
		}
	}
	for i := range record {
		record[i] ^= 4
		if RecordLength(record, 11, 640, 1<<20) == int64(len(record)) && RecordIntact(record) {
			t.Errorf("byte %d changed, and nobody notices", i)
		}
		record[i] ^= 4
	}
	wantCorrupt(t, "a change behind the meta area", Changes(record, 0x5800, func(Change) {}))
}

func TestLogHeader(t *testing.T) {
	r := Region{Offset: BlockSize, Length: 2 * BlockSize}
	meta := make([]byte, 4*BlockSize)
	region := meta[r.Offset:r.End()]
	_, _, err := ReadLogHeader(region, r)
	wantCorrupt(t, "no header", err)
	put := func(i int, h LogHeader) { copy(meta[LogHeaderPlaces(r)[i]:], h.Encode()) }
	old, now := LogHeader{Sequence: 4, Epoch: 1, Tail: 64}, LogHeader{Sequence: 5, Epoch: 2, Tail: 128, Clean: true}
	put(0, old)
	put(1, now)
	if h, i, err := ReadLogHeader(region, r); h != now || i != 1 || err != nil {
		t.Error(h, i, err)
	}
	meta[LogHeaderPlaces(r)[1]+17] ^= 1
	if h, i, err := ReadLogHeader(region, r); h != old || i != 0 || err != nil {
		t.Error(h, i, err)
	}
}

func TestBlob(t *testing.T) {
	b := make([]byte, BlockSize)
	for _, n := range []int{1, 100, BlobPayload} {
		part := bytes.Repeat([]byte{9}, n)
		EncodeBlob(b, 3, 44, part, 5000)
		got, next, total, err := DecodeBlob(b, 3, 0)
		if err != nil || !bytes.Equal(got, part) || next != 44 || total != 5000 {
			t.Error(len(got), next, total, err)
		}
		_, _, _, err = DecodeBlob(b, 4, 0)
		wantCorrupt(t, "blob of another inode", err)
	}
}

// seal makes the checksum of a structure right, as a fuzzer cannot.
func seal(b []byte) { binary.LittleEndian.PutUint32(b[4:], Checksum(b[8:])) }

func fit(b []byte, n int) []byte {
	return append(bytes.Clone(b[:min(n, len(b))]), make([]byte, max(0, n-len(b)))...)
}

// FuzzDecoders gives arbitrary bytes, with checksums that match, to every
// decoder: no panic, and what is accepted is in range.
func FuzzDecoders(f *testing.F) {
	in := sampleInode()
	b := make([]byte, InodeSize)
	in.Encode(b)
	f.Add(b)
	f.Add(sampleSuperblock().Encode())
	k := newBucket(7, 0, 0)
	k.Add(Slot{Hash: 1, Ino: 2, Type: 4, Name: "name"})
	f.Add(k.Bytes)
	blob := make([]byte, BlockSize)
	EncodeBlob(blob, 7, 1, []byte("part"), 4)
	f.Add(blob)
	var w RecordWriter
	w.Reset()
	w.Write(0x3000, []byte("12345678"))
	w.Zero(0x5000)
	f.Add(bytes.Clone(w.Finish(1, 0, 0)))
	f.Add(LogHeader{Sequence: 1, Tail: 64}.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzInode(t, fit(data, InodeSize))
		fuzzBucket(t, fit(data, BlockSize))
		fuzzBlob(t, fit(data, BlockSize))
		fuzzRecord(t, fit(data, max(LineSize, len(data)/LineSize*LineSize)))
		s := fit(data, SuperblockSize)
		binary.LittleEndian.PutUint32(s[12:], Checksum(s[:12], s[16:]))
		if sb, err := DecodeSuperblock(s, 0); err == nil && (sb.MetaSize < sb.NodeArea.End() || sb.DataBlocks <= 0) {
			t.Errorf("%+v", sb)
		}
		h := fit(data, LogHeaderSize)
		seal(h)
		if got, err := DecodeLogHeader(h, 0); err == nil && !bytes.Equal(got.Encode()[8:40], h[8:40]) {
			t.Errorf("%+v", got)
		}
	})
}

func fuzzInode(t *testing.T, b []byte) {
	seal(b)
	ino := Ino(binary.LittleEndian.Uint64(b[8:]))
	in, err := DecodeInode(b, ino, 0)
	if err != nil {
		return
	}
	again := make([]byte, InodeSize)
	in.Encode(again)
	if got, err := DecodeInode(again, ino, 0); err != nil || got != in || in.Size < 0 || in.Height > MaxLevel {
		t.Errorf("%+v %+v %v", in, got, err)
	}
}

func fuzzBucket(t *testing.T, b []byte) {
	seal(b)
	k, err := OpenBucket(b, Ino(binary.LittleEndian.Uint64(b[8:])), binary.LittleEndian.Uint64(b[16:]), 0)
	if err != nil {
		return
	}
	if d := k.Depth(); d > HashBits || bits.Len64(k.Prefix()) > HashBits {
		t.Errorf("depth %d, prefix %#x", d, k.Prefix())
	}
	slots, err := k.Slots(0)
	for _, s := range slots {
		if !ValidName(s.Name) || s.Ino == 0 {
			t.Errorf("%+v", s)
		}
		if _, found := k.Find(s.Hash, s.Name); !found && err == nil {
			t.Errorf("%q is there, but not found", s.Name)
		}
	}
	k.Find(1, "name")
}

func fuzzBlob(t *testing.T, b []byte) {
	seal(b)
	part, _, total, err := DecodeBlob(b, Ino(binary.LittleEndian.Uint64(b[8:])), 0)
	if err == nil && (len(part) == 0 || len(part) > BlobPayload || total > MaxXattrs) {
		t.Errorf("%d bytes of %d", len(part), total)
	}
}

func fuzzRecord(t *testing.T, b []byte) {
	le := binary.LittleEndian
	le.PutUint32(b[32:], uint32(len(b)))
	seal(b)
	if RecordLength(b, le.Uint64(b[8:]), le.Uint64(b[16:]), int64(len(b))) == 0 || !RecordIntact(b) {
		return
	}
	const size = 1 << 30
	Changes(b, size, func(c Change) {
		if c.Offset < SuperblockCopies*BlockSize || c.Length() <= 0 || c.Offset+c.Length() > size {
			t.Errorf("change of %d bytes at %#x", c.Length(), c.Offset)
		}
	})
}
