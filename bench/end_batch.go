package main

import "context"

func init() {
	roles["queue-batch-send"] = queueBatchSend
	roles["queue-batch-receive"] = queueBatchReceive
}

// queueBatchSend fills batches in place.
func queueBatchSend(e *end) error {
	r, err := e.attach([]string{e.channel}, nil)
	if err != nil {
		return err
	}
	defer r.Close()
	q, err := r.Queue(e.channel)
	if err != nil {
		return err
	}
	ctx, src := context.Background(), newSource(e.size)
	for i := 0; i < e.total(); {
		b, err := q.LoanBatch(ctx)
		if err != nil {
			return err
		}
		for range min(e.batch, e.total()-i) {
			copy(b.Next(e.size), src.message(i))
			i++
		}
		if err := b.Commit(); err != nil {
			return err
		}
	}
	report(result{})
	return nil
}

// queueBatchReceive reads batches in place.
func queueBatchReceive(e *end) error {
	r, err := e.attach(nil, []string{e.channel})
	if err != nil {
		return err
	}
	defer r.Close()
	q, err := r.Queue(e.channel)
	if err != nil {
		return err
	}
	ctx := context.Background()
	e.ready()
	var begin, got uint64
	counted := 0
	for i := 0; i < e.total(); {
		if i >= e.warm && begin == 0 {
			begin, counted = ticks(), e.total()-i
		}
		b, err := q.ReceiveBatch(ctx)
		if err != nil {
			return err
		}
		for m := range b.All() {
			got += sum(m)
			i++
		}
		if err := b.Ack(); err != nil {
			return err
		}
	}
	res := e.rate(begin, ticks(), counted)
	if want := newSource(e.size).expected(e.total()); got != want {
		return errSum(got, want)
	}
	report(res)
	return nil
}
