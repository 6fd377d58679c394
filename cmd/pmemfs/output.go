package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// print prints a result in the form that was asked for.
func (a *app) print(r result) error {
	if a.json {
		return a.printObject(r, nil)
	}
	if r != nil {
		r.text(a.stdout)
	}
	return nil
}

// printObject prints the one JSON object, unless that has been done.
func (a *app) printObject(r result, p *problem) error {
	if a.printed {
		return nil
	}
	object, err := encode(r, p)
	if err != nil {
		return err
	}
	a.printed = true
	_, err = a.stdout.Write(object)
	return err
}

// encode returns the one JSON object: the result's fields, and "error".
func encode(r result, p *problem) ([]byte, error) {
	object := []byte("{}")
	if r != nil {
		var err error
		if object, err = json.Marshal(r); err != nil {
			return nil, err
		}
	}
	if p != nil {
		text, err := json.Marshal(p)
		if err != nil {
			return nil, err
		}
		object = bytes.TrimSuffix(object, []byte("}"))
		if len(object) > 1 {
			object = append(object, ',')
		}
		object = fmt.Appendf(object, `"error":%s}`, text)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, object, "", "  "); err != nil {
		return nil, err
	}
	pretty.WriteByte('\n')
	return pretty.Bytes(), nil
}

// fail reports an error, once, and returns the exit code that it means.
func (a *app) fail(r result, err error) int {
	p := explain(err)
	if !a.json {
		if r != nil {
			r.text(a.stdout)
		}
		p.text(a.stderr)
		return p.code
	}
	if a.printed {
		p.text(a.stderr)
	} else if err := a.printObject(r, p); err != nil {
		a.say("%v", err)
	}
	return p.code
}

// say tells people something that is no result: never on standard output when that is for JSON.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.stderr, "pmemfs: "+format+"\n", args...) }

// count returns "1 file", "2 files".
func count(n int64, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case len(what) > 1 && what[len(what)-1] == 'y':
		return fmt.Sprintf("%d %sies", n, what[:len(what)-1])
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// progress shows how far something has come, on a terminal only. The zero value shows nothing.
type progress struct{ bar *progressbar.ProgressBar }

// newProgress shows a bar for total units; bytes: they are bytes.
func (a *app) newProgress(what string, total int64, isBytes bool) progress {
	if !a.terminal() {
		return progress{}
	}
	return progress{bar(a.stderr, what, total, isBytes)}
}

func bar(w io.Writer, what string, total int64, isBytes bool) *progressbar.ProgressBar {
	return progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what), progressbar.OptionShowBytes(isBytes),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish(),
		progressbar.OptionUseIECUnits(true), progressbar.OptionSetPredictTime(true),
	)
}

func (p progress) add(n int64) {
	if p.bar != nil {
		p.bar.Add64(n) // an error would be that of a terminal that is gone
	}
}

func (p progress) set(n int64) {
	if p.bar != nil {
		p.bar.Set64(n)
	}
}

func (p progress) clear() {
	if p.bar != nil {
		p.bar.Clear()
	}
}
