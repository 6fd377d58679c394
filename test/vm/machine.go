package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs/test/vm/port"
)

// backing are the files behind the media, and their sizes in bytes. What the guest stores to its persistent memory is
// stored to them at once, and stays when QEMU is killed.
var backing = map[string]int64{"nvdimm": 1408 << 20, "virtio": 128 << 20, "legacy": legacy + behind}

const (
	memory    = 1 << 30   // bytes of the guest's ordinary memory; the legacy persistent memory lies behind it
	legacy    = 128 << 20 // bytes that the kernel's command line sets aside
	behind    = 64 << 20  // bytes of ordinary memory behind them, where the firmware keeps its tables
	labelSize = 2 << 20   // bytes at the end of the NVDIMM that say how it is divided
	bootTime  = 2 * time.Minute
)

// config is what a machine is booted with.
type config struct {
	accel       string // kvm or tcg
	kernel      kernel
	initramfs   string
	media       string // directory of the backing files
	persistence string // what the platform says of its persistence domain: mem-ctrl, cpu, or nothing
	console     string // file
}

// makeBacking makes the files behind the media that are not there, and says whether that were all.
func makeBacking(dir string) (fresh bool, err error) {
	made := 0
	for name, size := range backing {
		f, openErr := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(openErr, os.ErrExist) {
			continue
		}
		made++
		err = errors.Join(err, openErr)
		if openErr == nil {
			err = errors.Join(err, f.Truncate(size), f.Close())
		}
	}
	if err == nil && made != 0 && made != len(backing) {
		err = fmt.Errorf("%s had some of the files of media, but not all: remove them", dir)
	}
	return made > 0, err
}

func (c config) arguments() []string {
	board := "pc,nvdimm=on"
	if c.persistence != "" {
		board += ",nvdimm-persistence=" + c.persistence
	}
	file := func(name string) string {
		return fmt.Sprintf("memory-backend-file,id=%s,share=on,mem-path=%s,size=%d", name, filepath.Join(c.media, name), backing[name])
	}
	return append(accelArguments(c.accel),
		"-smp", "2", "-machine", board,
		"-m", fmt.Sprintf("size=%dM,slots=4,maxmem=8G", (memory+legacy+behind)>>20),
		"-object", fmt.Sprintf("memory-backend-ram,id=ram,size=%d", memory), "-numa", "node,memdev=ram",
		"-object", file("legacy"), "-numa", "node,memdev=legacy",
		"-object", file("nvdimm"), "-device", fmt.Sprintf("nvdimm,memdev=nvdimm,id=nvdimm0,label-size=%d", labelSize),
		"-object", file("virtio"), "-device", "virtio-pmem-pci,memdev=virtio,id=virtio0",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=port,fd=3", "-device", "virtserialport,chardev=port",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "file:"+c.console,
		"-kernel", c.kernel.image, "-initrd", c.initramfs,
		"-append", fmt.Sprintf("console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off apparmor=0 audit=0 rcupdate.rcu_expedited=1 memmap=%d!%d", legacy, memory),
	)
}

// machine is a guest that runs.
type machine struct {
	qemu *exec.Cmd
	conn *os.File
	gone chan struct{} // closed when nothing more comes from the guest
	why  error         // set before gone is closed

	mu      sync.Mutex
	next    int
	running map[int]*guestCommand
}

// guestCommand is a command that runs in the guest.
type guestCommand struct {
	stdout, stderr io.Writer
	done           chan port.Event // gets the last event
}

// boot starts a machine and waits until its guest is ready. The machine dies with ctx, and with this process.
func boot(ctx context.Context, c config) (*machine, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "port of the guest")
	m := &machine{conn: os.NewFile(uintptr(pair[0]), "port"), gone: make(chan struct{}), running: map[int]*guestCommand{}}
	m.qemu = exec.CommandContext(ctx, "qemu-system-x86_64", c.arguments()...)
	m.qemu.ExtraFiles = []*os.File{theirs}
	m.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // the terminal's ^C is for us
	log, err := os.OpenFile(c.console, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	m.qemu.Stderr = log
	ready := &guestCommand{done: make(chan port.Event, 1)}
	m.running[0] = ready
	if err == nil {
		err = errors.Join(m.qemu.Start(), log.Close())
	}
	theirs.Close() // else the death of QEMU would not be seen
	if err != nil {
		return nil, errors.Join(err, m.conn.Close())
	}
	go m.receive()
	select {
	case e := <-ready.done:
		if e.Error == "" {
			return m, nil
		}
		err = errors.New(e.Error)
	case <-m.gone:
		err = c.doubted(m.why)
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-time.After(bootTime):
		err = c.doubted(fmt.Errorf("it was not ready after %v", bootTime))
	}
	m.kill()
	return nil, fmt.Errorf("boot: %w (console: %s)", err, c.console)
}

// doubted adds to the error of a machine that does not boot what else can be tried.
func (c config) doubted(err error) error {
	if c.accel == "kvm" {
		return fmt.Errorf("%w; if KVM does not work here, %s=tcg does without it", err, accelVariable)
	}
	return err
}

// receive hands events to the commands that they are of, until QEMU is dead.
func (m *machine) receive() {
	defer close(m.gone)
	in := json.NewDecoder(bufio.NewReader(m.conn))
	for {
		var e port.Event
		if err := in.Decode(&e); err != nil {
			m.why = fmt.Errorf("the guest is gone: %w", err)
			return
		}
		m.mu.Lock()
		c := m.running[e.ID]
		m.mu.Unlock()
		switch {
		case c == nil:
		case e.Done || e.ID == 0:
			c.done <- e
		case e.Stderr:
			c.stderr.Write(e.Output)
		default:
			c.stdout.Write(e.Output)
		}
	}
}

// kill ends the machine by SIGKILL, and waits until everything that the guest has sent is handed on.
func (m *machine) kill() {
	m.qemu.Process.Kill()
	m.qemu.Wait()
	<-m.gone
	m.conn.Close()
}

// run runs a command in the guest until it ends, and returns its exit code; an error if it could not run or the machine
// died meanwhile.
func (m *machine) run(ctx context.Context, stdout, stderr io.Writer, argv ...string) (code int, err error) {
	c := &guestCommand{stdout: stdout, stderr: stderr, done: make(chan port.Event, 1)}
	m.mu.Lock()
	m.next++
	id := m.next
	m.running[id] = c
	request, err := json.Marshal(port.Request{ID: id, Argv: argv})
	if err == nil {
		_, err = m.conn.Write(append(request, '\n'))
	}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.running, id)
		m.mu.Unlock()
	}()
	if err != nil {
		return 0, err
	}
	select {
	case e := <-c.done:
		if e.Error != "" {
			err = fmt.Errorf("%s: %s", strconv.Quote(argv[0]), e.Error)
		}
		return e.Code, err
	case <-m.gone:
		return 0, m.why
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}
