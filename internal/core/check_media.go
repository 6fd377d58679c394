package core

import (
	"context"
	"slices"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// Media says whose the bad blocks of a medium are. The JSON names are a contract with scripts.
type Media struct {
	Files []BadExtent    `json:"files"`
	Free  []BadRun       `json:"free"`     // that are nobody's: whoever gets them heals them
	Meta  []BadStructure `json:"metadata"` // and these are damage
}

// BadExtent is bytes of a file that are lost. A block that clones share is in each of them.
type BadExtent struct {
	Path      string     `json:"path"`
	Ino       layout.Ino `json:"inode"`
	Offset    int64      `json:"offset"`              // in the file, bytes, a multiple of 4096
	Length    int64      `json:"length"`              // bytes, a multiple of 4096
	Unwritten bool       `json:"unwritten,omitempty"` // it reads as zeros, and nothing is lost
}

// BadRun is bytes of the data area.
type BadRun struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// BadStructure is a block of the meta area.
type BadStructure struct {
	Structure string `json:"structure"` // as in Problem
	Offset    int64  `json:"offset"`    // in the meta area, bytes
	Length    int64  `json:"length"`
}

// NoMedia is the zero value, with lists that are there and empty.
func NoMedia() Media { return Media{Files: []BadExtent{}, Free: []BadRun{}, Meta: []BadStructure{}} }

// Lost is how many bytes of files and metadata are lost.
func (m Media) Lost() (n int64) {
	for _, x := range m.Files {
		if !x.Unwritten {
			n += x.Length
		}
	}
	for _, x := range m.Meta {
		n += x.Length
	}
	return n
}

// BadBlocks says what bad blocks hold, as far as the metadata can be read: what cannot is a problem of Check. Nothing may
// change meanwhile.
//
// Costs: a look at each entry of the block maps.
func (fs *FS) BadBlocks(ctx context.Context, bad []*medium.BadBlockError) (Media, error) {
	m := NoMedia()
	c := fs.newChecker(ctx, CheckOptions{})
	var blocks []int64
	for _, b := range bad {
		if b.Meta() {
			m.Meta = append(m.Meta, BadStructure{fs.sb.Structure(b.Offset), b.Offset, layout.BlockSize})
		} else {
			blocks = append(blocks, b.Offset/layout.BlockSize)
		}
	}
	if blocks == nil {
		return m, nil
	}
	slices.Sort(blocks)
	w := badWalk{c: c, blocks: blocks, owned: make([]bool, len(blocks)), m: &m}
	for _, step := range []func() error{c.inodeBitmap, c.directories, w.files} {
		if err := c.guarded(step); err != nil {
			return m, err
		}
	}
	for i, block := range blocks {
		if n := len(m.Free); w.owned[i] {
		} else if off := block * layout.BlockSize; n > 0 && m.Free[n-1].Offset+m.Free[n-1].Length == off {
			m.Free[n-1].Length += layout.BlockSize
		} else {
			m.Free = append(m.Free, BadRun{off, layout.BlockSize})
		}
	}
	return m, nil
}

// badWalk finds the files that have bad blocks.
type badWalk struct {
	c      *checker
	blocks []int64 // that are bad, ascending
	owned  []bool  // which of them a file has
	m      *Media
}

func (w *badWalk) files() error {
	return w.c.eachInode(func(ino layout.Ino, _ *inodeInfo) error {
		raw, at := w.c.slot(ino)
		in, err := layout.DecodeInode(raw, ino, at)
		if err != nil || in.Type() != layout.ModeRegular {
			return w.c.ctx.Err() // damage is Check's to report
		}
		return w.c.fs.pieces(w.c.fs.journal.View, &in, 0, mapEnd, func(q piece) error {
			if !q.hole() {
				w.piece(&in, q)
			}
			return w.c.ctx.Err()
		})
	})
}

// piece notes which blocks of a piece are bad.
func (w *badWalk) piece(in *layout.Inode, q piece) {
	i, _ := slices.BinarySearch(w.blocks, q.block)
	for ; i < len(w.blocks) && w.blocks[i] < q.block+q.count; i++ {
		w.owned[i] = true
		x := BadExtent{
			Ino: in.Ino, Offset: (q.first + w.blocks[i] - q.block) * layout.BlockSize, Length: layout.BlockSize, Unwritten: q.unwritten(),
		}
		if n := len(w.m.Files); n > 0 {
			last := &w.m.Files[n-1]
			if last.Ino == x.Ino && last.Offset+last.Length == x.Offset && last.Unwritten == x.Unwritten {
				last.Length += x.Length
				continue
			}
		}
		x.Path = w.c.path(in.Ino)
		w.m.Files = append(w.m.Files, x)
	}
}
