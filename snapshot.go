package pmemfs

import (
	"encoding/json"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"time"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// SnapshotsName is the name of the directory in which the snapshots of a directory are.
const SnapshotsName = ".snapshots"

// SnapshotFlags for [FS.Snapshot]. 0 is a read-only snapshot of all files.
type SnapshotFlags uint32

const (
	// SnapshotWritable makes a snapshot that can be changed as other files can.
	SnapshotWritable = SnapshotFlags(wire.SnapshotWritable)
	// SnapshotSkipSealed leaves out static files and those of which a block is sealed or pinned; else they are an error.
	SnapshotSkipSealed = SnapshotFlags(wire.SnapshotSkipSealed)
)

// Snapshot makes a snapshot of the files and directories under a directory: it is the directory name in the directory
// [SnapshotsName] there, an ordinary one that is made with the first. It shares all blocks with the files until something is
// stored to one of the two, which then gets a copy of the block; so its cost follows the number of files and the size of their
// block maps, not of the data. Directories of the name SnapshotsName are not part of it.
//
// A snapshot shows one instant of all files, also of what programs store through mappings meanwhile, [Sync] mappings
// included: what was stored before is in it, whether or not it was made durable, what is stored later is not. A store takes a page fault
// when it is the first one to its block after a snapshot. It is durable on return, and after a crash there wholly or not at all.
//
// Nothing of a read-only snapshot can be changed by anybody: EROFS. Reading, [ReadOnly] mappings and copies of it work;
// it can be removed as a whole, by [FS.RemoveSnapshot].
//
// Blocks that are sealed or pinned, and static files, cannot be shared: Snapshot fails with a *fs.PathError that has the file, around a
// [SealedError] or [ErrStatic]; or, with SnapshotSkipSealed, leaves those files out and returns their paths, from the directory
// on. EBUSY: a client did not give up its right to store in time. EEXIST: there is one of that name. EPERM: it takes the owner
// of the directory (or user 0), who may write to it.
func (fsys *FS) Snapshot(dir, name string, flags SnapshotFlags) (skipped []string, err error) {
	q := &wire.Request{Op: wire.OpSnapshot, Path: dir, Path2: name, Flags: uint32(flags)}
	return skipped, fsys.onSnapshot("snapshot", q, &skipped)
}

// SnapshotInfo describes a snapshot.
type SnapshotInfo struct {
	Name     string    `json:"name"`
	Time     time.Time `json:"time"` // when it was made
	ReadOnly bool      `json:"readonly"`
	Files    int64     `json:"files"` // names that lead to something else than a directory
}

// Snapshots lists the snapshots of a directory, the oldest first.
func (fsys *FS) Snapshots(dir string) ([]SnapshotInfo, error) {
	var list []struct {
		SnapshotInfo
		Time int64 `json:"time"` // hides the other one
	}
	if err := fsys.onSnapshot("list snapshots of", &wire.Request{Op: wire.OpSnapshots, Path: dir}, &list); err != nil {
		return nil, err
	}
	out := make([]SnapshotInfo, len(list))
	for i, s := range list {
		out[i] = s.SnapshotInfo
		out[i].Time = time.Unix(0, s.Time)
	}
	return out, nil
}

// SnapshotChange says how a file or directory differs from a snapshot.
type SnapshotChange struct {
	Path string      // from the directory on; of a removed file the one that it had
	From string      // of a renamed one the path that it had, else ""
	Mode fs.FileMode // type and, unless it was added or removed, permissions

	Added, Removed bool
	Attributes     bool // permissions, owner, extended attributes; of what else is as it was the time of modification
	Contents       bool
	Ranges         []ByteRange // of a regular file, ascending, where the contents may differ
}

// ByteRange is bytes of a file.
type ByteRange struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// SnapshotDiff says what has changed in a directory since a snapshot of it: until the snapshot other, or until now if that is
// empty. It is sorted by path. Files and directories that have another name than before are found by what they were cloned from;
// contents are compared by block maps, so that ranges are of whole blocks of 4 KiB, and a block counts as changed whenever
// something was stored to it. It takes the owner of the directory, or user 0: EPERM.
//
// Until now means no certain instant: what changes meanwhile may be found as it was before or after.
func (fsys *FS) SnapshotDiff(dir, name, other string) ([]SnapshotChange, error) {
	var list []struct {
		Path       string      `json:"path"`
		From       string      `json:"from"`
		Mode       uint32      `json:"mode"`
		Added      bool        `json:"added"`
		Removed    bool        `json:"removed"`
		Attributes bool        `json:"attributes"`
		Contents   bool        `json:"contents"`
		Ranges     []ByteRange `json:"ranges"`
	}
	q := &wire.Request{Op: wire.OpSnapshotDiff, Path: dir, Path2: name, Data: []byte(other)}
	if err := fsys.onSnapshot("compare with", q, &list); err != nil {
		return nil, err
	}
	out := make([]SnapshotChange, len(list))
	for i, c := range list {
		out[i] = SnapshotChange{c.Path, c.From, goMode(c.Mode), c.Added, c.Removed, c.Attributes, c.Contents, c.Ranges}
	}
	return out, nil
}

// RestoreSnapshot makes a directory again what it was when a snapshot of it was taken: names, contents and attributes, of it and
// of everything under it, but its snapshots. It is atomic, also with regard to crashes, and durable on return. What
// was there is removed: programs that have it open or mapped keep it, as files without a name, and so do seals and
// static files no harm. The snapshot stays.
//
// EFBIG: the directory or the snapshot has so many names (not counting those below) that they cannot be exchanged at
// once, about 3,500 for each MiB of the pool's journal. ENOTEMPTY: a directory under it has snapshots of its own, which would be removed; the
// error has its path. EPERM: it takes the owner of the directory, or user 0. Nothing has changed then.
func (fsys *FS) RestoreSnapshot(dir, name string) error {
	return fsys.onSnapshot("restore", &wire.Request{Op: wire.OpSnapshotRestore, Path: dir, Path2: name}, nil)
}

// RemoveSnapshot removes a snapshot, read-only or not, with all that is in it, atomically. What is open or mapped lives on
// without a name. On return the space is free that no other file has; after a crash meanwhile it will be, in the
// background. ENOTEMPTY: it has snapshots of its own; EPERM: it takes the owner of the directory, or user 0.
func (fsys *FS) RemoveSnapshot(dir, name string) error {
	return fsys.onSnapshot("remove", &wire.Request{Op: wire.OpSnapshotRemove, Path: dir, Path2: name}, nil)
}

// onSnapshot does a request on the snapshots of q.Path, and decodes its answer. An error names the file that it is about.
func (fsys *FS) onSnapshot(op string, q *wire.Request, answer any) error {
	if err := checkName(q.Path); err != nil {
		return pathError(op, q.Path, err)
	}
	r, err := fsys.call(q)
	if err != nil {
		name := q.Path
		switch {
		case r != nil && r.Name != "":
			name = path.Join(name, r.Name)
		case q.Path2 != "":
			name = path.Join(name, SnapshotsName, q.Path2)
		}
		return pathError(op, name, err)
	}
	if answer == nil {
		return nil
	}
	return pathError(op, q.Path, readAnswer(r, answer))
}

// readAnswer decodes the JSON in the file that came with a reply.
func readAnswer(r *wire.Reply, answer any) error {
	if len(r.Files) != 1 {
		wire.CloseFiles(r.Files)
		return errProtocol
	}
	f := os.NewFile(uintptr(r.Files[0]), "reply")
	defer f.Close()
	return json.NewDecoder(io.NewSectionReader(f, 0, math.MaxInt64)).Decode(answer)
}
