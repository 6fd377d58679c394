package pmem_test

import (
	"encoding/binary"
	"fmt"

	"github.com/pmemfs/pmemfs/pmem"
)

// A record is published by a word that says how long it is: the record must be
// durable before the word is stored.
func Example() {
	log := make([]byte, 4096) // in earnest: mapped persistent memory
	record := []byte("paid 12.50 to Anna")

	pmem.Copy(log[8:], record)
	pmem.Fence()
	binary.LittleEndian.PutUint64(log, uint64(len(record))) // aligned: never torn
	pmem.Persist(log[:8])

	n := binary.LittleEndian.Uint64(log)
	fmt.Printf("%s\n", log[8:8+n])
	// Output: paid 12.50 to Anna
}

// Many stores share one Fence: it, not Flush, is what takes time.
func ExampleFlush() {
	table := make([]byte, 1<<20)
	for row := 0; row < len(table); row += 4096 {
		table[row] = 1
		pmem.Flush(table[row : row+1])
	}
	pmem.Fence() // every row is durable
}
