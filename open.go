package pmemfs

import "errors"

// Format makes a pool: in a directory, which is made or must be empty, or on a character device such as
// /dev/dax0.0. What was on the device is lost. The pool is durable on return.
func Format(pool string, o FormatOptions) error { return errors.New("format: not built yet") }

// Open opens a pool as its owner, in this process. A pool has one owner at a time; the error for a second names the
// process of the first. Close the FS to give it up.
func Open(pool string, opts ...Option) (*FS, error) { return nil, errors.New("open: not built yet") }

// Dial connects to the server that listens on a socket. The peer's process, user and groups are what the server
// checks access against.
func Dial(socket string, opts ...Option) (*FS, error) { return nil, errors.New("dial: not built yet") }
