package fault

import (
	"fmt"
	"testing"
	"time"
)

func init() { roles["bench"] = benchRole }

// What a client pays: a first store to a page (a fault, answered at once by a server of another process), a break of a
// page with the fault after it, and the store after it all. The figures are of the client's clock.
func BenchmarkFault(b *testing.B) {
	for _, pause := range []time.Duration{0, time.Millisecond} {
		b.Run(fmt.Sprintf("every %v", pause), func(b *testing.B) {
			const pages = 1 << 14
			n := min(b.N, pages)
			f := newTestFile(b, pages, pages)
			f.window = 1
			for p := range f.blocks {
				f.blocks[p] = int64(p)
			}
			page, err := NewPage()
			if err != nil {
				b.Fatal(err)
			}
			defer page.Close()
			c := f.connect(b, page, "bench", fmt.Sprint("N=", n), fmt.Sprint("PAUSE=", int64(pause)))
			go page.Serve(c.fault)
			c.say("go")
			var fault, store float64
			fmt.Sscan(c.expect("ns"), &fault, &store)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(fault, "ns/fault")
			b.ReportMetric(store, "ns/store")
		})
	}
}

func benchRole() error {
	c, err := dial()
	if err != nil {
		return err
	}
	var n int
	var pause time.Duration
	if n, err = environment("N"); err != nil {
		return err
	}
	p, err := environment("PAUSE")
	if err != nil {
		return err
	}
	pause = time.Duration(p)
	fault := time.Duration(0)
	for i := range n {
		if pause > 0 {
			time.Sleep(pause)
		}
		start := time.Now()
		c.mem[i*PageSize] = 1
		fault += time.Since(start)
	}
	const rounds = 100
	start := time.Now()
	for r := range rounds {
		for i := range n {
			c.mem[i*PageSize] = byte(r)
		}
	}
	store := time.Since(start)
	fmt.Println("ns", float64(fault)/float64(n), float64(store)/float64(n*rounds))
	return nil
}

// BenchmarkTakeBack is what a break of one page costs the server, with a client that runs.
func BenchmarkTakeBack(b *testing.B) {
	f := newTestFile(b, 1, 2)
	page, err := NewPage()
	if err != nil {
		b.Fatal(err)
	}
	defer page.Close()
	c := f.connect(b, page, "mover", "FIRST=0")
	go page.Serve(c.fault)
	c.say("go")
	for b.Loop() {
		if err := page.TakeBack(c.pidfd, []AddressRun{c.run(0, 1)}, AccessNone, testTimeout); err != nil {
			b.Fatal(err)
		}
	}
}
