package medium

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/pmem"
)

// pageSize is what sizes and offsets of areas are multiples of: a block, and the least that is ever
// mapped. Where the kernel's pages are larger, finding.align is too.
const pageSize = 4096

// fileSystems names the file systems that a pool may meet, by f_type of statfs(2).
var fileSystems = map[uint32]string{
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.RAMFS_MAGIC:           "ramfs",
	unix.HUGETLBFS_MAGIC:       "hugetlbfs",
	unix.EXT4_SUPER_MAGIC:      "ext4", // and ext2, ext3
	unix.XFS_SUPER_MAGIC:       "xfs",
	unix.BTRFS_SUPER_MAGIC:     "btrfs",
	unix.F2FS_SUPER_MAGIC:      "f2fs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
	unix.FUSE_SUPER_MAGIC:      "fuse", // and virtiofs
	unix.NFS_SUPER_MAGIC:       "nfs",
	unix.SMB2_SUPER_MAGIC:      "smb2",
	unix.CIFS_SUPER_MAGIC:      "cifs",
	unix.V9FS_MAGIC:            "9p",
	unix.CEPH_SUPER_MAGIC:      "ceph",
	unix.AFS_SUPER_MAGIC:       "afs",
}

// notOurs are the file systems that cannot hold a pool, with the reason.
var notOurs = map[string]string{
	"hugetlbfs": "files there are made of huge pages only and cannot be written to or synchronised",
	"nfs":       remote, "smb2": remote, "cifs": remote, "9p": remote, "ceph": remote, "afs": remote,
}

const remote = "a second computer could store to the same files unseen: locks and mappings of a network file system do not exclude that"

// finding is what was learnt about one area's file, or about a device.
type finding struct {
	kind       string // as in Report
	fileSystem string
	domain     Domain
	mapSync    bool  // to be mapped with MAP_SYNC
	assumed    bool  // domain is not what was found, but what is wanted
	align      int64 // bytes
	size       int64 // bytes of a device
	evidence   []Evidence
}

// mapFlags are the mmap(2) flags for the area, here and in clients.
func (d *finding) mapFlags() int {
	if d.mapSync {
		return unix.MAP_SHARED_VALIDATE | unix.MAP_SYNC
	}
	return unix.MAP_SHARED
}

// roundUp rounds a size in bytes up to the alignment, as the meta area of a device is: what is in it may be less.
func (d *finding) roundUp(n int64) int64 { return (n + d.align - 1) / d.align * d.align }

func (d *finding) note(what, how, format string, args ...any) {
	d.evidence = append(d.evidence, Evidence{what, how, fmt.Sprintf(format, args...)})
}

// prober looks at media. The fields are what tests replace to stand for hardware and mounts that are not there.
type prober struct {
	sys       sysfs
	mountinfo string
	// trySync maps a page of the file with MAP_SYNC and says what happened.
	trySync func(f *os.File, length int64) error
	// available is pmem.Available.
	available func() error
}

var realProber = prober{sys: "/sys", mountinfo: "/proc/self/mountinfo", trySync: trySync, available: pmem.Available}

// trySync asks the kernel by doing it: MAP_SHARED_VALIDATE makes it refuse what it does not know. Nothing is touched, so
// that an empty or unreadable file does no harm.
func trySync(f *os.File, length int64) error {
	mem, err := unix.Mmap(int(f.Fd()), 0, int(length), unix.PROT_READ, unix.MAP_SHARED_VALIDATE|unix.MAP_SYNC)
	if err != nil {
		return err
	}
	return unix.Munmap(mem)
}

// file looks at a file that is, or will be, the area called name.
func (p prober) file(f *os.File, name string) (finding, error) {
	d := finding{align: max(pageSize, int64(os.Getpagesize()))}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return d, fmt.Errorf("statfs %s: %w", f.Name(), err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return d, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	magic := uint32(fs.Type)
	d.fileSystem = fileSystems[magic]
	if d.fileSystem == "" {
		d.fileSystem = fmt.Sprintf("%#x", magic)
	}
	d.note("file system of "+name, "fstatfs", "%s", d.fileSystem)
	if reason, no := notOurs[d.fileSystem]; no {
		return d, &Error{Kind: ErrUnsupported, Reason: d.fileSystem + ": " + reason}
	}
	refused := p.trySync(f, pageSize)
	const how = "mmap MAP_SHARED_VALIDATE|MAP_SYNC"
	what := "synchronous page faults on " + name
	switch {
	case d.fileSystem == "tmpfs" || d.fileSystem == "ramfs":
		d.note(what, how, "%s (as ever on %s, which has nothing to synchronise)", outcome(refused), d.fileSystem)
		d.kind, d.domain = d.fileSystem, DomainVolatile
	case refused == nil:
		d.note(what, how, "accepted: the file system is on DAX memory, and stores reach it directly")
		p.fsdax(&d, name, uint64(st.Dev))
	default:
		d.note(what, how, "%s: stores reach the page cache only", outcome(refused))
		p.pageCache(&d, uint64(st.Dev))
	}
	p.cpu(&d)
	d.conclude(name)
	return d, nil
}

func outcome(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return "accepted"
	case errors.Is(err, unix.EOPNOTSUPP): // mmap(2) calls it so; the same number has another name too
		return "refused, EOPNOTSUPP"
	case errors.As(err, &errno):
		return "refused, " + unix.ErrnoName(errno)
	default:
		return "refused, " + err.Error()
	}
}

// fsdax finds the domain of a file whose stores reach the medium directly: the weakest of the regions below it.
func (p prober) fsdax(d *finding, name string, dev uint64) {
	d.kind, d.mapSync, d.domain = "fsdax", true, DomainCPUCache
	const what = "persistence domain of the platform"
	regions, err := p.sys.regions("block", dev)
	if err != nil {
		d.domain = DomainMemoryController
		d.note(what, p.sys.link("block", dev), "%v; treated as memory_controller: caches are flushed", err)
		return
	}
	for _, r := range regions {
		domain, why := r.domain()
		how := r.attribute
		if how == "" {
			how = p.sys.link("block", dev) + " and the directories above it"
		}
		d.note(what, how, "%s", why)
		d.domain = max(d.domain, domain)
	}
}

// pageCache says why the file is not reached directly, which is the question that users have.
func (p prober) pageCache(d *finding, dev uint64) {
	d.kind, d.domain = "page-cache", DomainPageCache
	mount, options := p.mountOf(dev)
	if mount != "" {
		d.note("mount", p.mountinfo, "%s", mount)
	}
	what, how := "persistent memory below the file system", p.sys.link("block", dev)
	regions, err := p.sys.regions("block", dev)
	switch {
	case err != nil:
		d.note(what, how, "not found: the file system is on no block device of its own (%v)", err)
	case !regions[0].bus:
		dir, _ := p.sys.node("block", dev)
		d.note(what, how, "none: block device %s is not an NVDIMM's", filepath.Base(dir))
	case regions[0].virtio:
		d.note(what, how, "virtio-pmem: only the host can make stores durable, by fdatasync here; the kernel therefore refuses MAP_SYNC")
	case !strings.Contains(options, "dax"):
		d.note(what, how, "there is, but the file system is mounted without DAX: mount it with -o dax")
	default:
		d.note(what, how, "there is, and the mount options name dax, but this file does not use it (its FS_XFLAG_DAX flag, "+
			"block size or alignment; see dmesg): set it with xfs_io -c 'chattr +x' on the directory before the pool is made, or mount with -o dax=always")
	}
}

// mountOf describes the mount that shows the device, and returns its options.
func (p prober) mountOf(dev uint64) (mount, options string) {
	id := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	for line := range linesOf(p.mountinfo) {
		// 36 35 98:0 /root /mount rw,noatime master:1 - ext4 /dev/pmem0 rw,dax=always
		front, back, found := strings.Cut(line, " - ")
		f, b := strings.Fields(front), strings.Fields(back)
		if !found || len(f) < 6 || len(b) < 3 || f[2] != id {
			continue
		}
		return fmt.Sprintf("%s on %s, type %s (%s)", b[1], f[4], b[0], b[2]), f[5] + "," + b[2]
	}
	return "", ""
}

// cpu weakens the finding where this process has no instructions to make stores durable.
func (p prober) cpu(d *finding) {
	err := p.available()
	switch {
	case err == nil:
		flush, stream := pmem.Methods()
		d.note("CPU instructions", "pmem.Methods", "flush by %s, stream by %s", flush, stream)
	case d.kind == "fsdax":
		d.mapSync, d.domain = false, DomainPageCache
		d.note("CPU instructions", "pmem.Available", "%v: the kernel is asked (fdatasync) to flush instead", err)
	default:
		d.note("CPU instructions", "pmem.Available", "%v", err)
	}
}

// device looks at a character device.
func (p prober) device(f *os.File) (finding, error) {
	d := finding{kind: "devdax", mapSync: true}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return d, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	dax, err := p.sys.dax(uint64(st.Rdev))
	if err != nil {
		return d, err
	}
	d.size, d.align = dax.size/dax.align*dax.align, dax.align
	d.note("device", p.sys.link("char", uint64(st.Rdev))+"/subsystem", "device-DAX %s", dax.name)
	d.note("size of the device", dax.sizeFrom, "%d bytes", dax.size)
	d.note("alignment of the device", dax.alignFrom, "%d bytes", dax.align)
	refused := p.trySync(f, dax.align)
	d.note("synchronous page faults on the device", "mmap MAP_SHARED_VALIDATE|MAP_SYNC", "%s", outcome(refused))
	if refused != nil {
		return d, &Error{Kind: ErrUnsupported, Reason: "mmap with MAP_SYNC: " + refused.Error() + " (device-DAX has no other way to make stores durable)"}
	}
	if err := p.deviceDomain(&d, uint64(st.Rdev)); err != nil {
		return d, err
	}
	if err := p.available(); err != nil && d.domain != DomainVolatile {
		return d, &Error{Kind: ErrUnsupported, Reason: err.Error() + " (and nothing else makes stores to device-DAX durable)"}
	}
	p.cpu(&d)
	d.conclude("the device")
	return d, nil
}

// deviceDomain finds the domain of a device. Device-DAX accepts MAP_SYNC whatever the memory is, so that here it proves
// nothing: ordinary memory set aside by the firmware, and virtio-pmem, must be told apart by where the device hangs.
func (p prober) deviceDomain(d *finding, rdev uint64) error {
	regions, err := p.sys.regions("char", rdev)
	if err != nil {
		return fmt.Errorf("find the device in sysfs: %w", err)
	}
	const what = "persistence domain of the platform"
	link := p.sys.link("char", rdev)
	switch r := regions[0]; {
	case !r.bus:
		d.domain = DomainVolatile
		d.note(what, link, "none: the device is on no NVDIMM bus; it is memory set aside (hmem, volatile CXL)")
	case r.virtio:
		d.domain = DomainVolatile
		d.note(what, link, "none: virtio-pmem needs the host to synchronise, for which device-DAX has no call; treated as volatile")
	default:
		var why string
		d.domain, why = r.domain()
		how := r.attribute
		if how == "" {
			how = link + " and the directories above it"
		}
		d.note(what, how, "%s", why)
	}
	return nil
}

// assume treats an area behind a page cache as emulated persistent memory. What is better is left as it is.
func (d *finding) assume(name string) {
	const what, how = "assumption", "asked for by whoever opened the pool"
	if d.domain != DomainPageCache {
		d.note(what, how, "not needed: stores reach memory directly; nothing is assumed")
		return
	}
	d.domain, d.assumed = DomainVolatile, true
	d.note(what, how, "treated as persistent memory, ALTHOUGH IT IS NOT: stores are flushed and fenced by the CPU, and the kernel "+
		"writes them to the disk when it likes")
	d.note("conclusion for "+name, "from the above", "persistence domain %v, granularity %v: ASSUMED PERSISTENT: stores survive a crash "+
		"of the process, but not a loss of power, after which the whole pool may be damaged", d.domain, d.domain.Granularity())
}

// conclude adds the last line.
func (d *finding) conclude(name string) {
	texts := [domains]string{
		DomainCPUCache:         "durable at the fence; no cache line needs flushing",
		DomainMemoryController: "a store is durable when its cache lines are flushed and fenced",
		DomainPageCache:        "a store is durable after fdatasync, not by CPU instructions (this is what libpmem calls is_pmem 0)",
		DomainVolatile: "VOLATILE: EMULATED persistent memory; everything is lost when power fails or the machine is started again. " +
			"Stores survive a crash of the process, and the instructions of a memory-controller domain that the CPU has are executed",
	}
	d.note("conclusion for "+name, "from the above", "persistence domain %v, granularity %v: %s", d.domain, d.domain.Granularity(), texts[d.domain])
}
