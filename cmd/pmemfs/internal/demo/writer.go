package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

const (
	// scratchName is a file that every writer has mapped and stores to while the demo cuts it off and lets it grow.
	scratchName = "writers/scratch"
	scratchSize = 64 << 10
	// patience is how long anybody waits for a server or a writer.
	patience = 30 * time.Second
)

// WriterOptions are what a writer process is told.
type WriterOptions struct {
	Socket  string
	Index   int
	Writers int      // how many there are
	Shared  *os.File // the memory of acknowledgements; owned by Writer
}

// writer appends records to a file that it has mapped.
type writer struct {
	WriterOptions
	shared *shared
	buf    []byte
	place

	fsys    *pmemfs.FS
	flags   pmemfs.MapFlags
	batch   uint64 // records that are made durable together
	file    *pmemfs.File
	mapping *pmemfs.Mapping
	scratch *pmemfs.Mapping
}

// Writer appends records until the demo says stop, over the crashes of servers: where the next server takes its
// mappings over, it does not even notice; else it connects anew. It is the whole life of a process.
func Writer(ctx context.Context, o WriterOptions) error {
	s, err := mapShared(o.Shared, o.Writers)
	if err != nil {
		return err
	}
	defer s.close()
	w := &writer{WriterOptions: o, shared: s}
	for ctx.Err() == nil && w.word(stop) == 0 {
		err := w.session(ctx)
		if err != nil && !errors.Is(err, pmemfs.ErrServerGone) {
			return err
		}
	}
	return ctx.Err()
}

func (w *writer) word(which word) uint64 { return w.shared.at(w.Index, which).Load() }
func (w *writer) count(which word)       { w.shared.at(w.Index, which).Add(1) }

// session is what a writer does with one server: connect, verify, append until the server is gone or it is told to
// stop.
func (w *writer) session(ctx context.Context) error {
	if err := w.connect(ctx); err != nil {
		return err
	}
	defer w.fsys.Close() // of no consequence: what matters is durable
	if err := w.verify(); err != nil {
		return err
	}
	if err := w.openScratch(); err != nil {
		return err
	}
	if err := w.openCurrent(); err != nil {
		return err
	}
	w.count(sessions)
	w.noteServer()
	return w.write(ctx)
}

// connect dials until somebody answers: a server can be killed while it says hello.
func (w *writer) connect(ctx context.Context) (err error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		w.fsys, err = pmemfs.Dial(w.Socket, pmemfs.Wait(patience))
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		return err
	}
	w.flags, w.batch = pmemfs.Sync, 1
	if w.fsys.MapMask()&pmemfs.Sync == 0 {
		w.flags, w.batch = pmemfs.Shared, 256 // each takes a system call and a write to the disk
	}
	return nil
}

// verify reads everything back. What was acknowledged must be there.
func (w *writer) verify() error {
	p, err := find(w.fsys, w.Index)
	if err != nil {
		return err
	}
	w.place = p
	w.shared.at(w.Index, found).Store(p.sequence)
	acked := w.word(acknowledged)
	if p.sequence < acked {
		w.shared.at(w.Index, lost).Add(acked - p.sequence)
		return fmt.Errorf("writer %d: %d records were acknowledged, only %d are there (the next would be in segment %d at offset %d)",
			w.Index, acked, p.sequence, p.segment, p.offset)
	}
	return nil
}

// openCurrent opens and maps the file that records go to, and makes it if there is none.
func (w *writer) openCurrent() (err error) {
	if err := w.fsys.MkdirAll(writerDir(w.Index), 0o755); err != nil {
		return err
	}
	current := path.Join(writerDir(w.Index), currentName)
	if w.file, err = w.fsys.OpenFile(current, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return err
	}
	if err = w.file.Truncate(segmentSize); err != nil {
		return err
	}
	w.mapping, err = w.file.Map(0, segmentSize, w.flags)
	return err
}

// rotate gives the full file its final name while it is mapped, and begins another.
func (w *writer) rotate() error {
	if err := w.fsys.Rename(w.file.Name(), segmentName(w.Index, w.segment)); err != nil {
		return err
	}
	w.segment, w.offset = w.segment+1, 0
	if err := errors.Join(w.mapping.Unmap(), w.file.Close()); err != nil {
		return err
	}
	w.count(rotations)
	return w.openCurrent()
}

func (w *writer) openScratch() error {
	f, err := w.fsys.OpenFile(scratchName, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	w.scratch, err = f.Map(0, scratchSize, w.flags)
	return errors.Join(err, f.Close()) // the mapping lives on
}

// write appends records. Those that are stored and not yet acknowledged are made durable first: a process that was
// killed in between has left them so.
func (w *writer) write(ctx context.Context) error {
	if err := w.acknowledge(0); err != nil {
		return err
	}
	from := w.offset
	for w.word(stop) == 0 && ctx.Err() == nil {
		if w.sequence >= w.word(budget) {
			// The store is how a writer that has nothing to do notices that its server is gone for good.
			if err := errors.Join(w.acknowledge(from), w.scribble()); err != nil {
				return err
			}
			from = w.offset
			w.noteServer()
			time.Sleep(200 * time.Microsecond)
			continue
		}
		if !w.fits(w.Index) {
			if err := errors.Join(w.acknowledge(from), w.rotate()); err != nil {
				return err
			}
			from = 0
		}
		if err := w.store(); err != nil {
			return err
		}
		if w.sequence-w.word(acknowledged) >= w.batch {
			if err := w.acknowledge(from); err != nil {
				return err
			}
			from = w.offset
		}
		if w.sequence%256 == 0 {
			if err := w.scribble(); err != nil {
				return err
			}
		}
	}
	return w.acknowledge(from)
}

// noteServer says by which server the writer is served: another one has taken it over when that changes in a session.
func (w *writer) noteServer() { w.shared.at(w.Index, served).Store(uint64(w.fsys.Info().PID)) }

// store stores the next record, which nobody may rely on yet.
func (w *writer) store() error {
	w.buf = appendRecord(w.buf[:0], w.Index, w.sequence)
	if err := pmemfs.Catch(func() { copy(w.mapping.Bytes()[w.offset:], w.buf) }); err != nil {
		return err
	}
	w.offset += len(w.buf)
	w.sequence++
	return nil
}

// acknowledge makes what was stored from an offset on durable and says so. With a Sync mapping neither takes a system
// call.
func (w *writer) acknowledge(from int) error {
	makeDurable := w.mapping.Persist
	if w.flags&pmemfs.Sync == 0 {
		makeDurable = w.mapping.Sync
	}
	if err := makeDurable(from, w.offset-from); err != nil {
		return err
	}
	w.shared.at(w.Index, acknowledged).Store(w.sequence)
	return nil
}

// scribble stores to a file that may just have been cut off: an error then, which is no reason to give up.
func (w *writer) scribble() error {
	at := w.sequence * 64 % scratchSize
	err := pmemfs.Catch(func() { w.scratch.Bytes()[at]++ })
	if errors.Is(err, unix.ENXIO) {
		w.count(caught)
		return nil
	}
	return err
}
