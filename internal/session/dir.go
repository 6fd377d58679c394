package session

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is the runtime directory of one pool: the records of its sessions. Its methods may be called at the same time
// from several goroutines. Whoever has it open owns the pool.
type Dir struct {
	*directory

	mu   sync.Mutex
	used [MaxSlots]bool // protected by mu: there is a File
}

// directory is an opened directory that was found to be ours, and locked.
type directory struct {
	path string
	root *os.Root
	lock *os.File
}

// Open opens the directory of the pool that has an identity (medium.Pool.Identity) in a directory for what does not
// outlive the machine, such as /dev/shm, and makes it if it is not there. EPERM: somebody else has made it, or others
// than this user may look into it.
func Open(runtime, identity string) (*Dir, error) {
	if _, err := here(); err != nil {
		return nil, err
	}
	path := filepath.Join(runtime, prefix+identity)
	for range 200 {
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		d, err := openDirectory(path)
		if err == nil {
			return &Dir{directory: d}, nil
		}
		if !errors.Is(err, errBusy) && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		time.Sleep(10 * time.Millisecond) // somebody looks whether it was left behind, or has removed it
	}
	return nil, fmt.Errorf("%s is in use by another process: %w", path, unix.EBUSY)
}

const (
	prefix       = "pmemfs-"
	progressName = "progress"
)

// errBusy: somebody else has the directory open.
var errBusy = errors.New("the directory is in use")

// openDirectory opens and locks a directory of this user.
func openDirectory(path string) (_ *directory, err error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	d := &directory{path: path, root: root}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.lock, err = root.Open("."); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errBusy
		}
		return nil, err
	}
	// After the lock: it may have been removed until then, as left behind.
	return d, d.check()
}

// check makes sure that the path is this directory itself, and that it is this user's alone.
func (d *directory) check() error {
	st, err := d.lock.Stat()
	if err != nil {
		return err
	}
	named, err := os.Lstat(d.path)
	switch {
	case err != nil:
		return err
	case named.Mode().Type() == fs.ModeSymlink:
		return fmt.Errorf("%s is a link to another directory: %w", d.path, unix.EPERM)
	case !os.SameFile(st, named):
		return errBusy
	}
	uid := st.Sys().(*syscall.Stat_t).Uid // what package os always gives on Linux
	if int(uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, not to user %d: %w", d.path, uid, os.Geteuid(), unix.EPERM)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s has mode %#o: others than user %d may use it: %w", d.path, st.Mode().Perm(), uid, unix.EPERM)
	}
	return nil
}

func (d *directory) close() error {
	return errors.Join(d.lock.Close(), d.root.Close())
}

// Close gives the directory up, and removes it when there is no session in it.
func (d *Dir) Close() error {
	slots, err := d.slots()
	if err == nil && len(slots) == 0 {
		err = d.erase()
	}
	return errors.Join(err, d.close())
}

// erase removes the directory, in which there is no session.
func (d *directory) erase() error {
	err := d.root.Remove(progressName)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = os.Remove(d.path)
	}
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func recordName(slot int) string { return strconv.Itoa(slot) + ".session" }
func pageName(slot int) string   { return strconv.Itoa(slot) + ".page" }

// slotOf is the inverse of both.
func slotOf(name string) (slot int, ok bool) {
	number, kind, _ := strings.Cut(name, ".")
	slot, err := strconv.Atoi(number)
	ours := kind == "session" || kind == "page"
	return slot, err == nil && ours && slot >= 0 && slot < MaxSlots && strconv.Itoa(slot) == number
}

// Create begins the record of a session, in the lowest slot that is in use neither here nor according to taken. The
// process must not have ended; whoever makes sure of that does so afterwards. EUSERS: there is no slot left.
func (d *Dir) Create(c Client, taken func(slot int) (bool, error)) (*File, error) {
	var err error
	if c.at, err = here(); err != nil {
		return nil, err
	}
	if c.start, err = startTime(c.PID); err != nil {
		return nil, err
	}
	rand.Read(c.Nonce[:]) // never fails
	slot, err := d.take(taken)
	if err != nil {
		return nil, err
	}
	f := &File{dir: d, slot: slot, client: c, at: map[key]int{}}
	if err = d.remove(slot); err == nil { // what a server that was killed has left
		err = f.begin()
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("record a session in %s: %w", d.path, err), d.remove(slot))
		d.release(slot)
		return nil, err
	}
	return f, nil
}

// begin makes the file, without records.
func (f *File) begin() error {
	file, err := f.dir.root.OpenFile(recordName(f.slot), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	header := f.client.encode(f.slot)
	f.base = int64(len(header))
	if _, err = file.WriteAt(header, 0); err == nil {
		err = f.attach(file)
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	return nil
}

// take finds a slot.
func (d *Dir) take(taken func(slot int) (bool, error)) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for slot := range d.used {
		if d.used[slot] {
			continue
		}
		if is, err := taken(slot); err != nil {
			return 0, err
		} else if is {
			continue
		}
		d.used[slot] = true
		return slot, nil
	}
	return 0, fmt.Errorf("all %d slots of %s are in use: %w", MaxSlots, d.path, unix.EUSERS)
}

// release lets others have a slot.
func (d *Dir) release(slot int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.used[slot] = false
}

// remove removes the files of a slot, those that there are.
func (d *directory) remove(slot int) error {
	var failed []error
	for _, name := range []string{recordName(slot), pageName(slot)} {
		if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// PagePath is where the session's fault page is to be made.
func (f *File) PagePath() string { return filepath.Join(f.dir.path, pageName(f.slot)) }

// Progress opens the file for the page of what is pending, which is empty if no server has made one.
func (d *Dir) Progress() (*os.File, error) {
	return d.root.OpenFile(progressName, os.O_RDWR|os.O_CREATE, 0o600)
}

// Restore reads back the sessions that an earlier server has left and whose slots are live: their clients are still
// there. The files of others are removed; if nobody is there, everything. Errors are about single sessions, which are
// missing then.
func (d *Dir) Restore(live []int) (all []*Saved, failed []error) {
	slots, err := d.slots()
	if err != nil {
		return nil, []error{err}
	}
	if len(live) == 0 {
		if err := d.root.Remove(progressName); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	for _, slot := range slots {
		if !slices.Contains(live, slot) {
			err = d.remove(slot)
		} else {
			var s *Saved
			if s, err = d.read(slot); err == nil {
				all = append(all, s)
			}
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	return all, failed
}

// slots lists the slots that have files, ascending.
func (d *directory) slots() (slots []int, err error) {
	names, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var have [MaxSlots]bool
	for _, e := range names {
		if slot, ok := slotOf(e.Name()); ok {
			have[slot] = true
		}
	}
	for slot, is := range have {
		if is {
			slots = append(slots, slot)
		}
	}
	return slots, nil
}

// read reads one session back, and erases what counts for nothing: another thing may get the same number.
func (d *Dir) read(slot int) (*Saved, error) {
	f, c, err := d.open(slot)
	var damaged *DamagedError
	if errors.As(err, &damaged) {
		return nil, errors.Join(err, d.remove(slot))
	}
	if err != nil {
		return nil, err
	}
	s, orphans := c.saved(&File{dir: d, slot: slot})
	if err := s.resume(f, c.dropped, orphans); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.used[slot] = true
	return s, nil
}

// resume goes on with the file that was read, without what counts for nothing in it.
func (s *Saved) resume(f *os.File, dropped []int, orphans []Pin) error {
	if err := f.Truncate(s.offset(s.end)); err != nil { // of the last record there may be a part only
		return err
	}
	if err := s.attach(f); err != nil {
		return err
	}
	for _, position := range dropped {
		clear(s.record(position))
	}
	for _, p := range orphans {
		if err := s.drop(p.key()); err != nil {
			return errors.Join(err, unix.Munmap(s.mem))
		}
	}
	return nil
}

// open opens and reads the file of a session.
func (d *directory) open(slot int) (_ *os.File, _ *contents, err error) {
	name := recordName(slot)
	f, err := d.root.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	name = filepath.Join(d.path, name)
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, nil, &DamagedError{name, "it is not a regular file"}
	}
	const most = 1<<20 + maxRecords*recordSize // the longest header has less than 1 MiB
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, nil, err
	}
	c, err := parse(name, b, slot)
	return f, c, err
}

var identities = regexp.MustCompile(`^` + prefix + `(dev-)?[0-9a-f]{1,16}-[0-9a-f]{1,16}$`)

// Sweep removes the directories of pools that no server has open and of which no client lives. What cannot be looked
// at is left.
func Sweep(runtime string) {
	entries, err := os.ReadDir(runtime)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !e.IsDir() || !identities.MatchString(e.Name()) {
			continue
		}
		d, err := openDirectory(filepath.Join(runtime, e.Name()))
		if err != nil {
			continue
		}
		d.sweep()
		d.close()
	}
}

// sweep removes the files of clients that have ended, and the directory when there are no others.
func (d *directory) sweep() {
	slots, err := d.slots()
	if err != nil {
		return
	}
	for _, slot := range slots {
		if !d.ended(slot) {
			return
		}
	}
	for _, slot := range slots {
		d.remove(slot)
	}
	d.erase()
}

// ended says whether the client of a slot is known to be gone.
func (d *directory) ended(slot int) bool {
	f, c, err := d.open(slot)
	var damaged *DamagedError
	if errors.As(err, &damaged) || errors.Is(err, fs.ErrNotExist) {
		return true // nobody could ever take it over
	}
	if err != nil {
		return false
	}
	f.Close()
	pidfd, err := c.client.Process()
	if err == nil {
		unix.Close(pidfd)
	}
	return errors.Is(err, unix.ESRCH)
}
