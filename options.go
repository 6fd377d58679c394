package pmemfs

import (
	"fmt"
	"time"
)

// Granularity says in which units a store becomes durable on a medium, from the finest to the coarsest.
type Granularity uint8

const (
	anyGranularity Granularity = iota
	// Byte: CPU caches are in the persistence domain; a store is durable once it is globally visible.
	Byte
	// CacheLine: a store is durable once its line is flushed and a fence has passed.
	CacheLine
	// Page: the medium lies behind a page cache; a store is durable after a system call.
	Page
)

func (g Granularity) String() string {
	switch g {
	case Byte:
		return "byte"
	case CacheLine:
		return "cache-line"
	case Page:
		return "page"
	}
	return fmt.Sprintf("granularity %d", uint8(g))
}

// Option changes how Open and Dial work.
type Option func(*options)

type options struct {
	require  Granularity // 0: anything
	readOnly bool
	wait     time.Duration
}

// Require makes Open and Dial fail unless stores to the medium become durable in units of g or finer. The error
// says what the medium is, how that was found out, and what is missing.
func Require(g Granularity) Option { return func(o *options) { o.require = g } }

// OpenReadOnly opens the pool, or connects to its server, without the right to change anything: every operation
// that would is refused with EROFS, and mappings are read-only.
func OpenReadOnly() Option { return func(o *options) { o.readOnly = true } }

// Wait makes Open wait up to d for mappings that clients of an earlier server still hold. Without it, or when d is
// over, Open fails and names their processes. Dial waits up to d for the server's socket to be there.
func Wait(d time.Duration) Option { return func(o *options) { o.wait = d } }

// FormatOptions describe a new pool. The zero value of each field is a sensible default.
type FormatOptions struct {
	// Size of the pool in bytes, meta and data area together. At least 4 MiB. 0: 1 GiB in a directory, the
	// whole device on a device.
	Size int64
	// Inodes is the number of files that the pool can hold at most. 0: derived from Size.
	Inodes int64
	// JournalBytes is the size of the journal. 0: derived from Size.
	JournalBytes int64
	// Label is a name for people, at most 64 bytes.
	Label string
	// Require refuses media whose stores become durable in coarser units. 0: any medium.
	Require Granularity
	// Mode, UID and GID of the root directory. Mode 0: 0755, and UID and GID are those of the process.
	Mode     uint32
	UID, GID uint32
}
