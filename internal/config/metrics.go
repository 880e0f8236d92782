package config

import (
	"net/netip"
	"path/filepath"
	"strings"
)

// Metrics is the table [metrics]: where Prometheus asks.
type Metrics struct {
	Listen string `toml:"listen"` // "unix:/PATH", or HOST:PORT with a loopback address; empty: nowhere
}

// unixPrefix begins a Listen that is the path of a Unix socket.
const unixPrefix = "unix:"

// Address returns the network and address to listen on, as package net wants them; both empty for nowhere.
func (m Metrics) Address() (network, address string) {
	if path, ok := strings.CutPrefix(m.Listen, unixPrefix); ok {
		return "unix", path
	}
	if m.Listen != "" {
		return "tcp", m.Listen
	}
	return "", ""
}

// maxSocketPath is the longest path of a socket, in bytes: the kernel's sun_path without its final NUL.
const maxSocketPath = 107

func (v *validator) metrics() {
	at := path{"metrics", "listen"}
	network, address := v.c.Metrics.Address()
	switch network {
	case "":
		if v.given(at) && !v.bad(at) {
			v.fail(at, "it is empty; write \"unix:/run/shmd/metrics.sock\" or \"127.0.0.1:9464\", or remove the key for no endpoint")
		}
	case "unix":
		switch {
		case !filepath.IsAbs(address):
			v.fail(at, "%q is not absolute; begin it with /", address)
		case len(address) > maxSocketPath:
			v.fail(at, "the path of a socket has at most %d bytes, and this one has %d; use a shorter one", maxSocketPath, len(address))
		default:
			v.noNUL(at, address)
		}
	case "tcp":
		a, err := netip.ParseAddrPort(address)
		switch {
		case err != nil && strings.HasPrefix(address, "/"):
			v.fail(at, "%q is no address; write %q", address, unixPrefix+address)
		case err != nil:
			v.fail(at, "%q is no address and port; write \"127.0.0.1:9464\", \"[::1]:9464\" or \"unix:/run/shmd/metrics.sock\"", address)
		case !a.Addr().IsLoopback():
			v.fail(at, "%v is not a loopback address, and whoever reaches it could read the metrics; use \"127.0.0.1:%d\" or a Unix socket, and a proxy that asks for credentials before it", a.Addr(), a.Port())
		}
	}
}
