// Package medium opens pools and says what makes bytes durable there.
//
// A pool is a directory with two files, meta and data (on tmpfs, on a file system mounted with DAX, on a disk), or one
// device-DAX character device that holds both areas, one after the other. See Create and Open. What was found, and how,
// is in Pool.Report: nothing about durability is guessed silently.
//
// Locks: see lock.go. Within the process, Pool.mu and each area's fenceMu are leaves: nothing else is locked under them.
package medium
