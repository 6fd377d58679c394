// Package session keeps what a server knows of its clients in files that outlive the server, so that the next one can
// take the clients over without asking them: which process a client is, what it may do, has open, mapped and pinned.
//
// # Files
//
//	RUNTIME/pmemfs-IDENTITY/   one for each pool, of mode 0700 and of the server's user
//	    SLOT.session           header and records of a session
//	    SLOT.page              its fault page; this package makes its name and removes it, and never looks into it
//	    progress               what is pending, for all clients to see; the same holds for it
//
// A record is written before the client is told of what it records, and erased after it has asked for the end, by storing
// to 64 aligned bytes of the file, which is mapped. So a server that is killed at any instant leaves a record whole, absent
// or, in the middle of the stores, torn: then it does not match its checksum and counts as absent, which it may, for the
// client was not told of it, or has given it back. One that the client knows is changed by a single pwrite, which no death
// interrupts. There is no need to make anything durable: what the files describe does not outlive the machine either, and
// a file of an earlier boot is of nobody.
//
// # Trust
//
// Nobody but the server's user can write to the directory: one that is not so is refused. What is read back is checked
// nevertheless: a file that makes no sense is an error or lacks a record, never more.
//
// # Locks
//
// Dir.mu is a leaf, and taken under File.mu. A Dir holds an exclusive flock on its directory, so that nobody takes it
// for one that was left behind.
package session

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/internal/medium"
)

// Limits of what can be recorded.
const (
	MaxSlots   = medium.MaxSlots // sessions of a pool
	maxRecords = 1 << 18         // of a session: 16 MiB
	maxGroups  = 1 << 16         // of a client: as many as Linux allows
)

// DamagedError says that a file is not what this package writes. It matches EIO.
type DamagedError struct{ File, What string }

func (e *DamagedError) Error() string { return fmt.Sprintf("%s: %s", e.File, e.What) }

// Unwrap returns EIO.
func (e *DamagedError) Unwrap() error { return unix.EIO }
