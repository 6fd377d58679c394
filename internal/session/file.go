package session

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// File is the record of one session. Its methods may be called at the same time from several goroutines.
//
// Invariants, whenever mu is free: at has the position of each record in the file, and no other; free has the positions
// below end that are in no record. Positions count records, from the end of the header.
type File struct {
	dir    *Dir
	slot   int    // immutable
	client Client // immutable
	base   int64  // immutable: length of the header

	mu   sync.Mutex
	f    *os.File    // protected by mu, as is all that follows; nil after Close
	at   map[key]int // where each record is
	free []int
	end  int
}

// Slot is the session's, also for the lock of its client's descriptor.
func (f *File) Slot() int { return f.slot }

// Client is who the session is of.
func (f *File) Client() *Client { return &f.client }

// PutHandle records a handle, or changes its record.
func (f *File) PutHandle(h Handle) error { return f.put(h) }

// PutMapping records a mapping, or changes its record.
func (f *File) PutMapping(m Mapping) error { return f.put(m) }

// PutPin records a pin.
func (f *File) PutPin(p Pin) error { return f.put(p) }

// DropHandle erases the record of a handle. What is not recorded is no error; nor is it in the other Drops.
func (f *File) DropHandle(number uint32) error { return f.drop(Handle{Number: number}.key()) }

// DropMapping erases the record of a mapping. Those of its pins count for nothing from then on, and are to be dropped
// after.
func (f *File) DropMapping(number uint32) error { return f.drop(Mapping{Number: number}.key()) }

// DropPin erases the record of a pin.
func (f *File) DropPin(mapping, number uint32) error {
	return f.drop(Pin{Mapping: mapping, Number: number}.key())
}

// put writes a record: over the one that the same thing has, or else to a free place. When it fails nothing is
// recorded that was not before. EMFILE: there are too many. ENOSPC: the file system of the runtime directory is full.
func (f *File) put(r record) error {
	if !r.valid() {
		return fmt.Errorf("record %+v of a session: %w", r, unix.EINVAL)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	position, known := f.at[r.key()]
	switch {
	case known:
	case len(f.free) > 0:
		position = f.free[len(f.free)-1]
	case f.end == maxRecords:
		return fmt.Errorf("the client has %d handles, mappings and pins, which is as many as can be recorded: %w", f.end, unix.EMFILE)
	default:
		position = f.end
	}
	var b [recordSize]byte
	r.encode(&b)
	seal(&b, (*[16]byte)(&f.client.Nonce), position)
	if err := f.write(position, &b); err != nil {
		return err
	}
	switch {
	case known:
		return nil
	case position == f.end:
		f.end++
	default:
		f.free = f.free[:len(f.free)-1]
	}
	f.at[r.key()] = position
	return nil
}

func (f *File) drop(k key) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	position, known := f.at[k]
	if !known {
		return nil
	}
	if err := f.write(position, &[recordSize]byte{}); err != nil {
		return err
	}
	delete(f.at, k)
	f.free = append(f.free, position)
	return nil
}

// write is the single call that makes a change. mu is held.
func (f *File) write(position int, b *[recordSize]byte) error {
	if f.f == nil {
		return fmt.Errorf("the session has ended: %w", unix.ESHUTDOWN)
	}
	if _, err := f.f.WriteAt(b[:], f.base+int64(position)*recordSize); err != nil {
		return fmt.Errorf("record what a client has: %w", err)
	}
	return nil
}

// Close lets go of the session without ending it: its files stay for the next server. After Remove it does nothing.
func (f *File) Close() error { return f.close(func() error { return nil }) }

// Remove ends the session: its files are gone, and its slot can be used again. After Close it does nothing.
func (f *File) Remove() error { return f.close(func() error { return f.dir.remove(f.slot) }) }

func (f *File) close(then func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f == nil {
		return nil
	}
	err := errors.Join(f.f.Close(), then())
	f.f = nil
	f.dir.release(f.slot)
	return err
}
