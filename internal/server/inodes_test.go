package server

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// at is a local session that acts for somebody else.
func at(t *testing.T, s *Server, uid uint32) *Session {
	t.Helper()
	sess, err := s.Local(nil)
	if err != nil {
		t.Fatal(err)
	}
	sess.cred = core.Cred{UID: uid, GID: uid}
	return sess
}

// rootOf is a request about the root directory.
func rootOf(t *testing.T, sess *Session, op wire.Op, name string) *wire.Request {
	t.Helper()
	r := sess.Do(&wire.Request{Op: wire.OpLookup, Path: "/"})
	if r.Errno != 0 {
		t.Fatal(r.Detail)
	}
	return &wire.Request{Op: op, Inode: r.Attr.Ino, Generation: r.Attr.Generation, Path: name}
}

// TestInodesAreForOwners: requests relative to inodes are refused to who may not do anything anyway, and nothing is done.
func TestInodesAreForOwners(t *testing.T) {
	s := newServer(t, Options{})
	s.owners = []uint32{4711}
	for uid, want := range map[uint32]uint16{0: 0, 4711: 0, 1000: uint16(unix.EPERM)} {
		sess := at(t, s, uid)
		q := rootOf(t, sess, wire.OpMknod, "by")
		q.Mode = unix.S_IFDIR | 0o700
		if r := sess.Do(q); r.Errno != want {
			t.Errorf("user %d: errno %d %s", uid, r.Errno, r.Detail)
		}
		if err := s.fs.Rmdir(core.Cred{}, 1, "by"); (err == nil) != (want == 0) {
			t.Errorf("user %d has made it: %v", uid, err)
		}
		sess.Close()
	}
}

// TestInodesRefused: operations that are not relative to inodes, and places that are not complete.
func TestInodesRefused(t *testing.T) {
	s := newServer(t, Options{})
	sess := at(t, s, 0)
	for op := wire.OpInfo; op < wire.OpEnd; op++ {
		if r := sess.Do(rootOf(t, sess, op, "")); !ops[op].at && r.Errno == 0 {
			t.Errorf("operation %d relative to an inode was done", op)
		}
		if r := sess.Do(&wire.Request{Op: op, Path: "a", Inode2: 1}); r.Errno == 0 {
			t.Errorf("operation %d with the second inode only was done", op)
		}
	}
	if r := sess.Do(&wire.Request{Op: wire.OpMknod, Path: "a", Mode: unix.S_IFDIR | 0o700}); r.Errno != uint16(unix.EINVAL) {
		t.Errorf("mknod by a path: errno %d", r.Errno)
	}
	for _, ino := range []uint64{2, 3, 1 << 20, 1 << 62} {
		if r := sess.Do(&wire.Request{Op: wire.OpLookup, Inode: ino, Generation: 1}); r.Errno != uint16(unix.ESTALE) {
			t.Errorf("inode %d, which is not there: errno %d", ino, r.Errno)
		}
	}
	q := rootOf(t, sess, wire.OpLookup, "")
	q.Generation++
	if r := sess.Do(q); r.Errno != uint16(unix.ESTALE) {
		t.Errorf("another generation: errno %d", r.Errno)
	}
}

// TestReferences: an inode lives as long as the session refers to it, whatever becomes of its name; and not longer.
func TestReferences(t *testing.T) {
	s := newServer(t, Options{})
	sess := at(t, s, 0)
	free := s.fs.Statfs().FreeInodes
	q := rootOf(t, sess, wire.OpMknod, "fifo")
	q.Mode, q.UID, q.GID, q.Umask = unix.S_IFIFO|0o666, 7, 8, 0o022
	made := sess.Do(q)
	if made.Errno != 0 || made.Attr.UID != 7 || made.Attr.GID != 8 || made.Attr.Mode != unix.S_IFIFO|0o644 {
		t.Fatalf("%+v", made)
	}
	found := sess.Do(rootOf(t, sess, wire.OpLookup, "fifo")) // a second reference
	sess.Do(rootOf(t, sess, wire.OpRemove, "fifo"))
	look := &wire.Request{Op: wire.OpLookup, Inode: found.Attr.Ino, Generation: found.Attr.Generation}
	forget := &wire.Request{Op: wire.OpForget, Inode: found.Attr.Ino, Length: 1}
	if r := sess.Do(look); r.Errno != 0 || r.Attr.Nlink != 0 {
		t.Fatalf("with two references: %+v", r)
	}
	sess.Do(forget)
	if r := sess.Do(look); r.Errno != 0 {
		t.Fatalf("with one reference: %+v", r)
	}
	sess.Do(forget)
	if r := sess.Do(look); r.Errno != uint16(unix.ESTALE) {
		t.Fatalf("without references: %+v", r)
	}
	q = rootOf(t, sess, wire.OpOpen, "")
	q.Flags, q.Mode = unix.O_TMPFILE|unix.O_RDWR, 0o600
	unnamed := sess.Do(q)
	if unnamed.Errno != 0 || unnamed.Attr.Nlink != 0 {
		t.Fatalf("%+v", unnamed)
	}
	sess.Close()
	if now := s.fs.Statfs().FreeInodes; now != free {
		t.Errorf("%d inodes are free, %d were", now, free)
	}
}

// TestWatch: who watches is told of others before they can do anything, and when they have gone; of readers never.
func TestWatch(t *testing.T) {
	s := newServer(t, Options{})
	sess := at(t, s, 0)
	var told []bool
	sess.Watch(func(others bool) { told = append(told, others) })
	last := func(want bool) {
		t.Helper()
		if told[len(told)-1] != want {
			t.Errorf("others: %v, want %v", told, want)
		}
	}
	last(false)
	reader := newSession(s, 1, core.Cred{}, true)
	reader.taker = local{}
	if err := s.admit(reader); err != nil {
		t.Fatal(err)
	}
	last(false)
	other := at(t, s, 0)
	last(true)
	other.Close()
	last(false)
	reader.Close()
	last(false)
}
