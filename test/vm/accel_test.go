package main

import (
	"slices"
	"strings"
	"testing"
)

func TestAccelerator(t *testing.T) {
	for flags, want := range map[string]bool{"fpu vmx ssse3": true, "fpu sse2 svm": true, "fpu svm_lock avx512_vmx": false, "": false} {
		text := "processor\t: 0\nflags\t\t: " + flags + "\nbugs\t\t: svm\n"
		if got := virtualizes([]byte(text)); got != want {
			t.Errorf("flags %q: virtualization %v, want %v", flags, got, want)
		}
	}
	for _, asked := range []string{"kvm", "tcg"} {
		t.Setenv(accelVariable, asked)
		if got, _, err := accelerator(); got != asked || err != nil {
			t.Errorf("%s=%s: %s, %v", accelVariable, asked, got, err)
		}
		if !slices.ContainsFunc(accelArguments(asked), func(s string) bool { return strings.HasPrefix(s, asked) }) {
			t.Errorf("%s: arguments %q", asked, accelArguments(asked))
		}
	}
	t.Setenv(accelVariable, "fast")
	if _, _, err := accelerator(); err == nil || !strings.Contains(err.Error(), accelVariable) {
		t.Errorf("an accelerator that does not exist: %v", err)
	}
	t.Setenv(accelVariable, "")
	if got, why, err := accelerator(); err != nil || why == "" || got != "kvm" && got != "tcg" {
		t.Errorf("%q, because of %q: %v", got, why, err)
	}
}
