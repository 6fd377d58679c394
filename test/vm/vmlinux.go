package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// decompressed returns the kernel that a bzImage has in it as an ELF file beside it, which QEMU boots as well (by PVH), and
// many seconds faster: the emulated CPU does not have to decompress it.
func decompressed(ctx context.Context, image string) (string, error) {
	name := filepath.Join(filepath.Dir(image), "vmlinux")
	if _, err := os.Stat(name); err == nil {
		return name, nil
	}
	content, err := os.ReadFile(image)
	if err != nil {
		return "", err
	}
	payload, err := payloadOf(content)
	if err != nil {
		return "", fmt.Errorf("kernel %s: %w", image, err)
	}
	temporary, err := os.CreateTemp(filepath.Dir(name), ".vmlinux-")
	if err != nil {
		return "", err
	}
	defer os.Remove(temporary.Name())
	xz := exec.CommandContext(ctx, "xz", "-dc", "--single-stream")
	xz.Stdin, xz.Stdout = bytes.NewReader(payload), temporary
	if err := errors.Join(xz.Run(), temporary.Close()); err != nil {
		return "", fmt.Errorf("decompress the kernel of %s: %w", image, err)
	}
	return name, os.Rename(temporary.Name(), name)
}

// payloadOf finds the compressed kernel by the boot header (Linux, Documentation/x86/boot.rst).
func payloadOf(image []byte) ([]byte, error) {
	const sectorsAt, magicAt, offsetAt, lengthAt, header, sector = 0x1f1, 0x202, 0x248, 0x24c, 0x250, 512
	if len(image) < header || string(image[magicAt:magicAt+4]) != "HdrS" {
		return nil, errors.New("it has no boot header")
	}
	setup := int64(max(image[sectorsAt], 4)) // an old kernel says 0
	start := (setup+1)*sector + int64(binary.LittleEndian.Uint32(image[offsetAt:]))
	end := start + int64(binary.LittleEndian.Uint32(image[lengthAt:]))
	if start > end || end > int64(len(image)) {
		return nil, fmt.Errorf("its boot header places the kernel at %d to %d of %d bytes", start, end, len(image))
	}
	if payload := image[start:end]; bytes.HasPrefix(payload, []byte("\xfd7zXZ\x00")) {
		return payload, nil
	}
	return nil, errors.New("its kernel is not compressed by xz")
}
