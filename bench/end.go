package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shmd/shmd/pkg/shm"
)

// An end is one process of a measurement. It is this program, built without NATS and started as `end end ROLE KEY=VALUE...`, pinned by who started it. It says
// "ready" in a line when it can take messages, and prints its result, an object of numbers, as its last line. Those of a measurement that runs for a time and
// not for a count begin at the line "go" on standard input and end at the line "stop".
type end struct {
	role  string
	size  int
	warm  int // messages before the clock starts
	count int // messages that are measured
	batch int
	pace  time.Duration
	tick  float64 // ns
	touch bool    // payloads are written and read
	index int     // of several that do the same
	peers int
	// of shmd
	region, socket, channel string
	// of sockets and pipes
	dir, id, addr string

	in *bufio.Reader
}

// roles are the functions of the ends by name.
var roles = map[string]func(*end) error{}

func newEnd(args []string) (*end, error) {
	e := &end{touch: true, channel: "there", batch: 1, in: bufio.NewReader(os.Stdin)}
	if len(args) == 0 || roles[args[0]] == nil {
		return nil, fmt.Errorf("usage: bench end ROLE KEY=VALUE...; %v is no role", args)
	}
	e.role = args[0]
	number := func(p *int, v string) (err error) { *p, err = strconv.Atoi(v); return err }
	for _, arg := range args[1:] {
		k, v, _ := strings.Cut(arg, "=")
		var err error
		switch k {
		case "size":
			err = number(&e.size, v)
		case "warm":
			err = number(&e.warm, v)
		case "count":
			err = number(&e.count, v)
		case "batch":
			err = number(&e.batch, v)
		case "index":
			err = number(&e.index, v)
		case "peers":
			err = number(&e.peers, v)
		case "pace":
			var ns int
			err = number(&ns, v)
			e.pace = time.Duration(ns)
		case "tick":
			e.tick, err = strconv.ParseFloat(v, 64)
		case "touch":
			e.touch = v == "1"
		case "channel":
			e.channel = v
		case "region":
			e.region = v
		case "socket":
			e.socket = v
		case "dir":
			e.dir = v
		case "id":
			e.id = v
		case "addr":
			e.addr = v
		case "footprint", "cpu0", "cpu1", "sleep": // of the C drivers
		default:
			err = fmt.Errorf("unknown key")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", arg, err)
		}
	}
	return e, nil
}

func (e *end) run() error { return roles[e.role](e) }

// ready tells who started this end that messages may come.
func (e *end) ready() { fmt.Println("ready") }

// wait waits for a line.
func (e *end) wait() error {
	_, err := e.in.ReadString('\n')
	return err
}

// stopped returns a context that ends at the next line of standard input.
func (e *end) stopped() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { e.wait(); cancel() }()
	return ctx
}

// total returns how many messages there are, those before the clock starts too.
func (e *end) total() int { return e.warm + e.count }

// attach attaches to the daemon that the measurement runs under.
func (e *end) attach(produce, consume []string) (*shm.Region, error) {
	return shm.Attach(context.Background(), shm.Options{Region: e.region, Socket: e.socket, Name: "bench", Produce: produce, Consume: consume})
}

// queue attaches and opens e.channel as one side of it.
func (e *end) queue(produce bool) (*shm.Region, *shm.Queue, error) {
	return opened(e, produce, (*shm.Region).Queue)
}

// topic is queue for a topic.
func (e *end) topic(publish bool) (*shm.Region, *shm.Topic, error) {
	return opened(e, publish, (*shm.Region).Topic)
}

func opened[C any](e *end, produce bool, open func(*shm.Region, string) (C, error)) (r *shm.Region, c C, err error) {
	if produce {
		r, err = e.attach([]string{e.channel}, nil)
	} else {
		r, err = e.attach(nil, []string{e.channel})
	}
	if err != nil {
		return nil, c, err
	}
	if c, err = open(r, e.channel); err != nil {
		r.Close()
	}
	return r, c, err
}

// report prints the result.
func report(r result) {
	line, err := json.Marshal(r)
	if err != nil {
		panic(err) // numbers only
	}
	fmt.Println(string(line))
}

// rate is the result of the receiving end.
func (e *end) rate(begin, end uint64, counted int) result {
	return result{"rate": float64(counted) / (float64(end-begin) * e.tick) * 1e9}
}

// A tally is what a receiving end has counted. Its loop counts in variables of its own, which stay in registers.
type tally struct {
	begin uint64 // when the clock started, in ticks
	count int    // messages since
	got   uint64 // the sum of all
}

// received reports the rate of a receiving end from t.begin until now, and says whether everything arrived as it was sent.
func (e *end) received(t tally) error {
	res := e.rate(t.begin, ticks(), t.count)
	if want := newSource(e.size).expected(e.total()); e.touch && t.got != want {
		return errSum(t.got, want)
	}
	report(res)
	return nil
}

// errSum is what an end says whose payloads arrived wrong.
func errSum(got, want uint64) error {
	return fmt.Errorf("payloads arrived wrong: their sum is %d and should be %d", got, want)
}

// trips takes the times of round trips.
type trips struct {
	e     *end
	t     []uint32
	i     int
	last  uint64
	slept int64
	next  time.Time
}

func (e *end) trips() *trips { return &trips{e: e, t: make([]uint32, 0, e.count), last: ticks()} }

// begin waits for the time to send, if trips are paced.
func (t *trips) begin() {
	if t.e.pace == 0 {
		return
	}
	if !t.next.IsZero() {
		rest(time.Until(t.next))
	}
	t.next = time.Now().Add(t.e.pace)
	t.slept -= sleeps()
	t.last = ticks()
}

// end takes the time of one trip: since begin if they are paced, else since the last one.
func (t *trips) end() {
	now := ticks()
	if t.e.pace != 0 {
		t.slept += sleeps()
	}
	if t.i >= t.e.warm {
		t.t = append(t.t, uint32(now-t.last))
	} else if t.i == t.e.warm-1 {
		t.slept = 0
	}
	t.i++
	t.last = now
}

func (t *trips) result() result {
	slices.Sort(t.t)
	n := len(t.t)
	return result{"p50": float64(t.t[n/2]) * t.e.tick, "p99": float64(t.t[n*99/100]) * t.e.tick, "sleeps_client": float64(t.slept) / float64(n)}
}
