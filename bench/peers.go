package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A peer is another way of passing messages between processes, measured where it can be installed.
type peer struct {
	name string
	// What it is measured for: round trips with polling ends, with sleeping ends; small messages one way; large ones, written and read.
	spins, sleeps, flows, large bool
	rate                        int // small messages a second, roughly: a run takes about as long for each peer
	// A peer in C or C++: its source, the compiler, the libraries, and a file that tells whether it is installed, with its package.
	source, compiler string
	flags            []string
	header, packages string
	// A peer in Go: the prefix of its roles.
	roles string
	pipes bool
	// Before the first run.
	before func(context.Context, *lab) error
}

var peers = []*peer{
	{
		name: "iceoryx", spins: true, flows: true, large: true, rate: 1000000,
		source: "peers/iceoryx.cpp", compiler: "g++", flags: []string{"-std=c++17", "-liceoryx_posh", "-liceoryx_hoofs", "-liceoryx_platform"},
		header: "/usr/include/iceoryx/v*/iceoryx_posh/runtime/posh_runtime.hpp", packages: "iceoryx libiceoryx-posh-dev libiceoryx-hoofs-dev", before: startRouDi,
	},
	{
		name: "iceoryx WaitSet", sleeps: true,
		source: "peers/iceoryx.cpp", compiler: "g++", flags: []string{"-std=c++17", "-liceoryx_posh", "-liceoryx_hoofs", "-liceoryx_platform"},
		header: "/usr/include/iceoryx/v*/iceoryx_posh/runtime/posh_runtime.hpp", packages: "iceoryx libiceoryx-posh-dev libiceoryx-hoofs-dev", before: startRouDi,
	},
	{
		name: "Boost message_queue", spins: true, sleeps: true, flows: true, large: true, rate: 6000000,
		source: "peers/boost.cpp", compiler: "g++", flags: []string{"-std=c++17", "-lrt"},
		header: "/usr/include/boost/interprocess/ipc/message_queue.hpp", packages: "libboost-dev",
	},
	{
		name: "ZeroMQ ipc", sleeps: true, flows: true, large: true, rate: 4000000,
		source: "peers/zmq.c", compiler: "gcc", flags: []string{"-lzmq"},
		header: "/usr/include/zmq.h", packages: "libzmq3-dev",
	},
	{
		name: "nng ipc", sleeps: true, flows: true, large: true, rate: 500000,
		source: "peers/nng.c", compiler: "gcc", flags: []string{"-lnng"},
		header: "/usr/include/nng/nng.h", packages: "libnng-dev",
	},
	{
		name: "libqb", sleeps: true, flows: true, large: true, rate: 700000,
		source: "peers/libqb.c", compiler: "gcc", flags: []string{"-lqb"},
		header: "/usr/include/qb/qbipcs.h", packages: "libqb-dev",
	},
	{name: "Go net/unix", sleeps: true, flows: true, large: true, rate: 600000, roles: "unix"},
	{name: "Go os.Pipe", sleeps: true, flows: true, large: true, rate: 1000000, roles: "pipe", pipes: true},
	{name: "NATS", sleeps: true, flows: true, large: true, rate: 1000000, roles: "nats", before: startNATS},
}

// quoted are peers that no registry serves here: what ../docs/bench.md compares with are their figures beside the C probe's of the same run, measured
// near, once, on the machine that the targets were set on.
var quoted = []struct {
	peer    string
	measure string  // of rows, or how they begin
	ratio   float64 // peer / C
}{
	{"Aeron IPC", "round trip, spinning, 8 B", 180.0 / 80},
	{"Aeron IPC", "round trip, spinning, 64 B", 150.0 / 110},
	{"iceoryx2", "round trip, spinning, 8 B", 811.0 / 80},
	{"iceoryx2", "round trip, spinning, 64 B", 882.0 / 110},
	{"Aeron IPC", "queue 1:1, 64 B, one at a time", 19.0 / 68},
	{"shmipc-go", "queue 1:1, 64 B, one at a time", 6.9 / 68},
	{"iceoryx2", "queue 1:1, 64 B, one at a time", 3.7 / 68},
	{"Aeron IPC", "queue 1:1, 8 B, one at a time", 18.0 / 132},
	{"shmipc-go", "queue 1:1, 8 B, one at a time", 7.4 / 132},
	{"iceoryx2", "queue 1:1, 8 B, one at a time", 3.8 / 132},
	{"Aeron IPC", "queue 1:1, 64 KiB written and read", 5.95 / 35},
	{"shmipc-go", "queue 1:1, 64 KiB written and read", 5.1 / 35},
	{"iceoryx2", "queue 1:1, 64 KiB written and read", 5.4 / 35},
	{"Aeron IPC", "queue 1:1, 1 MiB written and read", 6.3 / 33.5},
	{"shmipc-go", "queue 1:1, 1 MiB written and read", 9.1 / 33.5},
	{"iceoryx2", "queue 1:1, 1 MiB written and read", 19.6 / 33.5},
}

// trip is the entry of a round trip.
func (p *peer) trip(how params) entry { return p.entry(how, "trip", "server", "client") }

// way is the entry of messages one way.
func (p *peer) way(how params) entry {
	how.busy = how.busy && !p.spins // what can poll does
	return p.entry(how, "way", "receive", "send")
}

func (p *peer) entry(how params, measure, first, second string) entry {
	e := entry{key: p.name, p: how, absent: p.prepare}
	if p.roles == "" {
		e.run = func(ctx context.Context, l *lab, how params) (result, error) {
			return l.program(ctx, p.program(), measure, how)
		}
		return e
	}
	if measure == "trip" {
		first, second = "trip-server", "trip-client"
	}
	e.run = func(ctx context.Context, l *lab, how params) (result, error) {
		return l.pair(ctx, how, p.roles+"-"+first, p.roles+"-"+second, p.pipes)
	}
	return e
}

// program is the name of its compiled driver.
func (p *peer) program() string {
	base := filepath.Base(p.source)
	return strings.TrimSuffix(base, filepath.Ext(base))
}

// prepare makes a peer ready to be measured, or says why it cannot be.
func (p *peer) prepare(ctx context.Context, l *lab) string {
	if l.ready[p.name] {
		return ""
	}
	if p.source != "" {
		found, _ := filepath.Glob(p.header)
		if len(found) == 0 {
			return fmt.Sprintf("not installed: bench/deps.sh, or apt-get install %s", p.packages)
		}
		if _, err := exec.LookPath(p.compiler); err != nil {
			return fmt.Sprintf("no %s", p.compiler)
		}
		if _, err := os.Stat(filepath.Join(l.dir, p.program())); err != nil {
			flags := append([]string{p.source}, p.flags...)
			if root, ok := strings.CutSuffix(found[0], "/iceoryx_posh/runtime/posh_runtime.hpp"); ok { // its version is in the path
				flags = append(flags, "-I"+root)
			}
			if err := l.compile(ctx, p.compiler, p.program(), flags...); err != nil {
				return "does not compile: " + firstLine(err)
			}
		}
	}
	if p.before != nil {
		if err := p.before(ctx, l); err != nil {
			return err.Error()
		}
	}
	l.ready[p.name] = true
	return ""
}

// startRouDi starts the daemon of iceoryx, with pools for the sizes that are measured.
func startRouDi(ctx context.Context, l *lab) error {
	if l.roudi != nil {
		return nil
	}
	path, err := exec.LookPath("iox-roudi")
	if err != nil {
		return fmt.Errorf("no iox-roudi: apt-get install iceoryx")
	}
	conf := filepath.Join(l.dir, "roudi.toml")
	text := "[general]\nversion = 1\n\n[[segment]]\n"
	for _, pool := range [][2]int{{128, 4096}, {1 << 10, 1024}, {65<<10 + 512, 600}, {1<<20 + 1024, 40}} {
		text += fmt.Sprintf("[[segment.mempool]]\nsize = %d\ncount = %d\n", (pool[0]+31)/32*32, pool[1])
	}
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return err
	}
	l.roudi, err = l.start(context.Background(), l.cpus[:], nil, 2, path, "-c", conf, "-m", "off")
	if err != nil {
		return err
	}
	for {
		line, err := l.roudi.line()
		if err != nil {
			l.roudi = nil
			return fmt.Errorf("RouDi does not start: %s", firstLine(err))
		}
		if strings.Contains(line, "RouDi is ready") {
			break
		}
	}
	go func(p *process) { // it must not block on a full pipe
		for {
			if _, err := p.out.ReadString('\n'); err != nil {
				return
			}
		}
	}(l.roudi)
	return nil
}

// startNATS starts a NATS server in a process of its own.
func startNATS(_ context.Context, l *lab) (err error) {
	if l.broker != nil {
		return nil
	}
	if l.broker, err = l.end(context.Background(), l.cpus[:], nil, "nats-server", params{}); err != nil {
		return err
	}
	l.addr, err = l.broker.line()
	return err
}
