package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/bench"
)

func (a *app) benchProfile() *cobra.Command {
	var o bench.ProfileOptions
	var short bool
	cmd := a.command(verb{
		use: "profile [flags]", short: "Take a page fault and a durable create to pieces", args: [2]int{0, 0},
		long: `Says where the time of a page fault goes that allocates a block, and where that of a create that is durable when it returns,
in the program's own process and through a server in a process of its own. Each part is done by itself, by the code that
does it in the product, where nothing is measured; "of that" are parts of the part above them, and "the rest" is what the
parts leave of the whole. All take their turns, in rounds.

` + partFields,
		example: `  pmemfs bench profile
  pmemfs bench profile --short --json`,
		run: func(cmd *cobra.Command, _ []string) (result, error) {
			flags := compareFlags{o: &o.CompareOptions, short: short}
			if err := flags.check(a, cmd); err != nil {
				return nil, err
			}
			part, err := bench.MeasureProfile(a.ctx, o)
			if err != nil {
				return nil, benchRemedy(err, "--dir")
			}
			return &partResult{part}, nil
		},
	})
	f := cmd.Flags()
	f.StringVar(&o.Dir, "pool", "/dev/shm", "make the pools below this `directory`")
	f.IntVar(&o.Rounds, "rounds", 25, "in how many (`N`) rounds all take their turns")
	f.DurationVar(&o.Time, "time", 20*time.Millisecond, "that each part may take in a round: so many times it is done")
	f.BoolVar(&short, "short", false, "a fifth of the time in a fifth of the rounds")
	o.Size = 32 << 20
	return cmd
}
