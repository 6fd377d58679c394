package server

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// TestClosedBefore: what a request says is closed is so when the request is served, and one that is not open harms nothing.
func TestClosedBefore(t *testing.T) {
	sess := at(t, newServer(t, Options{}), 0)
	r := sess.Do(&wire.Request{Op: wire.OpOpen, Path: "f", Flags: unix.O_RDWR | unix.O_CREAT, Mode: 0o600})
	if r.Errno != 0 {
		t.Fatal(r.Detail)
	}
	if got := sess.Do(&wire.Request{Op: wire.OpStat, Handle: r.Handle, Closed: r.Handle + 1}); got.Errno != 0 {
		t.Error("a handle that nobody has:", got.Detail)
	}
	if got := sess.Do(&wire.Request{Op: wire.OpStat, Handle: r.Handle, Closed: r.Handle}); got.Errno != uint16(unix.EBADF) {
		t.Error("the handle itself:", got)
	}
	if got := sess.Do(&wire.Request{Op: wire.OpClose, Handle: r.Handle}); got.Errno != uint16(unix.EBADF) {
		t.Error("it is closed twice:", got)
	}
}
