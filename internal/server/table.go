package server

import (
	"fmt"
	"maps"
	"sync"

	"golang.org/x/sys/unix"
)

// table numbers things that a client refers to. Numbers begin at 1 and are not used again soon, so that a client's
// mistake meets EBADF rather than another thing.
type table[T any] struct {
	what   string // for errors
	limit  int
	remedy string // what to do when there are as many

	mu   sync.Mutex
	last uint32       // protected by mu
	done bool         // protected by mu: drained, takes nothing any more
	m    map[uint32]T // protected by mu
}

func newTable[T any](what string, limit int, remedy string) *table[T] {
	return &table[T]{what: what, limit: limit, remedy: remedy, m: map[uint32]T{}}
}

// add numbers a thing. record, if it is not nil, is called with the number before anybody can refer to the thing by
// it; when it fails there is no thing. EMFILE: there are too many.
func (t *table[T]) add(v T, record func(n uint32) error) (uint32, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done {
		return 0, fmt.Errorf("the session has ended: %w", unix.ESHUTDOWN)
	}
	if len(t.m) >= t.limit {
		return 0, fmt.Errorf("the client has %d %ss, which is the limit (%s): %w", t.limit, t.what, t.remedy, unix.EMFILE)
	}
	for {
		t.last++
		if _, used := t.m[t.last]; !used && t.last != 0 {
			break
		}
	}
	if record != nil {
		if err := record(t.last); err != nil {
			return 0, err
		}
	}
	t.m[t.last] = v
	return t.last, nil
}

// put gives a thing the number that it had in an earlier server, where the number was in use once.
func (t *table[T]) put(n uint32, v T) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.m[n] = v
	t.last = max(t.last, n)
}

// get returns a thing by its number. EBADF: there is none.
func (t *table[T]) get(n uint32) (T, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.m[n]
	if !ok {
		return v, fmt.Errorf("%s %d is not open: %w", t.what, n, unix.EBADF)
	}
	return v, nil
}

// remove takes a thing out. EBADF: it is not there (any more).
func (t *table[T]) remove(n uint32) (T, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.m[n]
	if !ok {
		return v, fmt.Errorf("%s %d is not open: %w", t.what, n, unix.EBADF)
	}
	delete(t.m, n)
	return v, nil
}

// all returns the things that are there, by their numbers.
func (t *table[T]) all() map[uint32]T {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.m)
}

// drain takes everything out, for good.
func (t *table[T]) drain() map[uint32]T {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done = true
	all := t.m
	t.m = map[uint32]T{}
	return all
}
