package tree

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
)

// Counts says what was copied. Its JSON names are a contract with scripts.
type Counts struct {
	Files       int64    `json:"files"`
	Directories int64    `json:"directories"`
	Symlinks    int64    `json:"symlinks"`
	HardLinks   int64    `json:"hard_links"` // names beyond a file's first
	Bytes       int64    `json:"bytes"`      // of file contents, holes included
	Skipped     []string `json:"skipped"`    // sockets, devices and FIFOs
	Failed      int64    `json:"failed"`     // files that were not copied, or not wholly

	Cloned int64 `json:"cloned,omitempty"` // of files: that share all their blocks with what they are copied from
}

// Copier copies between two sides. The fields up to Failed are set before Copy, and not changed while it runs.
type Copier struct {
	From, To Side
	Workers  int  // files copied at a time; 0: 4
	Owner    bool // keep owner and group
	Plain    bool // keep of modes the permission bits only, and no times
	Reflink  Reflink
	// Copied is called after each piece that was copied, by several goroutines; nil: nobody wants to know.
	Copied func(files, bytes int64)
	// Failed is called for each failure after which the copy goes on with other files, by one goroutine at a time.
	Failed func(error)
	// Skipped is called for each file that cannot be copied because of its type, likewise.
	Skipped func(name string)

	files, bytes, cloned atomic.Int64

	mu     sync.Mutex
	counts Counts // protected by mu
	fatal  error  // protected by mu: why the copy has ended early
	cancel context.CancelFunc
}

// job is a file, link or directory to copy.
type job struct {
	from, to string
	info     fs.FileInfo
}

// link is another name of a file that is copied under the name first.
type link struct{ first, to string }

// run is one call of Copy.
type run struct {
	*Copier
	ctx   context.Context
	jobs  chan job
	seen  map[[2]uint64]string // files with several names: where the first went
	links []link
	dirs  []job     // whose modes and times are set when they are full; parents first
	root  [2]uint64 // the directory that is the copy; zero: there is none, or it cannot lie in what is copied
}

// Copy copies what is called from to the name to, in whole when it is a directory. A directory that is there already is
// filled; a file that is there is replaced. Failures of single files are told to Failed, and the copy goes on; it ends
// early, with an error, when ctx is done or nothing more can be stored. It may be called again, for another tree: the
// counts add up.
func (c *Copier) Copy(ctx context.Context, from, to string) error {
	info, err := c.From.Lstat(from)
	if err != nil {
		c.fail(err)
		return c.ended(ctx)
	}
	ctx, c.cancel = context.WithCancel(ctx)
	defer c.cancel()
	r := &run{Copier: c, ctx: ctx, jobs: make(chan job, 64), seen: map[[2]uint64]string{}}
	var workers sync.WaitGroup
	for range max(c.Workers, 1) {
		workers.Go(func() {
			defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
			r.work()
		})
	}
	r.walk(job{from, to, info})
	close(r.jobs)
	workers.Wait()
	for _, l := range r.links {
		if ctx.Err() == nil {
			c.check(r.link(l))
		}
	}
	for _, d := range slices.Backward(r.dirs) {
		if ctx.Err() == nil {
			c.check(r.attributes(d, d.to))
		}
	}
	return c.ended(ctx)
}

// Counts returns what was copied until now.
func (c *Copier) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.counts
	n.Files, n.Bytes, n.Cloned = c.files.Load(), c.bytes.Load(), c.cloned.Load()
	n.Skipped = append([]string{}, n.Skipped...)
	return n
}

// ended returns why the copy has ended early, nil when it has not.
func (c *Copier) ended(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fatal != nil {
		return c.fatal
	}
	return context.Cause(ctx)
}

func (c *Copier) count(n *int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

func (c *Copier) check(err error) {
	if err != nil {
		c.fail(err)
	}
}

// fail takes note of a failure, and ends the copy if every other file would fail as well.
func (c *Copier) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fatal != nil || errors.Is(err, errStopped) {
		return
	}
	c.counts.Failed++
	for _, hopeless := range []error{unix.ENOSPC, unix.EDQUOT, unix.EROFS, pmemfs.ErrServerGone} {
		if errors.Is(err, hopeless) {
			c.fatal = err
			if c.cancel != nil {
				c.cancel()
			}
			return
		}
	}
	if c.Failed != nil {
		c.Failed(err)
	}
}

// walk makes the directories and hands everything else to the workers.
func (r *run) walk(j job) {
	if r.ctx.Err() != nil {
		return
	}
	if err := r.meetsItself(j); err != nil {
		r.fail(err)
		return
	}
	switch mode := j.info.Mode(); {
	case mode.IsDir():
		r.directory(j)
	case mode.IsRegular():
		if id := identity(r.From, j.info); r.From.Attr(j.info).Links > 1 {
			if first, ok := r.seen[id]; ok {
				r.links = append(r.links, link{first, j.to})
				return
			}
			r.seen[id] = j.to
		}
		r.send(j)
	case mode.Type() == fs.ModeSymlink:
		r.send(j)
	default:
		r.mu.Lock()
		defer r.mu.Unlock()
		r.counts.Skipped = append(r.counts.Skipped, j.from)
		if r.Skipped != nil {
			r.Skipped(j.from)
		}
	}
}

// identity tells files of one side apart.
func identity(s Side, info fs.FileInfo) [2]uint64 {
	a := s.Attr(info)
	return [2]uint64{a.Device, a.Ino}
}

// sameFS says whether a copy could meet itself.
func sameFS(from, to Side) bool {
	p, ok := from.(Pool)
	q, both := to.(Pool)
	return ok && both && p.FS == q.FS
}

// meetsItself refuses to copy a file over itself, and a directory into itself.
func (r *run) meetsItself(j job) error {
	if !sameFS(r.From, r.To) {
		return nil
	}
	id := identity(r.From, j.info)
	if j.info.IsDir() {
		if id == r.root {
			return &Error{Op: "copy", Name: j.from, Offset: -1, Err: errIntoItself}
		}
		return nil
	}
	if there, err := r.To.Lstat(j.to); err == nil && identity(r.To, there) == id {
		return &Error{Op: "copy", Name: j.from, Offset: -1, Err: errOverItself}
	}
	return nil
}

var (
	errIntoItself = fmt.Errorf("a directory cannot be copied into itself: %w", unix.EINVAL)
	errOverItself = fmt.Errorf("a file cannot be copied over itself: %w", unix.EINVAL)
)

func (r *run) send(j job) {
	select {
	case r.jobs <- j:
	case <-r.ctx.Done():
	}
}

func (r *run) directory(j job) {
	err := r.To.Mkdir(j.to)
	if errors.Is(err, fs.ErrExist) {
		stat := r.To.Lstat // so that nothing in the destination leads out of it
		if len(r.dirs) == 0 {
			stat = r.To.Stat // but the destination itself is the caller's choice
		}
		if info, statErr := stat(j.to); statErr == nil && info.IsDir() {
			err = nil
		}
	}
	if err != nil {
		r.fail(err)
		return
	}
	if len(r.dirs) == 0 && sameFS(r.From, r.To) {
		info, err := r.To.Stat(j.to)
		if err == nil {
			r.root = identity(r.To, info)
			err = r.meetsItself(j)
		}
		if err != nil {
			r.fail(err)
			return
		}
	}
	r.dirs = append(r.dirs, j)
	r.count(&r.counts.Directories)
	entries, err := r.From.ReadDir(j.from)
	r.check(err)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			r.check(err)
			continue
		}
		r.walk(job{path.Join(j.from, e.Name()), path.Join(j.to, e.Name()), info})
	}
}

func (r *run) work() {
	buf := make([]byte, bufferSize)
	for j := range r.jobs {
		if r.ctx.Err() != nil {
			continue
		}
		if j.info.Mode().IsRegular() {
			r.check(r.file(j, buf))
		} else {
			r.check(r.symlink(j))
		}
	}
}

// temporary is a name that nobody else uses beside name.
func temporary(name string) string {
	return path.Join(path.Dir(name), ".pmemfs-"+strings.ToLower(rand.Text()[:16]))
}

// replacing has a new file made under a temporary name and, when that went well, gives it its own. Otherwise nothing
// is left of it.
func (r *run) replacing(to string, create func(name string) error) error {
	name := temporary(to)
	op, err := "create", create(name)
	if err == nil {
		op, err = "replace", r.To.Rename(name, to)
	}
	if err == nil {
		return nil
	}
	if removeErr := ignoreAbsent(r.To.Remove(name)); removeErr != nil {
		err = errors.Join(err, removeErr)
	}
	return r.named(op, to, name, err)
}

// named is an error with the name that the user knows in place of a temporary one.
func (r *run) named(op, to, name string, err error) error {
	var (
		pathErr *fs.PathError
		linkErr *os.LinkError
	)
	switch {
	case errors.As(err, &pathErr) && path.Base(pathErr.Path) == path.Base(name):
		return &Error{Op: op, Name: to, Offset: -1, Err: pathErr.Err}
	case errors.As(err, &linkErr):
		return &Error{Op: op, Name: to, Offset: -1, Err: linkErr.Err}
	}
	return err
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, pmemfs.ErrServerGone) {
		return nil
	}
	return err
}

func (r *run) symlink(j job) error {
	target, err := r.From.ReadLink(j.from)
	if err != nil {
		return err
	}
	err = r.replacing(j.to, func(name string) error {
		if err := r.To.Symlink(target, name); err != nil {
			return err
		}
		return r.attributes(j, name)
	})
	if err == nil {
		r.count(&r.counts.Symlinks)
	}
	return err
}

// errStopped ends the copy of a file when that of the tree has ended.
var errStopped = errors.New("the copy was stopped")

// link gives a copied file another name. Renaming a name to another of the same file does nothing (rename(2)), so that
// the temporary one must be removed in any case.
func (r *run) link(l link) error {
	name := temporary(l.to)
	err := r.To.Link(l.first, name)
	if err == nil {
		err = errors.Join(r.To.Rename(name, l.to), ignoreAbsent(r.To.Remove(name)))
	}
	if err != nil {
		return r.named("link", l.to, name, err)
	}
	r.count(&r.counts.HardLinks)
	return nil
}

// attributes gives a copy the owner, mode and times of the original. The owner comes first: a change of it clears
// setuid bits.
func (r *run) attributes(j job, name string) error {
	a := r.From.Attr(j.info)
	if r.Owner {
		if err := r.To.Lchown(name, a.UID, a.GID); err != nil {
			return err
		}
	}
	if j.info.Mode().Type() != fs.ModeSymlink {
		mode := j.info.Mode()
		if r.Plain {
			mode = mode.Perm()
		}
		if err := r.To.Chmod(name, mode); err != nil {
			return err
		}
	}
	if r.Plain {
		return nil
	}
	return r.To.Lchtimes(name, a.Atime, j.info.ModTime())
}

func (r *run) file(j job, buf []byte) error {
	in, err := r.From.Open(j.from)
	if err != nil {
		return err
	}
	defer in.Close()
	err = r.replacing(j.to, func(name string) error {
		if err := r.content(j, name, in, buf); err != nil {
			return err
		}
		return r.attributes(j, name)
	})
	if err == nil {
		r.files.Add(1)
		r.copied(1, 0)
	}
	return err
}

func (r *run) copied(files, bytes int64) {
	r.bytes.Add(bytes)
	if r.Copied != nil {
		r.Copied(files, bytes)
	}
}

// content makes the file called name and fills it from in.
func (r *run) content(j job, name string, in Source, buf []byte) (err error) {
	out, err := r.To.Create(name)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := out.Close(); err == nil {
			err = closeErr
		}
	}()
	t := transfer{r, j, in, out, buf}
	switch size := j.info.Size(); {
	case r.Reflink != ReflinkNever:
		return t.reflink()
	case size > sparseFrom:
		return t.sparse(size)
	}
	_, err = t.piece(0, -1)
	return err
}

const (
	bufferSize = 1 << 20
	// sparseFrom is the size in bytes from which on holes are looked for: below, that costs more than it saves.
	sparseFrom = 256 << 10
)

// transfer moves the contents of one file.
type transfer struct {
	*run
	job
	in  Source
	out Target
	buf []byte
}

// sparse copies what is data, and leaves holes where holes are. A file that grows meanwhile is copied as long as
// it was.
func (t transfer) sparse(size int64) error {
	for off := int64(0); off < size; {
		data, err := t.in.SeekData(off)
		if errors.Is(err, unix.ENXIO) {
			data = size
		} else if err != nil {
			return at("read", t.from, off, err)
		}
		t.copied(0, min(data, size)-off)
		if off = data; off >= size {
			break
		}
		hole, err := t.in.SeekHole(off)
		if err != nil {
			return at("read", t.from, off, err)
		}
		if off, err = t.piece(off, min(hole, size)); err != nil {
			return err
		}
	}
	if err := t.out.Truncate(size); err != nil {
		return at("truncate", t.to, size, err)
	}
	return nil
}

// piece copies from off to end, or to the end of the file if end is -1, and returns where it has stopped.
func (t transfer) piece(off, end int64) (int64, error) {
	for end < 0 || off < end {
		if t.ctx.Err() != nil {
			return off, errStopped
		}
		buf := t.buf
		if end >= 0 {
			buf = buf[:min(int64(len(buf)), end-off)]
		}
		n, readErr := t.in.ReadAt(buf, off)
		if _, err := t.out.WriteAt(buf[:n], off); err != nil {
			return off, at("write", t.to, off, err)
		}
		off += int64(n)
		t.copied(0, int64(n))
		switch {
		case errors.Is(readErr, io.EOF) && end >= 0:
			return end, nil // it has become shorter
		case errors.Is(readErr, io.EOF):
			return off, nil
		case readErr != nil:
			return off, at("read", t.from, off, readErr)
		}
	}
	return off, nil
}

// Size counts what a copy of a tree will have to do. Failures are left for the copy to find.
func Size(ctx context.Context, from Side, name string) (files, bytes int64) {
	info, err := from.Lstat(name)
	if err != nil || ctx.Err() != nil {
		return 0, 0
	}
	if info.Mode().IsRegular() {
		return 1, info.Size()
	}
	if !info.IsDir() {
		return 0, 0
	}
	entries, err := from.ReadDir(name)
	if err != nil {
		return 0, 0
	}
	for _, e := range entries {
		f, b := Size(ctx, from, path.Join(name, e.Name()))
		files, bytes = files+f, bytes+b
	}
	return files, bytes
}

// Stream copies everything that in yields to the name to, which is replaced when all is there.
func (c *Copier) Stream(ctx context.Context, in io.Reader, to string, mode fs.FileMode) error {
	// A read of a terminal cannot be interrupted: it goes on by itself, until the process ends.
	reader, writer := io.Pipe()
	go func() {
		_, err := io.Copy(writer, in)
		writer.CloseWithError(err)
	}()
	defer context.AfterFunc(ctx, func() { writer.CloseWithError(context.Cause(ctx)) })()
	defer reader.Close()
	r := &run{Copier: c, ctx: ctx}
	err := r.replacing(to, func(name string) error {
		out, err := c.To.Create(name)
		if err != nil {
			return err
		}
		if err := errors.Join(r.stream(reader, out, to), out.Close()); err != nil {
			return err
		}
		now := time.Now()
		return errors.Join(c.To.Chmod(name, mode), c.To.Lchtimes(name, now, now))
	})
	if err != nil {
		c.count(&c.counts.Failed)
		return err
	}
	c.files.Add(1)
	return nil
}

func (r *run) stream(in io.Reader, out Target, to string) error {
	buf := make([]byte, bufferSize)
	for off := int64(0); ; {
		n, readErr := io.ReadFull(in, buf)
		if _, err := out.WriteAt(buf[:n], off); err != nil {
			return at("write", to, off, err)
		}
		off += int64(n)
		r.copied(0, int64(n))
		switch {
		case errors.Is(readErr, io.EOF), errors.Is(readErr, io.ErrUnexpectedEOF):
			return nil
		case readErr != nil:
			return at("read", "standard input", off, readErr)
		}
	}
}
