package journal

// counts is what a journal has done since Open. They are plain numbers that change with the builder's lock held, which whoever
// changes them holds anyway: they cost an addition each.
//
// Invariant: committed ≤ transactions; the difference is staged.
type counts struct {
	transactions uint64 // that became visible
	committed    uint64 // of them, that are durable
	commits      uint64 // groups of one or more that became durable
	trims        uint64
}

// Stats is what a journal holds now, and what it has done since it was opened. Its JSON form is stable. LSNs are positions
// in bytes, which only grow, over all the pool's life.
type Stats struct {
	SizeBytes   int64 `json:"size_bytes"`   // of the log
	UsedBytes   int64 `json:"used_bytes"`   // of it, by records that are not trimmed yet, staged ones included
	StagedBytes int64 `json:"staged_bytes"` // of records that are visible and not durable yet

	HeadLSN    uint64 `json:"head_lsn"`    // behind everything that is visible
	DurableLSN uint64 `json:"durable_lsn"` // behind everything that is durable

	Transactions uint64 `json:"transactions"` // that changed something and became visible
	Staged       uint64 `json:"staged"`       // of them, that are not durable yet
	Commits      uint64 `json:"commits"`      // writes of the log with a fence: each has made one or more transactions durable
	Trims        uint64 `json:"trims"`        // times that the oldest records gave room
	// Combined is how many transactions a commit has made durable on average; 0 when there was none.
	Combined float64 `json:"combined"`
}

// Stats returns what the journal holds now, all of it at one instant, and has done since Open. It waits for a commit of a
// single transaction, or for trimming, that is under way. It may be called after Close.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := Stats{
		SizeBytes: j.sb.Log.Length, UsedBytes: int64(j.head - j.header.Tail), StagedBytes: int64(j.head - j.durable.Load()),
		HeadLSN: j.head, DurableLSN: j.durable.Load(),
		Transactions: j.counts.transactions, Staged: j.counts.transactions - j.counts.committed,
		Commits: j.counts.commits, Trims: j.counts.trims,
	}
	if s.Commits > 0 {
		s.Combined = float64(j.counts.committed) / float64(s.Commits)
	}
	return s
}
