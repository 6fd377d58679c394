package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/child"
	"github.com/pmemfs/pmemfs/pmem"
)

// LoadOptions are those of Load. One of Socket, Pool and Dir says where it works.
type LoadOptions struct {
	Socket string // of a server
	Pool   string // that this process opens
	Dir    string // of the kernel's
	Name   string // of a directory of its own
	What   string // that it does
	Gate   bool   // begin when descriptor 3, of which others have the writing end, is at its end
	Time   time.Duration
}

// opStore is what clients do to a mapping.
const opStore = "store 64 B and persist it"

// Load is the life of a process that does one thing again and again for some time. It prints a line when it is ready, and
// in the end how often it has done it.
func Load(ctx context.Context, o LoadOptions, stdout io.Writer) (err error) {
	do, end, err := o.begin()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	fmt.Fprintln(stdout, "ready")
	if o.Gate {
		if _, err := io.Copy(io.Discard, os.NewFile(3, "gate")); err != nil {
			return err
		}
	}
	start := time.Now()
	n := 0
	for ; ctx.Err() == nil && time.Since(start) < o.Time; n++ {
		if err := do(n); err != nil {
			return err
		}
	}
	fmt.Fprintln(stdout, n)
	return nil
}

// begin prepares the work.
func (o *LoadOptions) begin() (do func(i int) error, end func() error, err error) {
	var all names = &kernelNames{above: o.Dir}
	end = func() error { return nil }
	if o.Dir == "" {
		fsys, err := o.connect()
		if err != nil {
			return nil, nil, err
		}
		end = fsys.Close
		if o.What == opStore {
			do, err = storeMapped(fsys, o.Name)
			return do, end, err
		}
		all = poolNames(fsys)
	} else if o.What == opStore {
		do, err = storeRaw(filepath.Join(o.Dir, o.Name))
		return do, end, err
	}
	if err := all.begin(o.Name); err != nil {
		return nil, nil, errors.Join(err, end())
	}
	data := make([]byte, smallIO)
	switch o.What {
	case opCreate: // and remove, so that it can go on for ever
		return func(i int) error {
			if i%2 == 0 {
				return all.create("file")
			}
			return all.unlink("file")
		}, end, nil
	case opAppend:
		return func(int) error { return all.append(data) }, end, nil
	}
	return nil, nil, errors.Join(fmt.Errorf("nobody knows how to %q", o.What), end())
}

func (o *LoadOptions) connect() (*pmemfs.FS, error) {
	if o.Pool != "" {
		return pmemfs.Open(o.Pool)
	}
	return pmemfs.Dial(o.Socket, pmemfs.Reconnect(0))
}

// storeMapped is a store to random lines of a Sync mapping. All of it is granted first.
func storeMapped(fsys *pmemfs.FS, name string) (func(int) error, error) {
	f, err := newGrantedFile(fsys, name, loadFile)
	if err != nil {
		return nil, err
	}
	m := f.mapping
	return storeLines(m.Bytes(), func(off int) error { return m.Persist(off, pmem.LineSize) }), nil
}

// storeRaw is the same to a file of the kernel's.
func storeRaw(name string) (func(int) error, error) {
	p, err := newPlainFile(filepath.Dir(name), name, loadFile)
	if err != nil {
		return nil, err
	}
	mem, err := p.mmap(unix.MAP_SHARED | unix.MAP_POPULATE)
	if err != nil {
		return nil, err
	}
	return storeLines(mem, func(off int) error { pmem.Persist(mem[off : off+pmem.LineSize]); return nil }), nil
}

const loadFile = 16 << 20 // bytes that are mapped, a power of two

func storeLines(mem []byte, persist func(off int) error) func(int) error {
	return func(i int) error {
		off := i * 7919 * pmem.LineSize % len(mem)
		binary.LittleEndian.PutUint64(mem[off:], uint64(i))
		return persist(off)
	}
}

// throughput measures what 1 to many processes do together.
func (s *scale) throughput(ctx context.Context) (err error) {
	st, err := newStage(ctx, s.Dir, pmemfs.FormatOptions{Size: 64 << 30}, "--commit", "op")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close(ctx)) }()
	kind, err := fileSystem(st.dir)
	if err != nil {
		return err
	}
	places := []struct {
		peer, mapped string // its name, and where stores to mappings are measured
		o            LoadOptions
		durable      bool
	}{
		{servedPool, "pmemfs, Sync", LoadOptions{Socket: st.socket}, true},
		{kind.name, "raw", LoadOptions{}, false},
	}
	for _, what := range []string{opCreate, opAppend, opStore} {
		for _, clients := range s.clients {
			figures := make([][]float64, len(places))
			for range max(s.Rounds/3, 1) {
				for i, p := range places {
					o := p.o
					o.What, o.Time = what, s.Time
					perSecond, err := s.together(ctx, o, clients)
					if err != nil {
						return err
					}
					figures[i] = append(figures[i], perSecond)
				}
			}
			for i, p := range places {
				peer, durable := p.peer, p.durable
				if what == opStore {
					peer, durable = p.mapped, true
				}
				name := what
				if what == opCreate {
					name = "create or unlink"
				}
				s.add(name+", against client processes", peer, "1/s", figures[i], clients, "clients", durable)
			}
		}
	}
	return nil
}

// together returns how many operations per second so many processes do, which begin at the same time. Without a socket they
// work in a directory.
func (s *scale) together(ctx context.Context, o LoadOptions, clients int64) (perSecond float64, err error) {
	dir, err := os.MkdirTemp(s.dir, "load-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.Socket == "" {
		o.Dir = dir
	}
	gate, open, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer gate.Close()
	defer open.Close()
	o.Gate = true
	var all []*child.Process
	for i := range clients {
		o.Name = fmt.Sprintf("%s-%d", filepath.Base(dir), i)
		p, err := s.children.Start("a client", []*os.File{gate}, o.args()...)
		if err != nil {
			return 0, err
		}
		defer p.Kill()
		all = append(all, p)
	}
	for _, p := range all {
		if _, err := p.Line(ctx); err != nil { // it is ready
			return 0, err
		}
	}
	if err := open.Close(); err != nil {
		return 0, err
	}
	for _, p := range all {
		n, err := count(ctx, p)
		if err != nil {
			return 0, err
		}
		perSecond += float64(n) / o.Time.Seconds()
	}
	return perSecond, nil
}

// count is what a client prints in the end.
func count(ctx context.Context, p *child.Process) (int, error) {
	line, err := p.Line(ctx)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(line)
	return n, errors.Join(err, p.Wait(ctx))
}

func (o *LoadOptions) args() []string {
	return []string{
		"bench-load", "--socket", o.Socket, "--pool", o.Pool, "--dir", o.Dir, "--name", o.Name, "--what", o.What,
		"--gate=" + strconv.FormatBool(o.Gate), "--time", o.Time.String(),
	}
}
