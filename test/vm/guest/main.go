//go:build linux

// Command guest is the first process of the machine that test/vm boots: it loads modules, mounts what every system has,
// and runs the commands that the host sends. Called by another name it is one of its verbs, which work on the media.
package main

import (
	"errors"
	"fmt"
	"os"
)

func main() {
	if os.Getpid() == 1 {
		boot()
		return
	}
	verbs := map[string]func([]string) error{"prepare": prepare}
	err := errors.New("usage: guest prepare [format]")
	if len(os.Args) > 1 && verbs[os.Args[1]] != nil {
		err = verbs[os.Args[1]](os.Args[2:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}
