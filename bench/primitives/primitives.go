// Package primitives compares package pmem with PMDK's libpmem, and both with the bare instructions.
package primitives

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/report"
	"github.com/pmemfs/pmemfs/pmem"
)

const (
	fileSize   = 256 << 20 // bytes: far more than the caches hold
	near       = 256 << 10 // bytes: what the second-level cache holds
	sourceSize = 2 << 20   // bytes: of the longest copy
)

// Peers, as rows name them.
const (
	ours    = "pmem"
	libpmem = "libpmem"
	limit   = "bare instructions"
	plain   = "memcpy"
)

// ErrUnavailable says that libpmem cannot be had here; the error says why.
var ErrUnavailable = errors.New("it takes gcc and libpmem (apt-get install gcc libc6-dev libpmem-dev)")

//go:embed libpmem/libpmem.c
var source []byte

// operation is what is compared: on size bytes, at random places of the first region bytes.
type operation struct {
	name         string // "persist", "copy"
	size, region int
}

// String is what a row says, without the size.
func (o operation) String() string {
	if o.region == fileSize {
		return o.name + ", far"
	}
	return o.name + ", in the cache"
}

func operations() (all []operation) {
	for _, region := range []int{near, fileSize} {
		for _, size := range []int{8, 64, 256, 1 << 10, 4 << 10} {
			all = append(all, operation{"persist", size, region})
		}
		for _, size := range []int{8, 24, 64, 128, 256, 512, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 2 << 20} {
			if size <= region {
				all = append(all, operation{"copy", size, region})
			}
		}
	}
	return all
}

// contender does n times an operation and returns how long that took.
type contender struct {
	peer string
	run  func(o operation, n int) (time.Duration, error)
	ns   []float64 // of one operation, a figure for each round
}

// Measure compares, in a file below dir, which lies in memory: each contender in each round, for about batch of time.
func Measure(ctx context.Context, dir string, rounds int, batch time.Duration) (_ *report.Part, err error) {
	place, err := os.MkdirTemp(dir, "pmemfs-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(place)) }()
	medium, name, err := mapFile(place)
	if err != nil {
		return nil, err
	}
	defer unix.Munmap(medium)
	defer oneCPU()()
	peer, err := startPeer(place, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, peer.close()) }()
	part := &report.Part{Title: "Persistence primitives", Machine: report.ThisMachine()}
	part.Machine.Medium, part.Machine.Emulated = "tmpfs", true
	us, err := newLoop(medium)
	if err != nil {
		return nil, err
	}
	defer unix.Munmap(us.source)
	// Once for the page tables: the first store to a page takes longer.
	all := operation{"persist", 4 << 10, fileSize}
	for _, c := range contenders(all, us, peer) {
		if _, err := c.run(all, 4*fileSize/all.size); err != nil {
			return nil, err
		}
	}
	for _, o := range operations() {
		rows, err := compare(ctx, o, contenders(o, us, peer), rounds, batch)
		if err != nil {
			return nil, fmt.Errorf("%v, %d bytes: %w", o, o.size, err)
		}
		part.Rows = append(part.Rows, rows...)
	}
	return part, nil
}

// contenders are those that do an operation. The limit is the first.
func contenders(o operation, us *loop, peer *peer) []*contender {
	flush, stream := pmem.Methods()
	bare := flush
	switch {
	case o.name == "copy" && o.size < pmem.LineSize:
		bare = "movnti"
	case o.name == "copy":
		bare = stream
	}
	all := []*contender{
		{peer: limit, run: peer.operation(bare)},
		{peer: libpmem, run: peer.operation(o.name)},
		{peer: ours, run: us.run},
	}
	if o.name == "copy" {
		all = append(all, &contender{peer: plain, run: peer.operation(plain)})
	}
	return all
}

// compare lets all take turns; each round begins with another one.
func compare(ctx context.Context, o operation, all []*contender, rounds int, batch time.Duration) ([]report.Row, error) {
	const trial = 100
	n := trial
	for round := -1; round < rounds; round++ {
		var took time.Duration
		for i := range all {
			c := all[(i+max(round, 0))%len(all)]
			// Once for the caches, which others have used before.
			if _, err := c.run(o, n); err != nil {
				return nil, err
			}
			d, err := c.run(o, n)
			if err != nil {
				return nil, err
			}
			took += d
			if round >= 0 {
				c.ns = append(c.ns, float64(d)/float64(n))
			}
		}
		if round < 0 { // it warms up, and tells how many fit into a batch
			n = max(1, int(float64(batch)*trial*float64(len(all))/float64(took)))
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	var rows []report.Row
	for _, c := range all {
		row := report.NewRow(o.String(), c.peer, "ns", c.ns)
		row.X, row.XUnit = float64(o.size), "B"
		row.Durable = c.peer != plain
		row.Compare(report.NewRow("", "", "", all[0].ns).Median)
		rows = append(rows, row)
	}
	return rows, nil
}

// mapFile makes the file that both programs map.
func mapFile(dir string) (medium []byte, name string, err error) {
	f, err := os.Create(filepath.Join(dir, "medium"))
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	if err := f.Truncate(fileSize); err != nil {
		return nil, "", err
	}
	const access, how = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	medium, err = unix.Mmap(int(f.Fd()), 0, fileSize, access, how)
	if err != nil {
		return nil, "", fmt.Errorf("mmap %s: %w", f.Name(), err)
	}
	return medium, f.Name(), nil
}

// oneCPU keeps this goroutine on one CPU, and the processes that it starts, until it is undone: then all find the same
// caches.
func oneCPU() (undo func()) {
	runtime.LockOSThread()
	var before, one unix.CPUSet
	if unix.SchedGetaffinity(0, &before) == nil {
		for cpu := range 1024 {
			if before.IsSet(cpu) {
				one.Zero()
				one.Set(cpu) // the last: interrupts go to the first
			}
		}
		unix.SchedSetaffinity(0, &one)
	}
	return func() {
		unix.SchedSetaffinity(0, &before)
		runtime.UnlockOSThread()
	}
}

// peer is the process of libpmem.c.
type peer struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startPeer builds and starts it.
func startPeer(dir, medium string) (*peer, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("%w, on amd64", ErrUnavailable)
	}
	text, program := filepath.Join(dir, "libpmem.c"), filepath.Join(dir, "libpmem")
	if err := os.WriteFile(text, source, 0o600); err != nil {
		return nil, err
	}
	if out, err := exec.Command("gcc", "-O2", "-Wall", "-Wextra", "-o", program, text, "-lpmem").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: gcc: %w: %s", ErrUnavailable, err, strings.TrimSpace(string(out)))
	}
	p := &peer{cmd: exec.Command(program, medium, fmt.Sprint(fileSize))}
	p.cmd.Env = append(os.Environ(), "PMEM_IS_PMEM_FORCE=1") // it would not take tmpfs for persistent memory
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	return p, p.cmd.Start()
}

// operation has the process do what it calls name.
func (p *peer) operation(name string) func(operation, int) (time.Duration, error) {
	return func(o operation, n int) (d time.Duration, err error) {
		if _, err := fmt.Fprintln(p.in, name, o.size, o.region, n); err != nil {
			return 0, err
		}
		_, err = fmt.Fscanln(p.out, &d)
		return d, err
	}
}

func (p *peer) close() error { return errors.Join(p.in.Close(), p.cmd.Wait()) }
