package pmemfs

import "github.com/pmemfs/pmemfs/internal/wire"

// Requests returns how a request gets to whoever serves the pool. It is for the commands of this project, such as "pmemfs
// mount": the messages are in an internal package.
func (fsys *FS) Requests() func(*wire.Request) (*wire.Reply, error) { return fsys.t.Do }
