package pmemfs_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/internal/wire"
)

func init() {
	roles["exporter"] = exporterRole
	roles["importer"] = importerRole
	roles["impostor"] = impostorRole
}

// nobody is a user who may do nothing.
const nobody = 65534

// importer is a process that is given a descriptor.
type importer struct {
	given *os.File
	file  *pmemfs.File
	m     *pmemfs.Mapping
}

// importerRole becomes a user and does what it is told with a descriptor that it is given: UID. The descriptor is
// number 3, or comes over the socket that is number 3 when UID ends with "+socket".
func importerRole(args []string, in *bufio.Scanner) error {
	v := &importer{given: os.NewFile(3, "given")}
	number, socket := strings.CutSuffix(args[0], "+socket")
	if socket {
		var err error
		if v.given, err = receiveFile(v.given); err != nil {
			return err
		}
	}
	uid, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	if uid != 0 {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(uid), syscall.Setuid(uid)); err != nil {
			return err
		}
	}
	for in.Scan() {
		words := strings.Fields(in.Text())
		answer, err := v.obey(words[0], words[1:])
		var errno unix.Errno
		switch {
		case errors.As(err, &errno):
			fmt.Println(unix.ErrnoName(errno), err)
		case err != nil:
			fmt.Println("error", err)
		default:
			fmt.Println(answer)
		}
	}
	return nil
}

// obey does one of: dial SOCKET, import, import-again, close-given, map FLAGS LENGTH, unmap, store OFFSET BYTE, load
// OFFSET, write TEXT, write-at TEXT, read, truncate SIZE, allow, close, descriptors POOL, names.
func (v *importer) obey(verb string, args []string) (string, error) {
	num := func(i int) int {
		n, err := strconv.Atoi(args[i])
		if err != nil {
			panic(err)
		}
		return n
	}
	var err error
	switch verb {
	case "dial":
		_, err = pmemfs.Dial(args[0])
	case "import":
		if v.file, err = pmemfs.Import(v.given); err == nil {
			return "imported " + v.file.Name(), nil
		}
	case "import-again":
		var again *pmemfs.File
		if again, err = pmemfs.Import(v.given); err == nil {
			err = again.Close()
		}
	case "close-given":
		err = v.given.Close()
	case "map":
		var flags pmemfs.MapFlags
		if err := flags.UnmarshalText([]byte(args[0])); err != nil {
			return "", err
		}
		v.m, err = v.file.Map(0, num(1), flags)
	case "unmap":
		err = v.m.Unmap()
	case "store":
		err = pmemfs.Catch(func() {
			v.m.Bytes()[num(0)] = byte(num(1))
			err = v.m.Persist(num(0), 1)
		})
	case "load":
		var b byte
		err = pmemfs.Catch(func() { b = v.m.Bytes()[num(0)] })
		return fmt.Sprint(b), err
	case "write":
		_, err = v.file.WriteString(args[0])
	case "write-at":
		_, err = v.file.WriteAt([]byte(args[0]), 0)
	case "read":
		b, err := io.ReadAll(io.NewSectionReader(v.file, 0, 1000))
		return string(b), err
	case "truncate":
		err = v.file.Truncate(int64(num(0)))
	case "allow":
		err = v.file.AllowDirect()
	case "close":
		err = v.file.Close()
	case "descriptors":
		return dataDescriptors(args[0])
	case "names":
		return tryNames(v.file.FS()), nil
	default:
		err = errors.New("what?")
	}
	return "done", err
}

// dataDescriptors says how this process has the data area of a pool open, and tries to do more than it may.
func dataDescriptors(pool string) (string, error) {
	var found []string
	for fd := 3; fd < 100; fd++ {
		link := fmt.Sprintf("/proc/self/fd/%d", fd)
		if name, err := os.Readlink(link); err != nil || name != filepath.Join(pool, "data") {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			return "", err
		}
		_, mapErr := unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		_, openErr := os.OpenFile(link, os.O_RDWR, 0)
		found = append(found, fmt.Sprintf("open %d, map %v, open again %v", flags&unix.O_ACCMODE, mapErr, errors.Unwrap(openErr)))
	}
	return strings.Join(found, "; "), nil
}

// tryNames does everything that takes a name, and says what was not refused as it should be.
func tryNames(fsys *pmemfs.FS) string {
	var bad []string
	for what, err := range map[string]error{
		"open":        second(fsys.Open("f")),
		"create":      second(fsys.Create("new")),
		"stat":        second(fsys.Stat("f")),
		"lstat":       second(fsys.Lstat(".")),
		"readdir":     second(fsys.ReadDir(".")),
		"mkdir":       fsys.Mkdir("d", 0o777),
		"remove":      fsys.Remove("f"),
		"rename":      fsys.Rename("f", "g"),
		"link":        fsys.Link("f", "g"),
		"symlink":     fsys.Symlink("f", "g"),
		"readlink":    second(fsys.ReadLink("f")),
		"chmod":       fsys.Chmod("f", 0o777),
		"chown":       fsys.Chown("f", nobody, nobody),
		"chtimes":     fsys.Chtimes("f", time.Now(), time.Now()),
		"truncate":    fsys.Truncate("f", 0),
		"getxattr":    second(fsys.Getxattr("f", "user.a")),
		"setxattr":    fsys.Setxattr("f", "user.a", nil, 0),
		"listxattr":   second(fsys.Listxattr("f")),
		"removexattr": fsys.Removexattr("f", "user.a"),
	} {
		if !errors.Is(err, unix.EACCES) || !strings.Contains(err.Error(), "imported file") {
			bad = append(bad, fmt.Sprintf("%s: %v", what, err))
		}
	}
	if len(bad) > 0 {
		return strings.Join(bad, "; ")
	}
	return "all refused"
}

func second[T any](_ T, err error) error { return err }

// exporterRole opens a file, allows Direct mappings of it and sends the exported descriptor over the socket that is its
// descriptor 3: SOCKET FILE.
func exporterRole(args []string, in *bufio.Scanner) error {
	_, f, err := dialFile(args[0], args[1])
	if err != nil {
		return err
	}
	exported, err := f.Export()
	if err != nil {
		return err
	}
	if err := errors.Join(f.AllowDirect(), sendFile(os.NewFile(3, "socket"), exported)); err != nil {
		return err
	}
	fmt.Println("sent")
	for in.Scan() {
	}
	return errors.New("it should have been killed")
}

// impostorRole asks an exported descriptor, its 3, for a connection, as if it were the process that has made the socket
// which is its 4.
func impostorRole([]string, *bufio.Scanner) error {
	frame, err := wire.AppendRequest(nil, &wire.Request{ID: 1, Op: wire.OpHello, Offset: wire.Version})
	if err != nil {
		return err
	}
	return unix.Sendmsg(3, frame, unix.UnixRights(4), nil, unix.MSG_NOSIGNAL)
}

func sendFile(socket, f *os.File) error {
	c, err := net.FileConn(socket)
	if err != nil {
		return err
	}
	defer c.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) {
		_, _, err = c.(*net.UnixConn).WriteMsgUnix([]byte("f"), unix.UnixRights(int(fd)), nil)
	})
	return errors.Join(controlErr, err)
}

func receiveFile(socket *os.File) (*os.File, error) {
	c, err := net.FileConn(socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("%d messages, %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "received"), nil
}

// pair returns the ends of a pair of unix sockets.
func pair(t *testing.T, kind int) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	a, b = os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket")
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user, and flag handles")
	}
}

func export(t *testing.T, f *pmemfs.File) *os.File {
	t.Helper()
	exported, err := f.Export()
	must(t, err)
	t.Cleanup(func() { exported.Close() })
	return exported
}

// inherit starts an importer with a descriptor.
func inherit(t *testing.T, uid string, f *os.File) *pooltest.Child {
	t.Helper()
	return pooltest.StartWith(t, func(c *exec.Cmd) { c.ExtraFiles = []*os.File{f} }, "importer", uid)
}

// ask tells an importer what to do and checks how its answer begins.
func ask(c *pooltest.Child, want, format string, args ...any) string {
	c.T.Helper()
	c.Tell(format, args...)
	got := c.Line()
	if !strings.HasPrefix(got, want) {
		c.T.Errorf("told to "+format+" the child says %q, want %q", append(args, got, want)...)
	}
	return got
}

// filled makes a file whose blocks can be sealed.
func filled(t *testing.T, fsys *pmemfs.FS, name string, size int64) *pmemfs.File {
	t.Helper()
	f := sized(t, fsys, name, size)
	must(t, f.Fill(0, size))
	return f
}

// wantSealed checks that somebody's seal keeps a file from being truncated.
func wantSealed(t *testing.T, f *pmemfs.File, pid int) {
	t.Helper()
	var sealed *pmemfs.SealedError
	if err := f.Truncate(0); !errors.As(err, &sealed) || sealed.PID != pid || !errors.Is(err, pmemfs.ErrSealed) {
		t.Errorf("got %v, want a seal of process %d", err, pid)
	}
}

// A process that may neither connect nor seal maps Direct by a handle that it has inherited.
func TestImportUnprivileged(t *testing.T) {
	needRoot(t)
	socket, srv := serve(t, newPool(t))
	fsys := dial(t, socket)
	f := filled(t, fsys, "flagged", 4*page)
	must(t, f.AllowDirect())
	c := inherit(t, "65534", export(t, f))
	ask(c, "EACCES", "dial %s", socket)
	ask(c, "imported flagged", "import")
	ask(c, "done", "map Direct %d", 4*page)
	ask(c, "done", "store 5000 77")
	ask(c, "77", "load 5000")
	wantSealed(t, f, c.Cmd.Process.Pid)
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, 5000); err != nil || b[0] != 77 {
		t.Error(b, err)
	}
	ask(c, "done", "write-at hello")
	ask(c, "done", "unmap")
	must(t, f.Truncate(0))
	ask(c, "EPERM", "allow")
	c.Finish()
	must(t, fsys.Close())
	srv.Finish()
}

// Without the flag the importer's own privileges decide; the flag may be set later, and is this open file's only.
func TestImportUnflagged(t *testing.T) {
	needRoot(t)
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	f := filled(t, fsys, "f", page)
	other, err := fsys.OpenFile("f", os.O_RDWR, 0)
	must(t, err)
	c, d := inherit(t, "65534", export(t, f)), inherit(t, "65534", export(t, other))
	root := inherit(t, "0", export(t, other))
	for _, c := range []*pooltest.Child{c, d, root} {
		ask(c, "imported f", "import")
	}
	for _, c := range []*pooltest.Child{c, d} {
		answer := ask(c, "EPERM", "map Direct %d", page)
		for _, want := range []string{"CAP_LINUX_IMMUTABLE", "group", "flagged"} {
			if !strings.Contains(answer, want) {
				t.Errorf("%q does not name %q", answer, want)
			}
		}
	}
	ask(root, "done", "map Direct %d", page)
	must(t, f.AllowDirect())
	ask(c, "done", "map Direct %d", page)
	ask(d, "EPERM", "map Direct %d", page)
	for _, c := range []*pooltest.Child{c, d, root} {
		c.Finish()
	}
}

// The descriptor is sent to one process and inherited by another; both import it, at the same time and more than once,
// and with Sync mappings each sees what the other stores.
func TestImportTwice(t *testing.T) {
	needRoot(t)
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	f := sized(t, fsys, "f", 4*page)
	exported := export(t, f)
	near, far := pair(t, unix.SOCK_STREAM)
	c := pooltest.StartWith(t, func(c *exec.Cmd) { c.ExtraFiles = []*os.File{far} }, "importer", "65534+socket")
	must(t, sendFile(near, exported))
	d := inherit(t, "65533", exported)
	must(t, exported.Close())
	must(t, f.Close())
	for range 20 {
		for _, c := range []*pooltest.Child{c, d} {
			c.Tell("import-again")
		}
		for _, c := range []*pooltest.Child{c, d} {
			c.Expect("done")
		}
	}
	for _, c := range []*pooltest.Child{c, d} {
		ask(c, "imported f", "import")
		ask(c, "done", "map Sync %d", 4*page)
	}
	ask(c, "done", "store 100 1")
	ask(d, "1", "load 100")
	ask(d, "done", "store %d 2", 3*page)
	ask(c, "2", "load %d", 3*page)
	ask(c, "done", "truncate %d", page)
	ask(d, "ENXIO", "load %d", 3*page)
	c.Finish()
	ask(d, "1", "load 100")
	d.Finish()
}

// An importer of a handle for reading gets a data area for reading.
func TestImportReadOnly(t *testing.T) {
	needRoot(t)
	pool := newPool(t)
	socket, _ := serve(t, pool)
	fsys := dial(t, socket)
	filled(t, fsys, "f", page)
	f, err := fsys.OpenFile("f", os.O_RDONLY, 0)
	must(t, err)
	must(t, f.AllowDirect())
	exported := export(t, f)
	c := inherit(t, "65534", exported)
	ask(c, "imported f", "import")
	ask(c, "EBADF", "map Sync %d", page)
	ask(c, "EBADF", "map Direct %d", page)
	ask(c, "EBADF", "write x")
	ask(c, "EINVAL", "truncate 0")
	ask(c, "done", "map Direct|ReadOnly %d", page)
	ask(c, "0", "load 0")
	wantSealed(t, reopened(t, fsys, "f", os.O_RDWR), c.Cmd.Process.Pid)
	ask(c, fmt.Sprintf("open %d, map permission denied, open again permission denied", unix.O_RDONLY), "descriptors %s", pool)
	c.Finish()

	// Whoever asks for less gets less.
	g := filled(t, fsys, "g", page)
	h, err := pmemfs.Import(export(t, g), pmemfs.OpenReadOnly())
	must(t, err)
	defer h.Close()
	_, err = h.WriteString("x")
	wantError(t, err, unix.EROFS, "g")
	if !h.FS().Info().ReadOnly {
		t.Errorf("%+v", h.FS().Info())
	}
}

// reopened is another open file of the same name.
func reopened(t *testing.T, fsys *pmemfs.FS, name string, flags int) *pmemfs.File {
	t.Helper()
	f, err := fsys.OpenFile(name, flags, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestImportAppend(t *testing.T) {
	needRoot(t)
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	write(t, fsys, "log", "one ")
	f := reopened(t, fsys, "log", os.O_RDWR|os.O_APPEND)
	c := inherit(t, "65534", export(t, f))
	ask(c, "imported log", "import")
	ask(c, "done", "write two,")
	_, err := f.WriteString("three,")
	must(t, err)
	ask(c, "done", "write four.")
	ask(c, "EINVAL", "write-at x")
	ask(c, "one two,three,four.", "read")
	c.Finish()
}

// The exporter is killed; who has the descriptor goes on, and may still import.
func TestExporterDies(t *testing.T) {
	needRoot(t)
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	filled(t, fsys, "f", page)
	near, far := pair(t, unix.SOCK_STREAM)
	exporter := pooltest.StartWith(t, func(c *exec.Cmd) { c.ExtraFiles = []*os.File{far} }, "exporter", socket, "f")
	exporter.Expect("sent")
	exported, err := receiveFile(near)
	must(t, err)
	defer exported.Close()
	c := inherit(t, "65534", exported)
	ask(c, "imported f", "import")
	ask(c, "done", "map Direct %d", page)
	exporter.Kill()
	eventually(t, "the exporter's session has ended", func() bool { return stats(t, fsys).Clients == 2 })
	ask(c, "done", "store 7 1")
	ask(c, "done", "write-at abc")
	wantSealed(t, reopened(t, fsys, "f", os.O_RDWR), c.Cmd.Process.Pid)
	d := inherit(t, "65534", exported)
	ask(d, "imported f", "import")
	ask(d, "done", "map Direct %d", page)
	ask(d, "1", "load 7")
	ask(d, "97", "load 0")
	c.Finish()
	d.Finish()
}

func stats(t *testing.T, fsys *pmemfs.FS) pmemfs.Stats {
	t.Helper()
	s, err := fsys.Stats()
	must(t, err)
	return s
}

func TestImporterDies(t *testing.T) {
	needRoot(t)
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	f := filled(t, fsys, "f", page)
	must(t, f.AllowDirect())
	c := inherit(t, "65534", export(t, f))
	ask(c, "imported f", "import")
	ask(c, "done", "map Direct %d", page)
	wantSealed(t, f, c.Cmd.Process.Pid)
	c.Kill()
	eventually(t, "the seal has gone", func() bool { return f.Truncate(0) == nil })
}

// An importer can use the file and nothing else, whoever it is.
func TestImportReachesNothingElse(t *testing.T) {
	needRoot(t)
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	f := create(t, fsys, "f")
	for _, uid := range []string{"65534", "0"} {
		c := inherit(t, uid, export(t, f))
		ask(c, "imported f", "import")
		ask(c, "all refused", "names")
		ask(c, "done", "write-at works")
		c.Finish()
	}
	wantContent(t, fsys, "f", "works")
	list, err := fsys.ReadDir(".")
	if err != nil || len(list) != 1 {
		t.Error(list, err)
	}
}

// Nobody gets a connection in the name of the process that has made his socket.
func TestImportInAnothersName(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	exported := export(t, create(t, fsys, "f"))
	mine, sent := pair(t, unix.SOCK_STREAM)
	c := pooltest.StartWith(t, func(c *exec.Cmd) { c.ExtraFiles = []*os.File{exported, sent} }, "impostor")
	must(t, sent.Close())
	c.Finish()
	if n, err := mine.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Error("the server has answered:", n, err)
	}
	if n := stats(t, fsys).Clients; n != 1 {
		t.Error(n, "clients")
	}
}

// Close and Map at the same time: a mapping that was made is good.
func TestImportClosedWhileMapping(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	exported := export(t, sized(t, fsys, "f", page))
	for range 100 {
		f, err := pmemfs.Import(exported)
		must(t, err)
		closed := make(chan error)
		go func() { closed <- f.Close() }()
		m, err := f.Map(0, page, pmemfs.Sync)
		must(t, <-closed)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) && !errors.Is(err, unix.EBADF) {
				t.Fatal(err)
			}
			continue
		}
		must(t, pmemfs.Catch(func() { m.Bytes()[0]++ }))
		must(t, m.Unmap())
	}
	eventually(t, "all connections have ended", func() bool { return stats(t, fsys).Clients == 1 })
}

// The export lasts as long as a copy of the descriptor, and the file as long as the export.
func TestExportEnds(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	before, err := fsys.Statfs()
	must(t, err)
	f := filled(t, fsys, "f", 1<<20)
	exported := export(t, f)
	copied, err := unix.FcntlInt(exported.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	must(t, f.Close())
	must(t, fsys.Remove("f"))
	must(t, exported.Close())
	if n := stats(t, fsys).Exports; n != 1 {
		t.Error(n, "exports")
	}
	last := os.NewFile(uintptr(copied), "copy")
	g, err := pmemfs.Import(last)
	must(t, err)
	if st, err := g.Stat(); err != nil || st.Size() != 1<<20 || st.Sys().(*pmemfs.Stat).Nlink != 0 {
		t.Errorf("%+v, %v", st, err)
	}
	must(t, g.Close())
	if now, err := fsys.Statfs(); err != nil || now.FreeInodes >= before.FreeInodes {
		t.Error("the file is gone although it is exported:", now, err)
	}
	must(t, last.Close())
	eventually(t, "the export has ended and the file is gone", func() bool {
		now, err := fsys.Statfs()
		must(t, err)
		return stats(t, fsys).Exports == 0 && now.FreeInodes == before.FreeInodes && now.FreeBlocks == before.FreeBlocks
	})
}

// The connection of an imported file ends with the file and its last mapping, in either order.
func TestImportEnds(t *testing.T) {
	socket, _ := serve(t, newPool(t))
	fsys := dial(t, socket)
	f := filled(t, fsys, "f", 2*page)
	exported := export(t, f)
	clients := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprint("clients are ", n), func() bool { return stats(t, fsys).Clients == n })
	}
	for _, closeFirst := range []bool{true, false} {
		g, err := pmemfs.Import(exported)
		must(t, err)
		m, err := g.Map(0, page, pmemfs.Sync)
		must(t, err)
		n, err := g.Map(0, page, pmemfs.Sync)
		must(t, err)
		clients(2)
		if closeFirst {
			must(t, g.Close())
		}
		must(t, m.Unmap())
		must(t, pmemfs.Catch(func() { n.Bytes()[1] = 5 }))
		must(t, n.Persist(1, 1))
		must(t, n.Unmap())
		if !closeFirst {
			_, err := g.Stat()
			must(t, err)
			must(t, g.Close())
		}
		clients(1)
		_, err = g.FS().Stats()
		wantError(t, err, os.ErrClosed, "stats")
		_, err = g.Map(0, page, pmemfs.Sync)
		wantError(t, err, os.ErrClosed, "f")
		wantError(t, g.Close(), os.ErrClosed, "f")
	}
	g, err := pmemfs.Import(exported)
	must(t, err)
	m, err := g.Map(0, page, pmemfs.Sync)
	must(t, err)
	must(t, g.FS().Close())
	must(t, m.Unmap())
	wantError(t, g.Close(), os.ErrClosed, "f")
	clients(1)
}

// A file of a server that was killed cannot be imported any more, and what was imported is gone with it.
func TestImportFromDeadServer(t *testing.T) {
	socket, srv := serve(t, newPool(t))
	fsys := dial(t, socket)
	f := sized(t, fsys, "f", page)
	exported := export(t, f)
	g, err := pmemfs.Import(exported, pmemfs.Reconnect(0))
	must(t, err)
	defer g.Close()
	m, err := g.Map(0, page, pmemfs.Sync)
	must(t, err)
	defer m.Unmap()
	must(t, pmemfs.Catch(func() { m.Bytes()[0] = 1 }))
	srv.Kill()
	_, err = pmemfs.Import(exported, pmemfs.Reconnect(0))
	wantError(t, err, pmemfs.ErrServerGone, "anew")
	wantError(t, err, pmemfs.ErrServerGone, "import f")
	_, err = g.Stat()
	wantError(t, err, pmemfs.ErrServerGone, "f")
	wantFault(t, func() { sink = m.Bytes()[0] }, "f", 0, pmemfs.ErrServerGone)
}

func TestExportRefused(t *testing.T) {
	fsys := openPool(t, newPool(t))
	f := create(t, fsys, "f")
	_, err := f.Export()
	wantError(t, err, unix.EOPNOTSUPP, "export f")
	if !strings.Contains(err.Error(), "server") {
		t.Error(err)
	}
	served := dial(t, serveHere(t, newPool(t)))
	root, err := served.OpenFile(".", os.O_RDONLY, 0)
	must(t, err)
	defer root.Close()
	_, err = root.Export()
	wantError(t, err, unix.EISDIR, "export .")
	g := create(t, served, "g")
	must(t, g.Close())
	_, err = g.Export()
	wantError(t, err, os.ErrClosed, "export g")
}

// What is not an exported descriptor is refused at once, and nothing is sent to whoever is at its other end.
func TestImportGarbage(t *testing.T) {
	regular, err := os.CreateTemp(t.TempDir(), "regular")
	must(t, err)
	defer regular.Close()
	dir, err := os.Open(t.TempDir())
	must(t, err)
	defer dir.Close()
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	packets, other := pair(t, unix.SOCK_SEQPACKET)
	stream, _ := pair(t, unix.SOCK_STREAM)
	listener, err := net.ListenTCP("tcp", nil)
	must(t, err)
	defer listener.Close()
	inet, err := listener.File()
	must(t, err)
	defer inet.Close()
	closed, _ := pair(t, unix.SOCK_STREAM)
	must(t, closed.Close())
	socket := serveHere(t, newPool(t))
	for name, c := range map[string]struct {
		f    *os.File
		want error
	}{
		"nothing": {nil, os.ErrInvalid}, "file": {regular, unix.EINVAL}, "directory": {dir, unix.EINVAL},
		"pipe": {r, unix.EINVAL}, "its other end": {w, unix.EINVAL}, "packets": {packets, unix.EINVAL},
		"stream": {stream, unix.EINVAL}, "inet": {inet, unix.EINVAL}, "closed": {closed, os.ErrClosed},
	} {
		if _, err := pmemfs.Import(c.f); !errors.Is(err, c.want) || !strings.HasPrefix(err.Error(), "import ") {
			t.Errorf("%s: %v", name, err)
		} else if c.want == unix.EINVAL && !strings.Contains(err.Error(), "was not exported by pmemfs") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n, _, err := unix.Recvfrom(int(other.Fd()), make([]byte, 10), unix.MSG_DONTWAIT); !errors.Is(err, unix.EAGAIN) {
		t.Error("something was sent:", n, err)
	}
	served := dial(t, socket)
	exported := export(t, create(t, served, "f"))
	_, err = pmemfs.Import(exported, pmemfs.Wait(time.Second))
	wantError(t, err, unix.EINVAL, "import f")
	_, err = pmemfs.Import(exported, pmemfs.PowerCut(0))
	wantError(t, err, unix.EINVAL, "import f")
	_, err = pmemfs.Import(exported, pmemfs.Require(pmemfs.Byte))
	if err == nil || !strings.Contains(err.Error(), "granularity") {
		t.Error(err)
	}
}

// An imported file has a position of its own.
func TestImportPosition(t *testing.T) {
	fsys := dial(t, serveHere(t, newPool(t)))
	f := create(t, fsys, "f")
	_, err := f.WriteString("hello")
	must(t, err)
	g, err := pmemfs.Import(export(t, f))
	must(t, err)
	defer g.Close()
	b, err := io.ReadAll(g)
	if err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	_, err = f.WriteString(", world")
	must(t, err)
	wantContent(t, fsys, "f", "hello, world")
	// What is imported can be exported.
	h, err := pmemfs.Import(export(t, g))
	must(t, err)
	defer h.Close()
	if st, err := h.Stat(); err != nil || st.Size() != 12 || h.Name() != "f" {
		t.Error(st, err, h.Name())
	}
}
