package explore

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// sequence is the operations in one line.
func (c *Case) sequence() string {
	var ops []string
	for _, o := range c.Ops {
		ops = append(ops, o.String())
	}
	return strings.Join(ops, ", ")
}

// TestText: what is written is read again.
func TestText(t *testing.T) {
	for _, o := range slices.Concat(Alphabet, staged) {
		if got, err := ParseOp(o.String()); err != nil || got != o {
			t.Errorf("%q is read as %+v, %v", o, got, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		c := &Case{Seed: rapid.Uint64().Draw(t, "seed"), Effort: Short, Mutant: rapid.SampledFrom([]string{"", "record not fenced"}).Draw(t, "mutant")}
		c.Setting = rapid.SampledFrom(Settings).Draw(t, "setting")
		for range rapid.IntRange(1, 4).Draw(t, "n") {
			c.Ops = append(c.Ops, rapid.SampledFrom(Alphabet).Draw(t, "op"))
		}
		v := &Violation{Case: c, Image: "an image", What: "two\nlines"}
		got, err := ReadCase(strings.NewReader(v.String()))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, got); diff != "" {
			t.Error(diff)
		}
	})
}

// FuzzReadCase: whatever is read is bounded, and is read again as written.
func FuzzReadCase(f *testing.F) {
	f.Add((&Case{Ops: Alphabet, Effort: Thorough}).String())
	f.Add(caseHeader + "\nop write /a/x 99999999999 1\n")
	f.Add(caseHeader + "\nimages 1 2 3\n")
	f.Add(caseHeader + "\nsetting interval page-cache\nop commit\n")
	f.Add(caseHeader + "\nmutant none\nop remount")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ReadCase(strings.NewReader(text))
		if err != nil {
			return
		}
		again, err := ReadCase(strings.NewReader(c.String()))
		if err != nil || !cmp.Equal(c, again) {
			t.Errorf("%q is read again as %v, %v", c, again, err)
		}
	})
}

// TestReplay: the text of a violation shows the violation again.
func TestReplay(t *testing.T) {
	m := findMutant("written data not fenced")
	v, err := m.Catch(context.Background(), Setting{}, parse("write /a/x 0 100"))
	if err != nil || v == nil {
		t.Fatal(v, err)
	}
	c, err := ReadCase(strings.NewReader(v.String()))
	if err != nil {
		t.Fatal(err)
	}
	_, found, err := RunCase(context.Background(), c)
	if err != nil || len(found) == 0 || found[0].String() != v.String() {
		t.Errorf("%v, %v; want\n%v", found, err, v)
	}
	c.Mutant = ""
	if _, found, err = RunCase(context.Background(), c); err != nil || len(found) > 0 {
		t.Errorf("without the mutant: %v, %v", found, err)
	}
}

// TestRegressions runs the cases that showed a fault once.
func TestRegressions(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.case")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range cases {
		t.Run(filepath.Base(name), func(t *testing.T) {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			c, err := ReadCase(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			_, found, err := RunCase(context.Background(), c)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range found {
				t.Errorf("\n%v", v)
			}
		})
	}
}
