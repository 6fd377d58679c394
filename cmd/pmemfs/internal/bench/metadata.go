package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/report"
	"github.com/pmemfs/pmemfs/pmem"
)

// MetadataOptions are those of MeasureMetadata.
type MetadataOptions struct {
	CompareOptions
	Files int // that a round uses at most
}

// recordSize is what the least record of a change takes in a log, in bytes: two names and a few numbers.
const recordSize = 2 * pmem.LineSize

const (
	opCreate    = "create and close"
	opStat      = "stat"
	opAppend    = "append 4 KiB"
	opOverwrite = "overwrite 4 KiB"
	opRename    = "rename"
	opUnlink    = "unlink"
	opMkdir     = "mkdir"
)

// metadataOperations are in the order in which a turn does them. What of each has at least to be streamed to the medium,
// before one fence, is its limit; a look-up takes at least one in a hash table.
var metadataOperations = []struct {
	what     string
	streamed []int // bytes
}{
	{opCreate, []int{recordSize}},
	{opStat, nil},
	{opAppend, []int{smallIO, recordSize}},
	{opOverwrite, []int{smallIO}},
	{opRename, []int{recordSize}},
	{opUnlink, []int{recordSize}},
	{opMkdir, []int{recordSize}},
}

// fewFiles are what a turn needs at least, so that no name is at hand because it has just been used.
const fewFiles = 64

// MeasureMetadata compares operations on names and on blocks of files. It leaves nothing behind, however it ends.
func MeasureMetadata(ctx context.Context, o MetadataOptions) (_ *report.Part, err error) {
	contents := int64(o.Files) * 16 << 10 // as many inodes as there are files
	a, err := newArena(ctx, &o.CompareOptions, room{served: contents, embedded: contents, peer: contents, plain: 16 << 20})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.close(ctx)) }()
	all, err := a.metadataContestants(o.Files)
	if err != nil {
		return nil, err
	}
	if err := compare(ctx, &o.CompareOptions, "operations", all); err != nil {
		return nil, err
	}
	return a.part("Durable metadata operations", all), nil
}

func (a *arena) metadataContestants(files int) ([]*contestant, error) {
	limit, err := a.metadataLimit(files)
	if err != nil {
		return nil, err
	}
	all := []*contestant{limit}
	for _, name := range []string{embeddedPool, servedPool} {
		if fsys := a.pools()[name]; fsys != nil {
			all = append(all, newMetadata(poolNames(fsys), files, name, true, ""))
		}
	}
	for _, p := range a.peers {
		unsynced := "volatile until it is synced"
		if p.volatile {
			unsynced = p.note
			bare := "relative to the open directory, without package os"
			all = append(all, newMetadata(&kernelNames{above: p.dir}, files, p.name+", system calls", false, bare))
		} else {
			all = append(all, newMetadata(osNames(p.dir, true), files, p.name+", fsync", true, p.note))
		}
		all = append(all, newMetadata(osNames(p.dir, false), files, p.name, false, unsynced))
	}
	return all, nil
}

// names is a file system as a turn uses it: one directory, and one file of data in it. Those that are durable by the
// program's doing are so when a method returns.
type names interface {
	begin(dir string) error // makes the directory, and the file
	end(dir string) error   // removes both; nothing else is in it any more
	create(name string) error
	stat(name string) error
	append(p []byte) error
	overwrite(p []byte, off int64) error
	rename(from, to string) error
	unlink(name string) error
	mkdir(name string) error
	rmdir(name string) error
}

// newMetadata is one of those that are compared. Syncs have no part in a look-up.
func newMetadata(dir names, files int, peer string, durable bool, note string) *contestant {
	var figures []*figure
	for _, o := range metadataOperations {
		if syncs, ok := dir.(*goNames[*os.File]); !ok || !syncs.sync || o.what != opStat {
			figures = append(figures, &figure{what: o.what, peer: peer, durable: durable, note: note})
		}
	}
	t := &metadataTurn{fs: dir, figures: figures, data: make([]byte, smallIO)}
	return newContestant(fewFiles, files, t.run, figures...)
}

// metadataTurn does every operation n times.
type metadataTurn struct {
	fs      names
	figures []*figure
	data    []byte
	old     []string // names that files have first
	renamed []string // and then
	dirs    []string
}

const metadataDir = "turn"

func (t *metadataTurn) run(n int) error {
	for i := len(t.old); i < n; i++ {
		t.old = append(t.old, fmt.Sprintf("file-%07d", i))
		t.renamed = append(t.renamed, fmt.Sprintf("renamed-%07d", i))
		t.dirs = append(t.dirs, fmt.Sprintf("directory-%07d", i))
	}
	if err := t.fs.begin(metadataDir); err != nil {
		return err
	}
	scattered := rand.Perm(n)
	operations := map[string]func(i int) error{
		opCreate:    func(i int) error { return t.fs.create(t.old[i]) },
		opStat:      func(i int) error { return t.fs.stat(t.old[scattered[i]]) },
		opAppend:    func(int) error { return t.fs.append(t.data) },
		opOverwrite: func(i int) error { return t.fs.overwrite(t.data, int64(scattered[i])*smallIO) },
		opRename:    func(i int) error { i = scattered[i]; return t.fs.rename(t.old[i], t.renamed[i]) },
		opUnlink:    func(i int) error { return t.fs.unlink(t.renamed[scattered[n-1-i]]) },
		opMkdir:     func(i int) error { return t.fs.mkdir(t.dirs[i]) },
	}
	for _, f := range t.figures {
		if err := f.measure(n, operations[f.what]); err != nil {
			return err
		}
	}
	for _, name := range t.dirs[:n] {
		if err := t.fs.rmdir(name); err != nil {
			return err
		}
	}
	return t.fs.end(metadataDir)
}

const dataName = "data"

// goFile is a file of a Go program.
type goFile interface {
	Write(p []byte) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Sync() error
	Close() error
}

// goCalls are what a Go program has: the functions of package os, or the methods of a pool, which are like them.
type goCalls[F goFile] struct {
	openFile func(name string, flag int, perm fs.FileMode) (F, error)
	lstat    func(name string) (fs.FileInfo, error)
	rename   func(from, to string) error
	remove   func(name string) error
	mkdir    func(name string, perm fs.FileMode) error
}

// goNames is a directory by way of goCalls.
type goNames[F goFile] struct {
	goCalls[F]
	above string // the directory that it is made in
	sync  bool   // make everything durable: a file that was created or written, and the directory
	path  string // of it, with a slash at its end
	dir   F      // with sync
	file  F
}

// osNames is a directory of the kernel's.
func osNames(above string, sync bool) names {
	calls := goCalls[*os.File]{os.OpenFile, os.Lstat, os.Rename, os.Remove, os.Mkdir}
	return &goNames[*os.File]{goCalls: calls, above: above + "/", sync: sync}
}

// poolNames is one of a pool, of which everything is durable when it returns.
func poolNames(fsys *pmemfs.FS) *goNames[*pmemfs.File] {
	calls := goCalls[*pmemfs.File]{fsys.OpenFile, fsys.Lstat, fsys.Rename, fsys.Remove, fsys.Mkdir}
	return &goNames[*pmemfs.File]{goCalls: calls}
}

func (g *goNames[F]) begin(dir string) (err error) {
	g.path = g.above + dir + "/"
	if err := g.goCalls.mkdir(g.above+dir, 0o700); err != nil {
		return err
	}
	if g.sync {
		if g.dir, err = g.openFile(g.above+dir, os.O_RDONLY, 0); err != nil {
			return err
		}
	}
	g.file, err = g.openFile(g.path+dataName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	return err
}

// end syncs as well what was not: what was left to be written back would be written in others' turns.
func (g *goNames[F]) end(dir string) error {
	err := errors.Join(g.file.Sync(), g.file.Close(), g.remove(g.path+dataName))
	if g.sync {
		err = errors.Join(err, g.dir.Close())
	}
	return errors.Join(err, g.remove(g.above+dir))
}

// settle makes what was done to the directory durable.
func (g *goNames[F]) settle(err error) error {
	if err == nil && g.sync {
		err = g.dir.Sync()
	}
	return err
}

func (g *goNames[F]) create(name string) error {
	f, err := g.openFile(g.path+name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if g.sync {
		err = f.Sync()
	}
	return g.settle(errors.Join(err, f.Close()))
}

func (g *goNames[F]) stat(name string) error {
	_, err := g.lstat(g.path + name)
	return err
}

func (g *goNames[F]) written(_ int, err error) error {
	if err == nil && g.sync {
		err = g.file.Sync()
	}
	return err
}

func (g *goNames[F]) append(p []byte) error               { return g.written(g.file.Write(p)) }
func (g *goNames[F]) overwrite(p []byte, off int64) error { return g.written(g.file.WriteAt(p, off)) }
func (g *goNames[F]) rename(from, to string) error {
	return g.settle(g.goCalls.rename(g.path+from, g.path+to))
}
func (g *goNames[F]) unlink(name string) error { return g.settle(g.remove(g.path + name)) }
func (g *goNames[F]) mkdir(name string) error  { return g.settle(g.goCalls.mkdir(g.path+name, 0o700)) }
func (g *goNames[F]) rmdir(name string) error  { return g.remove(g.path + name) }

// kernelNames is a directory of the kernel's, used by bare system calls relative to it: less than any Go program pays that
// uses names.
type kernelNames struct {
	above string // the directory that it is made in
	dir   int
	file  int
}

func (k *kernelNames) begin(dir string) (err error) {
	dir = filepath.Join(k.above, dir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if k.dir, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	k.file, err = unix.Openat(k.dir, dataName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	return err
}

// end syncs as well: what was left to be written back would be written in others' turns.
func (k *kernelNames) end(dir string) error {
	return errors.Join(
		unix.Close(k.file), unix.Unlinkat(k.dir, dataName, 0),
		unix.Syncfs(k.dir), unix.Close(k.dir), os.Remove(filepath.Join(k.above, dir)),
	)
}

func (k *kernelNames) create(name string) error {
	fd, err := unix.Openat(k.dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func (k *kernelNames) stat(name string) error {
	var st unix.Stat_t
	return unix.Fstatat(k.dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
}

func (k *kernelNames) append(p []byte) error {
	n, err := unix.Write(k.file, p)
	return whole(n, err)(smallIO)
}

func (k *kernelNames) overwrite(p []byte, off int64) error {
	n, err := unix.Pwrite(k.file, p, off)
	return whole(n, err)(smallIO)
}

func (k *kernelNames) rename(from, to string) error { return unix.Renameat(k.dir, from, k.dir, to) }
func (k *kernelNames) unlink(name string) error     { return unix.Unlinkat(k.dir, name, 0) }
func (k *kernelNames) mkdir(name string) error      { return unix.Mkdirat(k.dir, name, 0o700) }
func (k *kernelNames) rmdir(name string) error      { return unix.Unlinkat(k.dir, name, unix.AT_REMOVEDIR) }

// metadataLimit is what the machine takes at least.
func (a *arena) metadataLimit(files int) (*contestant, error) {
	mem, err := a.plain.mmap(unix.MAP_SHARED | unix.MAP_POPULATE)
	if err != nil {
		return nil, err
	}
	l := &ring{mem: mem}
	table := map[string]bool{}
	for i := range files {
		table[fmt.Sprintf("%s/file-%07d", metadataDir, i)] = true
	}
	names := slices.Collect(maps.Keys(table)) // scattered
	steps := make([]func(i int) error, len(metadataOperations))
	figures := make([]*figure, len(metadataOperations))
	for i, o := range metadataOperations {
		figures[i] = &figure{what: o.what, peer: raw, durable: true, note: "a look-up in a hash table"}
		steps[i] = func(i int) error { return present(table[names[i]]) }
		if o.streamed != nil {
			figures[i].note = fmt.Sprintf("%s bytes streamed, a fence", strings.Trim(strings.ReplaceAll(fmt.Sprint(o.streamed), " ", " + "), "[]"))
			steps[i] = func(int) error { l.stream(o.streamed); return nil }
		}
	}
	turn := func(n int) error {
		for i, f := range figures {
			if err := f.measure(n, steps[i]); err != nil {
				return err
			}
		}
		return nil
	}
	return newContestant(files, files, turn, figures...), nil
}

func present(found bool) error {
	if !found {
		return os.ErrNotExist
	}
	return nil
}

// ring is memory that is written to from its beginning to its end, and again.
type ring struct {
	mem []byte
	at  int
}

var zeros [smallIO]byte

// stream has pieces of so many bytes each durable.
func (r *ring) stream(pieces []int) {
	for _, n := range pieces {
		if r.at+n > len(r.mem) {
			r.at = 0
		}
		pmem.Copy(r.mem[r.at:], zeros[:n])
		r.at += n
	}
	pmem.Fence()
}
