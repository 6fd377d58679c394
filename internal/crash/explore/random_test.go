package explore

import (
	"context"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var (
	files    = []string{"/a/x", "/a/y", "/a/z", "/b/x", "/b/s", "/b/t", "/b/u", "@1", "@2", "@3"}
	names    = []string{"/a/x", "/a/y", "/a/z", "/b/x", "/b/y", "/b/z", "/b/w", "/b/s", "/b/t", "/a", "/b"}
	dataVerb = []string{
		"write", "write", "append", "truncate", "truncate", "fallocate", "keepsize", "punch", "zero", "zerokeep",
		"relocate", "fill", "store", "loose", "clear", "collapse", "insert",
	}
	nameVerb = []string{"create", "mkdir", "link", "unlink", "unlink", "rmdir", "rename", "exchange"}
	ofP      = []string{
		"write /b/p 4090 10", "store /b/p 8192 64", "truncate /b/p 5000", "fill /b/p 0 4096", "relocate /b/p 0 12288", "unlink /b/p",
		"setstatic /b/q",
	}
	ofClones = []string{
		"publish @4", "publish @5", "publishall @4 @6", "publishall @6 @5", "discard @4", "discard @5", "store @4 0 24",
		"loose @4 4100 16", "loose @4 8200 16", "loose @5 8300 16", "store @5 4200 64", "write @5 4000 200", "loose @6 16 40",
		"clone @4 /a/z", "close @4", "private /a/z @8 0 4096",
	}
	rest = []string{"setstatic", "clearstatic", "setxattr", "chmod", "sync", "sync", "commit", "close", "open", "remount"}
)

// drawOffset is near the edges of words, lines, blocks and of the files' ends,
// or anywhere.
func drawOffset(t *rapid.T) int64 {
	if rapid.Bool().Draw(t, "anywhere") {
		return rapid.Int64Range(0, 40000).Draw(t, "offset")
	}
	edge := rapid.SampledFrom([]int64{0, 8, 64, 4096, 5000, 8192, 12288, 12388, 16384, 32768}).Draw(t, "edge")
	return max(0, edge+rapid.Int64Range(-9, 9).Draw(t, "beside"))
}

var drawOp = rapid.Custom(func(t *rapid.T) Op {
	kind := rapid.IntRange(0, 13).Draw(t, "kind")
	length := rapid.OneOf(rapid.Int64Range(1, 70), rapid.Int64Range(1, 9000))
	switch {
	case kind < 6:
		o := Op{Verb: rapid.SampledFrom(dataVerb).Draw(t, "verb"), Path: rapid.SampledFrom(files).Draw(t, "file")}
		o.Off, o.N = drawOffset(t), length.Draw(t, "length")
		switch o.Verb {
		case "append":
			o.Off = 0
		case "truncate":
			o.Off, o.N = 0, o.Off
		case "collapse", "insert":
			o.Off, o.N = o.Off/blockSize*blockSize, (o.N/blockSize%3+1)*blockSize
		case "store", "loose", "clear": // whole words, in one block
			o.Off, o.N = o.Off/wordSize*wordSize, min(o.N, 64)
			o.N = min(o.N, blockSize-o.Off%blockSize)
		}
		return o
	case kind < 9:
		return Op{
			Verb: rapid.SampledFrom(nameVerb).Draw(t, "verb"),
			Path: rapid.SampledFrom(names).Draw(t, "path"), To: rapid.SampledFrom(names).Draw(t, "to"),
		}
	case kind < 10:
		return Op{
			Verb: "clone", Path: rapid.SampledFrom(files).Draw(t, "file"), To: rapid.SampledFrom(names).Draw(t, "to"),
		}
	case kind < 11:
		block := func(label string) int64 { return rapid.Int64Range(0, 5).Draw(t, label) * blockSize }
		return Op{
			Verb: "clonerange", Path: rapid.SampledFrom(files).Draw(t, "file"), To: rapid.SampledFrom(files).Draw(t, "to"),
			Off: block("offset"), At: block("offset there"), N: block("length"),
		}
	case kind < 13:
		return parse(rapid.SampledFrom(append(ofP, ofClones...)).Draw(t, "private"))[0]
	default:
		o := Op{Verb: rapid.SampledFrom(rest).Draw(t, "verb"), Path: rapid.SampledFrom(files).Draw(t, "path")}
		o.To = rapid.SampledFrom([]string{"@1", "@2", "@3"}).Draw(t, "handle")
		o.Arg, o.N = "user.r", rapid.Int64Range(0, 300).Draw(t, "n")
		return o
	}
})

// TestRandom runs random sequences with three files open, two of them the
// same file, and shrinks one that fails.
func TestRandom(t *testing.T) {
	w, err := newWorker(context.Background(), &verdicts{})
	if err != nil {
		t.Fatal(err)
	}
	effort := Effort{Exhaustive: 64, Lines: 12, Samples: 12, Deep: 48}
	open := parse("open /a/x @2\nopen /b/x @3")
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		if n++; raceDetector && n > 10 {
			return
		}
		ops := succeeding(w.base.model, append(open[:2:2], rapid.SliceOfN(drawOp, 1, 12).Draw(t, "operations")...))
		c := &Case{Ops: ops, Setting: rapid.SampledFrom(Settings).Draw(t, "setting"), Effort: effort, Seed: 1}
		found, skipped, err := w.run(c)
		if err != nil || skipped {
			t.Fatal(err, skipped)
		}
		if len(found) > 0 {
			t.Fatalf("\n%v", found[0])
		}
	})
	t.Logf("%+v", w.report)
}

// succeeding leaves out the operations that fail.
func succeeding(m *Model, ops []Op) (out []Op) {
	m = m.clone()
	first := slices.Concat(opening, privates)
	for i, o := range slices.Concat(first, ops) {
		if m.Apply(o, i, firstTime) == nil && i >= len(first) {
			out = append(out, o)
		}
	}
	return out
}
