package core

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/dchest/siphash"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// A directory is a tree over the hashes of its names, of the same nodes as a
// block map: an entry at level n covers 512^n hashes (of 512^7, 63 bits); a
// leaf is a bucket, which holds the names under a prefix of the hash. Entries
// side by side may point to the same bucket, whose prefix is then shorter
// (extendible hashing). A look-up reads one word a level and one bucket.
//
// The order of hashes is the order of ReadDir: it does not change when
// buckets split, so an entry that stays is returned exactly once.

// Cookie is a position in a directory: the least hash not yet returned.
type Cookie uint64

// DirEntry is one name of a directory.
type DirEntry struct {
	Name string
	Ino  layout.Ino
	Type uint32 // S_IFMT bits
	Next Cookie // where ReadDir goes on behind this entry
}

func (fs *FS) hash(name string) uint64 {
	k0 := binary.LittleEndian.Uint64(fs.sb.HashKey[:8])
	k1 := binary.LittleEndian.Uint64(fs.sb.HashKey[8:])
	return siphash.Hash(k0, k1, []byte(name)) >> (64 - layout.HashBits)
}

const dirLevels = layout.MaxDirectory // level of the entry in the inode

// dirShift is how many bits of the hash an entry at level leaves open.
func dirShift(level int) int { return 9 * level }

// dirSpot is where the entry that leads to a bucket stands.
type dirSpot struct {
	level  int   // of the entry
	off    int64 // of the entry, -1: in the inode
	node   int64 // offset of the node it stands in
	bucket layout.Bucket
	at     int64 // offset of the bucket
}

// findBucket walks to the bucket that covers hash. ok is false in a directory
// that never had an entry.
func (fs *FS) findBucket(v view, in *layout.Inode, hash uint64) (s dirSpot, ok bool, err error) {
	s = dirSpot{level: dirLevels, off: -1}
	entry := in.Root[0]
	for {
		place := dirPlace(in.Ino, s.level, hash)
		if err := entry.Verify(place, s.off); err != nil {
			return s, false, err
		}
		if entry == 0 {
			if s.off < 0 {
				return s, false, nil
			}
			return s, false, layout.Corrupt("directory node", s.off, "empty entry")
		}
		at, err := fs.nodeOffset(layout.Node(entry.Number()))
		if err != nil {
			return s, false, err
		}
		if entry.Leaf() {
			s.at = at
			s.bucket, err = fs.openBucket(v(at, layout.BlockSize), in.Ino, hash, at)
			if err == nil && !fits(s.bucket, s.level) {
				err = layout.Corrupt("directory bucket", at, "prefix of %d bits at level %d", s.bucket.Depth(), s.level)
			}
			return s, err == nil, err
		}
		if s.level == 0 {
			return s, false, layout.Corrupt("directory node", s.off, "node at level 0")
		}
		s.level--
		s.node = at
		s.off = at + int64(hash>>dirShift(s.level)%layout.Fanout)*layout.WordSize
		entry = word(v, s.off)
	}
}

// verified remembers of which buckets the checksum was found right, or was made,
// since the mount. Metadata changes through this process only; as with a cache of
// blocks, what a medium does to a bucket later is found when it has been forgotten,
// or by a check.
type verified [512]atomic.Uint64

// mark is where the mark of a bucket stands, and what it is: the low half of the
// bucket's place, and its checksum.
func (v *verified) mark(at int64, b layout.Bucket) (*atomic.Uint64, uint64) {
	number := uint64(at / layout.BlockSize)
	return &v[number%uint64(len(v))], number<<32 | uint64(b.Sum())
}

// openBucket is layout.OpenBucket, which takes longer than all else of a look-up.
func (fs *FS) openBucket(raw []byte, ino layout.Ino, hash uint64, at int64) (layout.Bucket, error) {
	place, mark := fs.verified.mark(at, layout.Bucket{Bytes: raw})
	if place.Load() == mark {
		return layout.OpenVerified(raw, ino, hash, at)
	}
	b, err := layout.OpenBucket(raw, ino, hash, at)
	if err == nil {
		place.Store(mark)
	}
	return b, err
}

// fits reports whether entries of level may point to the bucket: its prefix
// covers at least one of them, and at most those of one node.
func fits(b layout.Bucket, level int) bool {
	open := layout.HashBits - b.Depth()
	return open >= dirShift(level) && open <= dirShift(min(level+1, dirLevels))
}

func dirPlace(ino layout.Ino, level int, hash uint64) layout.Place {
	return layout.Place{Ino: ino, Level: level, Position: hash >> dirShift(level) << dirShift(level), Directory: true}
}

// lookup finds a name. ENOENT when there is none.
func (fs *FS) lookup(v view, dir *layout.Inode, name string) (layout.Slot, error) {
	if len(name) > layout.MaxName {
		return layout.Slot{}, unix.ENAMETOOLONG
	}
	hash := fs.hash(name)
	s, ok, err := fs.findBucket(v, dir, hash)
	if err != nil {
		return layout.Slot{}, err
	}
	if ok {
		if slot, found := s.bucket.Find(hash, name); found {
			return slot, nil
		}
	}
	return layout.Slot{}, unix.ENOENT
}

// editBucket returns a bucket to be refilled.
func (u *update) editBucket(at int64) layout.Bucket {
	return layout.Bucket{Bytes: u.Edit(at, layout.BlockSize)}
}

// editSlot changes one slot of a bucket, and the header, by change. What else there is
// is neither copied, nor compared when the record is made.
func (u *update) editSlot(s dirSpot, slot layout.Slot, change func(layout.Bucket)) {
	at, size := s.bucket.Place(slot)
	u.Edit(s.at, layout.BucketHeader)
	u.Edit(s.at+int64(at), int64(size))
	b := layout.Bucket{Bytes: u.Block(s.at)}
	change(b)
	place, mark := u.fs.verified.mark(s.at, b)
	place.Store(mark)
}

// addName adds a name that is not in the directory yet.
func (u *update) addName(dir *layout.Inode, name string, ino layout.Ino, mode uint32) error {
	if err := checkName(name); err != nil {
		return err
	}
	slot := layout.Slot{Hash: u.fs.hash(name), Ino: ino, Type: uint8(mode >> 12), Name: name}
	size := layout.SlotSize(len(name))
	for {
		s, ok, err := u.fs.findBucket(u.Read, dir, slot.Hash)
		if err != nil {
			return err
		}
		if !ok {
			if err := u.firstBucket(dir); err != nil {
				return err
			}
			continue
		}
		now, compacted := s.bucket.Room(size)
		if !now && !compacted {
			if err := u.splitBucket(dir, s); err != nil {
				return err
			}
			continue
		}
		if !now {
			slots, err := s.bucket.Slots(s.at)
			if err != nil {
				return err
			}
			prefix, depth := s.bucket.Prefix(), s.bucket.Depth()
			s.bucket = u.editBucket(s.at)
			s.bucket.Refill(dir.Ino, prefix, depth, slots)
		}
		u.editSlot(s, slot, func(b layout.Bucket) { b.Add(slot) })
		dir.Size++
		return nil
	}
}

func checkName(name string) error {
	switch {
	case len(name) > layout.MaxName:
		return unix.ENAMETOOLONG
	case !layout.ValidName(name):
		return unix.EINVAL
	}
	return nil
}

// firstBucket gives an empty directory its bucket.
func (u *update) firstBucket(dir *layout.Inode) error {
	node, at, err := u.newNode(dir)
	if err != nil {
		return err
	}
	u.editBucket(at).Refill(dir.Ino, 0, 0, nil)
	dir.Root[0] = layout.MakeEntry(layout.EntryLeaf, uint64(node), dirPlace(dir.Ino, dirLevels, 0))
	return nil
}

// splitBucket makes two buckets of one, with prefixes longer by one bit. When
// only one entry points to it, that entry first gets a node of its own.
func (u *update) splitBucket(dir *layout.Inode, s dirSpot) error {
	prefix, depth := s.bucket.Prefix(), s.bucket.Depth()
	if layout.HashBits-depth == dirShift(s.level) {
		return u.deepen(dir, s)
	}
	slots, err := s.bucket.Slots(s.at)
	if err != nil {
		return err
	}
	node, at, err := u.newNode(dir)
	if err != nil {
		return err
	}
	upper := prefix | 1<<(layout.HashBits-depth-1)
	u.editBucket(s.at).Refill(dir.Ino, prefix, depth+1, slots)
	u.editBucket(at).Refill(dir.Ino, upper, depth+1, slots)
	u.pointTo(dir, s.node, s.level, upper, depth+1, node)
	return nil
}

// deepen puts a node between an entry and its bucket.
func (u *update) deepen(dir *layout.Inode, s dirSpot) error {
	if s.level == 0 {
		return fmt.Errorf("too many names with one hash: %w", unix.ENOSPC)
	}
	node, at, err := u.newNode(dir)
	if err != nil {
		return err
	}
	prefix := s.bucket.Prefix()
	bucket := layout.Node((s.at-u.fs.sb.NodeArea.Offset)/layout.BlockSize + 1)
	u.pointTo(dir, at, s.level-1, prefix, s.bucket.Depth(), bucket)
	entry := layout.MakeEntry(0, uint64(node), dirPlace(dir.Ino, s.level, prefix))
	if s.off < 0 {
		dir.Root[0] = entry
		return nil
	}
	u.WriteWord(s.off, uint64(entry))
	return nil
}

// pointTo makes all entries of a node (its entries are of level) under a
// prefix of depth bits point to a bucket.
func (u *update) pointTo(dir *layout.Inode, node int64, level int, prefix uint64, depth int, bucket layout.Node) {
	shift := dirShift(level)
	first := int64(prefix >> shift % layout.Fanout)
	count := int64(1) << (layout.HashBits - depth - shift)
	b := make([]byte, count*layout.WordSize)
	for i := range count {
		hash := prefix + uint64(i)<<shift
		entry := layout.MakeEntry(layout.EntryLeaf, uint64(bucket), dirPlace(dir.Ino, level, hash))
		binary.LittleEndian.PutUint64(b[i*layout.WordSize:], uint64(entry))
	}
	u.Write(node+first*layout.WordSize, b)
}

// removeName removes a name that is there.
func (u *update) removeName(dir *layout.Inode, name string) error {
	err := u.changeName(dir, name, layout.Bucket.Remove)
	if err == nil {
		dir.Size--
	}
	return err
}

// replaceName points a name that is there to another inode.
func (u *update) replaceName(dir *layout.Inode, name string, ino layout.Ino, mode uint32) error {
	return u.changeName(dir, name, func(b layout.Bucket, s layout.Slot) { b.Replace(s, ino, uint8(mode>>12)) })
}

func (u *update) changeName(dir *layout.Inode, name string, change func(layout.Bucket, layout.Slot)) error {
	hash := u.fs.hash(name)
	s, ok, err := u.fs.findBucket(u.Read, dir, hash)
	if err != nil {
		return err
	}
	if !ok {
		return unix.ENOENT
	}
	slot, found := s.bucket.Find(hash, name)
	if !found {
		return unix.ENOENT
	}
	u.editSlot(s, slot, func(b layout.Bucket) { change(b, slot) })
	return nil
}

// readDir returns entries from a position on, about max of them: names with
// the same hash are never divided.
func (fs *FS) readDir(v view, dir *layout.Inode, from Cookie, max int) ([]DirEntry, error) {
	var out []DirEntry
	for hash := uint64(from); hash>>layout.HashBits == 0; {
		s, ok, err := fs.findBucket(v, dir, hash)
		if err != nil || !ok {
			return out, err
		}
		slots, err := s.bucket.Slots(s.at)
		if err != nil {
			return out, err
		}
		slices.SortFunc(slots, func(a, b layout.Slot) int {
			return cmp.Or(cmp.Compare(a.Hash, b.Hash), cmp.Compare(a.Name, b.Name))
		})
		for _, slot := range slots {
			if slot.Hash < hash {
				continue
			}
			if n := len(out); n >= max && Cookie(slot.Hash) >= out[n-1].Next {
				return out, nil
			}
			out = append(out, DirEntry{slot.Name, slot.Ino, uint32(slot.Type) << 12, Cookie(slot.Hash + 1)})
		}
		hash = s.bucket.Prefix() + 1<<(layout.HashBits-s.bucket.Depth())
	}
	return out, nil
}

// freeDirStep frees a directory's nodes until the step is full, and reports
// whether none is left. The directory is empty and cannot be reached.
func (u *update) freeDirStep(dir *layout.Inode) (done bool, err error) {
	if dir.Root[0] == 0 {
		return true, nil
	}
	entry, err := u.freeDirEntry(dir, dir.Root[0], -1, dirLevels, 0)
	if err != nil {
		return false, err
	}
	dir.Root[0] = entry
	return entry == 0, nil
}

// freeDirEntry frees what lies under an entry and returns what is left of it.
func (u *update) freeDirEntry(dir *layout.Inode, entry layout.Entry, off int64, level int, prefix uint64) (layout.Entry, error) {
	if err := entry.Verify(dirPlace(dir.Ino, level, prefix), off); err != nil {
		return 0, err
	}
	number := layout.Node(entry.Number())
	if entry.Leaf() {
		return 0, u.freeNode(dir, number)
	}
	node, err := u.fs.nodeOffset(number)
	if err != nil {
		return 0, err
	}
	var last layout.Node // entries side by side may point to one bucket
	for i := range uint64(layout.Fanout) {
		at := node + int64(i)*layout.WordSize
		child := word(u.Read, at)
		if child == 0 {
			continue
		}
		under := prefix + i<<dirShift(level-1)
		if child.Leaf() && layout.Node(child.Number()) == last {
			child = 0 // freed already: in the same step
		} else {
			if u.Pages() >= stepPages {
				return entry, nil
			}
			last = layout.Node(child.Number())
			if child, err = u.freeDirEntry(dir, child, at, level-1, under); err != nil {
				return 0, err
			}
		}
		u.WriteWord(at, uint64(child))
		if child != 0 {
			return entry, nil
		}
	}
	return 0, u.freeNode(dir, number)
}
