package pmemfs

import (
	"encoding/json"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/lines"
	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// PowerCutReport counts what an emulated power cut did. Its JSON form is stable.
type PowerCutReport = medium.CutReport

// CutPower cuts the power of a pool that was opened with [PowerCut], or that a server emulates so. What was not durable is
// lost. So is this FS, as if the machine had been switched off: its mappings are inaccessible and every call but Close
// returns [ErrServerGone]. So are, with a server, those of all other clients.
//
// With a server the power comes back at once: Dial again. An embedded pool is closed by Close, which makes nothing durable
// any more; then Open it again, with PowerCut for another cut. EOPNOTSUPP: power cuts are not emulated here.
func (fsys *FS) CutPower() (PowerCutReport, error) {
	r, err := fsys.cutPower()
	return r, pathError("cut the power of", fsys.info.Pool, err)
}

func (fsys *FS) cutPower() (r PowerCutReport, err error) {
	if fsys.closed.Load() {
		return r, fs.ErrClosed
	}
	if !fsys.info.Medium.PowerCut {
		return r, &detailed{"power cuts are emulated only where the pool was opened for that", unix.EOPNOTSUPP}
	}
	if e, ok := fsys.t.(*embedded); ok {
		return e.cutPower()
	}
	reply, err := fsys.call(&wire.Request{Op: wire.OpPowerCut})
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(reply.Data, &r); err != nil {
		return r, fmt.Errorf("%w: %w", errProtocol, err)
	}
	return r, fsys.t.Close() // the server closes it too
}

func (e *embedded) cutPower() (PowerCutReport, error) {
	e.using.Lock()
	defer e.using.Unlock()
	switch {
	case e.done:
		return PowerCutReport{}, fs.ErrClosed
	case e.off:
		return PowerCutReport{}, ErrServerGone
	}
	e.off = true
	e.space.abandon()
	return e.srv.CutPower()
}

// tell tells the server, which emulates power cuts, of a flush, and of the fence if there was one.
func (m *Mapping) tell(off, n int, fence lines.How) error {
	flags := uint32(wire.FlushLines)
	if fence != 0 {
		flags |= wire.FlushFence
	}
	_, err := m.fsys.call(&wire.Request{Op: wire.OpFlush, Handle: m.id, Offset: int64(off), Length: int64(n), Flags: flags})
	return err
}
