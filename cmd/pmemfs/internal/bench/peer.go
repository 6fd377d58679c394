package bench

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// peer is a file system of the kernel that pmemfs is compared with.
type peer struct {
	name     string // its type, "-DAX" behind it if it maps files directly
	dir      string // of its own, below the one that was given
	volatile bool   // whatever is synced
	note     string
	unmount  func() error // nil: it was there before
}

// newPeer makes a directory below dir to be measured in.
func newPeer(dir string) (*peer, error) {
	kind, err := fileSystem(dir)
	if err != nil {
		return nil, err
	}
	p := &peer{name: kind.name}
	switch {
	case kind.name == "tmpfs" || kind.name == "ramfs":
		p.volatile, p.note = true, "volatile, whatever is synced"
	case kind.name == "ext4" && !kind.journalled():
		p.name += " without journal"
	}
	if p.dir, err = os.MkdirTemp(dir, "pmemfs-bench-"); err != nil {
		return nil, err
	}
	dax, err := isDAX(p.dir)
	if dax {
		p.name += "-DAX"
	}
	return p, err
}

// close leaves nothing behind.
func (p *peer) close() error {
	err := os.RemoveAll(p.dir)
	if p.unmount != nil {
		err = errors.Join(err, p.unmount())
	}
	return err
}

// mounted is what is known of a mount.
type mounted struct {
	name   string // of the file system's type
	device string // major:minor
}

// fileSystem finds the mount that a directory is in.
func fileSystem(dir string) (*mounted, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &st); err != nil {
		return nil, &os.PathError{Op: "statx", Path: dir, Err: err}
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	id := strconv.FormatUint(st.Mnt_id, 10)
	for s := bufio.NewScanner(f); s.Scan(); {
		mount, super, _ := strings.Cut(s.Text(), " - ")
		fields, rest := strings.Fields(mount), strings.Fields(super)
		if len(fields) > 2 && len(rest) > 0 && fields[0] == id {
			return &mounted{name: rest[0], device: fields[2]}, nil
		}
	}
	return nil, fmt.Errorf("%s: its mount, number %s, is not in /proc/self/mountinfo", dir, id)
}

// journalled says whether an ext4 has a journal; without one its syncs order nothing, and are faster.
func (m *mounted) journalled() bool {
	device, err := os.Readlink("/sys/dev/block/" + m.device)
	if err != nil {
		return true // nobody knows
	}
	journals, _ := filepath.Glob("/proc/fs/jbd2/" + filepath.Base(device) + "-*")
	return len(journals) > 0
}

// isDAX says whether new files of a directory are mapped directly.
func isDAX(dir string) (bool, error) {
	name := filepath.Join(dir, "dax")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		return false, err
	}
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, name, 0, unix.STATX_BASIC_STATS, &st)
	return st.Attributes&unix.STATX_ATTR_DAX != 0, errors.Join(err, os.Remove(name))
}

// loopExt4 makes an ext4 with a journal on a loop device, over a file of size bytes below dir. It takes root.
func loopExt4(dir string, size int64) (_ *peer, err error) {
	below, err := fileSystem(dir)
	if err != nil {
		return nil, err
	}
	home, err := os.MkdirTemp(dir, "pmemfs-bench-")
	if err != nil {
		return nil, err
	}
	image, at := filepath.Join(home, "ext4"), filepath.Join(home, "mount")
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(home))
		}
	}()
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size), os.Mkdir(at, 0o700)); err != nil {
		return nil, err
	}
	if err := tool("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", image); err != nil {
		return nil, err
	}
	if err := tool("mount", "-t", "ext4", "-o", "loop", image, at); err != nil {
		return nil, err
	}
	unmount := func() error {
		if err := unix.Unmount(at, 0); err != nil {
			return errors.Join(fmt.Errorf("umount %s: %w", at, err), unix.Unmount(at, unix.MNT_DETACH))
		}
		return os.RemoveAll(home)
	}
	p, err := newPeer(at)
	if err != nil {
		return nil, errors.Join(err, unmount())
	}
	p.unmount, p.name, p.note = unmount, p.name+" on a disk", "with a journal, on a loop device over a file in "+below.name
	if below.name == "tmpfs" {
		p.name, p.note = strings.Replace(p.name, "on a disk", "in memory", 1), p.note+": faster than any disk"
	}
	return p, nil
}

// loopUnavailable says why there is no ext4 on a loop device here.
func loopUnavailable() string {
	if os.Geteuid() != 0 {
		return "only root may mount it."
	}
	for _, name := range []string{"mkfs.ext4", "mount"} {
		if _, err := exec.LookPath(name); err != nil {
			return name + " is missing (apt-get install e2fsprogs mount)."
		}
	}
	return ""
}

// tool runs a program of the system to its end: Ctrl-C is not for it, or nobody would know whether it has mounted. What it
// has to say is in the error.
func tool(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	text, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(text)))
	}
	return nil
}

// peers are those that the options name. Names are told apart by their directories where their types are the same. size is
// what each needs in bytes. What cannot be had here is in notes.
func (o *CompareOptions) peers(size int64) (list []*peer, notes []string, err error) {
	for _, dir := range o.Dirs {
		p, err := newPeer(dir)
		if err != nil {
			return list, notes, err
		}
		if slices.ContainsFunc(list, func(other *peer) bool { return other.name == p.name }) {
			p.name += " " + dir
		}
		list = append(list, p)
	}
	for _, dir := range o.Ext4 {
		if why := loopUnavailable(); why != "" {
			return list, append(notes, "No ext4 on a loop device: "+why), nil
		}
		p, err := loopExt4(dir, size+size/4+128<<20)
		if err != nil {
			return list, notes, err
		}
		list = append(list, p)
	}
	return list, notes, nil
}
