package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/shm"
)

// benchVariable is the variable of the environment that makes shmctl an end of a measurement: its value is a benchSpec.
const benchVariable = "SHMCTL_BENCH_END"

// Kinds of channels that bench measures, what it measures, and how its ends wait.
const (
	benchQueueKind = "queue"
	benchLane      = "lane"
	benchTopic     = "topic"
	benchCall      = "call"

	benchTrip = "trip"
	benchFlow = "flow"
)

// benchSpec says what an end has to do.
type benchSpec struct {
	Kind    string
	Measure string
	Server  bool // the end that answers or receives
	Size    int
	Batch   int // of benchFlow
	Wait    shm.Wait
	Time    time.Duration // how long to measure
	Count   int64         // or how many messages; 0: by time
}

// benchCalls is how many calls are under way at once when their throughput is measured.
const benchCalls = 8

// The first byte of each message says what it is.
const (
	benchWarm     = iota // the clock does not run yet
	benchMeasured        // it counts
	benchLast            // the last one, which does not count
)

// benchContext is a context for the calls that take one.
type benchContext = context.Context

// benchReport is what an end prints: an object in a line.
type benchReport struct {
	Messages int64
	Ns       int64
	Trips    *histogram // of benchTrip
}

// benchEnd is the life of an end. It ends with standard input, which is the other half of a pipe that shmctl holds.
func benchEnd(spec string, stdin io.Reader, stdout, stderr io.Writer) int {
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP) // of the terminal: shmctl gets it as well, and ends this process
	var e benchSpec
	if err := json.Unmarshal([]byte(spec), &e); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", benchVariable, err)
		return ExitFailed
	}
	go func() {
		io.Copy(io.Discard, stdin)
		os.Exit(ExitOK)
	}()
	if err := e.run(stdout); err != nil {
		fmt.Fprintln(stderr, err)
		return ExitFailed
	}
	select {} // until standard input ends
}

func (e benchSpec) run(out io.Writer) error {
	r, err := shm.Attach(context.Background(), shm.Options{Wait: e.Wait})
	if err != nil {
		return err
	}
	do := e.client
	switch {
	case e.Kind == benchCall && e.Server:
		do = e.callServer
	case e.Kind == benchCall:
		do = e.callClient
	case e.Server && e.Measure == benchTrip:
		do = e.echo
	case e.Server:
		do = e.receive
	case e.Measure == benchFlow:
		do = e.send
	}
	report, err := do(r, func() { fmt.Fprintln(out, "ready") })
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(report)
}

// stages calls fn until the time or the count of the warm-up, a tenth more, and then of the measurement is over. fn does so many
// messages as it returns. It looks at the clock once in often messages.
func (e benchSpec) stages(often int, fn func(stage byte) (int, error)) error {
	for _, stage := range []byte{benchWarm, benchMeasured} {
		time, count := e.Time, e.Count
		if stage == benchWarm {
			time, count = time/10, (count+9)/10
		}
		until, n, looked := sys.MonotonicNs()+time.Nanoseconds(), int64(0), 0
		for {
			done, err := fn(stage)
			if err != nil {
				return err
			}
			n += int64(done)
			if e.Count > 0 {
				if n >= count {
					break
				}
				continue
			}
			if looked += done; looked >= often {
				if looked = 0; sys.MonotonicNs() >= until {
					break
				}
			}
		}
	}
	return nil
}

// client measures round trips.
func (e benchSpec) client(r *shm.Region, _ func()) (*benchReport, error) {
	ctx := context.Background()
	to, err := benchSenderOf(r, e, benchThere)
	if err != nil {
		return nil, err
	}
	from, err := benchReceiverOf(r, e, benchBack)
	if err != nil {
		return nil, err
	}
	msg, buf := make([]byte, e.Size), make([]byte, 0, e.Size)
	return e.trips(func() error {
		if err := to.send(ctx, msg); err != nil {
			return err
		}
		got, err := from.receive(ctx, buf)
		if err == nil && len(got) != len(msg) {
			err = fmt.Errorf("%d bytes came back of %d", len(got), len(msg))
		}
		return err
	})
}

// trips takes the time of each trip, from the end of the one before.
func (e benchSpec) trips(trip func() error) (*benchReport, error) {
	h := &histogram{}
	before := byte(benchWarm)
	last := sys.MonotonicNs()
	began := last
	err := e.stages(1, func(stage byte) (int, error) {
		if stage != before {
			before, last = stage, sys.MonotonicNs()
			began = last
		}
		if err := trip(); err != nil {
			return 0, err
		}
		now := sys.MonotonicNs()
		if stage == benchMeasured {
			h.add(now - last)
		}
		last = now
		return 1, nil
	})
	return &benchReport{Messages: h.Count, Ns: last - began, Trips: h}, err
}

// echo sends back what it gets.
func (e benchSpec) echo(r *shm.Region, ready func()) (*benchReport, error) {
	ctx := context.Background()
	from, err := benchReceiverOf(r, e, benchThere)
	if err != nil {
		return nil, err
	}
	to, err := benchSenderOf(r, e, benchBack)
	if err != nil {
		return nil, err
	}
	ready()
	buf := make([]byte, 0, e.Size)
	for {
		got, err := from.receive(ctx, buf)
		if err != nil {
			return nil, err
		}
		if err := to.send(ctx, got); err != nil {
			return nil, err
		}
	}
}

// send sends as fast as it can.
func (e benchSpec) send(r *shm.Region, _ func()) (*benchReport, error) {
	ctx := context.Background()
	to, err := benchSenderOf(r, e, benchThere)
	if err != nil {
		return nil, err
	}
	msgs := make([][]byte, e.Batch)
	for i := range msgs {
		msgs[i] = make([]byte, e.Size)
	}
	n := int64(0)
	mark := func(stage byte) {
		for _, m := range msgs {
			m[0] = stage
		}
	}
	err = e.stages(max(64<<10/(e.Size+1024), e.Batch), func(stage byte) (int, error) {
		mark(stage)
		n += int64(e.Batch)
		if e.Batch == 1 {
			return 1, to.send(ctx, msgs[0])
		}
		return e.Batch, to.sendMany(ctx, msgs)
	})
	if err != nil {
		return nil, err
	}
	mark(benchLast)
	err = to.send(ctx, msgs[0])
	to.close()
	return &benchReport{Messages: n}, err
}

// receive takes the time from the first message that counts to the last.
func (e benchSpec) receive(r *shm.Region, ready func()) (*benchReport, error) {
	ctx := context.Background()
	from, err := benchReceiverOf(r, e, benchThere)
	if err != nil {
		return nil, err
	}
	ready()
	var rep benchReport
	began, ended := int64(0), false
	take := func(p []byte) {
		switch {
		case len(p) != e.Size:
			err = fmt.Errorf("a message of %d bytes came, and %d were sent", len(p), e.Size)
		case p[0] == benchLast:
			rep.Ns, ended = sys.MonotonicNs()-began, true
		case p[0] == benchMeasured:
			if rep.Messages++; began == 0 {
				began = sys.MonotonicNs()
			}
		}
	}
	buf := make([]byte, 0, e.Size)
	for !ended && err == nil {
		if e.Batch > 1 {
			if failed := from.each(ctx, buf, take); failed != nil {
				err = failed
			}
			continue
		}
		got, failed := from.receive(ctx, buf)
		if failed != nil {
			return nil, failed
		}
		take(got)
	}
	from.close()
	return &rep, err
}

func (e benchSpec) callServer(r *shm.Region, ready func()) (*benchReport, error) {
	c, err := r.Call(benchThere)
	if err != nil {
		return nil, err
	}
	ready()
	return nil, c.Serve(context.Background(), func(request []byte, reply *shm.Answer) error {
		return reply.SetLen(copy(reply.Room(), request))
	})
}

func (e benchSpec) callClient(r *shm.Region, _ func()) (*benchReport, error) {
	ctx := context.Background()
	c, err := r.Call(benchThere)
	if err != nil {
		return nil, err
	}
	msg := make([]byte, e.Size)
	if e.Measure == benchTrip {
		buf := make([]byte, 0, e.Size)
		return e.trips(func() error { _, err := c.Do(ctx, msg, buf); return err })
	}
	// Each goroutine does its share; the time is that of all of them.
	e.Count = (e.Count + benchCalls - 1) / benchCalls
	var all sync.WaitGroup
	type share struct {
		n           int64
		began, last int64
		err         error
	}
	shares := make([]share, benchCalls)
	for i := range shares {
		all.Go(func() {
			s, buf := &shares[i], make([]byte, 0, e.Size)
			s.err = e.stages(1, func(stage byte) (int, error) {
				if stage == benchMeasured {
					if s.n++; s.n == 1 {
						s.began = sys.MonotonicNs()
					}
				}
				_, err := c.Do(ctx, msg, buf)
				return 1, err
			})
			s.last = sys.MonotonicNs()
		})
	}
	all.Wait()
	rep, began, last := &benchReport{}, shares[0].began, shares[0].last
	for _, s := range shares {
		err = errors.Join(err, s.err)
		rep.Messages += s.n
		began, last = min(began, s.began), max(last, s.last)
	}
	rep.Ns = last - began
	return rep, err
}
