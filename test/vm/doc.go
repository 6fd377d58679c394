// Command vm boots a real Linux kernel with persistent memory, emulated by QEMU, and runs pmemfs there. It is also the
// test of pmemfs on such a kernel: see "make vmtest".
//
//	go run ./test/vm -run 'pmemfs info /mnt/ext4 --json'
//	go run ./test/vm -run 'pmemfs demo /modules --dir /mnt/xfs'
//	go run ./test/vm -run 'pmemfs mkfs /dev/dax-4k && pmemfs info /dev/dax-4k'
//	go run ./test/vm -add bin/tool -run 'tool /mnt/ext4' >out.json
//
// -run may be given several times; the commands, for a shell, run one after the other in one guest, until one fails. What
// they write to standard output and standard error comes out of vm's own, and its exit code is theirs (that of go run is 1
// then). What vm itself says goes to standard error. In the guest there are, in the path, pmemfs, the programs that were
// added by -add, ndctl, daxctl, mkfs.ext4, mkfs.xfs and busybox's; and these media, made anew for each run unless -media
// names a directory that has them already:
//
//	/mnt/ext4     ext4 -o dax  on a fsdax namespace of an NVDIMM  (768 MiB)
//	/mnt/xfs      xfs  -o dax  on a fsdax namespace of it         (384 MiB)
//	/dev/dax-4k   device-DAX, alignment 4 KiB, on it too          (128 MiB)
//	/dev/dax-2m   device-DAX, alignment 2 MiB, on it too          (112 MiB)
//	/mnt/legacy   ext4 -o dax  on memory that memmap= sets aside  (128 MiB)
//	/mnt/virtio   ext4 -o dax  on virtio-pmem                     (128 MiB)
//	/dev/shm      tmpfs
//
// The guest's CPUs are the host's where it has virtualization and /dev/kvm may be used, or else emulated; VM_ACCEL=kvm or
// VM_ACCEL=tcg in the environment chooses.
//
// -persistence mem-ctrl or cpu is what the platform says of the NVDIMM's persistence domain.
//
// It needs Debian, or what has its packages, and for the first run a mirror: the kernel is downloaded and unpacked, not
// installed, below the user's cache directory; QEMU and the tools are installed by apt-get if they are missing.
package main
