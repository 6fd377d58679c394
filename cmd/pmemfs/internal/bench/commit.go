package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/report"
)

// CommitOptions are those of MeasureCommit.
type CommitOptions struct {
	Options
	Disk    string        // a directory behind a page cache; Dir is the byte-addressable one
	Clients []int         // how many connections work at the same time
	Time    time.Duration // for each figure
}

// appended is the length in bytes of what one operation appends: a record of a log.
const appended = 256

// CommitRow is what so many clients do together under one policy on one medium. Its JSON names are a contract with
// scripts.
type CommitRow struct {
	Medium       string  `json:"medium"`
	Policy       string  `json:"policy"`
	Clients      int     `json:"clients"`
	Operations   int64   `json:"operations"`
	Seconds      float64 `json:"seconds"`
	PerSecond    float64 `json:"operations_per_second"`
	Transactions uint64  `json:"transactions"` // that the operations were, by the server's count
	Commits      uint64  `json:"commits"`      // that made them durable
}

// combined is how many transactions a commit makes durable.
func (r *CommitRow) combined() float64 { return float64(r.Transactions) / float64(max(r.Commits, 1)) }

// Commit is what MeasureCommit has found.
type Commit struct {
	Machine report.Machine `json:"machine"`
	Disk    report.Machine `json:"disk"`
	Bytes   int            `json:"bytes"` // that an operation appends
	Rows    []CommitRow    `json:"rows"`
	Seconds float64        `json:"seconds"`
}

// commitPolicies are compared; an interval of a second is the default behind a page cache.
var commitPolicies = []string{"op", "interval=1s"}

// MeasureCommit has 1 to many clients append records to files of their own, under both commit policies, on both media.
func MeasureCommit(ctx context.Context, o CommitOptions) (*Commit, error) {
	start := time.Now()
	found := &Commit{Bytes: appended}
	add, done := o.progress("appending", int64(2*len(commitPolicies)*len(o.Clients)))
	defer done()
	for _, dir := range []string{o.Dir, o.Disk} {
		for _, policy := range commitPolicies {
			rows, machine, err := measurePolicy(ctx, &o, dir, policy, add)
			if err != nil {
				return nil, err
			}
			if dir == o.Disk {
				found.Disk = machine
			} else {
				found.Machine = machine
			}
			found.Rows = append(found.Rows, rows...)
		}
	}
	found.Seconds = time.Since(start).Seconds()
	return found, nil
}

// measurePolicy serves a pool below dir with a policy and measures with each number of clients.
func measurePolicy(ctx context.Context, o *CommitOptions, dir, policy string, add func(int64)) (rows []CommitRow, m report.Machine, err error) {
	s, err := newStage(ctx, dir, pmemfs.FormatOptions{Size: 8 << 30}, "--commit", policy)
	if err != nil {
		return nil, m, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	info := s.fsys.Info()
	m = thisMachine(&info.Medium)
	for _, clients := range o.Clients {
		row, err := s.measureAppends(ctx, clients, o.Time)
		if err != nil {
			return nil, m, err
		}
		row.Medium, row.Policy = info.Medium.Kind, policy
		rows = append(rows, row)
		add(1)
	}
	return rows, m, nil
}

// measureAppends lets so many clients append for a time.
func (s *stage) measureAppends(ctx context.Context, clients int, d time.Duration) (row CommitRow, err error) {
	var files []*pmemfs.File
	for i := range clients {
		fsys, err := pmemfs.Dial(s.socket)
		if err != nil {
			return row, err
		}
		defer fsys.Close()
		f, err := fsys.OpenFile(fmt.Sprintf("log-%d", i), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
		if err != nil {
			return row, err
		}
		files = append(files, f)
	}
	before, err := s.fsys.Stats()
	if err != nil {
		return row, err
	}
	start := time.Now()
	n, err := appendAll(ctx, files, d)
	row = CommitRow{Clients: clients, Operations: n, Seconds: time.Since(start).Seconds()}
	row.PerSecond = float64(n) / row.Seconds
	after, statsErr := s.fsys.Stats()
	row.Transactions = after.Journal.Transactions - before.Journal.Transactions
	row.Commits = after.Journal.Commits - before.Journal.Commits
	return row, errors.Join(err, statsErr)
}

// appendAll appends to all files at the same time until d is over, and returns how often.
func appendAll(ctx context.Context, files []*pmemfs.File, d time.Duration) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	record := make([]byte, appended)
	var total atomic.Int64
	var all sync.WaitGroup
	failed := make(chan error, len(files))
	for _, f := range files {
		all.Go(func() {
			for ctx.Err() == nil {
				if _, err := f.Write(record); err != nil {
					failed <- err
					return
				}
				total.Add(1)
			}
		})
	}
	all.Wait()
	close(failed)
	err := <-failed
	if err == nil && errors.Is(context.Cause(ctx), context.Canceled) {
		err = context.Canceled // by the user
	}
	return total.Load(), err
}

// tables are one for each medium: clients down, policies across.
func (c *Commit) tables() map[string]*report.Table {
	all := map[string]*report.Table{}
	byPlace := map[[2]string]map[int]CommitRow{}
	for _, r := range c.Rows {
		place := [2]string{r.Medium, r.Policy}
		if byPlace[place] == nil {
			byPlace[place] = map[int]CommitRow{}
		}
		byPlace[place][r.Clients] = r
	}
	for _, op := range c.Rows {
		if op.Policy != commitPolicies[0] {
			continue
		}
		t := all[op.Medium]
		if t == nil {
			t = &report.Table{Head: []string{"clients", "op, per second", "combined", "interval, per second", "combined", "interval/op"}}
			all[op.Medium] = t
		}
		interval := byPlace[[2]string{op.Medium, commitPolicies[1]}][op.Clients]
		t.Rows = append(t.Rows, []string{
			fmt.Sprint(op.Clients),
			fmt.Sprintf("%.0f", op.PerSecond), fmt.Sprintf("%.1f", op.combined()),
			fmt.Sprintf("%.0f", interval.PerSecond), fmt.Sprintf("%.0f", interval.combined()),
			fmt.Sprintf("%.1f", interval.PerSecond/op.PerSecond),
		})
	}
	return all
}

// media are the kinds of media in the order in which they were measured.
func (c *Commit) media() (kinds []string) {
	for _, r := range c.Rows {
		if len(kinds) == 0 || kinds[len(kinds)-1] != r.Medium {
			kinds = append(kinds, r.Medium)
		}
	}
	return kinds
}

// Text writes what was found for people.
func (c *Commit) Text(w io.Writer) {
	fmt.Fprintf(w, "%v\neach operation appends %d bytes to a file of the client's own; combined: operations made durable by one commit\n",
		c.Machine, c.Bytes)
	tables := c.tables()
	for _, kind := range c.media() {
		fmt.Fprintf(w, "\n%s\n", kind)
		tables[kind].Text(w)
	}
	fmt.Fprintf(w, "\n%.0f s in all.\n", c.Seconds)
}

const commitPage = `## What the policies cost

1 to 32 clients append records of %d bytes, each to a file of its own, through a server in a process of its own. Under
*op* each append is durable when it returns; under *interval* all of them are every second. *Combined* is how many
operations one commit makes durable.

%s

Disk: %s

Measured by

    %s
`

// Markdown writes a part of a page. command is what measures it again. There is no plot.
func (c *Commit) Markdown(w io.Writer, command, _ string) {
	fmt.Fprintf(w, commitPage, c.Bytes, c.Machine, c.Disk.Medium, command)
	tables := c.tables()
	for _, kind := range c.media() {
		fmt.Fprintf(w, "\n### On %s\n\n", kind)
		tables[kind].Markdown(w)
	}
}
