package medium

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeSys builds a directory that looks like the parts of /sys that are read. Keys are files with their content, or
// links with "-> target".
func fakeSys(t *testing.T, files map[string]string) sysfs {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, link := strings.CutPrefix(content, "-> "); link {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return sysfs(root)
}

const (
	bus      = "devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00/ndbus0"
	pmem0    = bus + "/region0/namespace0.0/block/pmem0"
	pmem1    = bus + "/region1/namespace1.0/block/pmem1"
	dax0     = bus + "/region0/dax0.0"
	upToRoot = "-> ../../"
)

var (
	blockDev = unix.Mkdev(259, 0)
	charDev  = unix.Mkdev(252, 0)
)

func TestPersistenceDomainOfBlockDevice(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  []region
	}{
		{"eADR", map[string]string{
			"dev/block/259:0":                   upToRoot + pmem0,
			pmem0 + "/size":                     "1",
			bus + "/region0/persistence_domain": "cpu_cache\n",
		}, []region{{value: "cpu_cache", bus: true}}},
		{"a partition", map[string]string{
			"dev/block/259:0":                   upToRoot + pmem0 + "/pmem0p1",
			pmem0 + "/pmem0p1/size":             "1",
			bus + "/region0/persistence_domain": "memory_controller\n",
		}, []region{{value: "memory_controller", bus: true}}},
		{"the platform does not say", map[string]string{
			"dev/block/259:0": upToRoot + pmem0,
			pmem0 + "/size":   "1",
		}, []region{{bus: true}}},
		{"device mapper over two regions", map[string]string{
			"dev/block/259:0":                         upToRoot + "devices/virtual/block/dm-0",
			"devices/virtual/block/dm-0/slaves/pmem0": "-> ../../../../../" + pmem0,
			"devices/virtual/block/dm-0/slaves/pmem1": "-> ../../../../../" + pmem1,
			pmem0 + "/size":                           "1",
			pmem1 + "/size":                           "1",
			bus + "/region0/persistence_domain":       "cpu_cache\n",
			bus + "/region1/persistence_domain":       "memory_controller\n",
		}, []region{{value: "cpu_cache", bus: true}, {value: "memory_controller", bus: true}}},
		{"virtio-pmem", map[string]string{
			"dev/block/259:0": upToRoot + "devices/pci0000:00/0000:00:04.0/virtio2/ndbus0/region0/namespace0.0/block/pmem0",
			"devices/pci0000:00/0000:00:04.0/virtio2/ndbus0/region0/namespace0.0/block/pmem0/size": "1",
		}, []region{{bus: true, virtio: true}}},
		{"a disk", map[string]string{
			"dev/block/259:0": upToRoot + "devices/pci0000:00/virtio0/block/vda",
			"devices/pci0000:00/virtio0/block/vda/size":   "1",
			"devices/pci0000:00/virtio0/block/vda/slaves": "not a directory",
		}, []region{{virtio: true}}},
	}
	for _, test := range tests {
		s := fakeSys(t, test.files)
		got, err := s.regions("block", blockDev)
		if err != nil || len(got) != len(test.want) {
			t.Errorf("%s: %+v, %v", test.name, got, err)
			continue
		}
		for i, want := range test.want {
			if (got[i].attribute == "") != (want.value == "") {
				t.Errorf("%s: value %q comes from %q", test.name, got[i].value, got[i].attribute)
			}
			got[i].attribute = ""
			if got[i] != want {
				t.Errorf("%s: %+v, want %+v", test.name, got[i], want)
			}
		}
	}
	if _, err := fakeSys(t, nil).regions("block", blockDev); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such device: %v", err)
	}
}

func TestBlockDevicesThatContainThemselves(t *testing.T) {
	s := fakeSys(t, map[string]string{
		"dev/block/259:0":                        upToRoot + "devices/virtual/block/dm-0",
		"devices/virtual/block/dm-0/slaves/dm-0": "-> ../../dm-0",
	})
	if _, err := s.regions("block", blockDev); err == nil {
		t.Error("no error for a loop of devices")
	}
}

func TestDeviceDAX(t *testing.T) {
	with := func(extra map[string]string) map[string]string {
		files := map[string]string{
			"dev/char/252:0":      upToRoot + dax0,
			dax0 + "/subsystem":   "-> ../../../../../../../bus/dax",
			"bus/dax/drivers":     "",
			dax0 + "/size":        "67108864\n",
			dax0 + "/numa_node":   "0",
			bus + "/region0/uuid": "",
		}
		for name, content := range extra {
			files[name] = content
			if content == "" {
				delete(files, name)
			}
		}
		return files
	}
	tests := []struct {
		name        string
		files       map[string]string
		size, align int64 // 0: an error
	}{
		{"the device has the alignment", with(map[string]string{dax0 + "/align": "2097152\n"}), 64 << 20, 2 << 20},
		{"its parent has it", with(map[string]string{dax0 + "/device/align": "4096\n"}), 64 << 20, 4096},
		{"its region has it", with(map[string]string{bus + "/region0/dax_region/align": "0x1000\n"}), 64 << 20, 4096},
		{"the device comes before the region", with(map[string]string{dax0 + "/align": "4096", bus + "/region0/dax_region/align": "2097152"}), 64 << 20, 4096},
		{"no alignment", with(nil), 0, 0},
		{"an alignment that is none", with(map[string]string{dax0 + "/align": "6000\n"}), 0, 0},
		{"an alignment below a page", with(map[string]string{dax0 + "/align": "512\n"}), 0, 0},
		{"a negative alignment", with(map[string]string{dax0 + "/align": "-4096\n"}), 0, 0},
		{"words", with(map[string]string{dax0 + "/align": "4096", dax0 + "/size": "many\n"}), 0, 0},
		{"no memory", with(map[string]string{dax0 + "/align": "4096", dax0 + "/size": "0\n"}), 0, 0},
		{"no size", with(map[string]string{dax0 + "/align": "4096", dax0 + "/size": ""}), 0, 0},
	}
	for _, test := range tests {
		d, err := fakeSys(t, test.files).dax(charDev)
		if test.size == 0 {
			if err == nil {
				t.Errorf("%s: %+v, want an error", test.name, d)
			}
			continue
		}
		if err != nil || d.size != test.size || d.align != test.align || d.name != "dax0.0" {
			t.Errorf("%s: %+v, %v", test.name, d, err)
		}
		if text, err := os.ReadFile(d.alignFrom); err != nil || len(text) == 0 {
			t.Errorf("%s: the alignment is said to be from %s: %v", test.name, d.alignFrom, err)
		}
	}
}

func TestOtherCharacterDevices(t *testing.T) {
	for _, path := range []string{"/dev/null", "/dev/zero"} {
		if _, err := Open(path, Options{}); !errors.Is(err, ErrNotPool) {
			t.Errorf("Open(%s): %v", path, err)
		}
		if _, err := Create(path, pageSize, pageSize, Options{Force: true}); !errors.Is(err, ErrNotPool) {
			t.Errorf("Create(%s): %v", path, err)
		}
		if _, _, err := DeviceSize(path); !errors.Is(err, ErrNotPool) || !strings.HasPrefix(err.Error(), path) {
			t.Errorf("DeviceSize(%s): %v", path, err)
		}
	}
	if _, _, err := DeviceSize(t.TempDir()); !errors.Is(err, ErrNotPool) {
		t.Errorf("DeviceSize of a directory: %v", err)
	}
}
