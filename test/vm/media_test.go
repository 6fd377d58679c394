package main

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
)

// medium is one of those in the guest.
type medium struct {
	name  string
	place string // a directory for a pool, or a device
	kind  string // as pmemfs info says
	ways  []string
	// nvdimm: the platform says what its persistence domain is. Else nobody does.
	nvdimm bool
	size   int64 // MiB
}

var (
	allWays = []string{"sync", "direct", "shared", "write"}
	media   = []*medium{
		{"ext4-dax", "/mnt/ext4", "fsdax", allWays, true, 768},
		{"xfs-dax", "/mnt/xfs", "fsdax", allWays, true, 384},
		{"devdax-4k", "/dev/dax-4k", "devdax", allWays, true, 128},
		// Its pages are larger than the blocks of pmemfs, so that nothing can be mapped.
		{"devdax-2m", "/dev/dax-2m", "devdax", []string{"write"}, true, 112},
		{"legacy-dax", "/mnt/legacy", "fsdax", allWays, false, 128},
		// Only the host can make stores durable, when it is asked to: the kernel refuses MAP_SYNC.
		{"virtio-pmem", "/mnt/virtio", "page-cache", []string{"shared", "write"}, false, 128},
	}
)

// badBlocks runs the test that has the kernel list blocks of the file systems on DAX as bad.
func (s *suite) badBlocks() {
	s.Helper()
	var places []string
	for _, m := range media {
		if m.kind == "fsdax" {
			places = append(places, m.place)
		}
	}
	out, err := s.guest("env", "TMPDIR=/dev/shm", "PMEMFS_TEST_BADBLOCKS="+strings.Join(places, ":"), "command.test", "-test.v",
		"-test.run", "^TestKernelListsBadBlocks$")
	for _, m := range media {
		switch {
		case m.kind != "fsdax":
		case err != nil || !strings.Contains(string(out), "--- PASS: TestKernelListsBadBlocks/"+path.Base(m.place)+" "):
			s.Errorf("FAIL  %s bad blocks: %v\n%s", m.name, err, out)
		default:
			ok(m, "bad blocks: listed, refused, healed by overwriting")
		}
	}
}

// device says whether the medium is one, which a pool takes whole.
func (m *medium) device() bool { return m.kind == "devdax" }

func (m *medium) pool() string {
	if m.device() {
		return m.place
	}
	return path.Join(m.place, "pool")
}

// mkfs is the command that makes the pool.
func (m *medium) mkfs() []string {
	command := []string{"pmemfs", "mkfs", m.pool()}
	if !m.device() {
		command = append(command, "--size", "64M")
	}
	return command
}

// info is what the tests look at of pmemfs info --json.
type info struct {
	MapMask json.RawMessage `json:"map_mask"`
	Medium  struct {
		Kind, Domain string
		MapSync      bool `json:"map_sync"`
		Evidence     []struct{ What, Result string }
	}
}

// checkInfo checks what pmemfs info says of the medium on a platform with the given persistence domain.
func (m *medium) checkInfo(output []byte, persistence string) error {
	var got info
	if err := json.Unmarshal(output, &got); err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	domain, evidence := "memory-controller", []string{"the platform does not say"}
	switch {
	case m.kind == "page-cache":
		domain, evidence = "page-cache", []string{"refused, EOPNOTSUPP: stores reach the page cache only", "virtio-pmem: only the host"}
	case m.nvdimm && persistence == "mem-ctrl":
		evidence = []string{"memory_controller: stores are durable once flushed"}
	case m.nvdimm && persistence == "cpu":
		domain, evidence = "cpu-cache", []string{"cpu_cache: the platform empties CPU caches"}
	}
	if mapSync := m.kind != "page-cache"; got.Medium.Kind != m.kind || got.Medium.Domain != domain || got.Medium.MapSync != mapSync {
		return fmt.Errorf("kind %s, domain %s, MAP_SYNC %v; want %s, %s, %v",
			got.Medium.Kind, got.Medium.Domain, got.Medium.MapSync, m.kind, domain, mapSync)
	}
	for _, want := range evidence {
		if !slices.ContainsFunc(got.Medium.Evidence, func(e struct{ What, Result string }) bool { return strings.Contains(e.Result, want) }) {
			return fmt.Errorf("the evidence does not say %q: %+v", want, got.Medium.Evidence)
		}
	}
	return nil
}
