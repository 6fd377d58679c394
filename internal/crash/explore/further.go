package explore

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/crash"
	"github.com/pmemfs/pmemfs/internal/layout"
)

// mountTime is when images are mounted for writing.
const mountTime = firstTime - opTime

// debts is the link counts of files that have names in trees which were removed, and
// which a mount for writing goes on to free: such a file then loses links.
type debts map[uint64]uint32

func (t tree) names() map[uint64]uint32 {
	names := map[uint64]uint32{}
	for _, it := range t {
		names[it.id]++
	}
	return names
}

func (t tree) debts() debts {
	owed, names := debts{}, t.names()
	for _, it := range t {
		if it.mode&layout.ModeType != layout.ModeDirectory && it.nlink > names[it.id] {
			owed[it.id] = it.nlink
		}
	}
	return owed
}

// settled is the digest of a tree as it is when the debts are paid: those files, and no
// others, have as many links as names, and any time of change that a mount may give.
func (owed debts) settled(t tree) verdict {
	names := t.names()
	for i := range t {
		it := &t[i]
		if was := owed[it.id]; was > 0 && it.nlink <= was && it.nlink >= names[it.id] {
			it.nlink = names[it.id]
			it.times[1] = mountTime
		}
	}
	return t.digest()
}

// further uses an image: it is mounted for writing, with power cuts in that, and in
// the mount after such a cut; then files are made everywhere and all is removed.
func (w *worker) further(m *crash.Image) error {
	w.report.Deep++
	t, err := w.look(m.Areas)
	if err != nil {
		return err
	}
	owed := t.debts()
	d := owed.settled(t)
	fs, err := w.writable(w.replay, m, owed, d)
	if err != nil {
		return err
	}
	n := 0
	_, err = w.replay.Images(crash.Options{Model: w.c.Setting.model(), Exhaustive: 16, Lines: 4, Samples: 4}, func(m *crash.Image) error {
		n++
		w.report.Replayed++
		t, err := w.look(m.Areas)
		if err == nil && owed.settled(t) != d {
			err = fmt.Errorf("another state than before")
		}
		if err == nil && n%8 == 0 {
			err = w.replayAgain(m, owed, d)
		}
		if err != nil {
			return fmt.Errorf("power cut in replay, %v: %w", m, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if t, err = w.reader.read(fs); err != nil {
		return err
	}
	if err := use(fs, t); err != nil {
		return err
	}
	return fs.Close()
}

// writable mounts an image for writing.
func (w *worker) writable(r *crash.Recorder, m *crash.Image, owed debts, d verdict) (*core.FS, error) {
	r.Reset()
	r.Load(m)
	meta, data := r.Area(0), r.Area(1)
	if w.mutant != nil {
		meta, data = w.mutant.areas(w.base.sb, meta, data)
	}
	s, err := newSession(meta, data, mountTime, w.c.Setting)
	if err != nil {
		return nil, fmt.Errorf("mount for writing: %w", err)
	}
	t, err := w.reader.read(s.fs)
	if err == nil && owed.settled(t) != d {
		err = fmt.Errorf("mounted for writing it shows another state")
	}
	return s.fs, err
}

func (w *worker) replayAgain(m *crash.Image, owed debts, d verdict) error {
	if _, err := w.writable(w.again, m, owed, d); err != nil {
		return err
	}
	_, err := w.again.Images(crash.Options{Model: w.c.Setting.model(), Exhaustive: 4, Lines: 2, Samples: 2}, func(m *crash.Image) error {
		w.report.Replayed++
		t, err := w.look(m.Areas)
		if err == nil && owed.settled(t) != d {
			err = fmt.Errorf("another state than before")
		}
		if err != nil {
			return fmt.Errorf("power cut in the replay after that, %v: %w", m, err)
		}
		return nil
	})
	return err
}

// use makes a file in every directory, with data, but in snapshots that refuse it,
// and then removes everything: nothing may be left in use.
func use(fs *core.FS, t tree) error {
	for _, it := range t {
		if it.mode&layout.ModeType != layout.ModeDirectory {
			continue
		}
		a, err := fs.Create(root, layout.Ino(it.id), "after the cut", layout.ModeRegular|0o600, 0)
		if err == unix.EROFS && strings.Contains(it.path, core.SnapshotsName+"/") {
			continue
		}
		if err != nil {
			return fmt.Errorf("create in %s: %w", it.path, err)
		}
		n, err := fs.Open(a.Ino)
		if err != nil {
			return fmt.Errorf("open in %s: %w", it.path, err)
		}
		_, err = n.WriteAt(pattern(99, 0, 5000), 100)
		n.Close()
		if err != nil {
			return fmt.Errorf("write in %s: %w", it.path, err)
		}
	}
	if err := check(fs); err != nil {
		return fmt.Errorf("with a new file in each directory: %w", err)
	}
	if err := removeAll(fs, layout.RootIno); err != nil {
		return err
	}
	if err := fs.Commit(); err != nil { // what is freed can be had then
		return err
	}
	if err := check(fs); err != nil {
		return fmt.Errorf("when all is removed: %w", err)
	}
	if st := fs.Statfs(); st.FreeBlocks != st.Blocks || st.FreeInodes != st.Inodes-int64(layout.FirstIno) || st.Nodes-st.FreeNodes > 1 {
		return fmt.Errorf("when all is removed %d blocks, %d inodes and %d nodes are in use",
			st.Blocks-st.FreeBlocks, st.Inodes-st.FreeInodes, st.Nodes-st.FreeNodes)
	}
	return nil
}

func removeAll(fs *core.FS, dir layout.Ino) error {
	snapshots, err := fs.Snapshots(root, dir)
	for _, s := range snapshots {
		err = errors.Join(err, fs.RemoveSnapshot(root, dir, s.Name))
	}
	if err != nil {
		return fmt.Errorf("remove snapshots: %w", err)
	}
	for {
		list, err := fs.ReadDir(root, dir, 0, 100)
		if err != nil || len(list) == 0 {
			return err
		}
		for _, e := range list {
			remove := fs.Unlink
			if e.Type == layout.ModeDirectory {
				remove = fs.Rmdir
				if err := removeAll(fs, e.Ino); err != nil {
					return err
				}
			}
			if err := remove(root, dir, e.Name); err != nil {
				return fmt.Errorf("remove %q: %w", e.Name, err)
			}
		}
	}
}
