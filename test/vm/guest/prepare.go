//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// namespace is one of those that the NVDIMM is divided into, by its name.
type namespace struct {
	name, mode, size, align string
	fileSystem              string // made on it; empty: device-DAX
}

var namespaces = []namespace{
	{"ext4", "fsdax", "768M", "2M", "ext4"},
	{"xfs", "fsdax", "384M", "2M", "xfs"},
	{"dax-4k", "devdax", "128M", "4K", ""},
	{"dax-2m", "devdax", "112M", "2M", ""},
}

// prepare mounts the media: ext4 and xfs on namespaces of the NVDIMM at /mnt/ext4 and /mnt/xfs, ext4 on memory that the
// command line has set aside at /mnt/legacy and on virtio-pmem at /mnt/virtio, all with -o dax; and it gives the
// device-DAX namespaces the names /dev/dax-4k and /dev/dax-2m. With the argument format it makes them first.
func prepare(args []string) error {
	format := len(args) == 1 && args[0] == "format"
	if format {
		if err := divide(); err != nil {
			return err
		}
	}
	list, err := listNamespaces()
	if err != nil {
		return err
	}
	for _, n := range namespaces {
		at, found := list[n.name]
		switch {
		case !found:
			err = fmt.Errorf("namespace %s is not there", n.name)
		case n.fileSystem == "":
			err = os.Symlink(at.device(), "/dev/"+n.name)
		default:
			err = mountAt(at.device(), n.fileSystem, n.name, format)
		}
		if err != nil {
			return err
		}
	}
	for _, other := range [][2]string{{"legacy", "e820_pmem"}, {"virtio", "virtio"}} {
		device, err := blockDeviceBelow(other[1])
		if err != nil {
			return fmt.Errorf("%s: %w", other[0], err)
		}
		if err := mountAt(device, "ext4", other[0], format); err != nil {
			return err
		}
	}
	return nil
}

// run runs a command for its effect.
func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// divide makes the namespaces.
func divide() error {
	for _, args := range [][]string{{"disable-region", "region0"}, {"init-labels", "-f", "nmem0"}, {"enable-region", "region0"}} {
		if err := run("ndctl", args...); err != nil {
			return err
		}
	}
	for _, n := range namespaces {
		if err := run("ndctl", "create-namespace", "-r", "region0", "-n", n.name, "-m", n.mode, "-s", n.size, "-a", n.align); err != nil {
			return err
		}
	}
	return nil
}

// found is a namespace as ndctl knows it.
type found struct {
	Name     string `json:"name"`
	Block    string `json:"blockdev"`
	Char     string `json:"chardev"`
	Sections struct {
		Devices []struct {
			Char string `json:"chardev"`
		} `json:"devices"`
	} `json:"daxregion"`
}

func (f found) device() string {
	name := f.Block + f.Char
	for _, d := range f.Sections.Devices {
		name = d.Char
	}
	return "/dev/" + name
}

func listNamespaces() (map[string]found, error) {
	out, err := exec.Command("ndctl", "list", "--namespaces", "--device-dax").Output()
	if err != nil {
		return nil, fmt.Errorf("ndctl list: %w", err)
	}
	var list []found
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("ndctl list: %w: %s", err, out)
	}
	byName := map[string]found{}
	for _, f := range list {
		byName[f.Name] = f
	}
	return byName, nil
}

// blockDeviceBelow finds the pmem device that hangs below a device whose name begins so.
func blockDeviceBelow(parent string) (string, error) {
	links, err := filepath.Glob("/sys/class/block/pmem*")
	for _, link := range links {
		if dir, evalErr := filepath.EvalSymlinks(link); evalErr == nil && strings.Contains(dir, "/"+parent) {
			return "/dev/" + filepath.Base(link), nil
		}
	}
	return "", errors.Join(err, fmt.Errorf("no pmem device below %s", parent))
}

func mountAt(device, fileSystem, name string, format bool) error {
	if format {
		mkfs := []string{"-q", "-b", "4096", device} // DAX needs blocks of a page; small file systems have less by default
		if fileSystem == "xfs" {
			mkfs = []string{"-q", "-f", "-m", "reflink=0", device}
		}
		if err := run("mkfs."+fileSystem, mkfs...); err != nil {
			return err
		}
	}
	dir := filepath.Join("/mnt", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return named(unix.Mount(device, dir, fileSystem, 0, "dax"), "mount "+device+" at "+dir)
}
