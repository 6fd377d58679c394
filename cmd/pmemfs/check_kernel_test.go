package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

// TestKernelListsBadBlocks has the kernel take a block of persistent memory for bad: it adds it to the list that the driver
// keeps, as a scrub of the medium would, before anybody has the block mapped. PMEMFS_TEST_BADBLOCKS is directories on DAX
// file systems, separated by colons, of which some blocks are useless afterwards until the machine is started again.
func TestKernelListsBadBlocks(t *testing.T) {
	places := filepath.SplitList(os.Getenv("PMEMFS_TEST_BADBLOCKS"))
	if len(places) == 0 {
		t.Skip("SKIPPED, NOTHING WAS TESTED: PMEMFS_TEST_BADBLOCKS names no directory on a DAX file system")
	}
	for _, place := range places {
		t.Run(filepath.Base(place), func(t *testing.T) { testListedBadBlock(t, place) })
	}
}

func testListedBadBlock(t *testing.T, place string) {
	dir, err := os.MkdirTemp(place, "pmemfs-bad-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const size, lost = 64 * 4096, 37 * 4096
	pool := filepath.Join(dir, "pool")
	ok(t, "mkfs", pool, "--size", "32M")
	at := fillPool(t, pool, bytes.Repeat([]byte{7}, size))
	list := listAsBad(t, filepath.Join(pool, "data"), at+lost)

	o := run(t, "check", "--media", pool, "--json")
	media := parse(t, o.stdout)["media"].(map[string]any)
	if o.code != exitFailed || !strings.Contains(fmt.Sprint(media["files"]), fmt.Sprintf("length:4096 offset:%d path:/file", lost)) ||
		!strings.Contains(fmt.Sprint(media["listed"]), list) {
		t.Errorf("check: %d, %v", o.code, media)
	}

	s := startServer(t, pool)
	fsys, err := pmemfs.Dial(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	f, err := fsys.OpenFile("file", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := f.Map(0, size, pmemfs.Sync)
	if err != nil {
		t.Fatal(err)
	}
	access := pmemfs.Catch(func() { m.Bytes()[lost+99]++ })
	var fault *pmemfs.FaultError
	if wantLost(t, "a store of the client's", access, lost); !errors.As(access, &fault) || fault.Offset/4096*4096 != lost {
		t.Errorf("a store at %d: %v", lost+99, access)
	}
	p := make([]byte, size)
	_, err = f.ReadAt(p, 0)
	wantLost(t, "read", err, lost)
	_, err = f.WriteAt(p[:100], lost)
	wantLost(t, "write of a part", err, lost)
	for _, part := range [][2]int{{0, lost}, {lost + 4096, size}} {
		if _, err := f.ReadAt(p[part[0]:part[1]], int64(part[0])); err != nil || p[part[0]] != 7 {
			t.Errorf("read beside it: %v, %d", err, p[part[0]])
		}
		if err := pmemfs.Catch(func() { m.Bytes()[part[0]]++ }); err != nil {
			t.Errorf("store beside it: %v", err)
		}
	}
	if _, err = f.WriteAt(bytes.Repeat([]byte{8}, 4096), lost); err == nil {
		_, err = f.ReadAt(p, 0)
		if loadErr := pmemfs.Catch(func() { p[0] = m.Bytes()[lost] }); err != nil || loadErr != nil || p[lost] != 8 || p[0] != 8 {
			t.Errorf("after it was overwritten: %v, %v, %d", err, loadErr, p[lost])
		}
		t.Log("the device has cleared the error")
	} else {
		wantLost(t, "overwritten", err, lost)
		if !strings.Contains(err.Error(), "cannot be healed") {
			t.Error(err)
		}
		t.Logf("this device does not clear errors: %v", err)
	}
	m.Unmap()
	fsys.Close()
	s.stop(unix.SIGTERM)
	ok(t, "check", pool)
}

func wantLost(t *testing.T, what string, err error, block int64) {
	t.Helper()
	var lost *pmemfs.MediaError
	if !errors.As(err, &lost) || lost.Offset != block || !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "file") {
		t.Errorf("%s: %v, want the block at %d to be lost", what, err, block)
	}
}

// fillPool makes a file in a pool that nobody has open, and returns where it begins in the pool's data.
func fillPool(t *testing.T, pool string, content []byte) int64 {
	t.Helper()
	fsys, err := pmemfs.Open(pool)
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	if err := fsys.WriteFile("file", content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := fsys.OpenFile("file", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	extents, err := f.Extents()
	if err != nil || len(extents) != 1 {
		t.Fatal(extents, err)
	}
	return extents[0].Block * 4096
}

// listAsBad adds the block at an offset of a file to what the kernel knows to be bad of its block device, and returns the
// list's name.
func listAsBad(t *testing.T, name string, off int64) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	// struct fiemap with room for one extent: linux/fiemap.h
	q := struct {
		start, length                  uint64
		flags, mapped, count, reserved uint32
		logical, physical, size, _, _  uint64
		extentFlags, _, _, _           uint32
	}{start: uint64(off), length: 4096, flags: 1, count: 1} // FIEMAP_FLAG_SYNC
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0xc020660b, uintptr(unsafe.Pointer(&q))); errno != 0 || q.mapped != 1 {
		t.Fatalf("FS_IOC_FIEMAP: %v, %d extents", errno, q.mapped)
	}
	sector := (int64(q.physical) + off - int64(q.logical)) / 512
	list := fmt.Sprintf("/sys/dev/block/%d:%d/badblocks", unix.Major(st.Dev), unix.Minor(st.Dev))
	if err := os.WriteFile(list, fmt.Appendf(nil, "%d 8", sector), 0); err != nil {
		t.Fatalf("%v (is %s on a pmem device?)", err, name)
	}
	if list, err = filepath.EvalSymlinks(list); err != nil {
		t.Fatal(err)
	}
	return list
}
