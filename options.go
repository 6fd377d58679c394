package pmemfs

import (
	"time"

	"github.com/pmemfs/pmemfs/internal/medium"
	"github.com/pmemfs/pmemfs/internal/server"
)

// Granularity says in which units a store becomes durable on a medium, from the finest to the coarsest. It has String,
// MarshalText and UnmarshalText methods, for "byte", "cache-line" and "page".
type Granularity = medium.Granularity

const (
	// Byte: CPU caches are in the persistence domain; a store is durable once a fence has passed.
	Byte = medium.Byte
	// CacheLine: a store is durable once its line is flushed and a fence has passed.
	CacheLine = medium.CacheLine
	// Page: the medium lies behind a page cache; a store is durable after a system call.
	Page = medium.Page
)

// ParseGranularity is the inverse of Granularity's String method; "any" gives the zero value.
func ParseGranularity(s string) (Granularity, error) { return medium.ParseGranularity(s) }

// MediumReport says what makes stores durable on a medium, and how that was found out. Its JSON form is stable.
type MediumReport = medium.Report

// Option changes how Open and Dial work.
type Option func(*options)

type options struct {
	require  Granularity
	readOnly bool
	wait     time.Duration
	powerCut *medium.PowerCutOptions
	commit   CommitPolicy
	assume   bool

	reconnect time.Duration
}

func collect(opts []Option) options {
	o := options{reconnect: defaultReconnect}
	for _, f := range opts {
		f(&o)
	}
	return o
}

// Require makes Open and Dial fail unless stores to the medium become durable in units of g or finer. The error
// says what the medium is and what is missing.
func Require(g Granularity) Option { return func(o *options) { o.require = g } }

// OpenReadOnly opens the pool, or connects to its server, without the right to change anything: every operation
// that would is refused with EROFS, and mappings are read-only.
func OpenReadOnly() Option { return func(o *options) { o.readOnly = true } }

// Wait makes Open wait up to d for an owner that is about to go and for mappings that clients of an earlier server
// still hold. Without it, or when d is over, Open fails and names their processes. Dial waits up to d for a server to
// listen.
func Wait(d time.Duration) Option { return func(o *options) { o.wait = d } }

// CommitPolicy says when what operations do becomes durable. The zero value is the medium's default: [CommitOp] on
// byte-addressable media, CommitEvery(time.Second) behind a page cache, where durability takes a system call. It has
// String, MarshalText and UnmarshalText methods, for "op", "interval" (of a second) and "interval=200ms".
type CommitPolicy = server.CommitPolicy

// CommitOp has every operation durable when it returns. Operations of several goroutines or clients that need
// durability at the same time share its cost where that takes system calls.
var CommitOp = server.CommitOp

// CommitEvery has operations return as soon as others can see what they did. It is durable after [File.Sync] or
// [Mapping.Sync], after any operation on a file that was opened with O_SYNC or O_DSYNC, before a first store to a
// page through a [Sync] mapping is allowed, and when the interval, more than 0, is over. After a crash all operations
// up to some instant have happened, and none after it; contents of writes in place may be newer.
func CommitEvery(interval time.Duration) CommitPolicy { return server.CommitEvery(interval) }

// Commit sets when what operations do becomes durable, for the whole pool as long as it is open. Dial refuses it: a
// server's policy is set where it is started.
func Commit(p CommitPolicy) Option { return func(o *options) { o.commit = p } }

const defaultReconnect = 30 * time.Second

// Reconnect says for how long the death of a server is survived: so long page faults and calls wait for another
// server to take over, which then serves the mappings and open files as if nothing had happened. Default: 30 s. When
// d is over, or at once if d is 0, everything is lost: mappings become inaccessible, and all fails with
// [ErrServerGone]. That is also so when the server ends in good order. A call that was under way when the server
// died, and that may have changed something, fails with ErrServerGone, for nobody knows whether it was done. For Dial
// and [Import].
//
// A server that commits at intervals (see [CommitEvery]) forgets the last of what it did when it dies, and programs
// must know: everything is lost at once then, as with one that is read-only or emulates power cuts.
func Reconnect(d time.Duration) Option { return func(o *options) { o.reconnect = d } }

// AssumePersistent makes Open treat a pool on a disk, behind a page cache, as if it were on persistent memory, so
// that it has [Sync], [Direct] and [Unchecked] mappings and stores without system calls: for development where there
// is neither persistent memory nor room in a tmpfs. Stores survive a crash of the process, but NOT a loss of power,
// after which the whole pool may be damaged; nothing is written to the disk by order but by Close. The default commit
// policy is [CommitOp]. A warning is logged, and [Info] says so: Medium.Assumed. Where stores reach memory directly
// it does nothing but to log that. For a server, see "pmemfs serve --assume-persistent"; Dial refuses the option, and
// Open refuses it together with PowerCut.
func AssumePersistent() Option { return func(o *options) { o.assume = true } }

// PowerCut makes Open emulate, whatever the pool is on, persistent memory that loses its power when [FS.CutPower] is
// called: stores through a mapping that were not flushed and fenced by then are lost. With a seed other than 0 a random
// part of them survives, as it does when a CPU evicts lines from its caches. It is for tests of programs, and slow.
// Only what is told to the Mapping's methods counts as flushed; flushing m.Bytes() by other means does not. For a
// server, see "pmemfs serve --power-cut"; Dial refuses the option.
func PowerCut(seed uint64) Option {
	return func(o *options) { o.powerCut = &medium.PowerCutOptions{Seed: seed} }
}

// FormatOptions describe a new pool. The zero value of each field is a sensible default.
type FormatOptions struct {
	// Size of the pool in bytes, meta and data area together. 0: 1 GiB in a directory; a device is always used whole.
	Size int64
	// Inodes is the number of files that the pool can hold. 0: one for every 16 KiB of data.
	Inodes int64
	// LogBytes is the size of the journal. 0: 1/64 of the pool, 1 to 16 MiB.
	LogBytes int64
	// Label is a name for people, at most 32 bytes.
	Label string
	// Require refuses media whose stores become durable in coarser units. 0: any medium.
	Require Granularity
	// Preallocate allocates the files of a pool directory in full, so that a store never finds the host file system
	// full.
	Preallocate bool
	// Force overwrites a pool that nobody uses. It never overwrites anything else.
	Force bool
}
