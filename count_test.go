package pmemfs

import (
	"sync/atomic"

	"github.com/pmemfs/pmemfs/internal/wire"
)

// CountData counts, from now on, the bytes of files that the FS gets and sends in messages.
func (fsys *FS) CountData() *DataCount {
	c := &DataCount{transport: fsys.t}
	fsys.t = c
	return c
}

// DataCount is a transport that counts.
type DataCount struct {
	transport
	Read, Written atomic.Int64 // bytes
}

// Do implements transport.
func (c *DataCount) Do(q *wire.Request) (*wire.Reply, error) {
	r, err := c.transport.Do(q)
	if err == nil && q.Op == wire.OpRead {
		c.Read.Add(int64(len(r.Data)))
	}
	if err == nil && q.Op == wire.OpWrite {
		c.Written.Add(r.N)
	}
	return r, err
}
