package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/wire"
)

// version is that of the module, as the go command has recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func (a *app) versionVerb() *cobra.Command {
	return a.command(verb{
		use: "version", short: "Print the versions of the program, the format and the protocol", args: [2]int{0, 0},
		long: `With --json: version, format_version (of pools), protocol_version (between client and server), go, platform.
`,
		example: "  pmemfs version",
		run: func(*cobra.Command, []string) (result, error) {
			return &versionResult{version(), layout.Version, wire.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}, nil
		},
	})
}

type versionResult struct {
	Version  string `json:"version"`
	Format   int    `json:"format_version"`
	Protocol int    `json:"protocol_version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (r *versionResult) text(w io.Writer) {
	fmt.Fprintf(w, "pmemfs %s, pool format %d, protocol %d, %s %s\n", r.Version, r.Format, r.Protocol, r.Go, r.Platform)
}
