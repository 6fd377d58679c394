package pmemfs_test

import (
	"encoding/binary"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/pmemfs/pmemfs"
)

// log layout: 8 bytes of length, then the records; only the first length bytes of them are there.
const logHead = 64

// appendBuggy stores a record, makes it durable, and stores the length that makes it a part of the log. The length's own
// Persist is missing.
func appendBuggy(m *pmemfs.Mapping, record string) error {
	length := binary.LittleEndian.Uint64(m.Bytes())
	at := logHead + int(length)
	copy(m.Bytes()[at:], record)
	if err := m.Persist(at, len(record)); err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(m.Bytes(), length+uint64(len(record)))
	return nil
}

// appendFixed is appendBuggy with the missing line.
func appendFixed(m *pmemfs.Mapping, record string) error {
	if err := appendBuggy(m, record); err != nil {
		return err
	}
	return m.Persist(0, 8)
}

// onLog calls f with a log that is mapped from a pool that can lose its power.
func onLog(pool string, f func(*pmemfs.FS, *pmemfs.Mapping) error) error {
	fsys, err := pmemfs.Open(pool, pmemfs.PowerCut(0))
	if err != nil {
		return err
	}
	defer fsys.Close()
	file, err := fsys.OpenFile("log", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := file.Truncate(4096); err != nil {
		return err
	}
	m, err := file.Map(0, 4096, pmemfs.Shared)
	if err != nil {
		return err
	}
	return f(fsys, m)
}

// A program that forgets a Persist works well until the power fails. With PowerCut it fails at once, on any machine.
func ExamplePowerCut() {
	dir, err := os.MkdirTemp("/dev/shm", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, program := range []struct {
		name   string
		append func(*pmemfs.Mapping, string) error
	}{{"with the bug", appendBuggy}, {"fixed", appendFixed}} {
		pool := filepath.Join(dir, program.name)
		if err := pmemfs.Format(pool, pmemfs.FormatOptions{Size: 64 << 20}); err != nil {
			log.Fatal(err)
		}
		err := onLog(pool, func(fsys *pmemfs.FS, m *pmemfs.Mapping) error {
			if err := program.append(m, "order 1"); err != nil {
				return err
			}
			_, err := fsys.CutPower()
			return err
		})
		if err != nil {
			log.Fatal(err)
		}
		err = onLog(pool, func(_ *pmemfs.FS, m *pmemfs.Mapping) error {
			length := binary.LittleEndian.Uint64(m.Bytes())
			fmt.Printf("%s: %q\n", program.name, m.Bytes()[logHead:][:length])
			return nil
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// with the bug: ""
	// fixed: "order 1"
}
