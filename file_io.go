package pmemfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

const (
	// windowBytes is how much of a file WriteTo and ReadFrom map and pin at a time: so much that the requests for that
	// are a small part of the whole, and so little that dozens of transfers stay below what a client may pin, and that
	// whoever wants to move the blocks is refused only for as long as the other side needs for 8 MiB.
	windowBytes = 8 << 20

	// minWindowBytes is from where on a window is faster than the same bytes in messages: BenchmarkTransfer.
	minWindowBytes = 512 << 10
)

// WriteTo writes everything from the file's position to its end to w, and moves the position by what w has taken.
//
// When w is a regular file or a block device (an *os.File, or what has the SyscallConn method of one), it is handed the
// mapped blocks themselves, pinned for that time, in windows of up to 8 MiB: with O_DIRECT the device reads them where they
// are. Meanwhile what would move or free blocks of the window fails with [ErrSealed], in every process. So it is when w is
// a *File. All others (connections, pipes, terminals, encoders) are given copies, because they may take as long as
// they like for a window; so is w where the file has holes, for small parts, and where the file cannot be mapped.
//
// A target opened with O_DIRECT takes whole sectors only, at multiples of the sector. WriteTo writes all whole sectors; for
// what is then left at the end of the file, and for a target whose position is in the middle of a sector, it returns an
// error that says what is misaligned, what the target needs, and what to do. It matches EINVAL.
func (f *File) WriteTo(w io.Writer) (total int64, err error) {
	out := outflow{file: f, to: targetOf(w)}
	for {
		win, err := out.next()
		if win == nil {
			return total, err
		}
		n, err := win.use(func(p []byte) (int, error) { return out.to.write(w, p) })
		f.giveBack(win, n)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// ReadFrom writes everything that r yields at the file's position, or at its end when it was opened with O_APPEND, and
// moves the position. What it returns as written is durable, as with Write.
//
// When r is an *os.File of a regular file or a block device, or a *bytes.Reader, or an *io.LimitedReader of one, it is made
// to read into the mapped blocks themselves, pinned for that time, in windows of up to 8 MiB: with O_DIRECT the device
// stores to them where they are. Meanwhile what would move or free blocks of the window fails with [ErrSealed], in every
// process. The file must be open for reading and writing, and not with O_APPEND. Otherwise, for all other readers, and for
// small parts, the bytes are copied.
//
// A window that reaches beyond the end of the file makes the file longer before it is filled. When r then yields less, or
// fails, the size is set back to the end of what it has yielded, unless somebody else has changed it meanwhile. A
// crash in the middle leaves the windows before it, and in the one under way each aligned 8 bytes as they were (zeros
// where nothing was) or as r has yielded them.
//
// A source opened with O_DIRECT must stand at a multiple of its sector: the EINVAL says so. An odd size does not matter.
func (f *File) ReadFrom(r io.Reader) (total int64, err error) {
	in := inflow{file: f, from: sourceOf(r), r: r}
	for more := true; more && err == nil; {
		var n int
		n, more, err = in.step()
		total += int64(n)
	}
	return total, err
}

// outflow is a WriteTo under way.
type outflow struct {
	file *File
	to   endpoint
	data int64  // as far as has been seen there is no hole between the position and this offset
	buf  []byte // for what is copied
}

// next takes the next bytes of the file, mapped or copied, and moves the position behind them. Nil without an error: the
// file ends here.
func (o *outflow) next() (*window, error) {
	f := o.file
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := o.mappable(); n > 0 {
		// What cannot be mapped, or not now, is copied. If the server or the bytes are gone, reading them will say so.
		if win, err := f.openWindow(f.pos, n, Shared|ReadOnly); err == nil {
			f.pos += n
			return win, nil
		}
	}
	if o.buf == nil {
		o.buf = newBuffer()
	}
	n, err := f.readAt(o.buf, f.pos)
	if n == 0 {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return nil, err
	}
	n = int(o.to.whole(int64(n))) // the rest, and an error, come again the next time
	win := &window{off: f.pos, bytes: o.buf[:n]}
	f.pos += int64(n)
	return win, nil
}

// mappable is how many bytes from the position on can be lent to the target, 0: none. The caller holds file.mu.
//
// A window has no holes, as a rule: while one is pinned nobody else can write into it, and reading a file must not make
// somebody's write to it fail.
func (o *outflow) mappable() int64 {
	pos := o.file.pos
	if !o.to.lends || pos%o.to.memory != 0 || o.file.fsys.MapMask()&Shared == 0 {
		return 0
	}
	if o.data < pos+minWindowBytes {
		hole, err := o.file.SeekHole(pos)
		if err != nil {
			return 0 // beyond the end, or reading will say it
		}
		o.data = hole
	}
	return o.to.portion(o.data - pos)
}

// giveBack sets the position back to what the target has not taken of a window, unless somebody has moved it.
func (f *File) giveBack(win *window, taken int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pos == win.off+int64(len(win.bytes)) {
		f.pos = win.off + int64(taken)
	}
}

// inflow is a ReadFrom under way.
type inflow struct {
	file *File
	from endpoint
	r    io.Reader
	buf  []byte // for what is copied
}

// step transfers what r yields next, mapped or copied. No more: r has ended.
func (in *inflow) step() (n int, more bool, err error) {
	n, mapped, err := in.fillWindow()
	if mapped || err != nil {
		return n, true, err
	}
	if in.buf == nil {
		in.buf = newBuffer()
	}
	n, readErr := in.from.read(in.r, in.buf)
	if n > 0 {
		n, err = in.file.Write(in.buf[:n])
	}
	if errors.Is(readErr, io.EOF) {
		return n, false, err
	}
	if err == nil {
		err = readErr
	}
	return n, true, err
}

// fillWindow reads the next window of r into mapped blocks. It does nothing and returns false when the next bytes must be
// copied.
func (in *inflow) fillWindow() (n int, mapped bool, err error) {
	f := in.file
	f.mu.Lock()
	defer f.mu.Unlock()
	want := in.mappable()
	if want == 0 {
		return 0, false, nil
	}
	ext, err := f.extend(want)
	if err != nil {
		return 0, false, nil // writing says why
	}
	win, err := f.openWindow(f.pos, want, Shared)
	if err != nil {
		return 0, false, ext.undo(0)
	}
	n, err = win.use(func(p []byte) (int, error) {
		n, err := in.from.read(in.r, p)
		if syncErr := win.sync(n); syncErr != nil {
			return 0, syncErr
		}
		return n, err
	})
	if errors.Is(err, io.EOF) {
		err = nil // r says it again
	}
	if n < int(want) {
		if undoErr := ext.undo(n); err == nil {
			err = undoErr
		}
	}
	f.pos += int64(n)
	return n, true, err
}

// mappable is how many bytes from the position on the source can be made to read into the blocks, 0: none. The caller holds
// file.mu.
func (in *inflow) mappable() int64 {
	f := in.file
	if !in.from.lends || f.pos%in.from.memory != 0 || !f.fillable(in.from.direct) {
		return 0
	}
	return in.from.portion(in.from.left(in.r))
}

// fillable says whether ReadFrom may fill mapped blocks. Without a server only a device does: what the CPU copies is faster
// with Write, which is a call then, and streams past the caches what would have to be flushed from them.
func (f *File) fillable(device bool) bool {
	return f.flag&(unix.O_ACCMODE|os.O_APPEND) == os.O_RDWR && f.fsys.MapMask()&Shared != 0 &&
		(device || f.fsys.space.session == nil)
}

// extension is what has been put behind the end of a file for a window that begins at off.
type extension struct {
	file      *File
	off       int64
	from, end int64 // the size before and after; both 0: it was large enough
}

// extend makes the file long enough for n bytes at the position. The caller holds f.mu.
func (f *File) extend(n int64) (extension, error) {
	fi, err := f.Stat()
	if err != nil || f.pos+n <= fi.Size() {
		return extension{}, err
	}
	// Not Truncate, which would cut off what somebody else has put there since.
	return extension{f, f.pos, fi.Size(), f.pos + n}, f.Allocate(f.pos, n, false)
}

// undo takes the extension back, except for the first n bytes of the window.
func (e extension) undo(n int) error {
	if e.end == 0 {
		return nil
	}
	fi, err := e.file.Stat()
	if err != nil || fi.Size() != e.end {
		return err // another size: somebody relies on it
	}
	size := e.from
	if n > 0 {
		size = max(size, e.off+int64(n))
	}
	return e.file.Truncate(size)
}

// newBuffer makes a buffer for one message. It is so large that it begins at a page, as O_DIRECT needs.
func newBuffer() []byte { return make([]byte, wire.MaxData) }

// window is a part of a file on its way: mapped and pinned, or a copy of it.
type window struct {
	off     int64
	bytes   []byte
	mapping *Mapping // nil: a copy
	head    int      // where bytes begins in the mapping
	release func()
}

// openWindow maps and pins n bytes of the file. use ends that.
func (f *File) openWindow(off, n int64, flags MapFlags) (*window, error) {
	release, err := f.fsys.space.keep()
	if err != nil {
		return nil, err
	}
	head := int(off % blockSize)
	m, err := f.mapRange(off-int64(head), head+int(n), flags)
	if err == nil {
		if _, err = m.pin(head, int(n)); err == nil { // Unmap unpins
			return &window{off, m.data[head:], m, head, release}, nil
		}
		err = errors.Join(err, m.Unmap())
	}
	release()
	return nil, err
}

// keep holds the lock of the pool that says that somebody has it mapped: a device may go on with a window's blocks after
// the server has died and this process has let go of all its mappings, and until then no other server may have them.
func (s *addressSpace) keep() (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isGone() || s.opts.Data == nil {
		return nil, ErrServerGone
	}
	fd, err := unix.FcntlInt(s.opts.Data.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return func() { unix.Close(fd) }, nil
}

// use calls f with the bytes, once, and unmaps them. An access that cannot be resolved any more, by f or by the kernel, is
// an error.
func (w *window) use(f func([]byte) (int, error)) (n int, err error) {
	m := w.mapping
	if m == nil {
		return f(w.bytes)
	}
	defer w.release()
	err = pathError("access", m.name, fs.ErrClosed) // so it stays when FS.Close has unmapped it
	// The end of the mapping begins here, so that FS.Close waits for it: else it would give the addresses away under f.
	m.unmap.Do(func() {
		defer func() {
			if endErr := m.end(); err == nil {
				err = pathError("unmap", m.name, endErr)
			}
		}()
		n, err = w.access(f)
	})
	return n, err
}

func (w *window) access(f func([]byte) (int, error)) (n int, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer recoverAccess(&err)
	n, err = f(w.bytes)
	if errors.Is(err, unix.EFAULT) {
		load(w.bytes[n:]) // as the kernel did: it panics, and recoverAccess finds the reason
	}
	return n, err
}

// load loads a byte of each page.
//
//go:noinline
func load(p []byte) (sum byte) {
	for i := 0; i < len(p); i += blockSize {
		sum += p[i]
	}
	return sum
}

// sync makes the first n bytes durable.
func (w *window) sync(n int) error { return w.mapping.Sync(w.head, n) }

// endpoint is the other side of a transfer.
type endpoint struct {
	lends  bool            // it may be handed mapped blocks: it needs them for a bounded time only
	conn   syscall.RawConn // nil: it has no descriptor
	direct bool            // opened with O_DIRECT
	atEnd  bool            // opened with O_APPEND, to write to
	known  bool            // the kernel has told what O_DIRECT needs
	memory int64           // memory must begin at a multiple of it; 1 unless direct
	sector int64           // offsets and lengths must be multiples of it; 1 unless direct
}

// targetOf looks at what WriteTo writes to.
func targetOf(w io.Writer) endpoint {
	switch w := w.(type) {
	case *File:
		return endpoint{lends: true, memory: 1, sector: 1}
	case syscall.Conn:
		return descriptorOf(w)
	}
	return endpoint{memory: 1, sector: 1}
}

// sourceOf looks at what ReadFrom reads from. Readers that are not known are copied from, because a reader may use all of
// the slice that it is given, whatever it returns, and behind what it returns there may be data of the file.
func sourceOf(r io.Reader) endpoint {
	switch r := r.(type) {
	case *io.LimitedReader:
		return sourceOf(r.R)
	case *bytes.Reader:
		return endpoint{lends: true, memory: 1, sector: 1}
	case *os.File:
		e := descriptorOf(r)
		e.atEnd = false
		return e
	}
	return endpoint{memory: 1, sector: 1}
}

// directAlignment is enough for O_DIRECT wherever the kernel does not tell.
const directAlignment = 4096

func descriptorOf(c syscall.Conn) endpoint {
	e := endpoint{memory: 1, sector: 1}
	conn, err := c.SyscallConn()
	if err != nil {
		return e
	}
	conn.Control(func(fd uintptr) { // an error: it is closed, and reading or writing will say so
		var st unix.Stat_t
		flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if err != nil || unix.Fstat(int(fd), &st) != nil {
			return
		}
		e.conn, e.atEnd = conn, flags&unix.O_APPEND != 0
		e.lends = st.Mode&unix.S_IFMT == unix.S_IFREG || st.Mode&unix.S_IFMT == unix.S_IFBLK
		if flags&unix.O_DIRECT == 0 {
			return
		}
		e.direct, e.memory, e.sector = true, directAlignment, directAlignment
		var sx unix.Statx_t
		err = unix.Statx(int(fd), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &sx)
		if err == nil && sx.Mask&unix.STATX_DIOALIGN != 0 && sx.Dio_mem_align != 0 && sx.Dio_offset_align != 0 {
			e.known, e.memory, e.sector = true, int64(sx.Dio_mem_align), int64(sx.Dio_offset_align)
		}
	})
	return e
}

// portion is how much of n bytes makes a window, 0: they are too few.
func (e *endpoint) portion(n int64) int64 {
	if n < minWindowBytes {
		return 0
	}
	return e.whole(min(n, windowBytes))
}

// whole is what of n bytes can be transferred at once: whole sectors, or the rest that is less than one.
func (e *endpoint) whole(n int64) int64 {
	if n < e.sector {
		return n
	}
	return n - n%e.sector
}

// left is how many bytes r, the endpoint's reader, will yield, as far as can be told: 0 when it cannot.
func (e *endpoint) left(r io.Reader) int64 {
	switch r := r.(type) {
	case *io.LimitedReader:
		return min(max(r.N, 0), e.left(r.R))
	case *bytes.Reader:
		return int64(r.Len())
	}
	size, at := e.look()
	return max(size-at, 0)
}

// look returns the size and the position of what is behind the descriptor.
func (e *endpoint) look() (size, at int64) {
	if e.conn == nil {
		return 0, 0
	}
	e.conn.Control(func(fd uintptr) {
		var st unix.Stat_t
		if err := unix.Fstat(int(fd), &st); err != nil {
			return
		}
		size = st.Size
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			size = blockDeviceSize(uint64(st.Rdev))
		}
		at, _ = unix.Seek(int(fd), 0, io.SeekCurrent)
	})
	return size, at
}

// blockDeviceSize is 0 when it cannot be found out. It is taken from sysfs, in units of 512 bytes whatever the sector, because
// a seek to the end would move the position that others may share.
func blockDeviceSize(device uint64) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/size", unix.Major(device), unix.Minor(device)))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0
	}
	return n * 512
}

// write hands p to w.
func (e *endpoint) write(w io.Writer, p []byte) (int, error) {
	if dst, ok := w.(*File); ok && dst.fillable(false) {
		n, err := dst.ReadFrom(bytes.NewReader(p))
		return int(n), err
	}
	n, err := w.Write(p)
	if n < 0 || n > len(p) {
		return 0, errors.Join(errors.New("the writer returned an impossible count"), err)
	}
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, e.explain(err, p[n:])
}

// read fills p from r until r fails or ends. From a limited reader with O_DIRECT it takes the whole sectors first.
func (e *endpoint) read(r io.Reader, p []byte) (n int, err error) {
	if l, ok := r.(*io.LimitedReader); ok && 0 < l.N && l.N < int64(len(p)) {
		p = p[:e.whole(l.N)]
	}
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, e.explain(err, p[n:])
}

// explain says what of a transfer of p was misaligned for O_DIRECT, when it failed for that.
func (e *endpoint) explain(err error, p []byte) error {
	if !e.direct || !errors.Is(err, unix.EINVAL) || len(p) == 0 {
		return err
	}
	size, at := e.look()
	if e.atEnd {
		at = size
	}
	var wrong []string
	if address := reflect.ValueOf(p).Pointer(); int64(address)%e.memory != 0 {
		wrong = append(wrong, fmt.Sprintf("the memory is at %#x", address))
	}
	if at%e.sector != 0 {
		wrong = append(wrong, fmt.Sprintf("its position is %d: seek to a multiple first", at))
	}
	if n := int64(len(p)); n%e.sector != 0 {
		wrong = append(wrong, fmt.Sprintf("%d bytes remain: transfer the last %d by a descriptor without O_DIRECT", n, n%e.sector))
	}
	if wrong == nil {
		return err
	}
	who := "statx(2) says"
	if !e.known {
		who = "the kernel does not say, but 4096 always does"
	}
	return &detailed{fmt.Sprintf("%v: O_DIRECT needs memory at multiples of %d bytes, positions and lengths that are multiples "+
		"of %d (%s), and %s", err, e.memory, e.sector, who, strings.Join(wrong, ", and ")), err}
}
