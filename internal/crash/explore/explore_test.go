package explore

import (
	"context"
	"testing"
	"time"
)

// TestSequences runs every operation, and a part of the sequences of two.
func TestSequences(t *testing.T) {
	start := time.Now()
	r, err := Run(context.Background(), Options{
		Depth: 1, Seed: 1, Effort: Thorough, Workers: 2,
		Violation: func(v *Violation) { t.Errorf("\n%v", v) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v in %v", r, time.Since(start))
}
