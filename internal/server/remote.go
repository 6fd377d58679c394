package server

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/grant"
	"github.com/pmemfs/pmemfs/internal/session"
)

// remote is the other process of a session.
type remote struct {
	pid     int
	page    *fault.Page
	pidfd   int      // valid until process is closed
	process *os.File // the same descriptor, in the runtime's poller
	limit   time.Duration
	record  *session.File // nil: the session ends with the server
}

// newRemote makes the server's half of what a new client gets, and takes over p.pidfd.
func (s *Server) newRemote(p peer, readOnly, imported bool) (*remote, error) {
	r, err := s.remoteOf(p.pid, p.pidfd)
	if err != nil {
		return nil, err
	}
	if r.record, r.page, err = s.newRecord(p, readOnly, imported); err != nil {
		s.logf("process %d will not outlive the death of this server: %v", p.pid, err)
	}
	if r.page == nil {
		if r.page, err = fault.NewPage(); err != nil {
			return nil, errors.Join(err, r.process.Close())
		}
	}
	return r, nil
}

// remoteOf makes a remote without page or record, and takes over pidfd.
func (s *Server) remoteOf(pid, pidfd int) (*remote, error) {
	if err := unix.SetNonblock(pidfd, true); err != nil { // or the poller would not have it
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(pidfd))
	}
	return &remote{pid: pid, pidfd: pidfd, process: os.NewFile(uintptr(pidfd), "process"), limit: s.opts.BreakTimeout}, nil
}

// TakeBack implements grant.Client.
func (r *remote) TakeBack(runs []grant.AddressRun, to grant.Access) error {
	list := make([]fault.AddressRun, len(runs))
	for i, run := range runs {
		list[i] = fault.AddressRun(run)
	}
	access := fault.AccessNone
	if to == grant.Read {
		access = fault.AccessRead
	}
	return r.page.TakeBack(r.pidfd, list, access, r.limit)
}

// PID lets errors name the process.
func (r *remote) PID() int { return r.pid }

func (r *remote) resolvesFaults() bool { return true }

func (r *remote) ended() bool { return pidfdEnded(r.pidfd) }

func (r *remote) close() error {
	err := r.page.Close()
	if r.record != nil {
		err = errors.Join(err, r.record.Remove())
	}
	return errors.Join(err, r.process.Close())
}

// leave is close for a client that another server is to take over: nothing has been done for it yet.
func (r *remote) leave() error {
	return errors.Join(r.page.Leave(), r.record.Close(), r.process.Close())
}

// gone waits until the process has ended, or close is called.
func (r *remote) gone() {
	raw, err := r.process.SyscallConn()
	if err != nil {
		return // closed
	}
	raw.Read(func(fd uintptr) bool { return pidfdEnded(int(fd)) }) // an error: closed
}

// pidfdEnded says whether all threads of a process are gone.
func pidfdEnded(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// serveFaults answers the page faults of a remote session until its page is closed.
func (s *Session) serveFaults(r *remote) {
	err := r.page.Serve(func(q *fault.Request) fault.Code {
		err := s.serveFault(q)
		s.srv.counts.fault(q.Write, err)
		switch {
		case err == nil:
			return fault.CodeOK
		case s.srv.off.Load():
			return fault.CodeServerGone
		}
		return faultCode(err)
	})
	if err != nil {
		s.srv.logf("page faults of process %d: %v", s.pid, err)
	}
}

func (s *Session) serveFault(q *fault.Request) (err error) {
	defer func() {
		if v := recover(); v != nil {
			s.srv.logf("a page fault of process %d panicked: %v", s.pid, v)
			err = unix.EIO
		}
	}()
	m, err := s.mappings.get(q.Mapping)
	if err != nil {
		return err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.ended {
		return unix.ENXIO
	}
	return m.fault(q.Page, q.Count, q.Write, func(r fault.Reply) error {
		q.Grant(fault.AddressRun{Address: m.address + uint64(r.FirstPage)*blockSize, Length: uint64(r.Count) * blockSize}, r)
		return nil
	})
}
