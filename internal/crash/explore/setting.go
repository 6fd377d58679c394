package explore

import (
	"fmt"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/crash"
)

// Setting is when operations become durable, and on what. The zero value has
// each durable when it returns, on memory behind the CPU's caches.
type Setting struct {
	Interval  bool // operations are staged: durable after a commit, a sync, or when they have to be
	PageCache bool // a disk behind the kernel's page cache
}

// Settings is all of them.
var Settings = []Setting{{}, {Interval: true}, {PageCache: true}, {Interval: true, PageCache: true}}

// ParseSetting reads the names of a commit policy and a medium.
func ParseSetting(policy, medium string) (Setting, error) {
	for _, s := range Settings {
		if s.Policy() == policy && s.Medium() == medium {
			return s, nil
		}
	}
	return Setting{}, fmt.Errorf("policy %q and medium %q: they are op or interval, and cpu-cache or page-cache", policy, medium)
}

// Policy is the name of the commit policy.
func (s Setting) Policy() string {
	if s.Interval {
		return "interval"
	}
	return "op"
}

// Medium is the name of the medium.
func (s Setting) Medium() string {
	if s.PageCache {
		return "page-cache"
	}
	return "cpu-cache"
}

// model is what the medium promises.
func (s Setting) model() crash.Model {
	if s.PageCache {
		return crash.PageCache
	}
	return crash.CPUCache
}

// options mounts a pool as a server does with this policy on such a medium.
func (s Setting) options() core.Options {
	return core.Options{Stage: s.Interval || s.PageCache, Defer: s.PageCache}
}

// commits says whether the server commits after an operation, before it
// answers. It does not when a page fault is one of a mapping that is not Sync,
// and has nothing to commit when operations commit for themselves.
func (s Setting) commits(o Op) bool { return s.PageCache && !s.Interval && !o.mapped() }
