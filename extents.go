package pmemfs

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// DeviceExtent is a run of a mapping that is contiguous on the medium. All are bytes.
type DeviceExtent struct {
	Offset       int64 `json:"offset"` // in the mapping
	Length       int64 `json:"length"`
	DeviceOffset int64 `json:"device_offset"` // in the file or device that holds the pool's data
}

// Extents returns where the bytes of a [Direct] mapping lie: for devices and programs that go to the medium themselves. They
// stay there as long as the mapping lives, closed, renamed or removed as the file may be. The extents are ascending and cover
// the mapping without gaps.
//
// DeviceOffset counts in the file "data" of the pool's directory, or in the device when the pool is one: Medium.Path of
// [FS.Info] says which. Whoever stores there, past this mapping, must make that durable himself, and must be done
// before Unmap.
//
// EINVAL: the mapping is not Direct. The blocks of others may move at any time; [File.Extents] tells where they are just now.
func (m *Mapping) Extents() ([]DeviceExtent, error) {
	list, err := m.extents()
	return list, pathError("extents of a mapping of", m.name, err)
}

var errNotSealed error = &detailed{"only a sealed (Direct) mapping has extents that stay; where the file's blocks are just now, " +
	"File.Extents tells", unix.EINVAL}

func (m *Mapping) extents() ([]DeviceExtent, error) {
	switch {
	case m.way.Load() == wayNone:
		return nil, ErrUnmapped
	case m.flags&Direct == 0:
		return nil, errNotSealed
	}
	// The kernel is asked, not the server: it says what is mapped, also when the file is closed or the server is away.
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	return m.findExtents(maps)
}

// findExtents finds the mapping's extents among the lines of proc_pid_maps(5).
func (m *Mapping) findExtents(maps io.Reader) ([]DeviceExtent, error) {
	start := uint64(m.start())
	length := int64(len(m.data))
	var list []DeviceExtent
	var done int64
	lines := bufio.NewScanner(maps)
	for done < length && lines.Scan() {
		var from, to, offset uint64
		var access string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s %x", &from, &to, &access, &offset); err != nil {
			return nil, fmt.Errorf("/proc/self/maps has a line %q: %w", lines.Text(), unix.EPROTO)
		}
		at := start + uint64(done)
		if to <= at {
			continue
		}
		if from > at || access[0] != 'r' || access[3] != 's' {
			break
		}
		n := min(int64(to-at), length-done)
		list = append(list, DeviceExtent{Offset: done, Length: n, DeviceOffset: int64(offset + at - from)})
		done += n
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if done < length {
		return nil, fmt.Errorf("byte %d of a sealed mapping is not mapped: %w", done, unix.EIO)
	}
	return list, nil
}
