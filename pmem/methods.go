package pmem

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/pmemfs/pmemfs/internal/lines"
)

// Environment variables that force a method, for tests and comparisons.
const (
	flushVariable  = "PMEMFS_FLUSH"
	streamVariable = "PMEMFS_STREAM"
)

// flushMethod is one way to write lines back.
type flushMethod struct {
	name      string
	supported bool
	how       lines.How
}

// streamMethod is one way to store whole lines: dst is a multiple of LineSize,
// n a multiple of it and > 0, src is anywhere. copyWords and zeroWords do the
// same for words of 8 bytes instead of lines; nil: such stores do not bypass
// the cache.
type streamMethod struct {
	name      string
	supported bool
	cleans    bool // the stores may stay in the cache: the lines are flushed afterwards
	copyLines func(dst, src *byte, n uintptr)
	zeroLines func(dst *byte, n uintptr)
	copyWords func(dst, src *byte, n uintptr)
	zeroWords func(dst *byte, n uintptr)
}

// methods is what the functions of this package call.
//
// Invariant: every function is one that this CPU supports, even when the
// environment asks for another: then the error says so and these are the best.
type methods struct {
	flushMethod
	stream streamMethod
}

// chosen and unavailable are set once, before any other package's code runs
// (tests of this package exchange chosen).
var chosen, unavailable = choose(flushMethods(), streamMethods(), os.Getenv)

func init() { lines.Chosen = chosen.how }

// Available returns nil if this process can make stores durable by CPU
// instructions. Otherwise it says why not: a CPU or GOARCH without known
// instructions, or an environment variable (PMEMFS_FLUSH, PMEMFS_STREAM) that
// names an unknown method or one that this CPU lacks. Flush and Fence must not
// be relied upon then. Whether the medium behind an address is persistent at
// all is not this package's knowledge.
func Available() error {
	return unavailable
}

// Methods names the flush and the stream method in use, as the environment
// variables name them: "clwb", "avx512". See the package comment for the list.
func Methods() (flush, stream string) {
	return chosen.name, chosen.stream.name
}

// choose takes the best supported method of each kind, or the one that the
// environment names. Each list is in order of preference and has one method
// that is supported everywhere.
func choose(flushes []flushMethod, streams []streamMethod, getenv func(string) string) (methods, error) {
	var m methods
	flushNames, streamNames := make([]option, len(flushes)), make([]option, len(streams))
	for i, f := range flushes {
		flushNames[i] = option{f.name, f.supported}
	}
	for i, s := range streams {
		streamNames[i] = option{s.name, s.supported}
	}
	i, flushErr := pick(flushVariable, getenv(flushVariable), flushNames)
	m.flushMethod = flushes[i]
	i, streamErr := pick(streamVariable, getenv(streamVariable), streamNames)
	m.stream = streams[i]
	return m, errors.Join(platformError(), flushErr, streamErr)
}

// option is the name of a method, for pick.
type option struct {
	name      string
	supported bool
}

// pick returns the index of the method that the variable's value names, or of
// the first supported one if the value is empty or cannot be had.
func pick(variable, value string, options []option) (int, error) {
	best, known := -1, false
	var have []string
	for i, o := range options {
		if value == o.name {
			if o.supported {
				return i, nil
			}
			known = true
		}
		if o.supported {
			have = append(have, o.name)
			if best < 0 {
				best = i
			}
		}
	}
	switch {
	case value == "":
		return best, nil
	case known:
		return best, fmt.Errorf("pmem: %s=%s: this CPU does not support it (it has %s)", variable, value, strings.Join(have, ", "))
	default:
		return best, fmt.Errorf("pmem: %s=%s: unknown method (this CPU has %s)", variable, value, strings.Join(have, ", "))
	}
}
