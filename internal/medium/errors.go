package medium

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What can be wrong with a pool. Errors of this package that are about the pool as a whole are an *Error around one of
// these; both it and the errno beside it match with errors.Is.
var (
	// ErrNotPool is returned when there is something at the path, but not a pool's files or device.
	ErrNotPool = kind{errors.New("is not a pool"), unix.EINVAL}
	// ErrNoPool is returned when nothing is at the path, or a directory without a pool's files.
	ErrNoPool = kind{errors.New("has no pool"), unix.ENOENT}
	// ErrInUse is returned when another owner (or reader, if one wants to own it) has the pool open. PIDs has it.
	ErrInUse = kind{errors.New("is in use"), unix.EBUSY}
	// ErrSurvivors is returned when programs still map the data area of an owner that is gone. PIDs has them.
	ErrSurvivors = kind{errors.New("is still mapped"), unix.EBUSY}
	// ErrExists is returned by Create when a pool, or something else, is there already.
	ErrExists = kind{errors.New("exists already"), unix.EEXIST}
	// ErrGranularity is returned when the medium is weaker than Options.Require.
	ErrGranularity = kind{errors.New("cannot give what is required"), unix.EOPNOTSUPP}
	// ErrUnsupported is returned for media on which a pool cannot work at all.
	ErrUnsupported = kind{errors.New("cannot hold a pool"), unix.EOPNOTSUPP}
	// ErrTooSmall is returned when a device is smaller than the areas asked for.
	ErrTooSmall = kind{errors.New("is too small"), unix.ENOSPC}
)

// kind is a sentinel with the errno that it means to a caller who knows only those.
type kind struct {
	error
	errno unix.Errno
}

func (k kind) Unwrap() error { return k.errno }

// Error says what is wrong with the pool at Path.
type Error struct {
	Path   string
	Kind   error  // one of the sentinels above
	Reason string // what exactly; may be empty
	PIDs   []int  // processes in the way, ascending; empty if none is known

	// Evidence is what was found, when the error is about the medium (ErrGranularity, ErrUnsupported).
	Evidence []Evidence
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Path != "" {
		b.WriteString(e.Path + " ")
	}
	b.WriteString(e.Kind.Error())
	switch {
	case len(e.PIDs) > 0:
		b.WriteString(" by " + describeProcesses(e.PIDs))
	case errors.Is(e.Kind, ErrInUse), errors.Is(e.Kind, ErrSurvivors):
		b.WriteString(" by a process that cannot be named (of another user, or in another PID namespace)")
	}
	if e.Reason != "" {
		b.WriteString(": " + e.Reason)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Kind }

// withPath names the pool in an *Error that does not name one yet.
func withPath(err error, path string) error {
	var e *Error
	if errors.As(err, &e) && e.Path == "" {
		e.Path = path
	}
	return err
}

// describeProcesses returns "process 17 (pmemfs)", "processes 17 (pmemfs), 18 (app)".
func describeProcesses(pids []int) string {
	pids = slices.Clone(pids)
	slices.Sort(pids)
	const most = 8
	var names []string
	for i, pid := range pids {
		if i == most {
			names = append(names, fmt.Sprintf("%d more", len(pids)-most))
			break
		}
		name := strconv.Itoa(pid)
		if pid == os.Getpid() {
			name += " (this process)"
		} else if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil {
			name += " (" + strings.TrimSpace(string(comm)) + ")"
		}
		names = append(names, name)
	}
	if len(names) == 1 {
		return "process " + names[0]
	}
	return "processes " + strings.Join(names, ", ")
}
