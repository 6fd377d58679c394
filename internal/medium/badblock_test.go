package medium

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/medium/mediumtest"
	"github.com/pmemfs/pmemfs/internal/rerun"
)

// spoiled opens a new pool whose data area holds ones, and makes a block of it bad.
func spoiled(t *testing.T, dir string, block int64) (*Pool, *mapped) {
	t.Helper()
	path := newPool(t, dir, 4*pageSize, 16*pageSize)
	p, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	p.data.Stream(0, bytes.Repeat([]byte{1}, 16*pageSize))
	if err := p.data.Fence(); err != nil {
		t.Fatal(err)
	}
	spoil(t, p.data, block)
	return p, p.data
}

func spoil(t *testing.T, a *mapped, block int64) {
	t.Helper()
	mediumtest.NeedAddress(t)
	if err := mediumtest.Spoil(a.mem[block*pageSize : (block+1)*pageSize]); err != nil {
		t.Fatal(err)
	}
}

func guarded(f func()) error {
	return Guard(func() error {
		f()
		return nil
	})
}

// checkBad fails unless err is about a block of the data area.
func checkBad(t *testing.T, what string, err error, block int64) {
	t.Helper()
	var bad *BadBlockError
	if !errors.As(err, &bad) || !errors.Is(err, unix.EIO) || bad.Area != dataName || bad.Offset != block*pageSize {
		t.Errorf("%s: %v, want block %d to be bad", what, err, block)
	}
}

// TestBadBlockIsAnError: however a bad block is accessed first, by Go or by assembly, whole or at one of its ends, Guard
// returns an error that says where it is.
func TestBadBlockIsAnError(t *testing.T) {
	const block = 5
	p := make([]byte, 3*pageSize)
	accesses := map[string]func(a *mapped){
		"read":             func(a *mapped) { a.Read(4*pageSize, p) },
		"load":             func(a *mapped) { touch(a.Bytes()[block*pageSize+64:][:1]) },
		"copy from it":     func(a *mapped) { copy(p, a.Bytes()[4*pageSize:]) },
		"compare":          func(a *mapped) { bytes.Equal(a.Bytes()[4*pageSize:7*pageSize], bytes.Repeat([]byte{1}, 3*pageSize)) },
		"write":            func(a *mapped) { a.Write(block*pageSize+8, p[:8]) },
		"stream":           func(a *mapped) { a.Stream(4*pageSize, p) },
		"stream of a part": func(a *mapped) { a.Stream(block*pageSize+100, p[:300]) },
		"zero":             func(a *mapped) { a.Zero(4*pageSize, 3*pageSize) },
		"copy to":          func(a *mapped) { a.Copy(4*pageSize, 8*pageSize, 3*pageSize) },
		"copy from":        func(a *mapped) { a.Copy(8*pageSize, 4*pageSize, 3*pageSize) },
	}
	for name, access := range accesses {
		t.Run(name, func(t *testing.T) {
			_, a := spoiled(t, tmpfs(t), block)
			for range 2 { // found, and known
				checkBad(t, name, guarded(func() { access(a) }), block)
			}
			if got := a.FirstBad(0, a.Size()); got != block*pageSize {
				t.Errorf("the first bad block is at %d", got)
			}
		})
	}
}

// TestKnownBadBlockIsNotTouched: what was found to be bad is refused until it is healed, whether or not an access would
// succeed, and the blocks beside it are not.
func TestKnownBadBlockIsNotTouched(t *testing.T) {
	_, a := spoiled(t, tmpfs(t), 5)
	p := make([]byte, pageSize)
	checkBad(t, "read", guarded(func() { a.Read(5*pageSize, p) }), 5)
	if err := a.remap(5 * pageSize); err != nil {
		t.Fatal(err)
	}
	touch(a.mem[5*pageSize : 6*pageSize]) // dies if the block is still bad
	for name, access := range map[string]func(){
		"read": func() { a.Read(6*pageSize-1, p[:1]) }, "stream": func() { a.Stream(5*pageSize, p) }, "flush": func() { a.Flush(0, a.Size()) },
	} {
		checkBad(t, name, guarded(access), 5)
	}
	if err := guarded(func() { a.Read(4*pageSize, p); a.Stream(6*pageSize, p); a.Flush(6*pageSize, 1) }); err != nil {
		t.Error(err)
	}
}

func TestHeal(t *testing.T) {
	for name, place := range places(t) {
		t.Run(name, func(t *testing.T) {
			pool, a := spoiled(t, place(t), 5)
			p := make([]byte, pageSize)
			checkBad(t, "read", guarded(func() { a.Read(5*pageSize, p) }), 5)
			if err := a.Heal(4*pageSize, pageSize); err != nil || a.FirstBad(0, a.Size()) != 5*pageSize {
				t.Errorf("another block was healed: %v, %d", err, a.FirstBad(0, a.Size()))
			}
			if err := errors.Join(a.Heal(0, a.Size()), a.Fence()); err != nil || a.FirstBad(0, a.Size()) != -1 {
				t.Fatal(err, a.FirstBad(0, a.Size()))
			}
			want := bytes.Repeat([]byte{1}, 16*pageSize)
			clear(want[5*pageSize : 6*pageSize])
			check := func(a *mapped) {
				t.Helper()
				got := make([]byte, len(want))
				if err := guarded(func() { a.Read(0, got) }); err != nil || !bytes.Equal(got, want) {
					t.Errorf("after healing: %v, equal %v", err, bytes.Equal(got, want))
				}
			}
			check(a)
			copy(want[5*pageSize+100:], "stored")
			a.Stream(5*pageSize+100, []byte("stored"))
			if err := errors.Join(a.Fence(), pool.Close()); err != nil {
				t.Fatal(err)
			}
			again, err := Open(pool.path, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			check(again.data)
		})
	}
}

// TestCutOffFileIsNotHealed: a file that was cut off under a pool is an error, too, and is not made longer, which would turn
// what was lost into zeros.
func TestCutOffFileIsNotHealed(t *testing.T) {
	mediumtest.NeedAddress(t)
	path := newPool(t, tmpfs(t), 4*pageSize, 16*pageSize)
	p, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := os.Truncate(filepath.Join(path, dataName), 8*pageSize); err != nil {
		t.Fatal(err)
	}
	for _, block := range []int64{9, 12} {
		err := guarded(func() { p.data.Stream(block*pageSize, []byte{1}) })
		checkBad(t, "store", err, block)
		if !strings.Contains(err.Error(), "cut off") {
			t.Error(err)
		}
	}
	checkBad(t, "heal", p.data.Heal(0, p.data.Size()), 9)
	if st, err := os.Stat(filepath.Join(path, dataName)); err != nil || st.Size() != 8*pageSize {
		t.Errorf("the file has %d bytes: %v", st.Size(), err)
	}
}

// TestFullHostFileSystem: where a sparse file of a pool finds no room, a store is an ENOSPC, and works again when there is.
func TestFullHostFileSystem(t *testing.T) {
	mediumtest.NeedAddress(t)
	dir := mounted(t, "tmpfs", 64*pageSize)
	p, err := Open(newPool(t, dir, 4*pageSize, 128*pageSize), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	fill := func() error { return guarded(func() { p.data.Stream(0, make([]byte, 100*pageSize)) }) }
	if err := fill(); !errors.Is(err, unix.ENOSPC) || p.data.FirstBad(0, p.data.Size()) >= 0 {
		t.Fatalf("%v, bad block at %d", err, p.data.FirstBad(0, p.data.Size()))
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if err := fill(); err != nil {
		t.Error(err)
	}
}

// TestPoisonedMemory has the kernel itself give up a page of the medium.
func TestPoisonedMemory(t *testing.T) {
	for name, place := range places(t) {
		t.Run(name, func(t *testing.T) { testPoisonedMemory(t, place(t)) })
	}
}

func testPoisonedMemory(t *testing.T, dir string) {
	p, a := poisoned(t, dir, 5)
	buf := make([]byte, 3*pageSize)
	for range 2 {
		checkBad(t, "read", guarded(func() { a.Read(4*pageSize, buf) }), 5)
	}
	var found []int64
	if _, err := p.Scan(context.Background(), ScanOptions{Found: func(e *BadBlockError) { found = append(found, e.Offset) }}); err != nil ||
		!slices.Equal(found, []int64{5 * pageSize}) {
		t.Errorf("scan: %v, bad %d", err, found)
	}
	if err := a.Heal(5*pageSize, pageSize); err != nil {
		t.Fatal(err)
	}
	if err := guarded(func() { a.Stream(4*pageSize, buf); a.Read(4*pageSize, buf) }); err != nil {
		t.Error(err)
	}
}

// poisoned is spoiled with a page that the kernel takes for broken memory.
func poisoned(t *testing.T, dir string, block int64) (*Pool, *mapped) {
	t.Helper()
	if rerun.Emulated() {
		t.Skip("SKIPPED, NOTHING WAS TESTED: the emulator takes MADV_HWPOISON for done, and does not tell the kernel")
	}
	p, a := spoiled(t, dir, block)
	if p.report.MapSync {
		t.Skip("SKIPPED: on DAX the kernel sends the signal to who only simulates the failure, and then maps the page again")
	}
	if err := a.remap(block * pageSize); err != nil {
		t.Fatal(err)
	}
	touch(a.mem[block*pageSize : (block+1)*pageSize])
	err := guarded(func() {
		if err := unix.Madvise(a.mem[block*pageSize:(block+1)*pageSize], unix.MADV_HWPOISON); err != nil {
			t.Skipf("SKIPPED, NOTHING WAS TESTED: madvise MADV_HWPOISON, which takes root and CONFIG_MEMORY_FAILURE: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return p, a
}

func TestScan(t *testing.T) {
	p, a := spoiled(t, tmpfs(t), 5)
	spoil(t, a, 15)
	spoil(t, p.meta, 2)
	if err := unix.Fallocate(int(p.dataFile.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 8*pageSize, 4*pageSize); err != nil {
		t.Fatal(err)
	}
	p.meta.Stream(0, make([]byte, 2*pageSize))
	if err := p.meta.overwrite(2 * pageSize); err != nil { // else it is a hole, of which nothing is read
		t.Fatal(err)
	}
	var found []string
	last := int64(0)
	_, err := p.Scan(context.Background(), ScanOptions{
		Found: func(e *BadBlockError) { found = append(found, e.Area+" "+string('0'+rune(e.Offset/pageSize))) },
		Progress: func(done, total int64) {
			if done < last || done > total || total != 20*pageSize {
				t.Errorf("progress %d of %d after %d", done, total, last)
			}
			last = done
		},
	})
	if want := []string{"meta 2", "data 5", "data ?"}; err != nil || !slices.Equal(found, want) {
		t.Errorf("scan: %v, found %q, want %q", err, found, want)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(p.dataFile.Fd()), &st); err != nil || st.Blocks*512 != 12*pageSize {
		t.Errorf("the scan has filled holes: %d blocks of 512 bytes (%v)", st.Blocks, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Scan(ctx, ScanOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a scan that is cancelled: %v", err)
	}
}

func TestKernelsLists(t *testing.T) {
	sys := fakeSys(t, map[string]string{
		"dev/block/259:0":                         upToRoot + pmem0,
		pmem0 + "/badblocks":                      "8 16\n1024 1\n",
		"dev/block/259:1":                         upToRoot + pmem0 + "/pmem0p1",
		pmem0 + "/pmem0p1/size":                   "1",
		"dev/block/253:0":                         upToRoot + "devices/virtual/block/dm-0",
		"devices/virtual/block/dm-0/slaves/pmem0": "-> ../../../../../" + pmem0,
		"dev/char/252:0":                          upToRoot + dax0,
		dax0 + "/resource":                        "0x100200000\n",
		bus + "/region0/resource":                 "0x100000000\n",
		bus + "/region0/badblocks":                "4104 8\nnonsense\n0 8\n-1 3\n",
	})
	at := func(name string, pairs ...int64) (list []BadRange) {
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, BadRange{filepath.Join(string(sys), name), pairs[i], pairs[i+1]})
		}
		return list
	}
	for _, test := range []struct {
		class string
		rdev  uint64
		want  []BadRange
	}{
		{"block", blockDev, at(pmem0+"/badblocks", 8, 16, 1024, 1)},
		{"block", unix.Mkdev(259, 1), at(pmem0+"/badblocks", 8, 16, 1024, 1)},
		{"block", unix.Mkdev(253, 0), at(pmem0+"/badblocks", 8, 16, 1024, 1)},
		{"block", unix.Mkdev(0, 40), nil},
		{"char", charDev, at(bus+"/region0/badblocks", 4104, 8, 0, 8)},
	} {
		if got := sys.badRanges(test.class, test.rdev); !slices.Equal(got, test.want) {
			t.Errorf("%s %d: %v, want %v", test.class, test.rdev, got, test.want)
		}
	}
	if start, err := sys.daxStart(charDev); err != nil || start != 2<<20 {
		t.Errorf("the device starts at %d: %v", start, err)
	}
}

// TestReadable: what is there twice is read although one is bad.
func TestReadable(t *testing.T) {
	_, a := spoiled(t, tmpfs(t), 5)
	got, err := Readable(a, 4*pageSize, 3*pageSize)
	checkBad(t, "readable", err, 5)
	want := bytes.Repeat([]byte{1}, 3*pageSize)
	clear(want[pageSize : 2*pageSize])
	if !bytes.Equal(got, want) {
		t.Error("the other blocks are not what they are")
	}
}

// TestDeviceHasNoHoles: a device driver that ignores where a seek is to go does not lead round in circles.
func TestDeviceHasNoHoles(t *testing.T) {
	f, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var runs [][2]int64
	if err := eachData(f, pageSize, 3*pageSize, func(off, n int64) { runs = append(runs, [2]int64{off, n}) }); err != nil ||
		!slices.Equal(runs, [][2]int64{{0, 3 * pageSize}}) {
		t.Errorf("%v, %v", runs, err)
	}
}
