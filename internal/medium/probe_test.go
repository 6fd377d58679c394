package medium

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// evidenceText is all lines as info prints them.
func evidenceText(lines []Evidence) string {
	var b strings.Builder
	for _, e := range lines {
		fmt.Fprintln(&b, e)
	}
	return b.String()
}

// TestDomainOfFiles replaces what the machine of the test has not: the outcome of MAP_SYNC, and NVDIMMs in sysfs.
func TestDomainOfFiles(t *testing.T) {
	f, err := os.Create(filepath.Join(disk(t), "data"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	node := map[string]string{"dev/block/" + id: upToRoot + pmem0, pmem0 + "/size": "1"}
	platform := func(domain string) map[string]string {
		return map[string]string{"dev/block/" + id: node["dev/block/"+id], pmem0 + "/size": "1", bus + "/region0/persistence_domain": domain}
	}
	const virtio = "devices/pci0000:00/virtio2/ndbus0/region0/namespace0.0/block/pmem0"
	noCPU := errors.New("this CPU has no instruction for it")
	tests := []struct {
		name    string
		files   map[string]string
		refused error
		cpu     error
		mount   string
		domain  Domain
		mapSync bool
		says    string
	}{
		{"eADR", platform("cpu_cache\n"), nil, nil, "", DomainCPUCache, true, "(eADR)"},
		{"ADR", platform("memory_controller\n"), nil, nil, "", DomainMemoryController, true, "(ADR)"},
		{"the platform does not say", node, nil, nil, "", DomainMemoryController, true, "does not say"},
		{"a word of a later kernel", platform("battery\n"), nil, nil, "", DomainMemoryController, true, `"battery" is not known`},
		{"no device in sysfs", nil, nil, nil, "", DomainMemoryController, true, "treated as memory_controller"},
		{"no instructions", platform("cpu_cache\n"), nil, noCPU, "", DomainPageCache, false, "fdatasync"},
		{"pmem without dax", node, unix.EOPNOTSUPP, nil, "rw", DomainPageCache, false, "refused, EOPNOTSUPP: stores reach the page cache only"},
		{"pmem without dax, its remedy", node, unix.EOPNOTSUPP, nil, "rw", DomainPageCache, false, "mount it with -o dax"},
		{"pmem, dax, but not this file", node, unix.EOPNOTSUPP, nil, "rw,dax=inode", DomainPageCache, false, "FS_XFLAG_DAX"},
		{"virtio-pmem", map[string]string{"dev/block/" + id: upToRoot + virtio, virtio + "/size": "1"},
			unix.EOPNOTSUPP, nil, "rw,dax", DomainPageCache, false, "virtio-pmem"},
		{"an old kernel", nil, unix.EINVAL, nil, "", DomainPageCache, false, "refused, EINVAL"},
	}
	for _, test := range tests {
		mountinfo := filepath.Join(t.TempDir(), "mountinfo")
		line := fmt.Sprintf("36 35 %s / /mnt/pool rw,noatime shared:1 - ext4 /dev/pmem0 %s\n", id, test.mount)
		if err := os.WriteFile(mountinfo, []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		p := prober{
			sys: fakeSys(t, test.files), mountinfo: mountinfo,
			trySync:   func(*os.File, int64) error { return test.refused },
			available: func() error { return test.cpu },
		}
		d, err := p.file(f, "data")
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		flags := map[bool]int{false: unix.MAP_SHARED, true: unix.MAP_SHARED_VALIDATE | unix.MAP_SYNC}[test.mapSync]
		if d.domain != test.domain || d.mapSync != test.mapSync || d.mapFlags() != flags {
			t.Errorf("%s: domain %v, MAP_SYNC %v, flags %#x; want %v, %v", test.name, d.domain, d.mapSync, d.mapFlags(), test.domain, test.mapSync)
		}
		text := evidenceText(d.evidence)
		for _, part := range []string{test.says, "mmap MAP_SHARED_VALIDATE|MAP_SYNC", "persistence domain " + test.domain.String()} {
			if !strings.Contains(text, part) {
				t.Errorf("%s: the evidence does not say %q:\n%s", test.name, part, text)
			}
		}
		if mounted := test.mount != ""; mounted && !strings.Contains(text, "/dev/pmem0 on /mnt/pool, type ext4") {
			t.Errorf("%s: the evidence does not name the mount:\n%s", test.name, text)
		}
	}
}

// TestDomainOfDevices uses any file for the device: what decides is in sysfs.
func TestDomainOfDevices(t *testing.T) {
	device := func(dir string, files map[string]string) map[string]string {
		all := map[string]string{
			"dev/char/0:0":     upToRoot + dir,
			dir + "/size":      "67112960",
			dir + "/align":     "2097152",
			"bus/dax/drivers":  "",
			dir + "/subsystem": "-> " + strings.Repeat("../", strings.Count(dir, "/")+1) + "bus/dax",
		}
		for name, content := range files {
			all[name] = content
		}
		return all
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "dax0.0")) // a regular file: st_rdev is 0:0
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tests := []struct {
		name    string
		files   map[string]string
		refused error
		cpu     error
		domain  Domain
		says    string
	}{
		{"eADR", device(dax0, map[string]string{bus + "/region0/persistence_domain": "cpu_cache\n"}), nil, nil, DomainCPUCache, "(eADR)"},
		{"the platform does not say", device(dax0, nil), nil, nil, DomainMemoryController, "does not say"},
		{"memory set aside", device("devices/platform/hmem.0/dax0.0", nil), nil, nil, DomainVolatile, "on no NVDIMM bus"},
		{"virtio-pmem", device("devices/pci0000:00/virtio2/ndbus0/region0/dax0.0", nil), nil, nil, DomainVolatile, "virtio-pmem needs the host"},
		{"MAP_SYNC refused", device(dax0, nil), unix.EOPNOTSUPP, nil, domains, "MAP_SYNC"},
		{"no instructions", device(dax0, nil), nil, errors.New("no instruction"), domains, "no instruction"},
	}
	for _, test := range tests {
		p := prober{
			sys:       fakeSys(t, test.files),
			trySync:   func(_ *os.File, n int64) error { return test.refused },
			available: func() error { return test.cpu },
		}
		d, err := p.device(f)
		if test.domain == domains {
			if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if err != nil || d.domain != test.domain || d.size != 64<<20 || d.align != 2<<20 || !d.mapSync {
			t.Errorf("%s: %+v, %v", test.name, d, err)
		}
		if text := evidenceText(d.evidence); !strings.Contains(text, test.says) {
			t.Errorf("%s: the evidence does not say %q:\n%s", test.name, test.says, text)
		}
	}
}
