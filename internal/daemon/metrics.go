package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/control"
	"github.com/shmd/shmd/internal/stat"
	"github.com/shmd/shmd/pkg/protocol"
)

// metricsServer answers Prometheus. It reads the memory as any observer does, and the supervisor has no part in it: while nobody asks, it
// does nothing.
type metricsServer struct {
	log      hclog.Logger
	listener net.Listener
	server   *http.Server

	mu     sync.Mutex   // one scrape at a time
	reader *stat.Reader // nil: closed
	closed chan struct{}
}

// maxScrapers is how many connections may be open at once; more wait.
const maxScrapers = 16

// listenMetrics opens the endpoint that the configuration names; nil if it names none, or it cannot be had: the region goes on without.
func (d *Daemon) listenMetrics() *metricsServer {
	network, address := d.conf.Metrics.Address()
	if network == "" {
		return nil
	}
	l, err := metricsListener(network, address, d.conf)
	if err != nil {
		d.log.Error("no metrics: nobody can be answered there", "listen", d.conf.Metrics.Listen, "error", err)
		return nil
	}
	m := &metricsServer{log: d.log, listener: &limited{Listener: l, free: make(chan struct{}, maxScrapers)}, reader: stat.NewReader(d.statSource()), closed: make(chan struct{})}
	m.server = &http.Server{Handler: m, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: d.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})}
	d.log.Info("metrics", "listen", network+":"+l.Addr().String())
	return m
}

func metricsListener(network, address string, c *config.Config) (net.Listener, error) {
	if network != "unix" {
		return net.Listen(network, address)
	}
	if st, err := os.Lstat(address); err == nil {
		if st.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("%s is there, and no socket: give another path", address)
		}
		if conn, err := net.DialTimeout(network, address, time.Second); err == nil {
			conn.Close()
			return nil, fmt.Errorf("%s: somebody answers there already: give another path", address)
		}
		os.Remove(address) // of a daemon that died
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	mode := fs.FileMode(0o660)
	if slices.Contains(c.Access.Observe, "*") {
		mode = 0o666
	}
	if err := os.Chmod(address, mode); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// statSource is the memory for those who only read it, as it is now.
func (d *Daemon) statSource() stat.Source {
	channels := map[string]protocol.Channel{}
	for name, c := range d.mem.channels {
		channels[name] = c.Channel
	}
	groups := make([]*protocol.GroupSegment, len(d.groups))
	for _, g := range d.living() {
		groups[g.index] = g.segment
	}
	return stat.Source{
		Set:  control.Set{Roster: d.mem.roster, Command: d.mem.command, Groups: groups},
		Kept: func() bool { return true },
		Channel: func(name string) (protocol.Channel, error) {
			if c := channels[name]; c != nil {
				return c, nil
			}
			return nil, errors.New("it is not among the channels of this daemon")
		},
	}
}

// serve answers until close.
func (m *metricsServer) serve() error {
	if err := m.server.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
		m.log.Error("no metrics any more", "error", err)
	}
	<-m.closed // the region goes on without
	return nil
}

// look makes it read another set of segments from now on: those of before are about to be unmapped, perhaps.
func (m *metricsServer) look(s stat.Source) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reader != nil {
		m.reader.Look(s)
	}
}

// close ends it. Nobody reads the memory any more when it returns.
func (m *metricsServer) close() {
	soon, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if m.server.Shutdown(soon) != nil {
		m.server.Close()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reader = nil
	close(m.closed)
}

// ServeHTTP answers GET /metrics.
func (m *metricsServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path != "/metrics":
		http.Error(w, "the metrics are at /metrics", http.StatusNotFound)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET is answered", http.StatusMethodNotAllowed)
		return
	}
	m.mu.Lock()
	if m.reader == nil {
		m.mu.Unlock()
		http.Error(w, "the region has ended", http.StatusServiceUnavailable)
		return
	}
	text := m.reader.Snapshot(stat.Leases | stat.Metrics).Prometheus()
	m.mu.Unlock()
	w.Header().Set("Content-Type", stat.ContentType)
	w.Write(text) // an error: whoever asked is gone
}

// limited is a listener with a limit of open connections: others could use up the daemon's descriptors.
type limited struct {
	net.Listener
	free chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.free <- struct{}{}
	return &counted{Conn: c, free: l.free}, nil
}

// counted is a connection that counts until it is closed.
type counted struct {
	net.Conn
	free chan struct{}
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { <-c.free })
	return c.Conn.Close()
}
