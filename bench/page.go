package main

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/pmemfs/pmemfs/internal/report"
)

const (
	pageName = "performance.md"
	pageDir  = "performance" // of plots and figures, beside the page
)

//go:embed templates/*.md
var files embed.FS

// found is what is known of a section.
type found struct {
	section
	parts []report.Part
	why   string // there are no figures
}

// page is what is written, into dir.
type page struct {
	dir      string
	sections []*found
	failed   []string // sections that went wrong
}

// path is that of a file beside the page.
func (p *page) path(name string) string { return filepath.Join(p.dir, pageDir, name) }

func (p *page) verdicts() (all []verdict) {
	for _, t := range targets {
		i := slices.IndexFunc(p.sections, func(f *found) bool { return f.name == t.section })
		all = append(all, t.judge(p.sections[i].parts))
	}
	return all
}

func (p *page) met() (n int) {
	for _, v := range p.verdicts() {
		if v.met() {
			n++
		}
	}
	return n
}

// write writes the page and its plots, in place of all that were there.
func (p *page) write() error {
	old, err := filepath.Glob(p.path("*.svg"))
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	var text bytes.Buffer
	if err := p.fill(&text, "page", p); err != nil {
		return err
	}
	for _, f := range p.sections {
		fmt.Fprintf(&text, "\n<a id=%q></a>\n\n", f.name)
		if err := p.fill(&text, f.name, &filling{page: p, found: f}); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(p.dir, pageName), text.Bytes(), 0o644)
}

// fill writes a template.
func (p *page) fill(w *bytes.Buffer, name string, data any) error {
	t, err := template.ParseFS(files, "templates/"+name+".md")
	if err != nil {
		return err
	}
	return t.Execute(w, data)
}

// Targets is the table of them.
func (p *page) Targets() string {
	t := &report.Table{Head: []string{"target", "cost of", "needed", "measured, at worst", ""}}
	for _, v := range p.verdicts() {
		t.Rows = append(t.Rows, v.cells())
	}
	return strings.TrimSpace(markdown(t))
}

// Machines are those that figures come from, each once.
func (p *page) Machines() string {
	var all []string
	for _, f := range p.sections {
		for _, part := range f.parts {
			if line := part.Machine.String(); !slices.Contains(all, line) {
				all = append(all, line)
			}
		}
	}
	return strings.Join(all, "\n\n")
}

// filling is what the template of a section is filled with.
type filling struct {
	page *page
	*found
}

// Figures are the tables and plots of the section, or why there are none.
func (f *filling) Figures() (string, error) {
	if f.why != "" {
		why := strings.Join(strings.Fields(f.why), " ")
		return fmt.Sprintf("**There are no figures**: %s.", strings.TrimSuffix(why, ".")), nil
	}
	var b strings.Builder
	n := 0
	for _, part := range f.parts {
		if len(f.parts) > 1 {
			fmt.Fprintf(&b, "### %s\n\n", part.Title)
		}
		fmt.Fprintf(&b, "%s\n\n", part.Machine)
		all, err := drawings(&part)
		if err != nil {
			return "", err
		}
		for _, d := range all {
			name := f.name + ".svg"
			if n++; n > 1 {
				name = fmt.Sprintf("%s-%d.svg", f.name, n)
			}
			if err := d.save(f.page.path(name)); err != nil {
				return "", err
			}
			fmt.Fprintf(&b, "![%s](%s/%s)\n\n", d.title, pageDir, name)
		}
		for _, t := range tables(&part) {
			fmt.Fprintf(&b, "%s\n", markdown(t))
		}
		for _, note := range part.Notes {
			fmt.Fprintf(&b, "%s\n\n", note)
		}
	}
	return strings.TrimSpace(b.String()), nil
}

func (d *drawing) save(name string) error {
	var text bytes.Buffer
	if err := d.write(&text); err != nil {
		return err
	}
	return os.WriteFile(name, text.Bytes(), 0o644)
}

// Figure is a median, for the text: "-" if there is none. size is 0 where there are none.
func (f *filling) Figure(what, peer string, size float64) string {
	if r := f.row(what, peer, size); r != nil {
		return report.Value(r.Median, r.Unit)
	}
	return "-"
}

// Times is how many times the cost of one is that of the other.
func (f *filling) Times(what, peer, against string, size float64) string {
	r, o := f.row(what, peer, size), f.row(what, against, size)
	if r == nil || o == nil {
		return "-"
	}
	r.Compare(o.Median)
	return report.Times(r.Ratio)
}

func (f *filling) row(what, peer string, size float64) *report.Row {
	for _, part := range f.parts {
		for _, r := range part.Rows {
			if r.What == what && r.Peer == peer && r.X == size {
				return &r
			}
		}
	}
	return nil
}

func markdown(t *report.Table) string {
	var b strings.Builder
	t.Markdown(&b)
	return b.String()
}
