package fusefs_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

// drawPath draws a path of few names, so that calls meet each other's files.
func drawPath(r *rand.Rand) string {
	names := []string{"a", "b", "c"}
	path := names[r.IntN(len(names))]
	for r.IntN(3) == 0 && strings.Count(path, "/") < 3 {
		path += "/" + names[r.IntN(len(names))]
	}
	switch r.IntN(40) {
	case 0:
		return path + "/" + strings.Repeat("n", 256)
	case 1:
		return path + "/."
	case 2:
		return path + "/.."
	case 3:
		return path + "/"
	case 4:
		return strings.Repeat("n", 255)
	}
	return path
}

func drawMode(r *rand.Rand) uint32 {
	if r.IntN(2) == 0 {
		return 0o777
	}
	mode := r.Uint32N(0o10000)
	if mode&unix.S_ISGID != 0 { // without the group's right to execute Linux drops it depending on groups that FUSE does not tell
		mode |= unix.S_IXGRP
	}
	return mode
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// aclOf encodes an ACL of owner, one user, group, mask and others.
func aclOf(owner, user, group, mask, others uint16) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, owner, ^uint32(0)}, {2, user, 1002}, {4, group, ^uint32(0)}, {0x10, mask, ^uint32(0)}, {0x20, others, ^uint32(0)}} {
		b = le.AppendUint32(le.AppendUint16(le.AppendUint16(b, e.tag), e.perm), e.id)
	}
	return b
}

// opened calls f with an open file.
func opened(path string, flags int, mode uint32, f func(fd int) error) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, mode)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return f(fd)
}

// drawCall draws a call.
func drawCall(r *rand.Rand) call {
	path, other, mode := drawPath(r), drawPath(r), drawMode(r)
	on := func(text string, f func(path string) error) call {
		return call{text, func(dir string) error { return f(dir + "/" + path) }}
	}
	switch r.IntN(22) {
	case 0, 1:
		flags := pick(r, unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR) | pick(r, 0, unix.O_CREAT, unix.O_CREAT|unix.O_EXCL) |
			pick(r, 0, 0, unix.O_TRUNC) | pick(r, 0, 0, 0, unix.O_DIRECTORY, unix.O_NOFOLLOW, unix.O_APPEND)
		text := pick(r, "", "text", "longer text")
		return on(fmt.Sprintf("open %s %#o %#o, write %q", path, flags, mode, text), func(path string) error {
			if flags&unix.O_DIRECTORY != 0 && flags&unix.O_CREAT != 0 {
				return nil // kernels differ
			}
			return opened(path, flags, mode, func(fd int) error {
				var st unix.Stat_t
				if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || text == "" {
					return err
				}
				_, err := unix.Write(fd, []byte(text))
				return err
			})
		})
	case 2, 3:
		return on(fmt.Sprintf("mkdir %s %#o", path, mode), func(path string) error { return unix.Mkdir(path, mode) })
	case 4:
		kind := pick[uint32](r, unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFDIR, 0)
		return on(fmt.Sprintf("mknod %s %#o", path, kind|mode), func(path string) error { return unix.Mknod(path, kind|mode, int(unix.Mkdev(1, 3))) })
	case 5:
		return call{fmt.Sprintf("link %s %s", path, other), func(dir string) error { return unix.Link(dir+"/"+path, dir+"/"+other) }}
	case 6:
		target := pick(r, other, filepath.Base(other), "..", ".", "a", strings.Repeat("t", 300), "")
		return on(fmt.Sprintf("symlink %q %s", target, path), func(path string) error { return unix.Symlink(target, path) })
	case 7:
		return on("unlink "+path, unix.Unlink)
	case 8:
		return on("rmdir "+path, unix.Rmdir)
	case 9, 10:
		flags := pick[uint](r, 0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE)
		return call{fmt.Sprintf("rename %s %s %d", path, other, flags), func(dir string) error {
			return unix.Renameat2(unix.AT_FDCWD, dir+"/"+path, unix.AT_FDCWD, dir+"/"+other, flags)
		}}
	case 11, 12:
		return on(fmt.Sprintf("chmod %s %#o", path, mode), func(path string) error { return unix.Chmod(path, mode) })
	case 13, 14:
		uid, gid := pick(r, -1, 0, 1001, 1002), pick(r, -1, 2001, 2002, 0)
		if uid == -1 && gid == -1 { // see setNothing
			gid = 2002
		}
		follow := pick(r, 0, unix.AT_SYMLINK_NOFOLLOW)
		return on(fmt.Sprintf("chown %s %d:%d", path, uid, gid), func(path string) error {
			return unix.Fchownat(unix.AT_FDCWD, path, uid, gid, follow)
		})
	case 15:
		size := pick[int64](r, 0, 1, 5, 5000, -1)
		return on(fmt.Sprintf("truncate %s %d", path, size), func(path string) error { return unix.Truncate(path, size) })
	case 16:
		times := []unix.Timespec{
			{Nsec: pick[int64](r, unix.UTIME_NOW, unix.UTIME_OMIT, 123456789)}, {Sec: pick[int64](r, 0, 1<<31, -1), Nsec: pick[int64](r, unix.UTIME_NOW, unix.UTIME_OMIT, 987654321)},
		}
		return on(fmt.Sprintf("utimensat %s %v", path, times), func(path string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW)
		})
	case 17:
		mode := pick[uint32](r, 0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE)
		off, length := pick[int64](r, 0, 3, 4096), pick[int64](r, 1, 4096, 10000, 0, -1)
		return on(fmt.Sprintf("fallocate %s %d %d %d", path, mode, off, length), func(path string) error {
			return opened(path, unix.O_RDWR, 0, func(fd int) error { return unix.Fallocate(fd, mode, off, length) })
		})
	case 18, 19:
		return drawXattr(r, path)
	case 20:
		want := r.Uint32N(8)
		return on(fmt.Sprintf("faccessat %s %d", path, want), func(path string) error {
			return unix.Faccessat2(unix.AT_FDCWD, path, want, unix.AT_EACCESS)
		})
	default:
		return on("open without a name in "+path+", link it", func(path string) error {
			return opened(path, unix.O_TMPFILE|unix.O_RDWR, mode, func(fd int) error {
				if _, err := unix.Write(fd, []byte("unnamed")); err != nil {
					return err
				}
				return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/thread-self/fd/%d", fd), unix.AT_FDCWD, path+"/c", unix.AT_SYMLINK_FOLLOW)
			})
		})
	}
}

func drawXattr(r *rand.Rand, path string) call {
	name := pick(r, "user.x", "user.y", "trusted.x", "security.x", "system.x", "nothing", "user.", "system.posix_acl_access", "system.posix_acl_default")
	// Never the same value twice: ext4 then leaves the time alone.
	value := fmt.Appendf(nil, "%s %d", pick(r, "v", "another value"), r.Uint64())
	if strings.HasPrefix(name, "system.posix") {
		value = aclOf(uint16(r.IntN(8)), uint16(r.IntN(8)), uint16(r.IntN(8)), uint16(r.IntN(8)), uint16(r.IntN(8)))
	}
	flags := pick(r, 0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE)
	switch r.IntN(4) {
	case 0:
		return call{fmt.Sprintf("removexattr %s %s", path, name), func(dir string) error { return unix.Lremovexattr(dir+"/"+path, name) }}
	case 1:
		size := pick(r, 1, 100)
		return call{fmt.Sprintf("getxattr %s %s %d", path, name, size), func(dir string) error {
			_, err := unix.Lgetxattr(dir+"/"+path, name, make([]byte, size))
			return err
		}}
	}
	return call{fmt.Sprintf("setxattr %s %s %q %d", path, name, value, flags), func(dir string) error {
		return unix.Lsetxattr(dir+"/"+path, name, value, flags)
	}}
}
