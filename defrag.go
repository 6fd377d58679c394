package pmemfs

import (
	"context"
	"encoding/json"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// Fragmentation says how a file lies on the medium. Its JSON form is stable.
type Fragmentation = core.Fragmentation

// Defragmentation is what [File.Defragment] has found and done. Its JSON form is stable.
type Defragmentation = core.Defragmentation

// DefragOptions for [File.Defragment]. The zero value defragments.
type DefragOptions struct {
	// DryRun changes nothing: what would be done is counted, as if there were room for all of it. The file need not
	// be open for writing.
	DryRun bool
	// Progress is called after each step with the offset in bytes up to which the file was looked at.
	Progress func(off int64)
}

// Defragment makes the file contiguous on the medium, while programs use it: what is allocated of each 2 MiB of the
// file goes to blocks one behind the other, in an aligned chunk if all 2 MiB are allocated, for which one entry of
// the block map then stands. What lies so already is not moved. Contents, times and holes stay as they are. Blocks
// that are sealed, pinned or shared, and those of a static file, are left where they are, and counted; so are those
// for which there is no room.
//
// It goes in steps of at most 2 MiB, each atomic, between which others have their turn. In a step mappings lose their
// access to what moves; the next access faults, and finds the new place: no store is lost. It ends early, after a
// step, when ctx is done, or with an error, of which EBUSY says that a process does not give up its access; what was
// found and done until then is returned. ENOSPC is no error. When the moves are durable the [CommitPolicy] says; the
// contents are in any case.
func (f *File) Defragment(ctx context.Context, o DefragOptions) (d Defragmentation, err error) {
	op := wire.OpDefrag
	if o.DryRun {
		op = wire.OpDefragLook
	}
	for off := int64(0); off >= 0; {
		if err := context.Cause(ctx); err != nil {
			return d, pathError("defragment", f.name, err)
		}
		r, err := f.call("defragment", &wire.Request{Op: op, Offset: off})
		if err != nil {
			return d, err
		}
		var did Defragmentation
		if err := json.Unmarshal(r.Data, &did); err != nil || r.Offset >= 0 && r.Offset <= off {
			return d, pathError("defragment", f.name, errProtocol)
		}
		d.Add(did)
		if off = r.Offset; off >= 0 && o.Progress != nil {
			o.Progress(off)
		}
	}
	return d, nil
}
