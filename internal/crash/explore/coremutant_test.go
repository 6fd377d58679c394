package explore

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// coreMutant is a fault in the journal or in core, which no medium could make:
// a change of their source. "MUTANT" in it is true when the fault is wanted.
type coreMutant struct {
	name     string
	file     string // of the module
	old, new string
	setting  Setting
	caught   string // the sequence that shows it
}

var (
	staging  = Setting{Interval: true}
	deferred = Setting{Interval: true, PageCache: true}
)

var coreMutants = []coreMutant{
	{
		"group not fenced", "internal/journal/group.go",
		"	return j.area.Fence()\n",
		"	if MUTANT {\n		return nil\n	}\n	return j.area.Fence()\n",
		staging, "create /a/z",
	},
	{
		"staged pages applied in place before the group is fenced", "internal/journal/group.go",
		"		err = j.write(from, g.records)\n",
		"		for r := g.records; MUTANT && len(r) > 0; r = r[layout.RecordSize(r):] {\n" +
			"			layout.Changes(r[:layout.RecordSize(r)], j.sb.MetaSize, j.apply)\n		}\n" +
			"		err = j.write(from, g.records)\n",
		staging, "create /a/z, commit",
	},
	{
		"barrier left out", "internal/journal/group.go",
		"j.barrier != nil {",
		"j.barrier != nil && !MUTANT {",
		deferred, "write /a/x 20000 10, commit",
	},
	{
		"freed blocks used again before that is durable", "internal/alloc/bitmap.go",
		"later := b.contents\n",
		"later := b.contents && !MUTANT\n",
		staging, "unlink /a/y, append @1 4096",
	},
	{
		"what was cut off not made durable", "internal/core/file.go",
		"func (in *inode) settleCut() error { return",
		"func (in *inode) settleCut() error { if MUTANT { return nil }; return",
		staging, "truncate /a/x 100",
	},
	{
		"cut of an inode that was loaded again not made durable", "internal/core/inode.go",
		"(), fs.cutLSN.Load()\n",
		"(), map[bool]uint64{false: fs.cutLSN.Load()}[MUTANT]\n",
		staging, "zero /a/x 0 8192, write /a/x 0 100",
	},
	{
		"fault of a Sync mapping does not commit", "internal/core/fault.go",
		"	if durable {\n",
		"	if durable && !MUTANT {\n",
		staging, "store /a/y 4100 40",
	},
	{
		"records of an inode that was loaded again not known", "internal/core/inode.go",
		"in.cutLSN = fs.journal.HeadLSN(),",
		"in.cutLSN = map[bool]uint64{false: fs.journal.HeadLSN()}[MUTANT],",
		staging, "create /a/z, sync /a/z",
	},
	{
		"records claim to be durable", "internal/journal/group.go",
		"j.record.Finish(j.header.Epoch, j.head, j.durable.Load())",
		"j.record.Finish(j.header.Epoch, j.head, map[bool]uint64{false: j.durable.Load(), true: j.head}[MUTANT])",
		staging, "create /a/z, mkdir /a/w, commit",
	},
	{
		"contents without a record not made durable", "internal/core/fs.go",
		"	return fs.fenceStored()\n",
		"	if MUTANT {\n		return nil\n	}\n	return fs.fenceStored()\n",
		deferred, "open /a/x @2, write /a/x 0 100, commit",
	},
	{
		"sync leaves the times out", "internal/core/file.go",
		"	err := n.in.writeTimes()\n",
		"	var err error\n	if !MUTANT {\n		err = n.in.writeTimes()\n	}\n",
		staging, "open /a/x @2, write /a/x 0 100, sync @2",
	},
	{
		"sync commits nothing", "internal/core/file.go",
		"	return n.in.fs.commitTo(lsn)\n",
		"	if MUTANT {\n		return nil\n	}\n	return n.in.fs.commitTo(lsn)\n",
		staging, "chmod /a/x 600, sync /a/x",
	},
	{
		"a static flag only staged", "internal/core/static.go",
		"	return n.commit()\n",
		"	if MUTANT {\n		return nil\n	}\n	return n.commit()\n",
		staging, "setstatic /a/x",
	},
	{
		"what is staged lost when the pool is closed", "internal/journal/journal.go",
		"	if err := j.commitGroup(); err != nil {\n",
		"	if MUTANT {\n		j.staged = group{}\n	}\n	if err := j.commitGroup(); err != nil {\n",
		staging, "create /a/z, remount",
	},
	{
		"a shared block stored to", "internal/core/plan.go",
		"	case q.shared():\n",
		"	case q.shared() && !MUTANT:\n",
		Setting{}, "write /b/s 10 100",
	},
	{
		"copy of a shared block not fenced", "internal/core/fault.go",
		"	if err := fs.fenceData(); err != nil {\n",
		"	if MUTANT {\n		return in.commitPlan(p, finish)\n	}\n	if err := fs.fenceData(); err != nil {\n",
		Setting{}, "store /b/s 64 24",
	},
	{
		"copy of a shared block not fenced before it is staged", "internal/core/file.go",
		"	return fs.fenceData()\n}\n\n// settleCut",
		"	if MUTANT {\n		return nil\n	}\n	return fs.fenceData()\n}\n\n// settleCut",
		deferred, "write /b/s 10 100, commit",
	},
	{
		"copy of a shared block made after its record", "internal/core/fault.go",
		"	for m := range p.targets() {\n",
		"	for m := range p.targets() {\n		if MUTANT {\n" +
			"			defer fs.carry(m, 0, m.from.count*layout.BlockSize)\n			continue\n		}\n",
		Setting{}, "store /b/s 64 24",
	},
	{
		"what is cut off of a shared block cleared in place", "internal/core/truncate.go",
		"	if err := in.ownPart(size, min(in.Size, layout.RoundUp(size, layout.BlockSize))); err != nil {\n",
		"	if MUTANT {\n	} else if err := in.ownPart(size, min(in.Size, layout.RoundUp(size, layout.BlockSize))); err != nil {\n",
		Setting{}, "truncate /b/s 100",
	},
	{
		"parts of shared blocks zeroed in place", "internal/core/space.go",
		"	for _, part := range edges(off, length) {\n		if err := in.ownPart",
		"	for _, part := range edges(off, length) {\n		if MUTANT {\n			break\n		}\n		if err := in.ownPart",
		Setting{}, "punch /b/s 100 8100",
	},
	{
		"a mark taken away, and not durable before the store in place", "internal/core/refs.go",
		"	return in.fs.journal.Commit(in.metaLSN)\n",
		"	if MUTANT {\n		return nil\n	}\n	return in.fs.journal.Commit(in.metaLSN)\n",
		staging, "unlink /b/t, write /b/s 10 100",
	},
	{
		"a mark not taken away before the store in place", "internal/core/refs.go",
		"	if len(sole) == 0 {\n",
		"	if len(sole) == 0 || MUTANT {\n",
		staging, "unlink /b/t, write /b/s 10 100",
	},
	{
		"the source of a clone not marked", "internal/core/clone.go",
		"	if !p.shared() {\n",
		"	if !p.shared() && !MUTANT {\n",
		Setting{}, "clone /a/x /a/z",
	},
	{
		"a third owner not counted", "internal/core/refs.go",
		"		return max(p.block, 0) + 1, 0, ",
		"		if MUTANT {\n			return 1, 0, false\n		}\n		return max(p.block, 0) + 1, 0, ",
		Setting{}, "clone /b/s /a/z",
	},
	{
		"counts not in the journal", "internal/core/inode.go",
		"	if u.counts != nil {\n",
		"	if u.counts != nil && !MUTANT {\n",
		Setting{}, "clone /a/x /a/z",
	},
	{
		"a block freed while others have it", "internal/core/refs.go",
		"		if p.hole() {\n			free = ",
		"		if p.hole() || MUTANT {\n			free = ",
		Setting{}, "unlink /b/t",
	},
	{
		"a block that nobody has any more not freed", "internal/core/blockmap.go",
		"		if free, err = u.drop(r, free); err != nil {\n			return err\n		}\n	}\n",
		"		kept := free\n		if free, err = u.drop(r, free); err != nil {\n			return err\n		}\n" +
			"		if MUTANT {\n			free = kept\n		}\n	}\n",
		Setting{}, "unlink /b/u",
	},
	{
		"a shared block freed when it is copied", "internal/core/blockmap.go",
		"	case !m.from.shared():\n",
		"	case !m.from.shared() || MUTANT:\n",
		Setting{}, "store /b/s 64 24",
	},
	{
		"what was stored through mappings not flushed for a clone", "internal/core/clone.go",
		"	for _, s := range stored {\n",
		"	for _, s := range stored {\n		if MUTANT {\n			break\n		}\n",
		Setting{}, "loose /a/x 128 24, clone /a/x /a/z",
	},
	{
		"what was stored through mappings not fenced for a clone", "internal/core/clone.go",
		"	return fs.fenceData()\n",
		"	if MUTANT {\n		return nil\n	}\n	return fs.fenceData()\n",
		deferred, "loose /a/x 128 24, clone /a/x /a/z, commit",
	},
	{
		"blocks become shared while clients can store to them", "internal/core/clone.go",
		"	if err := fs.breaker.Break(in.ino, TakeWrites, ",
		"	if err := fs.breaker.Break(in.ino, map[bool]Taking{false: TakeWrites, true: TakeZeros}[MUTANT], ",
		Setting{}, "loose /a/x 128 24, clone /a/x /a/z, loose /a/x 128 24",
	},
	{
		"freed blocks of a range that is replaced kept in the map", "internal/core/clone.go",
		"	if err := in.takeAll(freed, end); err != nil {\n",
		"	if err := in.takeAll(freed, end); MUTANT {\n		freed = end\n	} else if err != nil {\n",
		Setting{}, "clonerange /b/s /a/y 0 0 4096",
	},
	{
		"what was stored to a private clone not flushed", "internal/core/publish.go",
		"		if err := fs.flushRun(q.run()); err != nil {\n",
		"		if MUTANT {\n			continue\n		}\n		if err := fs.flushRun(q.run()); err != nil {\n",
		Setting{}, "loose @4 8200 16, publish @4",
	},
	{
		"what was stored to a private clone not fenced", "internal/core/publish.go",
		"	if err := fs.fenceData(); err != nil {\n",
		"	if MUTANT {\n	} else if err := fs.fenceData(); err != nil {\n",
		Setting{}, "loose @4 8200 16, publish @4",
	},
	{
		"files published one after the other", "internal/core/publish.go",
		"	err = fs.transact(func(u *update) error {\n		for _, p := range list {\n",
		"	rest := list\n	for MUTANT && len(rest) > 1 {\n		p := rest[0]\n		rest = rest[1:]\n" +
			"		fs.transact(func(u *update) error { return u.publish(p) })\n	}\n" +
			"	err = fs.transact(func(u *update) error {\n		for _, p := range rest {\n",
		Setting{}, "publishall @4 @6",
	},
	{
		"what is published only staged", "internal/core/publish.go",
		"	return fs.commitTo(list[0].clone.metaLSN)\n",
		"	if MUTANT {\n		return nil\n	}\n	return fs.commitTo(list[0].clone.metaLSN)\n",
		staging, "publish @4",
	},
	{
		"clients keep the right to store to what is published", "internal/core/publish.go",
		"	if err := fs.breaker.Break(p.clone.ino, TakeWrites, ",
		"	if err := fs.breaker.Break(p.clone.ino, map[bool]Taking{false: TakeWrites, true: TakeZeros}[MUTANT], ",
		Setting{}, "loose @4 8200 16, publish @4, loose @4 8200 16",
	},
	{
		"what is published not counted", "internal/core/publish.go",
		"		if err := u.shareOnce(clone, q); err != nil {\n",
		"		if MUTANT {\n			continue\n		}\n		if err := u.shareOnce(clone, q); err != nil {\n",
		Setting{}, "publish @4",
	},
	{
		"changes of a file not noted", "internal/core/publish.go",
		"	for _, p := range in.privates {\n		p.add(",
		"	for _, p := range in.privates {\n		if MUTANT {\n			break\n		}\n		p.add(",
		Setting{}, "write /b/p 10 100, publish @4",
	},
	{
		"a new end of a file not noted", "internal/core/inode.go",
		"keep < end {\n",
		"keep < end && !MUTANT {\n",
		Setting{}, "truncate /b/p 4096, publish @4",
	},
	{
		"a private clone behind what it is merged with", "internal/core/publish.go",
		"	if err := p.clone.follow(p.stale); err != nil {\n",
		"	if MUTANT {\n		return\n	}\n	if err := p.clone.follow(p.stale); err != nil {\n",
		Setting{}, "publish @4, publish @5, store @5 4300 16, publish @5",
	},
	{
		"one file stored to while a tree is cloned", "internal/core/tree.go",
		"f.in.kind == layout.ModeRegular && !f.skipped {\n",
		"f.in.kind == layout.ModeRegular && !f.skipped && !(MUTANT && n == 0) {\n",
		Setting{}, "loose /a/x 128 24, snapshot /a s",
	},
	{
		"a removed snapshot keeps its links", "internal/core/snapshot.go",
		"			return u.dropLink(top, now)\n",
		"			if MUTANT {\n				return nil\n			}\n			return u.dropLink(top, now)\n",
		Setting{}, "rmsnapshot /d s",
	},
	{
		"a restore only staged", "internal/core/restore.go",
		"	if err := f.restore(d, top, dirs); err != nil {\n		return err\n	}\n",
		"	if err := f.restore(d, top, dirs); err != nil || MUTANT {\n		return err\n	}\n",
		staging, "restore /d s",
	},
	{
		"what a restore replaces keeps its parent", "internal/core/restore.go",
		"		r.reparent(u, d.ino)\n",
		"		if !(MUTANT) {\n			r.reparent(u, d.ino)\n		}\n",
		Setting{}, "mkdir /d/k, snapshot /d t, restore /d t",
	},
	{
		"a directory freed that has names", "internal/core/orphan.go",
		"top.Size > 0 && !top.gone\n",
		"top.Size > 0 && !top.gone && !(MUTANT)\n",
		Setting{}, "rmsnapshot /d s",
	},
	{
		"a snapshot that is not read-only", "internal/core/tree.go",
		"layout.FlagReadOnly) | c.flags\n",
		"layout.FlagReadOnly) | c.flags\n	if MUTANT {\n		want.Flags &^= layout.FlagReadOnly\n	}\n",
		Setting{}, "snapshot /d t, write /d/.snapshots/t/f 10 100",
	},
	{
		"a restored directory gets its attributes before its names", "internal/core/restore.go",
		"	err = f.transact(func(u *update) error {\n		dw, tw := u.edit(d), u.edit(top)\n",
		"	if MUTANT {\n		if err := f.transact(func(u *update) error {\n			dw := u.edit(d)\n" +
			"			dw.Mtime, dw.Ctime = top.Mtime, f.now()\n			return nil\n		}); err != nil {\n			return err\n		}\n	}\n" +
			"	err = f.transact(func(u *update) error {\n		dw, tw := u.edit(d), u.edit(top)\n",
		Setting{}, "restore /d s",
	},
	{
		"a tree is no orphan any more before it has its name", "internal/core/snapshot.go",
		"		return f.transact(func(u *update) error {\n			sw, err := u.snapshotsDir(d, snapshots)\n",
		"		if MUTANT {\n			if err := f.transact(func(u *update) error { return u.clearOrphan(top) }); err != nil {\n				return err\n			}\n" +
			"			defer func() { top.orphan = false }()\n		}\n" +
			"		return f.transact(func(u *update) error {\n			if MUTANT {\n				if err := u.setOrphan(top); err != nil {\n					return err\n				}\n			}\n" +
			"			sw, err := u.snapshotsDir(d, snapshots)\n",
		Setting{}, "snapshot /a s",
	},
}

// mutantVariable names the fault that is wanted, in the process that has them.
const mutantVariable = "PMEMFS_CORE_MUTANT"

// mutate writes the sources with all the faults, and what go's -overlay wants.
func mutate(t *testing.T, root string) (overlay string) {
	t.Helper()
	dir := t.TempDir()
	sources := map[string]string{"internal/layout/mutant.go": "package layout\n\nimport \"os\"\n\n" +
		"func Mutant(name string) bool { return os.Getenv(\"" + mutantVariable + "\") == name }\n"}
	for _, m := range coreMutants {
		if sources[m.file] == "" {
			b, err := os.ReadFile(filepath.Join(root, m.file))
			if err != nil {
				t.Fatal(err)
			}
			sources[m.file] = string(b)
			if !strings.Contains(sources[m.file], "/internal/layout\"") {
				t.Fatalf("%s does not import layout, which knows what is wanted", m.file)
			}
		}
		if n := strings.Count(sources[m.file], m.old); n != 1 {
			t.Fatalf("%s: %d times %q in %s: change the mutant as the source has changed", m.name, n, m.old, m.file)
		}
		faulty := strings.ReplaceAll(m.new, "MUTANT", "layout.Mutant(\""+m.name+"\")")
		sources[m.file] = strings.Replace(sources[m.file], m.old, faulty, 1)
	}
	replace := map[string]string{}
	for name, text := range sources {
		to := filepath.Join(dir, strings.ReplaceAll(name, "/", "-"))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, name)] = to
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	overlay = filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return overlay
}

// TestCoreMutants builds this package's tests over sources with faults, and has
// them look for each.
func TestCoreMutants(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("builds a program; a mutant has no goroutines of its own")
	}
	root, err := filepath.Abs(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "mutants.test")
	build := exec.Command("go", "test", "-c", "-overlay", mutate(t, root), "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	run := exec.Command(binary, "-test.v", "-test.run", "^TestCoreMutantsInside$")
	run.Env = append(os.Environ(), mutantVariable+"=none")
	out, err := run.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// TestCoreMutantsInside runs where the faults are.
func TestCoreMutantsInside(t *testing.T) {
	if os.Getenv(mutantVariable) == "" {
		t.Skip("a part of TestCoreMutants")
	}
	if _, err := theBase(); err != nil { // without a fault
		t.Fatal(err)
	}
	for _, m := range coreMutants {
		t.Run(m.name, func(t *testing.T) {
			known := parse(strings.ReplaceAll(m.caught, ",", "\n"))
			if _, found, err := RunCase(context.Background(), &Case{Ops: known, Setting: m.setting, Effort: mutantEffort}); err != nil || len(found) > 0 {
				t.Fatalf("without the fault: %v, %v", found, err)
			}
			t.Setenv(mutantVariable, m.name)
			v, err := catch(context.Background(), Case{Setting: m.setting}, known)
			if err != nil {
				t.Fatal(err)
			}
			if v == nil {
				t.Fatal("not found")
			}
			got := v.Case.sequence()
			t.Logf("caught by: %s\n\t%s\n\t%.300s", got, v.Image, v.What)
			if got != m.caught {
				t.Errorf("a shorter sequence than the one listed (%s), or another", m.caught)
			}
		})
	}
}
