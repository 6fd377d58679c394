// Package server owns a pool on behalf of its clients: it mounts it, checks who they are, keeps what they have open and
// mapped, answers their requests and page faults, and takes their grants back when blocks move.
//
// A Session is one client. It is either a connection to the unix socket (one process, with its own fault page), or
// the local session of the program that has opened the pool itself; requests take the same way in both. A
// connection's session outlives the server that dies: see adopt.go.
//
// # What a client can do to the server
//
// Nothing but use it up to its limits. A message that the protocol does not allow ends the connection. Handles and
// mappings are looked up in the session's own tables. A handler that panics answers EIO. A client that dies loses its
// handles at once, and its mappings as soon as its process is gone; one that only disconnects keeps its grants
// recorded, and breakable, until then.
//
// # Locks, from the outside inwards
//
//	heir.mu                           while a session is resumed, or a client that did not do so has ended
//	mapping.mu                        shared while a fault or a pin of the mapping is handled, exclusive while it ends
//	  core's inode locks              held while grants are recorded and broken
//	    grant.Table's locks
//	      fault.Page's locks, localSpace.mu
//	table.mu                          under it only the lock of the session's record
//	Server.mu                         a leaf: nothing is taken under it
package server
