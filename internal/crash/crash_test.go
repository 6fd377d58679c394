package crash

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pmemfs/pmemfs/internal/medium"
)

// word is an aligned 8-byte store of one letter.
func word(letter byte) []byte { return []byte(strings.Repeat(string(letter), 8)) }

// TestWhatMayBeLeft runs programs of a few stores and lists all images of
// their last epoch, as the first letters of words 0, 1 and 8 (the next line)
// of area 0 and of word 0 of area 1.
func TestWhatMayBeLeft(t *testing.T) {
	for _, tc := range []struct {
		name string
		run  func(a, b medium.Area)
		want string
	}{
		{"nothing", func(a, b medium.Area) {}, "...."},
		{"written", func(a, b medium.Area) { a.Write(0, word('a')) }, ".... a..."},
		{"written and flushed", func(a, b medium.Area) { a.Write(0, word('a')); a.Flush(0, 8) }, ".... a..."},
		{"persisted", func(a, b medium.Area) { a.Write(0, word('a')); a.Flush(0, 8); a.Fence() }, "a..."},
		{"fenced but never flushed", func(a, b medium.Area) { a.Write(0, word('a')); a.Fence(); a.Fence() }, ".... a..."},
		{"flushed before the store", func(a, b medium.Area) { a.Flush(0, 8); a.Write(0, word('a')); a.Fence() }, ".... a..."},
		{"in order in a line", func(a, b medium.Area) { a.Write(0, word('a')); a.Write(8, word('b')) }, ".... a... ab.."},
		{"over each other", func(a, b medium.Area) { a.Write(0, word('a')); a.Write(0, word('b')) }, ".... a... b..."},
		{"words of one store", func(a, b medium.Area) { a.Write(0, append(word('a'), word('b')...)) }, ".... .b.. a... ab.."},
		{"independent lines", func(a, b medium.Area) { a.Write(0, word('a')); a.Write(64, word('b')) }, ".... ..b. a... a.b."},
		{"first flushed, second not", func(a, b medium.Area) {
			a.Write(0, word('a'))
			a.Flush(0, 1)
			a.Write(8, word('b'))
			a.Fence()
		}, "a... ab.."},
		{"flush covers its lines only", func(a, b medium.Area) {
			a.Write(0, word('a'))
			a.Write(64, word('b'))
			a.Flush(64, 1)
			a.Fence()
		}, "..b. a.b."},
		{"streamed", func(a, b medium.Area) { a.Stream(0, word('a')); a.Stream(8, word('b')) }, ".... .b.. a... ab.."},
		{"streamed and fenced", func(a, b medium.Area) { a.Stream(0, word('a')); a.Fence() }, "a..."},
		{"fenced by the other area", func(a, b medium.Area) { a.Stream(0, word('a')); b.Fence() }, "a..."},
		{"both areas", func(a, b medium.Area) { a.Stream(0, word('a')); b.Stream(0, word('b')) }, ".... ...b a... a..b"},
		{"zeroed", func(a, b medium.Area) { a.Zero(0, 16) }, ".... .0.. 0... 00.."},
		{"copied", func(a, b medium.Area) { a.Stream(0, word('a')); a.Fence(); a.Copy(64, 0, 8) }, "a... a.a."},
		{"streamed over a cached store", func(a, b medium.Area) {
			a.Write(0, word('a'))
			a.Stream(0, word('b'))
			a.Fence()
		}, "b..."},
		{"cached over a streamed store", func(a, b medium.Area) {
			a.Stream(0, word('a'))
			a.Write(0, word('b'))
			a.Fence()
		}, "a... b..."},
		{"part of a word", func(a, b medium.Area) { a.Stream(0, []byte("ab")); a.Fence(); a.Stream(2, []byte("cd")) }, "a..."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := medium.Memory(128), medium.Memory(64)
			a.Write(0, []byte(strings.Repeat(".", 128)))
			b.Write(0, []byte(strings.Repeat(".", 64)))
			r := Record(a, b)
			tc.run(r.Area(0), r.Area(1))
			var got []string
			_, err := r.Images(Options{From: r.Now()}, func(m *Image) error {
				if !m.Last {
					t.Errorf("an image of %v", m)
				}
				x, y := m.Areas[0].Bytes(), m.Areas[1].Bytes()
				for _, w := range [][]byte{x[:8], x[8:16], x[64:72], y[:8]} {
					if w[0] != w[7] && tc.name != "part of a word" {
						t.Errorf("torn word %q", w)
					}
				}
				got = append(got, strings.ReplaceAll(string([]byte{x[0], x[8], x[64], y[0]}), "\x00", "0"))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(got)
			got = slices.Compact(got)
			if diff := cmp.Diff(tc.want, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestLargeEpoch has more images than can be made: some must be there.
func TestLargeEpoch(t *testing.T) {
	const lines = 40
	image := medium.Memory(lines * lineSize)
	r := Record(image)
	a := r.Area(0)
	for i := range int64(lines) {
		a.Write(i*lineSize, word('x'))
	}
	arrived := map[string]bool{}
	stats, err := r.Images(Options{}, func(m *Image) error {
		var s strings.Builder
		for i := range lines {
			s.WriteByte(m.Areas[0].Bytes()[i*lineSize])
		}
		if arrived[s.String()] {
			t.Errorf("twice: %v", m)
		}
		arrived[s.String()] = true
		return nil
	})
	if err != nil || stats.Epochs != 1 || stats.Exhaustive != 0 || stats.Images != len(arrived) || len(arrived) < 2*lines {
		t.Errorf("%+v, %v", stats, err)
	}
	without := func(b, other string, i int) string {
		return strings.Repeat(b, i) + other + strings.Repeat(b, lines-1-i)
	}
	want := []string{strings.Repeat("x", lines), strings.Repeat("\x00", lines)}
	for i := range lines {
		want = append(want, without("x", "\x00", i), without("\x00", "x", i))
	}
	for _, w := range want {
		if !arrived[w] {
			t.Errorf("no image %q", w)
		}
	}
}

// TestMarks looks at a part of a record, and at images from which a program
// goes on.
func TestMarks(t *testing.T) {
	r := Record(medium.Memory(64))
	a := r.Area(0)
	a.Stream(0, word('a'))
	a.Fence()
	from := r.Now()
	a.Stream(0, word('b'))
	a.Fence()
	to := r.Now()
	a.Stream(0, word('c'))
	a.Fence()
	var got []string
	stop := errors.New("stop")
	visit := func(m *Image) error {
		got = append(got, fmt.Sprintf("%d%v%c", m.Epoch, m.Last, m.Areas[0].Bytes()[0]))
		c := m.Clone()[0]
		c.Write(0, word('z'))
		if m.Areas[0].Bytes()[0] == 'z' {
			t.Error("a clone shares the image's bytes")
		}
		return nil
	}
	if _, err := r.Images(Options{From: from, To: to}, visit); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"0falsea", "0falseb", "1trueb"}, got); diff != "" {
		t.Error(diff)
	}
	if n := r.Fences(from); n != 2 {
		t.Errorf("%d fences", n)
	}
	if _, err := r.Images(Options{}, func(*Image) error { return stop }); err != stop {
		t.Error(err)
	}
}
