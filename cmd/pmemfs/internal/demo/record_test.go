package demo

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/pmemfs/pmemfs"
)

// segment fills a segment from p on with count records at most.
func segment(writer int, p place, count int) ([]byte, place) {
	data := make([]byte, segmentSize)
	for range count {
		if !p.fits(writer) {
			break
		}
		record := appendRecord(nil, writer, p.sequence)
		p.offset += copy(data[p.offset:], record)
		p.sequence++
	}
	return data, p
}

func TestRecords(t *testing.T) {
	seen := map[int]bool{}
	for sequence := range uint64(1000) {
		r := appendRecord([]byte("before"), 3, sequence)
		length := len(r) - len("before")
		if length != recordLength(3, sequence) || length%8 != 0 || length > maxRecord || length <= recordHeader {
			t.Fatalf("record %d has %d bytes", sequence, length)
		}
		seen[length] = true
		if bytes.Equal(r, appendRecord([]byte("before"), 2, sequence)) {
			t.Fatalf("record %d is the same for two writers", sequence)
		}
	}
	if len(seen) < 50 {
		t.Errorf("records have %d lengths only", len(seen))
	}
}

// TestWalkFindsDamage flips a bit in each part of a record, and cuts the segment off.
func TestWalkFindsDamage(t *testing.T) {
	data, end := segment(1, place{}, 50)
	if got := (place{}).walk(data, 1, nil); got != end || got.sequence != 50 {
		t.Fatalf("%+v, want %+v", got, end)
	}
	_, at := segment(1, place{}, 20)
	length := recordLength(1, 20)
	for _, off := range []int{0, 4, 8, 12, 16, recordHeader, length - 1} {
		broken := bytes.Clone(data)
		broken[at.offset+off] ^= 0x10
		if got := (place{}).walk(broken, 1, nil); got != at {
			t.Errorf("damage at %d of record 20: %+v, want %+v", off, got, at)
		}
	}
	for _, size := range []int{at.offset, at.offset + 1, at.offset + length - 1} {
		if got := (place{}).walk(data[:size], 1, nil); got != at {
			t.Errorf("cut at %d: %+v, want %+v", size, got, at)
		}
	}
	if got := (place{}).walk(data, 2, nil); got.sequence != 0 {
		t.Errorf("records of another writer: %+v", got)
	}
}

// newFS opens a new pool.
func newFS(t *testing.T) *pmemfs.FS {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pmemfs-demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	pool := filepath.Join(dir, "pool")
	if err := pmemfs.Format(pool, pmemfs.FormatOptions{Size: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	fsys, err := pmemfs.Open(pool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() })
	return fsys
}

// TestFind reads segments back from a pool, whole and damaged, as a writer that starts again does.
func TestFind(t *testing.T) {
	fsys := newFS(t)
	expect := func(want place) {
		t.Helper()
		if got, err := find(fsys, 0); got != want || err != nil {
			t.Errorf("%+v, want %+v, %v", got, want, err)
		}
	}
	write := func(name string, data []byte) {
		t.Helper()
		if err := fsys.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := fsys.MkdirAll(writerDir(0), 0o755); err != nil {
		t.Fatal(err)
	}
	expect(place{})
	first, p := segment(0, place{}, 1<<20)
	if p.fits(0) {
		t.Fatal("the segment is not full")
	}
	current := path.Join(writerDir(0), currentName)
	write(current, first)
	expect(p) // full, and not yet renamed
	write(segmentName(0, 0), first)
	if err := fsys.Remove(current); err != nil {
		t.Fatal(err)
	}
	expect(place{segment: 1, sequence: p.sequence})
	second, q := segment(0, place{segment: 1, sequence: p.sequence}, 10)
	write(current, second)
	expect(q)
	_, at := segment(0, place{}, 5)
	first[at.offset+30] ^= 1
	write(segmentName(0, 0), first)
	expect(at)
}

// TestLossIsNoticed: a writer that does not find what was acknowledged says how much.
func TestLossIsNoticed(t *testing.T) {
	fsys := newFS(t)
	data, p := segment(0, place{}, 7)
	if err := fsys.MkdirAll(writerDir(0), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := fsys.WriteFile(path.Join(writerDir(0), currentName), data, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := newShared(1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	w := writer{WriterOptions: WriterOptions{Writers: 1}, fsys: fsys, shared: s}
	s.at(0, acknowledged).Store(p.sequence)
	if err := w.verify(); err != nil || w.word(lost) != 0 || w.word(found) != 7 {
		t.Errorf("%v, %d lost, %d found", err, w.word(lost), w.word(found))
	}
	s.at(0, acknowledged).Store(p.sequence + 3)
	if err := w.verify(); err == nil || w.word(lost) != 3 {
		t.Errorf("%v, %d lost", err, w.word(lost))
	}
}
