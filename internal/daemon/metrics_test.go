package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// asked sends a request to the endpoint.
func asked(t *testing.T, network, address, method, path string) (*http.Response, string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}}
	q, err := http.NewRequestWithContext(within(t), method, "http://shmd"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(b)
}

// scrape asks for the metrics, and has promtool say whether they are as Prometheus wants them.
func scrape(t *testing.T, network, address string) string {
	t.Helper()
	r, text := asked(t, network, address, "GET", "/metrics")
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("%v %v", r.Status, r.Header)
	}
	promtool := exec.Command("promtool", "check", "metrics")
	promtool.Stdin = strings.NewReader(text)
	if out, err := promtool.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s\n%s", err, out, text)
	}
	return text
}

// sample returns the value of a sample, which must be there.
func sample(t *testing.T, text, name string) float64 {
	t.Helper()
	m := regexp.MustCompile("(?m)^" + regexp.QuoteMeta(name) + " (.*)$").FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no sample %s in\n%s", name, text)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

const counting = "[channel.jobs]\nslots = 64\nslot_size = \"64B\"\n[channel.results]\nslots = 64\nslot_size = \"64B\"\nmax_deliveries = 0\n" +
	"[worker.mover]\nbuiltin = \"echo\"\ncount = 2\nconsume = [\"jobs\"]\nproduce = [\"results\"]\nbackoff_min = \"1ms\"\ncrash_limit = 0\n"

func TestPrometheus(t *testing.T) {
	t.Parallel()
	dir := testregion.Dir(t)
	socket := filepath.Join(dir, "metrics.sock")
	left, err := net.Listen("unix", socket) // of a daemon that was killed
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	left.Close()
	d := testregion.Start(t, named+counting+"[channel.news]\nkind = \"topic\"\nslots = 8\nslot_size = \"64B\"\n[channel.calls]\nkind = \"call\"\n[channel.now]\nkind = \"latest\"\n"+
		"[metrics]\nlisten = \"unix:"+socket+"\"\n")
	d.WaitLog(`"@message":"metrics"`, socket)
	if st, err := os.Stat(socket); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"results"}})
	jobs, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	results, err := r.Queue("results")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := jobs.Send(within(t), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	var held *shm.Message
	for range 3 {
		if held != nil {
			held.Ack()
		}
		if held, err = results.Receive(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	if r, text := asked(t, "unix", socket, "GET", "/"); r.StatusCode != http.StatusNotFound || text != "the metrics are at /metrics\n" {
		t.Errorf("/: %v %q", r.Status, text)
	}
	if r, _ := asked(t, "unix", socket, "POST", "/metrics"); r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v", r.Status)
	}
	scrape(t, "unix", socket)
	text := scrape(t, "unix", socket)
	for name, want := range map[string]float64{
		`shmd_workers{group="mover",state="ready"}`:                         2,
		`shmd_workers{group="mover",state="failed"}`:                        0,
		`shmd_worker_ready{group="mover",worker="mover.1"}`:                 1,
		`shmd_restarts_total{group="mover",cause="signal"}`:                 0,
		`shmd_channel_messages_sent_total{channel="jobs",kind="queue"}`:     3,
		`shmd_channel_messages_acked_total{channel="results",kind="queue"}`: 2,
		`shmd_channel_depth{channel="results",kind="queue"}`:                1,
		`shmd_channel_waiters{channel="jobs",kind="queue",end="receive"}`:   2,
		`shmd_channel_leases{channel="results",kind="queue"}`:               1,
		`shmd_channel_slots{channel="calls",kind="call"}`:                   64,
		`shmd_attachments{role="worker"}`:                                   2,
		`shmd_worker_metrics_refused`:                                       0,
		`shmd_build_info{region="` + d.Name + `",version="devel"}`:          1,
	} {
		if got := sample(t, text, name); got != want {
			t.Errorf("%s is %v, not %v", name, got, want)
		}
	}
	if age := sample(t, text, `shmd_channel_oldest_lease_seconds{channel="results",kind="queue",holder="daemon.test"}`); age <= 0 {
		t.Errorf("the second scrape knows a lease for %v seconds", age)
	}
	held.Ack()
	if d.Stop(); func() bool { _, err := os.Stat(socket); return err == nil }() {
		t.Error("the socket is left")
	}
}

// A counter does not go back while workers and daemons are killed, and in the end it says what was counted.
func TestCountersDoNotGoBack(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(testregion.Dir(t), "metrics.sock")
	d := testregion.Start(t, named+counting+"[metrics]\nlisten = \"unix:"+socket+"\"\n")
	r := d.Attach(shm.Options{Produce: []string{"jobs"}, Consume: []string{"results"}})
	jobs, _ := r.Queue("jobs")
	results, _ := r.Queue("results")
	const messages, kills = 20000, 12
	ctx := within(t)
	var traffic sync.WaitGroup
	traffic.Go(func() {
		for i := range messages {
			if err := jobs.Send(ctx, fmt.Append(nil, i)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	done := make(chan struct{})
	traffic.Go(func() {
		defer close(done)
		for seen := map[string]bool{}; len(seen) < messages; {
			m, err := results.Receive(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			seen[string(m.Bytes())] = true
			m.Ack()
		}
	})
	before := map[string]float64{}
	look := func() map[string]float64 {
		now := map[string]float64{}
		_, text := asked(t, "unix", socket, "GET", "/metrics")
		for line := range strings.Lines(text) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if kind, _, _ := strings.Cut(name, "{"); strings.HasSuffix(kind, "_total") && !strings.HasPrefix(line, "#") {
				now[name], _ = strconv.ParseFloat(value, 64)
			}
		}
		for name, v := range before {
			if _, there := now[name]; !there && strings.Contains(name, `worker="mover.1"`) {
				continue // scaled down: its series has ended
			}
			if now[name] < v {
				t.Errorf("%s went back from %v to %v", name, v, now[name])
			}
		}
		before = now
		return now
	}
	look()
	killed := 0
	for running := true; running || killed < kills; {
		select {
		case <-done:
			running = false
		default:
		}
		if killed < kills {
			ws := d.WaitWorkers("ready, both", func(ws []protocol.Worker) bool { // so that the other one holds the group's segment
				return ws[0].State == protocol.StateReady && ws[1].State == protocol.StateReady && ws[0].Restarts+ws[1].Restarts == uint64(killed)
			})
			killed++
			syscall.Kill(ws[killed%2].Pid, syscall.SIGKILL)
			if killed%4 == 0 {
				d.Kill()
				d.Again()
				d.WaitLog("region adopted")
				d.WaitLog(`"@message":"metrics"`)
			}
		}
		look()
	}
	traffic.Wait()
	d.WaitReady()
	now := look()
	moved := now[`moved_messages_total{group="mover",worker="mover.0"}`] + now[`moved_messages_total{group="mover",worker="mover.1"}`]
	if moved < messages || moved > messages+kills { // a death between the count and the ack has the message moved again
		t.Errorf("%v messages were counted, and there were %d, with %d deaths", moved, messages, kills)
	}
	for _, step := range []string{"mover=1", "", "mover=2", "mover=1", ""} { // a group that is scaled down has not restarted less often, also for the next daemon
		if step != "" {
			shmctl(t, d, "scale", step)
		} else {
			d.Kill()
			d.Again()
			d.WaitLog("region adopted")
			d.WaitLog(`"@message":"metrics"`)
		}
		restarts := 0.0
		for name, v := range look() {
			if strings.HasPrefix(name, "shmd_restarts_total{") {
				restarts += v
			}
		}
		if restarts != float64(killed) {
			t.Errorf("after %q: %v restarts by cause, after %d kills", step, restarts, killed)
		}
	}
}

// What cannot be listened on is told, and no reason not to run. TCP works on a loopback address.
func TestMetricsListen(t *testing.T) {
	t.Parallel()
	file := filepath.Join(testregion.Dir(t), "file")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := testregion.Start(t, named+idle("w")+"[metrics]\nlisten = \"unix:"+file+"\"\n")
	d.WaitLog("no metrics", "is there, and no socket")
	if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, []byte("kept")) {
		t.Errorf("%q %v", b, err)
	}
	d = testregion.Start(t, named+idle("w")+"[metrics]\nlisten = \"127.0.0.1:0\"\n")
	line := d.WaitLog(`"@message":"metrics"`)
	_, address, ok := strings.Cut(line, `"listen":"tcp:`)
	if !ok {
		t.Fatal(line)
	}
	address, _, _ = strings.Cut(address, `"`)
	if v := sample(t, scrape(t, "tcp", address), `shmd_workers{group="w",state="ready"}`); v != 1 {
		t.Error(v)
	}
	// More connections than it takes at once: the others wait for one to end.
	var open []net.Conn
	for range 40 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	for _, c := range open {
		c.Close()
	}
	scrape(t, "tcp", address)
	// Those that asked once and are idle give way; those that do not send what they announced, or do not take their answer, have their time.
	for _, asks := range []string{"", "Content-Length: 1000\r\n"} {
		for range 16 {
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprintf(c, "GET /metrics HTTP/1.1\r\nHost: shmd\r\n%s\r\n", asks)
			if asks != "" {
				continue
			}
			r, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, r.Body)
		}
		scrape(t, "tcp", address)
	}
}

// An upgrade with another socket of metrics leaves nothing of the one before.
func TestUpgradeWithAnotherMetricsSocket(t *testing.T) {
	t.Parallel()
	dir := testregion.Dir(t)
	before, after := filepath.Join(dir, "before.sock"), filepath.Join(dir, "after.sock")
	d := testregion.Start(t, named+idle("w")+"[metrics]\nlisten = \"unix:"+before+"\"\n")
	conf := filepath.Join(d.Dir, "shmd.toml")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte(strings.Replace(string(text), before, after, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(before); err != nil {
		t.Fatal(err)
	}
	shmctl(t, d, "upgrade")
	eventually(t, "the new socket and not the old one", func() bool {
		_, old := os.Stat(before)
		_, now := os.Stat(after)
		return old != nil && now == nil
	})
}

// The socket of a killed daemon's metrics goes with the region: by shmctl stop, by the guard, or, where the configuration has another one by then, by the next daemon.
func TestMetricsSocketOfKilledDaemon(t *testing.T) {
	t.Parallel()
	elsewhere := filepath.Join(testregion.Dir(t), "metrics.sock")
	d := testregion.Start(t, named+idle("w")+"[metrics]\nlisten = \"unix:"+elsewhere+"\"\n")
	gone := func(path string) func() bool {
		return func() bool { _, err := os.Lstat(path); return errors.Is(err, fs.ErrNotExist) }
	}
	there := func(path string) func() bool { return func() bool { return !gone(path)() } }
	eventually(t, "the socket", there(elsewhere))
	conf := filepath.Join(d.Dir, "shmd.toml")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	beside := filepath.Join(d.Dir, "metrics.sock")
	if err := os.WriteFile(conf, []byte(strings.Replace(string(text), elsewhere, beside, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	d.Kill()
	d.Again()
	eventually(t, "the new socket", there(beside))
	if there(elsewhere)() {
		t.Error("the next daemon left the socket of the one before")
	}
	d.Kill()
	shmctl(t, d, "stop")
	eventually(t, "no socket after shmctl stop", gone(beside))

	if err := os.WriteFile(conf, text, 0o644); err != nil {
		t.Fatal(err)
	}
	d.Again()
	eventually(t, "the first socket again", there(elsewhere))
	d.Kill() // outside the runtime directory shmctl only tells of it
	if _, errs, code := d.Shmctl("stop"); code != 0 || !gone(elsewhere)() && !strings.Contains(errs, "the socket "+elsewhere+" of the daemon's metrics is left") {
		t.Errorf("shmctl stop: exit code %d, %q, and the socket is there: %v", code, errs, there(elsewhere)())
	}
}
