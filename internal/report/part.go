package report

import "slices"

// Part is what one comparison has found: the figures of a section of the performance page. Its JSON names are a contract
// between the programs that measure and the one that writes the page.
type Part struct {
	Title   string  `json:"title"`
	Machine Machine `json:"machine"`
	Rows    []Row   `json:"rows"`
	// Notes are sentences about what could not be measured here, and why.
	Notes []string `json:"notes,omitempty"`
}

// Row is what one of those that are compared takes for one thing that all of them do. Quartiles are of repeated rounds, in
// which all take their turns.
type Row struct {
	What   string  `json:"what"` // is done, the same for all that are compared
	Peer   string  `json:"peer"` // who does it
	Unit   string  `json:"unit"` // of the figures: "ns", or what is counted, "1/s", "B"
	Median float64 `json:"median"`
	Q1     float64 `json:"q1"`
	Q3     float64 `json:"q3"`

	// Limit is what the machine itself takes at least for the same; 0: nobody knows. Ratio is Median to Limit.
	Limit   float64 `json:"limit,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`
	Durable bool    `json:"durable"` // when it returns: against a crash of all processes at least, see the machine's medium
	Note    string  `json:"note,omitempty"`

	// X is the size that What is measured against, of which XUnit tells what it counts; rows with one make a curve for each
	// peer. An empty XUnit: there is none.
	X     float64 `json:"x,omitempty"`
	XUnit string  `json:"x_unit,omitempty"`
}

// NewRow is a row of the figures that rounds have given, at least one.
func NewRow(what, peer, unit string, figures []float64) Row {
	f := slices.Sorted(slices.Values(figures))
	at := func(share float64) float64 { return f[int(share*float64(len(f)-1)+0.5)] }
	return Row{What: what, Peer: peer, Unit: unit, Median: at(0.5), Q1: at(0.25), Q3: at(0.75)}
}

// Compare names the limit of a row. Ratios are such that 1 is the limit, and what is worse is more.
func (r *Row) Compare(limit float64) {
	r.Limit, r.Ratio = limit, r.Median/limit
	if r.PerSecond() {
		r.Ratio = limit / r.Median
	}
}

// PerSecond reports whether more is better.
func (r *Row) PerSecond() bool { return r.Unit == "1/s" }
