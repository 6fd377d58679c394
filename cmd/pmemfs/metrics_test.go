package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/pmemfs/pmemfs"
	"github.com/pmemfs/pmemfs/internal/server"
)

var scraper = http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// scrape reads all families of a server.
func scrape(t *testing.T, url string) map[string]*dto.MetricFamily {
	t.Helper()
	r, err := scraper.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Fatal(r.Status)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// values are those of the families whose names begin with "pmemfs_", by name and label.
func values(t *testing.T, families map[string]*dto.MetricFamily) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for name, f := range families {
		short, ours := strings.CutPrefix(name, "pmemfs_")
		if !ours {
			continue
		}
		if counts := strings.HasSuffix(name, "_total"); counts != (f.GetType() == dto.MetricType_COUNTER) {
			t.Errorf("%s is a %v", name, f.GetType())
		}
		for _, m := range f.Metric {
			key := short
			for _, l := range m.Label {
				key += " " + l.GetName() + "=" + l.GetValue()
			}
			all[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue() // one of them is not there
		}
	}
	return all
}

// expected is what the values must be when "pmemfs stat" has these numbers.
func expected(s *pmemfs.Stats) map[string]float64 {
	f, j, l := &s.Frames, &s.Journal, &s.Limits
	all := map[string]float64{
		"commit_policy_info policy=" + s.Policy.String(): 1,
		"clients": float64(s.Clients), "exports": float64(s.Exports),
		"faults_total kind=read": float64(s.Faults.Read), "faults_total kind=write": float64(s.Faults.Write),
		"faults_total kind=failed":  float64(s.Faults.Failed),
		"client_limit kind=handles": float64(l.Handles), "client_limit kind=mappings": float64(l.Mappings), "client_limit kind=grants": float64(l.Grants),
		"client_limit_bytes kind=pinned": float64(l.PinnedBytes), "client_limit_bytes kind=sealed": float64(l.SealedBytes),
		"journal_size_bytes": float64(j.SizeBytes), "journal_used_bytes": float64(j.UsedBytes), "journal_staged_bytes": float64(j.StagedBytes),
		"journal_staged_transactions": float64(j.Staged), "journal_head_bytes_total": float64(j.HeadLSN),
		"journal_durable_bytes_total": float64(j.DurableLSN), "journal_transactions_total": float64(j.Transactions),
		"journal_commits_total": float64(j.Commits), "journal_trims_total": float64(j.Trims),
		"frames kind=clients": float64(f.Clients), "frames kind=files": float64(f.Files), "frames kind=mappings": float64(f.Mappings),
		"frames kind=grants": float64(f.Grants), "frames kind=pins": float64(f.Pins), "frames kind=seals": float64(f.Seals),
		"frame_data_bytes kind=grants": float64(f.GrantedBlocks * 4096), "frame_data_bytes kind=pins": float64(f.PinnedBlocks * 4096),
		"frame_data_bytes kind=seals": float64(f.SealedBlocks * 4096), "frame_memory_bytes": float64(f.Bytes), "breaks_total": float64(f.Breaks),
	}
	for op, n := range s.Requests {
		all["requests_total op="+op] = float64(n)
	}
	return all
}

// TestMetrics: what is scraped is well formed and is what "pmemfs stat" says.
func TestMetrics(t *testing.T) {
	s := startServer(t, newPool(t), "--metrics", "localhost:0", "--commit", "interval=1h", "--json")
	object := parse(t, s.ready)
	documented(t, "serve", object)
	url, _ := object["metrics"].(string)
	if !strings.HasPrefix(url, "http://") || object["commit"] != "interval=1h" {
		t.Fatal(s.ready)
	}
	createSome(t, dial(t, s.socket), 10)
	put(t, s.socket, "f", strings.Repeat("x", 16<<10))
	f := openFile(t, s.socket, "f")
	m, err := f.Map(0, 8<<10, pmemfs.Sync)
	if err != nil {
		t.Fatal(err)
	}
	m.Bytes()[0] = 1
	unpin, err := m.Pin(0, 4096)
	if err != nil {
		t.Fatal(err)
	}

	families := scrape(t, url)
	for values(t, families)["clients"] != 2 { // put's may not have gone yet
		time.Sleep(10 * time.Millisecond)
		families = scrape(t, url)
	}
	got := values(t, families)
	want := numbers(t, s.socket) // a client that comes, asks two things, and is counted in the answer
	want.Clients--
	want.Requests["hello"]--
	want.Requests["info"]--
	want.Requests["stats"]--
	if up := got["uptime_seconds"]; up <= 0 || up > want.Uptime.Seconds() {
		t.Errorf("up for %v s, then for %v", up, want.Uptime)
	}
	delete(got, "uptime_seconds")
	if diff := cmp.Diff(expected(&want), got); diff != "" {
		t.Errorf("(-stat +metrics)\n%s", diff)
	}
	for name, least := range map[string]float64{
		"journal_transactions_total": 11, "journal_commits_total": 1, "requests_total op=open": 12, "requests_total op=pin": 1,
		"faults_total kind=write": 1, "frames kind=pins": 1, "clients": 2, "frame_data_bytes kind=grants": 8192,
	} {
		if got[name] < least {
			t.Errorf("%s is %v, less than %v", name, got[name], least)
		}
	}
	unpin()
	wellFormed(t, families)
	elsewhere, err := scraper.Get(strings.TrimSuffix(url, "metrics"))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere.Body.Close()
	if elsewhere.StatusCode != http.StatusNotFound {
		t.Error(elsewhere.Status)
	}
	s.stop(syscall.SIGTERM)
	if r, err := scraper.Get(url); err == nil {
		r.Body.Close()
		t.Error("somebody still answers")
	}
}

// wellFormed: names, units and help follow the conventions, and the process tells of itself.
func wellFormed(t *testing.T, families map[string]*dto.MetricFamily) {
	t.Helper()
	var ours []*dto.MetricFamily
	for name, f := range families {
		if strings.HasPrefix(name, "pmemfs_") {
			ours = append(ours, f)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(ours).Lint()
	if err != nil {
		t.Error(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, name := range []string{"go_goroutines", "process_open_fds", "process_resident_memory_bytes"} {
		if families[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
}

// metricsOf is the address in the line of a server that is ready.
func metricsOf(t *testing.T, s *served) string {
	t.Helper()
	_, url, found := strings.Cut(strings.TrimSuffix(s.ready, "\n"), "; metrics at ")
	if !found {
		t.Fatal(s.ready)
	}
	return url
}

// TestMetricsAfterPowerCut: they are those of the server that goes on.
func TestMetricsAfterPowerCut(t *testing.T) {
	s := startServer(t, newPool(t), "--metrics", "127.0.0.1:0", "--power-cut")
	url := metricsOf(t, s)
	const made = "requests_total op=mkdir"
	for i := range 3 {
		ok(t, "mkdir", s.socket, fmt.Sprint("d", i))
	}
	if got := values(t, scrape(t, url)); got[made] != 3 {
		t.Error(got)
	}
	ok(t, "powercut", s.socket)
	if got := values(t, scrape(t, url)); got[made] != 0 || got["requests_total op=hello"] != 1 {
		t.Error(got)
	}
	ok(t, "mkdir", s.socket, "d3")
	if got := values(t, scrape(t, url)); got[made] != 1 || got["journal_transactions_total"] != 1 {
		t.Error(got)
	}
}

// TestMetricsAreRefused: an address that cannot be listened at ends the server before it has touched the pool.
func TestMetricsAreRefused(t *testing.T) {
	pool, socket := newPool(t), filepath.Join(memoryDir(t), "socket")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fails(t, exitUnable, []string{"--metrics", "address already in use", "another port"}, "serve", pool, "--socket", socket, "--metrics", l.Addr().String())
	fails(t, exitUnable, []string{"--metrics", "missing port"}, "serve", pool, "--socket", socket, "--metrics", "nowhere")
	ok(t, "check", pool)
}

// TestManyScrapers: connections that come and say nothing take nobody's place for good, and the end does not wait for them.
func TestManyScrapers(t *testing.T) {
	m, err := listenMetrics("127.0.0.1:0", t.Output())
	if err != nil {
		t.Fatal(err)
	}
	m.http.ReadTimeout = 0 // nothing that is held up gets on by itself
	srv, err := server.Open(newPool(t), server.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m.serve(srv)
	connect := func() net.Conn {
		c, err := net.Dial("tcp", m.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	for range maxScrapers - 1 {
		connect()
	}
	for range 3 * maxScrapers {
		connect().Close()
	}
	values(t, scrape(t, m.url()))
	for range maxScrapers { // most of them meet nobody
		io.WriteString(connect(), "GET /metrics HTTP/1.1\r\n")
	}
	m.close()
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
}

// TestMetricsOfNobody: an address that was taken for a server which never came is given back.
func TestMetricsOfNobody(t *testing.T) {
	m, err := listenMetrics("127.0.0.1:0", t.Output())
	if err != nil {
		t.Fatal(err)
	}
	m.close()
	if m, err = listenMetrics(m.listener.Addr().String(), t.Output()); err != nil {
		t.Fatal(err)
	}
	m.close()
}
