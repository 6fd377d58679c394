package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/layout"
	"github.com/pmemfs/pmemfs/internal/server"
)

// metrics serves the numbers of a server over HTTP, in the form of Prometheus. They are read when somebody asks.
//
// Invariant: server is set before the first request is answered. One that has ended still has its numbers.
type metrics struct {
	families []family
	server   atomic.Pointer[server.Server] // the latest: a power cut replaces it
	listener net.Listener
	http     http.Server
	running  sync.WaitGroup
}

// A client that nobody has authenticated may not tie up the server, by the number of its connections or by being slow.
const (
	maxScrapers   = 16 // connections at a time; more wait
	scrapeTimeout = 10 * time.Second
)

// listenMetrics takes an address of TCP. Whoever connects waits until serve is called.
func listenMetrics(address string, stderr io.Writer) (*metrics, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		f := &failure{err: fmt.Errorf("--metrics: %w", err), code: exitUnable}
		if errors.Is(err, unix.EADDRINUSE) {
			f.try = "another port, or 0, which takes any that is free: the line that tells that the server is ready says which"
		}
		return nil, f
	}
	m := &metrics{families: families(), listener: newLimited(l, maxScrapers)}
	registry := prometheus.NewRegistry()
	process := collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})
	registry.MustRegister(m, collectors.NewGoCollector(), process)
	errorLog := log.New(stderr, "pmemfs: metrics: ", 0)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: errorLog}))
	m.http = http.Server{
		Handler: mux, ErrorLog: errorLog, MaxHeaderBytes: 16 << 10,
		ReadTimeout: scrapeTimeout, WriteTimeout: scrapeTimeout, IdleTimeout: time.Minute,
	}
	return m, nil
}

// url is where the numbers are.
func (m *metrics) url() string { return fmt.Sprintf("http://%v/metrics", m.listener.Addr()) }

// serve answers from now on.
func (m *metrics) serve(srv *server.Server) {
	m.server.Store(srv)
	m.running.Go(func() {
		if err := m.http.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
			m.http.ErrorLog.Print(err) // the pool is served all the same
		}
	})
}

// close waits for answers that are under way, for a while.
func (m *metrics) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if m.http.Shutdown(ctx) != nil {
		m.http.Close()
	}
	m.listener.Close() // an error: it is closed already, unless serve was never called
	m.running.Wait()
}

// limited is a listener whose connections are at most as many as free has room for.
type limited struct {
	net.Listener
	free   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newLimited(l net.Listener, limit int) *limited {
	return &limited{Listener: l, free: make(chan struct{}, limit), closed: make(chan struct{})}
}

// Accept waits until there may be one more.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &limitedConn{Conn: c, done: sync.OnceFunc(func() { <-l.free })}, nil
}

// Close ends an Accept that waits, too.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	done func()
}

func (c *limitedConn) Close() error {
	defer c.done()
	return c.Conn.Close()
}

// family is what is measured, in one or several kinds.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*stats, teller) // tells each value, with that of the label, if the family has one
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, f := range m.families {
		to <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	s := m.server.Load().Stats()
	for _, f := range m.families {
		f.read(&s, func(v float64, label ...string) { to <- prometheus.MustNewConstMetric(f.desc, f.kind, v, label...) })
	}
}

// number is what can be measured.
type number interface {
	~int | ~int64 | ~uint64 | ~float64
}

type (
	stats  = pmemfs.Stats
	teller = func(v float64, label ...string)
)

// families are all that is measured. Names and labels are stable.
func families() []family {
	return slices.Concat(ownerFamilies(), journalFamilies(), frameFamilies())
}

func newFamily(kind prometheus.ValueType, name, help string, read func(*stats, teller), labels ...string) family {
	return family{prometheus.NewDesc("pmemfs_"+name, help, labels, nil), kind, read}
}

// gauge is one number that goes up and down.
func gauge[N number](name, help string, get func(*stats) N) family {
	return newFamily(prometheus.GaugeValue, name, help, func(s *stats, tell teller) { tell(float64(get(s))) })
}

// counter is one number that only grows, until the server ends.
func counter[N number](name, help string, get func(*stats) N) family {
	return newFamily(prometheus.CounterValue, name, help, func(s *stats, tell teller) { tell(float64(get(s))) })
}

func ownerFamilies() []family {
	return []family{
		newFamily(prometheus.GaugeValue, "commit_policy_info",
			"1 for the policy in force: op (operations are durable when they return) or interval=DURATION.",
			func(s *stats, tell teller) { tell(1, s.Policy.String()) }, "policy"),
		gauge("uptime_seconds", "Time since the pool was mounted.", func(s *stats) float64 { return s.Uptime.Seconds() }),
		gauge("clients", "Programs that are connected.", func(s *stats) int { return s.Clients }),
		gauge("exports", "Open files that exported descriptors stand for.", func(s *stats) int { return s.Exports }),
		newFamily(prometheus.CounterValue, "requests_total",
			"Requests of clients by operation, whether they were done or refused; hello: clients that have come.",
			func(s *stats, tell teller) {
				for op, n := range s.Requests {
					tell(float64(n), op)
				}
			}, "op"),
		newFamily(prometheus.CounterValue, "faults_total",
			"Page faults of clients: of loads (read) and stores (write) that were resolved, and failed ones; "+
				"with Populate each run of blocks that is asked for.",
			func(s *stats, tell teller) {
				tell(float64(s.Faults.Read), "read")
				tell(float64(s.Faults.Write), "write")
				tell(float64(s.Faults.Failed), "failed")
			}, "kind"),
		newFamily(prometheus.GaugeValue, "client_limit", "How many of each a client may have.",
			func(s *stats, tell teller) {
				tell(float64(s.Limits.Handles), "handles")
				tell(float64(s.Limits.Mappings), "mappings")
				tell(float64(s.Limits.Grants), "grants")
			}, "kind"),
		newFamily(prometheus.GaugeValue, "client_limit_bytes", "How much a client may have pinned and sealed.",
			func(s *stats, tell teller) {
				tell(float64(s.Limits.PinnedBytes), "pinned")
				tell(float64(s.Limits.SealedBytes), "sealed")
			}, "kind"),
	}
}

func journalFamilies() []family {
	return []family{
		gauge("journal_size_bytes", "Size of the log.", func(s *stats) int64 { return s.Journal.SizeBytes }),
		gauge("journal_used_bytes", "What records take of the log, those included that are not durable yet.",
			func(s *stats) int64 { return s.Journal.UsedBytes }),
		gauge("journal_staged_bytes", "Records that are visible and not durable yet.",
			func(s *stats) int64 { return s.Journal.StagedBytes }),
		gauge("journal_staged_transactions", "Transactions that are visible and not durable yet.",
			func(s *stats) uint64 { return s.Journal.Staged }),
		counter("journal_head_bytes_total", "LSN behind everything that is visible: bytes over the life of the pool.",
			func(s *stats) uint64 { return s.Journal.HeadLSN }),
		counter("journal_durable_bytes_total", "LSN behind everything that is durable.",
			func(s *stats) uint64 { return s.Journal.DurableLSN }),
		counter("journal_transactions_total", "Transactions that became visible.",
			func(s *stats) uint64 { return s.Journal.Transactions }),
		counter("journal_commits_total", "Writes of the log, each with a fence, that made one or more transactions durable.",
			func(s *stats) uint64 { return s.Journal.Commits }),
		counter("journal_trims_total", "Times that the oldest records gave room.",
			func(s *stats) uint64 { return s.Journal.Trims }),
	}
}

func frameFamilies() []family {
	return []family{
		newFamily(prometheus.GaugeValue, "frames", "Records of who may access which blocks.", func(s *stats, tell teller) {
			f := &s.Frames
			for kind, n := range map[string]int64{
				"clients": f.Clients, "files": f.Files, "mappings": f.Mappings,
				"grants": f.Grants, "pins": f.Pins, "seals": f.Seals,
			} {
				tell(float64(n), kind)
			}
		}, "kind"),
		newFamily(prometheus.GaugeValue, "frame_data_bytes",
			"Data that clients can access (grants), have pinned and have sealed; counted once for each mapping, or pin, of it.",
			func(s *stats, tell teller) {
				tell(float64(s.Frames.GrantedBlocks*layout.BlockSize), "grants")
				tell(float64(s.Frames.PinnedBlocks*layout.BlockSize), "pins")
				tell(float64(s.Frames.SealedBlocks*layout.BlockSize), "seals")
			}, "kind"),
		gauge("frame_memory_bytes", "Memory that the records take.", func(s *stats) int64 { return s.Frames.Bytes }),
		counter("breaks_total", "Requests to clients to give grants back.", func(s *stats) int64 { return s.Frames.Breaks }),
	}
}
