package pmemfs

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
	"github.com/pmemfs/pmemfs/pmem"
)

// CloneMapping is a mapping of a private clone of a range of a file: what is stored to it nobody else sees, until
// [CloneMapping.Publish] makes all of it the contents of the file, at once and durably, or [CloneMapping.Discard] drops
// it. Unmap drops what was not published, as the end of the process does.
//
// The methods of [Mapping] are those of the clone; Persist and Sync are of no use to it, because nothing of a clone
// outlives it. The first store to a block takes a page fault, which copies the block.
type CloneMapping struct{ *Mapping }

// CloneOption says how a clone is to be published.
type CloneOption uint32

// Merge lets the file change while the clone is stored to, in blocks of 4096 bytes that the clone does not change:
// Publish then brings together what both have changed. Without it every change of the file in the clone's range is a
// conflict.
const Merge CloneOption = wire.CloneMerge

// MapClone maps a private clone of n bytes of the file from byte off on, which must be a multiple of 4096; n need not be.
// The clone has what the file has now, stores through mappings included. The file must be open for reading and writing
// (EBADF), and the range lie inside it (ENXIO). Costs follow the size of the file's block map, not that of its contents.
//
// It needs a server, which resolves the page faults that tell what has changed: EOPNOTSUPP. ErrSealed, ErrStatic: blocks
// of the range must not become those of a clone, too.
func (f *File) MapClone(off int64, n int, options ...CloneOption) (*CloneMapping, error) {
	q := &wire.Request{Op: wire.OpMapClone, Offset: off, Length: int64(n)}
	for _, o := range options {
		q.Flags |= uint32(o)
	}
	if f.fsys.space.session != nil {
		return nil, pathError("clone", f.name, &detailed{"a clone to be published needs a server: its changes are known by page faults", unix.EOPNOTSUPP})
	}
	m, err := f.mapAs("clone", q, Shared)
	if err != nil {
		return nil, pathError("clone", f.name, err)
	}
	return &CloneMapping{m}, nil
}

// Publish makes everything that was stored to the clone the contents of its file: see [PublishAll].
func (m *CloneMapping) Publish() error { return PublishAll(m) }

// PublishAll makes everything that was stored to clones of several files, of one server, the contents of these files: in
// one transaction. It is durable on return, and after a crash all of it is there, or nothing. The clones go on, as clones
// of what the files are then.
//
// Who reads or maps the files sees nothing of it before, and all of it afterwards: once a load has seen anything of it, no
// load that follows sees what was there before, in whichever of the files. A reader that loads several blocks one after
// the other, without a clone of its own, may find the publish between two of them.
//
// ErrConflict: a file has changed in a clone's range since that was made, published or discarded; see [Merge]. Its
// [ConflictError] says where. ErrSealed, ErrStatic: blocks that would be replaced must not be. EFBIG: more blocks have
// changed than a record of the log can hold, some thousand for each MiB of it. EINVAL: two clones are of one file, or they are of several
// servers. Nothing has changed then, and the clones have what was stored to them. ErrServerGone: whether it was published
// is not known.
//
// Costs: one request; for each changed block the flush of its lines and the break of the grants on it; two fences.
func PublishAll(clones ...*CloneMapping) error {
	if len(clones) == 0 {
		return nil
	}
	sorted := slices.SortedFunc(slices.Values(clones), func(a, b *CloneMapping) int { return cmp.Compare(a.id, b.id) })
	q := &wire.Request{Op: wire.OpPublish}
	for _, m := range sorted {
		if _, err := m.part(0, 0); err != nil {
			return pathError("publish", m.name, err)
		}
		if m.fsys != clones[0].fsys {
			return pathError("publish", m.name, &detailed{fmt.Sprintf("%s and %s are not of one server", clones[0].name, m.name), unix.EINVAL})
		}
		q.Data = binary.LittleEndian.AppendUint32(q.Data, m.id)
	}
	if len(clones) > wire.MaxPublish {
		return pathError("publish", clones[0].name, &detailed{fmt.Sprintf("%d clones, at most %d", len(clones), wire.MaxPublish), unix.EINVAL})
	}
	pmem.Fence() // what this thread has streamed
	_, err := clones[0].fsys.call(q)
	name := clones[0].name
	var conflict *ConflictError
	if errors.As(err, &conflict) {
		for _, m := range clones {
			if m.ino == conflict.ino {
				name = m.name
			}
		}
	}
	return pathError("publish", name, err)
}

// Discard drops everything that was stored to the clone since it was made or last published. It then is a clone of what
// the file is now. ErrSealed, ErrStatic: blocks of the file must not become those of a clone; nothing, or a part, is
// dropped then.
func (m *CloneMapping) Discard() error {
	_, err := m.part(0, 0)
	if err == nil {
		_, err = m.fsys.call(&wire.Request{Op: wire.OpDiscard, Handle: m.id})
	}
	return pathError("discard", m.name, err)
}
