package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/tree"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// problem is an error as the command tells it. Its JSON names are a contract with scripts.
type problem struct {
	Message  string            `json:"message"`
	Path     string            `json:"path,omitempty"`
	Offset   *int64            `json:"offset,omitempty"` // bytes
	Errno    string            `json:"errno,omitempty"`
	Try      string            `json:"try,omitempty"`
	Evidence []medium.Evidence `json:"evidence,omitempty"` // about the medium
	Others   []*problem        `json:"others,omitempty"`   // that came after this one

	code int
}

func (p *problem) text(w io.Writer) {
	fmt.Fprintf(w, "pmemfs: %s\n", p.Message)
	for _, e := range p.Evidence {
		fmt.Fprintf(w, "  found: %v\n", e)
	}
	if p.Try != "" {
		fmt.Fprintf(w, "try: %s\n", p.Try)
	}
	for _, other := range p.Others {
		other.text(w)
	}
}

// failure is an error with what this command knows about it besides its cause.
type failure struct {
	err  error
	code int    // exit code
	try  string // a remedy; empty: none known
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// several are errors of which each is told.
type several []error

func (s several) Error() string   { return errors.Join(s...).Error() }
func (s several) Unwrap() []error { return s }

// each calls f for every argument, and goes on after errors.
func each(args []string, f func(string) error) error {
	var errs several
	for _, arg := range args {
		if err := f(arg); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return errs
}

// usageError is an error in the command line.
func usageError(cmd *cobra.Command, format string, args ...any) error {
	return &failure{fmt.Errorf(format, args...), exitUnable, cmd.CommandPath() + " --help"}
}

// unable marks an error because of which nothing could be tried.
func unable(err error) error { return &failure{err: err, code: exitUnable} }

// remedy adds a remedy to an error, if it is one of those.
func remedy(err error, try string, when ...error) error {
	for _, target := range when {
		if errors.Is(err, target) {
			return &failure{err, exitFailed, try}
		}
	}
	return err
}

func panicError(v any) error {
	if err, ok := v.(error); ok {
		return fmt.Errorf("internal error: %w", err)
	}
	return fmt.Errorf("internal error: %v", v)
}

// explain finds in an error what users need.
func explain(err error) *problem {
	var all several
	if errors.As(err, &all) {
		p := explain(all[0])
		for _, other := range all[1:] {
			p.Others = append(p.Others, explain(other))
		}
		return p
	}
	p := &problem{Message: message(err), code: exitFailed}
	var f *failure
	if errors.As(err, &f) {
		p.code, p.Try = f.code, f.try
	}
	var (
		pathErr *fs.PathError
		linkErr *os.LinkError
		copyErr *tree.Error
		media   *medium.Error
		errno   unix.Errno
	)
	switch {
	case errors.As(err, &copyErr):
		p.Path = copyErr.Name
		if copyErr.Offset >= 0 {
			p.Offset = &copyErr.Offset
		}
	case errors.As(err, &pathErr):
		p.Path = pathErr.Path
	case errors.As(err, &linkErr):
		p.Path = linkErr.Old
	}
	if off, known := offset(err); known {
		p.Offset = &off
	}
	if errors.As(err, &errno) {
		p.Errno = unix.ErrnoName(errno)
	}
	if errors.As(err, &media) {
		p.Evidence = media.Evidence
	}
	if p.Try == "" {
		p.Try = generalRemedy(err, p.Path)
	}
	return p
}

// offset returns the byte of the file that an error of the library is about.
func offset(err error) (off int64, known bool) {
	var (
		access   *pmemfs.FaultError
		sealed   *pmemfs.SealedError
		unfilled *pmemfs.UnfilledError
	)
	switch {
	case errors.As(err, &access):
		return access.Offset, true
	case errors.As(err, &sealed):
		return sealed.Offset, true
	case errors.As(err, &unfilled):
		return unfilled.Offset, true
	}
	return 0, false
}

// generalRemedy is for errors that mean the same in every verb. path: of the file, if it is known.
func generalRemedy(err error, path string) string {
	file := "FILE"
	if path != "" {
		file = "/" + strings.TrimPrefix(path, "/")
	}
	var sealed *pmemfs.SealedError
	switch {
	case errors.Is(err, pmemfs.ErrStatic):
		return "pmemfs thaw POOL " + file
	case errors.As(err, &sealed) && sealed.Pin:
		return fmt.Sprintf("once more: process %d has pinned it for the time of an I/O only", sealed.PID)
	case errors.As(err, &sealed):
		return fmt.Sprintf("unmap it in process %d, or stop that; pmemfs info SOCKET shows what is sealed", sealed.PID)
	case errors.As(err, new(*pmemfs.UnfilledError)):
		return "pmemfs fill POOL " + file
	case errors.Is(err, unix.EDQUOT):
		return "unmap or unpin something, or start the server with more: pmemfs serve --max-sealed, --max-pinned, --max-grants"
	case errors.Is(err, unix.EMFILE):
		return "close or unmap something, or raise the limit: a server's by its --max-handles or --max-mappings, this process's by ulimit -n"
	case errors.Is(err, unix.ENOSPC):
		return "pmemfs info POOL shows what is free; remove files, or make a larger pool"
	case errors.Is(err, pmemfs.ErrServerGone):
		return "start the server again (pmemfs serve) and repeat the command"
	case errors.Is(err, pmemfs.ErrCorrupt):
		return "pmemfs check POOL names everything that is damaged"
	case errors.Is(err, medium.ErrGranularity):
		return "a medium that gives it, or without --require"
	}
	return ""
}

// message returns the error's text. Errors of a pool name it themselves; it is not said twice.
func message(err error) string {
	var p *fs.PathError
	var m *medium.Error
	if errors.As(err, &p) && errors.As(p.Err, &m) && m.Path == p.Path {
		return strings.Replace(err.Error(), p.Error(), p.Op+" "+p.Err.Error(), 1)
	}
	return err.Error()
}
