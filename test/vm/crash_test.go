package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// appending is a process in the guest that appends records to files of a pool.
type appending struct {
	*medium
	stdout, stderr lockedBuffer
	ended          chan error
}

// lockedBuffer is written to by who receives from the guest.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // protected by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// report is what the process has said, by way.
func (a *appending) report() (ways []string, found, durable map[string]uint64, err error) {
	found, durable = map[string]uint64{}, map[string]uint64{}
	text := a.stdout.String()
	text = text[:strings.LastIndexByte(text, '\n')+1] // the last line may be under way
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 2 && words[0] == "way" {
			ways = append(ways, words[1])
			continue
		}
		n, parseErr := uint64(0), error(nil)
		if len(words) == 3 {
			n, parseErr = strconv.ParseUint(words[2], 10, 64)
		}
		switch {
		case parseErr != nil || len(words) != 3:
			return nil, nil, nil, fmt.Errorf("guest append says %q", line)
		case words[0] == "found":
			found[words[1]] = n
		case words[0] == "durable":
			durable[words[1]] = n
		}
	}
	return ways, found, durable, nil
}

// startAppending starts a process for each medium, which checks the pool, verifies the records that are there, and goes on.
func (s *suite) startAppending() []*appending {
	var all []*appending
	for _, m := range media {
		a := &appending{medium: m, ended: make(chan error, 1)}
		argv := []string{"guest", "append", m.pool()}
		for name, n := range s.durable[m.name] {
			argv = append(argv, fmt.Sprintf("%s=%d", name, n))
		}
		go func() {
			code, err := s.m.run(s.ctx, &a.stdout, &a.stderr, argv...)
			a.ended <- errors.Join(err, fmt.Errorf("%s: exit code %d: %s", strings.Join(argv, " "), code, a.stderr.String()))
		}()
		all = append(all, a)
	}
	return all
}

// waitForRecords waits until every process has appended in every way of its medium.
func (s *suite) waitForRecords(all []*appending) {
	s.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for _, a := range all {
		for {
			ways, _, durable, err := a.report()
			if err != nil {
				s.Fatalf("FAIL  %s crash: %v", a.name, err)
			}
			if slices.Equal(ways, a.ways) && len(durable) == len(ways) {
				break
			}
			select {
			case err := <-a.ended:
				s.Fatalf("FAIL  %s crash: %v", a.name, err)
			case <-time.After(10 * time.Millisecond):
			}
			if time.Now().After(deadline) || s.ctx.Err() != nil {
				s.Fatalf("FAIL  %s crash: ways %v, durable %v; want %v (%v)\n%s", a.name, ways, durable, a.ways, s.ctx.Err(), a.stderr.String())
			}
		}
	}
}

// crash has every medium verified and appended to, and kills the machine in the middle of that.
func (s *suite) crash(round int) {
	s.Helper()
	all := s.startAppending()
	s.waitForRecords(all)
	time.Sleep(time.Duration(rand.Int64N(int64(time.Second))))
	for _, a := range all {
		select {
		case err := <-a.ended:
			s.Errorf("FAIL  %s crash: %v", a.name, err)
		default:
		}
	}
	s.m.kill()
	s.m = nil
	total := uint64(0)
	for _, a := range all {
		_, _, durable, err := a.report()
		if err != nil {
			s.Errorf("FAIL  %s crash: %v", a.name, err)
		}
		if s.durable[a.name] == nil {
			s.durable[a.name] = map[string]uint64{}
		}
		maps.Copy(s.durable[a.name], durable)
		for _, n := range durable {
			total += n
		}
	}
	if s.Failed() {
		s.FailNow()
	}
	say("round %d of %d: killed; %d records acknowledged until now", round, s.rounds, total)
}

// lastLook verifies what the last round has left.
func (s *suite) lastLook() {
	all := s.startAppending()
	s.waitForRecords(all)
	for _, a := range all {
		total := uint64(0)
		for _, n := range s.durable[a.name] {
			total += n
		}
		ok(a.medium, "crash: %d rounds, %d acknowledged records (%s), check clean", s.rounds, total, strings.Join(a.ways, ", "))
	}
}
