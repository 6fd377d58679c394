package pmemfs_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pmemfs/pmemfs"
)

// The crash loop: clients change files, each in a directory of its own, until the server is killed; what the next one finds must be
// what the operations up to some instant have left, of all clients at the same instant, and everything that was synced. Servers
// with all policies follow each other, on the same pool.
const (
	loopClients = 3
	loopFiles   = 6 // names in a directory
)

// loopClient is a client, and what it knows of its directory.
//
// Invariant: states[k] is the directory after k operations; begun and done are when each of them began and had its answer, by
// one clock for all clients. The operations before durable are durable. The last one may not have had its answer.
type loopClient struct {
	dir   string
	clock *atomic.Int64
	rand  *rand.Rand
	every bool // each operation is durable when it has returned

	states      []map[string]string // content by name
	names       [][]string          // of the files that an operation concerned
	begun, done []int64
	durable     int
	count       int // of what was appended, over all servers
}

func newLoopClient(i int, clock *atomic.Int64) *loopClient {
	return &loopClient{
		dir: fmt.Sprintf("client-%d", i), clock: clock, rand: rand.New(rand.NewPCG(uint64(i), 3)), states: []map[string]string{{}},
	}
}

// found takes over what a crash has left.
func (c *loopClient) found(state map[string]string) {
	c.states, c.names, c.begun, c.done, c.durable = []map[string]string{state}, nil, nil, nil, 0
}

// run changes files until the server is gone. It returns an error that is another one.
func (c *loopClient) run(fsys *pmemfs.FS) error {
	for {
		err := c.step(fsys)
		if errors.Is(err, pmemfs.ErrServerGone) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// operate does an operation on files that makes of the directory what next makes of its state.
func (c *loopClient) operate(do func() error, next func(map[string]string), names ...string) error {
	state := maps.Clone(c.states[len(c.states)-1])
	next(state)
	c.states, c.names = append(c.states, state), append(c.names, names)
	c.begun = append(c.begun, c.clock.Add(1))
	if err := do(); err != nil {
		return err
	}
	c.done = append(c.done, c.clock.Add(1))
	if c.every {
		c.durable = len(c.done)
	}
	return nil
}

// step does something to a file.
func (c *loopClient) step(fsys *pmemfs.FS) error {
	now := c.states[len(c.states)-1]
	name, other := fmt.Sprint("file-", c.rand.IntN(loopFiles)), fmt.Sprint("file-", c.rand.IntN(loopFiles))
	path := c.dir + "/" + name
	content, there := now[name]
	if !there {
		return c.operate(func() error {
			f, err := fsys.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			return f.Close()
		}, func(s map[string]string) { s[name] = "" }, name)
	}
	switch what := c.rand.IntN(10); {
	case what == 0:
		return c.operate(func() error { return fsys.Remove(path) }, func(s map[string]string) { delete(s, name) }, name)
	case what == 1 && name != other:
		return c.operate(func() error { return fsys.Rename(path, c.dir+"/"+other) }, func(s map[string]string) {
			s[other] = s[name]
			delete(s, name)
		}, name, other)
	case what == 2 || len(content) > 64<<10:
		size := c.rand.IntN(len(content) + 1)
		return c.operate(func() error { return fsys.Truncate(path, int64(size)) }, func(s map[string]string) {
			s[name] = content[:size]
		}, name)
	case what == 3:
		return c.sync(fsys, name, len(content))
	default:
		c.count++
		more := strings.Repeat(fmt.Sprintf("%s %d;", c.dir, c.count), 1+c.rand.IntN(600))
		flag := os.O_WRONLY | os.O_APPEND
		synced := c.rand.IntN(20) == 0
		if synced {
			flag |= os.O_SYNC
		}
		f, err := fsys.OpenFile(path, flag, 0)
		if err != nil {
			return err
		}
		err = c.operate(func() error { _, err := f.WriteString(more); return err }, func(s map[string]string) { s[name] += more }, name)
		if err == nil && synced {
			c.durable = len(c.done)
		}
		return errors.Join(err, f.Close())
	}
}

// sync makes durable what was done to a file, and with it all that was done before that: by the file, or by a mapping.
func (c *loopClient) sync(fsys *pmemfs.FS, name string, size int) error {
	f, err := fsys.OpenFile(c.dir+"/"+name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if size == 0 || c.rand.IntN(2) == 0 {
		err = f.Sync()
	} else {
		var m *pmemfs.Mapping
		if m, err = f.Map(0, size, pmemfs.Shared); err == nil {
			err = errors.Join(m.Sync(0, size), m.Unmap())
		}
	}
	for k, names := range c.names {
		if err == nil && k >= c.durable && slices.Contains(names, name) {
			c.durable = k + 1
		}
	}
	return errors.Join(err, f.Close())
}

// matches are the numbers of operations after which the directory was as it is found, and none of which is lost that must not be.
func (c *loopClient) matches(found map[string]string) (list []int) {
	for k := c.durable; k < len(c.states); k++ {
		if maps.Equal(c.states[k], found) {
			list = append(list, k)
		}
	}
	return list
}

// readState reads a client's directory.
func readState(t *testing.T, fsys *pmemfs.FS, dir string) map[string]string {
	t.Helper()
	state := map[string]string{}
	entries, err := fsys.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		content, err := fsys.ReadFile(dir + "/" + e.Name())
		must(t, err)
		state[e.Name()] = string(content)
	}
	return state
}

// oneInstant says whether there is an instant at which all clients had done as many operations as are found of each: an operation
// that began after another was done is not there without it. matches are the numbers that are possible for each client.
func oneInstant(clients []*loopClient, matches [][]int) bool {
	chosen := make([]int, len(clients))
	var choose func(i int) bool
	choose = func(i int) bool {
		if i == len(clients) {
			return true
		}
		for _, k := range matches[i] {
			chosen[i] = k
			fits := true
			for j := range i {
				fits = fits && precedes(clients[i], k, clients[j], chosen[j]) && precedes(clients[j], chosen[j], clients[i], k)
			}
			if fits && choose(i+1) {
				return true
			}
		}
		return false
	}
	return choose(0)
}

// precedes says that the first operation of b that is lost was not done before the last one of a that is not.
func precedes(a *loopClient, k int, b *loopClient, l int) bool {
	return k == 0 || l >= len(b.done) || a.begun[k-1] < b.done[l]
}

// loopPlace is a pool, and where it is.
type loopPlace struct {
	pool    string
	clients []*loopClient
	clock   atomic.Int64
	rounds  int
	done    int // operations, all in all
	lost    int // of them
}

// crash has clients work for a while, kills the server, and looks at what is left.
func (p *loopPlace) crash(t *testing.T, policy string, after time.Duration) {
	socket, srv := serveWith(t, p.pool, policy)
	var all sync.WaitGroup
	for _, c := range p.clients {
		c.every = policy == "op"
		fsys := dial(t, socket, pmemfs.Reconnect(0))
		all.Go(func() {
			defer fsys.Close()
			if err := c.run(fsys); err != nil {
				t.Errorf("%s: %v", c.dir, err)
			}
		})
	}
	time.Sleep(after) // nobody waits for anything: the server dies wherever it is
	srv.Kill()
	all.Wait()
	p.look(t, policy)
	p.rounds++
}

func (p *loopPlace) look(t *testing.T, policy string) {
	r, err := pmemfs.Check(t.Context(), p.pool, pmemfs.CheckOptions{Wait: 10 * time.Second, Report: func(p pmemfs.Problem) { t.Errorf("%v", p) }})
	if err != nil || r.Problems > 0 {
		t.Fatalf("%s: %d problems, %v", policy, r.Problems, err)
	}
	fsys := openPool(t, p.pool, pmemfs.Wait(10*time.Second))
	var matches [][]int
	for _, c := range p.clients {
		state := readState(t, fsys, c.dir)
		list := c.matches(state)
		if len(list) == 0 {
			t.Fatalf("%s, policy %s: what is left is what none of %d operations after the durable %d have left: %s", c.dir, policy,
				len(c.states)-1-c.durable, c.durable, c.nearest(state))
		}
		p.done += len(c.states) - 1
		p.lost += len(c.states) - 1 - slices.Max(list)
		matches = append(matches, list)
	}
	if !oneInstant(p.clients, matches) {
		t.Errorf("policy %s: the clients' operations are left as of different instants: %v", policy, matches)
	}
	for _, c := range p.clients {
		c.found(readState(t, fsys, c.dir))
	}
	must(t, fsys.Close())
}

// nearest says how what is found differs from the state after some operation.
func (c *loopClient) nearest(found map[string]string) string {
	best, text := -1, ""
	for k := range c.states {
		var differ []string
		for i := range loopFiles {
			name := fmt.Sprint("file-", i)
			want, ok := c.states[k][name]
			if got, there := found[name]; got != want || ok != there {
				differ = append(differ, fmt.Sprintf("%s has %d bytes (%v), want %d (%v), the same up to %d", name, len(got), there, len(want), ok,
					common(got, want)))
			}
		}
		if best < 0 || len(differ) < best {
			best, text = len(differ), fmt.Sprintf("after %d operations: %s", k, strings.Join(differ, "; "))
		}
	}
	return text
}

// common is how many bytes two have in common at their beginnings.
func common(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// TestCrashLoop: see above. It fails when operations are committed in another order than they are seen, in parts, or without what
// they need, and when Sync returns too early.
func TestCrashLoop(t *testing.T) {
	until := time.Now().Add(3 * time.Second)
	if testing.Short() {
		until = time.Now().Add(time.Second)
	}
	places := []*loopPlace{{pool: newPool(t)}, {pool: diskPool(t)}}
	for _, p := range places {
		fsys := openPool(t, p.pool)
		for i := range loopClients {
			c := newLoopClient(i, &p.clock)
			p.clients = append(p.clients, c)
			must(t, fsys.Mkdir(c.dir, 0o700))
		}
		must(t, fsys.Close())
	}
	r := rand.New(rand.NewPCG(5, 5))
	policies := []string{"interval=1h", "interval=5ms", "op"}
	for round := 0; round < 2*len(policies) || time.Now().Before(until); round++ {
		p := places[round%len(places)]
		p.crash(t, policies[round/len(places)%len(policies)], time.Duration(r.IntN(60))*time.Millisecond)
		if t.Failed() {
			return
		}
	}
	for _, p := range places {
		t.Logf("%s: %d crashes, %d of %d operations lost", p.pool, p.rounds, p.lost, p.done)
	}
	if places[0].lost == 0 {
		t.Error("nothing was lost: the crashes came at the wrong time")
	}
}
