package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/child"
)

const (
	busyFiles    = 8
	busyFileSize = 4 << 20 // bytes
	movedPiece   = 2 << 20 // bytes that are moved at a time of a file that is measured
	// busyPause is between two operations of the other client.
	busyPause = time.Millisecond
)

// disturbances are what another client can do to files of its own, which it has mapped, so that grants are broken.
var disturbances = []struct {
	name string
	do   func(f *grantedFile) error
}{
	{"truncate", (*grantedFile).truncate},
	{"relocate", (*grantedFile).relocate},
	{"clone", (*grantedFile).clone},
}

// Disturbances are the names of what another client can do.
func Disturbances() []string {
	var names []string
	for _, d := range disturbances {
		names = append(names, d.name)
	}
	return names
}

// Done is how often another client has done something, by its name.
type Done struct {
	Done    map[string]int64 `json:"done"`
	Refused map[string]int64 `json:"refused"` // because of a seal
}

// BusyOptions are what the other client is told.
type BusyOptions struct {
	Socket string
	Do     []string // disturbances of its own files
	Move   []string // files of others that it moves
}

// any says whether there is anything to do.
func (o *BusyOptions) any() bool { return len(o.Do)+len(o.Move) > 0 }

func (o *BusyOptions) args() []string {
	do, move := strings.Join(o.Do, ","), strings.Join(o.Move, ",")
	return []string{"bench-busy", "--socket", o.Socket, "--do", do, "--move", move}
}

// step is one thing that the other client does again and again.
type step struct {
	name string
	do   func() error
}

// Busy is the life of the other client's process. It does one thing after the other until ctx is done, prints a line
// when it has begun, and in the end what it has done.
func Busy(ctx context.Context, o BusyOptions, stdout io.Writer) error {
	fsys, err := pmemfs.Dial(o.Socket)
	if err != nil {
		return err
	}
	defer fsys.Close() // of no consequence: its files are not needed any more
	steps, err := o.steps(fsys)
	if err != nil {
		return err
	}
	d := Done{map[string]int64{}, map[string]int64{}}
	for turn := 0; ctx.Err() == nil; turn++ {
		s := steps[turn%len(steps)]
		switch err := s.do(); {
		case err == nil:
			d.Done[s.name]++
		case errors.Is(err, pmemfs.ErrSealed):
			d.Refused[s.name]++
		default:
			return err
		}
		if turn == len(steps) {
			fmt.Fprintln(stdout, "busy")
		}
		time.Sleep(busyPause)
	}
	return json.NewEncoder(stdout).Encode(d)
}

func (o *BusyOptions) steps(fsys *pmemfs.FS) (steps []step, err error) {
	for i := range busyFiles {
		if len(o.Do) == 0 {
			break
		}
		f, err := newGrantedFile(fsys, fmt.Sprintf("busy %d", i), busyFileSize)
		if err != nil {
			return nil, err
		}
		for _, d := range disturbances {
			if slices.Contains(o.Do, d.name) {
				steps = append(steps, step{d.name, func() error { return d.do(f) }})
			}
		}
	}
	for _, name := range o.Move {
		f, err := fsys.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		pieces := max(info.Size()/movedPiece, 1)
		move := func() error { return f.Relocate(rand.Int64N(pieces)*movedPiece, movedPiece) }
		steps = append(steps, step{name, move})
	}
	return steps, nil
}

// grantedFile is a file of a client: mapped, and all of it granted.
type grantedFile struct {
	file    *pmemfs.File
	mapping *pmemfs.Mapping
}

func newGrantedFile(fsys *pmemfs.FS, name string, size int) (*grantedFile, error) {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	m, err := f.Map(0, size, pmemfs.Sync|pmemfs.Populate)
	return &grantedFile{f, m}, err
}

// again has everything granted that was taken back, holes filled.
func (f *grantedFile) again() error { return f.mapping.Populate(0, busyFileSize) }

func (f *grantedFile) truncate() error {
	return errors.Join(f.file.Truncate(rand.Int64N(busyFileSize)), f.file.Truncate(busyFileSize), f.again())
}

func (f *grantedFile) relocate() error {
	return errors.Join(f.file.Relocate(0, busyFileSize), f.again())
}

// clone takes the right to store away from all that have it; then each first store to a block copies it, if the clone is still
// there: here the mapping itself stores, by being populated.
func (f *grantedFile) clone() error {
	fsys, name := f.file.FS(), f.file.Name()+" clone"
	return errors.Join(f.file.Clone(name), f.again(), fsys.Remove(name))
}

// busyClient is the process that lives Busy.
type busyClient struct{ *child.Process }

// startBusy starts the other client, and waits until it is busy.
func startBusy(ctx context.Context, s *stage, o BusyOptions) (*busyClient, error) {
	o.Socket = s.socket
	p, err := s.children.Start("the other client", nil, o.args()...)
	if err != nil {
		return nil, err
	}
	_, err = p.Line(ctx)
	return &busyClient{p}, err
}

// stop ends the other client, and returns what it has done.
func (b *busyClient) stop(ctx context.Context) (*Done, error) {
	if err := b.Terminate(ctx); err != nil {
		return nil, err
	}
	line, err := b.Line(ctx)
	if err != nil {
		return nil, err
	}
	var d Done
	if err := json.Unmarshal([]byte(line), &d); err != nil {
		return nil, fmt.Errorf("the other client: %w", err)
	}
	return &d, nil
}
