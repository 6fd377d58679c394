package pmemfs

import "github.com/pmemfs/pmemfs/internal/wire"

// transport carries a request to whoever serves the pool and returns its reply: over a socket, or by a call into
// the server's own code when this process owns the pool. An error means that there is no reply; a reply with an
// errno is no error of the transport. Safe for concurrent use. The request may be reused once Do has returned.
type transport interface {
	Do(*wire.Request) (*wire.Reply, error)
	Close() error
}
