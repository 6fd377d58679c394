package main

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

func (a *app) fill() *cobra.Command {
	var (
		off    position
		length size
	)
	cmd := a.command(verb{
		use: "fill POOL FILE... [flags]", short: "Give files what a seal needs: every block written, and the file's own", args: [2]int{2, -1},
		long: `Holes are allocated, what is allocated and unwritten is zeroed, what is shared with other files is copied; the contents do
not change. Then the range can be mapped with Direct, and a file that is filled as a whole be frozen ("pmemfs freeze").
It is durable when it returns.

With --json: files, those that are filled, each with path, static and filled_bytes: how much was not as it had to be, in
whole blocks.
`,
		example: `  pmemfs fill /run/pmemfs/pool.sock /data/index.db
  pmemfs fill /dev/shm/pool /data/heap.db --offset 1G --length 64M`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			n := int64(length)
			if n == 0 {
				n = -1
			}
			return a.eachBlocks(args, true, func(f *pmemfs.File) (blocksEntry, error) {
				filled, err := a.fillRange(f, int64(off), n)
				if err != nil {
					return blocksEntry{}, err
				}
				st, err := statOf(f)
				if err != nil {
					return blocksEntry{}, err
				}
				return blocksEntry{Static: st.Static, Filled: &filled}, nil
			})
		},
	})
	cmd.Flags().Var(&off, "offset", "where to begin, in bytes, or with K, M, G, T")
	cmd.Flags().Var(&length, "length", "how much (default: to the end of the file)")
	return cmd
}

// fillStep is how many bytes are filled between two looks at the user's wishes.
const fillStep = 64 << 20

// fillRange fills length bytes of a file from off on, to its end if length is -1, and shows how far it is. It returns how
// many were in blocks that were not filled yet.
func (a *app) fillRange(f *pmemfs.File, off, length int64) (filled int64, err error) {
	st, err := statOf(f)
	if err != nil {
		return 0, err
	}
	if length < 0 {
		length = max(st.Size-off, 0)
	}
	if off > st.Size || length > st.Size-off {
		return 0, &fs.PathError{Op: "fill", Path: f.Name(), Err: fmt.Errorf(
			"%s at offset %d reach beyond its end: it has %d: %w", count(length, "byte"), off, st.Size, unix.ENXIO)}
	}
	extents, err := f.Extents()
	if err != nil {
		return 0, err
	}
	bar := a.newProgress("fill "+f.Name(), length, true)
	defer bar.clear()
	for end := off + length; off < end; {
		if err := context.Cause(a.ctx); err != nil {
			return filled, &fs.PathError{Op: "fill", Path: f.Name(), Err: err}
		}
		n := min(fillStep, end-off)
		var missing int64
		if missing, extents = unfilled(extents, off, off+n); missing > 0 {
			if err := f.Fill(off, n); err != nil {
				return filled, err
			}
		}
		filled += missing
		off += n
		bar.add(n)
	}
	return filled, nil
}

// unfilled counts the bytes in blocks of [off, end) that Fill has to do something about, and returns the extents without
// those that lie before end.
func unfilled(extents []pmemfs.Extent, off, end int64) (int64, []pmemfs.Extent) {
	const block = 4096
	first, last := off/block*block, (end+block-1)/block*block
	var missing int64
	for ; len(extents) > 0 && extents[0].Offset < last; extents = extents[1:] {
		e := extents[0]
		if e.Block < 0 || e.Unwritten || e.Shared {
			missing += max(min(e.Offset+e.Length, last)-max(e.Offset, first), 0)
		}
		if e.Offset+e.Length > last {
			break
		}
	}
	return missing, extents
}

func statOf(f *pmemfs.File) (*pmemfs.Stat, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return info.Sys().(*pmemfs.Stat), nil // what package pmemfs always gives
}

// position is a flag of an offset in bytes.
type position int64

func (p *position) String() string { return "" }
func (p *position) Type() string   { return "SIZE" }

func (p *position) Set(text string) error {
	if text == "0" {
		*p = 0
		return nil
	}
	n, err := parseSize(text)
	if err == nil {
		*p = position(n)
	}
	return err
}
