package rerun

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const echoVariable = "PMEMFS_RERUN_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(echoVariable) != "" {
		fmt.Printf("%q", os.Args[1:])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestSelf(t *testing.T) {
	prefix := os.Getenv(execVariable)
	for _, c := range []string{prefix, "env -u PMEMFS_NONE " + prefix} {
		t.Setenv(execVariable, c)
		cmd := Self("one", "two words")
		cmd.Env = append(os.Environ(), echoVariable+"=1")
		out, err := cmd.Output()
		if want := `["one" "two words"]`; err != nil || string(out) != want {
			t.Errorf("%s=%q: %s, %v; want %s", execVariable, c, out, err, want)
		}
	}
	t.Setenv(execVariable, "/missing/emulator")
	if err := Self().Run(); err == nil || !strings.Contains(err.Error(), "/missing/emulator") {
		t.Error(err)
	}
}
