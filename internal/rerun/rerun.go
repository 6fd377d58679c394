// Package rerun runs this program again: servers and clients need processes of their own, and so do tests of them.
package rerun

import (
	"os"
	"os/exec"
	"strings"
)

// execVariable is a command to put in front, as "go test -exec" does: an emulator of another CPU does not pass on to
// the kernel of this one that it should run what its program starts, unless binfmt_misc knows it.
const execVariable = "PMEMFS_EXEC"

// Emulated says whether a command has to be put in front.
func Emulated() bool { return os.Getenv(execVariable) != "" }

// Self returns the command that runs this program with args. If the program cannot be found, its Start says so.
func Self(args ...string) *exec.Cmd {
	path, err := os.Executable()
	words := append(append(strings.Fields(os.Getenv(execVariable)), path), args...)
	cmd := exec.Command(words[0], words[1:]...)
	if err != nil {
		cmd.Err = err
	}
	return cmd
}
