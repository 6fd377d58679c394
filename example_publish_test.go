package pmemfs_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"

	"github.com/pmemfs/pmemfs"
)

// An Index is a hash table in a file: what is looked up and changed is memory, and a batch of changes becomes the file's
// contents by Publish, all of it or nothing. It has no log, no checksums, and no order in which it has to store.
//
//	bytes  0 ..  7   how many batches there were
//	bytes  8 .. 15   the sum of all values
//	bytes 64 ..      slots of 16 bytes: key (0: free), value
type Index struct {
	f *pmemfs.File
	m *pmemfs.CloneMapping
	b []byte // the mapping's
}

const (
	indexSlots  = 1 << 18 // a power of two, at most half of them used
	indexHeader = 64
	indexSlot   = 16
	indexSize   = indexHeader + indexSlots*indexSlot
)

// OpenIndex opens an index, or makes an empty one.
func OpenIndex(fsys *pmemfs.FS, name string) (*Index, error) {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(indexSize); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	m, err := f.MapClone(0, indexSize)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Index{f, m, m.Bytes()}, nil
}

// Close drops changes that were not committed.
func (x *Index) Close() error { return errors.Join(x.m.Unmap(), x.f.Close()) }

func (x *Index) word(off int) uint64   { return binary.LittleEndian.Uint64(x.b[off:]) }
func (x *Index) set(off int, v uint64) { binary.LittleEndian.PutUint64(x.b[off:], v) }

// slot returns where a key is, or where it would be.
func (x *Index) slot(key uint64) int {
	for i := key * 0x9e3779b97f4a7c15; ; i++ { // Fibonacci hashing, linear probing
		off := indexHeader + int(i%indexSlots)*indexSlot
		if k := x.word(off); k == key || k == 0 {
			return off
		}
	}
}

// Get returns the value of a key, 0 if it has none.
func (x *Index) Get(key uint64) uint64 { return x.word(x.slot(key) + 8) }

// Put changes the value of a key (not 0), for those who look into this Index only.
func (x *Index) Put(key, value uint64) {
	off := x.slot(key)
	x.set(8, x.Sum()+value-x.word(off+8))
	x.set(off, key)
	x.set(off+8, value)
}

// Commit makes everything that was put the contents of the file, durably.
func (x *Index) Commit() error {
	x.set(0, x.Batches()+1)
	return x.m.Publish()
}

// Batches is how often Commit was called. Sum is that of all values.
func (x *Index) Batches() uint64 { return x.word(0) }
func (x *Index) Sum() uint64     { return x.word(8) }

// A table of 100,000 records that is changed by batches, each of which appears at once.
func ExampleCloneMapping_Publish() {
	fsys, err := pmemfs.Dial("/run/pmemfs/pool.sock")
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()
	x, err := OpenIndex(fsys, "index")
	if err != nil {
		log.Fatal(err)
	}
	defer x.Close()
	for key := range uint64(100_000) {
		x.Put(key+1, key*key)
	}
	if err := x.Commit(); err != nil { // until here the file is empty, from here on it has all of them
		log.Fatal(err)
	}
	x.Put(17, x.Get(17)-100) // from one account
	x.Put(18, x.Get(18)+100) // to another
	if err := x.Commit(); err != nil {
		log.Fatal(err)
	}
}

const indexKeys = 100_000

// batch is what the nth batch puts.
func batch(n uint64, put func(key, value uint64)) {
	r := rand.New(rand.NewPCG(n, 7))
	count := 1 + r.IntN(30)
	if n == 0 {
		for key := range uint64(indexKeys) {
			put(key+1, r.Uint64())
		}
		return
	}
	for range count {
		put(1+r.Uint64N(indexKeys), r.Uint64())
	}
}

// verify compares the index with what the batches that it says it has would have made of it, after all that were said to be
// committed: the last batch, the sum and the number of keys, and if everything is to be compared each key.
func (x *Index) verify(acknowledged uint64, want map[uint64]uint64, everything bool) error {
	if x.Batches() < acknowledged {
		return fmt.Errorf("%d batches, %d were committed", x.Batches(), acknowledged)
	}
	last := map[uint64]uint64{}
	for n := acknowledged; n < x.Batches(); n++ {
		clear(last)
		batch(n, func(key, value uint64) { want[key], last[key] = value, value })
	}
	if everything {
		last = want
	}
	for key, value := range last {
		if got := x.Get(key); got != value {
			return fmt.Errorf("after %d batches: key %d has %#x, want %#x", x.Batches(), key, got, value)
		}
	}
	sum, keys := uint64(0), 0
	for off := indexHeader; off < indexSize; off += indexSlot {
		if x.word(off) != 0 {
			keys, sum = keys+1, sum+x.word(off+8)
		}
	}
	if keys != len(want) || sum != x.Sum() {
		return fmt.Errorf("after %d batches: %d keys, want %d; sum %#x, want %#x", x.Batches(), keys, len(want), x.Sum(), sum)
	}
	return nil
}
