// Command pmemfs makes, serves, inspects and checks pools, copies files in and out of them, and has a demonstration of
// what they are for. "pmemfs help" lists the verbs; each has --help with examples.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // the operation failed; check: the pool is damaged; demo: something was lost
	exitUnable = 2 // it could not be tried: wrong usage, or the pool or server cannot be used
)

const exitCodes = `
Exit codes:
  0  done
  1  the operation failed (check: the pool is damaged)
  2  it could not be tried: wrong usage, or the pool or server cannot be used
`

// app is one run of the command.
type app struct {
	ctx     context.Context // done when the user wants it to end
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
	json    bool // one object on stdout, everything else on stderr
	printed bool // the object is out
	code    int  // what a verb that has reported its error ends with
}

func main() {
	signals := []os.Signal{os.Interrupt, unix.SIGTERM}
	if !signal.Ignored(unix.SIGHUP) { // nohup
		signals = append(signals, unix.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	context.AfterFunc(ctx, stop) // so that a second signal ends what does not react to the first
	a := &app{ctx: ctx, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(a.run(arguments(os.Args)))
}

// run executes the command line and returns the exit code.
func (a *app) run(args []string) (code int) {
	// A pool's memory is a file's, which somebody can cut off or whose disk can be full: the access then panics, and
	// what serves requests turns that into EIO.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			code = a.fail(nil, panicError(v))
		}
	}()
	a.json = wantsJSON(args)
	root := a.root()
	root.SetArgs(args)
	if err := root.ExecuteContext(a.ctx); err != nil {
		return a.fail(nil, err)
	}
	return a.code
}

// wantsJSON looks for --json by itself, because errors of parsing must be told in the right form too.
func wantsJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json") || slices.Contains(args, "--json=true")
}

const rootLong = `pmemfs is a persistent-memory file system in user space.

A pool is a directory with two files (on tmpfs, a DAX mount or a disk) or a device such as /dev/dax0.0. POOL is
either the path of a pool, which is then used in this process, or the socket of a server that owns it ("pmemfs serve");
every verb takes both unless it says otherwise. Names in a pool may begin with a slash or not: /a/b and a/b are the same.

With --json every verb prints exactly one JSON object to standard output; everything else goes to standard error.
The names of its fields, listed in each verb's help, are stable. When something goes wrong the object has the
field "error", an object with "message" and, where they apply, "path", "offset" (bytes), "errno" and "try" (a remedy).
`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "pmemfs", Short: "A persistent-memory file system in user space", Long: rootLong + exitCodes,
		Example: `  pmemfs mkfs /dev/shm/pool --size 1G
  pmemfs put /dev/shm/pool ./data /data
  pmemfs serve /dev/shm/pool --socket /tmp/pool.sock
  pmemfs ls -l /tmp/pool.sock /data
  pmemfs check /dev/shm/pool`,
		SilenceErrors: true, SilenceUsage: true, Version: version(),
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError(cmd, "there is no verb %q", args[0])
			}
			return usageError(cmd, "a verb is missing")
		},
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetVersionTemplate("pmemfs {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().Bool("json", false, "print one JSON object to standard output")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, "%v", err) })
	root.AddCommand(
		a.mkfs(), a.serve(), a.mount(), a.powercut(), a.info(), a.ls(), a.stat(), a.mkdir(), a.put(), a.get(), a.cat(), a.cp(), a.mv(), a.ln(), a.rm(),
		a.extents(), a.fill(), a.defrag(), a.freeze(), a.thaw(), a.check(), a.crashtest(), a.demo(), a.versionVerb(), a.demoWriter(),
		a.snapshot(), a.bench(), a.benchBusy(), a.benchLoopback(), a.benchLoad(),
	)
	return root
}

// verb is what a file of this command describes.
type verb struct {
	use, short string
	long       string // without exit codes
	example    string
	args       [2]int // how many arguments at least and at most; -1: any number
	// run does the work. The result, if there is one, is printed even when there is an error as well.
	run func(cmd *cobra.Command, args []string) (result, error)
}

// result is what a verb has to say. Its JSON form is an object.
type result interface {
	text(w io.Writer) // for people
}

func (a *app) command(v verb) *cobra.Command {
	return &cobra.Command{
		Use: v.use, Short: v.short, Long: v.short + ".\n\n" + v.long + exitCodes, Example: v.example,
		DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < v.args[0] || (v.args[1] >= 0 && len(args) > v.args[1]) {
				return usageError(cmd, "%s is not what it takes: %s", count(int64(len(args)), "argument"), cmd.UseLine())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := v.run(cmd, args)
			if err != nil {
				a.code = a.fail(r, err)
				return nil
			}
			return a.print(r)
		},
	}
}

// terminal says whether progress may be shown.
func (a *app) terminal() bool {
	f, ok := a.stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
