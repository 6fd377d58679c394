package grant

import "reflect"

// Usage is what is recorded now: nothing for a file that nobody maps, whatever its size, and a run of blocks is one record
// however long it is.
type Usage struct {
	Clients  int64 `json:"clients"`  // that have mapped something
	Files    int64 `json:"files"`    // that are mapped
	Mappings int64 `json:"mappings"` // each of one range of a file, in one client
	Grants   int64 `json:"grants"`   // runs that a client can access
	Pins     int64 `json:"pins"`     // runs that are pinned
	Seals    int64 `json:"seals"`    // mappings that are sealed

	// A block counts once for each mapping that shows it, and once for each pin of it.
	GrantedBlocks int64 `json:"granted_blocks"`
	PinnedBlocks  int64 `json:"pinned_blocks"`
	SealedBlocks  int64 `json:"sealed_blocks"`

	Records int64 `json:"records"` // all of the above together
	Bytes   int64 `json:"bytes"`   // of memory that the records take
	Breaks  int64 `json:"breaks"`  // since the start: requests to a client to give grants back
}

// Sizes of the records, in bytes.
var (
	clientBytes  = sizeOf[holding]()
	fileBytes    = sizeOf[file]()
	mappingBytes = sizeOf[Mapping]() + sizeOf[node[*Mapping]]()
	grantBytes   = sizeOf[node[state]]()
	sealBytes    = sizeOf[node[*Mapping]]()
	pinBytes     = sizeOf[node[*Mapping]]() + sizeOf[Run]() + sizeOf[pin]()
)

func sizeOf[T any]() int64 { return int64(reflect.TypeFor[T]().Size()) }

// Usage returns what is recorded now.
func (t *Table) Usage() Usage {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := Usage{Clients: int64(len(t.holdings)), Files: int64(len(t.files)), Breaks: t.breaks}
	for _, h := range t.holdings {
		u.Mappings += h.mappings
		u.Grants += h.grants
		u.Pins += h.pins
		u.Seals += h.seals
		u.GrantedBlocks += h.blocks
		u.PinnedBlocks += h.pinnedBlocks
		u.SealedBlocks += h.sealedBlocks
	}
	u.Records = u.Clients + u.Files + u.Mappings + u.Grants + u.Pins + u.Seals
	u.Bytes = u.Clients*clientBytes + u.Files*fileBytes + u.Mappings*mappingBytes +
		u.Grants*grantBytes + u.Pins*pinBytes + u.Seals*sealBytes
	return u
}
