package adapter

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/pmemfs/pmemfs"
)

// ErrLocked is what Lock fails with when somebody has the lock.
var ErrLocked = errors.New("the lock is held")

// held are the locks of this process.
var held struct {
	sync.Mutex
	locks map[heldLock]struct{} // protected by Mutex
}

type heldLock struct {
	fsys *pmemfs.FS
	name string
}

const blockSize = 4096

// Lock takes the lock of a name, which excludes others in this process and, where a server serves several, in all of them.
// It ends with its holder, however that ends, and nobody waits. The name is that of a file, which is created if need be, and
// whose contents are the lock's own. ErrLocked: somebody has it, as the error says.
func Lock(fsys *pmemfs.FS, name string) (io.Closer, error) {
	key := heldLock{fsys, name}
	held.Lock()
	defer held.Unlock()
	if _, taken := held.locks[key]; taken {
		return nil, fmt.Errorf("lock %s: %w by this process", name, ErrLocked)
	}
	release, err := take(fsys, name)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	if held.locks == nil {
		held.locks = map[heldLock]struct{}{}
	}
	held.locks[key] = struct{}{}
	return &lockCloser{key: key, release: release}, nil
}

type lockCloser struct {
	key     heldLock
	release func() error
}

// Close gives the lock up.
func (l *lockCloser) Close() error {
	held.Lock()
	defer held.Unlock()
	if _, taken := held.locks[l.key]; !taken {
		return fmt.Errorf("unlock %s: it is not locked", l.key.name)
	}
	delete(held.locks, l.key)
	return l.release()
}

// take creates the lock's file and, where other processes use the pool too, excludes them.
func take(fsys *pmemfs.FS, name string) (release func() error, err error) {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	if fsys.Info().Socket == "" {
		return f.Close, nil // one process owns the pool: this one
	}
	unpin, err := pinFirst(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		return errors.Join(unpin(), f.Close())
	}, nil
}

// pinFirst pins the block of a lock's file, unless somebody else has. A token is published to the block first, which fails
// where it is pinned; so of several who publish before any of them has pinned only the last finds its own token under its
// pin, and nobody can change that as long as there is a pin.
func pinFirst(f *pmemfs.File) (unpin func() error, err error) {
	token := make([]byte, 16)
	rand.Read(token)
	if err := publish(f, token); err != nil {
		return nil, lockError(err)
	}
	m, err := f.Map(0, blockSize, pmemfs.Shared)
	if err != nil {
		return nil, err
	}
	release, err := m.Pin(0, blockSize)
	if err != nil {
		return nil, errors.Join(err, m.Unmap())
	}
	unpin = func() error {
		release()
		return m.Unmap()
	}
	var mine bool
	if err := pmemfs.Catch(func() { mine = bytes.Equal(m.Bytes()[:len(token)], token) }); err != nil {
		return nil, errors.Join(err, unpin())
	}
	if !mine {
		return nil, errors.Join(fmt.Errorf("%w by another process", ErrLocked), unpin())
	}
	return unpin, nil
}

// publish makes a token the first bytes of a file, at once.
func publish(f *pmemfs.File, token []byte) error {
	if err := errors.Join(f.Truncate(blockSize), f.Fill(0, blockSize)); err != nil {
		return err
	}
	c, err := f.MapClone(0, blockSize)
	if err != nil {
		return err
	}
	err = pmemfs.Catch(func() { copy(c.Bytes(), token) })
	if err == nil {
		err = c.Publish()
	}
	return errors.Join(err, c.Unmap())
}

// lockError turns what a publish fails with where somebody else is quicker, or has the lock, into ErrLocked.
func lockError(err error) error {
	var pinned *pmemfs.SealedError
	switch {
	case errors.As(err, &pinned):
		return fmt.Errorf("%w by process %d", ErrLocked, pinned.PID)
	case errors.Is(err, pmemfs.ErrConflict):
		return fmt.Errorf("%w by another process", ErrLocked)
	}
	return err
}
