package main

import (
	"context"
	"errors"

	"github.com/shmd/shmd/pkg/shm"
)

// Queues with one producer and one consumer, through the ends for one goroutine.

func init() {
	roles["lane-trip-client"] = laneTripClient
	roles["lane-trip-server"] = laneTripServer
	producing("lane-send", laneSend)
	consuming("lane-receive", laneReceive)
	producing("lane-send-runs", laneSendRuns)
	consuming("lane-receive-runs", laneReceiveRuns)
	producing("lane-send-batches", laneSendBatches)
	producing("lane-lend", laneLend)
	consuming("lane-take", laneTake)
}

// producing makes a role of a function that sends all messages through an end it is given.
func producing(role string, send func(*end, *shm.Producer) error) {
	roles[role] = func(e *end) error {
		l, err := e.lanes(e.channel, "")
		if err != nil {
			return err
		}
		defer l.close()
		if err := send(e, l.out); err != nil {
			return err
		}
		report(result{})
		return nil
	}
}

// consuming makes a role of a function that receives all messages through an end it is given.
func consuming(role string, receive func(*end, *shm.Consumer) (tally, error)) {
	roles[role] = func(e *end) error {
		l, err := e.lanes("", e.channel)
		if err != nil {
			return err
		}
		defer l.close()
		e.ready()
		t, err := receive(e, l.in)
		if err != nil {
			return err
		}
		return e.received(t)
	}
}

// lanes holds an attachment and the ends it has.
type lanes struct {
	r   *shm.Region
	out *shm.Producer
	in  *shm.Consumer
}

// lanes takes the sending end of one queue and the receiving end of another; "": of none.
func (e *end) lanes(produce, consume string) (_ *lanes, err error) {
	var ps, cs []string
	if produce != "" {
		ps = []string{produce}
	}
	if consume != "" {
		cs = []string{consume}
	}
	l := &lanes{}
	if l.r, err = e.attach(ps, cs); err != nil {
		return nil, err
	}
	var q *shm.Queue
	if produce != "" {
		if q, err = l.r.Queue(produce); err == nil {
			l.out, err = q.Producer()
		}
	}
	if consume != "" && err == nil {
		if q, err = l.r.Queue(consume); err == nil {
			l.in, err = q.Consumer()
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lanes) close() error {
	if l.out != nil {
		l.out.Close()
	}
	if l.in != nil {
		l.in.Close()
	}
	return l.r.Close()
}

func laneTripClient(e *end) error {
	l, err := e.lanes("there", "back")
	if err != nil {
		return err
	}
	defer l.close()
	ctx, src, t, buf := context.Background(), newSource(e.size), e.trips(), make([]byte, 0, e.size)
	for i := range e.total() {
		t.begin()
		if err := l.out.Send(ctx, src.message(i)); err != nil {
			return err
		}
		b, err := l.in.ReceiveCopy(ctx, buf)
		if err != nil {
			return err
		}
		got := sum(b)
		t.end()
		if got != src.sum(i) {
			return errSum(got, src.sum(i))
		}
	}
	report(t.result())
	return nil
}

func laneTripServer(e *end) error {
	l, err := e.lanes("back", "there")
	if err != nil {
		return err
	}
	defer l.close()
	ctx, buf := context.Background(), make([]byte, 0, e.size)
	e.ready()
	var before, after int64
	for i := range e.total() {
		if i == e.warm {
			before = sleeps()
		}
		b, err := l.in.ReceiveCopy(ctx, buf)
		if err != nil {
			return err
		}
		if i == e.total()-1 {
			after = sleeps()
		}
		if err := l.out.Send(ctx, b); err != nil {
			return err
		}
	}
	report(result{"sleeps_server": float64(after-before) / float64(e.count)})
	return nil
}

// laneSend sends copies, one at a time.
func laneSend(e *end, out *shm.Producer) error {
	ctx, src := context.Background(), newSource(e.size)
	for i := range e.total() {
		if err := out.Send(ctx, src.message(i)); err != nil {
			return err
		}
	}
	return nil
}

// laneReceive receives copies, one at a time, as a consumer without a lock does.
func laneReceive(e *end, in *shm.Consumer) (tally, error) {
	ctx, buf := context.Background(), make([]byte, 0, e.size)
	var begin, got uint64
	for i := range e.total() {
		if i == e.warm {
			begin = ticks()
		}
		b, err := in.ReceiveCopy(ctx, buf)
		if err != nil {
			return tally{}, err
		}
		got += sum(b)
	}
	return tally{begin, e.count, got}, nil
}

// laneSendRuns sends messages that lie one after another, a batch at a time.
func laneSendRuns(e *end, out *shm.Producer) error {
	ctx, src := context.Background(), newSource(e.size)
	for i := 0; i < e.total(); {
		b := src.run(i, min(e.batch, e.total()-i))
		n, err := out.SendRun(ctx, b, e.size)
		if err != nil {
			return err
		}
		i += n
	}
	return nil
}

// laneSendBatches sends messages of a list, a batch at a time.
func laneSendBatches(e *end, out *shm.Producer) error {
	ctx, src := context.Background(), newSource(e.size)
	table := src.table()
	for i := 0; i < e.total(); {
		n, err := out.SendBatch(ctx, table[i&src.mask:][:min(e.batch, e.total()-i)])
		if err != nil {
			return err
		}
		i += n
	}
	return nil
}

// laneReceiveRuns reads in place all messages of a slot.
func laneReceiveRuns(e *end, in *shm.Consumer) (tally, error) {
	ctx := context.Background()
	var begin, got uint64
	counted := 0
	for i := 0; i < e.total(); {
		if i >= e.warm && begin == 0 {
			begin, counted = ticks(), e.total()-i
		}
		b, n, err := in.ReceiveRun(ctx)
		if err != nil {
			return tally{}, err
		}
		got += sum(b)
		i += n
		if err := in.Ack(); err != nil {
			return tally{}, err
		}
	}
	return tally{begin, counted, got}, nil
}

// laneLend fills slots in place, or publishes them as they are.
func laneLend(e *end, out *shm.Producer) error {
	ctx, src := context.Background(), newSource(e.size)
	for i := range e.total() {
		b, err := out.Loan(ctx)
		if err != nil {
			return err
		}
		if e.touch {
			put(b, src.message(i))
		}
		if err := out.Commit(e.size); err != nil {
			return err
		}
	}
	return nil
}

// laneTake receives in place, and reads what it gets or does not.
func laneTake(e *end, in *shm.Consumer) (tally, error) {
	ctx := context.Background()
	var begin, got uint64
	for i := range e.total() {
		if i == e.warm {
			begin = ticks()
		}
		b, err := in.Receive(ctx)
		if err != nil {
			return tally{}, err
		}
		if e.touch {
			got += sum(b)
		}
		if err := in.Ack(); err != nil {
			return tally{}, err
		}
	}
	return tally{begin, e.count, got}, nil
}
