package server

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// Limits of exports, so that nobody uses up the server's descriptors and threads. Whoever has an exported descriptor
// may connect by it, who otherwise may not: those connections leave room for others.
const (
	maxExports     = 1024
	maxUserExports = maxExports / 4
	maxImports     = maxSessions / 2
	maxUserImports = maxSessions / 4
)

// quota bounds what there is of something, in all and of each user.
//
// Invariant: all is the sum of users, in which nobody has 0.
type quota struct {
	what          string
	limit, ofUser int
	all           int
	users         map[uint32]int
}

func newQuota(what string, limit, ofUser int) quota {
	return quota{what: what, limit: limit, ofUser: ofUser, users: map[uint32]int{}}
}

// take counts one more of a user. EUSERS: there are too many.
func (q *quota) take(uid uint32) error {
	switch {
	case q.all >= q.limit:
		return fmt.Errorf("the server has %d %s, which is the limit: %w", q.all, q.what, unix.EUSERS)
	case q.users[uid] >= q.ofUser:
		return fmt.Errorf("user %d has %d %s, which is the limit: %w", uid, q.users[uid], q.what, unix.EUSERS)
	}
	q.all++
	q.users[uid]++
	return nil
}

func (q *quota) give(uid uint32) {
	q.all--
	if q.users[uid]--; q.users[uid] == 0 {
		delete(q.users, uid)
	}
}

// export is an open file that an exported descriptor stands for: the other end of conn, of which any process may have
// copies. It ends with the last of them.
//
// A message asks for a connection, and is answered over a socket that comes with it (see package wire). Nothing is ever
// written to conn, where those who have a copy could take what is meant for each other.
//
// Invariant: the handle has one user more until over.
type export struct {
	srv    *Server
	handle *handle
	name   string // that the exporter knows it by, for people
	uid    uint32 // of the exporter
	conn   *net.UnixConn
	over   sync.Once
}

// In the table's own declaration it would stand in a circle: those who import what is exported make requests, too.
func init() { ops[wire.OpExport] = op{do: (*Session).export} }

func (s *Session) export(q *wire.Request) (*wire.Reply, error) {
	return s.useFile(q, false, false, func(h *handle) (*wire.Reply, error) {
		fd, err := s.srv.export(h, q.Path, s.cred.UID)
		if err != nil {
			return nil, err
		}
		return &wire.Reply{Files: []int{fd}}, nil
	})
}

// export makes a descriptor that stands for an open file. The caller has the handle in use.
func (s *Server) export(h *handle, name string, uid uint32) (int, error) {
	ours, theirs, err := socketPair(unix.SOCK_SEQPACKET, func(fd int) error {
		// Each message comes with its sender. The address is a mark only: nobody can connect to it.
		name := wire.ExportPrefix + hex.EncodeToString(random())
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1),
			unix.Bind(fd, &unix.SockaddrUnix{Name: name}))
	})
	if err != nil {
		return -1, err
	}
	e := &export{srv: s, handle: h, name: name, uid: uid, conn: ours}
	if err := s.addExport(e); err != nil {
		return -1, errors.Join(err, ours.Close(), unix.Close(theirs))
	}
	go e.serve()
	return theirs, nil
}

func random() []byte {
	b := make([]byte, 8)
	rand.Read(b) // never fails
	return b
}

func (s *Server) addExport(e *export) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serving == nil || s.closed {
		return fmt.Errorf("no server serves this pool, by whom another process could reach the file: %w", unix.EOPNOTSUPP)
	}
	if err := s.exported.take(e.uid); err != nil {
		return err
	}
	s.exports[e] = struct{}{}
	e.handle.users.Add(1)
	return nil
}

// end lets go of the file. It does not close conn: that closes what others have put into messages not read yet, which
// can take as long as they like.
func (e *export) end() {
	e.over.Do(func() {
		e.srv.mu.Lock()
		delete(e.srv.exports, e)
		e.srv.mu.Unlock()
		e.conn.CloseRead() // an error: the other end was closed before
		e.handle.put()
	})
}

// endExports follows the end of new ones.
func (s *Server) endExports() {
	s.mu.Lock()
	var list []*export
	for e := range s.exports {
		list = append(list, e)
	}
	s.mu.Unlock()
	for _, e := range list {
		e.end()
	}
}

// maxComplaints is how many messages of an export are complained of in the log.
const maxComplaints = 10

// serve answers messages until the last copy of the other end is closed. Nobody waits for it, because it may hang in
// the closing of what it was sent; until it does not, it counts.
func (e *export) serve() {
	defer func() {
		e.end()
		e.conn.Close()
		e.srv.mu.Lock()
		defer e.srv.mu.Unlock()
		e.srv.exported.give(e.uid)
	}()
	for complaints := 0; ; {
		p, ok := e.receive()
		if !ok {
			return
		}
		err := e.connect(p)
		wire.CloseFiles(p.files)
		if err != nil && complaints < maxComplaints && !e.srv.ending() {
			complaints++
			e.srv.logf("process %d could not import %q: %v", p.pid, e.name, err)
		}
	}
}

// packet is a message of whoever has a copy of the exported descriptor.
type packet struct {
	pid   int // of the sender, as the kernel says or a privileged sender claims
	body  []byte
	files []int // any descriptors of his
	whole bool  // nothing was cut off
}

// maxPacket is more than the frame of a Hello takes, bytes.
const maxPacket = 256

// receive returns false at the end.
func (e *export) receive() (p packet, ok bool) {
	body := make([]byte, maxPacket)
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4))
	n, oobn, flags, _, _ := e.conn.ReadMsgUnix(body, oob)
	if oobn == 0 {
		return p, false // a message, be it empty, comes with its sender
	}
	p.body, p.whole = body[:n], flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) == 0
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		m := &messages[i]
		if fds, err := unix.ParseUnixRights(m); err == nil {
			p.files = append(p.files, fds...)
		} else if cred, err := unix.ParseUnixCredentials(m); err == nil {
			p.pid = int(cred.Pid)
		}
	}
	p.whole = p.whole && err == nil
	return p, true
}

// hello is the one request that a packet may hold.
func (p packet) hello() (*wire.Request, error) {
	if !p.whole || len(p.files) != 1 {
		return nil, fmt.Errorf("%w: %d bytes and %d descriptors, or more", wire.ErrMalformed, len(p.body), len(p.files))
	}
	in := bytes.NewReader(p.body)
	body, err := wire.ReadFrame(in)
	if err != nil {
		return nil, err
	}
	if in.Len() > 0 {
		return nil, fmt.Errorf("%w: %d bytes too long", wire.ErrMalformed, in.Len())
	}
	return wire.DecodeRequest(body)
}

// connect makes a session of a packet. Errors that concern the sender are told him.
func (e *export) connect(p packet) error {
	q, err := p.hello()
	if err != nil {
		return err
	}
	who, err := sender(p)
	if err != nil {
		return err
	}
	if err := e.welcome(q, who, p.files[0]); err != nil {
		r := errorReply(err)
		r.ID = q.ID
		frame, encodeErr := wire.AppendReply(nil, r)
		if encodeErr == nil {
			encodeErr = sendNow(p.files[0], frame, nil)
		}
		return errors.Join(err, encodeErr)
	}
	return nil
}

// sender finds out who has sent a packet: the process that has made the socket which came with it, by what the kernel
// has noted then (user, groups, descriptor of the process), as with a process that connects. The credentials of the
// message itself would be the real user's, and a privileged process in a namespace can lie in them; here they only make
// sure that nobody sends what another process has made. The caller closes pidfd.
func sender(p packet) (peer, error) {
	fd := p.files[0]
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return peer{}, fmt.Errorf("the descriptor in it is not a socket: %w", err)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || domain != unix.AF_UNIX || kind != unix.SOCK_STREAM {
		return peer{}, fmt.Errorf("the descriptor in it is not a unix stream socket: %w", unix.EINVAL)
	}
	who, err := peerOf(fd)
	if err != nil {
		return peer{}, err
	}
	if who.pid == 0 || who.pid != p.pid {
		return peer{}, errors.Join(unix.Close(who.pidfd),
			fmt.Errorf("process %d sends a socket that process %d has made: %w", p.pid, who.pid, unix.EPERM))
	}
	return who, nil
}

// welcome makes a session and gives its connection away over mailbox, a unix socket. It closes who.pidfd.
func (e *export) welcome(q *wire.Request, who peer, mailbox int) error {
	if !e.srv.enter() {
		return errors.Join(errShutdown, unix.Close(who.pidfd))
	}
	defer e.srv.clients.Done()
	readOnly := q.Flags&wire.HelloReadOnly != 0
	r, err := e.srv.newRemote(who, readOnly, true)
	if err != nil {
		return err
	}
	conn, theirs, err := socketPair(unix.SOCK_STREAM, func(fd int) error {
		refuseDescriptors(fd)
		return nil
	})
	if err != nil {
		r.close()
		return err
	}
	defer unix.Close(theirs)
	sess := newSession(e.srv, who.pid, who.cred, q.Flags&wire.HelloReadOnly != 0)
	sess.taker, sess.imported = r, true
	sess.conn.Store(conn)
	err = checkHello(q)
	if err == nil {
		err = e.srv.admit(sess)
	}
	if err != nil {
		r.close()
		return errors.Join(err, conn.Close())
	}
	if err := e.introduce(sess, r, &wire.Reply{ID: q.ID, Files: []int{theirs}}, mailbox); err != nil {
		sess.Close()
		return errors.Join(err, conn.Close())
	}
	e.srv.clients.Go(func() { sess.serve(conn) })
	return nil
}

// introduce gives a session the handle, and the client what he must have for it.
func (e *export) introduce(sess *Session, r *remote, reply *wire.Reply, mailbox int) error {
	e.handle.users.Add(1) // the export is one already
	id, err := sess.addHandle(e.handle)
	if err != nil {
		e.handle.put()
		return err
	}
	attr := wireAttr(e.handle.node.Attr())
	reply.Handle, reply.N, reply.Name, reply.Attr = id, int64(e.handle.flags), e.name, &attr
	readOnly := sess.readOnly || !e.handle.writable()
	return sess.greet(reply, r, readOnly, func(frame []byte, files []int) error { return sendNow(mailbox, frame, files) })
}

// sendNow sends on a unix socket of somebody else's, who cannot make it last.
func sendNow(fd int, frame []byte, files []int) error {
	var oob []byte
	if len(files) > 0 {
		oob = unix.UnixRights(files...)
	}
	n, err := unix.SendmsgN(fd, frame, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err == nil && n < len(frame) {
		err = unix.EMSGSIZE
	}
	return os.NewSyscallError("sendmsg", err)
}

// socketPair makes a pair of unix sockets: ours is prepared before the runtime's poller has it.
func socketPair(kind int, prepare func(fd int) error) (ours *net.UnixConn, theirs int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, os.NewSyscallError("socketpair", err)
	}
	f := os.NewFile(uintptr(fds[0]), "socket")
	defer f.Close()
	err = prepare(fds[0])
	if err == nil {
		var c net.Conn
		if c, err = net.FileConn(f); err == nil {
			return c.(*net.UnixConn), fds[1], nil
		}
	}
	return nil, -1, errors.Join(err, unix.Close(fds[1]))
}

// enter makes Serve wait for the caller, who calls clients.Done, unless it has begun to end.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.clients.Add(1)
	}
	return !s.closed
}

func (s *Server) ending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}
