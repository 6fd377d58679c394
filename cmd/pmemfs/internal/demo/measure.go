package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/pmemfs/pmemfs"
)

const (
	storeSize = 64   // bytes of a measured store
	blockSize = 4096 // bytes
	// batch is how many stores are timed together, because reading the clock costs about as much as one.
	batch = 100
)

// measure finds out what a durable store costs, in this process, which is a client like any other.
func (d *demo) measure(ctx context.Context) error {
	return d.use(func(fsys *pmemfs.FS) error {
		if err := fsys.Mkdir("costs", 0o755); err != nil {
			return err
		}
		m := &meter{fsys: fsys, samples: d.samples}
		c := &d.result.Costs
		steps := []func() error{
			func() (err error) { c.WriteFsync, err = m.writeFsync(); return err },
			func() (err error) { c.SharedSync, err = m.mapped(pmemfs.Shared, (*pmemfs.Mapping).Sync); return err },
		}
		if fsys.MapMask()&pmemfs.Sync != 0 {
			steps = append(steps,
				func() (err error) { c.SyncFault, err = m.fault(); return err },
				func() error {
					us, err := m.mapped(pmemfs.Sync, (*pmemfs.Mapping).Persist)
					ns := us * 1000
					c.DurableStore = &ns
					return err
				})
		}
		for _, step := range steps {
			if err := errors.Join(step(), context.Cause(ctx)); err != nil {
				return err
			}
		}
		d.log("measured what a durable store costs: see below")
		return nil
	})
}

// meter measures.
type meter struct {
	fsys    *pmemfs.FS
	samples int
}

// file makes a file of a size in bytes, without blocks.
func (m *meter) file(name string, size int64) (*pmemfs.File, error) {
	f, err := m.fsys.OpenFile("costs/"+name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	return f, f.Truncate(size)
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// fault measures the first store to a page of a hole: the server allocates a block, makes that durable, and grants it.
// Every other page is stored to, from the end to the beginning, so that nothing is granted ahead.
func (m *meter) fault() (*float64, error) {
	size := 2 * m.samples * blockSize
	f, err := m.file("fault", int64(size))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	mapping, err := f.Map(0, size, pmemfs.Sync)
	if err != nil {
		return nil, err
	}
	times := make([]time.Duration, 0, m.samples)
	err = pmemfs.Catch(func() {
		mem := mapping.Bytes()
		for off := size - blockSize; off >= 0; off -= 2 * blockSize {
			start := time.Now()
			mem[off] = 1
			times = append(times, time.Since(start))
		}
	})
	if err != nil {
		return nil, err
	}
	if got, err := allocated(f); err != nil || got != int64(m.samples) {
		return nil, fmt.Errorf("%d first stores have allocated %d blocks: not every one was a fault (%v)", m.samples, got, err)
	}
	us := microseconds(median(times))
	return &us, mapping.Unmap()
}

// allocated counts the blocks of a file.
func allocated(f *pmemfs.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Sys().(*pmemfs.Stat).Blocks, nil
}

// mapped measures stores to memory that has been granted, each made durable by itself, in microseconds.
func (m *meter) mapped(flags pmemfs.MapFlags, durable func(*pmemfs.Mapping, int, int) error) (float64, error) {
	const size = 1 << 20
	f, err := m.file("mapped", size)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	mapping, err := f.Map(0, size, flags|pmemfs.Populate)
	if err != nil {
		return 0, err
	}
	record := make([]byte, storeSize)
	for i := range record {
		record[i] = byte(i)
	}
	each := batch
	if m.fsys.MapMask()&pmemfs.Sync == 0 {
		each = 1 // a system call and a write to a disk are long enough
	}
	times := make([]time.Duration, 0, m.samples)
	mem, off := mapping.Bytes(), 0
	for range m.samples {
		start := time.Now()
		for range each {
			copy(mem[off:], record)
			if err := durable(mapping, off, storeSize); err != nil {
				return 0, err
			}
			off = (off + storeSize) % size
		}
		times = append(times, time.Since(start))
	}
	return microseconds(median(times)) / float64(each), mapping.Unmap()
}

// writeFsync measures the same by requests to the server, in microseconds.
func (m *meter) writeFsync() (float64, error) {
	const size = 1 << 20
	f, err := m.file("written", 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, size), 0); err != nil {
		return 0, err
	}
	record := make([]byte, storeSize)
	times := make([]time.Duration, 0, m.samples)
	for i := range m.samples {
		start := time.Now()
		if _, err := f.WriteAt(record, int64(i*storeSize%size)); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		times = append(times, time.Since(start))
	}
	return microseconds(median(times)), nil
}
