package medium

import (
	"fmt"
	"slices"
	"strings"
)

// Granularity is the unit in which stores become durable, as in libpmem2(7): the finer it is, the less a program must
// do. A program states what it needs; zero, AnyGranularity, needs nothing in particular.
type Granularity uint8

// The granularities, finest first.
const (
	AnyGranularity Granularity = iota
	// Byte: CPU caches are in the persistence domain; a store that is visible is durable after a fence.
	Byte
	// CacheLine: lines are flushed, then a fence.
	CacheLine
	// Page: the kernel writes pages back; fdatasync or msync.
	Page
)

var granularityNames = []string{"any", "byte", "cache-line", "page"}

// String returns "any", "byte", "cache-line" or "page".
func (g Granularity) String() string {
	if int(g) >= len(granularityNames) {
		return fmt.Sprintf("granularity(%d)", uint8(g))
	}
	return granularityNames[g]
}

// MarshalText makes JSON show the name.
func (g Granularity) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText is ParseGranularity.
func (g *Granularity) UnmarshalText(text []byte) (err error) {
	*g, err = ParseGranularity(string(text))
	return err
}

// ParseGranularity is the inverse of String.
func ParseGranularity(s string) (Granularity, error) {
	if i := slices.Index(granularityNames, s); i >= 0 {
		return Granularity(i), nil
	}
	return 0, fmt.Errorf("unknown granularity %q: one of %s", s, strings.Join(granularityNames, ", "))
}

// Domain is the persistence domain of an area: the point from which a store survives a loss of power.
type Domain uint8

// The domains, strongest first, so that the weaker of two is the greater.
const (
	// DomainCPUCache: the platform empties the caches when power fails (eADR). Fence only.
	DomainCPUCache Domain = iota
	// DomainMemoryController: lines must leave the caches (ADR). Flush, then Fence.
	DomainMemoryController
	// DomainPageCache: the kernel holds the bytes. Fence is an fdatasync.
	DomainPageCache
	// DomainVolatile: nothing survives a loss of power; stores survive a crash of the process. The instructions of
	// DomainMemoryController are executed, so that costs are honest: emulated persistent memory.
	DomainVolatile
	domains
)

var domainNames = [domains]string{"cpu-cache", "memory-controller", "page-cache", "volatile"}

// String returns "cpu-cache", "memory-controller", "page-cache" or "volatile".
func (d Domain) String() string {
	if d >= domains {
		return fmt.Sprintf("domain(%d)", uint8(d))
	}
	return domainNames[d]
}

// MarshalText makes JSON show the name.
func (d Domain) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is the inverse, so that a client can read its server's Report.
func (d *Domain) UnmarshalText(text []byte) error {
	i := slices.Index(domainNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("unknown persistence domain %q: one of %s", text, strings.Join(domainNames[:], ", "))
	}
	*d = Domain(i)
	return nil
}

// Granularity is what a program must do there. A volatile area counts as cache-line: that is what it emulates.
func (d Domain) Granularity() Granularity {
	switch d {
	case DomainCPUCache:
		return Byte
	case DomainMemoryController, DomainVolatile:
		return CacheLine
	default:
		return Page
	}
}

// lacks says what is missing for the granularity asked (row) in the domain there is (column); empty: nothing is. It is
// the only place where that is decided.
var lacks = [Page + 1][domains]string{
	AnyGranularity: {},
	Byte: {
		DomainCPUCache: "",
		DomainMemoryController: "the CPU caches are outside the persistence domain, so that every store must be flushed; " +
			"byte granularity needs a platform that empties its caches when power fails (eADR: persistence_domain cpu_cache)",
		DomainPageCache: "the file is reached through the page cache; " +
			"byte granularity needs persistent memory, a mapping with MAP_SYNC and a platform with eADR",
		DomainVolatile: "the memory is volatile and emulates a platform whose caches must be flushed; " +
			"byte granularity needs persistent memory and a platform with eADR",
	},
	CacheLine: {
		DomainCPUCache:         "",
		DomainMemoryController: "",
		DomainPageCache: "the file is reached through the page cache, so that only fdatasync makes a store durable; " +
			"cache-line granularity needs a file system on persistent memory that accepts MAP_SYNC (ext4 or xfs mounted with -o dax) or a device-DAX device",
		DomainVolatile: "",
	},
	Page: {},
}

// satisfy returns an *Error that matches ErrGranularity when the domain is too weak for what is required.
func satisfy(required Granularity, d Domain) error {
	if int(required) >= len(lacks) || d >= domains {
		return fmt.Errorf("medium: %v granularity in the %v domain: no such row or column", required, d)
	}
	missing := lacks[required][d]
	if missing == "" {
		return nil
	}
	return &Error{
		Kind:   ErrGranularity,
		Reason: fmt.Sprintf("%v granularity is required, %v is there (persistence domain %v): %s", required, d.Granularity(), d, missing),
	}
}
