package demo

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// word is a place in the memory that the demo shares with a writer.
type word int

const (
	acknowledged word = iota // records that were acknowledged: stored by the writer after Persist, with no system call
	budget                   // the demo's: the writer waits when it has acknowledged as many
	stop                     // the demo's: not 0: the writer ends
	sessions                 // how often the writer has connected, verified everything, and gone on
	found                    // records that it then found
	lost                     // acknowledged records that it then did not find
	caught                   // accesses beyond the end of a file that was cut off, which became errors
	served                   // the process of the server that the writer is connected to
	rotations                // how often it renamed the file that it had mapped, and began another
	words
)

const sharedPage = 4096 // bytes for each writer

// shared is memory of the demo and its writers, by way of a descriptor that they inherit. It outlives them all, as
// whoever receives acknowledgements outlives who gives them.
type shared struct {
	file *os.File
	mem  []byte
}

// newShared makes the memory.
func newShared(writers int) (*shared, error) {
	fd, err := unix.MemfdCreate("pmemfs-demo", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "acknowledgements")
	if err := f.Truncate(int64(writers) * sharedPage); err != nil {
		f.Close()
		return nil, err
	}
	return mapShared(f, writers)
}

// mapShared maps it, and takes ownership of f.
func mapShared(f *os.File, writers int) (*shared, error) {
	mem, err := unix.Mmap(int(f.Fd()), 0, writers*sharedPage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("mmap the acknowledgements: %w", err)
	}
	return &shared{f, mem}, nil
}

func (s *shared) close() {
	unix.Munmap(s.mem)
	s.file.Close()
}

// at returns a writer's word.
func (s *shared) at(writer int, w word) *atomic.Uint64 {
	// The page begins at a multiple of its size, and the slice keeps w in it.
	page := s.mem[writer*sharedPage:][:sharedPage]
	return (*atomic.Uint64)(unsafe.Pointer(&page[int(w)*8]))
}

// sum adds up a word of all writers.
func (s *shared) sum(w word) (n uint64) {
	for i := range len(s.mem) / sharedPage {
		n += s.at(i, w).Load()
	}
	return n
}
