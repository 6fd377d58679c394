package explore

import (
	"context"
	"strings"
	"testing"
)

// caught is the shortest sequence that shows each mutant where operations are
// durable when they return, on memory. Others are about as long.
var caught = map[string]string{
	"record not fenced":                                                     "create /a/z",
	"record stored without flush":                                           "create /a/z",
	"changes applied in place before the record is fenced":                  "create /a/z",
	"changes applied in place before the record is written":                 "create /a/z",
	"record without its last line":                                          "create /a/z",
	"record without its second line":                                        "create /a/z",
	"freed blocks used again before the record that frees them is fenced":   "unlink /a/y",
	"static flag not in the journal":                                        "setstatic /a/x",
	"checksum of records not verified":                                      "create /a/z",
	"places not flushed in replay":                                          "create /a/z",
	"replay not fenced":                                                     "create /a/z",
	"places not fenced when the log is trimmed":                             "remount",
	"first copy of the log header not fenced":                               "create /a/z",
	"log header stored without flush":                                       "create /a/z",
	"log header written before the places are flushed":                      "create /a/z",
	"written data not fenced":                                               "write /a/x 0 100",
	"zeros not fenced":                                                      "write /a/x 20000 10",
	"moved data not fenced":                                                 "relocate /a/x 0 65536",
	"mapped stores not fenced":                                              "store /a/x 64 24",
	"mapped stores not flushed":                                             "store /a/x 64 24",
	"written data stored without flush":                                     "write /a/x 0 100",
	"zeros stored without flush":                                            "write /a/x 20000 10",
	"moved data stored without flush":                                       "relocate /a/x 0 65536",
	"unaligned edges of data stored without flush":                          "write /a/x 0 100",
	"zeros around new data left out":                                        "write /a/x 20000 10",
	"blocks marked written before their zeros are durable":                  "fill /a/y 4096 100",
	"copies left out":                                                       "store /b/s 64 24",
	"copies made after the record":                                          "store /b/s 64 24",
	"data written after the record":                                         "write /a/x 4096 4096",
	"places not flushed when the log is trimmed: block bitmap":              "write /a/x 20000 10, remount",
	"places not flushed when the log is trimmed: block bitmap chunk counts": "write /a/x 20000 10, remount",
	"places not flushed when the log is trimmed: block bitmap group counts": "write /a/x 20000 10, remount",
	"places not flushed when the log is trimmed: node bitmap":               "symlink /a/z some/where, remount",
	"places not flushed when the log is trimmed: inode bitmap":              "create /a/z, remount",
	"places not flushed when the log is trimmed: orphan bitmap":             "remount",
	"places not flushed when the log is trimmed: inode table":               "remount",
	"places not flushed when the log is trimmed: nodes":                     "remount",
}

// TestMutants puts one fault after the other between the file system and the
// medium, under both policies and on both media: each must be found. The one
// that is not listed above is searched for in all sequences.
func TestMutants(t *testing.T) {
	if n := len(Mutants()); n < 20 || n != len(caught) {
		t.Errorf("%d mutants, %d listed", n, len(caught))
	}
	for i, m := range Mutants() {
		if raceDetector && i%8 != 0 {
			continue // slow, and a mutant has no goroutines of its own
		}
		for _, s := range Settings {
			if s.PageCache && strings.Contains(m.Name, "flush") {
				continue // which does nothing there
			}
			t.Run(m.Name+"/"+s.Policy()+" on "+s.Medium(), func(t *testing.T) {
				t.Parallel()
				known := parse(strings.ReplaceAll(caught[m.Name], ",", "\n"))
				v, err := m.Catch(context.Background(), s, known)
				if err != nil {
					t.Fatal(err)
				}
				if v == nil {
					t.Fatal("not found")
				}
				got := v.Case.sequence()
				t.Logf("caught by: %s\n\t%s\n\t%.300s", got, v.Image, v.What)
				switch {
				case s == Setting{} && got != caught[m.Name]:
					t.Errorf("a shorter sequence than the one listed (%s), or another", caught[m.Name])
				case len(v.Case.Ops) > len(known)+1:
					t.Errorf("a longer sequence than the one listed (%s) and a commit", caught[m.Name])
				}
			})
		}
	}
}
