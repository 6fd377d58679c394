package main

import (
	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/bench"
)

func (a *app) benchWays() *cobra.Command {
	var (
		o     bench.WaysOptions
		bytes = size(1 << 30)
	)
	flags := compareFlags{o: &o.CompareOptions}
	cmd := a.command(verb{
		use: "ways [flags]", short: "Compare the ways to make a store durable with the kernel's", args: [2]int{0, 0},
		long: `Makes updates of 64 bytes at random places of a file durable: in the kernel's file systems by write and fsync, write and
fdatasync, mmap and msync and, where the kernel offers it, a MAP_SYNC mapping and flush; in a pool of this process
(embedded) and through a server in a process of its own (served) by write and fsync and by mappings of every kind. Then it
touches pages for the first time: of holes and of written blocks, at random and in order, through mappings that are new;
and makes 8 bytes durable where everything has been touched. All take their turns, in rounds. "raw" is what the machine
takes at least: a plain mapping of the same medium, with flush and fence.

` + partFields,
		example: `  pmemfs bench ways
  pmemfs bench ways --dir /dev/shm --ext4 /var/tmp --size 256M --short
  pmemfs bench ways --dir /mnt/ext4-dax --dir /mnt/xfs-dax --pool /mnt/ext4-dax --size 64M --json`,
		run: func(cmd *cobra.Command, _ []string) (result, error) {
			if bytes%(2<<20) != 0 {
				return nil, usageError(cmd, "--size must be a multiple of 2M")
			}
			if err := flags.check(a, cmd); err != nil {
				return nil, err
			}
			o.Size = int64(bytes)
			part, err := bench.MeasureWays(a.ctx, o)
			if err != nil {
				return nil, benchRemedy(err, "--pool")
			}
			return &partResult{part}, nil
		},
	})
	flags.add(cmd)
	cmd.Flags().Var(&bytes, "size", "of each file that is stored to, a multiple of 2M")
	cmd.Flags().Lookup("size").DefValue = "1G"
	return cmd
}
