package pebblevfs_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pmemfs/pmemfs/internal/pooltest"
	"github.com/pmemfs/pmemfs/pebblevfs"
)

// small has logs replaced and tables written often.
func small(v vfs.FS) *pebble.Options {
	return &pebble.Options{FS: v, MemTableSize: 128 << 10, L0CompactionThreshold: 2, Logger: silent{}}
}

// silent is a logger that says nothing but why the program ends.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

// Transaction n sets a key that nobody else sets, and the one that all set, to values that follow from n.
func key(n uint64) []byte   { return binary.BigEndian.AppendUint64([]byte("key"), n) }
func value(n uint64) []byte { return fmt.Appendf(nil, "%0*d", 50+n%100, n) }

var lastKey = []byte("last")

// writerRole commits transactions from FIRST on and prints the number of each once it is durable: PLACE FIRST [SEED]. With
// a seed the power is cut when its input ends.
func writerRole(args []string, in *bufio.Scanner) error {
	opts, err := pooltest.PowerCut(args[2:]...)
	if err != nil {
		return err
	}
	fsys, err := pooltest.Open(args[0], opts...)
	if err != nil {
		return err
	}
	first, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return err
	}
	pooltest.CutPowerAtEnd(fsys, in)
	db, err := pebble.Open("db", small(pebblevfs.New(fsys)))
	if err != nil {
		return err
	}
	for n := first; ; n++ {
		b := db.NewBatch()
		if err := errors.Join(b.Set(key(n), value(n), nil), b.Set(lastKey, value(n), nil), b.Commit(pebble.Sync)); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// verify expects transactions up to some one from acknowledged on, wholly, and returns the number of the next.
func verify(t *testing.T, place string, acknowledged int64) uint64 {
	t.Helper()
	fsys, err := pooltest.Open(place)
	if err != nil {
		t.Fatal(err)
	}
	db, err := pebble.Open("db", small(pebblevfs.New(fsys)))
	if err != nil {
		t.Fatal(err)
	}
	get := func(k []byte) string {
		v, c, err := db.Get(k)
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		return string(v)
	}
	next := uint64(1)
	for ; get(key(next)) == string(value(next)); next++ {
	}
	if int64(next) <= acknowledged {
		t.Errorf("transaction %d is %q, and %d was acknowledged", next, get(key(next)), acknowledged)
	}
	if next > 1 && get(lastKey) != string(value(next-1)) {
		t.Errorf("the last transaction is %d, and the common key has %q", next-1, get(lastKey))
	}
	if got := get(key(next + 1)); got != pebble.ErrNotFound.Error() {
		t.Errorf("transaction %d is not there, the one after it is %q", next, got)
	}
	if err := errors.Join(db.Close(), fsys.Close()); err != nil {
		t.Fatal(err)
	}
	return next
}

// TestKilled kills the program in the middle of its transactions.
func TestKilled(t *testing.T) {
	pool := pooltest.New(t, testPoolSize)
	next := uint64(1)
	for round := range 8 {
		c := pooltest.Start(t, "writer", pool, fmt.Sprint(next))
		last := c.Acknowledged(200+round*700, c.Signal)
		c.Kill()
		pooltest.Check(t, pool)
		next = verify(t, pool, last)
	}
	t.Logf("%d transactions", next-1)
}

// TestClientKilled kills a client, and every other time the server as well, at the same moment.
func TestClientKilled(t *testing.T) {
	pool := pooltest.New(t, testPoolSize)
	next := uint64(1)
	for round := range 6 {
		socket, srv := pooltest.Serve(t, pool)
		c := pooltest.Start(t, "writer", socket, fmt.Sprint(next))
		last := c.Acknowledged(200+round*700, func() {
			if round%2 == 1 {
				srv.Signal()
			}
			c.Signal()
		})
		c.Kill()
		if round%2 == 1 {
			srv.Kill()
		} else {
			verify(t, socket, last)
			srv.Finish()
		}
		pooltest.Check(t, pool)
		next = verify(t, pool, last)
	}
	t.Logf("%d transactions", next-1)
}

// TestPowerCut cuts the power in the middle of transactions. Of what was not durable nothing survives, or a random part.
func TestPowerCut(t *testing.T) {
	for seed := range 5 {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			pool := pooltest.New(t, 64<<20)
			next := uint64(1)
			for round := range 3 {
				c := pooltest.Start(t, "writer", pool, fmt.Sprint(next), fmt.Sprint(seed*10+min(seed, 1)*round))
				last := c.Acknowledged(100+round*600, c.CloseInput)
				c.Kill()
				next = verify(t, pool, last)
				pooltest.Check(t, pool)
			}
		})
	}
}
