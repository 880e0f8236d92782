package systemd

import (
	"context"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// The hardened unit, which has no network, answers Prometheus on a Unix socket, and the next daemon goes on with the counters of the one that died.
func TestMetricsOfTheService(t *testing.T) {
	const socket = "/run/shmd/metrics.sock"
	configure(t, "default", "[metrics]\nlisten = \"unix:"+socket+"\"\n")
	s := start(t, unit, "default")
	s.waitReady()
	scrape := func() (string, error) {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}}
		r, err := c.Get("http://shmd/metrics")
		if err != nil {
			return "", err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return string(b), err
	}
	text, err := scrape()
	if err != nil {
		t.Fatal(err)
	}
	promtool := exec.Command("promtool", "check", "metrics")
	promtool.Stdin = strings.NewReader(text)
	if out, err := promtool.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	before := s.workers()
	s.shmctl("restart", "--all")
	run(t, "systemctl", "kill", "--kill-who=main", "--signal=KILL", unit)
	s.poll("the next daemon tells the restarts that the one before had counted", func() (string, bool) {
		text, err := scrape()
		if err != nil {
			return err.Error(), false
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "shmd_restarts_total{") && strings.Contains(line, `cause="operator"`) {
				return line, strings.HasSuffix(line, " 2\n")
			}
		}
		return "no sample", false
	})
	if after := s.workers(); len(after) != len(before) {
		t.Errorf("workers %v, before %v", after, before)
	}
}
