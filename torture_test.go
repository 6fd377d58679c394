package pmemfs_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
)

// The torture: processes with several goroutines each count in words of their own, side by side in the pages of one
// file, while the file's blocks are moved, and its tail (which they store to, too) is cut off and grown again, and
// other files come and go in the blocks that this sets free. Nothing counted may be lost, and no word of another file
// may ever be seen.
const (
	torturePages   = 64 // with counters: moved, never cut off
	tortureTail    = 64 // pages behind them, cut off and grown again
	tortureWriters = 3
	tortureThreads = 4
	tortureSlot    = 64 // bytes of a counter: a line, so that each is persisted by itself

	tailTag  = 0x7461696c00000000 // what is stored to the tail
	otherTag = 0x6f74686572000000 // what fills other files
)

func init() { roles["torturer"] = torturerRole }

func tortureTime() time.Duration {
	if testing.Short() {
		return 3 * time.Second
	}
	return 30 * time.Second
}

// torturerRole counts until its input ends, then says what it counted: SOCKET FILE INDEX.
func torturerRole(args []string, in *bufio.Scanner) error {
	fsys, f, err := dialFile(args[0], args[1])
	if err != nil {
		return err
	}
	defer fsys.Close()
	index, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	m, err := f.Map(0, (torturePages+tortureTail)*page, pmemfs.Sync)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	var (
		stop   atomic.Bool
		all    sync.WaitGroup
		totals [tortureThreads]uint64
		failed [tortureThreads]error
	)
	for i := range tortureThreads {
		all.Go(func() { totals[i], failed[i] = torturer(m, index*tortureThreads+i, &stop) })
	}
	for in.Scan() {
	}
	stop.Store(true)
	all.Wait()
	if err := errors.Join(failed[:]...); err != nil {
		return err
	}
	for _, n := range totals {
		fmt.Println(n)
	}
	return nil
}

// torturer is one goroutine: it counts in slot id of the pages.
func torturer(m *pmemfs.Mapping, id int, stop *atomic.Bool) (total uint64, err error) {
	var counted [torturePages]uint64
	r := rand.New(rand.NewPCG(uint64(id), 1))
	b := m.Bytes()
	for !stop.Load() {
		p := r.IntN(torturePages)
		word := b[p*page+id*tortureSlot:][:8]
		if got := binary.LittleEndian.Uint64(word); got != counted[p] {
			return 0, fmt.Errorf("counter %d of page %d is %d after %d", id, p, got, counted[p])
		}
		counted[p]++
		total++
		binary.LittleEndian.PutUint64(word, counted[p])
		if err := m.Persist(p*page+id*tortureSlot, 8); err != nil {
			return 0, err
		}
		if r.IntN(64) == 0 {
			if err := tortureTailOnce(m, id, r); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

// tortureTailOnce stores to the tail and looks at it. Beyond the end of the file that is an error; elsewhere there
// are zeros or what has been stored to the tail.
func tortureTailOnce(m *pmemfs.Mapping, id int, r *rand.Rand) error {
	at := (torturePages+r.IntN(tortureTail))*page + id*tortureSlot
	// One load and one store: the race detector makes eight of encoding/binary's, and a cut may come between them.
	word := (*uint64)(unsafe.Pointer(&m.Bytes()[at]))
	var seen uint64
	err := pmemfs.Catch(func() {
		seen = *word
		*word = tailTag | uint64(id)
	})
	var fault *pmemfs.FaultError
	if err != nil && !errors.As(err, &fault) {
		return err
	}
	if err == nil && seen != 0 && seen != tailTag|uint64(id) {
		return fmt.Errorf("slot %d at %d of the tail holds %#x", id, at, seen)
	}
	return nil
}

// tortureFile moves, cuts and grows the file until ctx ends, and lets other files use what becomes free.
func tortureFile(ctx context.Context, fsys *pmemfs.FS, f *pmemfs.File) (rounds int, err error) {
	other := make([]byte, tortureTail*page)
	for i := 0; i < len(other); i += 8 {
		binary.LittleEndian.PutUint64(other[i:], otherTag)
	}
	r := rand.New(rand.NewPCG(7, 7))
	for ; ctx.Err() == nil; rounds++ {
		first := r.Int64N(torturePages)
		name := fmt.Sprintf("other-%d", rounds%4)
		steps := []func() error{
			func() error { return f.Relocate(first*page, (1+r.Int64N(torturePages-first))*page) },
			func() error { return f.Truncate((torturePages + r.Int64N(tortureTail)) * page) },
			func() error { return fsys.WriteFile(name, other[:r.IntN(len(other))], 0o600) },
			func() error { return f.Truncate((torturePages + tortureTail) * page) },
			func() error { return f.PunchHole((torturePages+r.Int64N(tortureTail))*page, page) },
			func() error { return fsys.Remove(name) },
		}
		for _, step := range steps {
			if err := step(); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return rounds, err
			}
		}
	}
	return rounds, nil
}

func TestTorture(t *testing.T) {
	pool := newPool(t)
	socket, srv := serve(t, pool)
	fsys := dial(t, socket)
	f := sized(t, fsys, "counters", (torturePages+tortureTail)*page)
	var writers []*pooltest.Child
	for i := range tortureWriters {
		c := pooltest.Start(t, "torturer", socket, "counters", strconv.Itoa(i))
		c.Expect("ready")
		writers = append(writers, c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), tortureTime())
	defer cancel()
	rounds, err := tortureFile(ctx, fsys, f)
	must(t, err)
	totals := make([]uint64, tortureWriters*tortureThreads)
	var all uint64
	for i, c := range writers {
		c.In.Close()
		for j := range tortureThreads {
			n, err := strconv.ParseUint(c.Line(), 10, 64)
			must(t, err)
			totals[i*tortureThreads+j] = n
			all += n
		}
		must(t, c.Cmd.Wait())
	}
	fsys.Close()
	srv.Kill() // everything was persisted
	data, err := openPool(t, pool).ReadFile("counters")
	must(t, err)
	for id, want := range totals {
		var got uint64
		for p := range torturePages {
			got += binary.LittleEndian.Uint64(data[p*page+id*tortureSlot:])
		}
		if got != want {
			t.Errorf("writer %d counted %d, the file says %d", id, want, got)
		}
	}
	t.Logf("%d durable increments, %d rounds of moving, cutting and growing", all, rounds)
	if all == 0 || rounds == 0 {
		t.Error("nothing happened")
	}
}
