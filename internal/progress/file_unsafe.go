package progress

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Size is the length of a page's file in bytes.
const Size = int64(unsafe.Sizeof(words{}))

// Create makes the page of a server over a file, which is made as long as need be. What an earlier server has left there
// goes on to hold for clients that still have it: at worst something looks pending that is not.
func Create(file *os.File) (*Page, error) {
	if err := file.Truncate(Size); err != nil {
		return nil, fmt.Errorf("progress page: %w", err)
	}
	p, err := mapFile(file, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return nil, err
	}
	for i := range p.words.slots {
		p.words.slots[i].times.Store(0)
	}
	return p, nil
}

// Open maps the page of somebody else's server, for Pending only.
func Open(file *os.File) (*Page, error) {
	st, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() < Size {
		return nil, fmt.Errorf("progress page: %d bytes, not %d: client and server are of different versions", st.Size(), Size)
	}
	return mapFile(file, unix.PROT_READ)
}

func mapFile(file *os.File, prot int) (*Page, error) {
	b, err := unix.Mmap(int(file.Fd()), 0, int(Size), prot, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return &Page{words: (*words)(unsafe.Pointer(&b[0])), region: b}, nil
}

// Close unmaps the page. Nobody may use it any more.
func (p *Page) Close() error {
	if p.region == nil {
		return nil
	}
	b := p.region
	p.region = nil
	return unix.Munmap(b)
}
