package pmemfs

import "github.com/pmemfs/pmemfs/internal/wire"

// Handle is the number of the open file in the errors of others that its seals and pins are in the way of: see [SealedError].
func (f *File) Handle() uint32 { return f.handle }

// Fill makes every block that the range of n bytes from off on touches written and this file's own: holes are allocated,
// what is allocated and unwritten is zeroed, what is shared with other files is copied. It is what a seal needs (see
// [Direct]), and may be done long before. It is durable on return; the contents do not change. The file must be open for
// writing. ENXIO: the range reaches beyond the end of the file; ENOSPC: the pool is full, and the range filled in part.
func (f *File) Fill(off, n int64) error {
	_, err := f.call("fill", &wire.Request{Op: wire.OpFill, Offset: off, Length: n})
	return err
}

// AllowDirect flags the open file: whoever has it may map it with [Direct], without privilege. It is meant for a privileged
// process that opens a file and hands it to another one. The flag belongs to this open file only and ends with it. EPERM:
// this process may not seal itself, see [Direct].
func (f *File) AllowDirect() error {
	_, err := f.call("allow direct mappings of", &wire.Request{Op: wire.OpAllowDirect})
	return err
}

// SetStatic freezes the size of the file and the place of all its blocks, until it is thawed by SetStatic(false): whether it
// is mapped or not, and over restarts and power cuts. Operations that would change them fail with [ErrStatic]; writes in
// place, names, times and permissions are not concerned, and the file may be removed. It is durable on return. The file
// need not be open for writing.
//
// EPERM: it takes the capability CAP_LINUX_IMMUTABLE or membership in a group that the server was given. An [UnfilledError]
// has the first block that is not written or not this file's own: see [File.Fill]. EINVAL: not a regular file.
func (f *File) SetStatic(static bool) error {
	q := &wire.Request{Op: wire.OpSetStatic}
	op := "thaw"
	if static {
		q.Flags, op = 1, "freeze"
	}
	_, err := f.call(op, q)
	return err
}
