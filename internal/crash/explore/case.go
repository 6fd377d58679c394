package explore

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/pmemfs/pmemfs/internal/crash"
)

// Case is a sequence of operations with all that decides which images of its
// last operation are looked at. Its text form is what --replay reads.
type Case struct {
	Ops     []Op
	Setting Setting
	Effort  Effort
	Seed    uint64 // of the samples
	Mutant  string // a fault put in on purpose; empty: none
}

// Effort says how many images are made, as crash.Options does, and which of
// them are used further.
type Effort struct {
	Exhaustive, Lines, Samples int
	// Deep: one of so many new images is used further: the power is cut in its
	// replay, and in the replay after that; then names are added everywhere, all
	// is removed, and nothing may be left. 0: none.
	Deep int
}

// Efforts by use.
var (
	Thorough = Effort{Exhaustive: 512, Lines: 48, Samples: 96, Deep: 128}
	Short    = Effort{Exhaustive: 64, Lines: 8, Samples: 8, Deep: 96}
)

func (c *Case) options() crash.Options {
	e := c.Effort
	return crash.Options{
		Model: c.Setting.model(), Exhaustive: e.Exhaustive, Lines: e.Lines, Samples: e.Samples, Seed: c.Seed,
	}
}

const caseHeader = "pmemfs crash case 1"

// String is the text form.
func (c *Case) String() string {
	var b strings.Builder
	e := c.Effort
	fmt.Fprintf(&b, "%s\nseed %d\nimages %d %d %d %d\n", caseHeader, c.Seed, e.Exhaustive, e.Lines, e.Samples, e.Deep)
	if c.Setting != (Setting{}) {
		fmt.Fprintf(&b, "setting %s %s\n", c.Setting.Policy(), c.Setting.Medium())
	}
	if c.Mutant != "" {
		fmt.Fprintf(&b, "mutant %s\n", c.Mutant)
	}
	for _, o := range c.Ops {
		fmt.Fprintf(&b, "op %v\n", o)
	}
	return b.String()
}

// ReadCase reads the text form. Empty lines and those that begin with # are
// comments.
func ReadCase(r io.Reader) (*Case, error) {
	c := &Case{Effort: Thorough}
	lines := bufio.NewScanner(r)
	header := false
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if !header {
			if line != caseHeader {
				return nil, fmt.Errorf("line %d: not a crash case: it begins with %q, not with %q", n, line, caseHeader)
			}
			header = true
			continue
		}
		if err := c.parse(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	switch {
	case lines.Err() != nil:
		return nil, lines.Err()
	case len(c.Ops) == 0:
		return nil, fmt.Errorf("it has no operations")
	}
	return c, nil
}

func (c *Case) parse(line string) (err error) {
	key, rest, _ := strings.Cut(line, " ")
	switch key {
	case "seed":
		c.Seed, err = strconv.ParseUint(rest, 10, 64)
	case "setting":
		policy, medium, _ := strings.Cut(rest, " ")
		c.Setting, err = ParseSetting(policy, medium)
	case "mutant":
		if c.Mutant = rest; findMutant(rest) == nil {
			err = fmt.Errorf("there is no mutant %q", rest)
		}
	case "images":
		e := &c.Effort
		words := strings.Fields(rest)
		to := []*int{&e.Exhaustive, &e.Lines, &e.Samples, &e.Deep}
		if len(words) != len(to) {
			return fmt.Errorf("images takes %d numbers", len(to))
		}
		for i, w := range words {
			n, err := strconv.ParseUint(w, 10, 20)
			if err != nil {
				return err
			}
			*to[i] = int(n)
		}
	case "op":
		var o Op
		o, err = ParseOp(rest)
		c.Ops = append(c.Ops, o)
	default:
		err = fmt.Errorf("unknown word %q", key)
	}
	return err
}

// Violation is a case in which the file system broke a promise.
type Violation struct {
	Case  *Case
	Image string // which
	What  string
}

// String is the file that --replay reads.
func (v *Violation) String() string {
	comment := func(s string) string { return "# " + strings.ReplaceAll(s, "\n", "\n# ") + "\n" }
	return v.Case.String() + comment(v.Image) + comment(v.What)
}
