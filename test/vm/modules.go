package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// wanted are the modules that the guest needs, beside what they depend on. What is built into the kernel has no file.
var wanted = []string{"virtio_pci", "virtio_console", "libnvdimm", "nfit", "nd_e820", "virtio_pmem", "nd_pmem", "dax_pmem",
	"device_dax", "crc32c_generic", "ext4", "xfs"}

// moduleFiles returns the files of the wanted modules and of those that they depend on, each after what it depends on.
// The package of a kernel has no modules.dep, which depmod makes when it is installed: the modules themselves say it.
func moduleFiles(dir string) ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if name, is := strings.CutSuffix(filepath.Base(path), ".ko"); is {
			files[moduleName(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(builtin)) {
		files[moduleName(strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko"))] = ""
	}
	var order []string
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		file, known := files[name]
		switch {
		case !known:
			return fmt.Errorf("the kernel in %s has no module %s", dir, name)
		case seen[name] || file == "":
			return nil
		}
		seen[name] = true
		needs, err := moduleDepends(file)
		if err != nil {
			return err
		}
		for _, need := range needs {
			if err := add(need); err != nil {
				return err
			}
		}
		order = append(order, file)
		return nil
	}
	for _, name := range wanted {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName is the name as the kernel writes it, in which - and _ are the same.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// moduleDepends reads the names of the modules that one needs from its section .modinfo: strings that end in zero bytes.
func moduleDepends(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", path, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("module %s: no section .modinfo", path)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", path, err)
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		if list, is := strings.CutPrefix(string(entry), "depends="); is && list != "" {
			return strings.Split(moduleName(list), ","), nil
		}
	}
	return nil, nil
}
