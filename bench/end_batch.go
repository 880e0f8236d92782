package main

import "context"

func init() {
	roles["queue-batch-send"] = queueBatchSend
	roles["queue-batch-copy"] = queueBatchCopy
	roles["queue-batch-receive"] = queueBatchReceive
}

// queueBatchSend fills batches in place.
func queueBatchSend(e *end) error {
	r, q, err := e.queue(true)
	if err != nil {
		return err
	}
	defer r.Close()
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

// queueBatchCopy sends copies of messages, a batch at a time.
func queueBatchCopy(e *end) error {
	r, q, err := e.queue(true)
	if err != nil {
		return err
	}
	defer r.Close()
	ctx, src := context.Background(), newSource(e.size)
	table := src.table()
	for i := 0; i < e.total(); {
		n, err := q.SendBatch(ctx, table[i&src.mask:][:min(e.batch, e.total()-i)])
		if err != nil {
			return err
		}
		i += n
	}
	report(result{})
	return nil
}

// queueBatchReceive reads batches in place.
func queueBatchReceive(e *end) error {
	r, q, err := e.queue(false)
	if err != nil {
		return err
	}
	defer r.Close()
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
	return e.received(tally{begin, counted, got})
}
