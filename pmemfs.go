// Package pmemfs is a persistent-memory file system in user space. A program opens a file, maps it and stores
// to it; once the cache lines are flushed, the data and the metadata that finds it are durable, without a
// system call.
//
// A pool is made by [Format] and used in one of two ways, with the same API:
//
//   - [Dial] connects to a server that owns the pool ("pmemfs serve"). Any number of processes may be connected
//     at once, and mappings may be made with [Sync]: page faults are resolved by the server, which makes the
//     metadata durable before the store is allowed, and which can take a run of blocks back at any time, so
//     that files can be truncated, replaced and moved under a live mapping.
//   - [Open] owns the pool in this process. There is nobody to resolve page faults, so mappings are populated
//     when they are made and [Sync] mappings are refused; [FS.MapMask] says what is supported.
//
// # Names
//
// Names follow io/fs: relative to the pool's root, elements separated by "/", no "." or ".." elements, the root
// itself is ".". Symbolic links are followed inside the pool; an absolute target begins at the pool's root.
//
// # Errors
//
// Errors are *fs.PathError, or *os.LinkError where two names take part, around an error that errors.Is matches
// with fs.ErrNotExist and the like and with the syscall.Errno that the kernel would have returned. See also
// [ErrSealed], [ErrServerGone], [ErrCorrupt] and [FaultError].
//
// # Durability
//
// On byte-addressable media an operation that returned is durable: creating, renaming, removing, writing and
// changing attributes survive a crash at any later instant. On disks, where that takes a system call, it is durable
// after [File.Sync], or a second later; see [CommitPolicy] for both. Stores through a [Sync] or [Direct] mapping are
// durable after [Mapping.Persist]; those through any mapping, on any medium, after [Mapping.Sync].
package pmemfs
