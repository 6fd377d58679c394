package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// initramfs writes a cpio archive in the form "newc" (Linux, Documentation/driver-api/early-userspace/buffer-format.rst),
// not compressed, for the guest would have to undo that.
type initramfs struct {
	w    *bufio.Writer
	n    int64 // bytes written
	have map[string]bool
	ino  int
}

func newInitramfs(w io.Writer) *initramfs {
	return &initramfs{w: bufio.NewWriter(w), have: map[string]bool{"/": true}}
}

// entry writes a file, link or directory.
func (a *initramfs) entry(name string, mode uint32, content []byte) {
	a.ino++
	a.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", a.ino, mode, 0, 0, 1, 0,
		len(content), 0, 0, 0, 0, len(name)+1, 0))
	a.write(append([]byte(name), 0))
	a.pad()
	a.write(content)
	a.pad()
}

// write keeps errors for close: those of a bufio.Writer stay.
func (a *initramfs) write(b []byte) {
	a.w.Write(b)
	a.n += int64(len(b))
}

func (a *initramfs) pad() { a.write(make([]byte, -a.n&3)) }

// dir writes a directory and those above it, once.
func (a *initramfs) dir(name string) {
	if a.have[name] {
		return
	}
	a.have[name] = true
	a.dir(path.Dir(name))
	a.entry(name[1:], 0o040755, nil)
}

// file puts a file of the host at an absolute path in the guest.
func (a *initramfs) file(name, from string) error {
	if a.have[name] {
		return nil
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if strings.HasSuffix(name, ".ko") {
		content = withoutSignature(content)
	}
	a.dir(path.Dir(name))
	a.have[name] = true
	a.entry(name[1:], 0o100755, content)
	return nil
}

// program puts an executable of the host at an absolute path, and the libraries that it is linked with where it looks for
// them.
func (a *initramfs) program(ctx context.Context, name, from string) error {
	if err := a.file(name, from); err != nil {
		return err
	}
	list, err := command(ctx, "", "ldd", from)
	if err != nil {
		return nil // linked statically
	}
	for word := range strings.FieldsSeq(list) {
		if filepath.IsAbs(word) {
			if err := a.file(word, word); err != nil {
				return err
			}
		}
	}
	return nil
}

// withoutSignature cuts off what a module is signed with (struct module_signature in Linux, include/linux/module_signature.h),
// for to verify that takes the emulated CPU longer than to load the module.
func withoutSignature(ko []byte) []byte {
	const magic, footer = "~Module signature appended~\n", 12
	body, signed := bytes.CutSuffix(ko, []byte(magic))
	if !signed || len(body) < footer {
		return ko
	}
	length := int(binary.BigEndian.Uint32(body[len(body)-4:]))
	return body[:max(0, len(body)-footer-length)]
}

func (a *initramfs) close() error {
	a.entry("TRAILER!!!", 0, nil)
	return a.w.Flush()
}

// buildStatic builds a main package of this module, statically linked.
func buildStatic(ctx context.Context, dir, pkg string) (string, error) {
	return runBuild(ctx, filepath.Join(dir, path.Base(pkg)), "build", "-trimpath", "-ldflags=-s -w", pkg)
}

// runBuild has the go command make a file, statically linked.
func runBuild(ctx context.Context, file, verb string, arguments ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{verb, "-o", file}, arguments...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", cmd, err, out)
	}
	return file, nil
}

const module = "github.com/pmemfs/pmemfs"

// buildInitramfs makes the guest's files: its first process, pmemfs, the tools, the modules, and programs of the host's.
func buildInitramfs(ctx context.Context, dir, cache string, k kernel, programs []string) (_ string, err error) {
	name := filepath.Join(dir, "initramfs")
	f, err := os.Create(name)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	a := newInitramfs(f)
	for _, mount := range []string{"/dev", "/proc", "/sys", "/tmp", "/run", "/mnt", "/bin"} {
		a.dir(mount)
	}
	guest, err := buildStatic(ctx, dir, module+"/test/vm/guest")
	if err != nil {
		return "", err
	}
	pmemfs, err := buildStatic(ctx, dir, module+"/cmd/pmemfs")
	if err != nil {
		return "", err
	}
	busybox, err := unpacked(ctx, cache, "busybox-static")
	if err != nil {
		return "", err
	}
	err = errors.Join(a.file("/init", guest), a.file("/bin/busybox", filepath.Join(busybox, "bin/busybox")))
	a.entry("bin/guest", 0o120777, []byte("/init"))
	for _, program := range append([]string{pmemfs, "ndctl", "daxctl", "mkfs.ext4", "mkfs.xfs"}, programs...) {
		from, lookErr := exec.LookPath(program)
		if lookErr != nil {
			return "", lookErr
		}
		err = errors.Join(err, a.program(ctx, path.Join("/bin", filepath.Base(program)), from))
	}
	modules, moduleErr := moduleFiles(k.modules)
	err = errors.Join(err, moduleErr)
	for i, file := range modules {
		err = errors.Join(err, a.file(fmt.Sprintf("/modules/%02d-%s", i, filepath.Base(file)), file))
	}
	return name, errors.Join(err, a.close())
}
