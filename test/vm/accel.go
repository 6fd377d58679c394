package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// accelVariable is the environment variable that says how the guest's CPUs run: kvm, on the host's; or tcg, emulated.
const accelVariable = "VM_ACCEL"

// accelerator returns kvm or tcg, and why: what accelVariable says, or else kvm where the CPU has virtualization and
// /dev/kvm may be used. A KVM without that exists, too: it takes minutes to emulate a kernel that is not made for it, and
// fails.
func accelerator() (name, why string, err error) {
	switch asked := os.Getenv(accelVariable); asked {
	case "kvm", "tcg":
		return asked, accelVariable, nil
	case "":
	default:
		return "", "", fmt.Errorf("%s: %q is neither kvm nor tcg", accelVariable, asked)
	}
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", "", err
	}
	if !virtualizes(cpu) {
		return "tcg", "the CPU has neither vmx nor svm", nil
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg", err.Error(), nil
	}
	return "kvm", "the CPU has virtualization", f.Close()
}

var virtualization = regexp.MustCompile(`(?m)^flags\s*:.* (vmx|svm)( |$)`)

// virtualizes says whether an x86 CPU of which the text of /proc/cpuinfo is has virtualization.
func virtualizes(cpuinfo []byte) bool { return virtualization.Match(cpuinfo) }

// accelArguments are QEMU's for an accelerator. The emulated CPU lacks what the emulator is so slow at that nothing could be
// told from the guest's times: instructions that store and copy strings of bytes, which go byte by byte if the guest takes them
// for fast; and protection keys, whose register Linux sets anew for each signal, which empties the emulator's whole TLB.
func accelArguments(accel string) []string {
	if accel == "kvm" {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return strings.Fields("-accel tcg,thread=multi -cpu max,erms=off,fsrm=off,pku=off")
}
