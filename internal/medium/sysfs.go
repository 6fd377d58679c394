package medium

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sysfs is the root of the kernel's device tree: /sys, or in tests a directory that looks like it.
type sysfs string

// node returns the directory of a device, with all links resolved. class is "block" or "char".
func (s sysfs) node(class string, rdev uint64) (string, error) {
	return filepath.EvalSymlinks(s.link(class, rdev))
}

func (s sysfs) link(class string, rdev uint64) string {
	return filepath.Join(string(s), "dev", class, fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev)))
}

// region is an NVDIMM region (/sys/bus/nd/devices/regionN) as found above a device.
type region struct {
	attribute string // path of persistence_domain, "" if there is none on the way up
	value     string // its content
	bus       bool   // the device is below an nvdimm bus
	virtio    bool   // the bus is a virtio device: only the host can make its bytes durable
}

// domain returns the persistence domain that the region's attribute means, and what that is in words. It holds where
// stores reach the medium directly (MAP_SYNC was accepted).
func (r region) domain() (Domain, string) {
	switch {
	case r.value == "cpu_cache":
		return DomainCPUCache, "cpu_cache: the platform empties CPU caches when power fails (eADR)"
	case r.value == "memory_controller":
		return DomainMemoryController, "memory_controller: stores are durable once flushed from the CPU caches (ADR)"
	case r.attribute != "":
		return DomainMemoryController, fmt.Sprintf("%q is not known; treated as memory_controller: caches are flushed", r.value)
	default:
		return DomainMemoryController, "the platform does not say (no such attribute); treated as memory_controller: caches are flushed"
	}
}

// regions returns the regions on which a device lies. Only a block device made of others (dm, md) has several; one that
// has nothing to do with an nvdimm bus is returned with bus == false, so that there is at least one unless err is set.
func (s sysfs) regions(class string, rdev uint64) ([]region, error) {
	dir, err := s.node(class, rdev)
	if err != nil {
		return nil, err
	}
	root, err := filepath.EvalSymlinks(string(s))
	if err != nil {
		return nil, err
	}
	return regionsOf(root, dir, 0)
}

func regionsOf(root, dir string, depth int) ([]region, error) {
	const deepest = 16 // stacked block devices; the kernel's own limit is lower
	if depth > deepest {
		return nil, fmt.Errorf("%s: more than %d block devices on top of each other", dir, deepest)
	}
	var found []region
	slaves, _ := os.ReadDir(filepath.Join(dir, "slaves")) // absent: not made of others
	for _, slave := range slaves {
		below, err := filepath.EvalSymlinks(filepath.Join(dir, "slaves", slave.Name()))
		if err != nil {
			return nil, err
		}
		more, err := regionsOf(root, below, depth+1)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	if len(found) > 0 {
		return found, nil
	}
	return []region{regionAbove(root, dir)}, nil
}

// regionAbove walks up from a device's directory to the region that holds it.
func regionAbove(root, dir string) region {
	var r region
	for ; dir != root && len(dir) > len(root); dir = filepath.Dir(dir) {
		name := filepath.Base(dir)
		attribute := filepath.Join(dir, "persistence_domain")
		if value, err := os.ReadFile(attribute); err == nil && r.attribute == "" {
			r.attribute, r.value = attribute, strings.TrimSpace(string(value))
		}
		r.bus = r.bus || strings.HasPrefix(name, "ndbus")
		r.virtio = r.virtio || strings.HasPrefix(name, "virtio")
	}
	return r
}

// daxDevice is a device-DAX character device as sysfs describes it: fstat says nothing, its st_size is 0.
type daxDevice struct {
	name        string
	size, align int64  // bytes
	sizeFrom    string // the files that said so
	alignFrom   string
}

// dax reads size and alignment of a device-DAX device; ErrNotPool if the character device is of another kind.
func (s sysfs) dax(rdev uint64) (daxDevice, error) {
	link := s.link("char", rdev)
	dir, err := s.node("char", rdev)
	if err != nil {
		return daxDevice{}, fmt.Errorf("find the device in sysfs: %w", err)
	}
	subsystem, err := filepath.EvalSymlinks(filepath.Join(dir, "subsystem"))
	if err != nil || filepath.Base(subsystem) != "dax" {
		return daxDevice{}, &Error{Kind: ErrNotPool, Reason: "it is a character device, but not device-DAX (" + link + "/subsystem)"}
	}
	d := daxDevice{name: filepath.Base(dir), sizeFrom: filepath.Join(link, "size")}
	if d.size, err = readNumber(d.sizeFrom); err != nil {
		return daxDevice{}, fmt.Errorf("device size: %w", err)
	}
	// The attribute moved: to the device itself since Linux 5.9 or so, before that to the region that it belongs to.
	for _, name := range []string{"align", "device/align", "device/dax_region/align", "../dax_region/align"} {
		d.alignFrom = link + "/" + name
		if d.align, err = readNumber(d.alignFrom); err == nil {
			break
		}
	}
	switch {
	case err != nil:
		return daxDevice{}, fmt.Errorf("device alignment: %w", err)
	case d.align <= 0 || d.align%pageSize != 0 || d.align&(d.align-1) != 0:
		return daxDevice{}, fmt.Errorf("device alignment: %s says %d: not a power of two of at least %d", d.alignFrom, d.align, pageSize)
	case d.size <= 0:
		return daxDevice{}, fmt.Errorf("device size: %s says %d", d.sizeFrom, d.size)
	}
	return d, nil
}

// readNumber reads a file that holds one number, decimal or with a 0x.
func readNumber(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 0, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// sectorSize is the unit of the kernel's lists of bad blocks, in bytes.
const sectorSize = 512

// badRanges returns what the kernel lists as bad of a device and those that it is made of: the list of the device itself or,
// where it has none, of what it is a part of. What cannot be read lists nothing.
func (s sysfs) badRanges(class string, rdev uint64) (list []BadRange) {
	root, err := filepath.EvalSymlinks(string(s))
	if err != nil {
		return nil
	}
	dir, err := s.node(class, rdev)
	if err != nil {
		return nil // of a file system without a device
	}
	dirs := []string{dir}
	slaves, _ := filepath.Glob(filepath.Join(dir, "slaves", "*"))
	for _, slave := range slaves {
		if below, err := filepath.EvalSymlinks(slave); err == nil {
			dirs = append(dirs, below)
		}
	}
	for _, dir := range dirs {
		if name := above(root, dir, "badblocks"); name != "" {
			list = append(list, readBadRanges(name)...)
		}
	}
	return list
}

// above returns the path of a file in a directory or the next one above it that has one; "": none has.
func above(root, dir, name string) string {
	for ; dir != root && len(dir) > len(root); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name)
		}
	}
	return ""
}

// readBadRanges reads a list: a line for each range, with its first sector and how many there are.
func readBadRanges(name string) (list []BadRange) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		r := BadRange{List: name}
		if n, err := fmt.Sscan(line, &r.Sector, &r.Count); n == 2 && err == nil && r.Sector >= 0 && r.Count > 0 {
			list = append(list, r)
		}
	}
	return list
}

// daxStart is where a device-DAX device begins in the region above it, in bytes: what the region lists is counted from the
// region's start.
func (s sysfs) daxStart(rdev uint64) (int64, error) {
	dir, err := s.node("char", rdev)
	if err != nil {
		return 0, fmt.Errorf("find the device in sysfs: %w", err)
	}
	root, err := filepath.EvalSymlinks(string(s))
	if err != nil {
		return 0, err
	}
	device, err := readNumber(filepath.Join(dir, "resource"))
	if err != nil {
		return 0, fmt.Errorf("address of the device: %w", err)
	}
	region, err := readNumber(filepath.Join(filepath.Dir(above(root, dir, "badblocks")), "resource"))
	if err != nil {
		return 0, fmt.Errorf("address of the device's region: %w", err)
	}
	return device - region, nil
}
