package explore

import (
	"context"
	"testing"
)

// snapshotSequences are what happens to snapshots beside other operations; the power is
// cut in the last one.
var snapshotSequences = []string{
	"snapshot /a s\n write /a/x 0 100\n restore /a s",
	"snapshot /a s\n truncate /a/x 100\n restore /a s",
	"snapshot /a s\n unlink /a/x\n restore /a s",
	"snapshot /a s\n rename /a/y /b/w\n restore /a s",
	"snapshot /a s\n mkdir /a/z\n restore /a s",
	"snapshot /a s\n chmod /a 700\n restore /a s",
	"open /a/x @2\n snapshot /a s\n restore /a s\n write @2 0 100",
	"loose /a/x 128 24\n snapshot /a s\n loose /a/x 128 24",
	"loose /a/x 128 24\n snapshot /a s\n store /a/x 64 24",
	"write /a/x 0 100\n snapshot /a s",
	"setstatic /a/x\n snapshot /a s",
	"snapshot /a s\n snapshot /a s",
	"snapshot / s\n restore / s",
	"rmsnapshot /d s\n snapshot / s\n rename /b/y /a/z\n restore / s",
	"snapshot /b s\n write /b/s 10 100\n rmsnapshot /b s",
	"rmsnapshot /d s\n write /d/f 10 100",
	"restore /d s\n write /d/f 10 100",
	"snapshot /a s\n clone /a/x /a/z\n rmsnapshot /a s",
	"snapshot /b s\n publish @4\n restore /b s",
	"snapshot /b s\n publish @4",
	"snapshot /a s\n remount\n restore /a s",
	"wsnapshot /a w\n write /a/.snapshots/w/x 0 100",
	"wsnapshot /a w\n write /a/.snapshots/w/x 0 100\n restore /a w",
	"wsnapshot /a w\n unlink /a/.snapshots/w/y\n rmsnapshot /a w",
	"snapshot /a s\n link /a/.snapshots/s/x /b/w",
	"snapshot /a s\n rename /a/.snapshots/s/x /b/w",
	"snapshot /a s\n clone /a/.snapshots/s/x /b/w\n rmsnapshot /a s",
}

func TestSnapshotSequences(t *testing.T) {
	effort := Effort{Exhaustive: 64, Lines: 12, Samples: 12, Deep: 48}
	if raceDetector || testing.Short() {
		effort = Effort{Exhaustive: 16, Lines: 4, Samples: 4, Deep: 20}
	}
	for _, s := range Settings {
		for _, text := range snapshotSequences {
			t.Run(s.Policy()+" on "+s.Medium()+"/"+text, func(t *testing.T) {
				_, found, err := RunCase(context.Background(), &Case{Ops: parse(text), Setting: s, Effort: effort, Seed: 1})
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range found {
					t.Errorf("\n%v", v)
				}
			})
		}
	}
}
