package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/report"
	"github.com/pmemfs/pmemfs/pmem"
)

// arena is where pmemfs and file systems of the kernel are compared: a pool that is served, another one beside it that
// this process owns, and the peers. Each operation on the pools is durable when it returns.
type arena struct {
	*stage
	embedded *pmemfs.FS // nil: a device has one owner, which is the server
	peers    []*peer
	notes    []string // what could not be had
	med      pmemfs.MediumReport
	plain    *plainFile
	persist  func(p []byte) // see persistOn
	cleanup  []func() error // what ends, in reverse order, before the file systems do
}

// room is what a comparison needs, in bytes.
type room struct {
	served, embedded int64 // contents of each pool
	peer             int64 // in each of the kernel's file systems
	plain            int64 // in the plain file
}

// The names of pmemfs among the peers.
const (
	embeddedPool = "pmemfs embedded"
	servedPool   = "pmemfs served"
)

// newArena makes it all. Memory that the kernel gives to tmpfs at the first touch is no part of what persistent memory
// costs: pools are allocated in full.
func newArena(ctx context.Context, o *CompareOptions, r room) (_ *arena, err error) {
	a := &arena{}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close(ctx))
		}
	}()
	format := func(contents int64) pmemfs.FormatOptions {
		size := contents + contents/8 + 24<<20
		return pmemfs.FormatOptions{Size: size, Preallocate: true, Force: o.Force && isDevice(o.Dir)}
	}
	if a.stage, err = newStage(ctx, o.Dir, format(r.served), "--commit", "op"); err != nil {
		return nil, err
	}
	a.med = a.fsys.Info().Medium
	if !byteAddressable(&a.med) {
		return nil, fmt.Errorf("%s is a %s medium: %w", o.Dir, a.med.Kind, ErrMedium)
	}
	a.persist = persistOn(&a.med)
	if a.plain, err = newPlainFile(o.Dir, filepath.Join(a.dir, raw), r.plain); err != nil {
		return nil, err
	}
	if isDevice(o.Dir) {
		a.notes = append(a.notes, "No embedded pool: a device has one owner, which is the server.")
	} else if a.embedded, err = newEmbedded(filepath.Join(a.dir, "embedded"), format(r.embedded)); err != nil {
		return nil, err
	}
	var notes []string
	a.peers, notes, err = o.peers(r.peer)
	a.notes = append(a.notes, notes...)
	return a, err
}

func newEmbedded(pool string, o pmemfs.FormatOptions) (*pmemfs.FS, error) {
	if err := pmemfs.Format(pool, o); err != nil {
		return nil, err
	}
	return pmemfs.Open(pool, pmemfs.Commit(pmemfs.CommitOp))
}

// pools are pmemfs's, by their names among the peers.
func (a *arena) pools() map[string]*pmemfs.FS {
	pools := map[string]*pmemfs.FS{servedPool: a.fsys}
	if a.embedded != nil {
		pools[embeddedPool] = a.embedded
	}
	return pools
}

// later has something done before the file systems end.
func (a *arena) later(f func() error) { a.cleanup = append(a.cleanup, f) }

// part is what was found.
func (a *arena) part(title string, all []*contestant) *report.Part {
	if !a.med.Emulated {
		title += ", pool on " + a.med.Kind // there may be several kinds on one machine
	}
	return &report.Part{Title: title, Machine: thisMachine(&a.med), Rows: rows(all), Notes: a.notes}
}

// close leaves nothing behind.
func (a *arena) close(ctx context.Context) error {
	var errs []error
	for _, f := range slices.Backward(a.cleanup) {
		errs = append(errs, f())
	}
	for _, p := range a.peers {
		errs = append(errs, p.close())
	}
	if a.plain != nil {
		errs = append(errs, a.plain.Close())
	}
	if a.embedded != nil {
		errs = append(errs, a.embedded.Close())
	}
	if a.stage != nil {
		errs = append(errs, a.stage.close(ctx))
	}
	return errors.Join(errs...)
}

// byteAddressable says whether stores to a medium become durable without a system call.
func byteAddressable(med *pmemfs.MediumReport) bool {
	return med.Granularity == pmemfs.Byte || med.Granularity == pmemfs.CacheLine
}

// persistOn returns what makes stores to a medium durable in as few instructions as that takes.
func persistOn(med *pmemfs.MediumReport) func(p []byte) {
	if med.Granularity == pmemfs.Byte {
		return func([]byte) { pmem.Fence() }
	}
	return pmem.Persist
}

// plainFile is memory of the pool's medium without a file system of ours in between.
type plainFile struct {
	*os.File
	off, size int64
}

// newPlainFile makes a file beside the pool, its blocks written; of a device it is the end, which the pool fills last.
func newPlainFile(place, name string, size int64) (*plainFile, error) {
	if isDevice(place) {
		whole, align, err := medium.DeviceSize(place)
		if err != nil {
			return nil, err
		}
		size = (size + align - 1) / align * align
		f, err := os.OpenFile(place, os.O_RDWR, 0)
		return &plainFile{f, whole - size, size}, err
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	// As the pool's files are, or the kernel might lay one of them out better than the other.
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	if err == nil || errors.Is(err, unix.EOPNOTSUPP) {
		err = writeZeros(f, size)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("allocate %s: %w", name, err), f.Close())
	}
	return &plainFile{f, 0, size}, nil
}

// writeZeros writes all blocks of a file.
func writeZeros(f *os.File, size int64) error {
	zeros := make([]byte, largeIO)
	for off := int64(0); off < size; off += largeIO {
		if _, err := f.WriteAt(zeros[:min(largeIO, size-off)], off); err != nil {
			return err
		}
	}
	return f.Sync()
}

// mmap maps all of it.
func (p *plainFile) mmap(flags int) ([]byte, error) {
	mem, err := unix.Mmap(int(p.Fd()), p.off, int(p.size), unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return nil, fmt.Errorf("mmap %s: %w", p.Name(), err)
	}
	return mem, nil
}
