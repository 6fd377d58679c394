//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/test/vm/port"
)

// boot is the life of the first process, which must not end: the host kills the machine.
func boot() {
	err := errors.Join(mountSystem(), loadModules("/modules"))
	p, openErr := openPort()
	if openErr != nil {
		fmt.Println("guest:", errors.Join(err, openErr)) // on the console
		select {}
	}
	s := &session{out: json.NewEncoder(p)}
	ready := port.Event{}
	if err != nil {
		ready.Error = err.Error()
	}
	s.send(ready)
	in := bufio.NewScanner(p)
	for in.Scan() {
		var r port.Request
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			fmt.Println("guest: request:", err)
			continue
		}
		go s.run(r)
	}
	fmt.Println("guest: the host is gone:", in.Err())
	select {}
}

func mountSystem() (err error) {
	for _, m := range [][3]string{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/dev/shm"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		err = errors.Join(err, os.MkdirAll(m[1], 0o755), named(unix.Mount(m[0], m[1], m[0], 0, ""), "mount "+m[1]))
	}
	err = errors.Join(err, os.Setenv("PATH", "/bin"), os.Setenv("HOME", "/tmp"))
	if out, busyErr := exec.Command("/bin/busybox", "--install", "-s", "/bin").CombinedOutput(); busyErr != nil {
		err = errors.Join(err, fmt.Errorf("busybox: %w: %s", busyErr, out))
	}
	return err
}

func named(err error, what string) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// loadModules loads the kernel's modules in the order that the host has found for them: a file's name begins with its
// number.
func loadModules(dir string) error {
	files, err := os.ReadDir(dir)
	for _, file := range files { // sorted by name
		f, openErr := os.Open(filepath.Join(dir, file.Name()))
		if openErr == nil {
			openErr = named(unix.FinitModule(int(f.Fd()), "", 0), "load "+file.Name())
			f.Close()
		}
		err = errors.Join(err, openErr)
	}
	return err
}

// openPort opens the serial port, which is there when its driver has found it.
func openPort() (*os.File, error) {
	for range 1000 {
		if names, _ := filepath.Glob("/dev/vport*"); len(names) > 0 {
			return os.OpenFile(names[0], os.O_RDWR, 0)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, errors.New("there is no virtio serial port")
}

// session runs commands for the host.
type session struct {
	mu  sync.Mutex
	out *json.Encoder
}

func (s *session) send(e port.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.out.Encode(e); err != nil {
		fmt.Println("guest: event:", err)
	}
}

// stream sends what a command writes.
type stream struct {
	*session
	id     int
	stderr bool
}

func (s stream) Write(b []byte) (int, error) {
	s.send(port.Event{ID: s.id, Output: b, Stderr: s.stderr})
	return len(b), nil
}

func (s *session) run(r port.Request) {
	done := port.Event{ID: r.ID, Done: true}
	defer func() { s.send(done) }()
	if len(r.Argv) == 0 {
		done.Error = "no command"
		return
	}
	cmd := exec.Command(r.Argv[0], r.Argv[1:]...)
	cmd.Env = append(os.Environ(), r.Env...)
	cmd.Dir = "/tmp"
	cmd.Stdout, cmd.Stderr = stream{s, r.ID, false}, stream{s, r.ID, true}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled():
		done.Code = 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
	case errors.As(err, &exit):
		done.Code = exit.ExitCode()
	case err != nil:
		done.Code, done.Error = 127, strings.TrimSpace(err.Error())
	}
}
