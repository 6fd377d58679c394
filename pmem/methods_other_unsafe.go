//go:build !amd64 && !(arm64 && linux)

package pmem

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/pmemfs/pmemfs/internal/lines"
)

// This file stands in where no flush instruction is known: the functions
// store, but nothing becomes durable, and Available says so.

// streamPiece is the most that one call of a stream method is given, in bytes.
const streamPiece = 256 << 10

func flushMethods() []flushMethod {
	return []flushMethod{{"none", true, lines.None}}
}

func streamMethods() []streamMethod {
	return []streamMethod{{"plain", true, false, copyPlain, zeroPlain, nil, nil}}
}

// platformError says why no method persists.
func platformError() error {
	return fmt.Errorf("pmem: no way to flush caches is known for %s/%s", runtime.GOOS, runtime.GOARCH)
}

func copyPlain(dst, src *byte, n uintptr) {
	copy(unsafe.Slice(dst, n), unsafe.Slice(src, n))
}

func zeroPlain(dst *byte, n uintptr) {
	clear(unsafe.Slice(dst, n))
}
