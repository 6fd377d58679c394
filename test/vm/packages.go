package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// tools are the programs that are used here or copied into the guest, and the packages that have them.
var tools = map[string]string{
	"qemu-system-x86_64": "qemu-system-x86", "ndctl": "ndctl", "daxctl": "daxctl", "mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs",
}

// command runs a program and returns what it writes to standard output; the error has what it writes to standard error.
func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// installTools installs the tools that are missing.
func installTools(ctx context.Context) error {
	var missing []string
	for tool, name := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	args := append([]string{"install", "-qy", "--no-install-recommends"}, missing...)
	_, err := command(ctx, "", "apt-get", args...)
	if err != nil {
		if _, err = command(ctx, "", "apt-get", "update", "-q"); err == nil {
			_, err = command(ctx, "", "apt-get", args...)
		}
	}
	return err
}

// cacheDir is where what was downloaded stays.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "pmemfs-vm")
	return dir, os.MkdirAll(dir, 0o755)
}

// unpacked returns a directory with the files of a Debian package, and downloads it if it is not there.
func unpacked(ctx context.Context, cache, name string) (string, error) {
	dir := filepath.Join(cache, name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	temporary, err := os.MkdirTemp(cache, ".download-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temporary)
	download := func() error {
		_, err := command(ctx, temporary, "apt-get", "-o", "APT::Sandbox::User=root", "download", name)
		return err
	}
	if err := download(); err != nil {
		if _, updateErr := command(ctx, "", "apt-get", "update", "-q"); updateErr != nil {
			return "", errors.Join(err, updateErr)
		}
		if err := download(); err != nil {
			return "", err
		}
	}
	files, err := filepath.Glob(filepath.Join(temporary, "*.deb"))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("download of %s: %d files, %v", name, len(files), err)
	}
	files2 := filepath.Join(temporary, "files")
	if _, err := command(ctx, temporary, "dpkg", "-x", files[0], files2); err != nil {
		return "", err
	}
	if err := os.Rename(files2, dir); err != nil && !errors.Is(err, fs.ErrExist) { // another may have been faster
		return "", err
	}
	return dir, nil
}

// kernel is one that was unpacked.
type kernel struct {
	image   string // the file that is booted
	modules string // directory
}

// findKernel downloads the newest kernel; without a mirror one that was downloaded earlier will do.
func findKernel(ctx context.Context, cache string) (k kernel, err error) {
	const meta, prefix = "linux-image-amd64", "linux-image-"
	depends, err := command(ctx, "", "apt-cache", "depends", meta)
	var dir string
	for word := range strings.FieldsSeq(depends) {
		if strings.HasPrefix(word, prefix) && word != meta {
			dir, err = unpacked(ctx, cache, word)
		}
	}
	if dir == "" {
		old, _ := filepath.Glob(filepath.Join(cache, prefix+"*"))
		if len(old) == 0 {
			return k, errors.Join(fmt.Errorf("there is no package %s and no kernel in %s", meta, cache), err)
		}
		dir = old[len(old)-1]
	}
	for pattern, at := range map[string]*string{"boot/vmlinuz-*": &k.image, "lib/modules/*": &k.modules} {
		names, _ := filepath.Glob(filepath.Join(dir, pattern))
		if len(names) != 1 {
			return k, fmt.Errorf("%s has %d files %s", dir, len(names), pattern)
		}
		*at = names[0]
	}
	return k, nil
}
