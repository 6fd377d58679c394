package report

import (
	"bytes"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/pmem"
)

// Machine is where figures come from. Its JSON names are a contract with scripts.
type Machine struct {
	CPU         string `json:"cpu"`
	CPUs        int    `json:"cpus"` // that this process may use
	Kernel      string `json:"kernel"`
	Go          string `json:"go"`
	FlushMethod string `json:"flush_method"`
	Medium      string `json:"medium"`
	Granularity string `json:"granularity"`
	Emulated    bool   `json:"emulated"`
}

// ThisMachine is the one that this process runs on, without a medium.
func ThisMachine() Machine {
	flush, _ := pmem.Methods()
	m := Machine{
		CPU: cpuModel(), CPUs: runtime.NumCPU(), Go: runtime.Version(), FlushMethod: flush,
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	return m
}

// cpuModel is the name that the CPU gives itself; not every architecture has one.
func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range bytes.Lines(text) {
			if name, value, _ := bytes.Cut(line, []byte(":")); string(bytes.TrimSpace(name)) == "model name" {
				return string(bytes.TrimSpace(value))
			}
		}
	}
	return runtime.GOARCH
}

func (m Machine) String() string {
	emulated := ""
	if m.Emulated {
		emulated = ", emulated persistent memory"
	}
	return fmt.Sprintf("%s, %d CPUs; %s; %s; medium: %s%s, flushed by %s",
		m.CPU, m.CPUs, m.Kernel, m.Go, m.Medium, emulated, m.FlushMethod)
}
