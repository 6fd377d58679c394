package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// powerCutFlag is --power-cut, with a seed or without.
type powerCutFlag struct{ options *medium.PowerCutOptions } // nil: it was not given

func (f *powerCutFlag) String() string { return "" }
func (f *powerCutFlag) Type() string   { return "seed" }

func (f *powerCutFlag) Set(s string) error {
	seed, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return errors.New("a seed is a number, 0 or more")
	}
	f.options = &medium.PowerCutOptions{Seed: seed}
	return nil
}

func (f *powerCutFlag) add(cmd *cobra.Command) {
	cmd.Flags().Var(f, "power-cut", "emulate a medium that loses its power by command; seed: of what survives unflushed, 0: nothing")
	cmd.Flags().Lookup("power-cut").NoOptDefVal = "0"
}

func (a *app) powercut() *cobra.Command {
	return a.command(verb{
		use: "powercut SOCKET", short: "Cut the power of a server that emulates that", args: [2]int{1, 1},
		long: `SOCKET is that of a server that was started with "pmemfs serve --power-cut". What programs stored to their mappings and did
not flush and fence is lost; with a seed a part of it survives. All programs lose their connections and mappings, as if
the machine had been switched off. Then the server mounts what is left and goes on at the same socket.

With --json: socket, lines (of 64 bytes, that were not durable), lost, evicted (that survived by chance), seed, cut (which
one it was, from 1).
`,
		example: `  pmemfs serve /dev/shm/pool --socket /tmp/pool.sock --power-cut
  pmemfs powercut /tmp/pool.sock`,
		run: func(_ *cobra.Command, args []string) (result, error) {
			r, err := cutPower(args[0])
			if err != nil {
				return nil, err
			}
			return r, nil
		},
	})
}

// powerIsBackWithin is how long a server may take to come back after a cut: long enough for a large log.
const powerIsBackWithin = time.Minute

func cutPower(socket string) (*powerCutResult, error) {
	if !isSocket(socket) {
		return nil, &failure{fmt.Errorf("%s is not the socket of a server", socket), exitUnable, "pmemfs serve POOL --socket SOCKET --power-cut"}
	}
	fsys, err := pmemfs.Dial(socket)
	if err != nil {
		return nil, unable(dialRemedy(socket, err))
	}
	defer fsys.Close()
	r := &powerCutResult{Socket: socket}
	if r.PowerCutReport, err = fsys.CutPower(); errors.Is(err, unix.EOPNOTSUPP) {
		return nil, &failure{err, exitUnable, "start the server for that: pmemfs serve POOL --socket " + socket + " --power-cut"}
	}
	if err != nil {
		return nil, err
	}
	again, err := pmemfs.Dial(socket, pmemfs.Wait(powerIsBackWithin))
	if err != nil {
		return nil, fmt.Errorf("the power was cut, but the server did not come back: %w", err)
	}
	return r, again.Close()
}

// powerCutResult is a cut, and that the server is back.
type powerCutResult struct {
	Socket string `json:"socket"`
	pmemfs.PowerCutReport
}

func (r *powerCutResult) text(w io.Writer) {
	fmt.Fprintf(w, "power cut %d: %s were not durable: %d lost", r.Cut, count(r.Lines, "line"), r.Lost)
	if r.Seed != 0 {
		fmt.Fprintf(w, ", %d survived by chance (seed %d)", r.Evicted, r.Seed)
	}
	fmt.Fprintf(w, "; %s is back\n", r.Socket)
}
