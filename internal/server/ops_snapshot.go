package server

import (
	"encoding/json"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/wire"
)

func (s *Session) snapshot(q *wire.Request) (*wire.Reply, error) {
	if q.Flags&^wire.SnapshotAll != 0 {
		return nil, invalid("snapshot flags %#x", q.Flags)
	}
	o := core.SnapshotOptions{Writable: q.Flags&wire.SnapshotWritable != 0, SkipSealed: q.Flags&wire.SnapshotSkipSealed != 0}
	return s.withDir(q, func(dir *core.Node) (*wire.Reply, error) {
		skipped, err := s.srv.fs.Snapshot(s.cred, dir.Ino(), q.Path2, o)
		return jsonReply(skipped, err)
	})
}

func (s *Session) snapshots(q *wire.Request) (*wire.Reply, error) {
	return s.withDir(q, func(dir *core.Node) (*wire.Reply, error) { return jsonReply(s.srv.fs.Snapshots(s.cred, dir.Ino())) })
}

func (s *Session) snapshotDiff(q *wire.Request) (*wire.Reply, error) {
	return s.withDir(q, func(dir *core.Node) (*wire.Reply, error) {
		return jsonReply(s.srv.fs.SnapshotDiff(s.cred, dir.Ino(), q.Path2, string(q.Data)))
	})
}

func (s *Session) snapshotRestore(q *wire.Request) (*wire.Reply, error) {
	return s.withDir(q, func(dir *core.Node) (*wire.Reply, error) {
		return nil, s.srv.fs.RestoreSnapshot(s.cred, dir.Ino(), q.Path2)
	})
}

func (s *Session) snapshotRemove(q *wire.Request) (*wire.Reply, error) {
	return s.withDir(q, func(dir *core.Node) (*wire.Reply, error) {
		return nil, s.srv.fs.RemoveSnapshot(s.cred, dir.Ino(), q.Path2)
	})
}

// withDir is withNode for the directory of snapshots.
func (s *Session) withDir(q *wire.Request, f func(*core.Node) (*wire.Reply, error)) (*wire.Reply, error) {
	if q.Flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
		return nil, invalid("flags %#x", q.Flags)
	}
	return s.withNode(q, func(n *core.Node) (*wire.Reply, error) {
		if n.Attr().Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil, unix.ENOTDIR
		}
		return f(n)
	})
}

// jsonReply has the JSON form of a value in a file of its own, which may be longer than a message.
func jsonReply[T any](value T, err error) (*wire.Reply, error) {
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("pmemfs-reply", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	for off := 0; off < len(text); {
		n, err := unix.Pwrite(fd, text[off:], int64(off))
		if err != nil {
			unix.Close(fd)
			return nil, os.NewSyscallError("pwrite", err)
		}
		off += n
	}
	return &wire.Reply{Files: []int{fd}}, nil
}
