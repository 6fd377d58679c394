package main

import (
	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs/cmd/pmemfs/internal/bench"
)

func (a *app) benchMetadata() *cobra.Command {
	var o bench.MetadataOptions
	flags := compareFlags{o: &o.CompareOptions}
	cmd := a.command(verb{
		use: "metadata [flags]", short: "Compare durable operations on names and blocks with the kernel's file systems", args: [2]int{0, 0},
		long: `Creates files, looks at them, renames and removes them, makes directories, appends and overwrites blocks of 4 KiB: in a
pool of this process (embedded), through a server in a process of its own (served), and in directories of the kernel's file
systems, by package os of Go, there with fsync of file and directory after each operation, and without, when nothing is
durable. In tmpfs nothing ever is; "system calls" is tmpfs without package os. All take their turns, in rounds. "raw" is
what the machine takes at least: the smallest record of the change streamed to the medium, and a fence.

` + partFields,
		example: `  pmemfs bench metadata
  pmemfs bench metadata --dir /dev/shm --ext4 /var/tmp --short
  pmemfs bench metadata --dir /mnt/ext4-dax --dir /mnt/xfs-dax --pool /mnt/ext4-dax --json`,
		run: func(cmd *cobra.Command, _ []string) (result, error) {
			if o.Files < 1 {
				return nil, usageError(cmd, "--files must be 1 or more")
			}
			if err := flags.check(a, cmd); err != nil {
				return nil, err
			}
			part, err := bench.MeasureMetadata(a.ctx, o)
			if err != nil {
				return nil, benchRemedy(err, "--pool")
			}
			return &partResult{part}, nil
		},
	})
	flags.add(cmd)
	cmd.Flags().IntVar(&o.Files, "files", 5000, "how many (`N`) files a round uses at most")
	return cmd
}
