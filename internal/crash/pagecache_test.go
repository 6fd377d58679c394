package crash

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pmemfs/pmemfs/internal/medium"
)

// TestPageCache runs programs of a few stores and lists all images of their
// last epoch, as the first letters of words 0 and 1, of the next sector, of the
// next page and of the other area.
func TestPageCache(t *testing.T) {
	for _, tc := range []struct {
		name string
		run  func(a, b medium.Area)
		want string
	}{
		{"nothing", func(a, b medium.Area) {}, "....."},
		{"written", func(a, b medium.Area) { a.Write(0, word('a')) }, "..... a...."},
		{"streamed", func(a, b medium.Area) { a.Stream(0, word('a')) }, "..... a...."},
		{"flushed", func(a, b medium.Area) { a.Write(0, word('a')); a.Flush(0, 8) }, "..... a...."},
		{"fenced, never flushed", func(a, b medium.Area) { a.Write(0, word('a')); a.Fence() }, "a...."},
		{"fenced by the other area", func(a, b medium.Area) { a.Write(0, word('a')); b.Fence() }, "..... a...."},
		{"each by its own fence", func(a, b medium.Area) {
			a.Write(0, word('a'))
			b.Write(0, word('b'))
			b.Fence()
		}, "....b a...b"},
		{"in order in a sector", func(a, b medium.Area) { a.Stream(0, word('a')); a.Stream(8, word('b')) }, "..... a.... ab..."},
		{"what was there in between", func(a, b medium.Area) {
			a.Write(0, word('a'))
			a.Write(8, word('b'))
			a.Write(0, word('c'))
		}, "..... a.... ab... cb..."},
		{"words of one store", func(a, b medium.Area) { a.Write(0, append(word('a'), word('b')...)) }, "..... .b... a.... ab..."},
		{"independent sectors", func(a, b medium.Area) { a.Write(0, word('a')); a.Write(512, word('b')) }, "..... ..b.. a.... a.b.."},
		{"one store over two sectors", func(a, b medium.Area) {
			a.Write(504, append(word('a'), word('b')...))
			a.Write(0, word('c'))
		}, "..... ..b.. c.... c.b.."},
		{"independent pages", func(a, b medium.Area) { a.Write(4096, word('a')); a.Write(0, word('b')) }, "..... ...a. b.... b..a."},
		{"stored after the fence", func(a, b medium.Area) {
			a.Write(0, word('a'))
			a.Fence()
			a.Write(0, word('b'))
			a.Write(8, word('c'))
		}, "a.... b.... bc..."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := medium.Memory(8192), medium.Memory(512)
			a.Write(0, bytes.Repeat([]byte("."), 8192))
			b.Write(0, bytes.Repeat([]byte("."), 512))
			r := Record(a, b)
			tc.run(r.Area(0), r.Area(1))
			var got []string
			stats, err := r.Images(Options{Model: PageCache, From: r.Now()}, func(m *Image) error {
				x, y := m.Areas[0].Bytes(), m.Areas[1].Bytes()
				got = append(got, string([]byte{x[0], x[8], x[512], x[4096], y[0]}))
				return nil
			})
			if err != nil || stats.Exhaustive != 1 {
				t.Fatalf("%+v, %v", stats, err)
			}
			slices.Sort(got)
			got = slices.Compact(got)
			if diff := cmp.Diff(tc.want, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestTornPage has more images of a page than can be made: in the samples its
// sectors are old and new, and a sector of one large store is torn by words,
// never within one.
func TestTornPage(t *testing.T) {
	r := Record(medium.Memory(4096))
	a := r.Area(0)
	a.Write(0, bytes.Repeat([]byte("x"), 4096))
	torn, mixed := 0, 0
	stats, err := r.Images(Options{Model: PageCache}, func(m *Image) error {
		b := m.Areas[0].Bytes()
		sectors := map[int]bool{}
		for s := 0; s < 4096; s += 512 {
			n := bytes.Count(b[s:s+512], []byte("x"))
			sectors[n] = true
			if n%8 != 0 {
				t.Errorf("%v: sector %d has %d bytes of the store", m, s/512, n)
			}
			for w := s; w < s+512; w += 8 {
				if b[w] != b[w+7] {
					t.Errorf("%v: torn word at %d", m, w)
				}
			}
			if n != 0 && n != 512 {
				torn++
			}
		}
		if sectors[0] && sectors[512] {
			mixed++
		}
		return nil
	})
	if err != nil || stats.Exhaustive != 0 || stats.Images < 30 || torn == 0 || mixed == 0 {
		t.Errorf("%+v, %v; %d torn sectors, %d images with old and new ones", stats, err, torn, mixed)
	}
}
