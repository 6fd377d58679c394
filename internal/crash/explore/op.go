package explore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Op is one operation: a verb and what it is done to. Its text form is the
// verb and its arguments, in the order that the verb's signature says.
//
// A path that begins with @ is a file held open under that name. Offsets and
// lengths are bytes. A snapshot is named by its directory and its name.
type Op struct {
	Verb     string
	Path, To string
	Off, N   int64
	At       int64  // offset in To
	Arg      string // name of an extended attribute, target of a symbolic link
}

// signatures is the arguments of each verb: p Path, t To, o Off, i At, n N, m N
// in octal, a Arg.
var signatures = map[string]string{
	"create": "p", "mkdir": "p", "fifo": "p", "symlink": "pa", "link": "pt", "unlink": "p", "rmdir": "p",
	"rename": "pt", "exchange": "pt", "noreplace": "pt",
	"write": "pon", "append": "pn", "truncate": "pn",
	"fallocate": "pon", "keepsize": "pon", "punch": "pon", "zero": "pon", "zerokeep": "pon", "relocate": "pon", "fill": "pon",
	"collapse": "pon", "insert": "pon",
	"clone": "pt", "clonerange": "ptoin", // Off of Path goes to At of To
	"private": "pton", "merging": "pton", // a private clone, open as To
	"publish": "p", "publishall": "pt", "discard": "p",
	"setstatic": "p", "clearstatic": "p",
	"snapshot": "pa", "wsnapshot": "pa", "rmsnapshot": "pa", "restore": "pa",
	"chmod": "pm", "chown": "pn", "utimes": "pn", "setxattr": "pan", "rmxattr": "pa",
	"store": "pon", // through a mapping: write fault, stores, flush, fence
	"loose": "pon", // the same without flush and fence
	"clear": "pon", // the same with zeros
	"open":  "pt", "close": "p", "sync": "p",
	"remount": "", "commit": "",
}

// mapped reports whether the operation is stores through a mapping.
func (o Op) mapped() bool { return o.Verb == "store" || o.Verb == "loose" || o.Verb == "clear" }

// String is the text form.
func (o Op) String() string {
	out := []string{o.Verb}
	for _, kind := range signatures[o.Verb] {
		switch kind {
		case 'p':
			out = append(out, o.Path)
		case 't':
			out = append(out, o.To)
		case 'o':
			out = append(out, strconv.FormatInt(o.Off, 10))
		case 'i':
			out = append(out, strconv.FormatInt(o.At, 10))
		case 'n':
			out = append(out, strconv.FormatInt(o.N, 10))
		case 'm':
			out = append(out, strconv.FormatInt(o.N, 8))
		case 'a':
			out = append(out, o.Arg)
		}
	}
	return strings.Join(out, " ")
}

// ParseOp reads the text form.
func ParseOp(text string) (o Op, err error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return o, fmt.Errorf("an operation is missing")
	}
	o.Verb = words[0]
	signature, ok := signatures[o.Verb]
	if !ok {
		return o, fmt.Errorf("there is no operation %q", o.Verb)
	}
	if len(words)-1 != len(signature) {
		return o, fmt.Errorf("%q: %s takes %d arguments", text, o.Verb, len(signature))
	}
	for i, kind := range signature {
		word := words[i+1]
		switch kind {
		case 'p':
			o.Path, err = word, validPath(word)
		case 't':
			o.To, err = word, validPath(word)
		case 'o':
			o.Off, err = number(word, 10)
		case 'i':
			o.At, err = number(word, 10)
		case 'n':
			o.N, err = number(word, 10)
		case 'm':
			o.N, err = number(word, 8)
		case 'a':
			o.Arg = word
		}
		if err != nil {
			return o, fmt.Errorf("%q: %w", text, err)
		}
	}
	return o, nil
}

// number bounds what an operation may ask for, so that a case from somewhere
// else cannot take all memory.
func number(word string, base int) (int64, error) {
	const most = 1 << 24
	n, err := strconv.ParseInt(word, base, 64)
	if err == nil && (n < 0 || n > most) {
		err = fmt.Errorf("%d is not from 0 to %d", n, most)
	}
	return n, err
}

func validPath(path string) error {
	if path == "" || path[0] != '/' && path[0] != '@' {
		return fmt.Errorf("%q is neither a path from / nor a file held open, as @1", path)
	}
	return nil
}

// parse makes operations of lines known to be right.
func parse(lines string) (ops []Op) {
	for line := range strings.Lines(lines) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		o, err := ParseOp(line)
		if err != nil {
			panic(err)
		}
		ops = append(ops, o)
	}
	return ops
}

// baseTree makes what every case begins with, and then the pool is closed:
//
//	/a/x    5000 bytes, an extended attribute    /b/x  the same file
//	/a/y    blocks written, hole, unwritten, written in part
//	/b/y    an empty directory
//	/b/z    a symbolic link
//	/b/s    9000 bytes, in blocks that /b/t has, too
//	/b/u    5000 bytes, in blocks marked shared, but the other file is gone
//	/b/p    a block, and holes up to 12288 bytes
//	/b/q    100 bytes
//	/d/f    150 bytes, also by the name /d/h; in the snapshot s of /d 100 bytes, and /d/g
//	/o      6000 bytes
var baseTree = parse(`
	mkdir /a
	mkdir /b
	create /a/x
	write /a/x 0 5000
	setxattr /a/x user.k 10
	create /a/y
	write /a/y 0 4096
	write /a/y 12288 100
	keepsize /a/y 8192 4096
	link /a/x /b/x
	mkdir /b/y
	symlink /b/z ../a/x
	create /b/s
	write /b/s 0 9000
	clone /b/s /b/t
	create /b/u
	write /b/u 0 5000
	clone /b/u /b/v
	unlink /b/v
	create /b/p
	write /b/p 0 4096
	truncate /b/p 12288
	create /b/q
	write /b/q 0 100
	mkdir /d
	create /d/f
	write /d/f 0 100
	link /d/f /d/g
	snapshot /d s
	write /d/f 50 100
	rename /d/g /d/h
	create /o
	write /o 0 6000
`)

// opening is done first in every case: /o becomes a file without a name, open as @1.
var opening = parse(`
	open /o @1
	unlink /o
	commit
`)

// privates is done next in the cases that use them; in others its records would only
// be more that may be missing. @4 and @5 are private clones of /b/p, of which the
// latter merges, @6 is one of /b/q. Something was stored to each, durably.
var privates = parse(`
	private /b/p @4 0 12288
	merging /b/p @5 0 12288
	private /b/q @6 0 100
	store @4 100 24
	store @4 4200 16
	store @5 8200 16
	store @6 8 16
	commit
`)

// before is what is done before a case's operations.
func before(ops []Op) []Op {
	for _, o := range ops {
		for _, path := range []string{o.Path, o.To} {
			if slices.Contains([]string{"/b/p", "/b/q", "@4", "@5", "@6"}, path) {
				return slices.Concat(opening, privates)
			}
		}
	}
	return opening
}

// Alphabet is every operation of the systematic sequences.
var Alphabet = parse(`
	create /a/z
	mkdir /a/z
	fifo /a/z
	symlink /a/z some/where
	link /a/x /a/z
	link /a/y /b/w
	unlink /a/x
	unlink /a/y
	unlink /b/x
	unlink /b/z
	unlink /b/t
	rmdir /b/y
	rename /a/x /a/z
	rename /a/x /b/z
	rename /a/y /a/x
	rename /a/x /a/y
	rename /a/y /b/w
	rename /b/y /a/z
	rename /a /b/y
	exchange /a/x /a/y
	exchange /a/y /b/y
	noreplace /a/x /a/z
	noreplace /a/x /a/y
	write /a/x 0 100
	write /a/x 4090 12
	write /a/x 4096 4096
	write /a/x 5001 33
	write /a/x 20000 10
	append /a/x 4096
	append /a/y 60
	write /a/y 4096 100
	write /a/y 8292 200
	write /a/y 100 12100
	write /a/z 0 100
	write /b/s 10 100
	write /b/s 4090 4810
	write /b/t 10000 10
	write /b/u 10 5000
	write @1 10 100
	append @1 4096
	truncate /a/x 0
	truncate /a/x 100
	truncate /a/x 4096
	truncate /a/x 9000
	truncate /a/y 4096
	truncate /a/y 8292
	truncate /a/y 100000
	truncate /b/s 100
	truncate /b/s 9100
	truncate /b/u 4200
	fallocate /a/x 0 16384
	keepsize /a/x 8192 8192
	keepsize /a/y 0 16384
	punch /a/y 0 4096
	punch /a/x 100 4500
	punch /a/y 0 65536
	zero /a/x 0 8192
	zero /a/y 100 13000
	zerokeep /a/y 0 20480
	punch /b/s 100 8100
	punch /b/u 10 20
	zero /b/s 100 9000
	clone /a/x /a/z
	clone /a/y /b/w
	clone /b/s /a/z
	clone @1 /a/z
	clonerange /a/x /a/y 0 8192 0
	clonerange /b/s /a/y 4096 0 4096
	clonerange /a/y /b/s 8192 12288 4096
	clonerange /b/u /b/u 0 8192 4096
	relocate /a/x 0 65536
	relocate /a/y 0 65536
	relocate /b/s 0 65536
	collapse /a/y 4096 4096
	collapse /b/s 0 4096
	insert /a/y 4096 4096
	insert /b/s 0 8192
	relocate /b/p 0 65536
	publish @4
	publish @5
	publishall @4 @6
	discard @4
	discard @5
	private /a/x @7 0 5000
	loose @4 8200 16
	write @5 100 4096
	write /b/p 10 100
	truncate /b/p 4096
	snapshot /a s
	snapshot /b s
	snapshot /d t
	rmsnapshot /d s
	restore /d s
	restore /a s
	write /d/f 10 100
	wsnapshot /d w
	write /d/.snapshots/w/f 10 100
	write /d/.snapshots/s/f 10 100
	truncate /d/.snapshots/s/f 0
	create /d/.snapshots/s/z
	unlink /d/.snapshots/s/g
	chmod /d/.snapshots/s/f 600
	clone /d/.snapshots/s/f /a/z
	fill /a/x 0 5000
	fill /a/y 4096 100
	fill /a/y 0 12388
	fill /b/s 0 5000
	fill /b/u 0 5000
	setstatic /a/x
	setstatic /a/y
	setstatic /b/u
	setstatic @1
	clearstatic /a/x
	chmod /a/x 600
	chmod /a 700
	chown /a/y 7
	utimes /a/x 5
	setxattr /a/x user.k 5000
	setxattr /b/y user.n 20
	rmxattr /a/x user.k
	store /a/x 64 24
	store /a/y 4100 40
	store /a/y 8256 64
	store /b/s 64 24
	store /b/u 64 24
	loose /a/x 128 24
	loose /a/y 8200 16
	loose /b/s 128 24
	clear /a/x 4960 40
	open /a/x @2
	close @1
	close @4
	sync @2
	remount
`)

// staged is what joins the operations where they are staged: that by which
// they become durable.
var staged = parse(`
	commit
	sync /a/x
	sync /a/z
	sync /a
	sync @1
`)

// alphabet is the operations of sequences of a length.
func (s Setting) alphabet(depth int) []Op {
	out := Alphabet
	if depth > 2 {
		out = Small
	}
	if s.Interval {
		out = slices.Concat(out, staged)
	}
	return out
}

// Small is the operations of longer systematic sequences: those by which
// blocks, nodes and inodes come, go and are used again.
var Small = parse(`
	create /a/z
	unlink /a/y
	rename /a/y /a/x
	exchange /a/x /a/y
	write /a/z 0 100
	write /a/x 4096 4096
	write /a/x 20000 10
	truncate /a/x 4965
	truncate /a/x 9000
	zero /a/y 100 13000
	relocate /a/x 0 65536
	clone /a/y /a/z
	clonerange /a/x /a/y 0 8192 0
	unlink /b/t
	write /b/s 10 100
	publish @4
	publish @5
	loose @4 8200 16
	fill /a/y 0 12388
	setxattr /a/x user.k 5000
	store /a/y 4100 40
	clear /a/x 4960 40
	close @1
	remount
`)
