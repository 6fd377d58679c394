package server

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/fault"
	"github.com/pmemfs/pmemfs/internal/grant"
)

// local is a program that has opened the pool itself. It has nobody to resolve its page faults: its own goroutines
// would have to, and they may all be waiting for a page.
type local struct{ grant.Client }

func (local) resolvesFaults() bool { return false }
func (local) ended() bool          { return false }
func (local) close() error         { return nil }

// PID lets errors name the process.
func (local) PID() int { return os.Getpid() }

// localHandles is how many handles the program itself may have at least: nobody protects it from itself, and a kernel that has
// the pool mounted opens files for all programs there are.
const localHandles = 1 << 20

// Local makes the session of the program itself. taker takes back what Populate has granted.
func (s *Server) Local(taker grant.Client) (*Session, error) {
	groups, err := os.Getgroups()
	if err != nil {
		return nil, err
	}
	cred := core.Cred{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	for _, g := range groups {
		cred.Groups = append(cred.Groups, uint32(g))
	}
	sess := newSession(s, os.Getpid(), cred, false)
	sess.taker = local{taker}
	sess.handles.limit = max(sess.handles.limit, localHandles)
	return sess, s.admit(sess)
}

// Populate grants pages [page, page+count) of a mapping of a local session. mapRun maps each run while no break can
// come in between. It returns how many pages from the first on were granted.
func (s *Session) Populate(id uint32, page, count int64, write bool, mapRun func(fault.Reply) fault.Code) (int64, error) {
	m, err := s.mappings.get(id)
	if err != nil {
		return 0, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.ended {
		return 0, unix.EBADF
	}
	next := page
	for next < page+count {
		at := next
		err := m.fault(at, page+count-at, write, func(r fault.Reply) error {
			if code := mapRun(r); code != fault.CodeOK {
				return unix.ENOMEM
			}
			next = r.FirstPage + r.Count
			return nil
		})
		s.srv.counts.fault(write, err)
		if err != nil {
			return at - page, err
		}
	}
	return count, nil
}
