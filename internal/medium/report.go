package medium

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pmemfs/pmemfs/pmem"
)

// Evidence is one thing that was looked at, whether it succeeded or not.
type Evidence struct {
	What   string `json:"what"`   // the question: "synchronous page faults on data"
	How    string `json:"how"`    // what was done: a system call, a file read
	Result string `json:"result"` // what it gave, and what follows
}

func (e Evidence) String() string { return fmt.Sprintf("%s: %s [%s]", e.What, e.Result, e.How) }

// Report says what an opened pool is on, and why that is believed. The JSON names are a contract with scripts.
type Report struct {
	Path string `json:"path"`
	// Kind is "tmpfs", "ramfs", "fsdax", "page-cache" or "devdax".
	Kind string `json:"kind"`
	// FileSystem is the type of the file system that holds the files; empty for a device.
	FileSystem  string      `json:"file_system,omitempty"`
	Domain      Domain      `json:"domain"`      // the weaker one if the two areas differ
	Granularity Granularity `json:"granularity"` // follows from Domain
	// Emulated: the memory is volatile and only behaves like persistent memory.
	Emulated bool `json:"emulated"`
	// Assumed: the medium lies behind a page cache and is treated as emulated persistent memory because somebody wanted it so
	// (Options.AssumePersistent): Domain and Granularity are what is assumed.
	Assumed bool `json:"assumed,omitempty"`
	// PowerCut: what is stored and not made durable is lost when somebody cuts the power by command: see PowerCut.
	PowerCut  bool  `json:"power_cut,omitempty"`
	MapSync   bool  `json:"map_sync"`  // the data area is mapped with MAP_SYNC
	MetaSize  int64 `json:"meta_size"` // bytes
	DataSize  int64 `json:"data_size"` // bytes
	Alignment int64 `json:"alignment"` // bytes; addresses, offsets and lengths of mappings are multiples of it
	ReadOnly  bool  `json:"read_only"` // opened so
	// FlushMethod and StreamMethod name the CPU instructions in use.
	FlushMethod  string `json:"flush_method"`
	StreamMethod string `json:"stream_method"`
	// Evidence is in the order in which things were looked at; the last line is the conclusion.
	Evidence []Evidence `json:"evidence"`
}

// newReport puts together what was found for the two areas.
func newReport(path string, readOnly bool, meta, data finding) Report {
	r := Report{
		Path:       path,
		Kind:       data.kind,
		FileSystem: data.fileSystem,
		Domain:     max(meta.domain, data.domain),
		MapSync:    data.mapSync,
		Alignment:  data.align,
		ReadOnly:   readOnly,
		Evidence:   slices.Clone(meta.evidence),
	}
	for _, e := range data.evidence { // what is true of both files, or of a device, is said once
		if !slices.Contains(r.Evidence, e) {
			r.Evidence = append(r.Evidence, e)
		}
	}
	r.Granularity = r.Domain.Granularity()
	r.Emulated = r.Domain == DomainVolatile
	r.Assumed = meta.assumed || data.assumed
	r.FlushMethod, r.StreamMethod = pmem.Methods()
	return r
}

// require returns an *Error if the medium of the report is weaker than what is required.
func require(g Granularity, r Report) error {
	err := satisfy(g, r.Domain)
	var e *Error
	if errors.As(err, &e) {
		e.Evidence = r.Evidence
	}
	return err
}
