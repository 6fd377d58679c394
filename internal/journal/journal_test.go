package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

const block = layout.BlockSize

// fixture is a log of 1 MiB and the node area as something to change.
type fixture struct {
	sb   *layout.Superblock
	area medium.Area
}

type failer interface{ Fatal(args ...any) }

func newFixture(t failer) fixture {
	sb := &layout.Superblock{Version: layout.Version, DataBlocks: layout.ChunkUnits, Nodes: layout.ChunkUnits, Inodes: layout.ChunkUnits}
	sb.Arrange(layout.MinLog)
	f := fixture{sb, medium.Memory(sb.MetaSize)}
	if err := Format(f.area, sb, Options{}); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f fixture) open(t failer) *Journal {
	j, err := Open(f.area, f.sb, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// node is the offset of a block that the tests change.
func (f fixture) node(i int) int64 { return f.sb.NodeArea.Offset + int64(i)*block }

func word(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

func begin(j *Journal) (*Tx, error) {
	tx := new(Tx)
	return tx, j.Begin(tx)
}

// begun is begin where that cannot fail.
func begun(t failer, j *Journal) *Tx {
	tx, err := begin(j)
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

// write commits one word.
func write(t failer, j *Journal, off int64, v uint64) {
	tx := begun(t, j)
	tx.Write(off, word(v))
	if _, err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

// TestModel compares transactions, with remounts between them, with a copy of
// the blocks in plain memory.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const blocks = 6
		f := newFixture(t)
		j := f.open(t)
		model := make([]byte, blocks*block)
		durable := model // what a crash leaves: model is not changed, but replaced
		compare := func() {
			for i := range blocks {
				if got := j.View(f.node(i), block); !bytes.Equal(got, model[i*block:(i+1)*block]) {
					t.Fatalf("block %d differs", i)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"transaction": func(t *rapid.T) {
				tx := begun(t, j)
				defer tx.Abort()
				next := slices.Clone(model)
				for range rapid.IntRange(1, 12).Draw(t, "changes") {
					i := rapid.IntRange(0, blocks-1).Draw(t, "block")
					if rapid.IntRange(0, 5).Draw(t, "zero") == 0 {
						tx.Zero(f.node(i))
						clear(next[i*block : (i+1)*block])
						continue
					}
					from := rapid.IntRange(0, block/8-1).Draw(t, "from")
					n := rapid.IntRange(1, min(block/8-from, 200)).Draw(t, "words")
					p := bytes.Repeat(word(rapid.Uint64().Draw(t, "value")), n)
					tx.Write(f.node(i)+int64(from)*8, p)
					copy(next[i*block+from*8:], p)
					if got := tx.Read(f.node(i), block); !bytes.Equal(got, next[i*block:(i+1)*block]) {
						t.Fatal("the transaction does not see its own changes")
					}
				}
				compare() // nothing shows before the commit
				switch rapid.SampledFrom([]string{"commit", "stage", "abort"}).Draw(t, "end") {
				case "commit":
					if _, err := tx.Commit(); err != nil {
						t.Fatal(err)
					}
					model, durable = next, next
				case "stage":
					if _, err := tx.Stage(); err != nil {
						t.Fatal(err)
					}
					model = next
				}
			},
			"commit": func(t *rapid.T) {
				if err := j.Commit(j.head); err != nil {
					t.Fatal(err)
				}
				durable = model
				if n := j.over.count.Load(); n != 0 {
					t.Fatalf("%d pages are staged after a commit", n)
				}
			},
			"crash": func(t *rapid.T) {
				j = f.open(t)
				model = durable
			},
			"close": func(t *rapid.T) {
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				durable = model
				j = f.open(t)
			},
			"read-only": func(t *rapid.T) {
				before := slices.Clone(f.area.Bytes())
				ro, err := Open(f.area, f.sb, Options{ReadOnly: true})
				if err != nil {
					t.Fatal(err)
				}
				for i := range blocks {
					if !bytes.Equal(ro.View(f.node(i), block), durable[i*block:(i+1)*block]) {
						t.Fatalf("block %d differs when read-only", i)
					}
				}
				if _, err := begin(ro); err != unix.EROFS || !bytes.Equal(before, f.area.Bytes()) {
					t.Fatalf("read-only: %v, changed %v", err, !bytes.Equal(before, f.area.Bytes()))
				}
			},
			"": func(*rapid.T) { compare() },
		})
	})
}

// TestReplayFromTheLogAlone loses everything that was applied in place: the
// log has it.
func TestReplayFromTheLogAlone(t *testing.T) {
	f := newFixture(t)
	j := f.open(t)
	for round := range uint64(40_000) { // several times around the ring
		write(t, j, f.node(int(round%3)), round)
	}
	if s := j.Stats(); s.UsedBytes == 0 || s.UsedBytes > s.SizeBytes*3/4 {
		t.Errorf("%d of %d bytes used", s.UsedBytes, s.SizeBytes)
	}
	f.area.Zero(f.node(0), 3*block)
	j = f.open(t)
	for i := range uint64(3) {
		want := 39_999 - (39_999-i)%3 // the last round that wrote to the block
		if got := binary.LittleEndian.Uint64(j.View(f.node(int(i)), 8)); got != want {
			t.Errorf("block %d holds %d, want %d", i, got, want)
		}
	}
}

// TestOldRecords shows that what an earlier mount left in the ring is not
// replayed, even where a record of today ends just before it.
func TestOldRecords(t *testing.T) {
	f := newFixture(t)
	j := f.open(t)
	start := j.DurableLSN()
	for i := range uint64(100) {
		write(t, j, f.node(0), i+1)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	// A ring that begins again at the same place, as after 2^14 more records.
	h, _, err := layout.ReadLogHeader(f.area.Bytes()[f.sb.LogHeaders.Offset:f.sb.LogHeaders.End()], f.sb.LogHeaders)
	if err != nil {
		t.Fatal(err)
	}
	h.Tail, h.Sequence = start, h.Sequence+1
	for _, at := range layout.LogHeaderPlaces(f.sb.LogHeaders) {
		f.area.Write(at, h.Encode())
	}
	j = f.open(t)
	write(t, j, f.node(0), 1000)
	f.area.Zero(f.node(0), block)
	j = f.open(t)
	if got := binary.LittleEndian.Uint64(j.View(f.node(0), 8)); got != 1000 {
		t.Errorf("%d, want 1000", got)
	}
}

func TestTooLong(t *testing.T) {
	f := newFixture(t)
	j := f.open(t)
	tx := begun(t, j)
	done := []bool{}
	tx.OnDone(func(committed bool) { done = append(done, committed) })
	for i := range layout.MinLog / 4 / block {
		tx.Write(f.node(i), bytes.Repeat([]byte{1}, block))
	}
	if _, err := tx.Commit(); !errors.Is(err, unix.EFBIG) || !strings.Contains(err.Error(), "limit") {
		t.Errorf("commit: %v", err)
	}
	tx.Abort()
	if !slices.Equal(done, []bool{false}) || !bytes.Equal(j.View(f.node(0), block), make([]byte, block)) {
		t.Errorf("done %v", done)
	}
	write(t, j, f.node(0), 5) // and the journal goes on
}

// TestWorkIsBounded fills the log with records that are short but take long to
// replay.
func TestWorkIsBounded(t *testing.T) {
	f := newFixture(t)
	j := f.open(t)
	for i := range 3000 {
		tx := begun(t, j)
		for k := range 4 {
			tx.Zero(f.node((i*4 + k) % 500))
		}
		if _, err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	counting := medium.Counting(f.area)
	if _, err := Open(counting, f.sb, Options{}); err != nil {
		t.Fatal(err)
	}
	if c := counting.Counts(); c.WrittenBytes > f.sb.Log.Length {
		t.Errorf("a mount wrote %d bytes, the log has %d", c.WrittenBytes, f.sb.Log.Length)
	}
}

func TestDamagedRecord(t *testing.T) {
	f := newFixture(t)
	j := f.open(t)
	first := j.place(j.head)
	for i := range uint64(3) {
		write(t, j, f.node(0), i+1)
	}
	last := j.place(j.head) - layout.LineSize
	damage := func(at int64) { f.area.Write(at, []byte{f.area.Bytes()[at] ^ 1}) }
	damage(first + 50)
	var corrupt *layout.CorruptError
	if _, err := Open(f.area, f.sb, Options{ReadOnly: true}); !errors.As(err, &corrupt) {
		t.Errorf("a damaged record: %v", err)
	}
	damage(first + 50)
	damage(last + 50) // looks like one that the power cut tore
	ro, err := Open(f.area, f.sb, Options{ReadOnly: true})
	if err != nil || ro.head != j.head-layout.LineSize {
		t.Errorf("a torn record: %v", err)
	}
}

// failing is an area whose fences fail from some time on.
type failing struct {
	medium.Area
	fail   bool
	stores int
}

func (f *failing) Stream(off int64, p []byte) { f.stores++; f.Area.Stream(off, p) }
func (f *failing) Write(off int64, p []byte)  { f.stores++; f.Area.Write(off, p) }
func (f *failing) Fence() error {
	if f.fail {
		return errors.New("the medium is gone")
	}
	return f.Area.Fence()
}

func TestFailedFence(t *testing.T) {
	f := newFixture(t)
	area := &failing{Area: f.area}
	j, err := Open(area, f.sb, Options{})
	if err != nil {
		t.Fatal(err)
	}
	write(t, j, f.node(0), 1)
	tx := begun(t, j)
	area.fail = true
	tx.Write(f.node(0), word(2))
	if _, err := tx.Commit(); !errors.Is(err, unix.EIO) {
		t.Errorf("commit: %v", err)
	}
	if got := binary.LittleEndian.Uint64(j.View(f.node(0), 8)); got != 1 {
		t.Errorf("%d is visible", got)
	}
	area.fail, area.stores = false, 0 // it comes back: nobody can know what it holds
	if _, err := begin(j); !errors.Is(err, unix.EIO) {
		t.Errorf("begin: %v", err)
	}
	if err := j.Close(); err == nil || area.stores != 0 {
		t.Errorf("close: %v, %d stores", err, area.stores)
	}
}

// TestPanicOfWhoWaits: when what waits for a durable transaction panics, nothing is written over it, and it is there afterwards.
func TestPanicOfWhoWaits(t *testing.T) {
	f := newFixture(t)
	j := f.open(t)
	tx := begun(t, j)
	tx.Write(f.node(0), word(1))
	tx.OnDurable(func() { panic("waited") })
	func() {
		defer func() {
			if v := recover(); v != "waited" {
				t.Error(v)
			}
		}()
		tx.Commit()
	}()
	if tx, err := begin(j); err == nil {
		tx.Abort()
		t.Error("the journal goes on")
	}
	if again := f.open(t); value(again, f.node(0)) != 1 {
		t.Error("lost")
	}
}
