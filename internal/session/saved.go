package session

import (
	"fmt"
	"slices"
)

// Saved is what a session was when its server died, and its file, which goes on from there.
type Saved struct {
	*File
	Handles  []Handle
	Mappings []Mapping
	Pins     []Pin // each inside its mapping
	Dropped  int   // records that made no sense: torn ones, of which no client was told
}

// contents is what parse finds in a file.
type contents struct {
	client  Client
	base    int64
	records map[int]record // by position
	end     int
	dropped []int // positions
}

// parse reads a file. An error is a *DamagedError: nothing can be said about the client.
func parse(name string, b []byte, slot int) (*contents, error) {
	client, length, err := decodeHeader(b, slot)
	if err != nil {
		return nil, &DamagedError{name, err.Error()}
	}
	c := &contents{client: client, base: int64(length), records: map[int]record{}}
	b = b[length:]
	if len(b) > maxRecords*recordSize {
		return nil, &DamagedError{name, fmt.Sprintf("it has %d bytes of records", len(b))}
	}
	known := map[key]bool{}
	for ; len(b) > 0; c.end++ {
		var raw [recordSize]byte
		b = b[copy(raw[:], b):]
		if raw == [recordSize]byte{} {
			continue
		}
		r := decode(&raw)
		if r == nil || le.Uint32(raw[:]) != checksum(&raw, (*[16]byte)(&client.Nonce), c.end) {
			c.dropped = append(c.dropped, c.end)
			continue
		}
		if known[r.key()] { // no crash leaves that, so what else is there cannot be relied on either
			return nil, &DamagedError{name, fmt.Sprintf("record %d is of something that has one already: %+v", c.end, r)}
		}
		known[r.key()] = true
		c.records[c.end] = r
	}
	return c, nil
}

// saved makes a session of what was found. orphans are pins of no mapping.
func (c *contents) saved(f *File) (s *Saved, orphans []Pin) {
	f.client, f.base, f.end, f.at = c.client, c.base, c.end, make(map[key]int, len(c.records))
	s = &Saved{File: f, Dropped: len(c.dropped)}
	mappings := map[uint32]Mapping{}
	for position := range c.end {
		r, ok := c.records[position]
		if !ok {
			f.free = append(f.free, position)
			continue
		}
		f.at[r.key()] = position
		switch r := r.(type) {
		case Handle:
			s.Handles = append(s.Handles, r)
		case Mapping:
			s.Mappings = append(s.Mappings, r)
			mappings[r.Number] = r
		case Pin:
			s.Pins = append(s.Pins, r)
		}
	}
	// A mapping's record goes before those of its pins.
	s.Pins = slices.DeleteFunc(s.Pins, func(p Pin) bool {
		m, ok := mappings[p.Mapping]
		orphan := !ok || !p.inside(m)
		if orphan {
			orphans = append(orphans, p)
		}
		return orphan
	})
	return s, orphans
}
