package pmem

import (
	"os"
	"strings"
	"testing"

	"github.com/pmemfs/pmemfs/internal/rerun"
)

// childVariable marks the test binary as the child that reports its methods.
const childVariable = "PMEM_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

// child prints what was chosen at start, after using it.
func child() int {
	const text = "chosen once, at start: a text that is longer than one line of the cache"
	p := make([]byte, 3*len(text))
	n := Copy(p[1:], []byte(text))
	Zero(p[1+n:])
	Persist(p)
	if string(p[1:1+n]) != text {
		os.Stdout.WriteString("copied " + string(p))
		return 1
	}
	if err := Available(); err != nil {
		os.Stdout.WriteString(err.Error())
		return 0
	}
	flush, stream := Methods()
	os.Stdout.WriteString(flush + " " + stream)
	return 0
}

// runChild returns what a process with these variables prints.
func runChild(t *testing.T, flush, stream string) string {
	t.Helper()
	cmd := rerun.Self()
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", childVariable+"=1", flushVariable+"="+flush, streamVariable+"="+stream)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	return string(out)
}

func TestForcedMethods(t *testing.T) {
	if e := platformError(); e != nil {
		if got := runChild(t, "", ""); got != e.Error() {
			t.Errorf("Available() = %q, want %q", got, e)
		}
		return
	}
	for _, f := range flushMethods() {
		for _, s := range streamMethods() {
			got := runChild(t, f.name, s.name)
			switch {
			case f.supported && s.supported:
				if want := f.name + " " + s.name; got != want {
					t.Errorf("forced %s: chose %s", want, got)
				}
			case !f.supported && !strings.Contains(got, "PMEMFS_FLUSH="+f.name+": this CPU does not support it"),
				!s.supported && !strings.Contains(got, "PMEMFS_STREAM="+s.name+": this CPU does not support it"):
				t.Errorf("forced %s, %s, which is not supported: %s", f.name, s.name, got)
			}
		}
	}
}

func TestUnknownMethodsAreRefused(t *testing.T) {
	got := runChild(t, "wishful", "thinking")
	for _, want := range []string{"PMEMFS_FLUSH=wishful: unknown method", "PMEMFS_STREAM=thinking: unknown method"} {
		if !strings.Contains(got, want) {
			t.Errorf("Available() = %q, want %q in it", got, want)
		}
	}
}
