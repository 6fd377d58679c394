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
// below end that are in no record, and they are zeros. Positions count records, from the end of the header; the file ends
// at end, and what mem has behind it must not be touched.
type File struct {
	dir    *Dir
	slot   int    // immutable
	client Client // immutable
	base   int64  // immutable: length of the header

	mu   sync.Mutex
	f    *os.File    // protected by mu, as is all that follows; nil after Close
	mem  []byte      // the file, mapped, and as much behind it as it can grow
	at   map[key]int // where each record is
	free []int
	end  int
}

// growth is by how many records the file grows: so seldom that it does not matter what that costs.
const growth = 64

// attach maps the file.
func (f *File) attach(file *os.File) (err error) {
	f.f = file
	f.mem, err = unix.Mmap(int(file.Fd()), 0, int(f.base)+maxRecords*recordSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return os.NewSyscallError("mmap", err)
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
//
// Costs no system call, but for one when the file grows and one to change a record, which must not tear.
func (f *File) put(r record) error {
	if !r.valid() {
		return fmt.Errorf("record %+v of a session: %w", r, unix.EINVAL)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return err
	}
	position, known := f.at[r.key()]
	if !known && len(f.free) == 0 {
		if err := f.grow(); err != nil {
			return err
		}
	}
	if !known {
		position = f.free[len(f.free)-1]
	}
	var b [recordSize]byte
	r.encode(&b)
	seal(&b, (*[16]byte)(&f.client.Nonce), position)
	if known {
		return f.write(position, b[:])
	}
	copy(f.record(position), b[:])
	f.free = f.free[:len(f.free)-1]
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
	if err := f.usable(); err != nil {
		return err
	}
	clear(f.record(position))
	delete(f.at, k)
	f.free = append(f.free, position)
	return nil
}

// usable returns ESHUTDOWN after Close. mu is held.
func (f *File) usable() error {
	if f.f == nil {
		return fmt.Errorf("the session has ended: %w", unix.ESHUTDOWN)
	}
	return nil
}

// grow makes free places. mu is held.
func (f *File) grow() error {
	n := min(growth, maxRecords-f.end)
	if n == 0 {
		return fmt.Errorf("the client has %d handles, mappings and pins, which is as many as can be recorded: %w", f.end, unix.EMFILE)
	}
	if err := f.write(f.end, make([]byte, n*recordSize)); err != nil { // not by Truncate: there must be memory for it
		return err
	}
	for position := f.end + n - 1; position >= f.end; position-- {
		f.free = append(f.free, position)
	}
	f.end += n
	return nil
}

func (f *File) offset(position int) int64 { return f.base + int64(position)*recordSize }

// record is the place of a record below end. mu is held.
func (f *File) record(position int) []byte { return f.mem[f.offset(position):][:recordSize] }

// write writes records in a single call. mu is held.
func (f *File) write(position int, b []byte) error {
	if _, err := f.f.WriteAt(b, f.offset(position)); err != nil {
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
	err := errors.Join(unix.Munmap(f.mem), f.f.Close(), then())
	f.f, f.mem = nil, nil
	f.dir.release(f.slot)
	return err
}
