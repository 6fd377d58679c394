package layout

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const formatDocument = "../../docs/format.md"

// table is a table of the document: its rows, cells trimmed.
type table [][]string

// tables returns the document's tables by the heading that precedes them.
func tables(t *testing.T) map[string]table {
	t.Helper()
	text, err := os.ReadFile(formatDocument)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]table{}
	heading := ""
	for _, line := range strings.Split(string(text), "\n") {
		if name, ok := strings.CutPrefix(line, "#"); ok {
			heading = strings.TrimSpace(strings.TrimLeft(name, "#"))
		}
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		var row []string
		for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
			row = append(row, strings.TrimSpace(cell))
		}
		out[heading] = append(out[heading], row)
	}
	return out
}

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatalf("%q is no number in %s", s, formatDocument)
	}
	return n
}

func TestDocumentedConstants(t *testing.T) {
	want := map[string]int64{
		"BlockSize": BlockSize, "LineSize": LineSize, "WordSize": WordSize, "Version": Version,
		"SuperblockCopies": SuperblockCopies, "SuperblockSize": SuperblockSize, "LogHeaderSize": LogHeaderSize,
		"RecordHeader": RecordHeader, "MinLog": MinLog, "MaxLog": MaxLog, "InodeSize": InodeSize, "InodeRoot": InodeRoot,
		"RootEntries": RootEntries, "Fanout": Fanout, "ChunkUnits": ChunkUnits, "GroupUnits": GroupUnits,
		"MaxLevel": MaxLevel, "MaxLeafLevel": MaxLeafLevel, "MaxDirectory": MaxDirectory, "HashBits": HashBits,
		"BlobPayload": BlobPayload, "MaxName": MaxName, "MaxTarget": MaxTarget, "MaxXattrs": MaxXattrs,
		"MaxFileSize": MaxFileSize, "MaxLabel": MaxLabel,
	}
	for _, row := range tables(t)["Constants"][1:] {
		if v, ok := want[row[0]]; !ok || v != number(t, row[1]) {
			t.Errorf("%s is %s in the document, %d in the program", row[0], row[1], v)
		}
		delete(want, row[0])
	}
	for name := range want {
		t.Errorf("%s is not in the document", name)
	}
}

// field is where the document says that a field stands.
type field struct{ offset, size int64 }

// fieldsOf checks that a structure's fields follow each other without gaps and
// end where its heading says, and returns them.
func fieldsOf(t *testing.T, all map[string]table, heading string, total int64) map[string]field {
	t.Helper()
	rows, ok := all[heading]
	if !ok {
		t.Fatalf("no table below the heading %q", heading)
	}
	out := map[string]field{}
	at := int64(0)
	for _, row := range rows[1:] {
		f := field{number(t, row[0]), number(t, row[1])}
		if f.offset != at {
			t.Errorf("%s: %s is at %d, the field before it ends at %d", heading, row[2], f.offset, at)
		}
		at = f.offset + f.size
		out[row[2]] = f
	}
	if at != total {
		t.Errorf("%s: ends at %d, not %d", heading, at, total)
	}
	return out
}

// checkFields compares an encoded structure with the document: at each field's
// place there is its value; what is called zeros is; no field is forgotten.
func checkFields(t *testing.T, name string, fields map[string]field, b []byte, values map[string]any) {
	t.Helper()
	for field, f := range fields {
		got := b[f.offset : f.offset+f.size]
		var want []byte
		switch v := values[field].(type) {
		case nil:
			if field == "checksum" {
				continue
			}
			want = make([]byte, f.size)
			if field != "zeros" {
				t.Errorf("%s: field %s is in the document, and not in this test", name, field)
			}
		case string:
			want = append([]byte(v), make([]byte, f.size-int64(len(v)))...)
		case uint64:
			want = binary.LittleEndian.AppendUint64(nil, v)[:f.size]
		case []byte:
			want = v
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %s is documented at %d, %d bytes: there is %x, want %x", name, field, f.offset, f.size, got, want)
		}
	}
	for field := range values {
		if _, ok := fields[field]; !ok {
			t.Errorf("%s: field %s is not in the document", name, field)
		}
	}
}

func TestDocumentedStructures(t *testing.T) {
	all := tables(t)
	s := sampleSuperblock()
	s.Incompatible, s.ReadOnly = 0x1111, 0x2222
	checkFields(t, "superblock", fieldsOf(t, all, "superblock: 512 bytes", SuperblockSize), s.Encode(), map[string]any{
		"magic": "pmemfs\x00\x01", "version": uint64(Version), "incompatible": uint64(0x1111), "readonly": uint64(0x2222),
		"uuid": s.UUID[:], "hashkey": s.HashKey[:], "label": s.Label, "created": uint64(s.Created), "metasize": uint64(s.MetaSize),
		"datablocks": uint64(s.DataBlocks), "nodes": uint64(s.Nodes), "inodes": uint64(s.Inodes), "loglength": uint64(s.Log.Length),
	})
	h := LogHeader{Sequence: 3, Epoch: 4, Tail: 640, Clean: true}
	checkFields(t, "log header", fieldsOf(t, all, "log header: 64 bytes", LogHeaderSize), h.Encode(), map[string]any{
		"magic": "plog", "sequence": uint64(3), "epoch": uint64(4), "tail": uint64(640), "state": uint64(1),
	})
	var w RecordWriter
	w.Reset()
	w.Write(0x4008, word8)
	w.Zero(0x5000)
	record := w.Finish(7, 128, 64)
	checkFields(t, "journal record", fieldsOf(t, all, "journal record: 40 bytes and its entries", RecordHeader), record, map[string]any{
		"magic": "recd", "epoch": uint64(7), "lsn": uint64(128), "durable": uint64(64), "length": uint64(len(record)), "entries": uint64(2),
	})
	entries := append(binary.LittleEndian.AppendUint64(nil, 0x4008<<16|8), word8...)
	entries = binary.LittleEndian.AppendUint64(entries, 0x5000<<16|1<<15)
	if !bytes.Equal(record[RecordHeader:RecordHeader+24], entries) {
		t.Errorf("entries of a record are %x, documented as %x", record[RecordHeader:], entries)
	}
	in := sampleInode()
	b := make([]byte, InodeSize)
	in.Encode(b)
	var root []byte
	for _, e := range in.Root {
		root = binary.LittleEndian.AppendUint64(root, uint64(e))
	}
	checkFields(t, "inode", fieldsOf(t, all, "inode: 256 bytes", InodeSize), b, map[string]any{
		"magic": "inod", "ino": uint64(in.Ino), "generation": in.Generation, "mode": uint64(in.Mode), "nlink": uint64(in.Nlink),
		"uid": uint64(in.UID), "gid": uint64(in.GID), "size": uint64(in.Size), "blocks": uint64(in.Blocks), "nodes": uint64(in.Nodes),
		"atime": uint64(in.Atime), "mtime": uint64(in.Mtime), "ctime": uint64(in.Ctime), "btime": uint64(in.Btime),
		"height": uint64(in.Height), "flags": uint64(in.Flags), "parent": uint64(in.Parent), "rdev": in.Rdev, "xattrs": uint64(in.Xattrs), "target": uint64(in.Target),
		"root": root, "changes": in.Changes, "originino": uint64(in.Origin.Ino), "origingeneration": in.Origin.Generation,
		"originblock": in.Origin.Block, "originchanges": in.Origin.Changes,
	})
	blob := make([]byte, BlockSize)
	EncodeBlob(blob, 5, 6, []byte("part"), 99)
	checkFields(t, "blob", fieldsOf(t, all, "blob: 4096 bytes", BlockSize), blob, map[string]any{
		"magic": "blob", "ino": uint64(5), "next": uint64(6), "length": uint64(4), "total": uint64(99), "bytes": "part",
	})
}

var word8 = []byte("12345678")

func TestDocumentedBucket(t *testing.T) {
	all := tables(t)
	const prefix = uint64(0b11) << (HashBits - 2)
	k := newBucket(9, prefix, 2)
	slot := Slot{Hash: prefix + 77, Ino: 88, Type: 8, Name: "a name"}
	k.Add(slot)
	k.Seal()
	size := uint64(SlotSize(len(slot.Name)))
	fields := fieldsOf(t, all, "directory bucket: 4096 bytes", BlockSize)
	names := k.Bytes[fields["names"].offset:]
	checkFields(t, "directory bucket", fields, k.Bytes, map[string]any{
		"magic": "bckt", "ino": uint64(9), "prefix": prefix, "depth": uint64(2),
		"used": uint64(fields["names"].offset) + size, "live": size, "names": bytes.Clone(names),
	})
	head := fieldsOf(t, all, "name: 18 bytes and the name", 18)
	if got := string(names[head["name"].offset:][:len(slot.Name)]); got != slot.Name {
		t.Errorf("name %q", got)
	}
	checkFields(t, "name", head, names, map[string]any{
		"hash": slot.Hash, "ino": uint64(88), "type": uint64(8), "length": uint64(len(slot.Name)), "name": []byte{},
	})
}

func TestDocumentedEntry(t *testing.T) {
	bits := fieldsOf(t, tables(t), "entry: 64 bits", 64)
	at := Place{Ino: 3, Level: 1, Position: 512}
	e := uint64(MakeEntry(EntryLeaf|EntryUnwritten, 0x123456789, at))
	get := func(name string) uint64 { return e >> bits[name].offset & (1<<bits[name].size - 1) }
	for name, want := range map[string]uint64{"present": 1, "leaf": 1, "unwritten": 1, "shared": 0, "zeros": 0, "number": 0x123456789} {
		if got := get(name); got != want {
			t.Errorf("%s: %#x, want %#x", name, got, want)
		}
	}
	if e = uint64(MakeEntry(EntryLeaf|EntryShared, 0, at)); get("shared") != 1 || get("unwritten") != 0 {
		t.Errorf("shared: %#x", e)
	}
	if want := documentedCheck(e&(1<<48-1), at); get("check") != uint64(want) {
		t.Errorf("check %#x, the document's rule gives %#x", get("check"), want)
	}
	at.Directory = true
	if e = uint64(MakeEntry(EntryLeaf, 5, at)); get("check") != uint64(documentedCheck(e&(1<<48-1), at)) {
		t.Errorf("check in a directory: %#x", get("check"))
	}
}

// documentedCheck is the document's rule, written a second time.
func documentedCheck(payload uint64, at Place) uint16 {
	level := uint64(at.Level)
	if at.Directory {
		level |= 0x80
	}
	h := uint64(at.Ino)*0x9e3779b97f4a7c15 ^ at.Position*0xc2b2ae3d27d4eb4f ^ level*0x165667b19e3779f9
	h ^= h >> 29
	h *= 0xbf58476d1ce4e5b9
	crc := uint16(h >> 48)
	for i := range 6 {
		crc ^= uint16(byte(payload>>(8*i))) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			if crc <<= 1; carry {
				crc ^= 0x1021
			}
		}
	}
	return crc
}

// TestDocumentedRegions compares the order of the regions with the document.
func TestDocumentedRegions(t *testing.T) {
	s := sampleSuperblock()
	offsets := []int64{
		0, s.LogHeaders.Offset, s.Log.Offset, s.BlockBitmap.Bits.Offset, s.NodeBitmap.Bits.Offset,
		s.InodeBitmap.Bits.Offset, s.Orphans.Bits.Offset, s.InodeTable.Offset, s.NodeArea.Offset,
	}
	names := []string{"superblocks", "log headers", "log", "block bitmap", "node bitmap", "inode bitmap", "orphan bitmap", "inode table", "nodes"}
	rows := tables(t)["Areas and regions"][1:]
	for i, row := range rows {
		if name, _, _ := strings.Cut(row[0], ":"); name != names[i] || i > 0 && offsets[i] <= offsets[i-1] {
			t.Errorf("region %d is %q in the document, %q in the program", i, name, names[i])
		}
	}
}

// TestDocumentedStructureNames finds every name that an error gives to a
// structure in the document.
func TestDocumentedStructureNames(t *testing.T) {
	known := map[string]bool{}
	for _, row := range tables(t)["What is verified, and when"][1:] {
		for _, name := range strings.Split(row[0], ",") {
			known[strings.TrimSpace(name)] = true
		}
	}
	used := regexp.MustCompile(`(?:Corrupt\(|Structure: |w\.problem\(|d\.problem\(|claim\(|\.name ?\+ ?)"([^"]+)"`)
	found := 0
	for _, pattern := range []string{"*.go", "../journal/*.go", "../alloc/*.go", "../core/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range used.FindAllSubmatch(text, -1) {
				name := strings.TrimSpace(string(m[1]))
				if strings.HasSuffix(file, "_test.go") || name == "checker" {
					continue
				}
				if found++; !known[name] {
					t.Errorf("%s: structure %q is not in the document", file, name)
				}
			}
		}
	}
	if found < 40 {
		t.Errorf("only %d names found: does the pattern still fit?", found)
	}
}
