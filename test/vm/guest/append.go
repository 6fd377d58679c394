//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pmemfs/pmemfs"
)

// way is a way to make stores durable.
type way struct {
	name  string
	flags pmemfs.MapFlags // of the mapping; 0: the file is written to
	// durable makes n bytes at an offset of the segment durable.
	durable func(s *segment, off, n int) error
}

// ways are those that programs have. Each appends to files of its own.
var ways = []way{
	{"sync", pmemfs.Sync, func(s *segment, off, n int) error { return s.mapping.Persist(off, n) }},
	{"direct", pmemfs.Direct | pmemfs.Populate, func(s *segment, off, n int) error { return s.mapping.Persist(off, n) }},
	{"shared", pmemfs.Shared, func(s *segment, off, n int) error { return s.mapping.Sync(off, n) }},
	{"write", 0, func(s *segment, _, _ int) error { return s.file.Sync() }},
}

// appendRecords appends records to files of a pool until the machine dies, in each way that the pool's medium offers, and
// prints what happens, a line each: "way WAY", for each that there is; "found WAY RECORDS", after it has read back what
// earlier calls have left; then, whenever there are more, "durable WAY RECORDS". The arguments after the pool say how many
// were durable for certain: fewer are an error. Before all that the pool is checked; then it is served.
func appendRecords(args []string) error {
	if len(args) == 0 {
		return errors.New("append: no pool")
	}
	pool := args[0]
	certain, err := parseCertain(args[1:])
	if err != nil {
		return err
	}
	if err := run("pmemfs", "check", pool); err != nil {
		return err
	}
	socket := "/run/" + strings.ReplaceAll(strings.Trim(pool, "/"), "/", "-") + ".sock"
	server, err := serve(pool, socket)
	if err != nil {
		return err
	}
	defer server.Kill()
	fsys, err := pmemfs.Dial(socket, pmemfs.Wait(time.Minute))
	if err != nil {
		return err
	}
	var appenders []*appender
	turn := &sync.Mutex{}
	for _, w := range ways {
		a := &appender{way: w, fsys: fsys}
		if fsys.Info().Medium.Granularity == pmemfs.Page {
			a.turn = turn
		}
		offered := fsys.MapMask()&w.flags == w.flags
		if !offered {
			err = a.refused()
		} else {
			fmt.Println("way", w.name)
			appenders = append(appenders, a)
			err = a.verify(certain[w.name])
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", pool, w.name, err)
		}
	}
	return appendForever(appenders)
}

func parseCertain(args []string) (map[string]uint64, error) {
	certain := map[string]uint64{}
	for _, arg := range args {
		name, text, _ := strings.Cut(arg, "=")
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("append: %s: %w", arg, err)
		}
		certain[name] = n
	}
	return certain, nil
}

// serve starts a server for the pool and waits until it is ready.
func serve(pool, socket string) (*os.Process, error) {
	cmd := exec.Command("pmemfs", "serve", pool, "--socket", socket)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		cmd.Process.Kill()
		return nil, fmt.Errorf("serve %s: %w", pool, err)
	}
	return cmd.Process, nil
}

// appendForever runs the appenders side by side and prints how far they are.
func appendForever(appenders []*appender) error {
	failed := make(chan error)
	for _, a := range appenders {
		go func() { failed <- fmt.Errorf("%s: %w", a.name, a.appendFrom(a.done.Load())) }()
	}
	told := make([]uint64, len(appenders))
	tick := time.NewTicker(2 * time.Millisecond) // the port costs more than a store does
	defer tick.Stop()
	for {
		select {
		case err := <-failed:
			return err
		case <-tick.C:
		}
		for i, a := range appenders {
			if n := a.done.Load(); n > told[i] {
				told[i] = n
				fmt.Println("durable", a.name, n)
			}
		}
	}
}

// Records have recordSize bytes; recordsPerSegment of them are in a file, which is then given up for the next. keep
// segments are kept: with each new one the oldest goes, so that an appender allocates, renames and frees all the time and
// never fills a pool.
const (
	segmentSize       = 128 << 10
	recordsPerSegment = segmentSize / recordSize
	keep              = 4
)

// appender appends records in one way. Record number n is in segment n / recordsPerSegment.
type appender struct {
	way
	fsys *pmemfs.FS
	done atomic.Uint64 // records that are durable
	// turn is held by the appender that is at work, for turnTime at a time; nil: all are. Behind a page cache one way's
	// fdatasync makes durable what another has stored and forgotten, which would never be seen.
	turn *sync.Mutex
}

const turnTime = 250 * time.Millisecond

// yield lets the others have their turn when that of a is over, and returns when its next one ends.
func (a *appender) yield(end time.Time) time.Time {
	if a.turn == nil || time.Now().Before(end) {
		return end
	}
	if !end.IsZero() {
		a.turn.Unlock()
	}
	a.turn.Lock() // those who wait longest are first
	return time.Now().Add(turnTime)
}

// segment is a file that is being appended to.
type segment struct {
	file    *pmemfs.File
	mapping *pmemfs.Mapping // nil: the file is written to
}

func (s *segment) close() error {
	if s.mapping != nil {
		return errors.Join(s.mapping.Unmap(), s.file.Close())
	}
	return s.file.Close()
}

func (a *appender) segmentName(number uint64) string {
	return fmt.Sprintf("%s.%d", a.name, number%keep)
}

// refused checks that a way which the medium does not offer is refused, and not taken for another.
func (a *appender) refused() error {
	f, err := a.fsys.OpenFile("refused", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(segmentSize)
	if err == nil {
		if _, err = f.Map(0, segmentSize, a.flags); errors.Is(err, syscall.EOPNOTSUPP) {
			err = nil
		} else {
			err = fmt.Errorf("a mapping that the mask does not offer: %v instead of EOPNOTSUPP", err)
		}
	}
	return errors.Join(err, f.Close(), a.fsys.Remove("refused"))
}

// verify reads all segments back. certain records are known to be durable; more may be there. What is there must be all
// records up to some number, each intact, but for the last one, which may have been under way, and for those of segments
// that were given up.
func (a *appender) verify(certain uint64) error {
	next := uint64(0) // number of the first record that is not there
	var kept [keep][]byte
	for i := range kept {
		content, err := a.fsys.ReadFile(a.segmentName(uint64(i)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		kept[i] = content
		for off := 0; off+recordSize <= len(content); off += recordSize {
			if n, intact := parseRecord(a.name, content[off:off+recordSize]); intact {
				next = max(next, n+1)
			}
		}
	}
	if next < certain {
		return fmt.Errorf("%d records were durable, only %d are there", certain, next)
	}
	// The segment after the last one with a record may have replaced the oldest already.
	first := uint64(0)
	if inUse := (next + recordsPerSegment - 1) / recordsPerSegment; inUse > keep-1 {
		first = (inUse - (keep - 1)) * recordsPerSegment
	}
	for n := first; n < next; n++ {
		content, off := kept[n/recordsPerSegment%keep], int(n%recordsPerSegment)*recordSize
		if off+recordSize > len(content) {
			return fmt.Errorf("record %d of %d (%s, offset %d) is not there", n, next, a.segmentName(n/recordsPerSegment), off)
		}
		if got, intact := parseRecord(a.name, content[off:off+recordSize]); !intact || got != n {
			return fmt.Errorf("record %d of %d (%s, offset %d) is damaged", n, next, a.segmentName(n/recordsPerSegment), off)
		}
	}
	fmt.Println("found", a.name, next)
	a.done.Store(next)
	return nil
}

// open opens a segment, or begins it: under another name, for it replaces the oldest when it is ready.
func (a *appender) open(number uint64, begin bool) (s *segment, err error) {
	name := a.segmentName(number)
	if begin {
		name = a.name + ".new"
	}
	s = &segment{}
	if s.file, err = a.fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if begin {
		for _, size := range []int64{0, segmentSize} { // a crash may have left one
			err = errors.Join(err, s.file.Truncate(size))
		}
		err = errors.Join(err, a.fsys.Rename(name, a.segmentName(number)))
	}
	if err == nil && a.flags != 0 {
		s.mapping, err = s.file.Map(0, segmentSize, a.flags)
	}
	return s, err
}

// appendFrom appends records from a number on until something fails.
func (a *appender) appendFrom(n uint64) error {
	s, err := a.open(n/recordsPerSegment, n%recordsPerSegment == 0)
	if err != nil {
		return err
	}
	var record [recordSize]byte
	for end := (time.Time{}); ; {
		end = a.yield(end)
		makeRecord(record[:], a.name, n)
		off := int(n%recordsPerSegment) * recordSize
		if s.mapping != nil {
			err = pmemfs.Catch(func() { copy(s.mapping.Bytes()[off:], record[:]) })
		} else {
			_, err = s.file.WriteAt(record[:], int64(off))
		}
		if err == nil {
			err = a.durable(s, off, recordSize)
		}
		if err != nil {
			return fmt.Errorf("record %d: %w", n, err)
		}
		n++
		a.done.Store(n)
		if n%recordsPerSegment == 0 {
			if err := s.close(); err != nil {
				return err
			}
			if s, err = a.open(n/recordsPerSegment, true); err != nil {
				return err
			}
		}
	}
}
