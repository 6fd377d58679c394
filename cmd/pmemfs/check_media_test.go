package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

// TestCheckMedia has the kernel itself fail to read blocks of a pool: it lies in another pool, which is mounted, and of which
// the end is cut off. Neither the mount nor who uses the pool on it may die.
func TestCheckMedia(t *testing.T) {
	outer := newPool(t)
	fill := func(dir string) (lost int64) {
		inner := filepath.Join(dir, "inner")
		ok(t, "mkfs", inner, "--size", "16MiB")
		fsys, err := pmemfs.Open(inner)
		if err != nil {
			t.Fatal(err)
		}
		defer fsys.Close()
		if err := errors.Join(fsys.Mkdir("dir", 0o755), fsys.WriteFile("dir/file", bytes.Repeat([]byte{7}, 1<<20), 0o600)); err != nil {
			t.Fatal(err)
		}
		f, err := fsys.Open("dir/file")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		extents, err := f.(*pmemfs.File).Extents()
		if err != nil || len(extents) != 1 {
			t.Fatal(extents, err)
		}
		return extents[0].Block * 4096
	}
	s, dir := mountPool(t, outer)
	start := fill(dir)
	s.stop(unix.SIGTERM)
	const lost, length = 100 * 4096, 2 * 4096 // of the file
	cut := moveToEnd(t, outer, "inner/data", start+lost, length)

	s, dir = mountPool(t, outer)
	if object := parse(t, ok(t, "check", "--media", filepath.Join(dir, "inner"), "--json")); object["clean"] != true {
		t.Errorf("before: %v", object)
	}
	s.stop(unix.SIGTERM)
	_, dir = mountPool(t, outer) // with nothing in the page cache
	inner := filepath.Join(dir, "inner")
	if err := os.Truncate(filepath.Join(outer, "data"), cut); err != nil {
		t.Fatal(err)
	}
	o := run(t, "check", "--media", inner, "--json")
	object := parse(t, o.stdout)
	media := object["media"].(map[string]any)
	files := media["files"].([]any)
	documented(t, "check", media)
	if o.code != exitFailed || object["clean"] != false || object["problems"] != 0.0 || len(files) != 1 || len(media["metadata"].([]any)) != 0 {
		t.Fatalf("%d: %v", o.code, object)
	}
	if x := files[0].(map[string]any); x["path"] != "/dir/file" || x["offset"] != float64(lost) || x["length"] != float64(length) {
		t.Errorf("%v, want %d bytes at %d", x, length, lost)
	}
	o = run(t, "check", "--media", inner)
	if !strings.Contains(o.stdout, "lost: /dir/file: bytes ") || !strings.Contains(o.stderr, "write all of the lost blocks") {
		t.Errorf("%s%s", o.stdout, o.stderr)
	}
	ok(t, "check", inner) // the metadata is whole
	fails(t, exitFailed, []string{"dir/file", "is lost", "to heal it"}, "cat", inner, "dir/file")
	if _, err := os.Stat(inner); err != nil || !isMounted(t, dir) {
		t.Errorf("the mount is gone: %v", err)
	}
}

// moveToEnd moves a part of a file behind everything else in its pool, and returns where it is there. All are bytes.
func moveToEnd(t *testing.T, pool, name string, off, n int64) (end int64) {
	t.Helper()
	fsys, err := pmemfs.Open(pool)
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	f, err := fsys.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Relocate(off, n); err != nil {
		t.Fatal(err)
	}
	extents, err := f.Extents()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range extents {
		if x.Offset == off && x.Length == n {
			end = x.Block * 4096
		} else if end > 0 && x.Block*4096 > end {
			t.Fatalf("it is not behind all else: %v", extents)
		}
	}
	return end
}
