package fault

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// PageSize is the unit of requests, runs and address ranges, in bytes: the pool's block size. Install refuses to work
// where the kernel's page is larger.
const PageSize = 4096

// Code says how a fault ended.
type Code uint32

const (
	CodeOK         Code = iota // the run is mapped
	CodeBeyondEnd              // beyond the end of the file, or of a mapping that has been retired
	CodeNoSpace                // no free block for a store into a hole
	CodeIO                     // the medium or the metadata is damaged, or the server's answer makes no sense
	CodeAccess                 // a store through a mapping that may only be read
	CodeServerGone             // the server has closed the connection, or has died and no other one has come in time
	CodeNoMemory               // mmap failed in the client: most often vm.max_map_count
	CodeBusy                   // another client did not give back the page in time
	CodeLimit                  // the client has as many runs as the server lets it have
)

var codeNames = [...]string{"ok", "beyond the end of the file", "no space left in the pool", "input/output error",
	"not writable", "server gone", "cannot map more memory", "busy",
	"over the server's limit of grants for a client (pmemfs serve --max-grants): unmap something"}

// String gives the reason in words.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "fault code " + strconv.Itoa(int(c))
}

// Access is what a client may still do with a run after a break.
type Access uint8

const (
	AccessNone Access = iota // neither load nor store
	AccessRead               // load only
)

// AddressRun is a run of a client's memory. Address and Length are in bytes and multiples of PageSize.
type AddressRun struct{ Address, Length uint64 }

func (r AddressRun) overlaps(s AddressRun) bool {
	return r.Address < s.Address+s.Length && s.Address < r.Address+r.Length
}

// ErrBusy is returned by TakeBack when a client has not given back its runs in time. It matches unix.EBUSY.
var ErrBusy = fmt.Errorf("client did not give back its pages: %w", unix.EBUSY)
