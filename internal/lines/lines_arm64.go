//go:build linux

package lines

// lineStep is how far apart, in bytes, lines are cleaned: the smallest data
// cache line of this system (CTR_EL0.DminLine, log2 of 4-byte words), but at
// most Size. Read by assembly; never changed.
//
//lint:ignore U1000 the linter does not see assembly
var lineStep = min(uintptr(4)<<(cacheType()>>16&15), Size)

// cacheType returns CTR_EL0, the cache type register.
//
//go:noescape
func cacheType() uint64
