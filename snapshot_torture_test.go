package pmemfs_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
)

// The torture of snapshots: processes store numbers through Sync mappings, each the same number to all of its places, one after
// the other, in several files, before it goes on to the next number; while snapshots are taken, removed, and the server is killed.
// Each snapshot must be what one instant of each writer has left, whenever and by whom it is looked at.
const (
	cutWriters = 8
	cutFiles   = 3
	cutSlots   = 4 // pages of a file, with a place in each
)

func init() { roles["sequence writer"] = sequenceWriterRole }

func cutFile(writer, file int) string { return fmt.Sprintf("writer-%d/file-%d", writer, file) }

// sequenceWriterRole stores numbers until its input ends, then says the last one: SOCKET WRITER.
func sequenceWriterRole(args []string, in *bufio.Scanner) error {
	writer, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	fsys, err := pmemfs.Dial(args[0], pmemfs.Reconnect(time.Minute))
	if err != nil {
		return err
	}
	defer fsys.Close()
	var maps [cutFiles]*pmemfs.Mapping
	for i := range maps {
		f, err := fsys.OpenFile(cutFile(writer, i), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if maps[i], err = f.Map(0, cutSlots*page, pmemfs.Sync); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	var stop atomic.Bool
	go func() {
		for in.Scan() {
		}
		stop.Store(true)
	}()
	last := uint64(0)
	err = pmemfs.Catch(func() {
		for ; !stop.Load(); last++ {
			if last%64 == 0 {
				time.Sleep(time.Millisecond) // more writers than CPUs: else one snapshot waits for each to have its turn
			}
			for slot := range cutSlots {
				for _, m := range maps {
					word := m.Bytes()[slot*page+writer*64:]
					if got := binary.LittleEndian.Uint64(word); got != last {
						panic(fmt.Sprintf("writer %d: slot %d holds %d after %d", writer, slot, got, last))
					}
					binary.LittleEndian.PutUint64(word, last+1)
					if err := m.Persist(slot*page+writer*64, 8); err != nil {
						panic(err)
					}
				}
			}
		}
	})
	fmt.Println(last)
	return err
}

// cut is the number of each writer at an instant, in the first of its places.
type cut [cutWriters]uint64

// readCut reads the files under a prefix, and says what is not of one instant.
func readCut(fsys *pmemfs.FS, prefix string) (c cut, err error) {
	for w := range c {
		var files [cutFiles][]byte
		for i := range files {
			if files[i], err = fsys.ReadFile(prefix + cutFile(w, i)); err != nil {
				return c, err
			}
		}
		first, before := uint64(0), uint64(0)
		for slot := range cutSlots {
			for i := range files {
				got := binary.LittleEndian.Uint64(files[i][slot*page+w*64:])
				if slot+i == 0 {
					first, before = got, got
				}
				if got > before || got+1 < first {
					return c, fmt.Errorf("%s: writer %d: slot %d of file %d has %d, after %d, and the first one %d", prefix, w, slot, i, got, before, first)
				}
				before = got
			}
		}
		c[w] = first
	}
	return c, nil
}

// behind reports a writer that is behind what it has been.
func (c cut) behind(least cut) error {
	for w := range c {
		if c[w] < least[w] {
			return fmt.Errorf("writer %d is at %d, after %d", w, c[w], least[w])
		}
	}
	return nil
}

// snapshotTaker takes snapshots and looks at them.
type snapshotTaker struct {
	t           *testing.T
	fsys        *pmemfs.FS
	taken       map[string]cut // of each that is there
	names       []string       // the oldest first
	last        cut
	count, gone int
}

// take takes one. Its numbers are not before those that were in the files before, nor behind those that are there later. A server
// that is killed may have made it or not.
func (s *snapshotTaker) take() error {
	name := fmt.Sprintf("s%d", s.count)
	s.count++
	now, err := s.firsts()
	if err := errors.Join(err, now.behind(s.last)); err != nil {
		return fmt.Errorf("the files, before snapshot %s: %w", name, err)
	}
	_, err = s.fsys.Snapshot(".", name, 0)
	if errors.Is(err, pmemfs.ErrServerGone) {
		s.gone++
		if _, err := s.fsys.Stat(path.Join(pmemfs.SnapshotsName, name)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		err = nil
	}
	if err != nil {
		return err
	}
	got, err := s.look(name)
	if err := errors.Join(err, got.behind(now)); err != nil {
		return fmt.Errorf("snapshot %s: %w", name, err)
	}
	s.taken[name], s.last = got, got
	s.names = append(s.names, name)
	return nil
}

func (s *snapshotTaker) look(name string) (cut, error) {
	return readCut(s.fsys, inSnapshot(".", name, ""))
}

// firsts reads the first number of each writer.
func (s *snapshotTaker) firsts() (c cut, err error) {
	var word [8]byte
	for w := range c {
		f, err := s.fsys.Open(cutFile(w, 0))
		if err != nil {
			return c, err
		}
		_, err = f.(*pmemfs.File).ReadAt(word[:], int64(w)*64)
		if err = errors.Join(err, f.Close()); err != nil {
			return c, err
		}
		c[w] = binary.LittleEndian.Uint64(word[:])
	}
	return c, nil
}

// verify looks again at all snapshots, of which none may have changed.
func (s *snapshotTaker) verify() {
	s.t.Helper()
	for _, name := range s.names {
		if got, err := s.look(name); err != nil || got != s.taken[name] {
			s.t.Errorf("snapshot %s has %v, it had %v: %v", name, got, s.taken[name], err)
		}
	}
}

// remove removes the oldest.
func (s *snapshotTaker) remove() error {
	name := s.names[0]
	s.names = s.names[1:]
	delete(s.taken, name)
	if err := s.fsys.RemoveSnapshot(".", name); !errors.Is(err, pmemfs.ErrServerGone) {
		return err
	}
	return nil
}

// TestSnapshotTorture: see above.
func TestSnapshotTorture(t *testing.T) {
	d := newDynasty(t)
	s := &snapshotTaker{t: t, fsys: dial(t, d.socket, pmemfs.Reconnect(time.Minute)), taken: map[string]cut{}}
	var writers []*pooltest.Child
	for w := range cutWriters {
		must(t, s.fsys.Mkdir(fmt.Sprintf("writer-%d", w), 0o755))
		for i := range cutFiles {
			must(t, ready(t, s.fsys, cutFile(w, i), cutSlots).Close())
		}
		c := pooltest.Start(t, "sequence writer", d.socket, strconv.Itoa(w))
		c.Expect("ready")
		writers = append(writers, c)
	}
	r := rand.New(rand.NewPCG(3, 9))
	kills := 0
	until := time.Now().Add(tortureTime() / 2)
	for nextKill := time.Now().Add(time.Second); time.Now().Before(until) && !t.Failed(); {
		if time.Now().After(nextKill) { // at any instant of what goes on
			nextKill = time.Now().Add(time.Second + time.Duration(r.IntN(2000))*time.Millisecond)
			busy := make(chan error, 1)
			go func() { busy <- errors.Join(s.take(), s.remove()) }()
			time.Sleep(time.Duration(r.IntN(8000)) * time.Microsecond)
			d.restart()
			kills++
			must(t, <-busy)
			s.verify()
		}
		must(t, s.take())
		if len(s.names) > 30 {
			must(t, s.remove())
		}
		time.Sleep(time.Duration(r.IntN(5)) * time.Millisecond)
	}
	s.verify()
	total := uint64(0)
	for w, c := range writers {
		c.In.Close()
		n, err := strconv.ParseUint(c.Line(), 10, 64)
		must(t, err)
		must(t, c.Cmd.Wait())
		for i := range cutFiles {
			data, err := s.fsys.ReadFile(cutFile(w, i))
			must(t, err)
			for slot := range cutSlots {
				if got := binary.LittleEndian.Uint64(data[slot*page+w*64:]); got != n {
					t.Errorf("writer %d ended with %d, slot %d of file %d has %d", w, n, slot, i, got)
				}
			}
		}
		total += n
	}
	must(t, s.fsys.Close())
	d.finish()
	s.fsys = openPool(t, d.pool)
	s.verify()
	t.Logf("%d snapshots (%d when the server was killed), %d servers killed, %d numbers stored to %d places each", s.count, s.gone, kills, total, cutFiles*cutSlots)
	if s.count < 20 || total < 1000 || kills == 0 {
		t.Error("too little has happened")
	}
}
