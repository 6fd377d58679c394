package core

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/layout"
)

// testACL lets user 7 read and write, as far as the mask does: read.
var testACL = acl{
	{aclOwner, 6, ^uint32(0)}, {aclUser, 6, 7}, {aclGroup, 0, ^uint32(0)}, {aclMask, 4, ^uint32(0)}, {aclOthers, 1, ^uint32(0)},
}.encode()

// TestACL: an ACL and the mode say the same, whichever is changed.
func TestACL(t *testing.T) {
	fs := newFS(t, 64<<20)
	a := must[Attr](t)(fs.Create(root, layout.RootIno, "a", layout.ModeRegular|0o777, 0))
	mode := func(want uint32) {
		t.Helper()
		if got := must[Attr](t)(fs.GetAttr(a.Ino)).Mode; got != layout.ModeRegular|want {
			t.Errorf("mode %#o, want %#o", got, want)
		}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(fs.SetXattr(root, a.Ino, xattrACL, testACL, 0))
	mode(0o641)
	perm := uint32(0o2707)
	must[Attr](t)(fs.SetAttr(root, a.Ino, SetAttr{Mode: &perm}))
	got, err := parseACL(must[[]byte](t)(fs.GetXattr(root, a.Ino, xattrACL)))
	if err != nil || got.mode() != 0o707 || got[2].perm != 0 || len(got) != 5 {
		t.Errorf("%v, %v", got, err)
	}
	minimal := acl{{aclOwner, 7, 0}, {aclGroup, 5, 0}, {aclOthers, 4, 0}}.encode()
	check(fs.SetXattr(root, a.Ino, xattrACL, minimal, ACLDropSGID))
	mode(0o754)
	if _, err := fs.GetXattr(root, a.Ino, xattrACL); err != unix.ENODATA {
		t.Errorf("an ACL that says no more than the mode: %v", err)
	}
	for _, bad := range [][]byte{
		nil, testACL[:8], testACL[:len(testACL)-8], append([]byte{3}, testACL[1:]...),
		acl{{aclOwner, 8, 0}, {aclGroup, 5, 0}, {aclOthers, 4, 0}}.encode(), acl{{aclGroup, 5, 0}, {aclOwner, 7, 0}, {aclOthers, 4, 0}}.encode(),
		acl{{aclOwner, 7, 0}, {aclUser, 5, 1}, {aclGroup, 5, 0}, {aclOthers, 4, 0}}.encode(),
	} {
		if err := fs.SetXattr(root, a.Ino, xattrACL, bad, 0); err != unix.EINVAL {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

// TestInheritedACL: what is made below a directory with a default ACL has it, in place of the umask.
func TestInheritedACL(t *testing.T) {
	fs := newFS(t, 64<<20)
	c := Cred{UID: 5, GID: 6, Checked: true, Umask: 0o077}
	plain := must[Attr](t)(fs.Create(c, layout.RootIno, "plain", layout.ModeDirectory|0o777, 0))
	if plain.Mode != layout.ModeDirectory|0o700 || plain.UID != 5 {
		t.Errorf("%+v", plain)
	}
	if err := fs.SetXattr(c, plain.Ino, xattrDefaultACL, testACL, 0); err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[uint32]uint32{layout.ModeRegular: 0o640, layout.ModeDirectory: 0o640, layout.ModeFIFO: 0o640} {
		a := must[Attr](t)(fs.Create(c, plain.Ino, string(rune('a'+kind>>12)), kind|0o666, 0))
		if a.Mode != kind|want {
			t.Errorf("mode %#o", a.Mode)
		}
		if _, err := fs.GetXattr(c, a.Ino, xattrACL); err != nil {
			t.Error(err)
		}
		if _, err := fs.GetXattr(c, a.Ino, xattrDefaultACL); (err == nil) != (kind == layout.ModeDirectory) {
			t.Errorf("the default ACL of %#o: %v", kind, err)
		}
	}
}

// FuzzACL: bytes are an ACL or are refused, and what is accepted comes back as it was.
func FuzzACL(f *testing.F) {
	f.Add(testACL)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseACL(b)
		if err == nil && string(a.encode()) != string(b) {
			t.Errorf("%x became %x", b, a.encode())
		}
		if err == nil && a.withMode(a.mode()).mode() != a.mode() {
			t.Errorf("%x: the mode %#o changes it", b, a.mode())
		}
	})
}
