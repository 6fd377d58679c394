package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
	"github.com/dgraph-io/badger/v4"
	"github.com/ncruces/go-sqlite3"
	bolt "go.etcd.io/bbolt"

	"github.com/pmemfs/pmemfs/pebblevfs"
	"github.com/pmemfs/pmemfs/sqlitevfs"
)

// engine is a kind of database, with the settings that it has if nothing is said, but for durability where that must be said.
type engine struct {
	name string
	pool bool // it can be in a pool
	open func(*place) (database, error)
}

var engines = []engine{
	{"Pebble", true, openPebble},
	{"SQLite", true, openSQLite},
	{"bbolt", false, openBolt},
	{"LMDB", false, openLMDB},
	{"Badger", false, openBadger},
}

// silent is a logger of Pebble that says nothing but why the program ends.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func openPebble(p *place) (database, error) {
	o := &pebble.Options{Logger: silent{}}
	if p.fsys != nil {
		o.FS = pebblevfs.New(p.fsys)
	}
	db, err := pebble.Open(filepath.Join(p.dir, "pebble"), o)
	if err != nil {
		return nil, err
	}
	l := newLooped(func(puts []put) error {
		b := db.NewBatch()
		defer b.Close()
		for i := range puts {
			if err := b.Set(puts[i].key[:], puts[i].value[:], nil); err != nil {
				return err
			}
		}
		return b.Commit(pebble.Sync)
	}, db.Close)
	l.busy = func() bool {
		m := db.Metrics()
		return m.Compact.NumInProgress > 0 || m.Flush.NumInProgress > 0
	}
	return l, nil
}

// openSQLite uses WAL mode with synchronous=FULL, which makes each transaction durable.
func openSQLite(p *place) (database, error) {
	name := "file:" + filepath.Join(p.dir, "/sqlite.db")
	if p.fsys != nil {
		vfs := "pmemfs " + p.name
		sqlitevfs.Register(vfs, p.fsys)
		name += "?vfs=" + vfs
	}
	db, err := sqlite3.Open(name)
	if err != nil {
		return nil, err
	}
	err = db.Exec("PRAGMA journal_mode=wal; PRAGMA synchronous=full; CREATE TABLE t (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	var stmts []*sqlite3.Stmt
	for _, sql := range []string{"BEGIN IMMEDIATE", "INSERT OR REPLACE INTO t VALUES (?, ?)", "COMMIT"} {
		s, _, err := db.PrepareFlags(sql, sqlite3.PREPARE_PERSISTENT)
		if err != nil {
			return nil, errors.Join(err, db.Close())
		}
		stmts = append(stmts, s)
	}
	begin, insert, commit := stmts[0], stmts[1], stmts[2]
	return newLooped(func(puts []put) error {
		if len(puts) > 1 { // one statement is a transaction
			if err := begin.Exec(); err != nil {
				return err
			}
		}
		for i := range puts {
			if err := errors.Join(insert.BindBlob(1, puts[i].key[:]), insert.BindBlob(2, puts[i].value[:]), insert.Exec()); err != nil {
				return err
			}
		}
		if len(puts) > 1 {
			return commit.Exec()
		}
		return nil
	}, func() error {
		return errors.Join(begin.Close(), insert.Close(), commit.Close(), db.Close())
	}), nil
}

func openBolt(p *place) (database, error) {
	db, err := bolt.Open(filepath.Join(p.dir, "bolt.db"), 0o600, nil)
	if err != nil {
		return nil, err
	}
	bucket := []byte("t")
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return newLooped(func(puts []put) error {
		return db.Update(func(tx *bolt.Tx) error {
			for i := range puts {
				if err := tx.Bucket(bucket).Put(puts[i].key[:], puts[i].value[:]); err != nil {
					return err
				}
			}
			return nil
		})
	}, db.Close), nil
}

func openBadger(p *place) (database, error) {
	db, err := badger.Open(badger.DefaultOptions(filepath.Join(p.dir, "badger")).WithSyncWrites(true).WithLogger(nil))
	if err != nil {
		return nil, err
	}
	return newLooped(func(puts []put) error {
		return db.Update(func(tx *badger.Txn) error {
			for i := range puts {
				key, value := puts[i].key, puts[i].value // which it keeps
				if err := tx.Set(key[:], value[:]); err != nil {
					return err
				}
			}
			return nil
		})
	}, db.Close), nil
}
