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
	"syscall"
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

// maxScrapers is how many connections may be open at once. One more ends one that is idle; if none is, it waits.
const maxScrapers = 16

// How long one request may take to come, and its answer to be taken. Who asks for more has one of maxScrapers connections for so long.
const (
	scrapeAsk  = 5 * time.Second
	scrapeTake = 10 * time.Second
)

// listenMetrics opens the endpoint that the configuration names; nil if it names none, or it cannot be had: the region goes on without.
func (d *Daemon) listenMetrics() *metricsServer {
	network, address := d.conf.Metrics.Address()
	if h := d.handed; h != nil && h.Metrics != "" && (network != "unix" || h.Metrics != address) {
		removeDeadSocket(h.Metrics) // the program before had another one
	}
	if before := d.lock.before; before != "" && (network != "unix" || before != address) {
		removeDeadSocket(before)
	}
	if network == "unix" {
		d.lock.write(address)
	} else {
		d.lock.write("")
	}
	if network == "" {
		return nil
	}
	l, err := metricsListener(network, address, d.conf)
	if err != nil {
		d.log.Error("no metrics: nobody can be answered there", "listen", d.conf.Metrics.Listen, "error", err)
		return nil
	}
	scrapers := &limited{Listener: l, free: make(chan struct{}, maxScrapers)}
	m := &metricsServer{log: d.log, listener: scrapers, reader: stat.NewReader(d.statSource()), closed: make(chan struct{})}
	m.server = &http.Server{Handler: m, ReadTimeout: scrapeAsk, WriteTimeout: scrapeTake, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ConnState: scrapers.state,
		ErrorLog: d.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})}
	d.log.Info("metrics", "listen", network+":"+l.Addr().String())
	return m
}

// removeDeadSocket removes a socket at which nobody listens any more.
func removeDeadSocket(path string) {
	if st, err := os.Lstat(path); err != nil || st.Mode()&fs.ModeSocket == 0 {
		return
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(path)
	}
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

// limited is a listener with a limit of open connections: others could use up the daemon's descriptors. Those that are idle give way.
type limited struct {
	net.Listener
	free chan struct{}

	mu    sync.Mutex
	idle  []net.Conn // those that wait for a request that is not their first, the longest first
	waits bool       // a connection waits for another to end
}

func (l *limited) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	select {
	case l.free <- struct{}{}:
	default:
		l.giveWay(true)
		l.free <- struct{}{}
		l.giveWay(false)
	}
	return &counted{Conn: c, free: l.free}, nil
}

// giveWay notes whether a connection waits, for which an idle one, now or as soon as there is one, is closed.
func (l *limited) giveWay(waits bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits = waits
	if waits && len(l.idle) > 0 {
		l.idle[0].Close()
		l.idle, l.waits = l.idle[1:], false
	}
}

// state is told of what the server does with a connection.
func (l *limited) state(c net.Conn, now http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = slices.DeleteFunc(l.idle, func(i net.Conn) bool { return i == c })
	switch {
	case now == http.StateIdle && l.waits:
		c.Close()
		l.waits = false
	case now == http.StateIdle:
		l.idle = append(l.idle, c)
	}
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
